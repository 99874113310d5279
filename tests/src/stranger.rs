//! Somebody who dials a port of the mesh with whatever certificate and TLS they like, believes any
//! answer, and is to be turned away.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType};
use sidelane_identity::tls;
use sidelane_proto::model::{ConnectionClass, Lane};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::client::danger::{
    HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier,
};
use tokio_rustls::rustls::client::{ResolvesClientCert, Resumption};
use tokio_rustls::rustls::crypto::aws_lc_rs::sign::any_supported_type;
use tokio_rustls::rustls::pki_types::{
    CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime,
};
use tokio_rustls::rustls::sign::CertifiedKey;
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tokio_rustls::rustls::{
    ClientConfig, DigitallySignedStruct, Error, SignatureScheme, SupportedProtocolVersion,
};

use crate::certificates::Authority;
use crate::link::preamble;

/// A port that turns somebody away does so within the five seconds of a handshake, and a little.
const LIMIT: Duration = Duration::from_secs(15);

/// Who dials.
pub struct Stranger {
    shown: Option<Arc<CertifiedKey>>,
    version: &'static SupportedProtocolVersion,
    alpn: &'static [u8],
}

/// What a certificate of the mesh's is made from, for an identity; to be spoiled.
///
/// # Panics
/// If the identity is no URI.
#[must_use]
pub fn usual(id: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id.try_into().unwrap())];
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![
        ExtendedKeyUsagePurpose::ServerAuth,
        ExtendedKeyUsagePurpose::ClientAuth,
    ];
    params.not_before = (SystemTime::now() - Duration::from_secs(3_600)).into();
    params.not_after = (SystemTime::now() + Duration::from_secs(3_600)).into();
    params
}

impl Stranger {
    /// Who shows nothing.
    #[must_use]
    pub fn bare() -> Self {
        Self {
            shown: None,
            version: &TLS13,
            alpn: tls::ALPN,
        }
    }

    /// Who shows this chain, DER, and has the key of its first certificate, PKCS#8.
    ///
    /// # Panics
    /// If the key is none.
    #[must_use]
    pub fn showing(chain: Vec<Vec<u8>>, key: &[u8]) -> Self {
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.to_vec()));
        let key = any_supported_type(&key).unwrap();
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        Self {
            shown: Some(Arc::new(CertifiedKey::new(chain, key))),
            ..Self::bare()
        }
    }

    /// Who shows what this authority signs of these.
    ///
    /// # Panics
    /// If it cannot be signed.
    #[must_use]
    pub fn signed(authority: &Authority, params: &CertificateParams) -> Self {
        let key = KeyPair::generate().unwrap();
        let chain = authority.sign(params, &key);
        Self::showing(vec![chain], &key.serialize_der())
    }

    /// The same, with TLS 1.2 alone.
    #[must_use]
    pub fn old(self) -> Self {
        Self {
            version: &TLS12,
            ..self
        }
    }

    /// The same, who offers this protocol.
    #[must_use]
    pub fn speaking(self, alpn: &'static [u8]) -> Self {
        Self { alpn, ..self }
    }

    /// The configuration of all its connections.
    ///
    /// # Panics
    /// Never.
    #[must_use]
    pub fn config(&self) -> Arc<ClientConfig> {
        let config = ClientConfig::builder_with_provider(Arc::clone(tls::provider()))
            .with_protocol_versions(&[self.version])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody));
        let mut config = config.with_client_cert_resolver(Arc::new(Shows(self.shown.clone())));
        config.alpn_protocols = vec![self.alpn.to_vec()];
        config.resumption = Resumption::in_memory_sessions(8);
        config.enable_sni = false;
        Arc::new(config)
    }

    /// Dials, opens a link, and is told nothing.
    ///
    /// # Panics
    /// If something is answered, or the connection stays open.
    pub async fn is_turned_away(&self, port: SocketAddr) {
        turned_away(self.config(), port).await;
    }
}

/// As [`Stranger::is_turned_away`], with a configuration that has been used before.
///
/// # Panics
/// If something is answered, or the connection stays open.
pub async fn turned_away(config: Arc<ClientConfig>, port: SocketAddr) {
    let stream = TcpStream::connect(port).await.unwrap();
    let knocks = async {
        // In TLS 1.3 a client is through before the server has looked at its certificate.
        let connected = TlsConnector::from(config)
            .connect(tls::name(), stream)
            .await;
        let Ok(mut stream) = connected else { return };
        let opening = preamble(ConnectionClass::Internal, Lane::GENERAL);
        let _ = stream.write_all(&opening).await;
        let mut answer = Vec::new();
        let read = stream.read_to_end(&mut answer).await;
        assert!(read.is_err() || answer.is_empty(), "{answer:?}");
    };
    let done = tokio::time::timeout(LIMIT, knocks).await;
    assert!(done.is_ok(), "a stranger's connection stays open");
}

struct Shows(Option<Arc<CertifiedKey>>);

impl std::fmt::Debug for Shows {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Shows")
    }
}

impl ResolvesClientCert for Shows {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.0.clone()
    }

    fn has_certs(&self) -> bool {
        self.0.is_some()
    }
}

/// Believes anybody.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        let algorithms = &tls::provider().signature_verification_algorithms;
        algorithms.supported_schemes()
    }
}

/// The certificates and the private key of a PEM text, DER.
///
/// # Panics
/// If it is none.
#[must_use]
pub fn from_pem(text: &[u8]) -> (Vec<Vec<u8>>, Vec<u8>) {
    use tokio_rustls::rustls::pki_types::pem::PemObject;
    let chain = CertificateDer::pem_slice_iter(text).map(|it| it.unwrap().to_vec());
    let key = PrivatePkcs8KeyDer::from_pem_slice(text).unwrap();
    (chain.collect(), key.secret_pkcs8_der().to_vec())
}

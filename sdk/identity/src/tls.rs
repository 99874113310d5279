//! TLS 1.3 between the programs of a mesh: both sides show an X.509-SVID, and both read the
//! present identity at each handshake. Sessions are never resumed, since a resumed one would
//! outlive a revocation, and nothing is sent before the handshake is over.

use std::fmt;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, SystemTime};

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption};
use rustls::crypto::{CryptoProvider, aws_lc_rs, verify_tls13_signature};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, NoServerSessionStorage, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::TLS13;
use rustls::{
    ClientConfig, CommonState, DigitallySignedStruct, DistinguishedName, Error, ServerConfig,
    SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use crate::hint;
use crate::present::{Identity, Source};
use crate::refusal::Refusal;
use crate::verify::{self, Expected, Leaf};

/// The one application protocol.
pub const ALPN: &[u8] = b"h2";
/// What a sidecar offers beside it to another one, which is how a listener that users come to as well
/// tells its peers. It is never agreed on, and proves nothing: who offers it must show an X.509-SVID.
pub const PEER: &[u8] = b"sidelane-peer";

/// May a client come without a certificate?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Clients {
    /// Every client shows one.
    Certified,
    /// A client may show none; if it shows one, it must be sound. For the way to a first one.
    Anybody,
    /// As `Anybody`, and one that was shown may have ended so long ago. Whoever accepts looks at its
    /// end, and lets such a client renew it and do nothing else.
    Late(Duration),
}

/// What signs and verifies. It is named here instead of being installed for the whole process, so
/// that a program with another provider of its own is left alone.
#[must_use]
pub fn provider() -> &'static Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    &PROVIDER
}

/// How connections are accepted. Made once: what `source` holds is read at each handshake.
///
/// # Errors
/// The provider has no TLS 1.3.
pub fn server(source: Source, clients: Clients) -> Result<Arc<ServerConfig>, Error> {
    let present = Present(source);
    let verifier = Verifier {
        present: present.clone(),
        expected: Expected::Any,
        believed: None,
        mandatory: clients == Clients::Certified,
        late: match clients {
            Clients::Late(late) => late,
            Clients::Certified | Clients::Anybody => Duration::ZERO,
        },
    };
    let mut config = ServerConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(Arc::new(verifier))
        .with_cert_resolver(Arc::new(present));
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.send_tls13_tickets = 0;
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.max_early_data_size = 0;
    Ok(Arc::new(config))
}

/// How control is dialled. What `source` holds is read at each handshake; the roots that are believed
/// now are named, so that control can show a certificate of one of them.
///
/// # Errors
/// The provider has no TLS 1.3.
pub fn client(source: Source, expected: Expected) -> Result<Arc<ClientConfig>, Error> {
    let present = source.borrow().clone();
    let believed = present.map(|present| hint::names(present.bundle().roots()));
    let believed = believed.filter(|names| !names.is_empty());
    Ok(Arc::new(dialler(source, expected, believed)?))
}

/// How a sidecar dials another one: as [`client`], and it says that it is a peer.
///
/// # Errors
/// The provider has no TLS 1.3.
pub fn peer_client(source: Source, expected: Expected) -> Result<Arc<ClientConfig>, Error> {
    let mut config = dialler(source, expected, None)?;
    config.alpn_protocols.push(PEER.to_vec());
    Ok(Arc::new(config))
}

fn dialler(
    source: Source,
    expected: Expected,
    believed: Option<Vec<DistinguishedName>>,
) -> Result<ClientConfig, Error> {
    let present = Present(source);
    let verifier = Verifier {
        present: present.clone(),
        expected,
        believed,
        mandatory: true,
        late: Duration::ZERO,
    };
    let config = ClientConfig::builder_with_provider(Arc::clone(provider()))
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_client_cert_resolver(Arc::new(present));
    Ok(bounded(config))
}

/// What every dialler of ours asks for, however it verifies: `h2`, no session of before, and no name.
pub(crate) fn bounded(mut config: ClientConfig) -> ClientConfig {
    config.alpn_protocols = vec![ALPN.to_vec()];
    config.resumption = Resumption::disabled();
    config.enable_early_data = false;
    config.enable_sni = false;
    config
}

/// Verifies what the holder of a certificate signed in a handshake.
pub(crate) fn signature(
    message: &[u8],
    leaf: &CertificateDer<'_>,
    signature: &DigitallySignedStruct,
) -> Result<HandshakeSignatureValid, Error> {
    let algorithms = &provider().signature_verification_algorithms;
    verify_tls13_signature(message, leaf, signature, algorithms)
}

/// How a signature may be made.
pub(crate) fn schemes() -> Vec<SignatureScheme> {
    provider()
        .signature_verification_algorithms
        .supported_schemes()
}

/// The name that TLS wants of a server. Nobody looks at it: peers are known by SPIFFE id.
#[must_use]
pub fn name() -> ServerName<'static> {
    ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into())
}

/// What a handshake that is over has proved. `None`: the client showed no certificate, which
/// [`Clients::Anybody`] allows.
///
/// # Errors
/// `h2` was not agreed on.
pub fn peer(connection: &CommonState) -> Result<Option<Leaf>, Refusal> {
    if connection.alpn_protocol() != Some(ALPN) {
        return Err(Refusal::Alpn);
    }
    match connection.peer_certificates() {
        Some(chain) => verify::leaf(chain).map(Some),
        None => Ok(None),
    }
}

#[derive(Clone)]
struct Present(Source);

impl Present {
    fn identity(&self) -> Result<Arc<Identity>, Refusal> {
        self.0.borrow().clone().ok_or(Refusal::NoIdentity)
    }

    fn certified(&self) -> Option<Arc<CertifiedKey>> {
        let identity = self.identity().ok()?;
        Some(Arc::clone(identity.svid().certified()))
    }

    fn fitting(&self, named: &[DistinguishedName]) -> Option<Arc<CertifiedKey>> {
        let identity = self.identity().ok()?;
        Some(Arc::clone(identity.shown_to(named).certified()))
    }
}

impl fmt::Debug for Present {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Present")
    }
}

impl ResolvesServerCert for Present {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.fitting(hello.certificate_authorities().unwrap_or_default())
    }
}

impl ResolvesClientCert for Present {
    fn resolve(&self, _: &[&[u8]], _: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        self.certified()
    }

    fn has_certs(&self) -> bool {
        self.0.borrow().is_some()
    }
}

#[derive(Debug)]
struct Verifier {
    present: Present,
    expected: Expected,
    /// The roots that a dialler names.
    believed: Option<Vec<DistinguishedName>>,
    mandatory: bool,
    /// A certificate that ended so long ago is taken.
    late: Duration,
}

impl Verifier {
    fn verify(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        let identity = self.present.identity()?;
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs());
        let chain: Vec<CertificateDer<'_>> = std::iter::once(leaf)
            .chain(between)
            .map(|each| CertificateDer::from(each.as_ref()))
            .collect();
        verify::late(&chain, &identity, &self.expected, now, self.late)?;
        Ok(())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(leaf, between, now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Refusal::TlsVersion.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self::signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }

    fn root_hint_subjects(&self) -> Option<&[DistinguishedName]> {
        self.believed.as_deref()
    }
}

impl ClientCertVerifier for Verifier {
    fn client_auth_mandatory(&self) -> bool {
        self.mandatory
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        leaf: &CertificateDer<'_>,
        between: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(leaf, between, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Err(Refusal::TlsVersion.into())
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        leaf: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self::signature(message, leaf, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        schemes()
    }
}

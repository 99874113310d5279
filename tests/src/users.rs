//! Users, who come from outside the mesh by TLS and know nothing of it: certificates as an operator
//! would order them, a tonic channel over TLS, HTTP/2 by hand, and a relay that puts TLS around what
//! speaks none.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hyper_util::rt::TokioIo;
use rcgen::{
    CertificateParams, DistinguishedName, DnType, Issuer, KeyPair, KeyUsagePurpose,
    SignatureAlgorithm,
};
use tempfile::TempDir;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::client::{RawAnswer, RawClient, USER_AGENT};
use crate::cluster::ClusterBuilder;

/// The name that users dial.
pub const NAME: &str = "front.example";

/// How a private key is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// `PRIVATE KEY` (RFC 5958).
    Pkcs8,
    /// `EC PRIVATE KEY` (RFC 5915).
    Sec1,
    /// `RSA PRIVATE KEY` (RFC 8017).
    Pkcs1,
}

/// A connection from 127.0.0.`last`: to the edge each address is a user of its own.
///
/// # Panics
/// If nobody listens.
pub async fn from_address(last: u8, to: SocketAddr) -> TcpStream {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, last], 0).into()).unwrap();
    let stream = socket.connect(to).await;
    let stream = stream.unwrap_or_else(|error| panic!("nobody listens on {to}: {error}"));
    stream.set_nodelay(true).unwrap();
    stream
}

/// The certificate of a front, in files, and who signed it.
#[derive(Debug)]
pub struct Front {
    folder: TempDir,
    issuer: Issuer<'static, KeyPair>,
    root: CertificateDer<'static>,
    /// The certificate's file.
    pub certificate: PathBuf,
    /// The key's.
    pub key: PathBuf,
}

impl Front {
    /// With a key in this form.
    ///
    /// # Panics
    /// If there is no room for the files.
    #[must_use]
    pub fn new(form: Form) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::default();
        params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
        // Names of its own: a chain in which both have the same looks as if nobody had signed it.
        params.distinguished_name = DistinguishedName::new();
        let name = "the root of front.example";
        params.distinguished_name.push(DnType::CommonName, name);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        let root = params.self_signed(&key).unwrap().der().clone();
        let front = Self {
            certificate: folder.path().join("tls.crt"),
            key: folder.path().join("tls.key"),
            issuer: Issuer::new(params, key),
            root,
            folder,
        };
        front.renew(form);
        front
    }

    /// Writes another certificate and key in place of the ones before, one file after the other.
    ///
    /// # Panics
    /// If the files cannot be written.
    pub fn renew(&self, form: Form) {
        self.renew_changed(form, |_| {});
    }

    /// The same, with a certificate that has ended.
    ///
    /// # Panics
    /// If the files cannot be written.
    pub fn renew_too_late(&self) {
        self.renew_changed(Form::Pkcs8, |params| {
            params.not_before = rcgen::date_time_ymd(2020, 1, 1);
            params.not_after = rcgen::date_time_ymd(2021, 1, 1);
        });
    }

    fn renew_changed(&self, form: Form, change: impl FnOnce(&mut CertificateParams)) {
        let algorithm: &SignatureAlgorithm = match form {
            Form::Pkcs8 | Form::Sec1 => &rcgen::PKCS_ECDSA_P256_SHA256,
            Form::Pkcs1 => &rcgen::PKCS_RSA_SHA256,
        };
        let key = KeyPair::generate_for(algorithm).unwrap();
        let mut params = CertificateParams::new([NAME.to_owned()]).unwrap();
        params.distinguished_name = DistinguishedName::new();
        params.distinguished_name.push(DnType::CommonName, NAME);
        change(&mut params);
        let chain = params.signed_by(&key, &self.issuer).unwrap().pem();
        let text = match form {
            Form::Pkcs8 => key.serialize_pem(),
            Form::Sec1 => pem("EC PRIVATE KEY", within_pkcs8(&key.serialize_der())),
            Form::Pkcs1 => pem("RSA PRIVATE KEY", within_pkcs8(&key.serialize_der())),
        };
        write(&self.key, &text);
        write(&self.certificate, &chain);
    }

    /// What was named last shows this to users.
    #[must_use]
    pub fn before(&self, mesh: ClusterBuilder) -> ClusterBuilder {
        mesh.with("--tls-cert", &self.certificate.display().to_string())
            .with("--tls-key", &self.key.display().to_string())
    }

    /// The file of the root that users believe.
    ///
    /// # Panics
    /// If it cannot be written.
    #[must_use]
    pub fn root(&self) -> PathBuf {
        let path = self.folder.path().join("root.crt");
        write(&path, &pem("CERTIFICATE", self.root.as_ref()));
        path
    }

    /// Shakes hands, offering these protocols and versions.
    ///
    /// # Errors
    /// There is no TLS between them.
    pub async fn shake(
        &self,
        address: SocketAddr,
        alpn: &[&[u8]],
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<TlsStream<TcpStream>> {
        let stream = TcpStream::connect(address).await;
        let stream = stream.with_context(|| format!("nobody listens on {address}"))?;
        self.shake_over(stream, alpn, versions).await
    }

    /// The same, on a connection that was opened already.
    ///
    /// # Errors
    /// There is no TLS between them.
    pub async fn shake_over(
        &self,
        stream: TcpStream,
        alpn: &[&[u8]],
        versions: &[&'static SupportedProtocolVersion],
    ) -> Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(self.root.clone())?;
        let provider = sidelane_identity::tls::provider();
        let mut config = ClientConfig::builder_with_provider(Arc::clone(provider))
            .with_protocol_versions(versions)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
        stream.set_nodelay(true)?;
        let name = ServerName::try_from(NAME)?;
        Ok(TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?)
    }

    /// A stream as gRPC clients open it.
    ///
    /// # Errors
    /// There is no TLS between them.
    pub async fn dial(&self, address: SocketAddr) -> Result<TlsStream<TcpStream>> {
        let versions = tokio_rustls::rustls::ALL_VERSIONS;
        self.shake(address, &[b"h2"], versions).await
    }

    /// A tonic channel: one connection, made now.
    ///
    /// # Errors
    /// There is no TLS between them.
    pub async fn channel(self: &Arc<Self>, address: SocketAddr) -> Result<Channel> {
        let front = Arc::clone(self);
        let connector = tower::service_fn(move |_| {
            let front = Arc::clone(&front);
            async move { front.dial(address).await.map(TokioIo::new) }
        });
        let endpoint = Endpoint::from_shared(format!("http://{NAME}"))?.user_agent(USER_AGENT)?;
        let channel = endpoint.connect_with_connector(connector).await;
        channel.with_context(|| format!("no channel to {address}"))
    }

    /// HTTP/2 by hand.
    ///
    /// # Errors
    /// There is no TLS between them.
    pub async fn raw(&self, address: SocketAddr) -> Result<RawClient> {
        RawClient::over_stream(self.dial(address).await?, address).await
    }

    /// Puts TLS around whatever connects to the address that is returned, byte by byte, for clients
    /// that speak none. It ends with the handle's task.
    ///
    /// # Panics
    /// If it finds no port.
    pub async fn relay(self: &Arc<Self>, to: SocketAddr) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let front = Arc::clone(self);
        let relaying = tokio::spawn(async move {
            while let Ok((mut near, _)) = listener.accept().await {
                let front = Arc::clone(&front);
                tokio::spawn(async move {
                    near.set_nodelay(true)?;
                    let mut far = front.dial(to).await?;
                    tokio::io::copy_bidirectional(&mut near, &mut far).await?;
                    anyhow::Ok(())
                });
            }
        });
        (address, relaying)
    }
}

/// The private key that PKCS#8 wraps: the octets of its third part (RFC 5958 §2).
fn within_pkcs8(der: &[u8]) -> &[u8] {
    let (sequence, _) = element(der);
    let (_version, rest) = element(sequence);
    let (_algorithm, rest) = element(rest);
    element(rest).0
}

/// The content of the first element of DER, and what follows it.
fn element(der: &[u8]) -> (&[u8], &[u8]) {
    let (length, head) = match der[1] {
        short @ 0..0x80 => (usize::from(short), 2),
        long => {
            let bytes = usize::from(long & 0x7F);
            let length = &der[2..2 + bytes];
            let length = length
                .iter()
                .fold(0, |sum, byte| sum * 256 + usize::from(*byte));
            (length, 2 + bytes)
        }
    };
    der[head..].split_at(length)
}

fn pem(label: &str, der: impl AsRef<[u8]>) -> String {
    let text = STANDARD.encode(der);
    let lines = text.as_bytes().chunks(64).map(|line| {
        let line = std::str::from_utf8(line).expect("base64 is text");
        format!("{line}\n")
    });
    let lines: String = lines.collect();
    format!("-----BEGIN {label}-----\n{lines}-----END {label}-----\n")
}

/// In one step, and never readable for others.
fn write(path: &Path, text: &str) {
    let beside = path.with_extension("next");
    fs::write(&beside, text).unwrap();
    fs::set_permissions(&beside, fs::Permissions::from_mode(0o600)).unwrap();
    fs::rename(&beside, path).unwrap();
}

/// What a user was told of a failure that the mesh made: a status and a text, and nothing that is the
/// mesh's own.
///
/// # Panics
/// If the answer says more.
#[must_use]
pub fn told(answer: &RawAnswer) -> (Code, String) {
    let carrier = answer.trailers.as_ref().unwrap_or(&answer.headers);
    for headers in [&answer.headers, carrier] {
        let mut names = headers.keys().map(http::HeaderName::as_str);
        let own = |name: &str| name.starts_with("sidelane-") || name == "grpc-status-details-bin";
        assert!(!names.any(own), "{answer:?}");
    }
    let status = Status::from_header_map(carrier).unwrap_or_else(|| panic!("{answer:?}"));
    (status.code(), status.message().to_owned())
}

/// The certificate that is shown in a handshake.
///
/// # Panics
/// If none was.
#[must_use]
pub fn shown(stream: &TlsStream<TcpStream>) -> CertificateDer<'static> {
    let chain = stream.get_ref().1.peer_certificates();
    chain.expect("a certificate")[0].clone().into_owned()
}

/// The first certificate in a file.
///
/// # Panics
/// If there is none.
#[must_use]
pub fn first_in(path: &Path) -> CertificateDer<'static> {
    CertificateDer::from_pem_file(path).expect("a certificate")
}

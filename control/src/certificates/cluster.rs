//! Asks the API server of a Kubernetes cluster to review tokens. Over TLS under the cluster's own
//! authority alone, with control's own service account; both are read again for each question, because
//! the cluster replaces them. Everything is bounded: who asks has shown nothing yet.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, HOST, HeaderValue};
use http::{Method, Request};
use http_body_util::{BodyExt, Full, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, ServerName};
use sidelane_identity::tls;
use sidelane_process::address::HostPort;
use tokio::net::TcpStream;
use tokio::sync::Semaphore;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use zeroize::Zeroizing;

use super::review::{ReviewError, Reviewer, ServiceAccount, question, verdict};

/// A review, from the first byte to the last.
pub const REVIEW_LIMIT: Duration = Duration::from_secs(5);
/// Reviews at once. More wait, within [`REVIEW_LIMIT`].
pub const REVIEWS_LIMIT: usize = 16;
/// The longest answer that is read, in bytes: one has a kilobyte or two.
pub const ANSWER_LIMIT: usize = 64 << 10;
/// The longest token and the longest file of authorities that are read, in bytes.
const FILE_LIMIT: u64 = 256 << 10;
/// Where reviews are asked for.
const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// Where a cluster is, and who control is there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kubernetes {
    /// The API server.
    pub server: HostPort,
    /// The cluster's authority, PEM.
    pub ca: PathBuf,
    /// A token of control's own service account.
    pub token: PathBuf,
}

/// A cluster that can be asked.
#[derive(Debug)]
pub struct Cluster {
    kubernetes: Kubernetes,
    turns: Semaphore,
}

impl Cluster {
    /// Nothing is asked, or read, before the first review.
    #[must_use]
    pub fn new(kubernetes: Kubernetes) -> Self {
        Self {
            kubernetes,
            turns: Semaphore::new(REVIEWS_LIMIT),
        }
    }

    async fn ask(&self, token: &str) -> Result<ServiceAccount, ReviewError> {
        let _turn = self.turns.acquire().await.map_err(failed)?;
        let Kubernetes {
            server,
            ca,
            token: own,
        } = self.kubernetes.clone();
        let files = tokio::task::spawn_blocking(move || Ok((read(&ca)?, read(&own)?)));
        let files: Result<_, ReviewError> = files.await.map_err(failed)?;
        let (authorities, own) = files?;
        let config = config(&authorities)?;
        let request = request(&server, &own, token)?;
        let host = server.host.trim_matches(['[', ']']);
        let stream = TcpStream::connect((host, server.port)).await;
        let name = ServerName::try_from(host.to_owned()).map_err(failed)?;
        let stream = TlsConnector::from(config)
            .connect(name, stream.map_err(failed)?)
            .await
            .map_err(failed)?;
        let (mut sender, connection) = http1::handshake(TokioIo::new(stream))
            .await
            .map_err(failed)?;
        let answered = async {
            let answer = sender.send_request(request).await.map_err(failed)?;
            let status = answer.status().as_u16();
            let body = Limited::new(answer.into_body(), ANSWER_LIMIT)
                .collect()
                .await;
            let body = body.map_err(|error| ReviewError::Unavailable(error.to_string()))?;
            Ok((status, body.to_bytes()))
        };
        // The connection lives as long as its one answer.
        let (status, body) = tokio::select! {
            answered = answered => answered?,
            Err(error) = connection => return Err(failed(error)),
        };
        verdict(status, &body)
    }
}

#[tonic::async_trait]
impl Reviewer for Cluster {
    async fn review(&self, token: &str) -> Result<ServiceAccount, ReviewError> {
        match timeout(REVIEW_LIMIT, self.ask(token)).await {
            Ok(reviewed) => reviewed,
            Err(_) => {
                let text = format!("nothing came within {} s", REVIEW_LIMIT.as_secs());
                Err(ReviewError::Unavailable(text))
            }
        }
    }
}

fn request(
    server: &HostPort,
    own: &[u8],
    token: &str,
) -> Result<Request<Full<Bytes>>, ReviewError> {
    let own = Zeroizing::new([b"Bearer ", own.trim_ascii()].concat());
    let mut own = HeaderValue::from_bytes(&own).map_err(failed)?;
    own.set_sensitive(true);
    let json = "application/json";
    let request = Request::builder()
        .method(Method::POST)
        .uri(PATH)
        .header(HOST, server.to_string())
        .header(AUTHORIZATION, own)
        .header(CONTENT_TYPE, json)
        .header(ACCEPT, json)
        .body(Full::new(Bytes::copy_from_slice(&question(token))));
    request.map_err(failed)
}

/// The cluster's authority, and no other.
fn config(pem: &[u8]) -> Result<Arc<ClientConfig>, ReviewError> {
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem) {
        let certificate = certificate.map_err(|error| {
            ReviewError::Unavailable(format!("its authority cannot be read: {error}"))
        })?;
        roots.add(certificate).map_err(failed)?;
    }
    if roots.is_empty() {
        let text = "the file of its authority holds no certificate".to_owned();
        return Err(ReviewError::Unavailable(text));
    }
    let mut config = ClientConfig::builder_with_provider(Arc::clone(tls::provider()))
        .with_safe_default_protocol_versions()
        .map_err(failed)?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}

fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, ReviewError> {
    let unreadable = |error: io::Error| {
        ReviewError::Unavailable(format!("{} cannot be read: {error}", path.display()))
    };
    let length = std::fs::metadata(path).map_err(unreadable)?.len();
    if length > FILE_LIMIT {
        let text = format!("{} is longer than {FILE_LIMIT} bytes", path.display());
        return Err(ReviewError::Unavailable(text));
    }
    std::fs::read(path).map(Zeroizing::new).map_err(unreadable)
}

fn failed(error: impl std::fmt::Display) -> ReviewError {
    ReviewError::Unavailable(error.to_string())
}

//! A Kubernetes API server, as far as control asks one: it reviews service accounts' tokens, over
//! HTTPS. Which tokens it vouches for is said, and taken back, while it runs.

use std::collections::HashMap;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::secrets;

/// Control's own token.
const OWN: &str = "control.own.token-of-the-cluster";

/// Each token that is vouched for: whose it is (`NAMESPACE:ACCOUNT`), and of which pod.
type Vouched = Arc<Mutex<HashMap<String, (String, String)>>>;

/// A cluster of a test's own. It ends with this value.
#[derive(Debug)]
pub struct ApiServer {
    address: String,
    folder: TempDir,
    vouched: Vouched,
    running: tokio::task::JoinHandle<()>,
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl ApiServer {
    /// One that vouches for nobody.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn start() -> Self {
        secrets::hide_text("control's token of the cluster", OWN);
        let folder = tempfile::tempdir().unwrap();
        let (config, root) = certified();
        std::fs::write(folder.path().join("ca.crt"), root).unwrap();
        std::fs::write(folder.path().join("token"), OWN).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let vouched = Vouched::default();
        let running = tokio::spawn(serve(listener, config, Arc::clone(&vouched)));
        Self {
            address,
            folder,
            vouched,
            running,
        }
    }

    /// The flags by which control knows it.
    #[must_use]
    pub fn flags(&self) -> [(&'static str, String); 3] {
        let file = |name: &str| self.folder.path().join(name).display().to_string();
        [
            ("--kubernetes", self.address.clone()),
            ("--kubernetes-ca", file("ca.crt")),
            ("--kubernetes-token", file("token")),
        ]
    }

    /// From now on this token is of `NAMESPACE:ACCOUNT`, in this pod.
    pub fn vouch(&self, token: &str, account: &str, pod: &str) {
        secrets::hide_text("a service account's token", token);
        let whose = (account.to_owned(), pod.to_owned());
        self.lock().insert(token.to_owned(), whose);
    }

    /// This token is nobody's any more.
    pub fn forget(&self, token: &str) {
        self.lock().remove(token);
    }

    /// Puts a token where a pod would find it.
    ///
    /// # Panics
    /// If the file cannot be written.
    #[must_use]
    pub fn mounted(&self, pod: &str, token: &str) -> PathBuf {
        let path = self.folder.path().join(format!("{pod}.mounted"));
        secrets::hide_text("a service account's token", token);
        std::fs::write(&path, token).unwrap();
        path
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, (String, String)>> {
        self.vouched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn serve(listener: TcpListener, config: Arc<ServerConfig>, vouched: Vouched) {
    let acceptor = TlsAcceptor::from(config);
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, vouched) = (acceptor.clone(), Arc::clone(&vouched));
        tokio::spawn(async move {
            // Who does not believe this server goes away.
            let Ok(stream) = acceptor.accept(stream).await else {
                return;
            };
            let service = service_fn(|request| answer(request, Arc::clone(&vouched)));
            let _ = http1::Builder::new()
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    vouched: Vouched,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let said = |status: u16, body: String| {
        let answer = Response::builder().status(status);
        Ok(answer.body(Full::new(Bytes::from(body))).unwrap())
    };
    let own = request.headers().get("authorization");
    if own.is_none_or(|own| *own != format!("Bearer {OWN}")) {
        return said(403, String::new());
    }
    let asked = request.into_body().collect().await.unwrap().to_bytes();
    let asked: Value = serde_json::from_slice(&asked).unwrap();
    let token = asked["spec"]["token"].as_str().unwrap_or_default();
    let whose = vouched.lock().unwrap_or_else(PoisonError::into_inner);
    let status = match whose.get(token) {
        Some((account, pod)) => json!({
            "authenticated": true,
            "user": {
                "username": format!("system:serviceaccount:{account}"),
                "extra": { "authentication.kubernetes.io/pod-name": [pod] },
            },
            "audiences": asked["spec"]["audiences"],
        }),
        None => json!({ "error": "token is invalid" }),
    };
    said(201, json!({ "status": status }).to_string())
}

/// A server's certificate for 127.0.0.1, and its root in PEM.
fn certified() -> (Arc<ServerConfig>, String) {
    let key = KeyPair::generate().unwrap();
    let mut root = CertificateParams::default();
    root.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    root.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    let pem = root.self_signed(&key).unwrap().pem();
    let issuer = Issuer::from_params(&root, &key);
    let own = KeyPair::generate().unwrap();
    let leaf = CertificateParams::new(vec!["127.0.0.1".to_owned()]).unwrap();
    let leaf = leaf.signed_by(&own, &issuer).unwrap();
    let own = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.serialize_der()));
    let provider = Arc::clone(sidelane_identity::tls::provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![leaf.der().clone()], own)
        .unwrap();
    (Arc::new(config), pem)
}

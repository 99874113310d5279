//! Sidecars that show a Kubernetes service account's token, and an API server that says whose it is,
//! or does not: over HTTPS, as a cluster's does.

use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use sidelane_control::certificates::{ANSWER_LIMIT, Kubernetes, REVIEW_LIMIT};
use sidelane_proto::wire::control::v1::{SignRequest, sign_request::Proof};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tonic::{Code, Status};

use crate::identity::{Mesh, asked, reason};

/// Control's own token, as the server knows it.
const OWN: &str = "of control";
const PATH: &str = "/apis/authentication.k8s.io/v1/tokenreviews";

/// A cluster of this test's own. Its authority and control's token are files in `folder`.
struct Server {
    kubernetes: Kubernetes,
    running: tokio::task::JoinHandle<()>,
    folder: tempfile::TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.running.abort();
    }
}

impl Server {
    async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let (config, root) = certified();
        let (ca, token) = (folder.path().join("ca.crt"), folder.path().join("token"));
        std::fs::write(&ca, root).unwrap();
        std::fs::write(&token, format!("{OWN}\n")).unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let server = listener.local_addr().unwrap().to_string().parse().unwrap();
        let running = tokio::spawn(async move {
            let acceptor = TlsAcceptor::from(config);
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let acceptor = acceptor.clone();
                tokio::spawn(async move {
                    // Who does not believe this server goes away.
                    let Ok(stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    let service = service_fn(answer);
                    let _ = http1::Builder::new()
                        .serve_connection(TokioIo::new(stream), service)
                        .await;
                });
            }
        });
        Self {
            kubernetes: Kubernetes { server, ca, token },
            running,
            folder,
        }
    }

    async fn mesh(&self) -> Mesh {
        let kubernetes = self.kubernetes.clone();
        Mesh::of(|identity| identity.kubernetes = Some(kubernetes)).await
    }
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

/// What the server says, by what the token is.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, Infallible> {
    let said = |status: u16, body: Vec<u8>| {
        let answer = Response::builder().status(status);
        Ok(answer.body(Full::new(Bytes::from(body))).unwrap())
    };
    let own = request.headers().get("authorization").cloned();
    if request.uri().path() != PATH || own.is_none_or(|own| own != format!("Bearer {OWN}")) {
        return said(403, Vec::new());
    }
    let asked = request.into_body().collect().await.unwrap().to_bytes();
    let asked: Value = serde_json::from_slice(&asked).unwrap();
    assert_eq!(asked["spec"]["audiences"], json!(["sidelane"]));
    let token = asked["spec"]["token"].as_str().unwrap().to_owned();
    let vouched = |user: &str, extra: Value, audience: &str| {
        let status = json!({
            "authenticated": true,
            "user": { "username": user, "extra": extra },
            "audiences": [audience],
        });
        said(201, json!({ "status": status }).to_string().into_bytes())
    };
    let orders = "system:serviceaccount:shop:orders";
    match token.as_str() {
        "orders" => {
            let pod = json!({ "authentication.kubernetes.io/pod-name": ["orders-1"] });
            vouched(orders, pod, "sidelane")
        }
        "unbound" => vouched(orders, json!({}), "sidelane"),
        "control" => vouched(
            "system:serviceaccount:sidelane:control",
            json!({}),
            "sidelane",
        ),
        "admin" => vouched("admin", json!({}), "sidelane"),
        "audience" => vouched(orders, json!({}), "https://kubernetes.default.svc"),
        "slow" => std::future::pending().await,
        "huge" => said(201, vec![b' '; ANSWER_LIMIT + 1]),
        "odd" => said(201, b"<html>".to_vec()),
        code => match code.parse() {
            Ok(code) => said(code, Vec::new()),
            Err(_) => {
                let status = json!({ "status": { "error": "token is invalid" } });
                said(201, status.to_string().into_bytes())
            }
        },
    }
}

/// Asks by this token; gives whose certificate came.
async fn shown(mesh: &Mesh, token: &str, node: &str, identity: &str) -> Result<String, Status> {
    let key = KeyPair::generate().unwrap();
    let request = SignRequest {
        proof: Some(Proof::Kubernetes(token.to_owned())),
        identity: identity.to_owned(),
        ..asked(&key, node, None)
    };
    mesh.sign(request).await.map(|signed| signed.identity)
}

#[tokio::test]
async fn a_service_account_is_who_the_cluster_says_and_nobody_else() {
    let server = Server::start().await;
    let mesh = server.mesh().await;
    let account = "spiffe://mesh.example/ns/shop/sa/orders";
    let given = shown(&mesh, "orders", "orders-1", "").await.unwrap();
    assert_eq!(given, account);
    shown(&mesh, "orders", "orders-1", account).await.unwrap();
    shown(&mesh, "unbound", "anywhere", "").await.unwrap();
    for (token, node, identity, code, wanted) in [
        (
            "orders",
            "orders-2",
            "",
            Code::PermissionDenied,
            "OTHER_NODE",
        ),
        (
            "orders",
            "orders-1",
            "spiffe://mesh.example/ns/shop/sa/billing",
            Code::PermissionDenied,
            "OTHER_IDENTITY",
        ),
        (
            "made up",
            "n",
            "",
            Code::PermissionDenied,
            "KUBERNETES_REFUSED",
        ),
        (
            "audience",
            "n",
            "",
            Code::PermissionDenied,
            "KUBERNETES_AUDIENCE",
        ),
        (
            "admin",
            "n",
            "",
            Code::PermissionDenied,
            "KUBERNETES_NO_SERVICE_ACCOUNT",
        ),
        ("control", "n", "", Code::InvalidArgument, "RESERVED"),
        (
            "401",
            "n",
            "",
            Code::FailedPrecondition,
            "KUBERNETES_NOT_ALLOWED",
        ),
        (
            "403",
            "n",
            "",
            Code::FailedPrecondition,
            "KUBERNETES_NOT_ALLOWED",
        ),
        ("500", "n", "", Code::Unavailable, "KUBERNETES_UNAVAILABLE"),
        ("huge", "n", "", Code::Unavailable, "KUBERNETES_UNAVAILABLE"),
        ("odd", "n", "", Code::Unavailable, "KUBERNETES_UNAVAILABLE"),
    ] {
        let refused = shown(&mesh, token, node, identity).await.unwrap_err();
        assert_eq!(
            (refused.code(), reason(&refused)),
            (code, wanted),
            "{token}"
        );
        let text = refused.message();
        assert!(!text.contains(OWN), "{text}");
    }
}

#[tokio::test]
async fn a_cluster_that_is_slow_or_somebody_else_gives_no_right() {
    let server = Server::start().await;
    let mesh = server.mesh().await;
    let begun = Instant::now();
    let refused = shown(&mesh, "slow", "n", "").await.unwrap_err();
    assert_eq!(reason(&refused), "KUBERNETES_UNAVAILABLE");
    let waited = begun.elapsed();
    assert!(waited >= REVIEW_LIMIT && waited < REVIEW_LIMIT + Duration::from_secs(10));

    // Its token is read again for each review.
    let write = |name: &str, text: &str| {
        let path: &Path = &server.folder.path().join(name);
        std::fs::write(path, text).unwrap();
    };
    write("token", "another");
    let refused = shown(&mesh, "unbound", "n", "").await.unwrap_err();
    assert_eq!(reason(&refused), "KUBERNETES_NOT_ALLOWED");
    write("token", OWN);
    shown(&mesh, "unbound", "n", "").await.unwrap();

    // And its authority: another one signed this server.
    let (_, other) = certified();
    write("ca.crt", &other);
    let refused = shown(&mesh, "unbound", "n", "").await.unwrap_err();
    assert_eq!(reason(&refused), "KUBERNETES_UNAVAILABLE");
    write("ca.crt", "nothing");
    let refused = shown(&mesh, "unbound", "n", "").await.unwrap_err();
    assert!(refused.message().contains("no certificate"), "{refused:?}");
}

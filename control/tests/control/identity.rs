//! Trust mode strict over real sockets: how a sidecar gets its certificate, what it may do with it,
//! and how that ends.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rcgen::{CertificateParams, KeyPair};
use sidelane_control::app::{App, IdentityParameters, Parameters};
use sidelane_control::certificates::{JOIN_HEADER, Join};
use sidelane_control::registry::Terms;
use sidelane_control::rules::Validations;
use sidelane_identity::token::{Authority, JoinFile, JoinToken};
use sidelane_identity::verify::Expected;
use sidelane_identity::{
    Bundle, CertificateDer, Identity, PrivateKey, Revoked, Svid, TrustDomain, pinned, tls,
};
use sidelane_process::runtime::{RuntimeFolder, join_name};
use sidelane_process::settings::Trust;
use sidelane_proto::wire::admin::v1::mesh_client::MeshClient;
use sidelane_proto::wire::admin::v1::{
    IssueTokenRequest, ListNodesRequest, RevokeRequest, RotateRootRequest, revoke_request::Subject,
};
use sidelane_proto::wire::control::v1::certificates_client::CertificatesClient;
use sidelane_proto::wire::control::v1::membership_client::MembershipClient;
use sidelane_proto::wire::control::v1::{
    Hello, SignRequest, SignResponse, Trust as Trusted, TrustAck, sign_request::Proof,
    sync_request::Message as Said, sync_response::Message as Told,
};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ClientConfig;
use tonic::transport::Channel;
use tonic::{Code, Request, Status};

use crate::admin::page;
use crate::sidecar::{PATIENCE, Sidecar, channel, hello};

const ORDERS: &str = "spiffe://mesh.example/ns/shop/sa/orders";

pub(crate) struct Mesh {
    app: App,
    folder: tempfile::TempDir,
}

impl Mesh {
    async fn start(trust: Trust) -> Self {
        Self::signing(trust, Duration::from_secs(600), Duration::ZERO).await
    }

    async fn signing(trust: Trust, leaf_life: Duration, renewal_grace: Duration) -> Self {
        Self::of(|identity| {
            identity.trust = trust;
            identity.leaf_life = leaf_life;
            identity.renewal_grace = renewal_grace;
        })
        .await
    }

    pub(crate) async fn of(change: impl FnOnce(&mut IdentityParameters)) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut identity = IdentityParameters {
            trust: Trust::Strict,
            trust_domain: TrustDomain::new("mesh.example").unwrap(),
            leaf_life: Duration::from_secs(600),
            renewal_grace: Duration::ZERO,
            kubernetes: None,
            outside: None,
            runtime: runtime(&folder),
        };
        change(&mut identity);
        let parameters = Parameters {
            listen: "127.0.0.1:0".parse().unwrap(),
            admin: "127.0.0.1:0".parse().unwrap(),
            data: folder.path().join("state"),
            fixed: None,
            terms: Terms::default(),
            validations: Validations::default(),
            identity,
        };
        let app = App::start(parameters).await.unwrap();
        Self { app, folder }
    }

    fn join_file(&self) -> JoinFile {
        let name = join_name(self.app.listen());
        let text = runtime(&self.folder).read(&name).unwrap().unwrap();
        let text = String::from_utf8(text).unwrap();
        JoinFile::parse(&text).unwrap_or_else(|error| panic!("{error}"))
    }

    async fn dial(&self, config: Arc<ClientConfig>) -> Result<Channel, tonic::transport::Error> {
        let address = self.app.listen();
        let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
        let connector = Dial { address, config };
        endpoint.connect_with_connector(connector).await
    }

    /// As somebody who knows nothing but the root's fingerprint.
    async fn stranger(&self) -> Channel {
        let authority = self.join_file().authority;
        self.dial(pinned::client(authority).unwrap()).await.unwrap()
    }

    async fn owner(&self) -> Owner {
        let secret = self.join_file().secret;
        let secret: String = secret.iter().map(|byte| format!("{byte:02x}")).collect();
        Owner {
            client: MeshClient::new(self.stranger().await),
            secret,
        }
    }

    pub(crate) async fn sign(&self, request: SignRequest) -> Result<SignResponse, Status> {
        sign(self.stranger().await, request).await
    }

    /// A sidecar that has joined: its certificate, and a connection that shows it.
    async fn joined(&self, node: &str) -> (Arc<Identity>, Channel) {
        let token = self.owner().await.token(node, ORDERS, 60).await.unwrap();
        let key = KeyPair::generate().unwrap();
        let signed = self.sign(asked(&key, node, Some(token))).await.unwrap();
        let identity = identity(&key, &signed);
        let channel = self.as_peer(&identity).await.unwrap();
        (identity, channel)
    }

    async fn as_peer(&self, identity: &Arc<Identity>) -> Result<Channel, tonic::transport::Error> {
        let (_, source) = tokio::sync::watch::channel(Some(Arc::clone(identity)));
        let domain = TrustDomain::new("mesh.example").unwrap();
        let control = Expected::One(pinned::control(&domain));
        self.dial(tls::client(source, control).unwrap()).await
    }
}

struct Owner {
    client: MeshClient<Channel>,
    secret: String,
}

impl Owner {
    fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let secret = self.secret.parse().unwrap();
        request.metadata_mut().insert(JOIN_HEADER, secret);
        request
    }

    async fn token(&mut self, node: &str, identity: &str, ttl: u64) -> Result<JoinToken, Status> {
        let request = self.request(IssueTokenRequest {
            node_id: node.to_owned(),
            identity: identity.to_owned(),
            ttl_seconds: ttl,
        });
        let issued = self.client.issue_token(request).await?.into_inner();
        Ok(JoinToken::parse(&issued.token).unwrap_or_else(|error| panic!("{error}")))
    }

    async fn revoke(&mut self, subject: Subject) {
        self.try_revoke(subject).await.unwrap();
    }

    async fn try_revoke(&mut self, subject: Subject) -> Result<(), Status> {
        let subject = Some(subject);
        let request = self.request(RevokeRequest {
            subject,
            undo: false,
        });
        self.client.revoke(request).await.map(drop)
    }

    async fn rotate(&mut self) {
        let request = self.request(RotateRootRequest {});
        self.client.rotate_root(request).await.unwrap();
    }
}

fn runtime(folder: &tempfile::TempDir) -> RuntimeFolder {
    RuntimeFolder::at(folder.path().join("run"))
}

/// Dials control with TLS.
struct Dial {
    address: std::net::SocketAddr,
    config: Arc<ClientConfig>,
}

impl tower_service::Service<http::Uri> for Dial {
    type Response = TokioIo<TlsStream<TcpStream>>;
    type Error = std::io::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, Self::Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: http::Uri) -> Self::Future {
        let (address, connector) = (self.address, TlsConnector::from(Arc::clone(&self.config)));
        Box::pin(async move {
            let stream = TcpStream::connect(address).await?;
            let stream = connector.connect(tls::name(), stream).await?;
            Ok(TokioIo::new(stream))
        })
    }
}

pub(crate) fn asked(key: &KeyPair, node: &str, token: Option<JoinToken>) -> SignRequest {
    let request = CertificateParams::default().serialize_request(key).unwrap();
    SignRequest {
        csr: request.der().to_vec(),
        node_id: node.to_owned(),
        identity: String::new(),
        proof: token.map(|token| Proof::Token(token.secret.to_vec())),
    }
}

async fn sign(channel: Channel, request: SignRequest) -> Result<SignResponse, Status> {
    let signed = CertificatesClient::new(channel).sign(request).await?;
    Ok(signed.into_inner())
}

fn identity(key: &KeyPair, signed: &SignResponse) -> Arc<Identity> {
    let der = |bytes: &Vec<u8>| CertificateDer::from(bytes.clone());
    let key = PrivateKey::pkcs8(&zeroize::Zeroizing::new(key.serialize_der()));
    let svid = Svid::new(signed.chain.iter().map(der).collect(), &key);
    let svid = svid.unwrap_or_else(|error| panic!("{error}"));
    let trust = signed.trust.as_ref().unwrap();
    let domain = TrustDomain::new(&signed.trust_domain).unwrap();
    let bundle = Bundle::new(domain, trust.roots.iter().map(der).collect()).unwrap();
    let identity = Identity::new(svid, bundle, Revoked::default());
    Arc::new(identity.unwrap_or_else(|error| panic!("{error}")))
}

pub(crate) fn reason(status: &Status) -> &str {
    status
        .metadata()
        .get("sidelane-error")
        .unwrap()
        .to_str()
        .unwrap()
}

async fn eventually<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, what).await.expect("in time")
}

/// A node's Hello that names its identity.
fn hello_of(node: &str, identity: &str) -> Hello {
    Hello {
        identity: identity.to_owned(),
        ..hello(node, 1, &["shop.v1.Orders"])
    }
}

/// Waits for news of trust; gives it.
async fn trust(sidecar: &mut Sidecar) -> Trusted {
    eventually(async {
        loop {
            match sidecar.hear().await.unwrap() {
                Some(Told::Trust(trust)) => return trust,
                Some(_) => {}
                None => panic!("the stream ended"),
            }
        }
    })
    .await
}

#[tokio::test]
async fn a_sidecar_joins_by_token_and_is_who_its_certificate_says() {
    let mesh = Mesh::start(Trust::Strict).await;
    let (identity, channel) = mesh.joined("orders-1").await;
    assert_eq!(identity.svid().id().as_str(), ORDERS);
    let mut sidecar = Sidecar::join(channel.clone(), hello_of("orders-1", ORDERS)).await;
    assert_eq!(trust(&mut sidecar).await.roots.len(), 1);
    let listed = mesh.owner().await;
    let request = listed.request(ListNodesRequest::default());
    let nodes = listed
        .client
        .clone()
        .list_nodes(request)
        .await
        .unwrap()
        .into_inner()
        .nodes;
    assert_eq!(nodes[0].identity, ORDERS);
    for wrong in [
        hello_of("orders-2", ORDERS),
        hello_of("orders-1", "spiffe://mesh.example/ns/shop/sa/billing"),
        hello_of("orders-1", ""),
    ] {
        let mut other = Sidecar::open(channel.clone()).await;
        other.say(Said::Hello(wrong)).await;
        let Some(Told::Refusal(refusal)) = other.hear().await.unwrap() else {
            panic!("it was not refused");
        };
        assert_eq!(refusal.reason, "NOT_THE_IDENTITY");
    }
    let key = KeyPair::generate().unwrap();
    let renewed = sign(channel.clone(), asked(&key, "orders-1", None))
        .await
        .unwrap();
    assert_eq!(renewed.identity, ORDERS);
    let other = sign(channel, asked(&key, "orders-2", None))
        .await
        .unwrap_err();
    assert_eq!(reason(&other), "OTHER_NODE");
}

#[tokio::test]
async fn each_misuse_of_a_token_is_refused_for_its_own_reason() {
    let mesh = Mesh::start(Trust::Strict).await;
    let mut owner = mesh.owner().await;
    let token = owner.token("orders-1", ORDERS, 60).await.unwrap();
    let [one, two] = [KeyPair::generate().unwrap(), KeyPair::generate().unwrap()];
    let by = |key: &KeyPair, node: &str, secret: &[u8]| SignRequest {
        proof: Some(Proof::Token(secret.to_vec())),
        ..asked(key, node, None)
    };
    let secret = &token.secret[..];
    let refused = mesh.sign(by(&one, "orders-2", secret)).await.unwrap_err();
    assert_eq!(reason(&refused), "TOKEN_OF_ANOTHER_NODE");
    mesh.sign(by(&one, "orders-1", secret)).await.unwrap();
    mesh.sign(by(&one, "orders-1", secret))
        .await
        .expect("its answer was lost");
    let refused = mesh.sign(by(&two, "orders-1", secret)).await.unwrap_err();
    assert_eq!(reason(&refused), "TOKEN_USED");
    let refused = mesh.sign(by(&two, "orders-1", &[7; 32])).await.unwrap_err();
    assert_eq!(reason(&refused), "TOKEN_UNKNOWN");
    let short = owner.token("orders-3", "", 1).await.unwrap();
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let refused = mesh
        .sign(by(&two, "orders-3", &short.secret[..]))
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "TOKEN_EXPIRED");
    let refused = mesh.sign(asked(&two, "orders-1", None)).await.unwrap_err();
    assert_eq!(reason(&refused), "NO_PROOF");
    let kubernetes = SignRequest {
        proof: Some(Proof::Kubernetes("token".to_owned())),
        ..asked(&two, "orders-1", None)
    };
    let refused = mesh.sign(kubernetes).await.unwrap_err();
    assert_eq!(reason(&refused), "KUBERNETES_NOT_CONFIGURED");
    let too_long = owner
        .token("orders-4", "", 31 * 86_400)
        .await
        .err()
        .unwrap();
    assert_eq!(too_long.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn the_join_file_is_the_right_of_controls_own_user() {
    let mesh = Mesh::start(Trust::Strict).await;
    let key = KeyPair::generate().unwrap();
    let by = |secret: &[u8]| SignRequest {
        proof: Some(Proof::Join(secret.to_vec())),
        ..asked(&key, "laptop", None)
    };
    let joined = mesh.sign(by(&mesh.join_file().secret[..])).await.unwrap();
    assert_eq!(
        joined.identity,
        "spiffe://mesh.example/ns/default/sa/laptop"
    );
    let refused = mesh.sign(by(&[7; 32])).await.unwrap_err();
    assert_eq!(reason(&refused), "JOIN_REFUSED");
    let mut wrong = mesh.owner().await;
    wrong.secret = "07".repeat(32);
    let refused = wrong.token("orders-1", ORDERS, 60).await.err().unwrap();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let (_, peer) = mesh.joined("orders-1").await;
    let mut peer = MeshClient::new(peer);
    peer.list_nodes(ListNodesRequest::default())
        .await
        .expect("members may look");
    let refused = peer.rotate_root(RotateRootRequest {}).await.unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied, "and change nothing");
    let name = join_name(mesh.app.listen());
    mesh.app.stop(Duration::from_secs(5)).await;
    assert!(
        runtime(&mesh.folder).read(&name).unwrap().is_none(),
        "it is gone with control"
    );
}

#[tokio::test]
async fn who_shows_nothing_gets_nothing_and_permissive_counts_them() {
    let strict = Mesh::start(Trust::Strict).await;
    let address = strict.app.listen();
    let endpoint = Channel::from_shared(format!("http://{address}")).unwrap();
    let mut plain = MeshClient::new(endpoint.connect_lazy());
    plain
        .list_nodes(ListNodesRequest::default())
        .await
        .unwrap_err();
    let (_, figures) = page(strict.app.admin(), "/metrics").await;
    assert!(
        !figures.contains("handshakes_failed_total 0\n"),
        "{figures}"
    );
    let mut membership = MembershipClient::new(strict.stranger().await);
    let refused = membership.sync(tokio_stream::empty()).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
    let other = Authority {
        root: [7; 32],
        ..strict.join_file().authority
    };
    strict
        .dial(pinned::client(other).unwrap())
        .await
        .expect_err("that is not its control");

    let permissive = Mesh::start(Trust::Permissive).await;
    let plain = channel(permissive.app.listen()).await;
    Sidecar::join(plain.clone(), hello("orders-1", 1, &["shop.v1.Orders"])).await;
    let token = permissive
        .owner()
        .await
        .token("orders-2", ORDERS, 60)
        .await
        .unwrap();
    let key = KeyPair::generate().unwrap();
    let refused = sign(plain.clone(), asked(&key, "orders-2", Some(token)))
        .await
        .unwrap_err();
    assert_eq!(reason(&refused), "NOT_SECURE");
    let refused = MeshClient::new(plain)
        .rotate_root(RotateRootRequest {})
        .await
        .unwrap_err();
    assert_eq!(refused.code(), Code::PermissionDenied);
    let (_, figures) = page(permissive.app.admin(), "/metrics").await;
    assert!(figures.contains("connections_plain_total 1\n"), "{figures}");
}

#[tokio::test]
async fn who_is_revoked_is_sent_away_and_not_let_in_again() {
    let mesh = Mesh::start(Trust::Strict).await;
    let (identity, channel) = mesh.joined("orders-1").await;
    let (_, other) = mesh.joined("orders-2").await;
    let mut other = Sidecar::join(other, hello_of("orders-2", ORDERS)).await;
    trust(&mut other).await;
    let mut sidecar = Sidecar::join(channel, hello_of("orders-1", ORDERS)).await;
    mesh.owner()
        .await
        .revoke(Subject::NodeId("orders-1".to_owned()))
        .await;
    let ended = eventually(async {
        loop {
            if let Err(status) = sidecar.hear().await {
                return status;
            }
        }
    });
    assert_eq!(ended.await.code(), Code::PermissionDenied);
    let told = trust(&mut other).await;
    assert_eq!(
        told.revoked_serials,
        [identity.svid().serial().as_bytes().to_vec()]
    );
    let again = mesh.as_peer(&identity).await;
    if let Ok(channel) = again {
        // TLS 1.3 refuses a client's certificate only after the client believes that it is in.
        let key = KeyPair::generate().unwrap();
        sign(channel, asked(&key, "orders-1", None))
            .await
            .unwrap_err();
    }
}

#[tokio::test]
async fn a_new_root_signs_when_the_sidecars_have_it() {
    let mesh = Mesh::start(Trust::Strict).await;
    let before = mesh.join_file().authority.root;
    let (_, channel) = mesh.joined("orders-1").await;
    let mut sidecar = Sidecar::join(channel.clone(), hello_of("orders-1", ORDERS)).await;
    let first = trust(&mut sidecar).await;
    let acknowledge = |revision| Said::TrustAck(TrustAck { revision });
    sidecar.say(acknowledge(first.revision)).await;
    let mut owner = mesh.owner().await;
    let request = owner.request(RotateRootRequest {});
    let rotation = owner
        .client
        .rotate_root(request)
        .await
        .unwrap()
        .into_inner();
    let request = owner.request(RotateRootRequest {});
    let refused = owner.client.rotate_root(request).await.unwrap_err();
    assert_eq!(refused.code(), Code::FailedPrecondition, "one at a time");
    let both = trust(&mut sidecar).await;
    assert_eq!(both.roots.len(), 2);
    assert_eq!(
        mesh.join_file().authority.root,
        before,
        "a sidecar has not acknowledged it"
    );
    sidecar.say(acknowledge(both.revision)).await;
    eventually(async {
        while mesh.join_file().authority.root == before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
    let after = mesh.join_file().authority.root;
    let after: String = after.iter().map(|byte| format!("{byte:02x}")).collect();
    assert_eq!(after, rotation.fingerprint);
    let key = KeyPair::generate().unwrap();
    let renewed = sign(channel, asked(&key, "orders-1", None)).await;
    let renewed = renewed.expect("a certificate of the old root is good still");
    let identity = identity(&key, &renewed);
    identity.is_sound(std::time::SystemTime::now()).unwrap();
    mesh.as_peer(&identity)
        .await
        .expect("and one of the new root");
}

/// Waits until another root signs than this one.
async fn until_it_signs(mesh: &Mesh, before: [u8; 32]) {
    eventually(async {
        while mesh.join_file().authority.root == before {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn who_was_away_for_a_whole_rotation_is_let_in_by_the_root_that_it_knows() {
    let life = Duration::from_secs(4);
    let grace = Duration::from_secs(600);
    let mesh = Mesh::signing(Trust::Strict, life, grace).await;
    let before = mesh.join_file().authority;
    let mut owner = mesh.owner().await;
    let token = owner.token("orders-2", ORDERS, 60).await.unwrap();
    // It knows the old root alone, and its connection is closed.
    let (away, _) = mesh.joined("orders-1").await;
    assert_eq!(away.bundle().roots().len(), 1);
    owner.rotate().await;
    tokio::time::sleep(Duration::from_millis(600)).await;
    assert_eq!(
        mesh.join_file().authority.root,
        before.root,
        "who holds a certificate and was not heard is waited for"
    );
    // Until that has ended.
    until_it_signs(&mesh, before.root).await;
    let end = away.svid().not_after() + Duration::from_secs(1);
    while let Ok(left) = end.duration_since(std::time::SystemTime::now()) {
        tokio::time::sleep(left).await;
    }
    let channel = mesh
        .as_peer(&away)
        .await
        .expect("control shows the old root");
    let key = KeyPair::generate().unwrap();
    let renewed = sign(channel.clone(), asked(&key, "orders-1", None)).await;
    let renewed = identity(&key, &renewed.expect("within the grace"));
    renewed.is_sound(std::time::SystemTime::now()).unwrap();
    assert_eq!(renewed.bundle().roots().len(), 2);
    let refused = MembershipClient::new(channel)
        .sync(tokio_stream::empty())
        .await;
    assert_eq!(refused.unwrap_err().code(), Code::Unauthenticated);
    let channel = mesh.as_peer(&renewed).await.unwrap();
    Sidecar::join(channel, hello_of("orders-1", ORDERS)).await;
    // A token that was made before names the old root, one of today the new one.
    let channel = mesh.dial(pinned::client(before).unwrap()).await.unwrap();
    let joined = sign(channel, asked(&key, "orders-2", Some(token))).await;
    joined.expect("the token is good still");
    mesh.joined("orders-3").await;
}

#[tokio::test]
async fn a_connection_outlives_neither_its_certificate_nor_a_revocation() {
    let mesh = Mesh::signing(Trust::Strict, Duration::from_secs(3), Duration::ZERO).await;
    let (identity, channel) = mesh.joined("orders-1").await;
    let mut sidecar = Sidecar::join(channel.clone(), hello_of("orders-1", ORDERS)).await;
    let status = eventually(async {
        loop {
            if let Err(status) = sidecar.hear().await {
                return status;
            }
        }
    })
    .await;
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    let now = std::time::SystemTime::now();
    assert!(now >= identity.svid().not_after(), "not before its end");
    // Its lease goes on: who renews is seen by everybody all the time.
    let owner = mesh.owner().await;
    let request = owner.request(ListNodesRequest::default());
    let nodes = owner.client.clone().list_nodes(request).await.unwrap();
    assert_eq!(nodes.into_inner().nodes.len(), 1);
    // Nor can it renew what ended before the grace.
    tokio::time::sleep(Duration::from_millis(1_100)).await;
    let key = KeyPair::generate().unwrap();
    let refused = sign(channel, asked(&key, "orders-1", None)).await;
    assert_eq!(reason(&refused.unwrap_err()), "CERTIFICATE_ENDED");

    // Revoked, an open connection is good for nothing.
    let mesh = Mesh::start(Trust::Strict).await;
    let (_, channel) = mesh.joined("orders-1").await;
    let reader = MeshClient::new(channel.clone());
    let mut waiting = Sidecar::open(channel.clone()).await;
    reader
        .clone()
        .list_nodes(ListNodesRequest::default())
        .await
        .unwrap();
    let mut owner = mesh.owner().await;
    let node = || Subject::NodeId("orders-1".to_owned());
    owner.revoke(node()).await;
    waiting.say(Said::Hello(hello_of("orders-1", ORDERS))).await;
    let Some(Told::Refusal(refusal)) = eventually(waiting.hear()).await.unwrap() else {
        panic!("it was not refused");
    };
    assert_eq!(refusal.reason, "REVOKED");
    assert!(refusal.retry, "a new certificate may come");
    let refused = reader.clone().list_nodes(ListNodesRequest::default()).await;
    assert_eq!(refused.unwrap_err().code(), Code::PermissionDenied);
    let refused = sign(channel, asked(&key, "orders-1", None)).await;
    assert_eq!(reason(&refused.unwrap_err()), "REVOKED");
    // And nobody can take control itself away.
    let control = Subject::NodeId("control".to_owned());
    let refused = owner.try_revoke(control).await.unwrap_err();
    assert_eq!(reason(&refused), "RESERVED");
    let refused = owner.token("control", ORDERS, 60).await.err().unwrap();
    assert_eq!(reason(&refused), "RESERVED");
}

#[test]
fn what_a_killed_control_has_left_at_this_port_is_taken_away() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = runtime(&folder);
    let left = |listen: &str, names: [&str; 4]| {
        let names = names.map(|name| format!("control-{name}.join"));
        for name in &names {
            runtime.write(name, b"stale").unwrap();
        }
        Join::remove_stale(&runtime, listen.parse().unwrap());
        names.map(|name| runtime.read(&name).unwrap().is_some())
    };
    let all = ["127.0.0.1:9", "0.0.0.0:9", "10.0.0.7:9", "0.0.0.0:8"];
    // Another one may live at another address, or at another port.
    assert_eq!(left("127.0.0.1:9", all), [false, false, true, true]);
    assert_eq!(left("0.0.0.0:9", all), [false, false, true, true]);
    assert_eq!(left("10.0.0.7:9", all), [true, false, false, true]);
}

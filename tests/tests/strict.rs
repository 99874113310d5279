//! Strict, in every lane and on each listener: links are TLS of both sides, who speaks in the clear or is
//! somebody else is refused, whether he dials or is dialled. And what people begin with says nothing
//! weaker.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use sidelane_identity::{Identity, kept, tls};
use sidelane_proto::model::{ConnectionClass, Lane};
use sidelane_proto::wire::peer::v1::HelloRequest;
use sidelane_tests::admin::{Answer, Metrics};
use sidelane_tests::ask::ask;
use sidelane_tests::client::{RawClient, mesh_reason};
use sidelane_tests::cluster::Node;
use sidelane_tests::lanes::CALLS;
use sidelane_tests::link::{DIALLER, hello, listener, open, preamble, say_hello};
use sidelane_tests::stranger::{Stranger, from_pem};
use sidelane_tests::{Cluster, Upstream, cluster};
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::Code;

const CALLEE: &str = "spiffe://sidelane.internal/ns/default/sa/callee";

async fn mesh(upstream: &Upstream) -> Cluster {
    let mut mesh = cluster!()
        .enrolled()
        .control()
        .node("caller")
        .node("late")
        .node("other")
        .switched_on("--keep-identity")
        .node("callee");
    for (service, ..) in CALLS {
        mesh = mesh.serving(service, upstream);
    }
    mesh.start().await
}

fn kept_of_other(mesh: &Cluster) -> Vec<u8> {
    std::fs::read(mesh.folder().join("other.data/identity.pem")).unwrap()
}

/// Nobody gets a word in the clear.
async fn in_the_clear(callee: &Node, class: ConnectionClass, lane: Lane) {
    let labels = [("side", "accepted"), ("reason", "not_tls")];
    let before = callee.metrics().await;
    let before = before.sum("sidelane_tls_refused_total", &labels);
    if let Ok(link) = open(callee, class, lane).await {
        let told = say_hello(&link, &hello(callee, class, lane).await).await;
        assert!(told.is_err(), "{lane}: {told:?}");
    }
    let counted = |answer: &Answer| {
        Metrics::parse(&answer.body).sum("sidelane_tls_refused_total", &labels) > before
    };
    callee.answers("/metrics", counted).await;
}

/// Who shows a certificate of the mesh's, and is not who he says.
async fn as_another(mesh: &Cluster, class: ConnectionClass, lane: Lane) {
    let callee = mesh.node("callee");
    let text = kept_of_other(mesh);
    let (chain, key) = from_pem(text.split(|byte| *byte == b'#').nth(1).unwrap());
    let stream = TcpStream::connect(listener(callee, class)).await.unwrap();
    let address = stream.peer_addr().unwrap();
    let config = Stranger::showing(chain, &key).speaking(tls::ALPN).config();
    let mut config = tokio_rustls::rustls::ClientConfig::clone(&config);
    // At the external listener this tells a peer from a user.
    config.alpn_protocols.push(tls::PEER.to_vec());
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = connector.connect(tls::name(), stream).await.unwrap();
    stream.write_all(&preamble(class, lane)).await.unwrap();
    let link = RawClient::over_stream(stream, address).await.unwrap();
    let own = HelloRequest {
        node_id: "other".to_owned(),
        ..hello(callee, class, lane).await
    };
    let labels = [("side", "accepted"), ("reason", "other_node")];
    let counted = async || {
        let metrics = callee.metrics().await;
        metrics.sum("sidelane_tls_refused_total", &labels)
    };
    let before = counted().await;
    for (node, wanted) in [(DIALLER, Code::PermissionDenied), ("other", Code::Ok)] {
        let said = HelloRequest {
            node_id: node.to_owned(),
            ..own.clone()
        };
        let told = say_hello(&link, &said).await.unwrap();
        let code = told.as_ref().map_or_else(tonic::Status::code, |_| Code::Ok);
        assert_eq!(code, wanted, "{lane}, {node}: {told:?}");
    }
    assert!(counted().await > before, "{lane}: nobody has counted it");
    let told = format!("Hello says node {DIALLER}");
    assert!(callee.log().contains(&told), "{}", callee.end_of_log());
}

/// Takes links at this address with somebody's certificate, and expects that nobody goes on.
async fn impostor(address: SocketAddr, shown: Arc<Identity>) -> tokio::task::JoinHandle<()> {
    let (held, source) = watch::channel(Some(shown));
    let server = tls::server(source, tls::Clients::Certified).unwrap();
    let listener = TcpListener::bind(address).await.unwrap();
    tokio::spawn(async move {
        let _held = held;
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let accepted = TlsAcceptor::from(server.clone()).accept(stream).await;
            assert!(accepted.is_err(), "the caller went on with an impostor");
        }
    })
}

#[tokio::test]
async fn in_each_lane_links_prove_both_ends_and_nobody_else_is_taken() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let (caller, callee) = (mesh.node("caller"), mesh.node("callee"));
    for (service, method, class, lane) in CALLS {
        let path = format!("/{service}/{method}");
        let answer = ask(caller, &path, &[]).await.grpc_status().unwrap();
        assert_eq!(answer.code(), Code::Ok, "{path}: {answer:?}");
        let config = caller.config().await;
        let links = config["links"].as_array().unwrap();
        let callees = |to: &str| to.starts_with("callee@");
        let mut links = links.iter().filter(|link| link["lane"] == lane.name());
        let link = links.find(|link| link["to"].as_str().is_some_and(callees));
        let link = link.unwrap_or_else(|| panic!("{lane}: {config}"));
        assert_eq!(link["identity"], CALLEE, "{lane}: {link}");
        in_the_clear(callee, class, lane).await;
        as_another(&mesh, class, lane).await;
    }
    let plain = caller.metrics().await;
    let plain = plain.sum("sidelane_plaintext_links_total", &[]);
    assert!(plain == 0.0, "{plain}");

    // Of the same mesh, at the callee's addresses, and not the one that control named.
    callee.kill().await;
    let other = kept::from_text("other", &kept_of_other(&mesh)).unwrap();
    let other = Arc::new(other);
    let internal = impostor(callee.internal(), Arc::clone(&other)).await;
    let external = impostor(callee.external(), other).await;
    for (service, method, _, lane) in CALLS {
        let path = format!("/{service}/{method}");
        let refused = ask(mesh.node("late"), &path, &[]).await;
        let refused = refused.grpc_status().unwrap();
        let text = refused.message();
        assert_eq!(
            mesh_reason(&refused).as_deref(),
            Some("CONNECT_FAILED"),
            "{text}"
        );
        let why = "is not believed (not_the_expected_identity)";
        assert!(text.contains(lane.name()) && text.contains(why), "{text}");
    }
    assert!(!internal.is_finished() && !external.is_finished());
    internal.abort();
    external.abort();
}

/// Every file below a folder that people read, with its lines that ask for less than strict.
fn weaker(folder: &Path, found: &mut Vec<String>, files: &mut usize) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            if path.file_name().is_some_and(|name| name != "target") {
                weaker(&path, found, files);
            }
            continue;
        }
        let Ok(text) = std::fs::read_to_string(&path) else {
            continue;
        };
        *files += 1;
        // As a flag, a variable and a key of a file are written.
        let modes = ["disabled", "permissive"];
        let ways = ["trust ", "trust\", \"", "trust=", "trust: "];
        for line in text.lines() {
            let line = line.to_lowercase();
            let said = |mode: &str| {
                ways.iter()
                    .any(|way| line.contains(&format!("{way}{mode}")))
            };
            if modes.into_iter().any(said) {
                found.push(format!("{}: {line}", path.display()));
            }
        }
    }
}

#[test]
fn the_demo_the_examples_and_what_is_deployed_are_strict() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let (mut found, mut files) = (Vec::new(), 0);
    for folder in ["deploy", "sdk/examples", "sdk/cli/src/demo"] {
        weaker(&root.join(folder), &mut found, &mut files);
    }
    assert!(files > 20, "{files} files were read");
    assert!(found.is_empty(), "{found:#?}");
}

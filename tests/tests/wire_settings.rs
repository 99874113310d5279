//! Where a sidecar listens, what it tells its peers to dial, and how long it waits at its end: each
//! setting has an effect that is seen here from outside.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::path::Path;
use std::time::{Duration, Instant};

use sidelane::{Target, channel_to};
use sidelane_tests::ask::{ask, until_answered};
use sidelane_tests::cluster::Node;
use sidelane_tests::ports::free_port;
use sidelane_tests::refusal::Refusal;
use sidelane_tests::wire::v1::echo_client::EchoClient;
use sidelane_tests::wire::v1::{Behaviour, Moment, UnaryRequest};
use sidelane_tests::{RawUpstream, Upstream, cluster, services};
use tokio::net::{TcpStream, UnixListener};
use tonic::Code;

const VISIT: &str = "/sidelane.test.v1.Front/Visit";

/// A caller and a callee that serves Echo and Front; what is said after this is the callee's.
fn pair(upstream: &Upstream) -> sidelane_tests::cluster::ClusterBuilder {
    cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::ECHO, upstream)
        .serving(services::FRONT, upstream)
}

async fn who_by(target: &str) -> String {
    let target: Target = target.parse().unwrap();
    let mut echo = EchoClient::new(channel_to(&target).await.unwrap());
    let answer = echo.unary(UnaryRequest::default()).await.unwrap();
    answer.into_inner().node
}

/// Listens on a unix socket and hands every connection on to a server.
fn on_unix_socket(path: &Path, server: std::net::SocketAddr) -> tokio::task::JoinHandle<()> {
    let listener = UnixListener::bind(path).unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut server = TcpStream::connect(server).await.unwrap();
                let _ = tokio::io::copy_bidirectional(&mut stream, &mut server).await;
            });
        }
    })
}

#[tokio::test]
async fn outbound_is_a_unix_socket_or_a_port_or_both() {
    let folder = tempfile::tempdir().unwrap();
    let alone = format!("unix:{}", folder.path().join("alone.sock").display());
    let both = format!("unix:{}", folder.path().join("both.sock").display());
    let port = format!("127.0.0.1:{}", free_port());
    let upstream = Upstream::named("callee").start().await;
    let mesh = pair(&upstream)
        .node("alone")
        .with("--outbound", &alone)
        .node("both")
        .with("--outbound", &format!("{port},{both}"))
        .start()
        .await;
    assert_eq!(who_by(&alone).await, "callee");
    assert_eq!(who_by(&both).await, "callee");
    assert_eq!(who_by(&format!("http://{port}")).await, "callee");
    let bound = mesh.node("both").config().await["bound"]["outbound"].clone();
    assert_eq!(bound, serde_json::json!([port, both]));

    // Its file goes with the sidecar.
    mesh.node("alone").stop(Duration::from_secs(10)).await;
    assert!(!folder.path().join("alone.sock").exists());
}

#[tokio::test]
async fn a_port_of_zero_is_any_free_one_and_is_told() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = pair(&upstream)
        .node("any")
        .with("--outbound", "127.0.0.1:0")
        .with("--internal", "127.0.0.1:0")
        .start()
        .await;
    let node = mesh.node("any");
    let bound = node.config().await["bound"].clone();
    let outbound = bound["outbound"][0].as_str().unwrap().to_owned();
    assert_eq!(who_by(&format!("http://{outbound}")).await, "callee");
    let log = node.log();
    let starting = log.lines().find(|line| line.contains("\"starting\""));
    assert!(
        starting.is_some_and(|line| line.contains(&outbound)),
        "{log}"
    );
    // What was bound is what is advertised.
    let internal = mesh.listed("any").await["addresses"]["internal"].clone();
    assert_eq!(internal, bound["internal"]);
}

#[tokio::test]
async fn a_local_service_may_listen_on_a_unix_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("echo.sock");
    let upstream = Upstream::named("behind").start().await;
    let serving = on_unix_socket(&path, upstream.address());
    let address = format!("unix:{}", path.display());
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::ECHO, address.as_str())
        .start()
        .await;
    assert_eq!(until_answered(mesh.node("caller")).await, "behind");
    let local = mesh.node("callee").links("local").await;
    assert_eq!(local[0]["to"], address);
    serving.abort();
}

#[tokio::test]
async fn an_external_service_is_reached_on_the_external_listener_alone() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = pair(&upstream).start().await;
    let caller = mesh.node("caller");
    let answer = ask(caller, VISIT, &[]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok, "{answer:?}");
    let peers = caller.links("peer").await;
    let [link] = &peers[..] else {
        panic!("{peers:?}");
    };
    assert_eq!(link["class"], "External");
    assert_eq!(link["lane"], "ingress_data");
    let external = mesh.node("callee").external().to_string();
    assert_eq!(link["remote"], external);
    let told = mesh.listed("callee").await["addresses"]["external"].clone();
    assert_eq!(told, external);
}

#[tokio::test]
async fn without_an_external_listener_external_services_are_not_to_be_had() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = pair(&upstream).with("--external", "off").each_ready().await;
    assert_eq!(until_answered(mesh.node("caller")).await, "callee");
    let refusal = Refusal::of(&ask(mesh.node("caller"), VISIT, &[]).await);
    let text = "sidelane.test.v1.Front: the only endpoint in question was without an address of \
                class External; start the sidecar there with `--external`";
    let expected = Refusal::new("NO_ENDPOINT", Code::Unavailable, text);
    assert_eq!(refusal, expected);
    assert!(
        TcpStream::connect(mesh.node("callee").external())
            .await
            .is_err()
    );
}

#[tokio::test]
async fn what_is_advertised_is_what_peers_dial() {
    let internal = free_port();
    let listen = format!("127.0.0.1:{internal}");
    let upstream = Upstream::named("callee").start().await;
    let mesh = pair(&upstream)
        .with("--internal", &listen)
        .with("--advertise", "localhost")
        .start()
        .await;
    let told = mesh.listed("callee").await["addresses"].clone();
    let external = mesh.node("callee").external().port();
    let expected = serde_json::json!({
        "internal": format!("localhost:{internal}"),
        "external": format!("localhost:{external}"),
    });
    assert_eq!(told, expected);
    assert_eq!(until_answered(mesh.node("caller")).await, "callee");
}

#[tokio::test]
async fn an_advertised_port_is_the_one_of_the_internal_listener() {
    // In front of the sidecar stands something that hands connections on, as a container does.
    let internal = std::net::SocketAddr::from(([127, 0, 0, 1], free_port()));
    let front = RawUpstream::connections(move |mut stream| async move {
        let mut inner = TcpStream::connect(internal).await.unwrap();
        let _ = tokio::io::copy_bidirectional(&mut stream, &mut inner).await;
    })
    .await;
    let upstream = Upstream::named("callee").start().await;
    let mesh = pair(&upstream)
        .with("--internal", &internal.to_string())
        .with("--advertise", &front.address().to_string())
        .start()
        .await;
    assert_eq!(until_answered(mesh.node("caller")).await, "callee");
    let peers = mesh.node("caller").links("peer").await;
    assert_eq!(peers[0]["remote"], front.address().to_string());
}

/// A call that its server holds for so long, once it has arrived there.
async fn held(
    node: &Node,
    upstream: &Upstream,
    key: &str,
    delay: Duration,
) -> tokio::task::JoinHandle<Result<String, tonic::Status>> {
    let mut echo = EchoClient::new(node.channel().await);
    let behaviour = Behaviour {
        ledger_key: key.to_owned(),
        delay_ms: u32::try_from(delay.as_millis()).unwrap(),
        ..Behaviour::default()
    };
    let request = UnaryRequest {
        behaviour: Some(behaviour),
        ..UnaryRequest::default()
    };
    let call = tokio::spawn(async move { Ok(echo.unary(request).await?.into_inner().node) });
    let limit = Duration::from_secs(10);
    let ledger = upstream.ledger();
    let arrived = ledger.reached(key, Moment::Arrived, 1, limit).await;
    assert!(arrived.is_some(), "the call has not arrived");
    call
}

#[tokio::test]
async fn calls_in_flight_end_well_within_the_grace_and_are_cut_after_it() {
    let patient = Upstream::named("patient").start().await;
    let hasty = Upstream::named("hasty").start().await;
    let mesh = pair(&patient).start().await;
    let call = held(
        mesh.node("caller"),
        &patient,
        "kept",
        Duration::from_millis(600),
    )
    .await;
    mesh.node("callee").stop(Duration::from_secs(10)).await;
    assert_eq!(call.await.unwrap().unwrap(), "patient");
    assert!(mesh.node("callee").log().contains("0 calls were cut"));

    let mesh = pair(&hasty).with("--grace", "300ms").start().await;
    let call = held(mesh.node("caller"), &hasty, "cut", Duration::from_secs(60)).await;
    let begun = Instant::now();
    mesh.node("callee").stop(Duration::from_secs(10)).await;
    let lasted = begun.elapsed();
    assert!(lasted >= Duration::from_millis(300), "{lasted:?}");
    assert!(lasted < Duration::from_secs(5), "{lasted:?}");
    assert!(mesh.node("callee").log().contains("1 calls were cut"));
    let refusal = Refusal::of_status(&call.await.unwrap().unwrap_err());
    assert_eq!(refusal.reason, "PEER_RESET", "{refusal:?}");
    assert_eq!(refusal.processed, "maybe", "{refusal:?}");
}

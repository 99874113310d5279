//! Links as a sidecar takes them, read back from the wire: the settings that it answers each
//! preamble with, and what it makes of a Hello that is wrong, late, or not said at all.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::time::{Duration, Instant};

use sidelane_proto::model::{ConnectionClass, Lane};
use sidelane_proto::wire::control::v1::VersionRange;
use sidelane_proto::wire::peer::v1::HelloRequest;
use sidelane_tests::ask::{ECHO_UNARY, ask_over, who};
use sidelane_tests::client::RawClient;
use sidelane_tests::cluster::Node;
use sidelane_tests::frames::{EMPTY_SETTINGS, Opening, PREFACE};
use sidelane_tests::lanes::{LaneFacts, assert_each_lane_has_its_own};
use sidelane_tests::link::{self, hello, preamble, said, say_hello};
use sidelane_tests::{Cluster, Upstream, cluster, services};
use tokio::io::AsyncReadExt;
use tonic::Code;

const INTERNAL: ConnectionClass = ConnectionClass::Internal;
const EXTERNAL: ConnectionClass = ConnectionClass::External;
/// Every pair that the matrix has.
const PAIRS: [(ConnectionClass, Lane); 5] = [
    (INTERNAL, Lane::GENERAL),
    (INTERNAL, Lane::GOSSIP),
    (INTERNAL, Lane::BIFROST_DATA),
    (EXTERNAL, Lane::GENERAL),
    (EXTERNAL, Lane::INGRESS_DATA),
];

async fn mesh(upstream: &Upstream) -> Cluster {
    cluster!()
        .control()
        .node("callee")
        .serving(services::ECHO, upstream)
        .start()
        .await
}

/// How a listener opens HTTP/2 after these first bytes.
async fn opening(address: std::net::SocketAddr, first: &[u8]) -> Opening {
    let bytes = [first, PREFACE.as_slice(), EMPTY_SETTINGS].concat();
    let mut stream = said(address, &bytes).await.unwrap();
    Opening::read(&mut stream).await.unwrap()
}

/// What `/config` says of a lane, as the acceptor of a link sends it.
async fn accepted(node: &Node, lane: Lane, headers: u32) -> Opening {
    let facts = LaneFacts::of(&node.config().await, lane);
    Opening {
        enable_push: None,
        max_concurrent_streams: Some(facts.max_streams),
        initial_window_size: Some(facts.stream_window),
        max_frame_size: Some(facts.frame_size),
        max_header_list_size: Some(headers),
        connection_window: facts.connection_window,
    }
}

#[tokio::test]
async fn each_lane_is_accepted_with_its_own_settings() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let node = mesh.node("callee");
    // Somewhat more than the 64 KiB of an app's headers: the mesh adds its own.
    let headers = 68 * 1024;
    let mut seen = Vec::new();
    for (class, lane) in PAIRS {
        let opened = opening(link::listener(node, class), &preamble(class, lane)).await;
        let expected = accepted(node, lane, headers).await;
        assert_eq!(opened, expected, "{class}, lane {lane}");
        // General goes with both classes.
        if seen.iter().all(|(known, _)| *known != lane) {
            seen.push((lane, opened));
        }
    }
    assert_each_lane_has_its_own(&seen);

    // Without a preamble, a link is taken as General.
    let opened = opening(node.internal(), &[]).await;
    assert_eq!(opened, accepted(node, Lane::GENERAL, headers).await);

    // The app beside the sidecar has the windows of General, and room for the calls of all lanes.
    let opened = opening(node.outbound(), &[]).await;
    let general = accepted(node, Lane::GENERAL, 64 * 1024).await;
    let expected = Opening {
        max_concurrent_streams: Some(16_384),
        ..general
    };
    assert_eq!(opened, expected);
}

#[tokio::test]
async fn a_call_before_the_hello_is_refused_and_after_it_is_taken() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let node = mesh.node("callee");
    // With a preamble, and as any gRPC client would begin.
    let links = [
        link::open(node, INTERNAL, Lane::GENERAL).await.unwrap(),
        RawClient::connect(node.internal()).await.unwrap(),
    ];
    for link in links {
        let status = ask_over(&link, ECHO_UNARY, &[]).await.grpc_status();
        let status = status.unwrap();
        let text = "a link begins with sidelane.peer.v1.Peer/Hello; call through your own sidecar";
        let expected = (Code::FailedPrecondition, text);
        assert_eq!((status.code(), status.message()), expected);

        let hello = hello(node, INTERNAL, Lane::GENERAL).await;
        let welcome = say_hello(&link, &hello).await.unwrap().unwrap();
        assert_eq!(welcome.node_id, "callee");
        assert_eq!(welcome.generation, hello.expected_generation);
        let general = LaneFacts::of(&node.config().await, Lane::GENERAL);
        assert_eq!(welcome.max_concurrent_streams, general.max_streams);
        assert_eq!((welcome.lane_id, &*welcome.lane), (0, "general"));
        assert_eq!(welcome.protocol, 1);

        let answer = ask_over(&link, ECHO_UNARY, &[]).await;
        assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok, "{answer:?}");
        // Once is enough: who says it again is told nothing new.
        let again = say_hello(&link, &hello).await.unwrap().unwrap_err();
        let expected = (
            Code::FailedPrecondition,
            "Hello was said already on this link",
        );
        assert_eq!((again.code(), again.message()), expected);
    }
}

#[tokio::test]
async fn a_link_without_a_hello_ends_after_three_seconds() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let node = mesh.node("callee");
    let opened = preamble(INTERNAL, Lane::GENERAL);
    let bytes = [&opened, PREFACE.as_slice(), EMPTY_SETTINGS].concat();
    let begun = Instant::now();
    let mut stream = said(node.internal(), &bytes).await.unwrap();
    let limit = Duration::from_secs(8);
    let ended = tokio::time::timeout(limit, stream.read_to_end(&mut Vec::new())).await;
    assert!(ended.is_ok(), "the link stands after {limit:?}");
    let lasted = begun.elapsed();
    assert!(lasted >= Duration::from_millis(2_900), "{lasted:?}");
    let metrics = node.metrics().await;
    assert_eq!(metrics.sum("sidelane_links_refused_total", &[]), 1.0);
    assert_eq!(who(node).await.unwrap(), "callee");
}

#[tokio::test]
async fn a_hello_for_an_older_generation_learns_the_newer_one() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let node = mesh.node("callee");
    let link = link::open(node, INTERNAL, Lane::GENERAL).await.unwrap();
    let mut hello = hello(node, INTERNAL, Lane::GENERAL).await;
    let generation = hello.expected_generation;
    hello.expected_generation = 6;
    let welcome = say_hello(&link, &hello).await.unwrap().unwrap();
    assert_eq!(welcome.generation, generation);
}

#[tokio::test]
async fn a_wrong_hello_is_refused_by_what_is_wrong_with_it() {
    type Spoil = fn(&mut HelloRequest);
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let node = mesh.node("callee");
    let good = hello(node, INTERNAL, Lane::GOSSIP).await;
    let generation = good.expected_generation;
    let cases: [(Spoil, Code, String); 6] = [
        (
            |hello| hello.expected_node_id = "other".to_owned(),
            Code::FailedPrecondition,
            format!(
                "Hello is meant for node other, generation {generation}; this is node callee, \
                 generation {generation}"
            ),
        ),
        (
            |hello| hello.expected_generation += 1,
            Code::FailedPrecondition,
            format!(
                "Hello is meant for node callee, generation {}; this is node callee, generation \
                 {generation}",
                generation + 1
            ),
        ),
        (
            |hello| (hello.lane_id, hello.lane) = (0, "general".to_owned()),
            Code::FailedPrecondition,
            "Hello says Internal, lane general; the link was opened as Internal, lane gossip"
                .to_owned(),
        ),
        (
            |hello| hello.lane = "general".to_owned(),
            Code::InvalidArgument,
            "Hello: lane contradicts another field: lane_id 1 is `gossip`, lane says `general`"
                .to_owned(),
        ),
        (
            |hello| hello.node_id = "two words".to_owned(),
            Code::InvalidArgument,
            "Hello: node_id `two words` is not a node id (letters, digits, `.`, `_`, `-`)"
                .to_owned(),
        ),
        (
            |hello| {
                hello.protocol = Some(VersionRange {
                    oldest: 8,
                    newest: 9,
                });
            },
            Code::FailedPrecondition,
            "no common version of the peer protocol: dialler speaks 8 to 9, callee speaks 1 to 1"
                .to_owned(),
        ),
    ];
    for (spoil, code, text) in cases {
        let link = link::open(node, INTERNAL, Lane::GOSSIP).await.unwrap();
        let mut hello = good.clone();
        spoil(&mut hello);
        let refused = say_hello(&link, &hello).await.unwrap().unwrap_err();
        assert_eq!((refused.code(), refused.message()), (code, text.as_str()));
        // It was no Hello: calls are not taken yet.
        let status = ask_over(&link, ECHO_UNARY, &[]).await.grpc_status();
        assert_eq!(status.unwrap().code(), Code::FailedPrecondition);
    }
}

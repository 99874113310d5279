//! How many series there are does not depend on what callers send: calls of a hundred thousand method
//! paths, each with header values of its own, make none; and those of a hundred thousand peers make as many
//! as there may be of peers, and take no memory beyond that.
#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a panic is a failed test, and counts are small"
)]

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::ops::Range;

use tokio::io::AsyncWriteExt;

use sidelane_proto::model::{ConnectionClass, Lane};
use sidelane_proto::wire::peer::v1::HelloRequest;
use sidelane_tests::ask::{ECHO_UNARY, ask_over, until_answered};
use sidelane_tests::client::RawClient;
use sidelane_tests::cluster::Node;
use sidelane_tests::link;
use sidelane_tests::users::from_address;
use sidelane_tests::wire::v1::UnaryRequest;
use sidelane_tests::{Upstream, cluster, services};

/// Calls, each of another path.
const CALLS: usize = 100_000;
/// Connections by which they are made, with one call at a time each.
const CONNECTIONS: usize = 16;
/// Series that a sidecar may have at the end and not at the beginning: those of the methods that no
/// rule names, together.
const MORE: usize = 150;

async fn series(node: &Node) -> BTreeSet<String> {
    let text = node.get("/metrics").await.body;
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    let named = samples.map(|line| line.rsplit_once(' ').unwrap().0.to_owned());
    named.collect()
}

#[tokio::test]
#[ignore = "takes a minute: 100,000 calls"]
async fn a_hundred_thousand_paths_and_header_values_make_no_series() {
    let upstream = Upstream::named("echo").start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    until_answered(mesh.node("caller")).await;
    let nodes = ["caller", "callee"].map(|name| mesh.node(name));
    let before = [series(nodes[0]).await, series(nodes[1]).await];
    let outbound = nodes[0].outbound();
    let calls = (0..CONNECTIONS).map(|connection| async move {
        let client = RawClient::connect(outbound).await.unwrap();
        for number in (connection..CALLS).step_by(CONNECTIONS) {
            let path = format!("/sidelane.test.v1.Echo/Made{number}");
            let value = format!("value-{number}");
            let headers = [
                ("sidelane-hash", value.as_str()),
                ("user-agent", &value),
                ("x-made-up", &value),
            ];
            let request = UnaryRequest::default();
            let answer = client.unary(&path, &headers, &request).await;
            let status = answer.unwrap().grpc_status().unwrap();
            assert_eq!(status.code(), tonic::Code::Unimplemented, "{status:?}");
        }
    });
    futures_util::future::join_all(calls).await;
    for (node, before) in nodes.into_iter().zip(before) {
        let after = series(node).await;
        let made_up = |it: &&String| it.contains("Made") || it.contains("value-");
        assert_eq!(after.iter().find(made_up), None);
        let more: Vec<_> = after.difference(&before).collect();
        assert!(more.len() <= MORE, "{} more: {more:#?}", more.len());
        let other = [("service", services::ECHO), ("method", "other")];
        let counted = node.metrics().await;
        let counted = counted.sum("sidelane_requests_total", &other);
        assert!((counted - CALLS as f64).abs() < f64::EPSILON, "{counted}");
    }
}

/// Peers, each with a link and a call of its own.
const PEERS: usize = 100_000;
/// Peers that have series of their own, as the sidecar has it, and one for all the others.
const PEER_SERIES: usize = 4_096 + 1;
/// Links that are dialled one after the other, at once.
const DIALLERS: usize = 16;
/// What all the peers beyond those may add to the sidecar's memory: links that open and close leave an
/// allocator with more than it had.
const MEMORY: u64 = 16 << 20;

/// One call by a link of each of these.
async fn peers(to: SocketAddr, hello: &HelloRequest, which: Range<usize>) {
    let dialling = (0..DIALLERS).map(|dialler| {
        let (hello, which) = (hello.clone(), which.clone());
        tokio::spawn(async move {
            for number in which.skip(dialler).step_by(DIALLERS) {
                // Of each address a port is used again only after a while.
                let last = u8::try_from(2 + number % 250).unwrap();
                let mut stream = from_address(last, to).await;
                let preamble = link::preamble(ConnectionClass::Internal, Lane::GENERAL);
                stream.write_all(&preamble).await.unwrap();
                let link = RawClient::over(stream).await.unwrap();
                let hello = HelloRequest {
                    node_id: format!("peer-{number}"),
                    ..hello.clone()
                };
                link::say_hello(&link, &hello).await.unwrap().unwrap();
                let answer = ask_over(&link, ECHO_UNARY, &[]).await;
                let status = answer.grpc_status().unwrap();
                assert_eq!(status.code(), tonic::Code::Ok, "{status:?}");
            }
        })
    });
    for ended in futures_util::future::join_all(dialling).await {
        ended.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes minutes: 100,000 links"]
async fn a_hundred_thousand_peers_make_as_many_series_as_there_may_be() {
    let upstream = Upstream::named("echo").start().await;
    let mesh = cluster!()
        .control()
        .node("callee")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let callee = mesh.node("callee");
    let hello = link::hello(callee, ConnectionClass::Internal, Lane::GENERAL).await;
    let to = callee.internal();
    let of_peers = |series: &BTreeSet<String>| {
        let of_peers = |it: &&String| it.contains("peer=\"");
        series.iter().filter(of_peers).count()
    };
    // As many as there is room for, and some more: from then on nothing grows.
    let first = PEER_SERIES + 1_000;
    peers(to, &hello, 0..first).await;
    let before = series(callee).await;
    assert_eq!(of_peers(&before), PEER_SERIES);
    let memory = callee.forget_peak();
    peers(to, &hello, first..PEERS).await;
    let after = series(callee).await;
    let more: Vec<_> = after.difference(&before).collect();
    assert!(more.is_empty(), "{} more: {more:#?}", more.len());
    let counted = callee.metrics().await;
    let others = ("peer", "other");
    for (labels, expected) in [
        (&[][..], PEERS),
        (&[others], PEERS - (PEER_SERIES - 1)),
        (&[("peer", "peer-99999")], 0),
    ] {
        let counted = counted.sum("sidelane_peer_requests_total", labels);
        assert!(
            (counted - expected as f64).abs() < 0.5,
            "{labels:?}: {counted}"
        );
    }
    let grown = callee.peak_memory().saturating_sub(memory);
    println!("{} series, {memory} bytes and {grown} more", after.len());
    assert!(grown <= MEMORY, "{grown} bytes more");
}

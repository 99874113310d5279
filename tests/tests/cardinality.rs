//! How many series there are does not depend on what callers send: calls of a hundred thousand method
//! paths, each with header values of its own, make none.
#![allow(
    clippy::unwrap_used,
    clippy::cast_precision_loss,
    reason = "a panic is a failed test, and counts are small"
)]

use std::collections::BTreeSet;

use sidelane_tests::ask::until_answered;
use sidelane_tests::client::RawClient;
use sidelane_tests::cluster::Node;
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

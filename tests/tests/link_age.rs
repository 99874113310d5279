//! Connections between sidecars are replaced when they come of age, and no call notices.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sidelane_tests::ask::{ECHO_UNARY, until_answered, who};
use sidelane_tests::client::RawClient;
use sidelane_tests::cluster::Node;
use sidelane_tests::{Upstream, cluster, services};
use tonic::Code;

/// Long, so that only links that are never replaced are too late.
const LIMIT: Duration = Duration::from_secs(30);

/// Our ends of the links to peers.
async fn links(node: &Node) -> Vec<String> {
    let config = node.config().await;
    let links = config["links"].as_array().unwrap().clone();
    let peers = links.iter().filter(|link| link["kind"] == "peer");
    peers
        .map(|link| link["local"].as_str().unwrap().to_owned())
        .collect()
}

#[tokio::test]
async fn links_become_as_old_as_they_may_and_no_call_fails_for_it() {
    let upstream = Upstream::named("callee").start().await;
    let cluster = cluster!()
        .control()
        .node("callee")
        .serving(services::ECHO, &upstream)
        .node("young")
        .with("--link-max-age", "1s")
        .node("usual")
        .each_ready()
        .await;
    let (young, usual) = (cluster.node("young"), cluster.node("usual"));
    for node in [young, usual] {
        until_answered(node).await;
    }
    // One call that is there before, and ends when its link has long been replaced.
    let client = RawClient::connect(young.outbound()).await.unwrap();
    let mut long = client.begin(ECHO_UNARY, &[]).await.unwrap();
    let (mut seen, before) = (BTreeSet::new(), links(usual).await);
    let begun = Instant::now();
    while seen.len() < 3 {
        for node in [young, usual] {
            assert_eq!(who(node).await.unwrap(), "callee");
        }
        seen.extend(links(young).await);
        assert!(begun.elapsed() < LIMIT, "{seen:?}");
    }
    // Two were replaced, and neither much before its time.
    assert!(begun.elapsed() > Duration::from_secs(1));
    assert_eq!(links(usual).await, before);
    long.send(&()).unwrap();
    long.end_request().unwrap();
    let answer = long.answer().await.unwrap();
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
}

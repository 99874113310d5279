//! Two sidecars that were compiled with other rules: both say so once, `/config` shows it, and the
//! links between them carry calls.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use sidelane_tests::ask::until_answered;
use sidelane_tests::cluster::Node;
use sidelane_tests::{Upstream, cluster, services, unruled};

/// What the links of this node to peers say of rules.
async fn kinship(node: &Node) -> Vec<String> {
    let config = node.config().await;
    let links = config["links"].as_array().unwrap().clone();
    let peers = links.iter().filter(|link| link["kind"] == "peer");
    peers
        .map(|link| link["rules"].as_str().unwrap().to_owned())
        .collect()
}

fn said(node: &Node) -> usize {
    let told = "the peer was compiled with other rules";
    node.log().matches(told).count()
}

#[tokio::test]
async fn other_rules_are_shown_and_said_once_and_the_link_goes_on() {
    let upstream = Upstream::named("callee").start().await;
    let cluster = cluster!()
        .control()
        .node("callee")
        .serving(services::ECHO, &upstream)
        .node("same")
        .node("other")
        .running(unruled!())
        .each_ready()
        .await;
    let [callee, same, other] = ["callee", "same", "other"].map(|name| cluster.node(name));
    for (node, expected) in [(same, "same"), (other, "different")] {
        assert_eq!(until_answered(node).await, "callee");
        assert_eq!(kinship(node).await, [expected]);
    }
    // By the one who dialled and by the one who was dialled, about the other.
    assert_eq!((said(callee), said(same), said(other)), (1, 0, 1));
    // A second link is none of the news.
    callee.kill().await;
    callee.start_again().await;
    callee.ready().await;
    assert_eq!(until_answered(other).await, "callee");
    assert_eq!(said(other), 1);
}

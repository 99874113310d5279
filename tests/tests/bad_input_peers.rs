//! Peers that ask for what a node does not take: calls of another class or lane than the service's
//! rule says, services that are not served there, and calls before the Hello. The preamble is
//! spoken here by hand.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use sidelane_proto::model::{ConnectionClass, Lane};
use sidelane_tests::ask::{ECHO_UNARY, ask_over};
use sidelane_tests::refusal::Refusal;
use sidelane_tests::wire::v1::UnaryResponse;
use sidelane_tests::{Cluster, Upstream, cluster, link, routes, services};
use tonic::Code;

const INTERNAL: ConnectionClass = ConnectionClass::Internal;
const EXTERNAL: ConnectionClass = ConnectionClass::External;
const VISIT: &str = "/sidelane.test.v1.Front/Visit";

async fn mesh(upstream: &Upstream) -> Cluster {
    cluster!()
        .control()
        .node("callee")
        .serving(services::ECHO, upstream)
        .serving(services::FRONT, upstream)
        .serving(services::VAULT, upstream)
        .serving("plain.v1.Plain", upstream)
        .start()
        .await
}

#[tokio::test]
async fn an_internal_service_cannot_be_reached_on_the_external_listener() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let node = mesh.node("callee");
    for lane in [Lane::GENERAL, Lane::INGRESS_DATA] {
        let link = link::greeted(node, EXTERNAL, lane).await.unwrap();
        for path in [ECHO_UNARY, "/plain.v1.Plain/Get"] {
            let service = path.split('/').nth(1).unwrap();
            let refusal = Refusal::of(&ask_over(&link, path, &[]).await);
            let text = format!("{service}: not reachable here");
            let expected = Refusal::new("NOT_EXPOSED", Code::Unimplemented, text);
            assert_eq!(refusal, expected);
        }
    }
}

#[tokio::test]
async fn an_external_service_cannot_be_reached_on_the_internal_listener() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let node = mesh.node("callee");
    let link = link::greeted(node, INTERNAL, Lane::GENERAL).await.unwrap();
    let refusal = Refusal::of(&ask_over(&link, VISIT, &[]).await);
    let text = "sidelane.test.v1.Front: its class is External, and this listener takes calls of \
                class Internal";
    let expected = Refusal::new("LANE_REFUSED", Code::InvalidArgument, text);
    assert_eq!(refusal, expected);
}

#[tokio::test]
async fn a_call_in_another_lane_than_its_rule_says_is_refused() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let node = mesh.node("callee");
    let link = link::greeted(node, INTERNAL, Lane::GOSSIP).await.unwrap();
    let refusal = Refusal::of(&ask_over(&link, ECHO_UNARY, &[]).await);
    let text = format!(
        "sidelane.test.v1.Echo: the caller sends it in lane `gossip`, the rule here ({}) says \
         `general`; build both sides with the same rules",
        routes::origin(services::ECHO)
    );
    let expected = Refusal::new("RULES_MISMATCH", Code::FailedPrecondition, text);
    assert_eq!(refusal, expected);

    let link = link::greeted(node, EXTERNAL, Lane::GENERAL).await.unwrap();
    let refusal = Refusal::of(&ask_over(&link, VISIT, &[]).await);
    let text = format!(
        "sidelane.test.v1.Front: the caller sends it in lane `general`, the rule here ({}) says \
         `ingress_data`; build both sides with the same rules",
        routes::origin(services::FRONT)
    );
    let expected = Refusal::new("RULES_MISMATCH", Code::FailedPrecondition, text);
    assert_eq!(refusal, expected);
}

#[tokio::test]
async fn a_service_that_is_not_served_here_is_refused_with_those_that_are() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let node = mesh.node("callee");
    let link = link::greeted(node, INTERNAL, Lane::GENERAL).await.unwrap();
    let refusal = Refusal::of(&ask_over(&link, "/shop.v1.Orders/Get", &[]).await);
    let text = "shop.v1.Orders: not served by node callee; it serves sidelane.test.v1.Echo, \
                sidelane.test.v1.Front, sidelane.test.v1.Vault, plain.v1.Plain";
    let expected = Refusal::new("UNKNOWN_SERVICE", Code::Unimplemented, text);
    assert_eq!(refusal, expected);

    let refusal = Refusal::of(&ask_over(&link, "/sidelane.test.v1.Vault/Open", &[]).await);
    assert_eq!(refusal.reason, "NOT_SECURE", "{refusal:?}");
    assert_eq!(refusal.code, Code::FailedPrecondition, "{refusal:?}");

    let refusal = Refusal::of(&ask_over(&link, "/no-grpc-path", &[]).await);
    assert_eq!(refusal.reason, "NOT_GRPC", "{refusal:?}");
}

#[tokio::test]
async fn the_app_is_told_who_said_hello_and_not_who_a_header_names() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let link = link::greeted(mesh.node("callee"), INTERNAL, Lane::GENERAL).await;
    let link = link.unwrap();
    let forged = [
        ("sidelane-source-node", "callee"),
        ("sidelane-lane", "general"),
    ];
    let answer = ask_over(&link, ECHO_UNARY, &forged).await;
    let seen: UnaryResponse = answer.message().unwrap();
    let source: Vec<&String> = seen
        .metadata
        .iter()
        .filter(|line| line.starts_with("sidelane-source-node"))
        .collect();
    assert_eq!(source, ["sidelane-source-node: dialler"]);
}

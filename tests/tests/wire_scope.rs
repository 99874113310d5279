//! Whom a call reaches, by the settings of the sidecars on its way: the service beside the same
//! sidecar, one node by name, services without a rule, and nodes of the same network alone.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use serde_json::Value;
use sidelane_tests::ask::{ECHO_UNARY, ask, until_answered, who};
use sidelane_tests::refusal::Refusal;
use sidelane_tests::upstream::raw::RawRequest;
use sidelane_tests::{RawUpstream, Upstream, cluster, services};
use tonic::Code;

/// A service that no rule names.
const PLAIN: &str = "plain.v1.Plain";
const PLAIN_GET: &str = "/plain.v1.Plain/Get";

#[tokio::test]
async fn a_service_beside_the_same_sidecar_is_called_without_leaving_it() {
    let near = Upstream::named("near").start().await;
    let far = Upstream::named("far").start().await;
    let mesh = cluster!()
        .control()
        .node("one")
        .serving(services::ECHO, &near)
        .node("two")
        .serving(services::ECHO, &far)
        .start()
        .await;
    let node = mesh.node("one");
    for _ in 0..4 {
        assert_eq!(who(node).await.unwrap(), "near");
    }
    assert_eq!(node.links("peer").await, [] as [Value; 0]);
    let local = node.links("local").await;
    assert_eq!(local[0]["calls"], 4, "{local:?}");
    // Unless another node is named; and its own name means itself.
    for (named, expected) in [("two", "far"), ("one", "near")] {
        let answer = ask(node, ECHO_UNARY, &[("sidelane-node", named)]).await;
        let answer: sidelane_tests::wire::v1::UnaryResponse = answer.message().unwrap();
        assert_eq!(answer.node, expected);
    }
    assert_eq!(node.links("peer").await.len(), 1);
}

#[tokio::test]
async fn a_call_that_names_its_node_goes_there_and_others_go_round() {
    let one = Upstream::named("one").start().await;
    let two = Upstream::named("two").start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("one")
        .serving(services::ECHO, &one)
        .node("two")
        .serving(services::ECHO, &two)
        .start()
        .await;
    let caller = mesh.node("caller");
    let whom = async |headers: &[(&str, &str)]| {
        let answer = ask(caller, ECHO_UNARY, headers).await;
        let answer: sidelane_tests::wire::v1::UnaryResponse = answer.message().unwrap();
        answer.node
    };
    let mut round = [whom(&[]).await, whom(&[]).await];
    round.sort_unstable();
    assert_eq!(round, ["one", "two"]);
    for _ in 0..5 {
        assert_eq!(whom(&[("sidelane-node", "two")]).await, "two");
    }
}

/// A server that answers any path with OK.
async fn plain() -> RawUpstream {
    RawUpstream::start(|mut request: RawRequest| async move {
        request.read_all().await;
        let ok = [("grpc-status", "0")];
        request.answer.only_headers(http::StatusCode::OK, &ok, None);
    })
    .await
}

#[tokio::test]
async fn a_service_without_a_rule_goes_by_the_default_one_unless_rules_are_required() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("strict.yaml");
    std::fs::write(&file, "require-rules: true\n").unwrap();
    let upstream = plain().await;
    let mesh = cluster!()
        .control()
        .node("easy")
        .node("strict")
        .with("--config", &file.display().to_string())
        .node("callee")
        .serving(PLAIN, &upstream);
    let mesh = mesh.each_ready().await;
    let answer = ask(mesh.node("easy"), PLAIN_GET, &[]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok, "{answer:?}");
    let refusal = Refusal::of(&ask(mesh.node("strict"), PLAIN_GET, &[]).await);
    let text = "plain.v1.Plain: it is offered, but no rule names it, and this sidecar runs with \
                `--require-rules`; write a rule for it, or leave the flag out";
    let expected = Refusal::new("UNKNOWN_SERVICE", Code::Unimplemented, text);
    assert_eq!(refusal, expected);
}

#[tokio::test]
async fn dialled_calls_that_nobody_knows_have_nowhere_else_to_go() {
    let mesh = cluster!()
        .control()
        .node("default")
        .node("told")
        .with("--unknown", "refuse")
        .start()
        .await;
    for node in mesh.nodes() {
        let refusal = Refusal::of(&ask(node, PLAIN_GET, &[]).await);
        let expected = ("UNKNOWN_SERVICE", Code::Unimplemented);
        assert_eq!((&*refusal.reason, refusal.code), expected);
    }
}

#[tokio::test]
async fn the_locality_is_told_to_control() {
    let mesh = cluster!()
        .control()
        .node("placed")
        .with("--locality", "eu-central/eu-central-1a")
        .node("unplaced")
        .start()
        .await;
    let placed = mesh.listed("placed").await["locality"].clone();
    let expected = serde_json::json!({ "region": "eu-central", "zone": "eu-central-1a" });
    assert_eq!(placed, expected);
    let unplaced = mesh.listed("unplaced").await["locality"].clone();
    assert_eq!(unplaced, serde_json::json!({ "region": "", "zone": "" }));
}

#[tokio::test]
async fn networks_that_share_a_control_plane_do_not_see_each_other() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = cluster!()
        .control()
        .node("outsider")
        .with("--network", "red")
        .node("caller")
        .with("--network", "blue")
        .node("callee")
        .with("--network", "blue")
        .serving(services::ECHO, &upstream)
        .serving(PLAIN, &upstream);
    let mesh = mesh.each_ready().await;
    assert_eq!(until_answered(mesh.node("caller")).await, "callee");
    let refusal = Refusal::of(&ask(mesh.node("outsider"), ECHO_UNARY, &[]).await);
    assert_eq!(refusal.reason, "NO_ENDPOINT", "{refusal:?}");
    let refusal = Refusal::of(&ask(mesh.node("outsider"), PLAIN_GET, &[]).await);
    assert_eq!(refusal.reason, "UNKNOWN_SERVICE", "{refusal:?}");
    assert_eq!(mesh.listed("outsider").await["network"], "red");
    assert_eq!(mesh.listed("callee").await["network"], "blue");
}

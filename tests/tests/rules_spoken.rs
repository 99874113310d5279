//! What a caller says of its own rule, in `sidelane-rule`: a sidecar that is bound by another one
//! refuses the call, and one that is bound by none obeys.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use prost::Message;
use sidelane_proto::model::Lane;
use sidelane_proto::wire::routing::v1 as wire;
use sidelane_tests::applied::{applied, milliseconds, rule, tuning, with};
use sidelane_tests::ask::{ECHO_UNARY, ask, until_answered};
use sidelane_tests::client::RawAnswer;
use sidelane_tests::cluster::Node;
use sidelane_tests::refusal::Refusal;
use sidelane_tests::wire::v1::UnaryResponse;
use sidelane_tests::{Cluster, Upstream, cluster, services, unruled};
use tonic::Code;

/// A service that no rule names, anywhere.
const WITNESS: &str = "sidelane.test.v1.Witness";
const COUNT_CALLS: &str = "/sidelane.test.v1.Witness/CountCalls";

/// Two callers, of which one was compiled without rules; a callee that was compiled with them, and
/// two that were not.
struct Mesh {
    cluster: Cluster,
    _upstreams: [Upstream; 3],
}

async fn mesh() -> Mesh {
    let upstreams = [
        Upstream::named("callee").start().await,
        Upstream::named("a").start().await,
        Upstream::named("b").start().await,
    ];
    let cluster = cluster!()
        .control()
        .node("callee")
        .serving(services::ECHO, &upstreams[0])
        .node("a")
        .running(unruled!())
        .serving(WITNESS, &upstreams[1])
        .node("b")
        .running(unruled!())
        .serving(WITNESS, &upstreams[2])
        .node("ruled")
        .node("unruled")
        .running(unruled!())
        .each_ready()
        .await;
    Mesh {
        cluster,
        _upstreams: upstreams,
    }
}

/// Calls, and says this rule.
async fn say(node: &Node, path: &str, rule: &str) -> RawAnswer {
    ask(node, path, &[("sidelane-rule", rule)]).await
}

async fn refused(node: &Node, path: &str, rule: &str) -> Refusal {
    Refusal::of(&say(node, path, rule).await)
}

/// The lanes of the links to peers.
async fn lanes(node: &Node) -> Vec<String> {
    let config = node.config().await;
    let links = config["links"].as_array().unwrap().clone();
    let peers = links.iter().filter(|link| link["kind"] == "peer");
    let mut lanes: Vec<String> = peers
        .map(|link| link["lane"].as_str().unwrap().to_owned())
        .collect();
    lanes.sort();
    lanes.dedup();
    lanes
}

fn answered(answer: &RawAnswer) -> bool {
    answer.grpc_status().unwrap().code() == Code::Ok
}

#[tokio::test]
async fn a_rule_of_the_sidecars_own_refuses_another_of_the_callers() {
    let mesh = mesh().await;
    let node = mesh.cluster.node("ruled");
    until_answered(node).await;
    let same = "Internal/general/secure=false/persistent=true/balancing=RANDOM";
    assert!(answered(&say(node, ECHO_UNARY, same).await));
    let others = [
        "Internal/gossip/secure=false/persistent=false",
        "External/general/secure=false/persistent=false",
        "Internal/general/secure=true/persistent=false",
    ];
    for (other, words) in others.into_iter().zip([
        "class Internal, lane `gossip`, secure false",
        "class External, lane `general`, secure false",
        "class Internal, lane `general`, secure true",
    ]) {
        let refusal = refused(node, ECHO_UNARY, other).await;
        assert_eq!(refusal.reason, "RULES_MISMATCH");
        assert_eq!(refusal.code, Code::FailedPrecondition);
        assert!(refusal.text.contains(words), "{}", refusal.text);
        let ours = "says class Internal, lane `general`, secure false";
        assert!(refusal.text.contains(ours), "{}", refusal.text);
        assert!(refusal.text.contains("(compiled "), "{}", refusal.text);
    }
    // Also before the lane that the same caller asks for.
    let both = [("sidelane-rule", others[0]), ("sidelane-lane", "gossip")];
    let refusal = Refusal::of(&ask(node, ECHO_UNARY, &both).await);
    assert_eq!(refusal.reason, "RULES_MISMATCH");

    for (unreadable, words) in [
        (
            "Internal/fast/secure=false/persistent=false",
            "`fast` is not a known lane",
        ),
        ("Internal", "lane"),
        ("Internal/general", "secure is missing"),
    ] {
        let refusal = refused(node, ECHO_UNARY, unreadable).await;
        assert_eq!(refusal.reason, "RULES_MISMATCH");
        assert!(refusal.text.contains(words), "{}", refusal.text);
    }
}

#[tokio::test]
async fn a_pushed_rule_binds_and_an_offered_one_does_not() {
    let mesh = mesh().await;
    let node = mesh.cluster.node("unruled");
    // Its sidecar follows what the callee offers, and so would not go against the caller's rule;
    // but the callee's is another.
    let gossip = "Internal/gossip/secure=false/persistent=false";
    let refusal = refused(node, ECHO_UNARY, gossip).await;
    assert_eq!(refusal.reason, "RULES_MISMATCH");
    assert!(
        refusal.text.contains("such as `callee`"),
        "{}",
        refusal.text
    );
    let general = "Internal/general/secure=false/persistent=false";
    assert!(answered(&say(node, ECHO_UNARY, general).await));

    assert!(answered(&say(node, COUNT_CALLS, general).await));
    let pushed = rule(WITNESS, Lane::GOSSIP);
    applied(mesh.cluster.control(), &[node], pushed).await;
    let refusal = refused(node, COUNT_CALLS, general).await;
    assert_eq!(refusal.reason, "RULES_MISMATCH");
    assert!(
        refusal.text.contains("(pushed rule, version "),
        "{}",
        refusal.text
    );
    assert!(answered(&say(node, COUNT_CALLS, gossip).await));
}

#[tokio::test]
async fn without_a_rule_of_its_own_the_sidecar_obeys_its_caller() {
    let mesh = mesh().await;
    let node = mesh.cluster.node("unruled");
    let gossip = "Internal/gossip/secure=false/persistent=false";
    assert!(answered(&say(node, COUNT_CALLS, gossip).await));
    assert_eq!(lanes(node).await, ["gossip"]);
    let another = [("sidelane-rule", gossip), ("sidelane-lane", "general")];
    let refusal = Refusal::of(&ask(node, COUNT_CALLS, &another).await);
    assert_eq!(refusal.reason, "LANE_REFUSED");

    // Its strategy: exactly one endpoint is meant, and there are two.
    let both = |answer: &sidelane_tests::admin::Answer| {
        let answer: serde_json::Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let candidates = answer["candidates"].as_array().map_or(0, Vec::len);
        candidates == 2
    };
    node.answers(&format!("/explain?path={COUNT_CALLS}"), both)
        .await;
    let single = format!("{gossip}/balancing=NONE");
    let refusal = refused(node, COUNT_CALLS, &single).await;
    assert_eq!(refusal.reason, "UNKNOWN_NODE");
    assert!(
        refusal.text.contains("must name its node"),
        "{}",
        refusal.text
    );
    let own = format!("{gossip}/balancing=own:nearest");
    let refusal = refused(node, COUNT_CALLS, &own).await;
    assert_eq!(refusal.reason, "RULES_MISMATCH");
    assert!(refusal.text.contains("nearest"), "{}", refusal.text);

    let secure = "Internal/general/secure=true/persistent=false";
    let refusal = refused(node, COUNT_CALLS, secure).await;
    assert_eq!(refusal.reason, "NOT_SECURE");

    // Its time limit, where the call brings none: seen by the server.
    let limited = "Internal/general/secure=false/persistent=false/timeout=700ms";
    let answer = say(node, ECHO_UNARY, limited).await;
    assert!(answered(&answer));
    let answer = UnaryResponse::decode(answer.data.slice(5..)).unwrap();
    assert!((1..=700).contains(&answer.remaining_ms), "{answer:?}");
}

/// The value of this name by which such a call would go, and whose word it is.
async fn value(node: &Node, path: &str, rule: &str, name: &str) -> (String, String) {
    let answer = node
        .get(&format!("/explain?path={path}&rule={rule}"))
        .await
        .body;
    let answer: serde_json::Value = serde_json::from_str(&answer).unwrap();
    let values = answer["policy"].as_array().unwrap();
    let value = values.iter().find(|it| it["name"] == name);
    let value = value.unwrap_or_else(|| panic!("no {name} in {answer:#}"));
    let text = |key: &str| value[key].as_str().unwrap().to_owned();
    (text("value"), text("from"))
}

#[tokio::test]
async fn what_tunes_a_service_tunes_calls_that_say_their_rule() {
    let mesh = mesh().await;
    let node = mesh.cluster.node("unruled");
    until_answered(node).await;
    let bare = "Internal/general/secure=false/persistent=false";
    // What clients say whose rule leaves both open, and those whose rule does not.
    let silent = format!("{bare}/unary=true");
    let own = format!("{bare}/balancing=NONE/timeout=3000ms");
    let limit = async |rule: &str| {
        let answer = say(node, ECHO_UNARY, rule).await;
        assert!(answered(&answer));
        let answer = UnaryResponse::decode(answer.data.slice(5..)).unwrap();
        answer.remaining_ms
    };
    let (default, callers) = ("the default", "the caller's own rule");
    // Nobody has said anything yet, and the caller knows that the method is unary.
    assert!((3_001..=5_000).contains(&limit(&silent).await));
    assert!((1..=3_000).contains(&limit(&own).await));
    for (rule, name, text, from) in [
        (&silent, "timeout", "5s", default),
        (&own, "timeout", "3s", callers),
        (&own, "balancing", "NONE", callers),
        (&own, "lane", "general", callers),
    ] {
        let (shown, by) = value(node, ECHO_UNARY, rule, name).await;
        assert_eq!((&*shown, &*by), (text, from), "{name}");
    }
    // Exactly one endpoint is meant, and there are two.
    assert!(answered(&say(node, COUNT_CALLS, &silent).await));
    let refusal = refused(node, COUNT_CALLS, &own).await;
    assert_eq!(refusal.reason, "UNKNOWN_NODE");

    for service in [services::ECHO, WITNESS] {
        let tuned = with(tuning(service), |rule| {
            rule.load_balancing = wire::LoadBalancing::Random.into();
            rule.timeout = milliseconds(700);
        });
        applied(mesh.cluster.control(), &[node], tuned).await;
    }
    for rule in [&silent, &own] {
        assert!((1..=700).contains(&limit(rule).await));
        assert!(answered(&say(node, COUNT_CALLS, rule).await));
        for (name, text) in [("timeout", "700ms"), ("balancing", "RANDOM")] {
            let (shown, by) = value(node, ECHO_UNARY, rule, name).await;
            assert_eq!(shown, text);
            assert!(by.starts_with("pushed rule, version "), "{name}: {by}");
        }
    }
}

#[tokio::test]
async fn where_rules_are_demanded_a_callers_word_is_none() {
    let upstream = Upstream::named("a").start().await;
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("strict.yaml");
    std::fs::write(&config, "require-rules: true\n").unwrap();
    let cluster = cluster!()
        .control()
        .node("a")
        .running(unruled!())
        .serving(WITNESS, &upstream)
        .node("strict")
        .running(unruled!())
        .with("--config", &config.display().to_string())
        .each_ready()
        .await;
    let strict = cluster.node("strict");
    let gossip = "Internal/gossip/secure=false/persistent=false";
    let refusal = refused(strict, COUNT_CALLS, gossip).await;
    assert_eq!(refusal.reason, "UNKNOWN_SERVICE");
    assert!(refusal.text.contains("--require-rules"), "{}", refusal.text);
    // A rule that is applied is one.
    applied(cluster.control(), &[strict], rule(WITNESS, Lane::GOSSIP)).await;
    assert!(answered(&say(strict, COUNT_CALLS, gossip).await));
}

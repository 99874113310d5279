//! `explain` says which rule holds, whose word each value is, and where a call goes: and there it
//! goes.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::collections::BTreeSet;

use prost::Message;
use serde_json::Value;
use sidelane_proto::model::Lane;
use sidelane_proto::wire::routing::v1 as wire;
use sidelane_tests::applied::{applied, idempotent, milliseconds, retry, rule, tuning, with};
use sidelane_tests::ask::{ECHO_UNARY, ask, until_answered};
use sidelane_tests::cluster::Node;
use sidelane_tests::wire::v1::UnaryResponse;
use sidelane_tests::{Cluster, Upstream, cluster, services, unruled};

const NODES: [&str; 3] = ["a", "b", "c"];

/// Three nodes that serve Echo and a caller, all without rules, and one that has them.
async fn mesh() -> (Cluster, Vec<Upstream>) {
    let mut upstreams = Vec::new();
    let mut cluster = cluster!().control();
    for name in NODES {
        let upstream = Upstream::named(name).start().await;
        cluster = cluster
            .node(name)
            .running(unruled!())
            .serving(services::ECHO, &upstream);
        upstreams.push(upstream);
    }
    let cluster = cluster
        .node("caller")
        .running(unruled!())
        .node("ruled")
        .each_ready()
        .await;
    (cluster, upstreams)
}

async fn explained(node: &Node, question: &str) -> Value {
    let answer = node.get(question).await;
    assert_eq!(answer.status, 200);
    serde_json::from_str(&answer.body).unwrap()
}

fn eligible(explained: &Value) -> usize {
    let candidates = explained["candidates"].as_array().unwrap().iter();
    candidates.filter(|it| it["eligible"] == true).count()
}

/// Waits until the node would send calls of Echo to all three.
async fn all(node: &Node) {
    let all = |answer: &sidelane_tests::admin::Answer| {
        eligible(&serde_json::from_str(&answer.body).unwrap()) == NODES.len()
    };
    node.answers(&format!("/explain?path={ECHO_UNARY}"), all)
        .await;
}

/// The value of this name, and whose word it is.
fn value<'a>(explained: &'a Value, name: &str) -> (&'a str, &'a str) {
    let values = explained["policy"].as_array().unwrap();
    let value = values.iter().find(|it| it["name"] == name);
    let value = value.unwrap_or_else(|| panic!("no {name} in {explained:#}"));
    (
        value["value"].as_str().unwrap(),
        value["from"].as_str().unwrap(),
    )
}

#[tokio::test]
async fn each_value_has_its_origin_and_the_pick_is_where_calls_go() {
    let (cluster, _upstreams) = mesh().await;
    let caller = cluster.node("caller");
    let question = format!("/explain?path={ECHO_UNARY}");
    // Nobody has called it yet. Control is asked as a call would ask.
    let first = explained(caller, &question).await;
    assert_eq!(first["rule_source"], "default", "{first:#}");
    let unknown = explained(caller, "/explain?path=/sidelane.test.v1.Nothing/Any").await;
    assert_eq!(unknown["error"], "UNKNOWN_SERVICE");
    until_answered(caller).await;
    all(caller).await;
    let default = explained(caller, &question).await;
    assert_eq!(default["rule_source"], "default");
    assert_eq!(value(&default, "lane"), ("general", "the default"));
    let illegal = explained(caller, "/explain?path=/sidelane.test.v1.Echo//Unary").await;
    assert_eq!(illegal["error"], "NOT_GRPC");

    let pushed = with(rule(services::ECHO, Lane::GOSSIP), |rule| {
        rule.methods = vec![idempotent("Unary")];
        rule.load_balancing = wire::LoadBalancing::ConsistentHash.into();
        rule.timeout = milliseconds(800);
        rule.retry = retry(2, &["UNAVAILABLE", "ABORTED"]);
    });
    applied(cluster.control(), &[caller], pushed).await;
    let explanation = explained(caller, &question).await;
    assert_eq!(explanation["rule_source"], "pushed");
    assert_eq!(explanation["rule"]["origin"], "rules.yaml:3");
    for (name, expected) in [
        ("lane", "gossip"),
        ("balancing", "CONSISTENT_HASH"),
        ("timeout", "800ms"),
        ("idempotent", "yes"),
        (
            "retry",
            "up to 2 attempts after ABORTED, UNAVAILABLE, or a lost connection",
        ),
    ] {
        let (value, from) = value(&explanation, name);
        assert_eq!(value, expected);
        let version = from.strip_prefix("pushed rule, version ");
        let version = version.and_then(|rest| rest.strip_suffix(", rules.yaml:3"));
        assert!(
            version.is_some_and(|it| it.parse::<u64>().is_ok()),
            "{from}"
        );
    }

    let mut seen = BTreeSet::new();
    for key in 0..40 {
        let key = format!("order-{key}");
        let explanation = explained(caller, &format!("{question}&hash={key}")).await;
        let pick = explanation["pick"].as_str().unwrap().to_owned();
        let answer = ask(caller, ECHO_UNARY, &[("sidelane-hash", &key)]).await;
        let answer = UnaryResponse::decode(answer.data.slice(5..)).unwrap();
        assert_eq!(answer.node, pick, "{key}");
        seen.insert(pick);
    }
    assert_eq!(seen.len(), NODES.len());

    // The rule that the caller itself was built with, as its typed calls say it.
    let other = "Internal/general/secure=false/persistent=false";
    let refused = explained(caller, &format!("{question}&rule={other}")).await;
    assert_eq!(refused["error"], "RULES_MISMATCH");
}

#[tokio::test]
async fn what_is_compiled_in_says_so_beside_what_tunes_it() {
    let (cluster, _upstreams) = mesh().await;
    let ruled = cluster.node("ruled");
    all(ruled).await;
    let tuned = with(tuning(services::ECHO), |rule| {
        rule.max_timeout = milliseconds(700);
    });
    applied(cluster.control(), &[ruled], tuned).await;
    let question = format!("/explain?path={ECHO_UNARY}");
    let explanation = explained(ruled, &question).await;
    assert_eq!(explanation["rule_source"], "compiled");
    let origin = sidelane_tests::routes::origin(services::ECHO);
    assert!(origin.contains("echo.proto:"), "{origin}");
    let compiled = format!("compiled {origin}");
    assert_eq!(value(&explanation, "lane"), ("general", &*compiled));
    assert_eq!(value(&explanation, "idempotent"), ("no", &*compiled));
    // The default of a written rule is 5 s, which the pushed ceiling cuts.
    let (limit, from) = value(&explanation, "timeout");
    assert_eq!(limit, "700ms");
    assert!(from.starts_with("pushed rule, version "), "{from}");
    assert_eq!(value(&explanation, "retry"), ("no", "the default"));
}

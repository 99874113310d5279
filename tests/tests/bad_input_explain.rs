//! `explain` asks the same functions as a call does: whatever a call would be refused with, it says
//! beforehand, and nothing is counted or sent.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use serde_json::Value;
use sidelane_tests::ask::{ECHO_UNARY, ask};
use sidelane_tests::refusal::Refusal;
use sidelane_tests::{Upstream, cluster, services};

/// A call, and the same as a question.
struct Case {
    path: &'static str,
    headers: &'static [(&'static str, &'static str)],
    question: &'static str,
    reason: &'static str,
}

const CASES: [Case; 10] = [
    Case {
        path: "/no-grpc-path",
        headers: &[],
        question: "/explain?path=/no-grpc-path",
        reason: "NOT_GRPC",
    },
    Case {
        path: "/shop.v1.Orders/Get",
        headers: &[],
        question: "/explain?path=/shop.v1.Orders/Get",
        reason: "UNKNOWN_SERVICE",
    },
    Case {
        path: "/sidelane.test.v1.Front/Visit",
        headers: &[],
        question: "/explain?path=/sidelane.test.v1.Front/Visit",
        reason: "NO_ENDPOINT",
    },
    Case {
        path: "/sidelane.test.v1.Vault/Open",
        headers: &[],
        question: "/explain?path=/sidelane.test.v1.Vault/Open",
        reason: "NOT_SECURE",
    },
    Case {
        path: ECHO_UNARY,
        headers: &[("sidelane-lane", "gossip")],
        question: "/explain?path=/sidelane.test.v1.Echo/Unary&lane=gossip",
        reason: "LANE_REFUSED",
    },
    Case {
        path: ECHO_UNARY,
        headers: &[("sidelane-lane", "fast")],
        question: "/explain?path=/sidelane.test.v1.Echo/Unary&lane=fast",
        reason: "LANE_REFUSED",
    },
    Case {
        path: ECHO_UNARY,
        headers: &[("sidelane-node", "nobody")],
        question: "/explain?path=/sidelane.test.v1.Echo/Unary&node=nobody",
        reason: "UNKNOWN_NODE",
    },
    Case {
        path: ECHO_UNARY,
        headers: &[("sidelane-node", "two words")],
        question: "/explain?path=/sidelane.test.v1.Echo/Unary&node=two%20words",
        reason: "NOT_GRPC",
    },
    Case {
        path: "/sidelane.test.v1.Beat/Ping",
        headers: &[("sidelane-node", "callee")],
        question: "/explain?path=/sidelane.test.v1.Beat/Ping&node=callee",
        reason: "UNKNOWN_NODE",
    },
    Case {
        path: "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        headers: &[],
        question: "/explain?path=/grpc.reflection.v1.ServerReflection/ServerReflectionInfo",
        reason: "UNKNOWN_SERVICE",
    },
];

#[tokio::test]
async fn what_a_call_is_refused_with_is_what_explain_says() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let node = mesh.node("caller");
    for case in CASES {
        let refusal = Refusal::of(&ask(node, case.path, case.headers).await);
        assert_eq!(refusal.reason, case.reason, "{refusal:?}");
        let answer = node.get(case.question).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        let explained: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(explained["error"], refusal.reason, "{}", case.question);
        assert_eq!(explained["message"], refusal.text, "{}", case.question);
        assert_eq!(explained["pick"], "", "{}", case.question);
        let last = explained["steps"].as_array().unwrap().last().cloned();
        assert_eq!(last, Some(format!("refused: {}", case.reason).into()));
    }
    let metrics = node.metrics().await;
    let sent = metrics.sum("sidelane_attempts_total", &[]);
    assert!(sent.abs() < f64::EPSILON, "{sent} attempts were made");
}

#[tokio::test]
async fn a_question_without_a_path_is_told_how_to_ask() {
    let mesh = cluster!().node("alone").launch().await;
    let node = mesh.node("alone");
    let answer = node
        .answers("/explain", |answer| answer.status == 400)
        .await;
    assert_eq!(
        answer.body,
        "ask with /explain?path=/package.Service/Method, and &node=, &lane=, &hash=, &rule=, &header= \
         or &as=\n"
    );
}

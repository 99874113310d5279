//! A rule that is moved to another lane, to another class and taken back while calls go on: the
//! next calls go the new way, running ones end in peace, and none fails.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::time::Duration;

use sidelane_proto::model::Lane;
use sidelane_proto::wire::routing::v1 as wire;
use sidelane_tests::admin::Answer;
use sidelane_tests::applied::{apply, rule, with};
use sidelane_tests::ask::until_answered;
use sidelane_tests::cluster::Node;
use sidelane_tests::executions::Executions;
use sidelane_tests::load::{Load, Plan};
use sidelane_tests::wire::v1::ChatRequest;
use sidelane_tests::wire::v1::echo_client::EchoClient;
use sidelane_tests::{Upstream, cluster, services, unruled};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

/// Between two moves.
const WHILE: Duration = Duration::from_secs(1);

/// Waits until the sidecar's calls of Echo go this way.
async fn goes(node: &Node, class: &str, lane: &str) {
    let wanted = |answer: &Answer| {
        let config: serde_json::Value = serde_json::from_str(&answer.body).unwrap_or_default();
        let services = config["services"].as_array().cloned().unwrap_or_default();
        let echo = services.iter().find(|it| it["service"] == services::ECHO);
        echo.is_some_and(|echo| echo["class"] == class && echo["lane"] == lane)
    };
    node.answers("/config", wanted).await;
}

#[tokio::test]
async fn a_rule_that_moves_under_load_fails_no_call() {
    let upstreams = [
        Upstream::named("a").start().await,
        Upstream::named("b").start().await,
    ];
    let mesh = cluster!()
        .control()
        .node("a")
        .running(unruled!())
        .serving(services::ECHO, &upstreams[0])
        .node("b")
        .running(unruled!())
        .serving(services::ECHO, &upstreams[1])
        .node("caller")
        .running(unruled!())
        .each_ready()
        .await;
    let caller = mesh.node("caller");
    until_answered(caller).await;

    // A conversation that begins before all moves and ends after them.
    let (say, said) = mpsc::channel(1);
    let mut chat = EchoClient::new(caller.channel().await);
    say.send(ChatRequest::default()).await.unwrap();
    let answers = chat.chat(ReceiverStream::new(said)).await;
    let mut answers = answers.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();

    let plan = Plan {
        rate: 300,
        longest_ms: 40,
    };
    let mut load = Load::start(caller.outbound(), plan).await;
    load.run_for(WHILE).await;
    let external = || {
        with(rule(services::ECHO, Lane::INGRESS_DATA), |rule| {
            rule.connection = wire::Connection::External.into();
        })
    };
    let moves = [
        (
            "Internal",
            "gossip",
            Some(rule(services::ECHO, Lane::GOSSIP)),
        ),
        (
            "Internal",
            "general",
            Some(rule(services::ECHO, Lane::GENERAL)),
        ),
        ("External", "ingress_data", Some(external())),
        (
            "Internal",
            "bifrost_data",
            Some(rule(services::ECHO, Lane::BIFROST_DATA)),
        ),
        ("Internal", "general", None),
    ];
    for (class, lane, pushed) in moves {
        load.mark(&format!("{class} {lane}"));
        match pushed {
            Some(pushed) => apply(mesh.control(), vec![pushed], &[]).await,
            None => apply(mesh.control(), Vec::new(), &[services::ECHO]).await,
        };
        goes(caller, class, lane).await;
        // The next calls go the new way.
        let calls = async || {
            let way = [
                ("connection", class),
                ("lane", lane),
                ("direction", "outbound"),
            ];
            caller.metrics().await.sum("sidelane_requests_total", &way)
        };
        let before = calls().await;
        load.run_for(WHILE).await;
        assert!(calls().await > before, "{class} {lane}");
    }
    let report = load.stop().await;
    let failed = report
        .calls
        .iter()
        .filter(|call| call.result.is_err())
        .count();
    assert_eq!(failed, 0, "{report}");
    Executions::of(&upstreams).agree_with(&report);

    say.send(ChatRequest::default()).await.unwrap();
    answers.message().await.unwrap().unwrap();
    drop(say);
    assert!(answers.message().await.unwrap().is_none());
}

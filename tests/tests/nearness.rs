//! Calls stay near as long as they can, through real sidecars: what is too much for a near endpoint
//! goes farther, and all of it when the near one is killed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::cast_precision_loss,
    reason = "a panic with a clear message is a failed test"
)]

use std::time::{Duration, Instant};

use serde_json::Value;
use sidelane_proto::model::Lane;
use sidelane_proto::wire::routing::v1 as wire;
use sidelane_tests::admin::Answer;
use sidelane_tests::applied::{applied, idempotent, retry, rule, with};
use sidelane_tests::ask::{ECHO_UNARY, until_answered};
use sidelane_tests::cluster::Node;
use sidelane_tests::load::{Load, Plan, Report};
use sidelane_tests::upstream::capacity::Capacity;
use sidelane_tests::{Cluster, cluster, services, unruled};

const SECOND: Duration = Duration::from_secs(1);
/// How long each call takes: so many calls a second, a tenth of them at once.
const TIME: Duration = Duration::from_millis(100);
/// Few enough for one endpoint, and too many.
const QUIET: u32 = 100;
const CROWDED: u32 = 800;

/// One near endpoint, three far ones, and a caller.
async fn mesh(upstreams: &[Capacity]) -> Cluster {
    let mut mesh = cluster!().control();
    for (name, server) in ["near", "far-1", "far-2", "far-3"].iter().zip(upstreams) {
        let place = if *name == "near" { "eu/a" } else { "us/b" };
        mesh = mesh
            .node(name)
            .running(unruled!())
            .serving(services::ECHO, &server.upstream)
            .with("--locality", place);
    }
    let mesh = mesh.node("caller").running(unruled!());
    let mesh = mesh.with("--locality", "eu/a").each_ready().await;
    let caller = mesh.node("caller");
    until_answered(caller).await;
    let nodes: Vec<&Node> = mesh.nodes().iter().collect();
    let again = with(rule(services::ECHO, Lane::GENERAL), |rule| {
        rule.load_balancing = wire::LoadBalancing::RoundRobin.into();
        rule.retry = retry(3, &[]);
        rule.methods = vec![idempotent("Unary")];
    });
    applied(mesh.control(), &nodes, again).await;
    let all_known = |answer: &Answer| {
        let explained: Value = serde_json::from_str(&answer.body).unwrap_or_default();
        explained["candidates"].as_array().map(Vec::len) == Some(4)
    };
    let question = format!("/explain?path={ECHO_UNARY}");
    caller.answers(&question, all_known).await;
    mesh
}

async fn servers() -> Vec<Capacity> {
    let mut servers = Vec::new();
    for name in ["near", "far-1", "far-2", "far-3"] {
        servers.push(Capacity::start(name, 10_000, TIME).await);
    }
    servers
}

fn plan(rate: u32) -> Plan {
    Plan {
        rate,
        longest_ms: 0,
    }
}

/// The part of the near one of the calls between these two moments.
fn near(report: &Report, from: Instant, to: Instant) -> f64 {
    let shares = report.shares(from, to);
    let all: usize = shares.values().sum();
    shares.get("near").copied().unwrap_or_default() as f64 / all.max(1) as f64
}

#[tokio::test]
async fn what_is_too_much_for_a_near_endpoint_goes_farther() {
    let servers = servers().await;
    let mesh = mesh(&servers).await;
    let caller = mesh.node("caller");
    let spilled = async || {
        let metrics = caller.metrics().await;
        metrics.sum("sidelane_balance_spilled_total", &[])
    };
    let before = spilled().await;
    let load = Load::start(caller.outbound(), plan(QUIET)).await;
    load.run_for(SECOND * 2).await;
    let quiet = load.stop().await;
    quiet.nothing_failed();
    // On a machine that stands still for a third of a second, calls pile up for once.
    let part = near(&quiet, quiet.calls[0].sent, quiet.stopped());
    assert!(part > 0.9, "{part} of all\n{quiet}");
    let between = spilled().await;
    let load = Load::start(caller.outbound(), plan(CROWDED)).await;
    load.run_for(SECOND * 2).await;
    let crowded = load.stop().await;
    crowded.nothing_failed();
    let part = near(&crowded, crowded.calls[0].sent, crowded.stopped());
    println!("{part} of all stay near\n{crowded}");
    // It has twice its share, a half of all, and each of the others a sixth.
    assert!((0.3..0.7).contains(&part), "{part} of all\n{crowded}");
    let more = (between - before, spilled().await - between);
    assert!(more.1 > 300.0 && more.0 < more.1, "{more:?}");
}

#[tokio::test]
async fn when_the_near_endpoint_is_killed_its_calls_are_made_at_far_ones() {
    let servers = servers().await;
    let mesh = mesh(&servers).await;
    let caller = mesh.node("caller");
    let mut load = Load::start(caller.outbound(), plan(QUIET)).await;
    load.run_for(SECOND).await;
    let killed = load.mark("the near one is killed");
    // A dozen calls are under way at it.
    mesh.node("near").kill().await;
    let gone = load.mark("it is gone");
    load.run_for(SECOND * 2).await;
    let report = load.stop().await;
    println!("{report}");
    report.nothing_failed();
    let before = near(&report, report.calls[0].sent, killed - TIME * 2);
    assert!(before > 0.9, "{before} of all\n{report}");
    let after = near(&report, gone, report.stopped());
    assert_eq!(after, 0.0, "{report}");
    let metrics = caller.metrics().await;
    assert!(metrics.sum("sidelane_retries_total", &[]) > 0.0);
}

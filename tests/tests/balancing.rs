//! Balancing under load, seen at real servers behind real sidecars: who is slow or fails is left
//! alone, newcomers get their share, weights and nearness count, and keys come from headers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde_json::Value;
use sidelane_proto::wire::routing::v1 as wire;
use sidelane_tests::admin::Answer;
use sidelane_tests::applied::{applied, milliseconds, tuning, with};
use sidelane_tests::ask::{ask_over, until_answered};
use sidelane_tests::client::RawClient;
use sidelane_tests::load::{Load, Plan, Report};
use sidelane_tests::ports::free_port;
use sidelane_tests::wire::v1::{Moment, UnaryResponse};
use sidelane_tests::{Cluster, Upstream, cluster, services};
use tonic::{Response, Status};

const SECOND: Duration = Duration::from_secs(1);
const PLAN: Plan = Plan {
    rate: 300,
    longest_ms: 4,
};
/// So long that several are open at once.
const OVERLAPPING: Plan = Plan {
    longest_ms: 80,
    ..PLAN
};
const PATH: &str = "/sidelane.test.v1.Echo/Unary";

/// Flags of a node, with their values.
type Flags<'a> = &'a [(&'a str, &'a str)];
/// A node's name, the server beside it and its flags.
type Served<'a> = (&'a str, &'a Upstream, Flags<'a>);

fn explain_path() -> String {
    format!("/explain?path=/{}/Unary", services::ECHO)
}

fn candidates(answer: &Answer) -> Vec<Value> {
    let explanation: Value = serde_json::from_str(&answer.body).unwrap_or_default();
    let candidates = explanation["candidates"].as_array();
    candidates.cloned().unwrap_or_default()
}

/// Waits until the caller would send calls to so many.
async fn eligible(mesh: &Cluster, count: usize) {
    let all = |answer: &Answer| {
        let candidates = candidates(answer);
        candidates
            .iter()
            .filter(|it| it["eligible"] == true)
            .count()
            == count
    };
    mesh.node("caller").answers(&explain_path(), all).await;
}

/// Tunes how Echo is balanced, at the caller.
async fn tuned(mesh: &Cluster, change: impl FnOnce(&mut wire::Rule)) {
    let rule = with(tuning(services::ECHO), change);
    applied(mesh.control(), &[mesh.node("caller")], rule).await;
}

async fn by(mesh: &Cluster, strategy: wire::LoadBalancing) {
    tuned(mesh, |rule| rule.load_balancing = strategy.into()).await;
}

/// A caller, and a node for each of these servers, with these flags.
async fn mesh(servers: &[Served<'_>], caller: Flags<'_>) -> Cluster {
    let mut mesh = cluster!().control();
    for (name, server, flags) in servers {
        mesh = mesh.node(name).serving(services::ECHO, *server);
        for (flag, value) in *flags {
            mesh = mesh.with(flag, value);
        }
    }
    mesh = mesh.node("caller");
    for (flag, value) in caller {
        mesh = mesh.with(flag, value);
    }
    let mesh = mesh.launch().await;
    mesh.control().ready().await;
    mesh.node("caller").ready().await;
    mesh
}

/// A load of so many seconds.
async fn load(mesh: &Cluster, seconds: u32) -> Report {
    load_of(mesh, PLAN, seconds).await
}

async fn load_of(mesh: &Cluster, plan: Plan, seconds: u32) -> Report {
    let load = Load::start(mesh.node("caller").outbound(), plan).await;
    load.run_for(SECOND * seconds).await;
    load.stop().await
}

/// The part of all answered calls that a node answered.
fn share(report: &Report, node: &str) -> f64 {
    let answered = report.calls.iter().filter(|call| call.result.is_ok());
    let own = answered
        .clone()
        .filter(|call| call.result.as_deref() == Ok(node));
    own.count() as f64 / answered.count().max(1) as f64
}

fn within(part: f64, expected: f64, tolerance: f64) -> bool {
    (part - expected).abs() <= expected * tolerance
}

#[tokio::test]
async fn one_slow_endpoint_of_five_gets_hardly_any_calls_by_peak_ewma() {
    let slow = Upstream::named("slow").answering_unary(|_| async {
        tokio::time::sleep(Duration::from_millis(200)).await;
        let node = "slow".to_owned();
        Ok::<_, Status>(Response::new(UnaryResponse {
            node,
            ..UnaryResponse::default()
        }))
    });
    let slow = slow.start().await;
    let mut quick = Vec::new();
    for name in ["a", "b", "c", "d"] {
        quick.push((name, Upstream::named(name).start().await));
    }
    let mut servers: Vec<Served<'_>> = vec![("slow", &slow, &[])];
    servers.extend(quick.iter().map(|(name, server)| (*name, server, &[][..])));
    let mesh = mesh(&servers, &[]).await;
    eligible(&mesh, 5).await;

    by(&mesh, wire::LoadBalancing::PeakEwma).await;
    let peak_ewma = load(&mesh, 6).await;
    by(&mesh, wire::LoadBalancing::RoundRobin).await;
    let round_robin = load(&mesh, 4).await;
    println!("PEAK_EWMA:\n{peak_ewma}ROUND_ROBIN:\n{round_robin}");
    peak_ewma.nothing_failed();
    round_robin.nothing_failed();
    let shares = [&peak_ewma, &round_robin].map(|report| share(report, "slow"));
    assert!(shares[0] < 0.01, "{shares:?}\n{peak_ewma}");
    assert!(within(shares[1], 0.2, 0.02), "{shares:?}\n{round_robin}");
    // Of a hundred calls one at most has met the slow one, or each fifth has.
    let p99 = [&peak_ewma, &round_robin].map(Report::p99_of_answered);
    println!(
        "p99: {:?} by PEAK_EWMA, {:?} by ROUND_ROBIN",
        p99[0], p99[1]
    );
    let slow = Duration::from_millis(200);
    assert!(p99[1] >= slow, "{p99:?}\n{round_robin}");
    assert!(p99[0] < p99[1] / 2, "{p99:?}\n{peak_ewma}");
}

#[tokio::test]
async fn an_endpoint_that_fails_fast_attracts_no_calls() {
    let failing = Upstream::named("failing")
        .answering_unary(|_| async { Err(Status::unavailable("not now")) });
    let failing = failing.start().await;
    let (one, two) = (
        Upstream::named("one").start().await,
        Upstream::named("two").start().await,
    );
    let servers: [Served<'_>; 3] = [
        ("failing", &failing, &[]),
        ("one", &one, &[]),
        ("two", &two, &[]),
    ];
    let mesh = mesh(&servers, &[]).await;
    let known = |answer: &Answer| candidates(answer).len() == 3;
    mesh.node("caller").answers(&explain_path(), known).await;
    // By its strategy alone.
    tuned(&mesh, |rule| {
        rule.load_balancing = wire::LoadBalancing::PeakEwma.into();
        rule.breaker = Some(wire::Breaker {
            off: true,
            ..wire::Breaker::default()
        });
        rule.outlier = Some(wire::Outlier {
            off: true,
            ..wire::Outlier::default()
        });
    })
    .await;
    let report = load(&mesh, 5).await;
    let failed = report.failed().count() as f64 / report.calls.len() as f64;
    println!("{:.2} % failed\n{report}", failed * 100.0);
    assert!(failed < 0.01, "{report}");
}

#[tokio::test]
async fn newcomers_warm_up_and_then_have_their_share() {
    newcomers(wire::LoadBalancing::RoundRobin, PLAN).await;
}

#[tokio::test]
async fn they_do_where_calls_go_by_latency() {
    // Beside calls of a few milliseconds one that the machine kept waiting is a peak, and its server gets
    // hardly any until that is forgotten.
    newcomers(wire::LoadBalancing::PeakEwma, OVERLAPPING).await;
}

async fn newcomers(strategy: wire::LoadBalancing, plan: Plan) {
    let early = [
        Upstream::named("a").start().await,
        Upstream::named("b").start().await,
    ];
    // Their sidecars are there before them, as in a deploy.
    let later = [(); 2].map(|()| SocketAddr::from(([127, 0, 0, 1], free_port())));
    let mut mesh = cluster!().control();
    for (name, server) in ["a", "b"].iter().zip(&early) {
        mesh = mesh.node(name).serving(services::ECHO, server);
    }
    for (name, address) in ["c", "d"].iter().zip(&later) {
        mesh = mesh.node(name).serving(services::ECHO, address);
    }
    let mesh = mesh.node("caller").launch().await;
    mesh.control().ready().await;
    mesh.node("caller").ready().await;
    eligible(&mesh, 2).await;
    let slow_start = SECOND * 4;
    tuned(&mesh, |rule| {
        rule.load_balancing = strategy.into();
        rule.slow_start = milliseconds(4_000);
    })
    .await;

    let mut load = Load::start(mesh.node("caller").outbound(), plan).await;
    load.run_for(SECOND).await;
    let mut servers = Vec::new();
    for (name, address) in ["c", "d"].iter().zip(later) {
        servers.push(Upstream::named(name).listening_on(address).start().await);
    }
    eligible(&mesh, 4).await;
    let there = load.mark("two more");
    let warming = |answer: &Answer| {
        let candidates = candidates(answer);
        let mut cold = candidates
            .iter()
            .filter(|it| it["warmth"].as_u64() < Some(100));
        cold.any(|it| it["node_id"] == "c")
    };
    mesh.node("caller").answers(&explain_path(), warming).await;
    load.run_for(slow_start + SECOND / 2).await;
    let warm = load.mark("warm");
    load.run_for(SECOND * 3).await;
    let report = load.stop().await;
    println!("{report}");
    report.nothing_failed();
    let part = |node: &str, from: Instant, to: Instant| {
        let shares = report.shares(from, to);
        let all: usize = shares.values().sum();
        shares.get(node).copied().unwrap_or_default() as f64 / all as f64
    };
    for node in ["c", "d"] {
        let first = part(node, there, there + SECOND);
        assert!(first < 0.2, "{node} has {first} of all at first\n{report}");
    }
    // Turns are shared exactly, calls that go by latency nearly: servers take a little more or less.
    let (least, most) = match strategy {
        wire::LoadBalancing::RoundRobin => (0.21, 0.29),
        _ => (0.15, 0.35),
    };
    for node in ["a", "b", "c", "d"] {
        let own = part(node, warm, report.stopped());
        assert!((least..=most).contains(&own), "{node} has {own}\n{report}");
    }
    let newcomers = ["c", "d"].map(|node| part(node, warm, report.stopped()));
    let both: f64 = newcomers.iter().sum();
    assert!((0.3..=0.7).contains(&both), "{newcomers:?}\n{report}");
}

#[tokio::test]
async fn weights_are_seen_in_the_ledgers() {
    let (light, heavy) = (
        Upstream::named("light").start().await,
        Upstream::named("heavy").start().await,
    );
    let servers: [Served<'_>; 2] = [
        ("light", &light, &[]),
        ("heavy", &heavy, &[("--weight", "300")]),
    ];
    let mesh = mesh(&servers, &[]).await;
    eligible(&mesh, 2).await;
    // Where hardly any calls overlap, the one that is idle is less busy, however light it is.
    for (strategy, tolerance) in [
        (wire::LoadBalancing::RoundRobin, 0.02),
        (wire::LoadBalancing::LeastConnections, 0.25),
        (wire::LoadBalancing::Random, 0.25),
    ] {
        by(&mesh, strategy).await;
        let arrived = || [&light, &heavy].map(|it| it.ledger().count("", Moment::Arrived));
        let before = arrived();
        let report = load_of(&mesh, OVERLAPPING, 4).await;
        report.nothing_failed();
        let after = arrived();
        let [own, others] = [after[0] - before[0], after[1] - before[1]];
        let part = own as f64 / (own + others) as f64;
        println!("{strategy:?}: {own} and {others}");
        assert!(
            within(part, 0.25, tolerance),
            "{strategy:?}: {own}, {others}"
        );
    }
}

#[tokio::test]
async fn near_endpoints_are_first_and_farther_ones_stand_in_for_them() {
    let names = ["near-1", "near-2", "far-1", "far-2"];
    let mut upstreams = Vec::new();
    for name in names {
        upstreams.push(Upstream::named(name).start().await);
    }
    let near: Flags<'_> = &[("--locality", "eu/a")];
    let far: Flags<'_> = &[("--locality", "us/b")];
    let places = [near, near, far, far];
    let servers: Vec<_> = (0..4)
        .map(|index| (names[index], &upstreams[index], places[index]))
        .collect();
    let mesh = mesh(&servers, near).await;
    let known = |answer: &Answer| candidates(answer).len() == 4;
    mesh.node("caller").answers(&explain_path(), known).await;
    eligible(&mesh, 2).await;
    // A rule may say that it does not matter.
    let locality = async |preference: wire::LocalityPreference| {
        tuned(&mesh, |rule| {
            rule.load_balancing = wire::LoadBalancing::RoundRobin.into();
            rule.locality = preference.into();
        })
        .await;
    };
    locality(wire::LocalityPreference::Ignore).await;
    eligible(&mesh, 4).await;
    locality(wire::LocalityPreference::Prefer).await;
    eligible(&mesh, 2).await;
    let explained = mesh.node("caller").explain(PATH).await;
    let circles: Vec<_> = candidates(&explained)
        .iter()
        .map(|it| (it["node_id"].clone(), it["nearness"].clone()))
        .collect();
    assert!(
        circles.contains(&("near-1".into(), "zone".into())),
        "{circles:?}"
    );
    assert!(
        circles.contains(&("far-1".into(), "elsewhere".into())),
        "{circles:?}"
    );

    let mut load = Load::start(mesh.node("caller").outbound(), PLAN).await;
    load.run_for(SECOND * 2).await;
    let leaving = load.mark("the near ones leave");
    for node in ["near-1", "near-2"] {
        mesh.node(node).stop(SECOND * 20).await;
    }
    let gone = load.mark("the near ones are gone");
    load.run_for(SECOND * 2).await;
    let report = load.stop().await;
    println!("{report}");
    report.nothing_failed();
    let shares = report.shares(report.calls[0].sent, leaving);
    assert!(
        shares.keys().all(|node| node.starts_with("near")),
        "{shares:?}"
    );
    let shares = report.shares(gone, report.stopped());
    assert!(shares.len() == 2 && shares.keys().all(|node| node.starts_with("far")));
}

#[tokio::test]
async fn a_header_that_the_rule_names_is_the_key() {
    let mut upstreams = Vec::new();
    let names = ["a", "b", "c", "d"];
    for name in names {
        upstreams.push(Upstream::named(name).start().await);
    }
    let servers: Vec<Served<'_>> = names
        .iter()
        .zip(&upstreams)
        .map(|(name, server)| (*name, server, &[][..]))
        .collect();
    let mesh = mesh(&servers, &[]).await;
    eligible(&mesh, 4).await;
    tuned(&mesh, |rule| {
        rule.load_balancing = wire::LoadBalancing::ConsistentHash.into();
        rule.hash_header = "x-user".to_owned();
    })
    .await;
    let caller = mesh.node("caller");
    until_answered(caller).await;
    let client = RawClient::connect(caller.outbound()).await.unwrap();
    let whom = async |headers: &[(&str, &str)]| {
        let answer = ask_over(&client, PATH, headers).await;
        answer.message::<UnaryResponse>().unwrap().node
    };
    let mut used = std::collections::BTreeSet::new();
    for number in 0..40 {
        let user = format!("user-{number}");
        let home = whom(&[("x-user", &user)]).await;
        assert_eq!(whom(&[("x-user", &user)]).await, home);
        // The mesh's own header goes first, and a key is a key wherever it comes from.
        let own = [("x-user", "somebody"), ("sidelane-hash", user.as_str())];
        assert_eq!(whom(&own).await, home);
        // Who asks beforehand is told the same.
        let question = format!("{}&header=x-user:%20{user}", explain_path());
        let explained: Value = serde_json::from_str(&caller.get(&question).await.body).unwrap();
        assert_eq!(explained["pick"], home.as_str(), "{explained}");
        let step = "the call's `x-user` stands for its `sidelane-hash`";
        assert!(explained["steps"].to_string().contains(step), "{explained}");
        used.insert(home);
    }
    assert_eq!(used.len(), 4, "{used:?}");

    // Also from beside one of them: a key is at home at one place.
    let beside = RawClient::connect(mesh.node("a").outbound()).await.unwrap();
    let rule = async || mesh.node("a").explain(PATH).await.body;
    while !rule().await.contains("\"hash_header\"") {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    for number in 0..40 {
        let user = format!("user-{number}");
        let headers = [("x-user", user.as_str())];
        let answer = ask_over(&beside, PATH, &headers).await;
        let node = answer.message::<UnaryResponse>().unwrap().node;
        assert_eq!(node, whom(&headers).await, "{user}");
    }
    let keyless = "sidelane_balance_keyless_total";
    let before = caller.metrics().await.sum(keyless, &[]);
    let without = whom(&[]).await;
    assert_eq!(whom(&[]).await, without);
    assert_eq!(caller.metrics().await.sum(keyless, &[]) - before, 2.0);
    let explanation = caller.explain(PATH).await.body;
    let step = "key: the call's `x-user`, or without it the caller's node, caller";
    assert!(explanation.contains(step), "{explanation}");
    assert!(explanation.contains("\"hash_header\""), "{explanation}");
}

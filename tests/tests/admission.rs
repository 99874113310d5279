//! What rules admit, through real sidecars: so many calls a second, so many at once, and some that
//! fail on purpose. What is refused has not reached the server, and says why and when to come again.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::time::{Duration, Instant};

use sidelane_proto::model::Lane;
use sidelane_proto::wire::routing::v1 as wire;
use sidelane_tests::admin::Answer;
use sidelane_tests::applied::{applied, idempotent, retry, rule, tuning, unary, with};
use sidelane_tests::ask::{ECHO_UNARY, ask_over, until_answered};
use sidelane_tests::client::{RawAnswer, RawClient};
use sidelane_tests::cluster::{LocalService, Node};
use sidelane_tests::refusal::Refusal;
use sidelane_tests::upstream::capacity::Capacity;
use sidelane_tests::{Cluster, Upstream, cluster, services, unruled};
use tonic::Code;

/// The other unary path: the server does not know it, and says so itself.
const OTHER: &str = "/sidelane.test.v1.Echo/Other";

/// Two callers and a callee, none of which was compiled with rules.
async fn mesh(upstream: &(impl LocalService + ?Sized)) -> Cluster {
    let cluster = cluster!()
        .control()
        .node("callee")
        .running(unruled!())
        .serving(services::ECHO, upstream)
        .node("one")
        .running(unruled!())
        .node("two")
        .running(unruled!())
        .each_ready()
        .await;
    for caller in ["one", "two"] {
        until_answered(cluster.node(caller)).await;
    }
    cluster
}

async fn apply(cluster: &Cluster, pushed: wire::PushedRule) {
    let nodes: Vec<&Node> = cluster.nodes().iter().collect();
    applied(cluster.control(), &nodes, pushed).await;
}

fn limit(requests_per_second: u32, burst: u32, per: &[wire::Per]) -> wire::Limit {
    wire::Limit {
        requests_per_second,
        burst,
        per: per.iter().map(|it| i32::from(*it)).collect(),
        outbound: false,
    }
}

/// A rule that only tunes: what is not compiled in may be called in any lane.
fn limited(limits: Vec<wire::Limit>) -> wire::PushedRule {
    with(tuning(services::ECHO), |rule| {
        rule.limits = limits;
        rule.methods = vec![unary("Unary"), unary("Other")];
    })
}

async fn client(node: &Node) -> RawClient {
    RawClient::connect(node.outbound()).await.unwrap()
}

fn pushback(answer: &RawAnswer) -> Duration {
    let pushback = answer.headers["grpc-retry-pushback-ms"].to_str().unwrap();
    Duration::from_millis(pushback.parse().unwrap())
}

/// Was it let through? What was not is refused as it should be.
fn is_through(answer: &RawAnswer) -> bool {
    if !answer.headers.contains_key("sidelane-error") {
        return true;
    }
    let refusal = Refusal::of(answer);
    let expected = ("RATE_LIMITED", Code::ResourceExhausted, "no");
    let is = (&*refusal.reason, refusal.code, &*refusal.processed);
    assert_eq!(is, expected, "{refusal:?}");
    assert!(pushback(answer) > Duration::ZERO);
    false
}

/// Calls one after the other for more than a second. Returns how many came through, and for how
/// long it was tried.
async fn through(client: &RawClient, path: &str, headers: &[(&str, &str)]) -> (f64, f64) {
    let (mut count, start) = (0.0, Instant::now());
    while start.elapsed() < Duration::from_millis(1_100) {
        if is_through(&ask_over(client, path, headers).await) {
            count += 1.0;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    (count, start.elapsed().as_secs_f64())
}

const RATE: u32 = 20;
const BURST: u32 = 5;

/// As many as the bucket held and got. The last token may just be missed, and a machine that is
/// busy may let a few overflow.
fn assert_share((count, seconds): (f64, f64), what: &str) {
    let most = f64::from(BURST) + f64::from(RATE) * seconds + 1.0;
    assert!(count <= most, "{what}: {count} of at most {most}");
    assert!(count >= most * 0.6, "{what}: {count} of {most}");
}

#[tokio::test]
async fn each_share_of_a_limit_gets_what_the_limit_says() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let (one, two) = (
        client(mesh.node("one")).await,
        client(mesh.node("two")).await,
    );
    let gossip = [("sidelane-lane", "gossip")];
    for per in [
        &[][..],
        &[wire::Per::Caller],
        &[wire::Per::Method],
        &[wire::Per::Lane],
    ] {
        apply(&mesh, limited(vec![limit(RATE, BURST, per)])).await;
        let tried = tokio::join!(
            through(&one, ECHO_UNARY, &[]),
            through(&two, ECHO_UNARY, &[]),
            through(&one, OTHER, &[]),
            through(&one, ECHO_UNARY, &gossip),
        );
        let [first, second, other, lane] = [tried.0, tried.1, tried.2, tried.3];
        // Those that share one, by what has a share of its own.
        let sum = |all: &[(f64, f64)]| {
            let seconds = all.iter().map(|it| it.1).fold(0.0, f64::max);
            (all.iter().map(|it| it.0).sum(), seconds)
        };
        let shares: &[&[(f64, f64)]] = match per {
            [wire::Per::Caller] => &[&[first, other, lane], &[second]],
            [wire::Per::Method] => &[&[first, second, lane], &[other]],
            [wire::Per::Lane] => &[&[first, second, other], &[lane]],
            _ => &[&[first, second, other, lane]],
        };
        for share in shares {
            assert_share(sum(share), &format!("{per:?}"));
        }
        // Used up shares are full again before the next limit is tried.
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    let metrics = mesh.node("callee").metrics().await;
    let labels = [("reason", "RATE_LIMITED"), ("direction", "inbound")];
    assert!(metrics.sum("sidelane_errors_total", &labels) > 100.0);
}

#[tokio::test]
async fn who_waits_as_long_as_told_comes_through_and_a_change_holds_at_once() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let one = client(mesh.node("one")).await;
    apply(&mesh, limited(vec![limit(1, 3, &[])])).await;
    for _ in 0..3 {
        assert!(is_through(&ask_over(&one, ECHO_UNARY, &[]).await));
    }
    let refused = ask_over(&one, ECHO_UNARY, &[]).await;
    assert!(!is_through(&refused));
    let refusal = Refusal::of(&refused).text;
    let says = "rules.yaml:3) admits 1 calls/s, 3 at once, and that is used up";
    assert!(refusal.contains(says), "{refusal}");
    assert!(pushback(&refused) <= Duration::from_secs(1));
    tokio::time::sleep(pushback(&refused)).await;
    assert!(is_through(&ask_over(&one, ECHO_UNARY, &[]).await));

    // All are used; two more are there at once, and no more.
    let since = Instant::now();
    apply(&mesh, limited(vec![limit(1, 5, &[])])).await;
    let mut count = 0;
    while is_through(&ask_over(&one, ECHO_UNARY, &[]).await) {
        count += 1;
    }
    // One a second may have come in meanwhile.
    let most = 3 + since.elapsed().as_secs();
    assert!((2..=most).contains(&count), "{count}");
    let explained = mesh.node("one").explain(ECHO_UNARY).await.body;
    assert!(explained.contains("1 calls/s, 5 at once"), "{explained}");
}

#[tokio::test]
async fn a_limit_of_one_method_and_one_where_calls_leave() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let (one, two) = (
        client(mesh.node("one")).await,
        client(mesh.node("two")).await,
    );
    let of_method = with(limited(Vec::new()), |rule| {
        rule.methods[0].limits = vec![limit(1, 1, &[])];
    });
    apply(&mesh, of_method).await;
    assert!(is_through(&ask_over(&one, ECHO_UNARY, &[]).await));
    assert!(!is_through(&ask_over(&one, ECHO_UNARY, &[]).await));
    for _ in 0..9 {
        assert!(is_through(&ask_over(&one, OTHER, &[]).await));
    }
    let leaves = wire::Limit {
        outbound: true,
        ..limit(1, 2, &[])
    };
    let outbound = with(tuning(services::ECHO), |rule| rule.limits = vec![leaves]);
    apply(&mesh, outbound).await;
    for client in [&one, &two] {
        for expected in [true, true, false] {
            assert_eq!(is_through(&ask_over(client, OTHER, &[]).await), expected);
        }
    }
    let outbound = [("reason", "RATE_LIMITED"), ("direction", "outbound")];
    let metrics = mesh.node("two").metrics().await;
    assert!(metrics.sum("sidelane_errors_total", &outbound) >= 1.0);
}

const CALLS: usize = 2_000;

/// Makes so many calls, a few at once. Returns how many failed on purpose.
async fn failed_on_purpose(client: &RawClient, headers: &[(&str, &str)]) -> usize {
    const AT_ONCE: usize = 20;
    let callers = (0..AT_ONCE).map(|_| async {
        let mut failed = 0;
        for _ in 0..CALLS / AT_ONCE {
            let answer = ask_over(client, ECHO_UNARY, headers).await;
            if answer.headers.contains_key("sidelane-error") {
                let expected = ("FAULT_INJECTED", Code::Aborted, "no");
                let refusal = Refusal::of(&answer);
                let is = (&*refusal.reason, refusal.code, &*refusal.processed);
                assert_eq!(is, expected, "{refusal:?}");
                failed += 1;
            }
        }
        failed
    });
    futures_util::future::join_all(callers)
        .await
        .into_iter()
        .sum()
}

#[tokio::test]
async fn faults_meet_as_many_as_the_rule_says_and_nobody_else() {
    let server = Capacity::start("callee", 1_000, Duration::ZERO).await;
    let mesh = mesh(&server.upstream).await;
    let one = client(mesh.node("one")).await;
    let fault = |change: fn(&mut wire::Fault)| {
        let mut fault = wire::Fault {
            abort_percent: 20,
            abort_status: "ABORTED".to_owned(),
            header: "x-test-drill".to_owned(),
            header_value: "on".to_owned(),
            ..wire::Fault::default()
        };
        change(&mut fault);
        with(rule(services::ECHO, Lane::GENERAL), |rule| {
            rule.fault = Some(fault);
            rule.methods = vec![idempotent("Unary")];
        })
    };
    apply(&mesh, fault(|_| ())).await;
    let before = server.answered();
    let failed = failed_on_purpose(&one, &[("x-test-drill", "on")]).await;
    // Of 2,000 calls 400, and 18 is one standard deviation; five of them happen never.
    assert!((310..=490).contains(&failed), "{failed}");
    // What failed has not reached the server.
    assert_eq!(server.answered() - before, CALLS - failed);
    for headers in [&[][..], &[("x-test-drill", "off")]] {
        assert_eq!(failed_on_purpose(&one, headers).await, 0);
    }
    let metrics = mesh.node("callee").metrics().await;
    let labels = [("reason", "FAULT_INJECTED"), ("direction", "inbound")];
    #[allow(clippy::cast_precision_loss, reason = "a few hundred")]
    let expected = failed as f64;
    assert_eq!(metrics.sum("sidelane_errors_total", &labels), expected);
    let explained = mesh.node("one").explain(ECHO_UNARY).await.body;
    let says = "20 % fail with ABORTED, where x-test-drill is `on`";
    assert!(explained.contains(says), "{explained}");

    // With a rule that has calls made again, most come through: it is as if the server failed.
    let again = with(fault(|fault| fault.header_value.clear()), |rule| {
        rule.retry = retry(3, &["ABORTED"]);
    });
    apply(&mesh, again).await;
    let failed = failed_on_purpose(&one, &[("x-test-drill", "any")]).await;
    // 20 % of 20 % of 20 %: 16, and 4 is one standard deviation.
    assert!((1..=40).contains(&failed), "{failed}");

    let late = fault(|fault| {
        fault.abort_percent = 0;
        fault.abort_status.clear();
        fault.delay_percent = 100;
        fault.delay = "1s".to_owned();
    });
    apply(&mesh, late).await;
    let start = Instant::now();
    let drill = [("x-test-drill", "on")];
    let answer = ask_over(&one, ECHO_UNARY, &drill).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
    assert!(start.elapsed() >= Duration::from_secs(1));
    // Whoever has no time for that hears so in time.
    let start = Instant::now();
    let hurried = [drill[0], ("grpc-timeout", "300m")];
    let answer = ask_over(&one, ECHO_UNARY, &hurried).await;
    let status = answer.grpc_status().unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert!(start.elapsed() < Duration::from_secs(1));
    let metrics = mesh.node("callee").metrics().await;
    assert_eq!(metrics.sum("sidelane_faults_delayed_total", &[]), 2.0);
}

#[tokio::test]
async fn a_place_is_waited_for_in_line_and_given_back_however_a_call_ends() {
    let server = Capacity::start("callee", 1, Duration::from_millis(400)).await;
    let mesh = mesh(&server.upstream).await;
    let narrow = with(rule(services::ECHO, Lane::GENERAL), |rule| {
        rule.concurrency = Some(wire::Concurrency {
            max_in_flight: 1,
            queue: 1,
            longest_wait: "5s".to_owned(),
            ..wire::Concurrency::default()
        });
    });
    apply(&mesh, narrow).await;
    let (callee, one) = (mesh.node("callee"), client(mesh.node("one")).await);
    let figure = |name: &'static str, wanted: f64| async move {
        let name = format!("sidelane_concurrency_{name}");
        let is = |answer: &Answer| {
            let metrics = sidelane_tests::admin::Metrics::parse(&answer.body);
            (metrics.sum(&name, &[]) - wanted).abs() < 0.5
        };
        callee.answers("/metrics", is).await;
    };
    let ask = || ask_over(&one, ECHO_UNARY, &[]);
    // The first is inside for as long as its request goes on.
    let mut first = one.begin(ECHO_UNARY, &[]).await.unwrap();
    figure("in_flight", 1.0).await;
    let (second, third) = tokio::join!(ask(), async {
        figure("waiting", 1.0).await;
        let third = ask().await;
        first.send(&()).unwrap();
        first.end_request().unwrap();
        third
    });
    for answer in [first.answer().await.unwrap(), second] {
        assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
    }
    let refusal = Refusal::of(&third);
    assert_eq!(refusal.reason, "OVERLOADED");
    assert_eq!(pushback(&third), Duration::from_secs(5));

    // Given up in line, and given up inside: neither holds anything back.
    let begin = || async {
        let mut call = one.begin(ECHO_UNARY, &[]).await.unwrap();
        call.send(&()).unwrap();
        call.end_request().unwrap();
        call
    };
    let inside = one.begin(ECHO_UNARY, &[]).await.unwrap();
    figure("in_flight", 1.0).await;
    let waits = begin().await;
    figure("waiting", 1.0).await;
    waits.cancel();
    figure("waiting", 0.0).await;
    inside.cancel();
    figure("in_flight", 0.0).await;
    assert_eq!(ask().await.grpc_status().unwrap().code(), Code::Ok);
}

#[tokio::test]
async fn what_is_refused_beside_the_caller_is_made_again_as_at_a_peer() {
    let server = Capacity::start("callee", 1_000, Duration::ZERO).await;
    let mesh = mesh(&server.upstream).await;
    // One calls it from elsewhere, and one stands beside it.
    let callers = [
        client(mesh.node("one")).await,
        client(mesh.node("callee")).await,
    ];
    let again = |status: &str| {
        let status = [status];
        with(limited(vec![limit(10, 1, &[])]), |rule| {
            rule.methods = vec![idempotent("Unary")];
            rule.retry = retry(3, &status);
        })
    };
    for (rule, comes_through) in [
        (again("UNAVAILABLE"), false),
        (again("RESOURCE_EXHAUSTED"), true),
    ] {
        apply(&mesh, rule).await;
        for caller in &callers {
            tokio::time::sleep(Duration::from_millis(150)).await;
            assert!(is_through(&ask_over(caller, ECHO_UNARY, &[]).await));
            // Its token comes back within 100 ms, and it says so.
            let answer = ask_over(caller, ECHO_UNARY, &[]).await;
            assert_eq!(is_through(&answer), comes_through);
        }
    }

    let faults = with(rule(services::ECHO, Lane::GENERAL), |rule| {
        rule.fault = Some(wire::Fault {
            abort_percent: 20,
            abort_status: "ABORTED".to_owned(),
            ..wire::Fault::default()
        });
        rule.methods = vec![idempotent("Unary")];
        // A quick machine would use up the usual one.
        rule.retry = retry(3, &["ABORTED"]).map(|retry| wire::Retry {
            budget_percent: Some(100),
            ..retry
        });
    });
    apply(&mesh, faults).await;
    for caller in &callers {
        let failed = failed_on_purpose(caller, &[]).await;
        // 20 % of 20 % of 20 %: 16, and 4 is one standard deviation.
        assert!((1..=40).contains(&failed), "{failed}");
    }
}

#[tokio::test]
async fn who_is_inside_still_is_when_a_bound_goes_and_comes_back() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let one = client(mesh.node("one")).await;
    let bounded = || {
        with(rule(services::ECHO, Lane::GENERAL), |rule| {
            rule.concurrency = Some(wire::Concurrency {
                max_in_flight: 2,
                ..wire::Concurrency::default()
            });
        })
    };
    let open = || rule(services::ECHO, Lane::GENERAL);
    let begin = || async {
        let mut call = one.begin(ECHO_UNARY, &[]).await.unwrap();
        call.send(&()).unwrap();
        call
    };
    let inside = |wanted: f64| {
        let callee = mesh.node("callee");
        async move {
            let is = |answer: &Answer| {
                let metrics = sidelane_tests::admin::Metrics::parse(&answer.body);
                let inside = metrics.sum("sidelane_concurrency_in_flight", &[]);
                (inside - wanted).abs() < 0.5
            };
            callee.answers("/metrics", is).await;
        }
    };
    apply(&mesh, bounded()).await;
    let first = begin().await;
    inside(1.0).await;
    // No bound, and calls come that it would not have let in.
    apply(&mesh, open()).await;
    let (second, third) = (begin().await, begin().await);
    inside(3.0).await;
    apply(&mesh, bounded()).await;
    for (call, left) in [(first, 2.0), (second, 1.0)] {
        let refusal = Refusal::of(&ask_over(&one, ECHO_UNARY, &[]).await);
        assert_eq!(refusal.reason, "OVERLOADED", "{left} would be left");
        call.cancel();
        inside(left).await;
    }
    let answer = ask_over(&one, ECHO_UNARY, &[]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
    third.cancel();
}

#[tokio::test]
async fn a_named_nodes_health_is_charged_to_none_of_its_services() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let check = "/grpc.health.v1.Health/Check";
    let leaves = wire::Limit {
        outbound: true,
        ..limit(1, 1, &[])
    };
    apply(&mesh, limited(vec![limit(1, 1, &[]), leaves])).await;
    let labels = [("service", services::ECHO), ("direction", "inbound")];
    let calls = async || {
        let metrics = mesh.node("callee").metrics().await;
        metrics.sum("sidelane_requests_total", &labels)
    };
    let before = calls().await;
    let one = client(mesh.node("one")).await;
    for _ in 0..5 {
        let answer = ask_over(&one, check, &[("sidelane-node", "callee")]).await;
        // The app has none, and says so itself.
        assert_eq!(answer.grpc_status().unwrap().code(), Code::Unimplemented);
        assert!(!answer.headers.contains_key("sidelane-error"), "{answer:?}");
    }
    assert!((calls().await - before).abs() < 0.5);
}

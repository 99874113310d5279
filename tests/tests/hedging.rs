//! Calls that are sent a second time beside the first, seen at the servers: when, how often, with
//! what they say of themselves, and what becomes of those that came too late.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::time::{Duration, Instant};

use sidelane_proto::wire::routing::v1 as wire;
use sidelane_tests::applied::{hedged, idempotent, retry};
use sidelane_tests::ask::ECHO_UNARY;
use sidelane_tests::client::RawClient;
use sidelane_tests::moody::{LIMIT, Mesh, Server, Way, bound};
use sidelane_tests::wire::v1::UnaryRequest;
use sidelane_tests::{cluster, moody, services, unruled};
use tokio::time::{sleep, timeout};
use tonic::Code;

const SLOW: Duration = Duration::from_millis(300);
const SLOWEST: Way = Way::Slow(Duration::from_secs(5));

async fn mesh(ways: &[Way]) -> Mesh {
    moody::mesh(cluster!(), unruled!(), ways).await
}

/// Waits until so many attempts were cancelled at a server.
async fn cancelled(server: &Server, count: usize) {
    let begun = Instant::now();
    while server.cancelled() < count {
        assert!(begun.elapsed() < LIMIT, "{} of {count}", server.cancelled());
        sleep(Duration::from_millis(1)).await;
    }
}

/// How long each of so many calls took, one after the other, the longest last.
async fn times(mesh: &Mesh, calls: usize) -> Vec<Duration> {
    let mut times = Vec::new();
    for _ in 0..calls {
        let begun = Instant::now();
        assert_eq!(mesh.call().await.code(), Code::Ok);
        times.push(begun.elapsed());
    }
    times.sort_unstable();
    times
}

#[tokio::test]
async fn one_slow_endpoint_of_three_costs_its_callers_no_time() {
    const CALLS: usize = 30;
    let mesh = mesh(&[Way::Slow(SLOW), Way::Well, Way::Well]).await;
    mesh.apply(|rule| {
        rule.methods = vec![idempotent("Unary")];
        rule.retry = retry(2, &[]);
    })
    .await;
    let without = times(&mesh, CALLS).await;
    let slowest = without[CALLS * 99 / 100];
    assert!(slowest >= SLOW, "{slowest:?}");
    assert_eq!(
        mesh.attempts(),
        CALLS,
        "nothing is hedged unless a rule says so"
    );

    mesh.apply(|rule| {
        rule.methods = vec![hedged("Unary", 20, 3)];
        // So that the budget is none that a quick machine can use up.
        rule.retry = retry(2, &[]).map(|retry| wire::Retry {
            budget_percent: Some(100),
            ..retry
        });
    })
    .await;
    let (calls, slow) = (mesh.attempts(), mesh.servers[0].count());
    let with = times(&mesh, CALLS).await;
    println!(
        "p50 {:?} and p99 {slowest:?} without, p50 {:?} and p99 {:?} with",
        without[CALLS / 2],
        with[CALLS / 2],
        with[CALLS * 99 / 100]
    );
    assert!(with[CALLS * 99 / 100] < SLOW / 2, "{with:?}");
    // Each call that met the slow one was sent once more, and given up there.
    let (calls, met) = (mesh.attempts() - calls, mesh.servers[0].count() - slow);
    assert!(met >= CALLS / 4, "{met} of {CALLS} met the slow one");
    cancelled(&mesh.servers[0], met).await;
    let further = calls - CALLS;
    #[allow(clippy::cast_precision_loss, reason = "few calls")]
    let (further, slow) = (further as f64, met as f64);
    // A busy machine may be slow where the server is not.
    assert!(
        further >= slow && further <= 2.0 * CALLS as f64,
        "{further}"
    );
    let sent = mesh.figure("sidelane_retries_total", &[("kind", "hedge")]);
    assert!((sent.await - further).abs() < 0.5, "{further}");
    let won = mesh.figure("sidelane_hedges_won_total", &[]).await;
    assert!(
        won + 0.5 > slow && won < further + 0.5,
        "{won} of {further}"
    );
    // What a later attempt says of itself.
    let before = mesh.servers[1..].iter().flat_map(Server::attempts_before);
    let said: Vec<String> = before.flatten().collect();
    assert!(said.len() + 2 > met, "{said:?}");
    assert!(said.iter().all(|it| it == "1" || it == "2"), "{said:?}");

    let path = format!("/{}/Unary", services::ECHO);
    let explained = mesh.caller().explain(&path).await.body;
    assert!(
        explained.contains("another attempt elsewhere after 20ms without an answer, 3 in all"),
        "{explained}"
    );
}

#[tokio::test]
async fn a_storm_of_slow_calls_stays_within_the_budget() {
    let slow = Way::Slow(Duration::from_millis(100));
    let mesh = mesh(&[slow, slow]).await;
    mesh.apply(|rule| rule.methods = vec![hedged("Unary", 20, 3)])
        .await;
    let (calls, time) = mesh.storm(Duration::from_secs(2)).await;
    assert!(calls > 200, "{calls} calls in {time:?}");
    #[allow(clippy::cast_precision_loss, reason = "few calls")]
    let (calls, attempts) = (calls as f64, mesh.attempts() as f64);
    println!("{attempts} attempts of {calls} calls in {time:?}");
    assert!(attempts <= bound(calls, time), "{attempts} of {calls}");
    // And it is used.
    assert!(attempts > calls * 1.1, "{attempts} of {calls}");
    let withheld = mesh.figure("sidelane_hedges_withheld_total", &[("why", "budget")]);
    assert!(withheld.await > 0.5);
}

#[tokio::test]
async fn a_failure_brings_the_next_one_forward_and_an_answer_ends_the_call() {
    let mesh = mesh(&[Way::Unavailable, Way::Well]).await;
    // Later than a call may take: what is sent is sent for the failure.
    mesh.apply(|rule| rule.methods = vec![hedged("Unary", 20_000, 2)])
        .await;
    for _ in 0..4 {
        let (attempts, code) = mesh.attempts_of_a_call().await;
        assert_eq!(code, Code::Ok);
        assert!(attempts <= 2, "{attempts}");
    }
    assert!(mesh.servers[0].count() >= 2);
    // Both fail, and there is no third.
    mesh.servers[1].now(Way::Unavailable);
    assert_eq!(mesh.attempts_of_a_call().await, (2, Code::Unavailable));
    // Refused without having been looked at: the same.
    for server in &mesh.servers {
        server.now(Way::Refuse);
    }
    assert_eq!(mesh.attempts_of_a_call().await, (2, Code::Unavailable));

    // An answer that no attempt can make good is the call's, and the slow one is given up.
    mesh.apply(|rule| rule.methods = vec![hedged("Unary", 20, 2)])
        .await;
    mesh.servers[0].now(SLOWEST);
    mesh.servers[1].now(Way::NotFound);
    for _ in 0..4 {
        let begun = Instant::now();
        assert_eq!(mesh.call().await.code(), Code::NotFound);
        assert!(begun.elapsed() < LIMIT / 4, "{:?}", begun.elapsed());
    }
    cancelled(&mesh.servers[0], 2).await;
    // One that fails while another is under way is not the call's end.
    mesh.servers[0].now(Way::Slow(SLOW));
    mesh.servers[1].now(Way::Unavailable);
    for _ in 0..4 {
        assert_eq!(mesh.call().await.code(), Code::Ok);
    }
}

#[tokio::test]
async fn what_a_server_says_of_further_attempts_is_obeyed() {
    let mesh = mesh(&[Way::Pushback("-1"), Way::Pushback("-1")]).await;
    // Long after an answer has come, however busy the machine is.
    mesh.apply(|rule| rule.methods = vec![hedged("Unary", 2_000, 2)])
        .await;
    assert_eq!(mesh.attempts_of_a_call().await, (1, Code::Unavailable));
    let withheld = mesh.figure("sidelane_hedges_withheld_total", &[("why", "pushback")]);
    assert!(withheld.await > 0.5);
    for server in &mesh.servers {
        server.now(Way::Pushback("200"));
    }
    assert_eq!(mesh.attempts_of_a_call().await, (2, Code::Unavailable));
    let mut arrivals: Vec<Instant> = mesh.servers.iter().flat_map(Server::arrivals).collect();
    arrivals.sort_unstable();
    let [.., first, second] = arrivals.as_slice() else {
        panic!("two attempts");
    };
    let pause = *second - *first;
    assert!(pause >= Duration::from_millis(199), "too soon: {pause:?}");
}

#[tokio::test]
async fn what_cannot_be_sent_twice_is_not() {
    let mesh = mesh(&[Way::Slow(SLOW), Way::Slow(SLOW)]).await;
    mesh.apply(|rule| rule.methods = vec![hedged("Unary", 20, 2)])
        .await;
    assert_eq!(mesh.attempts_of_a_call().await, (2, Code::Ok));
    let calls = |headers: &'static [(&str, &str)], length| {
        let (mesh, before) = (&mesh, mesh.attempts());
        async move {
            let payload = vec![7; length].into();
            let request = UnaryRequest {
                payload,
                ..UnaryRequest::default()
            };
            let called = mesh.client.unary(ECHO_UNARY, headers, &request);
            let answer = timeout(LIMIT, called).await.expect("in time").unwrap();
            (
                mesh.attempts() - before,
                answer.grpc_status().unwrap().code(),
            )
        }
    };
    // A request as large as what is kept, and a larger one.
    assert_eq!(calls(&[], 60 << 10).await, (2, Code::Ok));
    assert_eq!(calls(&[], 70 << 10).await.0, 1);
    // Who names a node means no other.
    assert_eq!(calls(&[("sidelane-node", "a")], 1).await, (1, Code::Ok));
    // The call's own time holds.
    let (attempts, code) = calls(&[("grpc-timeout", "100m")], 1).await;
    assert_eq!((attempts, code), (2, Code::DeadlineExceeded));
    // A rule that is applied takes it back.
    mesh.apply(|rule| {
        rule.methods = vec![wire::Method {
            hedge: Some(wire::Hedge {
                off: true,
                ..wire::Hedge::default()
            }),
            ..idempotent("Unary")
        }];
    })
    .await;
    assert_eq!(mesh.attempts_of_a_call().await, (1, Code::Ok));
}

#[tokio::test]
async fn a_loser_that_was_cancelled_is_no_verdict_and_one_that_failed_first_is() {
    let mesh = mesh(&[SLOWEST, Way::Well]).await;
    let breaker = |rule: &mut wire::Rule| {
        rule.methods = vec![hedged("Unary", 20, 2)];
        rule.retry = retry(2, &[]).map(|retry| wire::Retry {
            budget_percent: Some(100),
            ..retry
        });
        rule.breaker = Some(wire::Breaker {
            consecutive_failures: Some(3),
            ..wire::Breaker::default()
        });
    };
    mesh.apply(breaker).await;
    let opened = || mesh.figure("sidelane_breaker_changes_total", &[("to", "open")]);
    for _ in 0..12 {
        assert_eq!(mesh.call().await.code(), Code::Ok);
    }
    let met = mesh.servers[0].count();
    assert!(met >= 5, "{met}");
    cancelled(&mesh.servers[0], met).await;
    // It might have been about to answer.
    assert!(opened().await < 0.5);

    // The other one is slow now, and this one fails before that answers.
    mesh.servers[0].now(Way::Unavailable);
    mesh.servers[1].now(Way::Slow(Duration::from_millis(100)));
    for _ in 0..8 {
        assert_eq!(mesh.call().await.code(), Code::Ok);
    }
    assert!((opened().await - 1.0).abs() < 0.5);
    assert_eq!(mesh.servers[0].count() - met, 3);
}

#[tokio::test]
async fn who_had_less_time_than_another_attempt_waits_for_calls_nobody_slow() {
    let mesh = mesh(&[SLOWEST]).await;
    let client = RawClient::connect(mesh.caller().outbound()).await.unwrap();
    let opened = || mesh.figure("sidelane_breaker_changes_total", &[("to", "open")]);
    // Longer than the calls have, and then shorter.
    for (after, calls, opens) in [(2_000, 6, 0.0), (20, 3, 1.0)] {
        mesh.apply(|rule| {
            rule.methods = vec![hedged("Unary", after, 2)];
            rule.breaker = Some(wire::Breaker {
                consecutive_failures: Some(3),
                ..wire::Breaker::default()
            });
        })
        .await;
        for _ in 0..calls {
            let (limit, request) = ([("grpc-timeout", "100m")], UnaryRequest::default());
            let answer = client.unary(ECHO_UNARY, &limit, &request);
            let status = answer.await.unwrap().grpc_status().unwrap();
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
        }
        let opened = opened().await;
        assert!((opened - opens).abs() < 0.5, "{opened} with {after} ms");
    }
}

//! Endpoints that fail, seen at the servers: how often a call is sent again, when, and to whom.
//! The servers answer frame by frame, so that they refuse, push back and recover as a test says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::time::{Duration, Instant};

use sidelane_proto::model::Lane;
use sidelane_proto::wire::routing::v1 as wire;
use sidelane_tests::applied::{applied, idempotent, retry, rule, unary, with};
use sidelane_tests::ask::ECHO_UNARY;
use sidelane_tests::client::{RawClient, mesh_reason};
use sidelane_tests::moody::{LIMIT, Mesh, Way, bound, call, candidates};
use sidelane_tests::wire::v1::UnaryRequest;
use sidelane_tests::{cluster, moody, services, unruled};
use tokio::time::sleep;
use tonic::Code;

async fn mesh(ways: &[Way]) -> Mesh {
    moody::mesh(cluster!(), unruled!(), ways).await
}

#[tokio::test]
async fn endpoints_that_all_fail_or_refuse_get_no_storm_of_retries() {
    no_storm(Duration::from_secs(3), 300).await;
}

#[tokio::test]
#[ignore = "1,000 calls a second need a machine that is quiet"]
async fn nor_at_a_thousand_calls_a_second() {
    // What two quiet seconds may have left is 20 of 12,000 here.
    no_storm(Duration::from_secs(10), 9_500).await;
}

/// Calls for so long, at least so many, of servers that all fail, and of servers that all refuse.
async fn no_storm(time: Duration, least: u64) {
    for way in [Way::Unavailable, Way::Refuse] {
        let mesh = mesh(&[way, way]).await;
        mesh.apply(|rule| {
            rule.methods = vec![idempotent("Unary")];
            rule.retry = retry(5, &[]);
        })
        .await;
        let (calls, time) = mesh.storm(time).await;
        assert!(calls > least, "{calls} calls in {time:?}");
        #[allow(clippy::cast_precision_loss, reason = "few calls")]
        let (calls, attempts) = (calls as f64, mesh.attempts() as f64);
        println!("{attempts} attempts of {calls} calls in {time:?}");
        let most = bound(calls, time);
        assert!(attempts <= most, "{attempts} attempts of {calls} calls");
        // And it is used, for what else would it be there.
        assert!(attempts > calls * 1.1, "{attempts} attempts of {calls}");
        let metrics = mesh.caller().metrics().await;
        let of = |name, label| metrics.sum(name, &[("service", services::ECHO), label]);
        let kind = if way == Way::Refuse {
            "refused"
        } else {
            "repeat"
        };
        // None was made without being counted.
        let counted = of("sidelane_retries_total", ("kind", kind));
        assert!(counted + 0.5 > attempts - calls, "{counted}");
        assert!(counted <= most - calls, "{counted}");
        assert!(of("sidelane_retries_withheld_total", ("why", "budget")) > 0.5);
    }
}

#[tokio::test]
async fn a_budget_of_its_rules_own_is_kept() {
    let mesh = mesh(&[Way::Unavailable]).await;
    mesh.apply(|rule| {
        rule.methods = vec![idempotent("Unary")];
        rule.retry = retry(2, &[]).map(|retry| wire::Retry {
            budget_percent: Some(0),
            budget_per_second: Some(1),
            pause: "1ms".to_owned(),
            ..retry
        });
    })
    .await;
    let (calls, time) = mesh.storm(Duration::from_secs(2)).await;
    let further = (mesh.attempts() as u64).saturating_sub(calls);
    // The budget was made with the default's first second.
    let most = 11 + time.as_secs() + 1;
    assert!(further <= most, "{further} further attempts in {time:?}");
}

#[tokio::test]
async fn pushback_is_obeyed_to_within_20_ms() {
    let mesh = mesh(&[Way::Pushback("200")]).await;
    mesh.apply(|rule| {
        rule.methods = vec![idempotent("Unary")];
        rule.retry = retry(2, &[]);
    })
    .await;
    // The machine may be busy during one while, or two.
    let mut longest = Vec::new();
    for _ in 0..3 {
        let mut pauses = Vec::new();
        for _ in 0..5 {
            let (attempts, code) = mesh.attempts_of_a_call().await;
            assert_eq!((attempts, code), (2, Code::Unavailable));
            let arrivals = mesh.servers[0].arrivals();
            let [.., first, second] = arrivals.as_slice() else {
                panic!("two attempts");
            };
            let pause = *second - *first;
            assert!(pause >= Duration::from_millis(199), "too soon: {pause:?}");
            pauses.push(pause);
        }
        longest.extend(pauses.into_iter().max());
        if longest.last() <= Some(&Duration::from_millis(220)) {
            break;
        }
    }
    println!("the longest of five pauses of 200 ms, while by while: {longest:?}");
    assert!(
        longest.last() <= Some(&Duration::from_millis(220)),
        "{longest:?}"
    );
    // A server that wants none gets none.
    mesh.servers[0].now(Way::Pushback("-1"));
    assert_eq!(mesh.attempts_of_a_call().await.0, 1);
    let metrics = mesh.caller().metrics().await;
    let labels = [("service", services::ECHO), ("why", "pushback")];
    let withheld = metrics.sum("sidelane_retries_withheld_total", &labels);
    assert!((withheld - 1.0).abs() < 0.5, "{withheld}");
}

#[tokio::test]
async fn errors_amid_traffic_are_tried_again_and_what_has_begun_is_not() {
    let mesh = mesh(&[Way::Unavailable, Way::Well]).await;
    mesh.apply(|rule| {
        rule.methods = vec![idempotent("Unary")];
        rule.retry = retry(3, &[]);
    })
    .await;
    // One in two meets the server that fails, and is well answered by the other.
    for _ in 0..10 {
        assert_eq!(mesh.call().await.code(), Code::Ok);
    }
    assert!(mesh.servers[0].count() >= 4);
    mesh.servers[1].now(Way::Unavailable);
    assert_eq!(mesh.attempts_of_a_call().await, (3, Code::Unavailable));
    mesh.servers[0].now(Way::Begun);
    mesh.servers[1].now(Way::Begun);
    assert_eq!(mesh.attempts_of_a_call().await, (1, Code::Unavailable));
}

#[tokio::test]
async fn what_may_not_run_twice_goes_elsewhere_only_if_it_was_not_looked_at() {
    let mesh = mesh(&[Way::Well, Way::Well]).await;
    mesh.apply(|rule| rule.methods = vec![unary("Unary")]).await;
    let both = |way| {
        for server in &mesh.servers {
            server.now(way);
        }
    };
    for way in [Way::Unavailable, Way::Pushback("1"), Way::Begun] {
        both(way);
        assert_eq!(mesh.attempts_of_a_call().await, (1, Code::Unavailable));
    }
    both(Way::NotFound);
    assert_eq!(mesh.attempts_of_a_call().await, (1, Code::NotFound));
    // Each refuses once.
    both(Way::Refuse);
    assert_eq!(mesh.attempts_of_a_call().await, (2, Code::Unavailable));
    mesh.servers[0].now(Way::Well);
    for _ in 0..10 {
        assert_eq!(mesh.call().await.code(), Code::Ok);
    }
}

#[tokio::test]
async fn a_breaker_opens_probes_once_and_closes_again() {
    let mesh = mesh(&[Way::Unavailable, Way::Well]).await;
    mesh.apply(|rule| {
        rule.methods = vec![unary("Unary")];
        rule.breaker = Some(wire::Breaker {
            open: "2s".to_owned(),
            max_open: "20s".to_owned(),
            ..wire::Breaker::default()
        });
    })
    .await;
    let explain = format!("/{}/Unary", services::ECHO);
    // Round robin: five of ten calls fail, and then none does.
    let mut failed = 0;
    for _ in 0..30 {
        failed += usize::from(mesh.call().await.code() == Code::Unavailable);
    }
    assert_eq!(failed, 5);
    assert_eq!(mesh.servers[0].count(), 5);
    let shown = candidates(&mesh.caller().explain(&explain).await);
    let open = shown.iter().find(|it| it["node_id"] == "a").unwrap();
    assert_eq!(open["eligible"], false);
    let reason = open["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("its breaker is open for another "),
        "{reason}"
    );
    assert!(reason.ends_with(" s: 5 failures in a row"), "{reason}");

    // Not before the time, less a fifth of it; then one call, and while that is under way all
    // others go elsewhere, however many there are at once.
    mesh.servers[0].now(Way::Held);
    let opened = *mesh.servers[0].arrivals().last().unwrap();
    let mut calls = tokio::task::JoinSet::new();
    while mesh.servers[0].count() == 5 {
        for _ in 0..10 {
            calls.spawn(call(mesh.client.clone()));
        }
        sleep(Duration::from_millis(10)).await;
        assert!(opened.elapsed() < LIMIT, "no probe");
    }
    let waited = mesh.servers[0].arrivals()[5] - opened;
    assert!(waited >= Duration::from_millis(1_600), "{waited:?}");
    for _ in 0..20 {
        assert_eq!(mesh.call().await.code(), Code::Ok);
    }
    mesh.servers[0].now(Way::Unavailable);
    let answers = calls.join_all().await;
    let failed = answers.iter().filter(|it| it.code() != Code::Ok).count();
    assert_eq!((failed, mesh.servers[0].count()), (1, 6));
    // It failed: the breaker is open for another while.
    for _ in 0..20 {
        assert_eq!(mesh.call().await.code(), Code::Ok);
    }
    assert_eq!(mesh.servers[0].count(), 6);

    // It is well again: two probes, and it takes its turns.
    mesh.servers[0].now(Way::Well);
    let second = Instant::now();
    while mesh.servers[0].count() < 8 {
        assert_eq!(mesh.call().await.code(), Code::Ok);
        assert!(second.elapsed() < LIMIT, "not taken back");
    }
    let before = mesh.servers[0].count();
    for _ in 0..20 {
        assert_eq!(mesh.call().await.code(), Code::Ok);
    }
    assert_eq!(mesh.servers[0].count() - before, 10);
    let metrics = mesh.caller().metrics().await;
    for (to, expected) in [("open", 2.0), ("half_open", 2.0), ("closed", 1.0)] {
        let labels = [("service", services::ECHO), ("to", to)];
        let changes = metrics.sum("sidelane_breaker_changes_total", &labels);
        assert!((changes - expected).abs() < 0.5, "{to}: {changes}");
    }
}

#[tokio::test]
async fn by_default_an_open_breaker_steers_and_never_shuts_a_service() {
    // A service of which no rule says anything.
    let mesh = mesh(&[Way::Held, Way::Unavailable]).await;
    // Calls with too little time: six at each.
    let hasty = [("grpc-timeout", "20m")];
    let request = UnaryRequest::default();
    for _ in 0..12 {
        let answer = mesh.client.unary(ECHO_UNARY, &hasty, &request).await;
        assert_ne!(answer.unwrap().grpc_status().unwrap().code(), Code::Ok);
    }
    let path = format!("/{}/Unary", services::ECHO);
    let metrics = mesh.caller().metrics().await;
    let labels = [("service", services::ECHO)];
    let opened = metrics.sum("sidelane_breaker_changes_total", &labels);
    assert!(opened > 0.5, "none has opened");
    // Whoever has the time is answered, whichever is open.
    for server in &mesh.servers {
        server.now(Way::Well);
    }
    for _ in 0..20 {
        assert_eq!(mesh.attempts_of_a_call().await, (1, Code::Ok));
    }
    // One that fails alone is left alone.
    mesh.servers[0].now(Way::Unavailable);
    let begun = Instant::now();
    loop {
        for _ in 0..10 {
            mesh.call().await;
        }
        let shown = candidates(&mesh.caller().explain(&path).await);
        let failing = shown.iter().find(|it| it["node_id"] == "a").unwrap();
        if failing["eligible"] == false {
            let reason = failing["reason"].as_str().unwrap();
            assert!(reason.ends_with("; others are preferred"), "{reason}");
            break;
        }
        assert!(begun.elapsed() < LIMIT, "{shown:?}");
    }
    let before = mesh.servers[0].count();
    let mut failed = 0;
    for _ in 0..20 {
        failed += usize::from(mesh.call().await.code() != Code::Ok);
    }
    // On a busy machine it may be time for a probe, which fails.
    assert!(failed <= 1, "{failed} calls failed");
    assert_eq!(mesh.servers[0].count(), before + failed, "not left alone");
    let explained = mesh.caller().explain(&path).await.body;
    assert!(
        explained.contains("steers, and refuses only where a rule says"),
        "{explained}"
    );
}

#[tokio::test]
async fn when_every_breaker_of_a_rules_own_is_open_the_call_says_so_and_nobody_is_asked() {
    let mesh = mesh(&[Way::NotFound]).await;
    mesh.apply(|rule| {
        rule.methods = vec![unary("Unary")];
        rule.breaker = Some(wire::Breaker::default());
    })
    .await;
    // An app's own answers are no failures, whatever they say.
    for _ in 0..10 {
        assert_eq!(mesh.call().await.code(), Code::NotFound);
    }
    mesh.servers[0].now(Way::Unavailable);
    for _ in 0..5 {
        assert_eq!(mesh_reason(&mesh.call().await), None);
    }
    let status = mesh.call().await;
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(mesh_reason(&status).as_deref(), Some("BREAKER_OPEN"));
    let text = status.message();
    assert!(text.contains("5 failures in a row"), "{text}");
    assert_eq!(mesh.servers[0].count(), 15);
    let metrics = mesh.caller().metrics().await;
    let labels = [("service", services::ECHO), ("reason", "BREAKER_OPEN")];
    assert!(metrics.sum("sidelane_errors_total", &labels) > 0.5);
    // A node that is named is asked all the same.
    let named = [("sidelane-node", "a")];
    let request = UnaryRequest::default();
    let answer = mesh.client.unary(ECHO_UNARY, &named, &request).await;
    let status = answer.unwrap().grpc_status().unwrap();
    assert_eq!(mesh_reason(&status), None, "{status:?}");
    assert_eq!(mesh.servers[0].count(), 16);
}

#[tokio::test]
async fn an_endpoint_that_fails_more_often_than_the_others_is_left_alone() {
    let mesh = mesh(&[Way::Well, Way::Well, Way::Well]).await;
    mesh.apply(|rule| {
        rule.methods = vec![unary("Unary")];
        rule.outlier = Some(wire::Outlier::default());
    })
    .await;
    // Two of its answers in three are well: neither a run nor a share that would open its breaker,
    // which is off besides.
    let began = Instant::now();
    loop {
        for way in [Way::Well, Way::Unavailable, Way::Well] {
            mesh.servers[0].now(way);
            for _ in 0..3 {
                mesh.call().await;
            }
        }
        sleep(Duration::from_millis(5)).await;
        let metrics = mesh.caller().metrics().await;
        let labels = [("service", services::ECHO)];
        let open = metrics.sum("sidelane_breakers_open", &labels);
        if open > 0.5 {
            break;
        }
        assert!(began.elapsed() < LIMIT, "it is not found out");
    }
    let before = mesh.servers[0].count();
    for _ in 0..30 {
        mesh.call().await;
    }
    assert_eq!(mesh.servers[0].count(), before);
    let explain = format!("/{}/Unary", services::ECHO);
    let shown = candidates(&mesh.caller().explain(&explain).await);
    let open = shown.iter().find(|it| it["node_id"] == "a").unwrap();
    let reason = open["reason"].as_str().unwrap();
    assert!(reason.ends_with("far fewer than elsewhere"), "{reason}");
}

#[tokio::test]
async fn an_app_beside_its_caller_is_asked_and_judged_by_a_breaker_only_where_it_is_picked() {
    const TURNS: wire::LoadBalancing = wire::LoadBalancing::RoundRobin;
    const BY_KEY: wire::LoadBalancing = wire::LoadBalancing::ConsistentHash;
    let mesh = mesh(&[Way::Unavailable]).await;
    let beside = mesh.cluster.node("a");
    let client = RawClient::connect(beside.outbound()).await.unwrap();
    // How many of so many calls reach the app, and what becomes of the last one.
    let calls = async |strategy: wire::LoadBalancing| {
        let rule = with(rule(services::ECHO, Lane::GENERAL), |rule| {
            rule.load_balancing = strategy.into();
            rule.breaker = Some(wire::Breaker::default());
        });
        applied(mesh.cluster.control(), &[beside], rule).await;
        let before = mesh.servers[0].count();
        let mut last = call(client.clone()).await;
        for _ in 1..12 {
            last = call(client.clone()).await;
        }
        (mesh.servers[0].count() - before, last)
    };
    let opened = async || {
        let labels = [("service", services::ECHO), ("to", "open")];
        let metrics = beside.metrics().await;
        metrics.sum("sidelane_breaker_changes_total", &labels)
    };
    // It stands nearest, and no endpoint is picked: how it is its health says.
    let (reached, last) = calls(TURNS).await;
    assert_eq!((reached, last.code()), (12, Code::Unavailable));
    assert!(opened().await < 0.5);
    // By a key it is one of the hub's endpoints like any other.
    let (reached, last) = calls(BY_KEY).await;
    assert_eq!((reached, last.code()), (5, Code::Unavailable));
    assert!(last.message().contains("breaker"), "{}", last.message());
    assert!((opened().await - 1.0).abs() < 0.5);
}

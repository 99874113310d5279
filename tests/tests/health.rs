//! Local services that are looked at while nobody calls them: what their health services say, and
//! that they do not answer at all, is known to everybody's hub within a second of being found.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use sidelane_tests::cluster::Node;
use sidelane_tests::hub::{HubWatch, of};
use sidelane_tests::{RawUpstream, Upstream, ask, cluster, services};

const SECOND: Duration = Duration::from_secs(1);
/// How long anything may take on a machine that is busy with other things.
const NEWS: Duration = Duration::from_secs(20);

/// When the sidecar said so in its log, as its own clock has it.
async fn found(node: &Node, what: &str) -> Instant {
    let begun = Instant::now();
    while !node.log().contains(what) {
        assert!(begun.elapsed() < NEWS, "{}", node.end_of_log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Instant::now()
}

#[tokio::test]
async fn what_a_health_service_says_is_in_all_hubs_within_a_second() {
    let upstream = Upstream::named("callee").with_health().start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("callee")
        .with("--health-interval", "100ms")
        .serving(services::ECHO, &upstream)
        .serving(services::BEAT, &upstream)
        .start()
        .await;
    let (caller, callee) = (mesh.node("caller"), mesh.node("callee"));
    let hub = HubWatch::start(caller.admin());
    let is = |health: &'static str| {
        move |held: &[_]| of(held, "callee").is_some_and(|it| it.health == health)
    };
    hub.sees("it is well", NEWS, is("healthy")).await;

    // By its own name, and only that one.
    upstream.says(services::ECHO, false).await;
    let found_at = found(callee, "the local service is unhealthy").await;
    let left = hub.sees("it is ill", NEWS, is("unhealthy")).await.at;
    assert!(left < found_at + SECOND, "{:?}", left - found_at);
    let answer = callee.get("/readyz").await;
    let why = format!(
        "{} at {}: its health service says NOT_SERVING",
        services::ECHO,
        upstream.address()
    );
    assert!(answer.body.contains(&why), "{}", answer.body);
    let local = callee.config().await["local"].clone();
    assert_eq!(local[0]["health"], "unhealthy", "{local}");
    assert_eq!(local[0]["last_look"], "not_serving", "{local}");
    assert_eq!(local[1]["health"], "healthy", "{local}");
    let refused = ask::who(caller).await.unwrap_err();
    assert!(refused.message().contains("1 unhealthy"), "{refused:?}");

    upstream.says(services::ECHO, true).await;
    hub.sees("it is well again", NEWS, is("healthy")).await;
    assert_eq!(ask::who(caller).await.unwrap(), "callee");

    // A name that it does not know goes by the server as a whole.
    upstream.says("", false).await;
    callee
        .answers("/config", |answer| {
            let config: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
            config["local"][1]["health"] == "unhealthy"
        })
        .await;
    assert_eq!(ask::who(caller).await.unwrap(), "callee");

    let metrics = callee.metrics().await;
    for result in ["serving", "not_serving"] {
        let looks = metrics.sum("sidelane_health_looks_total", &[("result", result)]);
        assert!(looks > 0.0, "{result}");
    }
    // No look is a call of the mesh.
    let calls = metrics.sum(
        "sidelane_requests_total",
        &[("service", "grpc.health.v1.Health")],
    );
    assert_eq!(calls, 0.0);
}

#[tokio::test]
async fn beside_an_app_that_is_not_well_calls_go_to_others() {
    let one = Upstream::named("one").with_health().start().await;
    let two = Upstream::named("two").with_health().start().await;
    let mesh = cluster!()
        .control()
        .node("one")
        .with("--health-interval", "50ms")
        .serving(services::ECHO, &one)
        .node("two")
        .serving(services::ECHO, &two)
        .start()
        .await;
    let node = mesh.node("one");
    assert_eq!(ask::until_answered(node).await, "one");
    one.says(services::ECHO, false).await;
    found(node, "the local service is unhealthy").await;
    for _ in 0..20 {
        assert_eq!(ask::who(node).await.unwrap(), "two");
    }
    let explained = node.explain(ask::ECHO_UNARY).await.body;
    assert!(explained.contains("it is not well"), "{explained}");
    assert!(explained.contains("\"pick\": \"two\""), "{explained}");

    // Better one that says it is ill than nobody.
    mesh.node("two").stop(Duration::from_secs(20)).await;
    assert_eq!(ask::until_answered(node).await, "one");

    one.says(services::ECHO, true).await;
    found(node, "the local service is well").await;
    assert_eq!(ask::who(node).await.unwrap(), "one");
}

#[tokio::test]
async fn with_connections_alone_nobody_asks_the_health_service() {
    let upstream = Upstream::named("callee").with_health().start().await;
    upstream.says("", false).await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("callee")
        .with("--health", "tcp")
        .with("--health-interval", "50ms")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let before = upstream.connections();
    let begun = Instant::now();
    while upstream.connections() < before + 3 {
        assert!(begun.elapsed() < NEWS, "nobody looks");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(ask::who(mesh.node("caller")).await.unwrap(), "callee");
}

/// A server that takes connections, and answers while it may.
async fn hanging() -> (RawUpstream, Arc<AtomicBool>, Arc<AtomicUsize>) {
    let (hangs, taken) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicUsize::new(0)),
    );
    let (silent, count) = (Arc::clone(&hangs), Arc::clone(&taken));
    let upstream = RawUpstream::connections(move |stream| {
        count.fetch_add(1, Ordering::Relaxed);
        let silent = Arc::clone(&silent);
        async move {
            if silent.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
            let Ok(mut connection) = h2::server::handshake(stream).await else {
                return;
            };
            while let Some(Ok((_, mut respond))) = connection.accept().await {
                let none = http::Response::builder().header("grpc-status", "12");
                let _ = respond.send_response(none.body(()).unwrap(), true);
            }
        }
    })
    .await;
    (upstream, hangs, taken)
}

#[tokio::test]
async fn silence_is_believed_after_so_many_looks_and_an_answer_after_so_many() {
    let (upstream, hangs, taken) = hanging().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("callee")
        .with("--health-interval", "100ms")
        .with("--health-timeout", "200ms")
        .with("--unhealthy-after", "4")
        .with("--healthy-after", "3")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let hub = HubWatch::start(mesh.node("caller").admin());
    let healthy = |held: &[_]| of(held, "callee").is_some_and(|it| it.unfit.is_empty());
    hub.sees("it is well", NEWS, healthy).await;

    let (before, begun) = (taken.load(Ordering::Relaxed), Instant::now());
    hangs.store(true, Ordering::Relaxed);
    hub.sees("it is ill", NEWS, |held| !healthy(held)).await;
    let (looks, lasted) = (taken.load(Ordering::Relaxed) - before, begun.elapsed());
    assert!(looks >= 4, "{looks} looks");
    assert!(lasted >= Duration::from_millis(4 * 200), "{lasted:?}");
    let local = mesh.node("callee").config().await["local"][0].clone();
    assert_eq!(local["last_look"], "silent", "{local}");
    assert_eq!(local["why"], "no answer within 200 ms", "{local}");

    let before = taken.load(Ordering::Relaxed);
    hangs.store(false, Ordering::Relaxed);
    hub.sees("it is well again", NEWS, healthy).await;
    let looks = taken.load(Ordering::Relaxed) - before;
    assert!(looks >= 3, "{looks} looks");
}

#[tokio::test]
async fn an_app_that_dies_is_known_before_anybody_calls_it_again() {
    let mut upstream = Upstream::named("callee").start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("callee")
        // Nobody would look for an hour.
        .with("--health-interval", "1h")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let caller = mesh.node("caller");
    let hub = HubWatch::start(caller.admin());
    assert_eq!(ask::until_answered(caller).await, "callee");
    let calls = |metrics: sidelane_tests::admin::Metrics| {
        metrics.sum("sidelane_attempts_total", &[("direction", "outbound")])
    };
    let before = calls(caller.metrics().await);
    upstream.abort();
    let ill = |held: &[_]| of(held, "callee").is_some_and(|it| it.health == "unhealthy");
    hub.sees("it is ill", NEWS, ill).await;
    assert_eq!(calls(caller.metrics().await), before);
}

#[tokio::test]
async fn looks_end_with_the_drain() {
    let upstream = Upstream::named("callee").with_health().start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("callee")
        .with("--health-interval", "50ms")
        .with("--grace", "60s")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let callee = mesh.node("callee");
    // A connection of the app's, so that the drain takes its whole grace.
    let app = tokio::net::TcpStream::connect(callee.outbound())
        .await
        .unwrap();
    assert_eq!(callee.post("/drain").await.status, 202);
    callee
        .answers("/readyz?for=inbound", |answer| {
            answer.body.contains("draining")
        })
        .await;
    let looks = |metrics: sidelane_tests::admin::Metrics| {
        metrics.sum("sidelane_health_looks_total", &[("result", "serving")])
    };
    let before = looks(callee.metrics().await);
    assert!(before > 0.0);
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(looks(callee.metrics().await), before);
    drop(app);
    callee.exited(NEWS).await;
}

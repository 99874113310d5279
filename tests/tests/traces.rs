//! Traces of calls through real sidecars, as a collector gets them: which calls are recorded, whose
//! child each span is, and what it says. What goes on in a call's headers is read at the server.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use sidelane_proto::model::Lane;
use sidelane_proto::wire::routing::v1 as wire;
use sidelane_tests::applied::{applied, idempotent, retry, rule, tuning, unary, with};
use sidelane_tests::ask::{ECHO_UNARY, ask, ask_over, until_answered};
use sidelane_tests::client::RawClient;
use sidelane_tests::cluster::Node;
use sidelane_tests::collector::{Collector, Span, line, orphans, pair};
use sidelane_tests::moody::{self, Way};
use sidelane_tests::users::{Form, Front};
use sidelane_tests::wire::v1::{Behaviour, ChatRequest, UnaryResponse};
use sidelane_tests::{Cluster, Upstream, cluster, services, unruled};
use tonic::metadata::MetadataMap;
use tonic::{Code, Response};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const APP: &str = "00f067aa0ba902b7";
const CHAT: &str = "/sidelane.test.v1.Echo/Chat";
const METHOD: &str = "sidelane.test.v1.Echo/Unary";
/// As a span has them.
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
/// In which a sidecar that ends does.
const ENDS: Duration = Duration::from_secs(20);

/// What the server got of each call.
type Seen = Arc<Mutex<Vec<MetadataMap>>>;

/// A server that writes down what comes with calls.
async fn noting() -> (Upstream, Seen) {
    let seen = Seen::default();
    let noted = Arc::clone(&seen);
    let upstream = Upstream::named("callee").answering_unary(move |request| {
        noted.lock().unwrap().push(request.metadata().clone());
        async { Ok(Response::new(UnaryResponse::default())) }
    });
    (upstream.start().await, seen)
}

/// A caller and a callee, both with these flags.
async fn mesh(upstream: &Upstream, collector: &str, flags: &[&str]) -> Cluster {
    pair(cluster!(), upstream, collector, flags).await
}

fn parent(flags: &str) -> String {
    format!("00-{TRACE}-{APP}-{flags}")
}

fn last(seen: &Seen, name: &str) -> Option<String> {
    let seen = seen.lock().unwrap();
    let values = seen.last().unwrap().get_all(name).iter();
    let values: Vec<&str> = values.map(|it| it.to_str().unwrap()).collect();
    (!values.is_empty()).then(|| values.join("|"))
}

fn of<'a>(spans: &'a [Span], node: &str) -> Vec<&'a Span> {
    let of_node = spans.iter().filter(|span| span.node() == Some(node));
    of_node.collect()
}

fn the<'a>(spans: &'a [Span], node: &str) -> &'a Span {
    let of_node = of(spans, node);
    assert_eq!(of_node.len(), 1, "{node}: {of_node:#?}");
    of_node[0]
}

#[tokio::test]
async fn a_call_through_two_sidecars_is_one_trace_below_the_apps_own_span() {
    let collector = Collector::start().await;
    let (upstream, seen) = noting().await;
    let mesh = mesh(&upstream, &collector.url(), &["--sampling 0"]).await;
    let client = RawClient::connect(mesh.node("caller").outbound())
        .await
        .unwrap();
    let parent = parent("01");
    let headers = [
        ("traceparent", parent.as_str()),
        ("tracestate", "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE"),
        ("baggage", "userId=alice"),
    ];
    ask_over(&client, ECHO_UNARY, &headers).await;
    let spans = collector.trace(TRACE, 2).await;
    let (outer, inner) = (the(&spans, "caller"), the(&spans, "callee"));
    assert_eq!((outer.parent.as_str(), outer.kind), (APP, CLIENT));
    assert_eq!((&inner.parent, inner.kind), (&outer.id, SERVER));
    // The app goes on from its own sidecar's.
    let onward = format!("00-{TRACE}-{}-01", inner.id);
    assert_eq!(last(&seen, "traceparent"), Some(onward));
    assert_eq!(last(&seen, "tracestate").unwrap(), headers[1].1);
    assert_eq!(last(&seen, "baggage").unwrap(), "userId=alice");

    for span in [outer, inner] {
        assert_eq!((&*span.name, &*span.scope), (METHOD, "sidelane-sidecar"));
        let expected = [
            ("rpc.system.name", "grpc"),
            ("rpc.method", METHOD),
            ("rpc.response.status_code", "OK"),
            ("sidelane.lane", "general"),
            ("sidelane.connection", "Internal"),
            ("sidelane.attempts", "1"),
        ];
        for (name, value) in expected {
            assert_eq!(span.attribute(name), value);
        }
        assert_eq!((&span.failure, span.links.len()), (&None, 0));
        // By default each node's spans are found by its name.
        assert_eq!(Some(&*span.resource["service.name"]), span.node());
        assert_eq!(Some(&*span.resource["service.instance.id"]), span.node());
        assert_eq!(span.resource["sidelane.network"], "default");
        assert_eq!(span.attribute("server.address"), services::ECHO);
        assert!(span.attribute("sidelane.rule").contains("echo.proto"));
        assert_eq!(span.state, headers[1].1);
        assert!(span.time.0 <= span.time.1);
    }
    assert_eq!(outer.attribute("sidelane.node"), "callee");
    assert_eq!(inner.attribute("sidelane.node"), "caller");
    assert_eq!(outer.attribute("network.peer.address"), "127.0.0.1");
    let port = mesh.node("callee").internal().port().to_string();
    assert_eq!(outer.attribute("network.peer.port"), port);
    let port = upstream.address().port().to_string();
    assert_eq!(
        inner.events("sidelane.attempt")[0]["network.peer.port"],
        port
    );
    // One machine, one clock: what is inside lies within.
    assert!(outer.time.0 <= inner.time.0 && inner.time.1 <= outer.time.1);
}

#[tokio::test]
async fn what_others_decided_holds_and_what_begins_here_goes_by_the_share() {
    let collector = Collector::start().await;
    let (upstream, seen) = noting().await;
    let mesh = mesh(&upstream, &collector.url(), &["--sampling 0.5"]).await;
    let client = RawClient::connect(mesh.node("caller").outbound())
        .await
        .unwrap();
    // Not recorded: it goes on as it came.
    let no = parent("00");
    for _ in 0..20 {
        ask_over(&client, ECHO_UNARY, &[("traceparent", &no)]).await;
        assert_eq!(last(&seen, "traceparent").as_ref(), Some(&no));
    }
    // What is none is begun anew, and its state ends with it.
    let bad = no.to_uppercase();
    let two = [
        ("traceparent", &*bad),
        ("tracestate", "a=1"),
        ("baggage", "k=v"),
    ];
    let mut recorded = 0;
    for _ in 0..60 {
        ask_over(&client, ECHO_UNARY, &two).await;
        let begun = last(&seen, "traceparent").unwrap();
        assert!(begun.len() == 55 && !begun.contains(TRACE), "{begun}");
        assert_eq!(last(&seen, "tracestate"), None);
        assert_eq!(last(&seen, "baggage").unwrap(), "k=v");
        recorded += usize::from(begun.ends_with("-01"));
    }
    assert!((10..=50).contains(&recorded), "{recorded} of 60");
    // When it has ended, whatever a sidecar would have sent is there.
    drop(client);
    mesh.node("caller").stop(ENDS).await;
    mesh.node("callee").stop(ENDS).await;
    let spans = collector.spans();
    assert_eq!(spans.len(), 2 * recorded);
    assert!(orphans(&spans).is_empty());
    assert!(spans.iter().all(|span| span.trace != TRACE));
    assert_eq!(of(&spans, "callee").len(), recorded);
    for span in of(&spans, "callee") {
        let [inner, outer] = line(&spans, span)[..] else {
            panic!("{span:#?}");
        };
        assert_eq!((inner.kind, outer.kind), (SERVER, CLIENT));
    }
}

#[tokio::test]
async fn calls_that_fail_are_recorded_where_that_is_asked_for() {
    let collector = Collector::start().await;
    let upstream = Upstream::named("callee").start().await;
    let flags = ["--sampling 0", "--sample-errors"];
    let mesh = mesh(&upstream, &collector.url(), &flags).await;
    let caller = mesh.node("caller");
    let no = parent("00");
    for _ in 0..5 {
        ask(caller, ECHO_UNARY, &[("traceparent", &no)]).await;
    }
    let begun = Instant::now();
    let late = [("traceparent", &*no), ("grpc-timeout", "150m")];
    let slow = sidelane_tests::wire::v1::UnaryRequest {
        behaviour: Some(Behaviour {
            delay_ms: 5_000,
            ..Behaviour::default()
        }),
        ..Default::default()
    };
    let client = RawClient::connect(caller.outbound()).await.unwrap();
    let answer = client.unary(ECHO_UNARY, &late, &slow).await.unwrap();
    assert_eq!(answer.grpc_status().unwrap().code(), Code::DeadlineExceeded);
    let took = begun.elapsed();
    let spans = collector.trace(TRACE, 2).await;
    let (outer, inner) = (the(&spans, "caller"), the(&spans, "callee"));
    assert_eq!((&*outer.parent, &inner.parent), (APP, &outer.id));
    assert_eq!(outer.attribute("sidelane.error"), "DEADLINE");
    assert_eq!(
        outer.attribute("rpc.response.status_code"),
        "DEADLINE_EXCEEDED"
    );
    assert!(outer.failure.as_ref().unwrap().contains(ECHO_UNARY));
    // It began when the call did, and not when it was known that it fails.
    let lasted = Duration::from_nanos(outer.time.1 - outer.time.0);
    assert!(
        lasted >= Duration::from_millis(130) && lasted <= took,
        "{lasted:?} of {took:?}"
    );
    // And those that went well are not, however long one waits.
    drop(client);
    caller.stop(ENDS).await;
    mesh.node("callee").stop(ENDS).await;
    assert_eq!(collector.spans().len(), 2);
}

#[tokio::test]
async fn both_attempts_of_a_call_are_seen() {
    let collector = Collector::start().await;
    let flags = [("--otlp", &*collector.url()), ("--sampling", "1")];
    let ways = [Way::Unavailable, Way::Well];
    let mesh = moody::mesh_with(cluster!(), unruled!(), &ways, &flags).await;
    mesh.apply(|rule| {
        rule.methods = vec![idempotent("Unary")];
        rule.retry = retry(3, &["UNAVAILABLE"]);
    })
    .await;
    let parent = parent("01");
    // It takes turns: one of two calls meets the one that is not well first.
    for _ in 0..2 {
        let headers = [("traceparent", &*parent)];
        let answer = ask_over(&mesh.client, ECHO_UNARY, &headers).await;
        assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
    }
    let retried = |spans: &[Span]| {
        let mut outer = of(spans, "caller").into_iter();
        outer
            .find(|it| it.attribute("sidelane.attempts") == "2")
            .cloned()
    };
    let whole = |spans: &[Span]| {
        let below = |it: Span| spans.iter().filter(|inner| inner.parent == it.id).count();
        retried(spans).is_some_and(|it| below(it) == 2)
    };
    let spans = collector.until(whole).await;
    let retried = &retried(&spans).unwrap();
    let attempts = retried.events("sidelane.attempt");
    let nodes: Vec<&str> = attempts.iter().map(|it| &*it["sidelane.node"]).collect();
    assert_eq!(nodes, ["a", "b"]);
    let failed = retried.events("sidelane.attempt.failed");
    assert_eq!(failed.len(), 1, "{retried:#?}");
    assert_eq!(failed[0]["rpc.response.status_code"], "UNAVAILABLE");
    assert_eq!(failed[0]["sidelane.node"], "a");
    assert_eq!(
        (&retried.failure, retried.attribute("sidelane.node")),
        (&None, "b")
    );
    // Both are children of the one call.
    let inner: Vec<&Span> = spans.iter().filter(|it| it.parent == retried.id).collect();
    let mut both: Vec<_> = inner
        .iter()
        .map(|it| (it.node().unwrap(), it.failure.is_some()))
        .collect();
    both.sort_unstable();
    assert_eq!(both, [("a", true), ("b", false)]);
}

#[tokio::test]
async fn a_call_that_a_limit_refuses_says_so_on_both_sides() {
    let collector = Collector::start().await;
    let upstream = Upstream::named("callee").start().await;
    let mut mesh = cluster!().control();
    for name in ["callee", "caller"] {
        mesh = mesh.node(name).running(unruled!());
        mesh = mesh
            .with("--otlp", &collector.url())
            .with("--sampling", "1");
        if name == "callee" {
            mesh = mesh.serving(services::ECHO, &upstream);
        }
    }
    let mesh = mesh.each_ready().await;
    let caller = mesh.node("caller");
    until_answered(caller).await;
    let limited = with(tuning(services::ECHO), |rule| {
        rule.limits = vec![wire::Limit {
            requests_per_second: 1,
            burst: 1,
            ..wire::Limit::default()
        }];
        rule.methods = vec![unary("Unary")];
    });
    let nodes: Vec<&Node> = mesh.nodes().iter().collect();
    applied(mesh.control(), &nodes, limited).await;
    let parent = parent("01");
    let client = RawClient::connect(caller.outbound()).await.unwrap();
    loop {
        let answer = ask_over(&client, ECHO_UNARY, &[("traceparent", &*parent)]).await;
        if answer.grpc_status().unwrap().code() == Code::ResourceExhausted {
            break;
        }
    }
    let refused = |spans: &[Span]| {
        let of_limit = |span: &&Span| {
            span.attributes.get("sidelane.error").map(String::as_str) == Some("RATE_LIMITED")
        };
        spans
            .iter()
            .filter(of_limit)
            .cloned()
            .collect::<Vec<Span>>()
    };
    let spans = collector.until(|spans| refused(spans).len() == 2).await;
    let spans = refused(&spans);
    let (outer, inner) = (the(&spans, "caller"), the(&spans, "callee"));
    assert_eq!(inner.parent, outer.id);
    for span in [outer, inner] {
        assert_eq!(
            span.attribute("rpc.response.status_code"),
            "RESOURCE_EXHAUSTED"
        );
    }
    // To who called it is a failure, with the status that it was answered with; who had too many
    // calls has not failed.
    assert_eq!(outer.attribute("error.type"), "RESOURCE_EXHAUSTED");
    assert!(outer.failure.is_some());
    assert_eq!(
        (&inner.failure, inner.attributes.get("error.type")),
        (&None, None)
    );
    let said = inner.events("sidelane.limit");
    assert_eq!(said.len(), 1, "{inner:#?}");
    assert_eq!(said[0]["sidelane.error"], "RATE_LIMITED");
    assert_eq!(inner.attribute("sidelane.attempts"), "0");
}

#[tokio::test]
async fn a_stream_is_one_span_however_long_it_is() {
    let collector = Collector::start().await;
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream, &collector.url(), &["--sampling 1"]).await;
    let client = RawClient::connect(mesh.node("caller").outbound())
        .await
        .unwrap();
    let parent = parent("01");
    let mut call = client
        .begin(CHAT, &[("traceparent", &parent)])
        .await
        .unwrap();
    for _ in 0..7 {
        call.send(&ChatRequest::default()).unwrap();
    }
    call.end_request().unwrap();
    let answer = call.answer().await.unwrap();
    assert_eq!(answer.messages().unwrap().len(), 7);
    let spans = collector.trace(TRACE, 2).await;
    assert_eq!(spans.len(), 2);
    for span in &spans {
        assert_eq!(span.name, "sidelane.test.v1.Echo/Chat");
        for way in ["request", "response"] {
            assert_eq!(span.attribute(&format!("sidelane.{way}.messages")), "7");
        }
        // Of messages that are empty, the prefixes.
        assert_eq!(span.attribute("sidelane.request.bytes"), "35");
    }
}

#[tokio::test]
async fn a_users_call_begins_a_trace_of_its_own_and_brings_no_baggage() {
    let collector = Collector::start().await;
    let front = Front::new(Form::Pkcs8);
    let (upstream, seen) = noting().await;
    let mesh = front.before(cluster!().control().node("edge").running(unruled!()));
    let mesh = mesh
        .with("--otlp", &collector.url())
        .with("--sampling", "0");
    let mesh = mesh.switched_on("--sample-errors");
    let mesh = mesh.serving(services::ECHO, &upstream).each_ready().await;
    let edge = mesh.node("edge");
    let shown = with(rule(services::ECHO, Lane::GENERAL), |rule| {
        rule.connection = wire::Connection::External.into();
        rule.methods = vec![unary("Unary")];
    });
    applied(mesh.control(), &[edge], shown).await;
    let front = Arc::new(front);
    let client = front.raw(edge.external()).await.unwrap();
    let parent = parent("01");
    let headers = [
        ("traceparent", &*parent),
        ("tracestate", "a=1"),
        ("baggage", "role=admin"),
    ];
    let answer = ask_over(&client, ECHO_UNARY, &headers).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
    let begun = last(&seen, "traceparent").unwrap();
    assert!(!begun.contains(TRACE) && begun.ends_with("-00"), "{begun}");
    assert_eq!(
        (last(&seen, "tracestate"), last(&seen, "baggage")),
        (None, None)
    );
    // Recorded because it fails: it says which trace the user meant.
    let late = [&headers[..], &[("grpc-timeout", "1n")]].concat();
    let answer = ask_over(&client, ECHO_UNARY, &late).await;
    let told = answer.grpc_status().unwrap();
    let spans = collector.until(|spans| !spans.is_empty()).await;
    let span = the(&spans, "edge");
    assert_ne!(span.trace, TRACE);
    assert_eq!((&*span.parent, span.kind), ("", SERVER));
    assert_eq!(span.links, [(TRACE.to_owned(), APP.to_owned())]);
    // What the inside of the mesh is like is in the span, and not in the answer.
    assert_eq!(span.attribute("sidelane.error"), "DEADLINE");
    let inside = "see /metrics of both sidecars";
    assert!(span.failure.as_ref().unwrap().contains(inside), "{span:#?}");
    assert!(!told.message().contains(inside), "{}", told.message());
    // The same of what users may not know of.
    let hidden = ask_over(&client, "/never.v1.Heard/Get", &headers).await;
    let told = hidden.grpc_status().unwrap();
    let spans = collector.until(|spans| spans.len() == 2).await;
    let refused = &spans[1];
    assert_ne!(refused.trace, TRACE);
    assert_eq!(refused.links, [(TRACE.to_owned(), APP.to_owned())]);
    assert_eq!(refused.kind, SERVER);
    let said = &refused.events("sidelane.refused")[0]["sidelane.message"];
    assert!(said.len() > told.message().len(), "{said}");
    assert!(!told.message().contains(&**said), "{said}");
}

#[tokio::test]
async fn nothing_of_a_trace_is_touched_where_none_is_made() {
    let (upstream, seen) = noting().await;
    let mesh = cluster!()
        .control()
        .node("callee")
        .serving(services::ECHO, &upstream);
    let mesh = mesh.node("caller").start().await;
    let long = "k=".to_owned() + &"v".repeat(600);
    let headers = [
        ("traceparent", "none"),
        ("tracestate", "NO"),
        ("baggage", &*long),
    ];
    ask(mesh.node("caller"), ECHO_UNARY, &headers).await;
    for (name, value) in headers {
        assert_eq!(last(&seen, name).as_deref(), Some(value));
    }
    ask(mesh.node("caller"), ECHO_UNARY, &[]).await;
    assert_eq!(last(&seen, "traceparent"), None);
}

#[tokio::test]
async fn a_sidecar_that_ends_sends_what_it_has() {
    let collector = Collector::start().await;
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream, &collector.url(), &["--sampling 1"]).await;
    // Until there are some that wait, since they leave once a second.
    let mut calls = 0;
    loop {
        until_answered(mesh.node("caller")).await;
        calls += 1;
        if calls >= 20 && collector.spans().len() < 2 * calls {
            break;
        }
    }
    mesh.node("caller").stop(ENDS).await;
    mesh.node("callee").stop(ENDS).await;
    let spans = collector.spans();
    assert_eq!(spans.len(), 2 * calls);
    assert!(orphans(&spans).is_empty());
}

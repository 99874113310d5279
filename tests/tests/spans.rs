//! What the span of a call says of how the call went: its attempts, who has answered, why it failed, and
//! what it carried; and that calls have one which end before anybody knows what they are for.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is a failed test"
)]

use std::time::{Duration, Instant};

use http::StatusCode;
use prost::Message;
use serde_json::Value;
use sidelane_process::fetch;
use sidelane_proto::model::{ConnectionClass, Lane};
use sidelane_proto::wire::peer::v1::HelloRequest;
use sidelane_proto::wire::routing::v1 as wire;
use sidelane_tests::applied::{hedged, idempotent, retry, unary};
use sidelane_tests::ask::{ECHO_UNARY, ask_over, until_answered};
use sidelane_tests::client::{RawAnswer, RawClient};
use sidelane_tests::collector::{Collector, Span};
use sidelane_tests::moody::{self, Mesh, Way};
use sidelane_tests::upstream::raw::{RawRequest, RawUpstream};
use sidelane_tests::wire::v1::{ChatRequest, CollectRequest, ExpandRequest, UnaryRequest};
use sidelane_tests::{Cluster, Upstream, cluster, link, services, tunnel, unruled};
use tokio::time::{sleep, timeout};
use tonic::Code;

const APP: &str = "00f067aa0ba902b7";
/// As a span has them.
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
/// In which a sidecar that ends does.
const ENDS: Duration = Duration::from_secs(20);
const LIMIT: Duration = Duration::from_secs(30);

/// The trace of this number.
fn trace(number: usize) -> String {
    format!("{number:032x}")
}

/// A span in it that an app has made.
fn parent(number: usize, flags: &str) -> String {
    format!("00-{}-{APP}-{flags}", trace(number))
}

/// A caller and a server for each way, all with these flags.
async fn moody(collector: &Collector, ways: &[Way], flags: &[(&str, &str)]) -> Mesh {
    let url = collector.url();
    let flags = [&[("--otlp", &*url)], flags].concat();
    moody::mesh_with(cluster!(), unruled!(), ways, &flags).await
}

const ALL: [(&str, &str); 1] = [("--sampling", "1")];

async fn call(mesh: &Mesh, number: usize, flags: &str) -> Code {
    let parent = parent(number, flags);
    let answer = ask_over(&mesh.client, ECHO_UNARY, &[("traceparent", &*parent)]).await;
    answer.grpc_status().unwrap().code()
}

/// The caller's span of this trace, once it is there.
async fn outer(collector: &Collector, number: usize) -> Span {
    let of = |span: &&Span| span.trace == trace(number) && span.kind == CLIENT;
    let spans = collector.until(|spans| spans.iter().any(|span| of(&span)));
    spans.await.iter().find(of).unwrap().clone()
}

fn nodes(span: &Span, event: &str) -> Vec<String> {
    let of_event = span.events(event).into_iter();
    of_event.map(|it| it["sidelane.node"].clone()).collect()
}

/// A rule by which this share of calls may be made again, and one a second.
fn freely(rule: &mut wire::Rule, percent: u32) {
    rule.retry = retry(3, &["UNAVAILABLE"]).map(|retry| wire::Retry {
        budget_percent: Some(percent),
        budget_per_second: Some(1),
        ..retry
    });
}

async fn ended(cluster: &Cluster, names: &[&str]) {
    for name in names {
        cluster.node(name).stop(ENDS).await;
    }
}

#[tokio::test]
async fn where_failures_are_recorded_a_call_that_was_made_good_leaves_no_orphan() {
    let collector = Collector::start().await;
    let flags = [("--sampling", "0"), ("--sample-errors", "")];
    let mesh = moody(&collector, &[Way::Unavailable, Way::Well], &flags).await;
    mesh.apply(|rule| {
        rule.methods = vec![idempotent("Unary")];
        freely(rule, 100);
    })
    .await;
    assert_eq!(call(&mesh, 1, "00").await, Code::Ok);
    // One of which no attempt failed leaves nothing.
    mesh.servers[0].now(Way::Well);
    assert_eq!(call(&mesh, 2, "00").await, Code::Ok);
    let Mesh {
        cluster, client, ..
    } = mesh;
    drop(client);
    ended(&cluster, &["caller", "a", "b"]).await;
    let spans = collector.spans();
    let [outer, inner] = &spans[..] else {
        panic!("{spans:#?}");
    };
    let (outer, inner) = match outer.kind {
        CLIENT => (outer, inner),
        _ => (inner, outer),
    };
    assert_eq!((&*outer.parent, outer.node()), (APP, Some("caller")));
    assert_eq!((&inner.parent, inner.node()), (&outer.id, Some("a")));
    assert_eq!(outer.attribute("sidelane.attempts"), "2");
    assert_eq!((&outer.failure, inner.failure.is_some()), (&None, true));
}

#[tokio::test]
async fn of_attempts_beside_each_other_the_one_that_answers_is_named_and_the_others_are_cancelled()
{
    let collector = Collector::start().await;
    let slow = Way::Slow(Duration::from_millis(300));
    let mesh = moody(&collector, &[slow, Way::Held], &ALL).await;
    mesh.apply(|rule| {
        rule.methods = vec![hedged("Unary", 20, 2)];
        freely(rule, 100);
    })
    .await;
    let admin = mesh.cluster.node("caller").admin();
    let url = format!("http://{admin}/tap?limit=2&direction=outbound&path={ECHO_UNARY}");
    let mut tap = fetch::lines(&url, LIMIT).await.unwrap().unwrap();
    // Whoever is asked first, the other one is asked too, and `a` answers: the one that was asked last
    // does not.
    for number in 1..=2 {
        assert_eq!(call(&mesh, number, "01").await, Code::Ok);
        let span = outer(&collector, number).await;
        assert_eq!(nodes(&span, "sidelane.attempt"), ["a", "b"]);
        let attempts = span.events("sidelane.attempt");
        let hedges: Vec<_> = attempts.iter().map(|it| it.get("sidelane.hedge")).collect();
        assert_eq!(hedges, [None, Some(&"true".to_owned())], "{span:#?}");
        assert_eq!(nodes(&span, "sidelane.attempt.cancelled"), ["b"]);
        assert_eq!(span.attribute("sidelane.node"), "a");
        let port = mesh.cluster.node("a").internal().port().to_string();
        assert_eq!(span.attribute("network.peer.port"), port);
        assert_eq!(
            (&span.failure, span.attribute("sidelane.attempts")),
            (&None, "2")
        );
    }
    // A tap names the same one.
    let mut told = Vec::new();
    while let Some(line) = timeout(LIMIT, tap.next()).await.unwrap().unwrap() {
        let line: Value = serde_json::from_str(&line).unwrap_or_default();
        if line["kind"] == "call" {
            told.push((line["peer"].clone(), line["attempts"].clone()));
        }
    }
    assert_eq!(told, vec![("a".into(), 2.into()); 2]);
}

#[tokio::test]
async fn what_is_sent_in_place_of_a_failure_is_no_hedge() {
    let collector = Collector::start().await;
    let mesh = moody(&collector, &[Way::Unavailable, Way::Well], &ALL).await;
    mesh.apply(|rule| {
        rule.methods = vec![hedged("Unary", 20_000, 2)];
        freely(rule, 100);
    })
    .await;
    assert_eq!(call(&mesh, 1, "01").await, Code::Ok);
    let span = outer(&collector, 1).await;
    let attempts = span.events("sidelane.attempt");
    assert!(attempts.iter().all(|it| !it.contains_key("sidelane.hedge")));
    assert_eq!(nodes(&span, "sidelane.attempt"), ["a", "b"]);
    assert_eq!(nodes(&span, "sidelane.attempt.failed"), ["a"]);
    assert_eq!(span.attribute("sidelane.node"), "b");
}

#[tokio::test]
async fn what_the_budget_withholds_is_said() {
    let collector = Collector::start().await;
    let mesh = moody(&collector, &[Way::Unavailable, Way::Unavailable], &ALL).await;
    mesh.apply(|rule| {
        rule.methods = vec![idempotent("Unary")];
        freely(rule, 0);
    })
    .await;
    // One a second there is: four at once want more than that.
    let until_withheld = async |from: usize, name: &str| {
        let begun = Instant::now();
        for one in (from..).step_by(4) {
            assert!(begun.elapsed() < LIMIT);
            let [two, three, four] = [one + 1, one + 2, one + 3];
            tokio::join!(
                call(&mesh, one, "01"),
                call(&mesh, two, "01"),
                call(&mesh, three, "01"),
                call(&mesh, four, "01"),
            );
            let mut seen = false;
            for number in [one, two, three, four] {
                let span = outer(&collector, number).await;
                let withheld = span.events(name).into_iter();
                let why: Vec<String> = withheld.map(|it| it["sidelane.why"].clone()).collect();
                if !why.is_empty() {
                    assert_eq!(why, ["budget"], "{span:#?}");
                    seen = true;
                }
            }
            if seen {
                return;
            }
        }
    };
    // What may have run.
    until_withheld(1, "sidelane.retry.withheld").await;
    // What was not looked at.
    for server in &mesh.servers {
        server.now(Way::Refuse);
    }
    until_withheld(1_000, "sidelane.retry.withheld").await;
    mesh.apply(|rule| {
        rule.methods = vec![hedged("Unary", 20, 2)];
        freely(rule, 0);
    })
    .await;
    for server in &mesh.servers {
        server.now(Way::Slow(Duration::from_millis(200)));
    }
    until_withheld(2_000, "sidelane.hedge.withheld").await;
}

#[tokio::test]
async fn an_open_breaker_is_an_event_and_a_reason() {
    let collector = Collector::start().await;
    let mesh = moody(&collector, &[Way::Unavailable], &ALL).await;
    mesh.apply(|rule| {
        rule.methods = vec![unary("Unary")];
        rule.breaker = Some(wire::Breaker::default());
    })
    .await;
    let begun = Instant::now();
    for number in 1.. {
        assert!(begun.elapsed() < LIMIT);
        assert_eq!(call(&mesh, number, "01").await, Code::Unavailable);
        let span = outer(&collector, number).await;
        assert!(span.failure.is_some());
        if span.attribute("sidelane.attempts") == "1" {
            // The app's own answer.
            assert_eq!(span.attribute("error.type"), "UNAVAILABLE");
            assert!(!span.attributes.contains_key("sidelane.error"));
            continue;
        }
        let said = span.events("sidelane.breaker");
        assert_eq!(said[0]["sidelane.error"], "BREAKER_OPEN");
        for name in ["error.type", "sidelane.error"] {
            assert_eq!(span.attribute(name), "BREAKER_OPEN");
        }
        break;
    }
}

#[tokio::test]
async fn a_call_that_its_caller_gives_up_is_its_failure_and_not_its_callees() {
    let collector = Collector::start().await;
    let mesh = moody(&collector, &[Way::Held], &ALL).await;
    mesh.apply(|rule| rule.methods = vec![unary("Unary")]).await;
    let parent = parent(1, "01");
    let headers = [("traceparent", &*parent)];
    let mut call = mesh.client.begin(ECHO_UNARY, &headers).await.unwrap();
    call.send(&UnaryRequest::default()).unwrap();
    call.end_request().unwrap();
    let begun = Instant::now();
    while mesh.servers[0].count() == 0 {
        assert!(begun.elapsed() < LIMIT);
        sleep(Duration::from_millis(1)).await;
    }
    call.cancel();
    for span in &collector.trace(&trace(1), 2).await {
        assert_eq!(span.attribute("rpc.response.status_code"), "CANCELLED");
        let client = span.kind == CLIENT;
        assert_eq!(span.failure.is_some(), client, "{span:#?}");
        let kind = span.attributes.get("error.type").map(String::as_str);
        assert_eq!(kind, client.then_some("CANCELLED"));
        assert_eq!(span.attribute("sidelane.request.messages"), "1");
        assert_eq!(span.attribute("sidelane.response.messages"), "0");
    }
}

#[tokio::test]
async fn a_call_that_breaks_off_behind_a_peer_says_why_at_its_callers_too() {
    let collector = Collector::start().await;
    let upstream = RawUpstream::start(async |request: RawRequest| {
        let mut body = request.answer.begin(StatusCode::OK, &[]);
        body.message(b"");
        // So that the message has gone before.
        sleep(Duration::from_millis(50)).await;
        body.reset(h2::Reason::INTERNAL_ERROR);
    })
    .await;
    let mut mesh = cluster!().control();
    for name in ["callee", "caller"] {
        mesh = mesh.node(name).with("--otlp", &collector.url());
        if name == "callee" {
            mesh = mesh.serving(services::ECHO, &upstream);
        }
    }
    let mesh = mesh.start().await;
    let client = RawClient::connect(mesh.node("caller").outbound()).await;
    let client = client.unwrap();
    let parent = parent(1, "01");
    let answer = ask_over(&client, ECHO_UNARY, &[("traceparent", &*parent)]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Internal);
    let spans = collector.trace(&trace(1), 2).await;
    let span = |kind: i32| spans.iter().find(|span| span.kind == kind).unwrap();
    for kind in [CLIENT, SERVER] {
        assert_eq!(span(kind).attribute("sidelane.error"), "PEER_RESET");
        assert_eq!(span(kind).failure, span(SERVER).failure);
    }
    assert!(
        span(SERVER)
            .failure
            .as_ref()
            .unwrap()
            .contains(services::ECHO)
    );
    // The one has no answer from its app, the other one has the status that its peer made of that.
    assert_eq!(span(SERVER).attribute("error.type"), "PEER_RESET");
    assert_eq!(span(CLIENT).attribute("error.type"), "INTERNAL");
}

#[tokio::test]
async fn each_kind_of_call_says_on_both_sides_how_many_messages_it_carried() {
    let collector = Collector::start().await;
    let upstream = Upstream::named("callee").start().await;
    let mut mesh = cluster!().control();
    for name in ["callee", "caller"] {
        mesh = mesh.node(name).with("--otlp", &collector.url());
        if name == "callee" {
            mesh = mesh.serving(services::ECHO, &upstream);
        }
    }
    let mesh = mesh.start().await;
    until_answered(mesh.node("caller")).await;
    let client = RawClient::connect(mesh.node("caller").outbound()).await;
    let client = client.unwrap();
    let ask = async |number: usize, method: &str, messages: &[Vec<u8>]| -> RawAnswer {
        let parent = parent(number, "01");
        let path = format!("/{}/{method}", services::ECHO);
        let begun = client.begin(&path, &[("traceparent", &*parent)]).await;
        let mut call = begun.unwrap();
        for message in messages {
            call.send(&Encoded(message.clone())).unwrap();
        }
        call.end_request().unwrap();
        call.answer().await.unwrap()
    };
    let four = ExpandRequest {
        messages: 4,
        ..ExpandRequest::default()
    };
    let some = CollectRequest {
        payload: vec![7; 100].into(),
        ..CollectRequest::default()
    };
    let kinds = [
        ("Unary", vec![UnaryRequest::default().encode_to_vec()], 1),
        ("Collect", vec![some.encode_to_vec(); 5], 1),
        ("Expand", vec![four.encode_to_vec()], 4),
        ("Chat", vec![ChatRequest::default().encode_to_vec(); 3], 3),
    ];
    for (number, (method, messages, answers)) in (1..).zip(kinds) {
        let answer = ask(number, method, &messages).await;
        assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok, "{method}");
        let got = answer.messages().unwrap();
        assert_eq!(got.len(), answers, "{method}");
        let sent: usize = messages.iter().map(|it| it.len() + 5).sum();
        let got: usize = got.iter().map(|it| it.len() + 5).sum();
        let spans = collector.trace(&trace(number), 2).await;
        assert_eq!(spans.len(), 2, "{method}");
        for span in &spans {
            let figure = |name: &str| span.attribute(name).parse::<usize>().unwrap();
            assert_eq!(span.name, format!("{}/{method}", services::ECHO));
            assert_eq!(figure("sidelane.request.messages"), messages.len());
            assert_eq!(figure("sidelane.request.bytes"), sent);
            assert_eq!(figure("sidelane.response.messages"), answers);
            assert_eq!(figure("sidelane.response.bytes"), got);
        }
    }
}

/// Bytes of a message.
#[derive(Debug, Default)]
struct Encoded(Vec<u8>);

impl Message for Encoded {
    fn encode_raw(&self, buffer: &mut impl bytes::BufMut) {
        buffer.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: prost::encoding::WireType,
        _: &mut impl bytes::Buf,
        _: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        Ok(())
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

#[tokio::test]
async fn a_call_that_is_passed_on_names_its_destination_and_no_method_that_nobody_knows() {
    let collector = Collector::start().await;
    let outside = Upstream::named("outside").start().await;
    let mesh = cluster!().control().node("caller");
    let mesh = mesh.with("--otlp", &collector.url()).start().await;
    let target = outside.address();
    let proxy = mesh.node("caller").outbound();
    let stream = tunnel::open(proxy, &target.to_string()).await.unwrap();
    let client = RawClient::over(stream).await.unwrap();
    let method = "M".repeat(250);
    let parent = parent(1, "01");
    let path = format!("/unknown.v1.Thing/{method}");
    let answer = ask_over(&client, &path, &[("traceparent", &*parent)]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Unimplemented);
    let spans = collector.trace(&trace(1), 1).await;
    let [span] = &spans[..] else {
        panic!("{spans:#?}");
    };
    assert_eq!((&*span.parent, span.kind), (APP, CLIENT));
    assert_eq!(
        (&*span.name, span.attribute("rpc.method")),
        ("_OTHER", "_OTHER")
    );
    let original = &path[1..=256];
    assert_eq!(span.attribute("rpc.method_original"), original);
    let port = target.port().to_string();
    for (name, value) in [
        ("server.address", "127.0.0.1"),
        ("server.port", &*port),
        ("network.peer.port", &*port),
        ("sidelane.attempts", "1"),
        ("error.type", "UNIMPLEMENTED"),
    ] {
        assert_eq!(span.attribute(name), value, "{name}");
    }
}

#[tokio::test]
async fn a_method_that_its_services_rule_does_not_name_names_no_span() {
    let collector = Collector::start().await;
    let mesh = moody(&collector, &[Way::Well], &ALL).await;
    mesh.apply(|rule| rule.methods = vec![unary("Unary")]).await;
    let parent = parent(1, "01");
    let path = format!("/{}/Nobodys", services::ECHO);
    ask_over(&mesh.client, &path, &[("traceparent", &*parent)]).await;
    let span = outer(&collector, 1).await;
    assert_eq!(span.name, format!("{}/_OTHER", services::ECHO));
    assert_eq!(span.attribute("rpc.method"), "_OTHER");
    assert_eq!(span.attribute("rpc.method_original"), &path[1..]);
    assert_eq!(span.attribute("server.address"), services::ECHO);
}

#[tokio::test]
async fn what_is_refused_before_it_is_known_has_a_span_with_the_reason_where_it_is_recorded() {
    let collector = Collector::start().await;
    let upstream = Upstream::named("callee").start().await;
    let mut mesh = cluster!().control();
    for name in ["callee", "caller"] {
        mesh = mesh.node(name).with("--otlp", &collector.url());
        mesh = mesh.with("--sampling", "0");
        if name == "callee" {
            mesh = mesh.serving(services::ECHO, &upstream);
        }
    }
    let mesh = mesh.start().await;
    let own = RawClient::connect(mesh.node("caller").outbound()).await;
    let own = own.unwrap();
    let callee = mesh.node("callee");
    let link = link::greeted(callee, ConnectionClass::Internal, Lane::GENERAL).await;
    let link = link.unwrap();
    let cases = [
        (&own, "/never.v1.Heard/Get", "UNKNOWN_SERVICE", CLIENT),
        (&own, "/no-path", "NOT_GRPC", CLIENT),
        (&link, "/never.v1.Heard/Get", "UNKNOWN_SERVICE", SERVER),
    ];
    for (number, (client, path, reason, kind)) in (1..).zip(cases) {
        // What others do not record is not recorded either.
        for flags in ["00", "01"] {
            let parent = parent(number, flags);
            ask_over(client, path, &[("traceparent", &*parent)]).await;
        }
        let spans = collector.trace(&trace(number), 1).await;
        let span = &spans[0];
        assert_eq!((&*span.parent, span.kind), (APP, kind));
        assert_eq!(span.attribute("sidelane.error"), reason);
        assert_eq!(span.attribute("rpc.method_original"), &path[1..]);
        assert_eq!(
            (&*span.name, span.attribute("sidelane.attempts")),
            ("_OTHER", "0")
        );
        let said = span.events("sidelane.refused");
        assert_eq!(said[0]["sidelane.error"], reason);
        assert!(!said[0]["sidelane.message"].is_empty());
    }
    // By the side on which it was refused, as all calls are counted.
    let counted = async |node: &str, direction: &str, reason: &str| {
        let metrics = mesh.node(node).metrics().await;
        let labels = [("direction", direction), ("reason", reason)];
        metrics.sum("sidelane_refused_total", &labels)
    };
    assert_eq!(counted("caller", "outbound", "UNKNOWN_SERVICE").await, 2.0);
    assert_eq!(counted("caller", "outbound", "NOT_GRPC").await, 2.0);
    assert_eq!(counted("caller", "inbound", "UNKNOWN_SERVICE").await, 0.0);
    assert_eq!(counted("callee", "inbound", "UNKNOWN_SERVICE").await, 2.0);
    assert_eq!(counted("callee", "outbound", "UNKNOWN_SERVICE").await, 0.0);
    drop((own, link));
    ended(&mesh, &["caller", "callee"]).await;
    assert_eq!(collector.spans().len(), 3);
}

#[tokio::test]
async fn a_sidecars_spans_are_found_by_the_name_that_it_is_given() {
    let collector = Collector::start().await;
    let mesh = cluster!().control().node("orders-1");
    let mesh = mesh.with("--otlp", &collector.url());
    let mesh = mesh.with("--otlp-service", "orders").start().await;
    let node = mesh.node("orders-1");
    let client = RawClient::connect(node.outbound()).await.unwrap();
    let parent = parent(1, "01");
    ask_over(&client, "/never.v1.Heard/Get", &[("traceparent", &*parent)]).await;
    let spans = collector.trace(&trace(1), 1).await;
    assert_eq!(spans[0].resource["service.name"], "orders");
    assert_eq!(spans[0].resource["service.instance.id"], "orders-1");
}

#[tokio::test]
async fn what_a_peer_has_agreed_to_leave_unmarked_is_not_recorded_here_either() {
    let collector = Collector::start().await;
    let upstream = Upstream::named("callee").start().await;
    let mesh = cluster!().control().node("callee");
    let mesh = mesh.with("--otlp", &collector.url());
    let mesh = mesh.with("--sampling", "1");
    let mesh = mesh.serving(services::ECHO, &upstream).start().await;
    let callee = mesh.node("callee");
    let (class, lane) = (ConnectionClass::Internal, Lane::GENERAL);
    for agreed in [true, false] {
        let link = link::open(callee, class, lane).await.unwrap();
        let hello = HelloRequest {
            unmarked_is_unrecorded: agreed,
            ..link::hello(callee, class, lane).await
        };
        let answer = link::say_hello(&link, &hello).await.unwrap().unwrap();
        assert_eq!(answer.unmarked_is_unrecorded, agreed);
        for path in [ECHO_UNARY, "/never.v1.Heard/Get"] {
            ask_over(&link, path, &[]).await;
        }
        // It says of what has a mark what the mark says.
        let number = 1 + usize::from(agreed);
        let parent = parent(number, "01");
        ask_over(&link, ECHO_UNARY, &[("traceparent", &*parent)]).await;
        collector.trace(&trace(number), 1).await;
    }
    ended(&mesh, &["callee"]).await;
    let spans = collector.spans();
    let unmarked = spans.iter().filter(|span| span.parent.is_empty());
    let mut unmarked: Vec<_> = unmarked.map(|span| span.failure.is_some()).collect();
    unmarked.sort_unstable();
    assert_eq!(unmarked, [false, true], "{spans:#?}");
}

//! Apps whose spans join those of their sidecars: app, sidecar, sidecar, app, and from there once
//! more, are one trace, as a collector gets it. One test, since a process has one subscriber.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is a failed test"
)]

mod traced;

use std::collections::HashSet;
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use sidelane_tests::collector::{Collector, Span, line, orphans};
use sidelane_tests::wire::v1::beat_client::BeatClient;
use sidelane_tests::wire::v1::beat_server::BeatServer;
use sidelane_tests::wire::v1::echo_client::EchoClient;
use sidelane_tests::wire::v1::echo_server::EchoServer;
use sidelane_tests::wire::v1::{ChatRequest, PingRequest, UnaryRequest};
use sidelane_tests::{cluster, services};
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Code, Request};
use traced::{Last, Middle, Onward, apps_send_to, listener, traced};
use tracing::Instrument;

const CALLS: usize = 1_000;
/// Calls at once.
const TOGETHER: usize = 16;
/// As a span has them.
const INTERNAL: i32 = 1;
const SERVER: i32 = 2;
const CLIENT: i32 = 3;
const UNARY: &str = "sidelane.test.v1.Echo/Unary";
const CHAT: &str = "sidelane.test.v1.Echo/Chat";
const PING: &str = "sidelane.test.v1.Beat/Ping";

/// From the test's own span to the last app's.
const HOPS: [(&str, &str, i32); 10] = [
    ("app", "test", INTERNAL),
    ("app", PING, CLIENT),
    ("front", PING, CLIENT),
    ("middle", PING, SERVER),
    ("app", PING, SERVER),
    ("app", "work", INTERNAL),
    ("app", UNARY, CLIENT),
    ("middle", UNARY, CLIENT),
    ("last", UNARY, SERVER),
    ("app", UNARY, SERVER),
];

/// Who made a span, and of what kind.
fn made(span: &Span) -> (&str, &str, i32) {
    (span.node().unwrap_or("app"), &span.name, span.kind)
}

/// The spans of the trace of this root, by who made them, from the root down.
fn below<'a>(spans: &'a [Span], from: &'a Span) -> Vec<(&'a str, &'a str, i32)> {
    let mut down: Vec<_> = line(spans, from).into_iter().map(made).collect();
    down.reverse();
    down
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_calls_through_apps_and_sidecars_are_a_thousand_traces_without_an_orphan() {
    let collector = Collector::start().await;
    let provider = apps_send_to(&collector.url());
    let (middle, middle_at) = listener().await;
    let (last, last_at) = listener().await;
    let (seen, mut came) = mpsc::unbounded_channel();
    let onward = Onward::default();
    let server = || Server::builder().layer(sidelane_trace::server());
    let app = server().add_service(BeatServer::new(Middle(Arc::clone(&onward))));
    tokio::spawn(app.serve_with_incoming(TcpListenerStream::new(middle)));
    let app = server().add_service(EchoServer::new(Last(seen)));
    tokio::spawn(app.serve_with_incoming(TcpListenerStream::new(last)));
    let mut mesh = cluster!().control();
    for name in ["front", "middle", "last"] {
        mesh = mesh.node(name).with("--otlp", &collector.url());
        mesh = mesh.with("--sampling", "0");
        mesh = match name {
            "middle" => mesh.serving(services::BEAT, &middle_at),
            "last" => mesh.serving(services::ECHO, &last_at),
            _ => mesh,
        };
    }
    let mesh = mesh.start().await;
    let to_last = traced(mesh.node("middle").outbound()).await;
    onward.set(EchoClient::new(to_last)).unwrap();
    let front = traced(mesh.node("front").outbound()).await;

    let calls = stream::iter(0..CALLS).map(|_| {
        let mut beat = BeatClient::new(front.clone());
        let call = async move { beat.ping(PingRequest::default()).await.unwrap() };
        call.instrument(tracing::info_span!("test"))
    });
    calls.buffer_unordered(TOGETHER).count().await;
    provider.force_flush().unwrap();
    // Sidecars ask apps how they are, too, and the apps see calls in that.
    let calls = |spans: &[Span]| {
        let all = spans.iter().filter(|span| !span.name.contains("health"));
        all.cloned().collect::<Vec<_>>()
    };
    let wanted = CALLS * HOPS.len();
    let spans = collector.until(|spans| calls(spans).len() >= wanted);
    let spans = calls(&spans.await);
    assert_eq!(spans.len(), wanted);
    assert!(orphans(&spans).is_empty(), "{:#?}", orphans(&spans)[0]);
    let ends = spans
        .iter()
        .filter(|span| made(span) == HOPS[HOPS.len() - 1]);
    let mut traces = HashSet::new();
    for end in ends {
        assert_eq!(below(&spans, end), HOPS);
        assert!(traces.insert(&*end.trace), "{end:#?}");
    }
    assert_eq!(traces.len(), CALLS);

    while came.try_recv().is_ok() {}
    let mut request = Request::new(PingRequest::default());
    let baggage = "tier=gold".parse().unwrap();
    request.metadata_mut().insert("baggage", baggage);
    BeatClient::new(front.clone()).ping(request).await.unwrap();
    let brought = came.recv().await.unwrap();
    assert_eq!(brought.get("baggage").unwrap(), "tier=gold");

    // The last app goes on from its own sidecar's span.
    let mut echo = EchoClient::new(front);
    let mut failing = Request::new(UnaryRequest::default());
    let yes = "yes".parse().unwrap();
    failing.metadata_mut().insert("x-test-fails", yes);
    let root = tracing::info_span!("failing");
    let status = echo.unary(failing).instrument(root).await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss);
    let came = came.recv().await.unwrap();
    provider.force_flush().unwrap();
    let of = |spans: &[Span], root: &str| {
        let trace = spans.iter().find(|span| span.name == root);
        let trace = trace.map(|span| span.trace.clone());
        let of_trace = |span: &&Span| Some(&span.trace) == trace.as_ref();
        spans.iter().filter(of_trace).cloned().collect::<Vec<_>>()
    };
    let whole = |spans: &[Span]| of(spans, "failing").len() == 5;
    let failed = of(&collector.until(whole).await, "failing");
    for span in failed.iter().filter(|span| span.name == UNARY) {
        assert!(span.failure.is_some(), "{span:#?}");
        assert_eq!(span.attribute("error.type"), "DATA_LOSS");
        assert_eq!(span.attribute("rpc.response.status_code"), "DATA_LOSS");
    }
    let sidecars = failed.iter().filter(|span| span.node() == Some("last"));
    let sidecars = sidecars.map(|span| span.id.clone()).collect::<Vec<_>>();
    let parent = came.get("traceparent").unwrap().to_str().unwrap();
    assert!(parent.contains(&sidecars[0]), "{parent}");

    let root = tracing::info_span!("streaming");
    let conversation = async {
        let messages = stream::iter(vec![ChatRequest::default(); 5]);
        let answers = echo.chat(messages).await.unwrap().into_inner();
        assert_eq!(answers.count().await, 5);
    };
    conversation.instrument(root).await;
    provider.force_flush().unwrap();
    let whole = |spans: &[Span]| of(spans, "streaming").len() == 5;
    let streamed = of(&collector.until(whole).await, "streaming");
    let end = streamed
        .iter()
        .find(|it| it.node().is_none() && it.kind == SERVER);
    let all = ["app", "front", "last", "app"].map(|who| (who, CHAT));
    let found = below(&streamed, end.unwrap());
    let found: Vec<_> = found[1..]
        .iter()
        .map(|(who, name, _)| (*who, *name))
        .collect();
    assert_eq!(found, all);
    for span in streamed.iter().filter(|span| span.node().is_some()) {
        assert_eq!(span.attribute("sidelane.request.messages"), "5");
        assert_eq!(span.attribute("sidelane.response.messages"), "5");
    }
    assert!(orphans(&collector.spans()).is_empty());
}

//! Traces where people read them: in the real Jaeger, which gets the spans of sidecars and of apps and is
//! asked over its HTTP API.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is a failed test"
)]

mod traced;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use futures_util::{StreamExt, stream};
use sidelane_proto::model::Lane;
use sidelane_proto::wire::routing::v1 as wire;
use sidelane_tests::applied::{idempotent, retry, unary};
use sidelane_tests::ask::{ECHO_UNARY, ask_over};
use sidelane_tests::client::RawClient;
use sidelane_tests::collector::{Span, orphans};
use sidelane_tests::jaeger::Jaeger;
use sidelane_tests::moody::{self, Way};
use sidelane_tests::wire::v1::beat_client::BeatClient;
use sidelane_tests::wire::v1::beat_server::BeatServer;
use sidelane_tests::wire::v1::bulk_client::BulkClient;
use sidelane_tests::wire::v1::bulk_server::{Bulk, BulkServer};
use sidelane_tests::wire::v1::echo_client::EchoClient;
use sidelane_tests::wire::v1::echo_server::EchoServer;
use sidelane_tests::wire::v1::{
    ChatRequest, PingRequest, PullRequest, PullResponse, PushRequest, PushResponse, UnaryRequest,
};
use sidelane_tests::{cluster, services, unruled};
use tokio::sync::mpsc;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::Server;
use tonic::{Code, Request, Response, Status, Streaming};
use traced::{Answers, Last, Middle, Onward, Traced, apps_send_to, listener, traced};
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
const PULL: &str = "sidelane.test.v1.Bulk/Pull";
/// Messages of an answer of [`Prices`].
const ANSWERS: usize = 3;
/// What apps say of themselves; a sidecar says its node.
const APPS: &str = "app";
const CALLER: &str = "caller";

/// A call of the storefront: below which other one each span is, whose it is, and what it is called.
/// Three services, and six times through a sidecar; two one after the other, and one beside them.
const TREE: [(usize, &str, &str, i32); 14] = [
    (0, "app", "checkout", INTERNAL),
    (0, "app", PING, CLIENT),
    (1, "storefront", PING, CLIENT),
    (2, "orders", PING, SERVER),
    (3, "app", PING, SERVER),
    (4, "app", "work", INTERNAL),
    (5, "app", UNARY, CLIENT),
    (6, "orders", UNARY, CLIENT),
    (7, "stock", UNARY, SERVER),
    (8, "app", UNARY, SERVER),
    (0, "app", PULL, CLIENT),
    (10, "storefront", PULL, CLIENT),
    (11, "prices", PULL, SERVER),
    (12, "app", PULL, SERVER),
];

/// Answers with some messages.
struct Prices;

#[tonic::async_trait]
impl Bulk for Prices {
    type PullStream = Answers<PullResponse>;

    async fn pull(&self, _: Request<PullRequest>) -> Result<Response<Self::PullStream>, Status> {
        let answers = stream::iter((0..ANSWERS).map(|_| Ok(PullResponse::default())));
        Ok(Response::new(Box::pin(answers)))
    }

    async fn push(
        &self,
        _: Request<Streaming<PushRequest>>,
    ) -> Result<Response<PushResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }
}

/// The storefront's way out.
#[derive(Clone)]
struct Storefront(Traced);

impl Storefront {
    async fn checkout(self) {
        let (mut orders, mut prices) = (BeatClient::new(self.0.clone()), BulkClient::new(self.0));
        let priced = async {
            let answers = prices.pull(PullRequest::default()).await.unwrap();
            assert_eq!(answers.into_inner().count().await, ANSWERS);
        };
        let (ordered, ()) = tokio::join!(orders.ping(PingRequest::default()), priced);
        ordered.unwrap();
    }
}

fn made(span: &Span) -> (&str, &str, i32) {
    (span.node().unwrap_or("app"), &span.name, span.kind)
}

/// The spans of each trace that has one of this name.
fn traces_with<'a>(spans: &'a [Span], name: &str) -> Vec<Vec<&'a Span>> {
    let with = spans.iter().filter(|span| span.name == name);
    let with: HashSet<&str> = with.map(|span| &*span.trace).collect();
    let mut traces = HashMap::<&str, Vec<&Span>>::new();
    for span in spans.iter().filter(|span| with.contains(&*span.trace)) {
        traces.entry(&span.trace).or_default().push(span);
    }
    traces.into_values().collect()
}

/// The spans of a trace in the order of [`TREE`]; each has the parent that it should have.
fn in_order<'a>(trace: &[&'a Span]) -> Vec<&'a Span> {
    assert_eq!(trace.len(), TREE.len(), "{trace:#?}");
    let mut found: Vec<&Span> = Vec::new();
    for (place, (above, who, name, kind)) in TREE.into_iter().enumerate() {
        let parent = if place == 0 { "" } else { &*found[above].id };
        let fits = |span: &&&Span| made(span) == (who, name, kind);
        let fitting: Vec<_> = trace.iter().filter(fits).collect();
        assert_eq!(fitting.len(), 1, "{who} {name}: {trace:#?}");
        assert_eq!(fitting[0].parent, parent, "{who} {name}: {trace:#?}");
        found.push(fitting[0]);
    }
    found
}

fn says(span: &Span, all: &[(&str, &str)]) {
    for (name, value) in all {
        assert_eq!(span.attribute(name), *value, "{name} of {span:#?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Jaeger, which .ci/run builds"]
async fn a_call_over_three_services_is_one_trace_and_of_a_thousand_no_span_is_an_orphan() {
    let jaeger = Jaeger::start().await;
    let provider = apps_send_to(&jaeger.url());
    let onward = Onward::default();
    let (seen, _came) = mpsc::unbounded_channel();
    let server = || Server::builder().layer(sidelane_trace::server());
    let apps = [
        server().add_service(BeatServer::new(Middle(Arc::clone(&onward)))),
        server().add_service(EchoServer::new(Last(seen))),
        server().add_service(BulkServer::new(Prices)),
    ];
    let served = [
        ("orders", services::BEAT),
        ("stock", services::ECHO),
        ("prices", services::BULK),
    ];
    let mut mesh = cluster!().control().node("storefront");
    mesh = mesh.with("--otlp", &jaeger.url()).with("--sampling", "0");
    for (app, (node, service)) in apps.into_iter().zip(served) {
        let (incoming, address) = listener().await;
        tokio::spawn(app.serve_with_incoming(TcpListenerStream::new(incoming)));
        mesh = mesh.node(node).serving(service, &address);
        mesh = mesh.with("--otlp", &jaeger.url()).with("--sampling", "0");
    }
    let mesh = mesh.start().await;
    let to_stock = traced(mesh.node("orders").outbound()).await;
    onward.set(EchoClient::new(to_stock)).unwrap();
    let channel = traced(mesh.node("storefront").outbound()).await;
    let storefront = Storefront(channel.clone());

    let calls = stream::iter(0..CALLS).map(|_| {
        let root = tracing::info_span!("checkout");
        storefront.clone().checkout().instrument(root)
    });
    calls.buffer_unordered(TOGETHER).count().await;

    let mut echo = EchoClient::new(channel);
    let mut failing = Request::new(UnaryRequest::default());
    let yes = "yes".parse().unwrap();
    failing.metadata_mut().insert("x-test-fails", yes);
    let root = tracing::info_span!("failing");
    let status = echo.unary(failing).instrument(root).await.unwrap_err();
    assert_eq!(status.code(), Code::DataLoss);
    let root = tracing::info_span!("streaming");
    let conversation = async {
        let messages = stream::iter(vec![ChatRequest::default(); 5]);
        let answers = echo.chat(messages).await.unwrap().into_inner();
        assert_eq!(answers.count().await, 5);
    };
    conversation.instrument(root).await;
    provider.force_flush().unwrap();

    // Sidecars ask apps how they are, too, and the apps see calls in that.
    let of_calls = |spans: &[Span]| {
        let all = spans.iter().filter(|span| !span.name.contains("health"));
        all.count()
    };
    let wanted = CALLS * TREE.len() + 5 + 5;
    let spans = jaeger.until(APPS, |spans| of_calls(spans) >= wanted).await;
    assert_eq!(of_calls(&spans), wanted);
    let lost = orphans(&spans);
    assert!(lost.is_empty(), "{} orphans: {:#?}", lost.len(), lost[0]);

    let traces = traces_with(&spans, "checkout");
    assert_eq!(traces.len(), CALLS);
    for trace in &traces {
        for span in in_order(trace) {
            assert_eq!(span.failure, None, "{span:#?}");
            says_what_it_is(span);
        }
    }
    let [failed] = &traces_with(&spans, "failing")[..] else {
        panic!("one call fails");
    };
    assert_eq!(failed.len(), 5, "{failed:#?}");
    for span in failed.iter().filter(|span| span.name == UNARY) {
        assert!(span.failure.is_some(), "{span:#?}");
        let status = ("rpc.response.status_code", "DATA_LOSS");
        says(span, &[status, ("error.type", "DATA_LOSS")]);
    }
    // One span at each hop, whatever a stream carries.
    let [streamed] = &traces_with(&spans, "streaming")[..] else {
        panic!("one call streams");
    };
    assert_eq!(streamed.len(), 5, "{streamed:#?}");
    for span in streamed.iter().filter(|span| span.node().is_some()) {
        assert_eq!(span.name, CHAT);
        for way in ["request", "response"] {
            says(span, &[(&*format!("sidelane.{way}.messages"), "5")]);
        }
    }
}

/// A sidecar's span of a checkout says where it was, by which lane it went and what it carried.
fn says_what_it_is(span: &Span) {
    let Some(node) = span.node() else {
        assert_eq!(span.resource["service.name"], APPS);
        return;
    };
    assert_eq!(span.resource["service.name"], node);
    assert_eq!(span.scope, "sidelane-sidecar");
    assert!(span.time.0 <= span.time.1, "{span:#?}");
    let (lane, client, server, messages) = match &*span.name {
        PING => (Lane::GOSSIP, "storefront", "orders", 1),
        UNARY => (Lane::GENERAL, "orders", "stock", 1),
        _ => (Lane::BIFROST_DATA, "storefront", "prices", ANSWERS),
    };
    let other = if node == client { server } else { client };
    says(
        span,
        &[
            ("rpc.system.name", "grpc"),
            ("rpc.method", &span.name),
            ("rpc.response.status_code", "OK"),
            ("server.address", span.name.split('/').next().unwrap()),
            ("sidelane.connection", "Internal"),
            ("sidelane.lane", lane.name()),
            ("sidelane.node", other),
            ("sidelane.attempts", "1"),
            ("sidelane.request.messages", "1"),
            ("sidelane.response.messages", &messages.to_string()),
        ],
    );
    let attempts = span.events("sidelane.attempt");
    assert_eq!(attempts.len(), 1, "{span:#?}");
}

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";

#[tokio::test]
#[ignore = "needs Jaeger, which .ci/run builds"]
async fn a_retried_call_shows_both_attempts_and_a_refused_one_the_reason() {
    let jaeger = Jaeger::start().await;
    let flags = [("--otlp", &*jaeger.url()), ("--sampling", "1")];
    let ways = [Way::Unavailable, Way::Well];
    let mesh = moody::mesh_with(cluster!(), unruled!(), &ways, &flags).await;
    mesh.apply(|rule| {
        rule.methods = vec![idempotent("Unary")];
        rule.retry = retry(3, &["UNAVAILABLE"]);
    })
    .await;
    // It takes turns: one of two calls meets the one that is not well first.
    for _ in 0..2 {
        let answer = called(&mesh.client).await;
        assert_eq!(answer, Code::Ok);
    }
    let with = |spans: &[Span], name: &str, value: &str| {
        let mut of_caller = spans.iter().filter(|it| it.node() == Some("caller"));
        let with = |it: &&Span| it.attributes.get(name).map(String::as_str) == Some(value);
        of_caller.find(with).cloned()
    };
    let below = |spans: &[Span], above: &Span| {
        let below = spans.iter().filter(|it| it.parent == above.id);
        below.cloned().collect::<Vec<_>>()
    };
    let twice = |spans: &[Span]| with(spans, "sidelane.attempts", "2");
    let whole = |spans: &[Span]| twice(spans).is_some_and(|it| below(spans, &it).len() == 2);
    let spans = jaeger.until(CALLER, whole).await;
    let retried = twice(&spans).unwrap();
    assert_eq!((retried.kind, &retried.failure), (CLIENT, &None));
    says(
        &retried,
        &[("rpc.response.status_code", "OK"), ("sidelane.node", "b")],
    );
    let attempts = retried.events("sidelane.attempt");
    let nodes: Vec<&str> = attempts.iter().map(|it| &*it["sidelane.node"]).collect();
    assert_eq!(nodes, ["a", "b"]);
    let failed = retried.events("sidelane.attempt.failed");
    assert_eq!(failed.len(), 1, "{retried:#?}");
    assert_eq!(failed[0]["sidelane.node"], "a");
    assert_eq!(failed[0]["rpc.response.status_code"], "UNAVAILABLE");
    let mut both = below(&spans, &retried);
    both.sort_by_key(|it| it.node().map(str::to_owned));
    let status = |span: &Span| span.attribute("rpc.response.status_code").to_owned();
    let both = both.iter().map(|it| {
        assert_eq!((&it.trace, it.kind), (&retried.trace, SERVER));
        (it.node().unwrap(), status(it), it.failure.is_some())
    });
    let expected = [
        ("a", "UNAVAILABLE".to_owned(), true),
        ("b", "OK".to_owned(), false),
    ];
    assert_eq!(both.collect::<Vec<_>>(), expected);

    mesh.apply(|rule| {
        rule.limits = vec![wire::Limit {
            requests_per_second: 1,
            burst: 1,
            ..wire::Limit::default()
        }];
        rule.methods = vec![unary("Unary")];
    })
    .await;
    while called(&mesh.client).await != Code::ResourceExhausted {}
    let refused = |spans: &[Span]| with(spans, "sidelane.error", "RATE_LIMITED");
    let whole = |spans: &[Span]| refused(spans).is_some_and(|it| below(spans, &it).len() == 1);
    let spans = jaeger.until(CALLER, whole).await;
    let outer = refused(&spans).unwrap();
    let inner = &below(&spans, &outer)[0];
    for span in [&outer, inner] {
        says(
            span,
            &[
                ("sidelane.error", "RATE_LIMITED"),
                ("rpc.response.status_code", "RESOURCE_EXHAUSTED"),
            ],
        );
    }
    // Who refuses what is too much has not failed; who called has, by the status that it got.
    says(&outer, &[("error.type", "RESOURCE_EXHAUSTED")]);
    assert!(outer.failure.is_some() && inner.failure.is_none());
    let limit = inner.events("sidelane.limit");
    assert_eq!(limit.len(), 1, "{inner:#?}");
    assert_eq!(limit[0]["sidelane.error"], "RATE_LIMITED");
    assert!(!limit[0]["sidelane.message"].is_empty());
}

/// Calls in the name of an app that has decided that it is recorded.
async fn called(client: &RawClient) -> Code {
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let headers = [("traceparent", &*parent)];
    let answer = ask_over(client, ECHO_UNARY, &headers).await;
    answer.grpc_status().unwrap().code()
}

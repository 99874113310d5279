//! Calls that come by a tunnel (HTTP CONNECT) and so have a destination of their own: what the
//! mesh knows goes through the mesh, what it does not know goes on to where it was meant to go, or
//! is refused, as `--unknown` says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::time::{Duration, Instant};

use h2::Reason;
use http::{HeaderMap, StatusCode};
use sidelane_tests::ask::{ECHO_UNARY, ask, ask_over, values};
use sidelane_tests::client::{RawAnswer, RawClient};
use sidelane_tests::cluster::Node;
use sidelane_tests::refusal::Refusal;
use sidelane_tests::tunnel::{self, NOWHERE};
use sidelane_tests::upstream::raw::RawRequest;
use sidelane_tests::wire::v1::UnaryRequest;
use sidelane_tests::wire::v1::echo_client::EchoClient;
use sidelane_tests::{Cluster, RawUpstream, Upstream, cluster, services};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Code;

/// A service that no rule names and no node offers.
const UNKNOWN: &str = "/unknown.v1.Thing/Do";
const CHECK: &str = "/grpc.health.v1.Health/Check";
const REFLECT: &str = "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo";
/// What takes longer than this has gone wrong.
const LIMIT: Duration = Duration::from_secs(10);

/// A server outside the mesh, and what it was asked.
struct Outside {
    server: RawUpstream,
    asked: mpsc::UnboundedReceiver<http::Request<()>>,
}

impl Outside {
    /// Answers everything with a message, a status and what an app must not say.
    async fn start() -> Self {
        let (tell, asked) = mpsc::unbounded_channel();
        let server = RawUpstream::with_health(move |mut request: RawRequest| {
            let tell = tell.clone();
            async move {
                let _ = request.read_all().await;
                let plain = request.head.headers()["content-type"] != "application/grpc";
                let path = request.head.uri().path().to_owned();
                tell.send(request.head).unwrap();
                if plain && path == "/none" {
                    return request.answer.only_headers(
                        StatusCode::NO_CONTENT,
                        &[("content-type", "text/plain")],
                        None,
                    );
                }
                let kind = if plain {
                    "text/plain"
                } else {
                    "application/grpc"
                };
                let headers = [
                    ("content-type", kind),
                    ("sidelane-error", "LOOP"),
                    ("x-own", "1"),
                ];
                let mut body = request.answer.begin(StatusCode::OK, &headers);
                body.message(b"outside");
                if plain {
                    return body.end();
                }
                body.trailers(&[("grpc-status", "0"), ("x-last", "2")], None);
            }
        })
        .await;
        Self { server, asked }
    }

    fn target(&self) -> String {
        self.server.address().to_string()
    }

    async fn asked(&mut self) -> http::Request<()> {
        let asked = timeout(LIMIT, self.asked.recv()).await;
        asked.expect("nothing came to the destination").unwrap()
    }
}

async fn mesh(upstream: &Upstream) -> Cluster {
    cluster!()
        .control()
        .node("caller")
        .node("strict")
        .with("--unknown", "refuse")
        .node("callee")
        .serving(services::ECHO, upstream)
        .start()
        .await
}

async fn through(node: &Node, target: &str) -> RawClient {
    let stream = tunnel::open(node.outbound(), target).await.unwrap();
    RawClient::over(stream).await.unwrap()
}

async fn asked(node: &Node, target: &str, path: &str) -> RawAnswer {
    ask_over(&through(node, target).await, path, &[]).await
}

fn reason(answer: &RawAnswer) -> String {
    Refusal::of(answer).reason
}

#[tokio::test]
async fn a_call_that_the_mesh_knows_is_the_meshs_wherever_its_tunnel_leads() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    // A name that exists for the mesh alone.
    for node in ["caller", "strict"] {
        let proxy = mesh.node(node).outbound();
        let channel = tunnel::channel(proxy, "orders.invalid:50051")
            .await
            .unwrap();
        let mut echo = EchoClient::new(channel);
        let answer = echo.unary(UnaryRequest::default()).await.unwrap();
        assert_eq!(answer.into_inner().node, "callee");
    }
    let metrics = mesh.node("caller").metrics().await;
    assert_eq!(metrics.sum("sidelane_tunnels_total", &[]), 1.0);
    let passed = [("service", "passthrough")];
    assert_eq!(metrics.sum("sidelane_requests_total", &passed), 0.0);
}

#[tokio::test]
async fn a_tunnel_is_opened_for_http_1_0_too_as_grpcio_says() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let request = b"CONNECT orders:50051 HTTP/1.0\r\nHost: orders:50051\r\nUser-Agent: x\r\n\r\n";
    let proxy = mesh.node("caller").outbound();
    let (stream, answer) = tunnel::answered(proxy, request).await.unwrap();
    assert_eq!(answer, tunnel::OPENED);
    let client = RawClient::over(stream).await.unwrap();
    let answer = ask_over(&client, ECHO_UNARY, &[]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
}

#[tokio::test]
async fn what_nobody_knows_goes_on_to_its_destination_as_it_is() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let mut outside = Outside::start().await;
    let node = mesh.node("caller");
    let client = through(node, &outside.target()).await;
    let headers = [
        ("sidelane-hash", "key"),
        ("x-mine", "a"),
        ("x-mine", "b"),
        ("grpc-timeout", "9S"),
    ];
    let answer = ask_over(&client, UNKNOWN, &headers).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok, "{answer:?}");
    assert_eq!(answer.messages().unwrap(), ["outside"]);
    assert_eq!(answer.headers["x-own"], "1");
    // Only the mesh says that the mesh failed.
    assert!(!answer.headers.contains_key("sidelane-error"));
    assert_eq!(answer.trailers.unwrap()["x-last"], "2");

    let request = outside.asked().await;
    assert_eq!(request.uri().path(), UNKNOWN);
    // What the client said, which is the tunnel's own end here.
    let authority = request.uri().authority().unwrap().as_str();
    assert_eq!(authority, node.outbound().to_string());
    assert_eq!(values(request.headers(), "x-mine"), ["a", "b"]);
    assert_eq!(mesh_headers(request.headers()), [""; 0]);
    let left = request.headers()["grpc-timeout"]
        .to_str()
        .unwrap()
        .to_owned();
    let left: u64 = left.strip_suffix('m').unwrap().parse().unwrap();
    assert!(left < 9_000, "{left}");

    // All calls to there share one connection.
    for _ in 0..3 {
        let answer = asked(node, &outside.target(), UNKNOWN).await;
        assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
    }
    let metrics = node.metrics().await;
    let passed = [("service", "passthrough")];
    assert_eq!(metrics.sum("sidelane_requests_total", &passed), 4.0);
    assert_eq!(metrics.sum("sidelane_responses_total", &passed), 4.0);
    let config = node.config().await;
    let links = config["links"].as_array().unwrap();
    let mut onward = links.iter().filter(|link| link["kind"] == "destination");
    let link = onward.next().unwrap();
    assert_eq!(link["to"], outside.target());
    assert_eq!(link["calls"], 4);
    assert_eq!(onward.next(), None);
}

fn mesh_headers(headers: &HeaderMap) -> Vec<&str> {
    let names = headers.keys().map(http::HeaderName::as_str);
    names.filter(|name| name.starts_with("sidelane-")).collect()
}

#[tokio::test]
async fn what_nobody_knows_is_refused_where_that_was_said_or_where_it_was_dialled() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let outside = Outside::start().await;
    let strict = asked(mesh.node("strict"), &outside.target(), UNKNOWN).await;
    assert_eq!(reason(&strict), "UNKNOWN_SERVICE");
    let dialled = ask(mesh.node("caller"), UNKNOWN, &[]).await;
    assert_eq!(reason(&dialled), "UNKNOWN_SERVICE");
    let explained = mesh.node("caller").explain(UNKNOWN).await.body;
    assert!(explained.contains("--unknown passthrough"), "{explained}");
    let explained = mesh.node("strict").explain(UNKNOWN).await.body;
    assert!(explained.contains("--unknown refuse"), "{explained}");
    let settings = |node: &str| {
        let node = mesh.node(node);
        async move { node.config().await["settings"]["unknown"]["value"].clone() }
    };
    assert_eq!(settings("caller").await, "passthrough");
    assert_eq!(settings("strict").await, "refuse");
}

#[tokio::test]
async fn what_only_the_mesh_can_do_does_not_go_on() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let mut outside = Outside::start().await;
    let client = through(mesh.node("caller"), &outside.target()).await;
    let secure = "Internal/general/secure=true/persistent=false";
    for (header, value) in [
        ("sidelane-node", "callee"),
        ("sidelane-lane", "gossip"),
        ("sidelane-rule", secure),
    ] {
        let answer = ask_over(&client, UNKNOWN, &[(header, value)]).await;
        assert_eq!(reason(&answer), "UNKNOWN_SERVICE", "{header}");
    }
    assert!(outside.asked.try_recv().is_err());
}

#[tokio::test]
async fn without_control_nobody_waits_for_its_word() {
    let mesh = cluster!().node("alone").launch().await;
    let node = mesh.node("alone");
    node.answers("/livez", |answer| answer.status == 200).await;
    let outside = Outside::start().await;
    let client = through(node, &outside.target()).await;
    let start = Instant::now();
    let answer = ask_over(&client, UNKNOWN, &[]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok, "{answer:?}");
    // A call that was dialled waits for 2 s.
    let took = start.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?}");
}

#[tokio::test]
async fn a_passed_on_call_has_its_deadline_and_its_cancellation() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let (tell, mut told) = mpsc::unbounded_channel();
    let server = RawUpstream::start(move |request: RawRequest| {
        let tell = tell.clone();
        async move {
            let mut body = request.answer.begin(StatusCode::OK, &[]);
            tell.send(None).unwrap();
            tell.send(Some(body.caller_resets().await)).unwrap();
        }
    })
    .await;
    let client = through(mesh.node("caller"), &server.address().to_string()).await;
    let late = ask_over(&client, UNKNOWN, &[("grpc-timeout", "1S")]).await;
    assert_eq!(reason(&late), "DEADLINE");
    assert_eq!(timeout(LIMIT, told.recv()).await.unwrap(), Some(None));
    let reset = timeout(LIMIT, told.recv()).await.unwrap();
    assert_eq!(reset, Some(Some(Reason::CANCEL)));

    let call = client.begin(UNKNOWN, &[]).await.unwrap();
    assert_eq!(timeout(LIMIT, told.recv()).await.unwrap(), Some(None));
    call.cancel();
    let reset = timeout(LIMIT, told.recv()).await.unwrap();
    assert_eq!(reset, Some(Some(Reason::CANCEL)));
}

#[tokio::test]
async fn a_destination_that_does_not_answer_is_named() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let node = mesh.node("caller");
    let refused = Refusal::of(&asked(node, "127.0.0.1:1", UNKNOWN).await);
    assert_eq!(refused.reason, "CONNECT_FAILED");
    assert_eq!(refused.processed, "no");
    let said = format!("{UNKNOWN} on its destination 127.0.0.1:1: 127.0.0.1:1 does not answer");
    assert!(refused.text.starts_with(&said), "{}", refused.text);
    let refused = Refusal::of(&asked(node, NOWHERE, UNKNOWN).await);
    assert_eq!(refused.reason, "CONNECT_FAILED");
    assert!(refused.text.contains("has no address"), "{}", refused.text);
}

#[tokio::test]
async fn health_and_reflection_are_the_destinations_unless_a_node_is_named() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let mut outside = Outside::start().await;
    for node in ["caller", "strict"] {
        for path in [CHECK, REFLECT] {
            let answer = asked(mesh.node(node), &outside.target(), path).await;
            assert_eq!(answer.messages().unwrap(), ["outside"], "{node} {path}");
            assert_eq!(outside.asked().await.uri().path(), path);
        }
    }
    let client = through(mesh.node("caller"), &outside.target()).await;
    let named = ask_over(&client, CHECK, &[("sidelane-node", "callee")]).await;
    // That app has no health service, and says so itself.
    let status = named.grpc_status().unwrap();
    assert_eq!(status.code(), Code::Unimplemented, "{named:?}");
    let dialled = ask(mesh.node("caller"), CHECK, &[]).await;
    assert_eq!(dialled.grpc_status().unwrap().code(), Code::Ok);
    assert_ne!(dialled.messages().unwrap(), ["outside"]);
    assert!(outside.asked.try_recv().is_err());
}

#[tokio::test]
async fn http2_that_is_no_grpc_goes_on_too() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let mut outside = Outside::start().await;
    let target = outside.target();
    let plain = |node: &'static str, path: &'static str| {
        let (node, target) = (mesh.node(node), target.clone());
        async move {
            let client = through(node, &target).await;
            let headers = [("content-type", "text/plain"), ("sidelane-hash", "x")];
            let mut call = client.begin_with("GET", path, &headers).await.unwrap();
            call.end_request().unwrap();
            timeout(LIMIT, call.answer()).await.unwrap().unwrap()
        }
    };
    let answer = plain("caller", "/page?of=1").await;
    assert_eq!(answer.status, StatusCode::OK);
    assert!(answer.data.ends_with(b"outside") && answer.reset.is_none());
    assert_eq!(answer.trailers, None);
    let request = outside.asked().await;
    assert_eq!(request.uri().path_and_query().unwrap(), "/page?of=1");
    assert_eq!(request.method(), "GET");
    assert_eq!(mesh_headers(request.headers()), [""; 0]);

    let answer = plain("caller", "/none").await;
    assert_eq!(answer.status, StatusCode::NO_CONTENT);
    assert!(answer.only_headers && !answer.headers.contains_key("grpc-status"));

    let answer = plain("strict", "/page").await;
    assert_eq!(answer.status, StatusCode::NOT_IMPLEMENTED);
    assert_eq!(answer.headers["sidelane-error"], "NOT_GRPC");

    // Its failures are HTTP's, and an answer that is cut off does not look whole.
    let client = through(mesh.node("caller"), "127.0.0.1:1").await;
    let headers = [("content-type", "text/plain")];
    let answer = ask_over(&client, "/page", &headers).await;
    assert_eq!(answer.status, StatusCode::BAD_GATEWAY);
    assert_eq!(answer.headers["sidelane-error"], "CONNECT_FAILED");
    let cut = RawUpstream::start(|request: RawRequest| async move {
        let mut body = request.answer.begin(StatusCode::OK, &[]);
        body.bytes(b"half");
        tokio::time::sleep(Duration::from_millis(50)).await;
        body.hang_up();
    })
    .await;
    let client = through(mesh.node("caller"), &cut.address().to_string()).await;
    let answer = ask_over(&client, "/page", &headers).await;
    assert_eq!(&answer.data[..], b"half");
    assert_eq!(answer.reset, Some(Reason::INTERNAL_ERROR));
}

#[tokio::test]
async fn a_way_that_leads_back_ends() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let node = mesh.node("caller");
    for own in [
        node.outbound(),
        node.internal(),
        node.external(),
        node.admin(),
    ] {
        for host in ["127.0.0.1", "localhost", "0.0.0.0", "[::ffff:127.0.0.1]"] {
            let request = format!("CONNECT {host}:{} HTTP/1.1\r\n\r\n", own.port());
            let asked = tunnel::answered(node.outbound(), request.as_bytes()).await;
            let (_, answer) = asked.unwrap();
            assert!(
                answer.starts_with("HTTP/1.1 508 Loop Detected\r\n"),
                "{answer}"
            );
        }
    }
    // A name is looked up only when it is dialled; resolvers read this one as 127.0.0.1.
    let hidden = format!("127.1:{}", node.outbound().port());
    let refused = Refusal::of(&asked(node, &hidden, UNKNOWN).await);
    assert_eq!((&*refused.reason, refused.code), ("LOOP", Code::Internal));
    assert!(
        refused.text.contains("is a listener of this sidecar"),
        "{}",
        refused.text
    );
    // What the mesh knows does not go there.
    let known = asked(node, &hidden, ECHO_UNARY).await;
    assert_eq!(known.grpc_status().unwrap().code(), Code::Ok);
}

//! Users of the external listener: what they meet there is gRPC over TLS, as if the app itself
//! listened, and nothing of the mesh behind it.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, StatusCode};
use sidelane_proto::model::{ConnectionClass, Lane};
use sidelane_proto::wire::routing::v1 as wire;
use sidelane_tests::applied::{applied, rule, unary, with};
use sidelane_tests::ask::{ECHO_UNARY, ask, ask_over, until_answered, values};
use sidelane_tests::cases::{Ground, Way, run_all};
use sidelane_tests::certificates::{Authority, LONG};
use sidelane_tests::client::RawAnswer;
use sidelane_tests::cluster::{LocalService, Node};
use sidelane_tests::languages::{Language, python};
use sidelane_tests::link;
use sidelane_tests::refusal::Refusal;
use sidelane_tests::upstream::raw::RawRequest;
use sidelane_tests::users::{Form, Front, first_in, shown};
use sidelane_tests::wire::v1::echo_client::EchoClient;
use sidelane_tests::wire::v1::{UnaryRequest, UnaryResponse};
use sidelane_tests::{Cluster, RawUpstream, Upstream, cluster, exclusive, services, unruled};
use tokio_rustls::rustls::version::{TLS12, TLS13};
use tonic::Code;

const VISIT: &str = "/sidelane.test.v1.Front/Visit";
/// From a change to what it does, at most.
const SOON: Duration = Duration::from_secs(10);

/// Echo, for users.
fn echo_for_users() -> wire::PushedRule {
    with(rule(services::ECHO, Lane::GENERAL), |rule| {
        rule.connection = wire::Connection::External.into();
        rule.methods = vec![unary("Unary")];
    })
}

/// A strict mesh: users come to `edge`, and Echo is behind `callee`, or behind `edge` itself.
async fn strict(front: &Front, upstream: &Upstream, at: &str, flags: &[(&str, &str)]) -> Cluster {
    let authority = Authority::new();
    let mut mesh = cluster!().control().node("edge").running(unruled!());
    for (flag, value) in flags {
        mesh = mesh.with(flag, value);
    }
    mesh = front.before(mesh).strict(&authority.issue("edge", LONG));
    if at == "edge" {
        mesh = mesh.serving(services::ECHO, upstream);
    } else {
        mesh = mesh
            .node("callee")
            .running(unruled!())
            .strict(&authority.issue("callee", LONG))
            .serving(services::ECHO, upstream);
    }
    let mesh = mesh.launch().await;
    mesh.control().ready().await;
    for node in mesh.nodes() {
        node.ready().await;
    }
    // A service that nobody has asked for is not known before.
    until_answered(mesh.node("edge")).await;
    let nodes: Vec<&Node> = mesh.nodes().iter().collect();
    applied(mesh.control(), &nodes, echo_for_users()).await;
    mesh
}

/// The simplest mesh with users: Front and others behind one node, in the clear inside.
async fn one(
    front: &Front,
    upstream: &(impl LocalService + ?Sized),
    flags: &[(&str, &str)],
) -> Cluster {
    let mut mesh = front.before(cluster!().control().node("edge"));
    for (flag, value) in flags {
        mesh = mesh.with(flag, value);
    }
    mesh.serving(services::FRONT, upstream)
        .serving(services::ECHO, upstream)
        .serving(services::VAULT, upstream)
        .start()
        .await
}

async fn refused(node: &Node, reason: &str) -> f64 {
    let metrics = node.metrics().await;
    let name = "sidelane_user_connections_refused_total";
    metrics.sum(name, &[("reason", reason)])
}

/// Waits until so many were turned away for this reason.
async fn until_refused(node: &Node, reason: &str, count: f64) {
    let begun = Instant::now();
    while refused(node, reason).await < count {
        assert!(begun.elapsed() < SOON, "{reason}: {}", node.end_of_log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn calls_of_all_kinds_come_in_by_tls() {
    let _alone = exclusive::exclusive().await;
    let front = Arc::new(Front::new(Form::Pkcs8));
    let upstream = Upstream::named("echo").start().await;
    let flags = [("--external-message", "80MiB")];
    let mesh = strict(&front, &upstream, "callee", &flags).await;
    let (target, relaying) = front.relay(mesh.node("edge").external()).await;
    let ground = Ground {
        target,
        server: upstream.address(),
        way: Way::Mesh {
            caller: "edge".to_owned(),
        },
        server_kind: Language::Rust,
    };
    run_all(&ground).await;
    relaying.abort();
    // And by tonic over its own TLS.
    let channel = front.channel(mesh.node("edge").external()).await.unwrap();
    let answer = EchoClient::new(channel)
        .unary(UnaryRequest::default())
        .await;
    assert_eq!(answer.unwrap().into_inner().node, "echo");
    let seen = [
        mesh.node("edge").log(),
        mesh.node("edge").get("/config").await.body,
    ];
    assert!(seen.iter().all(|text| !text.contains("PRIVATE KEY")));
}

/// The same by grpcio, which dials the edge by its own TLS and knows nothing else.
#[tokio::test]
#[ignore = "needs another language: SIDELANE_TEST_PYTHON"]
async fn grpcio_finds_nothing_but_grpc_over_tls() {
    let _alone = exclusive::exclusive().await;
    let front = Front::new(Form::Pkcs8);
    let upstream = Upstream::named("echo").start().await;
    let flags = [("--external-message", "80MiB")];
    let mesh = strict(&front, &upstream, "callee", &flags).await;
    let ground = Ground {
        target: mesh.node("edge").external(),
        server: upstream.address(),
        way: Way::Mesh {
            caller: "edge".to_owned(),
        },
        server_kind: Language::Rust,
    };
    let kit = python::kit().await.believing(&front.root());
    kit.run_all(&ground).await;
}

/// What the app saw of a call's headers.
fn told(answer: &RawAnswer) -> Vec<String> {
    let mut told = answer.message::<UnaryResponse>().unwrap().metadata;
    told.sort();
    told
}

#[tokio::test]
async fn nothing_that_a_user_says_of_itself_or_the_mesh_comes_to_the_app() {
    let front = Front::new(Form::Pkcs8);
    let upstream = Upstream::named("echo").start().await;
    let mesh = strict(&front, &upstream, "edge", &[]).await;
    let user = front.raw(mesh.node("edge").external()).await.unwrap();
    let own = [
        ("x-own", "stays"),
        ("x-own", "twice"),
        ("trace-bin", "AAEC"),
    ];
    let plain = ask_over(&user, ECHO_UNARY, &own).await;
    assert_eq!(plain.grpc_status().unwrap().code(), Code::Ok, "{plain:?}");
    let mut forged = own.to_vec();
    forged.extend([
        ("sidelane-node", "somebody"),
        ("sidelane-lane", "no such lane"),
        ("sidelane-hash", "key"),
        ("sidelane-rule", "?"),
        ("sidelane-source-node", "edge"),
        (
            "sidelane-source-identity",
            "spiffe://mesh.example/ns/test/sa/admin",
        ),
        ("sidelane-made-up", "yes"),
    ]);
    // Written out: what is missing in the sidecar's own list would be missing here.
    let of_proxies = [
        "x-forwarded-client-cert",
        "x-forwarded-for",
        "x-forwarded-host",
        "x-forwarded-user",
        "x-forwarded-email",
        "x-forwarded-groups",
        "X-Forwarded-For",
        "x_forwarded_for",
        "client-cert",
        "client-cert-chain",
        "forwarded",
        "l5d-client-id",
        "l5d-remote-ip",
        "x-envoy-external-address",
        "x-auth-request-user",
        "x-ssl-client-verify",
        "x-real-ip",
        "x_real_ip",
        "x-client-ip",
        "true-client-ip",
        "cf-connecting-ip",
        "x-goog-authenticated-user-email",
        "x-remote-user",
        "sidelane_source_node",
    ];
    forged.extend(of_proxies.map(|name| (name, "admin")));
    let answer = ask_over(&user, ECHO_UNARY, &forged).await;
    assert_eq!(told(&answer), told(&plain));
    let of_mesh: Vec<String> = told(&answer)
        .into_iter()
        .filter(|line| line.starts_with("sidelane-"))
        .collect();
    // The lane is the listener's word; there is no node and no identity of a user.
    assert_eq!(of_mesh, ["sidelane-lane: general"]);
    let shown = [&plain.headers, plain.trailers.as_ref().unwrap()];
    let of_mesh = |headers: &HeaderMap| {
        let mut names = headers.keys();
        names.any(|name| name.as_str().starts_with("sidelane-"))
    };
    assert!(!shown.into_iter().any(of_mesh), "{plain:?}");
}

#[tokio::test]
async fn nor_what_it_says_at_the_end_of_its_request() {
    let front = Front::new(Form::Pkcs8);
    let upstream = RawUpstream::start(|mut request: RawRequest| async move {
        request.read_all().await;
        let trailers = request.trailers().await;
        let names: Vec<&str> = trailers.keys().map(HeaderName::as_str).collect();
        let status = [("grpc-status", "0"), ("x-test-seen", &names.join(" "))];
        request.answer.only_headers(StatusCode::OK, &status, None);
    })
    .await;
    let mesh = one(&front, &upstream, &[("--health", "tcp")]).await;
    let user = front.raw(mesh.node("edge").external()).await.unwrap();
    let mut call = user.begin(VISIT, &[]).await.unwrap();
    call.send(&UnaryRequest::default()).unwrap();
    call.end_with(&[("x-forwarded-user", "admin"), ("x-own", "unread")])
        .unwrap();
    let answer = call.answer().await.unwrap();
    assert_eq!(answer.headers["x-test-seen"], "", "{answer:?}");
}

#[tokio::test]
async fn what_is_not_for_users_does_not_exist_for_them() {
    let front = Front::new(Form::Pkcs8);
    let upstream = Upstream::named("echo").start().await;
    let mesh = one(&front, &upstream, &[]).await;
    let node = mesh.node("edge");
    let user = front.raw(node.external()).await.unwrap();
    let visited = ask_over(&user, VISIT, &[]).await;
    assert_eq!(visited.grpc_status().unwrap().code(), Code::Ok);
    for service in [
        // Internal, Internal and secure, unknown to everybody, and what every node serves.
        services::ECHO,
        services::VAULT,
        "no.such.v1.Service",
        "grpc.health.v1.Health",
        "grpc.reflection.v1.ServerReflection",
        "sidelane.admin.v1.Sidecar",
        "sidelane.peer.v1.Peer",
    ] {
        let answer = ask_over(&user, &format!("/{service}/Any"), &[]).await;
        let text = format!("{service}: there is no such service here");
        let expected = Refusal::new("UNKNOWN_SERVICE", Code::Unimplemented, text);
        assert_eq!(Refusal::of(&answer), expected);
        let mut names: Vec<&str> = answer
            .headers
            .keys()
            .map(http::HeaderName::as_str)
            .collect();
        names.sort_unstable();
        let known = [
            "content-type",
            "grpc-message",
            "grpc-status",
            "grpc-status-details-bin",
            "sidelane-error",
        ];
        assert_eq!(names, known, "{service}");
    }
    let metrics = node.metrics().await;
    let counted = |reason| metrics.sum("sidelane_refused_total", &[("reason", reason)]);
    assert_eq!(counted("UNKNOWN_SERVICE"), 2.0);
    assert_eq!(counted("NOT_EXPOSED"), 5.0);
}

#[tokio::test]
async fn failures_say_nothing_of_the_inside() {
    let front = Front::new(Form::Pkcs8);
    let upstream = Upstream::named("echo").start().await;
    let mesh = strict(&front, &upstream, "callee", &[]).await;
    let user = front.raw(mesh.node("edge").external()).await.unwrap();
    let good = ask_over(&user, ECHO_UNARY, &[]).await;
    assert_eq!(good.grpc_status().unwrap().code(), Code::Ok);
    mesh.node("callee").kill().await;
    let answer = ask_over(&user, ECHO_UNARY, &[]).await;
    let refusal = Refusal::of(&answer);
    assert_eq!(refusal.code, Code::Unavailable, "{refusal:?}");
    let known = [
        "sidelane.test.v1.Echo: it cannot be called now; try again later",
        "sidelane.test.v1.Echo: the call broke off, and may have run",
    ];
    assert!(known.contains(&&*refusal.text), "{refusal:?}");
    let shown = format!("{answer:?}");
    for inside in ["callee", "127.0.0.1:", "rules.yaml", "/metrics"] {
        assert!(!shown.contains(inside), "{inside}: {shown}");
    }
    // Too little time is the user's own affair.
    let late = ask_over(&user, ECHO_UNARY, &[("grpc-timeout", "1n")]).await;
    assert_eq!(values(&late.headers, "sidelane-error"), ["DEADLINE"]);
    assert!(!format!("{late:?}").contains("/metrics"));
}

#[tokio::test]
async fn keys_are_read_in_every_form_and_read_again_when_they_change() {
    let front = Front::new(Form::Sec1);
    let upstream = Upstream::named("echo").start().await;
    let mesh = one(&front, &upstream, &[]).await;
    let address = mesh.node("edge").external();
    let first = front.dial(address).await.unwrap();
    assert_eq!(shown(&first), first_in(&front.certificate));
    let stays = front.raw(address).await.unwrap();
    for form in [Form::Pkcs1, Form::Pkcs8] {
        front.renew(form);
        let begun = Instant::now();
        while shown(&front.dial(address).await.unwrap()) != first_in(&front.certificate) {
            assert!(
                begun.elapsed() < SOON,
                "{form:?}: the old one is still shown"
            );
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Who is there stays.
        let answer = ask_over(&stays, VISIT, &[]).await;
        assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
    }
    // What fits nothing leaves the last good pair in place.
    let last = first_in(&front.certificate);
    std::fs::write(&front.key, "no key").unwrap();
    let begun = Instant::now();
    while !mesh
        .node("edge")
        .log()
        .contains("the last good certificate")
    {
        assert!(begun.elapsed() < SOON, "nothing is said of it");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(shown(&front.dial(address).await.unwrap()), last);
}

#[tokio::test]
async fn tls_is_as_new_as_the_setting_says_and_speaks_h2() {
    let front = Front::new(Form::Pkcs8);
    let upstream = Upstream::named("echo").start().await;
    let old = one(&front, &upstream, &[]).await;
    let new = one(&front, &upstream, &[("--tls-min", "1.3")]).await;
    let (old, new) = (old.node("edge"), new.node("edge"));
    for versions in [[&TLS12], [&TLS13]] {
        let dialled = front.shake(old.external(), &[b"h2"], &versions).await;
        assert!(dialled.is_ok(), "{versions:?}: {dialled:?}");
    }
    assert!(
        front
            .shake(new.external(), &[b"h2"], &[&TLS13])
            .await
            .is_ok()
    );
    let error = front.shake(new.external(), &[b"h2"], &[&TLS12]).await;
    let error = format!("{:#}", error.unwrap_err());
    assert!(error.contains("ProtocolVersion"), "{error}");
    until_refused(new, "tls", 1.0).await;
    // No other protocol, none at all, and no TLS.
    assert!(
        front
            .shake(old.external(), &[b"http/1.1"], &[&TLS13])
            .await
            .is_err()
    );
    let _unsaid = front.shake(old.external(), &[], &[&TLS13]).await;
    until_refused(old, "tls", 2.0).await;
    let _plain = link::said(old.external(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    until_refused(old, "tls", 3.0).await;
}

#[tokio::test]
async fn peers_and_users_come_to_one_port() {
    let authority = Authority::new();
    let front = Front::new(Form::Pkcs8);
    let upstream = Upstream::named("callee").start().await;
    let mesh = cluster!().control().node("callee");
    let mesh = front
        .before(mesh)
        .strict(&authority.issue("callee", LONG))
        .serving(services::FRONT, &upstream)
        .node("caller")
        .strict(&authority.issue("caller", LONG))
        .start()
        .await;
    let callee = mesh.node("callee");
    // By its own sidecar, which dials the external address; and from outside.
    let peer = ask(mesh.node("caller"), VISIT, &[]).await;
    assert_eq!(peer.grpc_status().unwrap().code(), Code::Ok, "{peer:?}");
    let link = &mesh.node("caller").config().await["links"][0];
    assert_eq!(link["remote"], callee.external().to_string());
    assert_eq!(link["identity"], Authority::id("callee"));
    let user = front.raw(callee.external()).await.unwrap();
    let answer = ask_over(&user, VISIT, &[]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
    let metrics = callee.metrics().await;
    assert_eq!(metrics.sum("sidelane_user_connections", &[]), 1.0);
    // Who merely says that it is a peer has to prove it.
    let alpn: [&[u8]; 2] = [b"h2", b"sidelane-peer"];
    assert!(
        front
            .shake(callee.external(), &alpn, &[&TLS13])
            .await
            .is_err()
    );
    // A link by hand is none without a certificate, whatever it says.
    let opened = link::preamble(ConnectionClass::External, Lane::GENERAL);
    let _plain = link::said(callee.external(), &opened).await.unwrap();
    until_refused(callee, "tls", 1.0).await;
}

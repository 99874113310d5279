//! Users of the external listener: what they meet there is gRPC over TLS, as if the app itself
//! listened, and nothing of the mesh behind it.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{HeaderMap, HeaderName, StatusCode};
use sidelane_proto::model::{ConnectionClass, Lane};
use sidelane_proto::wire::routing::v1 as wire;
use sidelane_tests::applied::{applied, rule, unary, with};
use sidelane_tests::ask::{ECHO_UNARY, ask, ask_over, until_answered};
use sidelane_tests::cases::{Ground, Way, run_all};
use sidelane_tests::certificates::{Authority, LONG};
use sidelane_tests::client::{RawAnswer, RawClient};
use sidelane_tests::cluster::{LocalService, Node};
use sidelane_tests::languages::{Language, python};
use sidelane_tests::link;
use sidelane_tests::upstream::raw::RawRequest;
use sidelane_tests::users::{Form, Front, first_in, from_address, shown, told};
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
fn seen(answer: &RawAnswer) -> Vec<String> {
    let mut seen = answer.message::<UnaryResponse>().unwrap().metadata;
    // What is left of a call's time is another at each call.
    for header in &mut seen {
        if header.starts_with("grpc-timeout: ") {
            "grpc-timeout".clone_into(header);
        }
    }
    seen.sort();
    seen
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
        "x-original-forwarded-for",
        "ssl-client-verify",
        "ssl-client-subject-dn",
        "x-amzn-oidc-identity",
        "x-ms-client-principal-name",
        "cf-access-authenticated-user-email",
        "sidelane_source_node",
    ];
    forged.extend(of_proxies.map(|name| (name, "admin")));
    let answer = ask_over(&user, ECHO_UNARY, &forged).await;
    assert_eq!(seen(&answer), seen(&plain));
    let of_mesh: Vec<String> = seen(&answer)
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
        assert_eq!(told(&answer), (Code::Unimplemented, text));
        let mut names: Vec<&str> = answer
            .headers
            .keys()
            .map(http::HeaderName::as_str)
            .collect();
        names.sort_unstable();
        let known = ["content-type", "grpc-message", "grpc-status"];
        assert_eq!(names, known, "{service}");
    }
    let metrics = node.metrics().await;
    let counted = |reason| metrics.sum("sidelane_refused_total", &[("reason", reason)]);
    assert_eq!(counted("UNKNOWN_SERVICE"), 2.0);
    assert_eq!(counted("NOT_EXPOSED"), 5.0);
}

#[tokio::test]
async fn what_a_user_says_to_the_mesh_moves_no_call_and_opens_nothing() {
    let (front, authority) = (Front::new(Form::Pkcs8), Authority::new());
    let mut mesh = front
        .before(cluster!().control().node("edge").running(unruled!()))
        .strict(&authority.issue("edge", LONG));
    let mut upstreams = Vec::new();
    for name in ["one", "two", "three"] {
        let upstream = Upstream::named(name).start().await;
        mesh = mesh
            .node(name)
            .running(unruled!())
            .strict(&authority.issue(name, LONG))
            .serving(services::ECHO, &upstream);
        upstreams.push(upstream);
    }
    let mesh = mesh.launch().await;
    mesh.control().ready().await;
    for node in mesh.nodes() {
        node.ready().await;
    }
    let edge = mesh.node("edge");
    until_answered(edge).await;
    let nodes: Vec<&Node> = mesh.nodes().iter().collect();
    let by_key = with(echo_for_users(), |rule| {
        rule.load_balancing = wire::LoadBalancing::ConsistentHash.into();
    });
    applied(mesh.control(), &nodes, by_key.clone()).await;
    let user = front.raw(edge.external()).await.unwrap();
    let app = RawClient::connect(edge.outbound()).await.unwrap();
    let whom = async |client: &RawClient, headers: &[(&str, &str)]| {
        let answer = ask_over(client, ECHO_UNARY, headers).await;
        answer.message::<UnaryResponse>().unwrap().node
    };
    // A user's key is its address, whatever it says; an app's is what it says.
    let home = whom(&user, &[]).await;
    let mut of_app = BTreeSet::new();
    for number in 0..40 {
        let key = number.to_string();
        let node = ["one", "two", "three"][number % 3];
        of_app.insert(whom(&app, &[("sidelane-hash", &key)]).await);
        let said = [("sidelane-hash", key.as_str()), ("sidelane-node", node)];
        assert_eq!(whom(&user, &said).await, home, "{said:?}");
    }
    assert_eq!(of_app.len(), 3, "{of_app:?}");

    // Nor is it anybody by saying so.
    let one = Authority::id("one");
    let for_one = with(by_key, |rule| {
        let allow = vec![wire::Allow {
            identity: one.clone(),
            ..wire::Allow::default()
        }];
        rule.authorization = Some(wire::Authorization {
            allow,
            dry_run: false,
        });
    });
    applied(mesh.control(), &nodes, for_one).await;
    let said = [
        ("sidelane-source-identity", one.as_str()),
        ("sidelane-source-node", "one"),
    ];
    for said in [&[][..], &said] {
        let answer = ask_over(&user, ECHO_UNARY, said).await;
        assert_eq!(answer.grpc_status().unwrap().code(), Code::PermissionDenied);
    }
}

/// How long an answer takes says no more than the answer: of a hundred calls for what is kept from
/// users and a hundred for what nobody has ever heard of, nobody can tell which are which.
#[tokio::test]
async fn what_is_kept_from_users_takes_as_long_as_what_does_not_exist() {
    const CALLS: usize = 100;
    let _alone = exclusive::exclusive().await;
    let front = Front::new(Form::Pkcs8);
    let upstream = Upstream::named("echo").start().await;
    let mesh = one(&front, &upstream, &[]).await;
    let user = front.raw(mesh.node("edge").external()).await.unwrap();
    let timed = async |path: String| {
        let begun = Instant::now();
        let answer = ask_over(&user, &path, &[]).await;
        assert_eq!(told(&answer).0, Code::Unimplemented);
        begun.elapsed()
    };
    let pairs = (0..CALLS).map(async |number| {
        let kept = timed(format!("/{}/Unary", services::ECHO));
        let unknown = timed(format!("/nobody.v{number}.Heard/Of"));
        // Neither of them is always the first.
        if number % 2 == 0 {
            tokio::join!(kept, unknown)
        } else {
            let (unknown, kept) = tokio::join!(unknown, kept);
            (kept, unknown)
        }
    });
    let pairs = futures_util::future::join_all(pairs).await;
    let (kept, unknown): (Vec<_>, Vec<_>) = pairs.into_iter().unzip();
    let all = kept.iter().chain(&unknown);
    assert!(
        all.clone().all(|took| *took >= Duration::from_millis(490)),
        "{kept:?} {unknown:?}"
    );
    // How often one of the one kind took longer than one of the other (Mann and Whitney's U): half of
    // the time if they are alike, with a deviation of 0.04 for a hundred of each.
    let longer = |took: &Duration| unknown.iter().filter(|other| took > *other).count();
    let longer: usize = kept.iter().map(longer).sum();
    let equal = |took: &Duration| unknown.iter().filter(|other| took == *other).count();
    let equal: usize = kept.iter().map(equal).sum();
    let part = (longer * 2 + equal) * 100 / (2 * CALLS * CALLS);
    assert!(
        (30..=70).contains(&part),
        "{part} % of the time: {kept:?} {unknown:?}"
    );
}

#[tokio::test]
async fn the_first_user_of_a_service_that_nobody_has_called_is_served() {
    let front = Front::new(Form::Pkcs8);
    let upstream = Upstream::named("echo").start().await;
    // Without rules of its own the edge has never heard of it.
    let mesh = strict(&front, &upstream, "callee", &[]).await;
    let user = front.raw(mesh.node("edge").external()).await.unwrap();
    let answer = ask_over(&user, ECHO_UNARY, &[]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok, "{answer:?}");
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
    let (code, text) = told(&answer);
    assert_eq!(code, Code::Unavailable, "{text}");
    let known = [
        "sidelane.test.v1.Echo: it cannot be called now; try again later",
        "sidelane.test.v1.Echo: the call broke off, and may have run",
    ];
    assert!(known.contains(&&*text), "{text}");
    let shown = format!("{answer:?}");
    for inside in ["callee", "127.0.0.1:", "rules.yaml", "/metrics"] {
        assert!(!shown.contains(inside), "{inside}: {shown}");
    }
    // Too little time is the user's own affair.
    let late = ask_over(&user, ECHO_UNARY, &[("grpc-timeout", "1n")]).await;
    assert_eq!(told(&late).0, Code::DeadlineExceeded);
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
async fn a_certificate_that_nobody_takes_replaces_no_good_one() {
    let front = Front::new(Form::Pkcs8);
    let upstream = Upstream::named("echo").start().await;
    let mesh = one(&front, &upstream, &[]).await;
    let node = mesh.node("edge");
    let good = first_in(&front.certificate);
    let key = std::fs::read(&front.key).unwrap();
    let chain = std::fs::read(&front.certificate).unwrap();
    let said = async |what: &str| {
        let begun = Instant::now();
        while !node.log().contains(what) {
            assert!(begun.elapsed() < SOON, "{what}: {}", node.end_of_log());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        assert_eq!(shown(&front.dial(node.external()).await.unwrap()), good);
    };
    front.renew_too_late();
    said("the certificate has ended").await;
    // The certificate of another key.
    std::fs::write(&front.certificate, &chain).unwrap();
    said("tls.crt and ").await;
    // And a key that everybody may read.
    std::fs::write(&front.key, &key).unwrap();
    let open = std::os::unix::fs::PermissionsExt::from_mode(0o644);
    std::fs::set_permissions(&front.key, open).unwrap();
    said("has mode 644, so everybody on this machine may read the private key: chmod 600").await;
}

#[tokio::test]
async fn who_speaks_no_grpc_is_told_so_in_a_word() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let front = Front::new(Form::Pkcs8);
    let upstream = Upstream::named("echo").start().await;
    let mesh = one(&front, &upstream, &[]).await;
    let address = mesh.node("edge").external();
    let request = b"GET / HTTP/1.1\r\nhost: front.example\r\n\r\n";
    let answered = |text: &str| {
        assert!(text.starts_with("HTTP/1.1 505 "), "{text}");
        assert!(text.contains("This port speaks gRPC"), "{text}");
        let inside = ["idelane", "--admin", "sidecar"];
        assert!(!inside.iter().any(|word| text.contains(word)), "{text}");
    };
    // In the clear; by TLS that names no protocol; and by one that named another than it speaks.
    let mut text = String::new();
    let mut stream = link::said(address, request).await.unwrap();
    stream.read_to_string(&mut text).await.unwrap();
    answered(&text);
    for alpn in [&[][..], &[b"h2".as_slice()]] {
        let mut stream = front.shake(address, alpn, &[&TLS13]).await.unwrap();
        stream.write_all(request).await.unwrap();
        let mut bytes = Vec::new();
        // The end may come without TLS's own farewell.
        let _ = stream.read_to_end(&mut bytes).await;
        answered(&String::from_utf8_lossy(&bytes));
    }
    for reason in ["not_tls", "no_alpn", "not_http2"] {
        until_refused(mesh.node("edge"), reason, 1.0).await;
    }
}

#[tokio::test]
async fn nobody_speaks_as_a_peer_in_the_clear_where_users_come_by_tls() {
    let authority = Authority::new();
    let front = Front::new(Form::Pkcs8);
    let upstream = Upstream::named("callee").start().await;
    let node = front.before(cluster!().control().node("callee"));
    let mesh = node
        .permissive(&authority.issue("callee", LONG))
        .serving(services::FRONT, &upstream)
        .node("caller")
        .permissive(&authority.issue("caller", LONG))
        .start()
        .await;
    let callee = mesh.node("callee");
    let (class, lane) = (ConnectionClass::External, Lane::INGRESS_DATA);
    // A preamble, and all that would follow.
    let greeted = link::greeted(callee, class, lane).await;
    assert!(greeted.is_err(), "a link in the clear was taken");
    until_refused(callee, "not_tls", 1.0).await;
    // The same within a user's TLS is no call.
    let mut stream = front.dial(callee.external()).await.unwrap();
    let opened = link::preamble(class, lane);
    tokio::io::AsyncWriteExt::write_all(&mut stream, &opened)
        .await
        .unwrap();
    until_refused(callee, "not_http2", 1.0).await;
    // A Hello, which is a call, is one for a service that is not there.
    let user = front.raw(callee.external()).await.unwrap();
    let answer = ask_over(&user, link::HELLO_PATH, &[]).await;
    assert_eq!(told(&answer).0, Code::Unimplemented);
    // Who can prove it is a peer, and users are users.
    let peer = ask(mesh.node("caller"), VISIT, &[]).await;
    assert_eq!(peer.grpc_status().unwrap().code(), Code::Ok, "{peer:?}");
    let answer = ask_over(&user, VISIT, &[]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
    // In trust mode disabled no link proves anything, and those of class External are links as well.
    let disabled = one(&front, &upstream, &[]).await;
    let link = link::greeted(disabled.node("edge"), class, lane)
        .await
        .unwrap();
    let answer = ask_over(&link, VISIT, &[]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
}

#[tokio::test]
async fn peers_come_in_where_users_fill_the_doors() {
    let authority = Authority::new();
    let front = Front::new(Form::Pkcs8);
    let upstream = Upstream::named("callee").start().await;
    let node = front.before(cluster!().control().node("callee"));
    let mesh = node
        .with("--external-connections", "3")
        .strict(&authority.issue("callee", LONG))
        .serving(services::FRONT, &upstream)
        .node("caller")
        .strict(&authority.issue("caller", LONG))
        .start()
        .await;
    let callee = mesh.node("callee");
    let mut users = Vec::new();
    for _ in 0..3 {
        users.push(front.raw(callee.external()).await.unwrap());
    }
    // A fourth finds no place, from wherever it comes.
    let fourth = from_address(9, callee.external()).await;
    let fourth = front.shake_over(fourth, &[b"h2"], &[&TLS13]).await;
    assert!(fourth.is_err(), "there was room for a fourth");
    until_refused(callee, "connections", 1.0).await;
    // A peer that was not there yet does.
    let answer = ask(mesh.node("caller"), VISIT, &[]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok, "{answer:?}");
    for user in &users {
        let answer = ask_over(user, VISIT, &[]).await;
        assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
    }
}

/// Names that users make up are no series, and what they do is a line of the log now and then.
#[tokio::test]
async fn what_users_make_up_fills_neither_metrics_nor_the_log() {
    let front = Front::new(Form::Pkcs8);
    let upstream = Upstream::named("echo").start().await;
    let mesh = one(&front, &upstream, &[]).await;
    let node = mesh.node("edge");
    let user = front.raw(node.external()).await.unwrap();
    let before = node.get("/metrics").await.body.lines().count();
    let asked = (0..200).map(async |number| {
        let made_up = [
            format!("/made.up{number}.Service/Call"),
            format!("/{}/MadeUp{number}", services::FRONT),
        ];
        for path in made_up {
            ask_over(&user, &path, &[("x-made-up", &path)]).await;
        }
    });
    futures_util::future::join_all(asked).await;
    let metrics = node.get("/metrics").await.body;
    assert!(
        !metrics.contains("made.up") && !metrics.contains("MadeUp"),
        "{metrics}"
    );
    // Series of Front's own begin with its first call.
    let after = metrics.lines().count();
    assert!(after < before + 100, "{before} lines, and then {after}");
    // A preamble of a class that is not for this port is a line of the log.
    for _ in 0..100 {
        let _ = link::said(node.external(), b"SLN1\0\0\x01\0").await;
    }
    let begun = Instant::now();
    let refused = || async {
        let metrics = node.metrics().await;
        metrics.sum("sidelane_links_refused_total", &[])
    };
    while refused().await < 100.0 {
        assert!(begun.elapsed() < SOON, "{}", node.end_of_log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let lines = node.log().matches("a link was refused").count();
    let most = 12 + begun.elapsed().as_secs();
    assert!((1..=most).contains(&(lines as u64)), "{lines} lines");
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
    until_refused(new, "tls_version", 1.0).await;
    // No other protocol, none at all, and no TLS.
    assert!(
        front
            .shake(old.external(), &[b"http/1.1"], &[&TLS13])
            .await
            .is_err()
    );
    let _unsaid = front.shake(old.external(), &[], &[&TLS13]).await;
    until_refused(old, "no_alpn", 2.0).await;
    let _plain = link::said(old.external(), b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    until_refused(old, "not_tls", 1.0).await;
    // Who does not believe the certificate, and who only looks whether the port is open.
    let stranger = Front::new(Form::Pkcs8);
    assert!(stranger.dial(old.external()).await.is_err());
    until_refused(old, "refused_by_user", 1.0).await;
    drop(link::said(old.external(), b"").await);
    until_refused(old, "handshake_ended", 1.0).await;
    let log = old.log();
    for (reason, noted) in [("refused_by_user", true), ("handshake_ended", false)] {
        let line = format!("\"reason\":\"{reason}\"");
        assert_eq!(log.contains(&line), noted, "{log}");
    }
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
    until_refused(callee, "not_tls", 1.0).await;
}

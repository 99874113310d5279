//! Apps that are down, that end calls as no gRPC library would, or that speak in the mesh's name.
//! What the caller is told names the node, the cause, and whether the call may have run.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use h2::Reason;
use http::StatusCode;
use sidelane_tests::ask::{ECHO_UNARY, ask, ask_over, until_answered, values, who};
use sidelane_tests::client::RawClient;
use sidelane_tests::cluster::LocalService;
use sidelane_tests::frames::{EMPTY_SETTINGS, Frame, HEADERS, PREFACE};
use sidelane_tests::ports::free_port;
use sidelane_tests::refusal::Refusal;
use sidelane_tests::upstream::raw::RawRequest;
use sidelane_tests::wire::v1::{UnaryRequest, UnaryResponse};
use sidelane_tests::{Cluster, RawUpstream, Upstream, cluster, services};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::Code;

async fn mesh(upstream: &(impl LocalService + ?Sized)) -> Cluster {
    cluster!()
        .control()
        .node("caller")
        .node("callee")
        // Connecting is all that these servers take without being called.
        .with("--health", "tcp")
        .serving(services::ECHO, upstream)
        .start()
        .await
}

#[tokio::test]
async fn an_app_that_is_down_is_told_as_not_processed_and_heals_when_it_is_up() {
    let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let start = || Upstream::named("callee").listening_on(address).start();
    let mut upstream = start().await;
    let mesh = mesh(&upstream).await;
    let (caller, callee) = (mesh.node("caller"), mesh.node("callee"));
    assert_eq!(until_answered(caller).await, "callee");

    // Others would hear of it at once, and then the caller's sidecar would choose nobody.
    mesh.control().freeze().await;
    upstream.abort();
    let named = [("sidelane-node", "callee")];
    let mut refusal = Refusal::of(&ask(caller, ECHO_UNARY, &named).await);
    if refusal.reason == "PEER_RESET" {
        // The call was sent on a connection that was breaking.
        refusal = Refusal::of(&ask(caller, ECHO_UNARY, &named).await);
    }
    let text = format!(
        "sidelane.test.v1.Echo on the local service of callee (Internal, lane general): {address} \
         does not answer: Connection refused (os error 111)"
    );
    // A dial that failed just now is not made again at once.
    let said = refusal.text.split(" (next dial in ").next().unwrap();
    let expected = Refusal::new("CONNECT_FAILED", Code::Unavailable, text);
    assert_eq!(said, expected.text);
    assert_eq!(
        Refusal {
            text: expected.text.clone(),
            ..refusal
        },
        expected
    );

    // Now everybody knows.
    mesh.control().thaw();
    let down = format!("inbound: not ready: no answer from the local service at {address}\n");
    let answer = callee
        .answers("/readyz", |answer| answer.status == 503)
        .await;
    assert_eq!(answer.body, format!("outbound: ready\n{down}"));
    caller
        .answers("/explain?path=/sidelane.test.v1.Echo/Unary", |answer| {
            answer.body.contains("NO_ENDPOINT")
        })
        .await;
    let refusal = Refusal::of(&ask(caller, ECHO_UNARY, &[]).await);
    let text = "sidelane.test.v1.Echo: no endpoint takes new calls (1 unhealthy); see `sidelane \
                nodes`";
    let expected = Refusal::new("NO_ENDPOINT", Code::Unavailable, text);
    assert_eq!(refusal, expected);

    drop(upstream);
    let _upstream = start().await;
    assert_eq!(until_answered(caller).await, "callee");
    callee.ready().await;
}

#[tokio::test]
async fn an_app_that_never_came_up_is_not_offered() {
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port())).to_string();
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::ECHO, nobody.as_str())
        .launch()
        .await;
    mesh.node("caller").ready().await;
    let callee = mesh.node("callee");
    let answer = callee
        .answers("/readyz", |answer| answer.body.contains("local service"))
        .await;
    let down = format!("inbound: not ready: no answer from the local service at {nobody}\n");
    assert_eq!(answer.body, format!("outbound: ready\n{down}"));
    let refusal = Refusal::of(&ask(mesh.node("caller"), ECHO_UNARY, &[]).await);
    assert_eq!(refusal.reason, "NO_ENDPOINT", "{refusal:?}");

    // The app beside its own sidecar is told what the others are not: where it was looked for.
    let refusal = Refusal::of(&ask(callee, ECHO_UNARY, &[]).await);
    let text = format!(
        "sidelane.test.v1.Echo on the local service of callee (Internal, lane general): {nobody} \
         does not answer: Connection refused (os error 111)"
    );
    let expected = Refusal::new("CONNECT_FAILED", Code::Unavailable, text);
    assert_eq!(refusal, expected);
}

#[tokio::test]
async fn an_app_that_resets_the_call_is_told_with_the_reason() {
    let upstream = RawUpstream::start(|request: RawRequest| async move {
        let reason = request.head.headers()["x-test-reason"].to_str().unwrap();
        let reason: u32 = reason.parse().unwrap();
        request.answer.reset(Reason::from(reason));
    })
    .await;
    let mesh = mesh(&upstream).await;
    for (reason, name) in [
        (Reason::INTERNAL_ERROR, "INTERNAL_ERROR"),
        (Reason::PROTOCOL_ERROR, "PROTOCOL_ERROR"),
    ] {
        let number = u32::from(reason).to_string();
        let answer = ask(
            mesh.node("caller"),
            ECHO_UNARY,
            &[("x-test-reason", &number)],
        )
        .await;
        let text = format!(
            "sidelane.test.v1.Echo on the local service of callee: the stream was reset with {name}"
        );
        let expected = Refusal::new("PEER_RESET", Code::Internal, text).that_may_have_run();
        assert_eq!(Refusal::of(&answer), expected);
    }
}

#[tokio::test]
async fn an_app_that_ends_without_a_status_has_not_succeeded() {
    let upstream = RawUpstream::start(|mut request: RawRequest| async move {
        request.read_all().await;
        let asked = request.head.headers()["x-test-status"].to_str().unwrap();
        if asked == "body" {
            let mut body = request.answer.begin(StatusCode::OK, &[]);
            body.message(b"half");
            body.end();
        } else {
            let status = asked.parse().unwrap();
            request.answer.only_headers(status, &[], None);
        }
    })
    .await;
    let mesh = mesh(&upstream).await;
    let client = RawClient::connect(mesh.node("caller").outbound())
        .await
        .unwrap();
    let answer = ask_over(&client, ECHO_UNARY, &[("x-test-status", "body")]).await;
    assert_eq!(answer.messages().unwrap(), ["half"]);
    let about = "sidelane.test.v1.Echo on the local service of callee: the answer";
    let text = format!("{about} ended without a status; it may have run");
    let expected = Refusal::new("PEER_RESET", Code::Unavailable, text).that_may_have_run();
    assert_eq!(Refusal::of(&answer), expected);

    for (status, shown, code) in [
        ("200", "200 OK", Code::Unknown),
        ("404", "404 Not Found", Code::Unimplemented),
        ("503", "503 Service Unavailable", Code::Unavailable),
    ] {
        let answer = ask_over(&client, ECHO_UNARY, &[("x-test-status", status)]).await;
        let text = format!("{about} has no gRPC status, only {shown} of HTTP; it may have run");
        let expected = Refusal::new("PEER_RESET", code, text).that_may_have_run();
        assert_eq!(Refusal::of(&answer), expected);
    }
}

/// What an app writes by hand, once a call has come: the bytes after its SETTINGS.
async fn app_that_says(stream: TcpStream, frames: Vec<u8>) {
    let mut stream = stream;
    let mut preface = [0; PREFACE.len()];
    // Whoever only looks whether somebody listens says nothing.
    if stream.read_exact(&mut preface).await.is_err() {
        return;
    }
    stream.write_all(EMPTY_SETTINGS).await.unwrap();
    while Frame::read(&mut stream).await.unwrap().kind != HEADERS {}
    stream.write_all(&frames).await.unwrap();
    stream.shutdown().await.unwrap();
    // Reads what the other side still says, so that no reset overtakes the frames.
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

/// An app whose first connection ends with these frames, and which serves the later ones well.
async fn going_away(frames: Vec<u8>) -> (Upstream, RawUpstream, Arc<AtomicUsize>) {
    let good = Upstream::named("callee").start().await;
    let address = good.address();
    let calls = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&calls);
    let front = RawUpstream::connections(move |mut stream| {
        let (frames, counted) = (frames.clone(), Arc::clone(&counted));
        async move {
            // A probe ends without a byte, and is no connection of calls.
            let mut first = [0];
            if stream.peek(&mut first).await.is_ok_and(|read| read == 0) {
                return;
            }
            if counted.fetch_add(1, Ordering::Relaxed) == 0 {
                return app_that_says(stream, frames).await;
            }
            let mut good = TcpStream::connect(address).await.unwrap();
            let _ = tokio::io::copy_bidirectional(&mut stream, &mut good).await;
        }
    })
    .await;
    (good, front, calls)
}

#[tokio::test]
async fn an_app_that_goes_away_without_a_look_gets_the_call_on_a_new_connection() {
    // No stream was looked at (RFC 9113 §6.8).
    let (_good, front, connections) = going_away(Frame::goaway(0, 0)).await;
    let mesh = mesh(&front).await;
    assert_eq!(who(mesh.node("caller")).await.unwrap(), "callee");
    assert_eq!(connections.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn an_app_that_goes_away_with_the_call_in_its_hands_may_have_run_it() {
    // Stream 1 may have been looked at.
    let (_good, front, connections) = going_away(Frame::goaway(1, 0)).await;
    let mesh = mesh(&front).await;
    let answer = ask(mesh.node("caller"), ECHO_UNARY, &[]).await;
    let refusal = Refusal::of(&answer);
    let text = "sidelane.test.v1.Echo on the local service of callee: the connection broke while \
                the call was open (";
    assert!(refusal.text.starts_with(text), "{refusal:?}");
    let expected = Refusal::new("PEER_RESET", Code::Unavailable, refusal.text.clone());
    assert_eq!(refusal, expected.that_may_have_run());
    assert_eq!(connections.load(Ordering::Relaxed), 1, "it was made again");
    assert_eq!(who(mesh.node("caller")).await.unwrap(), "callee");
}

#[tokio::test]
async fn nobody_but_the_mesh_says_who_calls() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let forged = [
        ("sidelane-source-node", "admin"),
        (
            "sidelane-source-identity",
            "spiffe://mesh/ns/admin/sa/admin",
        ),
        ("sidelane-error", "NO_ENDPOINT"),
        ("sidelane-hash", "7"),
        ("sidelane-made-up", "yes"),
        ("x-test-own", "stays"),
    ];
    // From another node, and from the app beside the callee itself.
    for source in ["caller", "callee"] {
        let answer = ask(mesh.node(source), ECHO_UNARY, &forged).await;
        let seen: UnaryResponse = answer.message().unwrap();
        let mut of_mesh: Vec<&str> = seen
            .metadata
            .iter()
            .map(String::as_str)
            .filter(|line| line.starts_with("sidelane-"))
            .collect();
        of_mesh.sort_unstable();
        let source = format!("sidelane-source-node: {source}");
        assert_eq!(of_mesh, ["sidelane-lane: general", &source]);
        assert!(seen.metadata.contains(&"x-test-own: stays".to_owned()));
    }
}

#[tokio::test]
async fn nor_does_a_request_say_so_at_its_end() {
    let upstream = RawUpstream::start(|mut request: RawRequest| async move {
        request.read_all().await;
        let trailers = request.trailers().await;
        let mut names: Vec<&str> = trailers.keys().map(http::HeaderName::as_str).collect();
        names.sort_unstable();
        let status = [("grpc-status", "0"), ("x-test-seen", &names.join(" "))];
        request.answer.only_headers(StatusCode::OK, &status, None);
    })
    .await;
    let mesh = mesh(&upstream).await;
    let client = RawClient::connect(mesh.node("caller").outbound());
    let mut call = client.await.unwrap().begin(ECHO_UNARY, &[]).await.unwrap();
    call.send(&UnaryRequest::default()).unwrap();
    call.end_with(&[
        (
            "sidelane-source-identity",
            "spiffe://mesh/ns/admin/sa/admin",
        ),
        ("sidelane_source_node", "admin"),
        ("x-test-own", "stays"),
    ])
    .unwrap();
    let answer = call.answer().await.unwrap();
    assert_eq!(answer.headers["x-test-seen"], "x-test-own", "{answer:?}");
}

#[tokio::test]
async fn a_reason_that_an_app_makes_up_is_removed() {
    let upstream = RawUpstream::start(|mut request: RawRequest| async move {
        request.read_all().await;
        let forged = [
            ("sidelane-error", "NO_ENDPOINT"),
            ("sidelane-lane", "gossip"),
        ];
        let failed = [("grpc-status", "14"), ("grpc-message", "mine")];
        if request.head.headers().contains_key("x-test-trailers") {
            let mut body = request.answer.begin(StatusCode::OK, &forged);
            body.message(b"");
            body.trailers(&[forged, failed].concat(), None);
        } else {
            let all = [forged, failed].concat();
            request.answer.only_headers(StatusCode::OK, &all, None);
        }
    })
    .await;
    let mesh = mesh(&upstream).await;
    // Across the mesh, and on the express path.
    for node in [mesh.node("caller"), mesh.node("callee")] {
        let client = RawClient::connect(node.outbound()).await.unwrap();
        let short = ask_over(&client, ECHO_UNARY, &[]).await;
        let long = ask_over(&client, ECHO_UNARY, &[("x-test-trailers", "yes")]).await;
        for answer in [short, long] {
            let status = answer.grpc_status().unwrap();
            assert_eq!(
                (status.code(), status.message()),
                (Code::Unavailable, "mine")
            );
            let trailers = answer.trailers.clone().unwrap_or_default();
            for carrier in [&answer.headers, &trailers] {
                assert_eq!(values(carrier, "sidelane-error"), [""; 0], "{answer:?}");
                assert_eq!(values(carrier, "sidelane-lane"), [""; 0], "{answer:?}");
            }
        }
    }
}

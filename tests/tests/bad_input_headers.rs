//! Lists of headers over the bound of 64 KiB, in requests and in answers: the call that brings one
//! fails, and no other call on its connection does.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use http::StatusCode;
use sidelane_tests::ask::{ECHO_UNARY, ask_over};
use sidelane_tests::client::{RawAnswer, RawCall, RawClient};
use sidelane_tests::refusal::Refusal;
use sidelane_tests::upstream::raw::RawRequest;
use sidelane_tests::{Cluster, RawUpstream, cluster, services};
use tonic::Code;

/// What a sidecar takes, as HTTP/2 counts: names, values, and 32 for each header.
const BOUND: usize = 64 * 1024;
/// A call that stays open while others fail, until its request ends.
const CHAT: &str = "/sidelane.test.v1.Echo/Chat";

async fn mesh(upstream: &RawUpstream) -> Cluster {
    cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::ECHO, upstream)
        .start()
        .await
}

/// A server that takes headers of any size. The header `x-test-answer` says what it answers.
async fn server() -> RawUpstream {
    RawUpstream::start(|mut request: RawRequest| async move {
        let asked = request.head.headers().get("x-test-answer").cloned();
        request.read_all().await;
        let large = "x".repeat(BOUND);
        let ok = ("grpc-status", "0");
        match asked.as_ref().and_then(|asked| asked.to_str().ok()) {
            Some("headers") => {
                let mut body = request.answer.begin(StatusCode::OK, &[("x-large", &large)]);
                body.message(b"");
                body.trailers(&[ok], None);
            }
            Some("trailers") => {
                let mut body = request.answer.begin(StatusCode::OK, &[]);
                body.message(b"");
                body.trailers(&[("x-large", &large), ok], None);
            }
            _ => {
                let body = request.answer.begin(StatusCode::OK, &[]);
                body.trailers(&[ok], None);
            }
        }
    })
    .await
}

fn good(answer: &RawAnswer) {
    let status = answer.grpc_status().unwrap();
    assert_eq!(status.code(), Code::Ok, "{status:?}");
}

/// A call on this connection that has begun and waits for the end of its request.
async fn open(client: &RawClient) -> RawCall {
    client.begin(CHAT, &[]).await.unwrap()
}

async fn ends_well(mut call: RawCall) {
    call.end_request().unwrap();
    good(&call.answer().await.unwrap());
}

#[tokio::test]
async fn a_request_with_too_many_headers_gets_431_and_others_go_on() {
    let upstream = server().await;
    let mesh = mesh(&upstream).await;
    let client = RawClient::connect(mesh.node("caller").outbound())
        .await
        .unwrap();
    let beside = open(&client).await;
    let large = "x".repeat(BOUND);
    for _ in 0..3 {
        let answer = ask_over(&client, ECHO_UNARY, &[("x-large", &large)]).await;
        // Answered by the HTTP/2 layer, before there is a call: gRPC libraries make INTERNAL or
        // UNKNOWN of it.
        let status = StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE;
        assert_eq!(answer.status, status, "{:?}", answer.headers);
        assert!(answer.only_headers, "{:?}", answer.headers);
    }
    ends_well(beside).await;
}

#[tokio::test]
async fn what_fits_the_callers_sidecar_fits_the_callees() {
    let upstream = server().await;
    let mesh = mesh(&upstream).await;
    let client = RawClient::connect(mesh.node("caller").outbound())
        .await
        .unwrap();
    let status = async |length: usize| {
        let large = "x".repeat(length);
        let answer = ask_over(&client, ECHO_UNARY, &[("x-large", &large)]).await;
        answer.status
    };
    // Looks for the longest value that the caller's sidecar takes: the next hops add headers of
    // their own to it, which must not be what breaks the call.
    let (mut fits, mut bound) = (BOUND - 1024, BOUND);
    while bound - fits > 1 {
        let middle = usize::midpoint(fits, bound);
        if status(middle).await == StatusCode::OK {
            fits = middle;
        } else {
            bound = middle;
        }
    }
    let metrics = mesh.node("caller").metrics().await;
    let requests = metrics.sum("sidelane_requests_total", &[("direction", "outbound")]);
    let large = "x".repeat(bound);
    let answer = ask_over(&client, ECHO_UNARY, &[("x-large", &large)]).await;
    assert_eq!(answer.status, StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    let metrics = mesh.node("caller").metrics().await;
    let after = metrics.sum("sidelane_requests_total", &[("direction", "outbound")]);
    assert_eq!(
        after, requests,
        "taken by the caller's sidecar, refused later"
    );
}

#[tokio::test]
async fn an_answer_with_too_many_headers_fails_alone() {
    let upstream = server().await;
    let mesh = mesh(&upstream).await;
    let client = RawClient::connect(mesh.node("caller").outbound())
        .await
        .unwrap();
    let beside = open(&client).await;
    let answer = ask_over(&client, ECHO_UNARY, &[("x-test-answer", "headers")]).await;
    let unreadable = Refusal::new(
        "PEER_RESET",
        Code::Internal,
        "sidelane.test.v1.Echo on the local service of callee: the answer could not be taken \
         (PROTOCOL_ERROR): it breaks the rules of HTTP/2, or a bound, such as 64 KiB of headers; \
         the call may have run",
    );
    assert_eq!(Refusal::of(&answer), unreadable.that_may_have_run());

    // h2 leaves out what is over the bound, here the status, and does not say so.
    let answer = ask_over(&client, ECHO_UNARY, &[("x-test-answer", "trailers")]).await;
    let unfinished = Refusal::new(
        "PEER_RESET",
        Code::Unavailable,
        "sidelane.test.v1.Echo on the local service of callee: the answer ended without a status; it may \
         have run",
    );
    assert_eq!(Refusal::of(&answer), unfinished.that_may_have_run());
    ends_well(beside).await;
}

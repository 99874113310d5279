//! Servers that end their answers where no gRPC library would: what the caller is told is always
//! a status, never success by accident, and says whether the call may have been executed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use h2::Reason;
use http::StatusCode;
use sidelane_tests::client::{RawAnswer, RawClient, mesh_reason};
use sidelane_tests::cluster::Cluster;
use sidelane_tests::upstream::raw::RawRequest;
use sidelane_tests::wire::v1::UnaryRequest;
use sidelane_tests::{RawUpstream, cluster, services};
use tokio::time::timeout;
use tonic::Code;

const UNARY: &str = "/sidelane.test.v1.Echo/Unary";
const LIMIT: Duration = Duration::from_secs(10);

#[tokio::test]
async fn an_answer_that_ends_without_a_status_is_no_success() {
    let (_upstream, _mesh, client) = answering(async |request| {
        let mut body = request.answer.begin(StatusCode::OK, &[]);
        body.message(b"half");
        body.end();
    })
    .await;
    let answer = call(&client).await;
    assert_eq!(answer.messages().unwrap(), ["half"]);
    let status = answer.grpc_status().unwrap();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(
        mesh_reason(&status).as_deref(),
        Some("PEER_RESET"),
        "{status:?}"
    );
    assert!(status.message().contains("may have run"), "{status:?}");
}

#[tokio::test]
async fn an_answer_that_is_cut_off_does_not_look_whole() {
    let (_upstream, _mesh, client) = answering(async |request| {
        let mut body = request.answer.begin(StatusCode::OK, &[]);
        body.message(b"half");
        body.reset(Reason::NO_ERROR);
    })
    .await;
    let answer = call(&client).await;
    let status = answer.grpc_status().unwrap();
    assert_eq!(status.code(), Code::Internal, "{status:?}");
    assert_eq!(
        mesh_reason(&status).as_deref(),
        Some("PEER_RESET"),
        "{status:?}"
    );
}

#[tokio::test]
async fn a_reset_is_told_as_the_status_that_grpc_gives_it() {
    let (_upstream, _mesh, client) = answering(async |request| {
        let reason = request.head.headers()["x-test-reason"].to_str().unwrap();
        let reason: u32 = reason.parse().unwrap();
        request.answer.reset(Reason::from(reason));
    })
    .await;
    for (reason, code) in [
        (Reason::CANCEL, Code::Cancelled),
        (Reason::ENHANCE_YOUR_CALM, Code::ResourceExhausted),
        (Reason::INTERNAL_ERROR, Code::Internal),
        (Reason::PROTOCOL_ERROR, Code::Internal),
        (Reason::REFUSED_STREAM, Code::Unavailable),
    ] {
        let number = u32::from(reason).to_string();
        let answer = call_with(&client, &[("x-test-reason", &number)]).await;
        let told = answer.reset.map_or_else(
            || answer.grpc_status().unwrap().code(),
            |reset| {
                if reset == Reason::CANCEL {
                    Code::Cancelled
                } else {
                    Code::Unknown
                }
            },
        );
        assert_eq!(told, code, "{reason:?}: {answer:?}");
    }
}

#[tokio::test]
async fn a_refused_call_is_made_once_more() {
    let times = Arc::new(AtomicUsize::new(0));
    let counted = times.clone();
    let (_upstream, _mesh, client) = answering(move |request: RawRequest| {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        async move {
            if number == 0 {
                request.answer.reset(Reason::REFUSED_STREAM);
            } else {
                request
                    .answer
                    .only_headers(StatusCode::OK, &[("grpc-status", "0")], None);
            }
        }
    })
    .await;
    let status = call(&client).await.grpc_status().unwrap();
    assert_eq!(status.code(), Code::Ok, "{status:?}");
    assert_eq!(times.load(Ordering::Relaxed), 2);
}

#[tokio::test]
async fn a_connection_that_breaks_is_told_with_whether_the_call_may_have_run() {
    let (_upstream, _mesh, client) = answering(async |mut request| {
        request.read_all().await;
        request.answer.hang_up();
    })
    .await;
    let status = call(&client).await.grpc_status().unwrap();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(
        mesh_reason(&status).as_deref(),
        Some("PEER_RESET"),
        "{status:?}"
    );
    assert!(status.message().contains("may have run"), "{status:?}");
}

#[tokio::test]
async fn http_statuses_without_a_grpc_status_are_mapped() {
    let (_upstream, _mesh, client) = answering(async |request| {
        let status = request.head.headers()["x-test-status"].to_str().unwrap();
        let status: StatusCode = status.parse().unwrap();
        request.answer.only_headers(status, &[], None);
    })
    .await;
    for (http, code) in [
        ("400", Code::Internal),
        ("401", Code::Unauthenticated),
        ("403", Code::PermissionDenied),
        ("404", Code::Unimplemented),
        ("418", Code::Unknown),
        ("429", Code::Unavailable),
        ("431", Code::Internal),
        ("500", Code::Unknown),
        ("502", Code::Unavailable),
        ("503", Code::Unavailable),
        ("504", Code::Unavailable),
    ] {
        // One that is no failure of the endpoint between the others: its breaker would open.
        for (http, code) in [("404", Code::Unimplemented), (http, code)] {
            let answer = call_with(&client, &[("x-test-status", http)]).await;
            let status = answer.grpc_status().unwrap();
            assert_eq!(status.code(), code, "{http}: {answer:?}");
        }
    }
}

#[tokio::test]
async fn trailers_only_with_a_reset_behind_them_stay_trailers_only() {
    let (_upstream, _mesh, client) = answering(async |request| {
        let headers = [("grpc-status", "5"), ("grpc-message", "gone%20home")];
        request
            .answer
            .only_headers(StatusCode::OK, &headers, Some(Reason::NO_ERROR));
    })
    .await;
    for _ in 0..20 {
        // The request stays open: that is when servers send such a reset.
        let mut open = client.begin(UNARY, &[]).await.unwrap();
        open.send(&UnaryRequest::default()).unwrap();
        let answer = timeout(LIMIT, open.answer_while_open())
            .await
            .unwrap()
            .unwrap();
        assert!(answer.only_headers, "{answer:?}");
        let status = answer.grpc_status().unwrap();
        assert_eq!(
            (status.code(), status.message()),
            (Code::NotFound, "gone home")
        );
        let told = timeout(LIMIT, open.told_to_stop()).await;
        assert_eq!(
            told.expect("the caller is told to stop").unwrap(),
            Reason::NO_ERROR
        );
    }
}

#[tokio::test]
async fn an_early_answer_with_a_reset_behind_it_arrives_whole() {
    let (_upstream, _mesh, client) = answering(async |request| {
        let mut body = request.answer.begin(StatusCode::OK, &[]);
        body.message(b"early");
        body.trailers(
            &[("grpc-status", "0"), ("x-test-late", "yes")],
            Some(Reason::NO_ERROR),
        );
    })
    .await;
    for _ in 0..20 {
        let mut open = client.begin(UNARY, &[]).await.unwrap();
        open.send(&UnaryRequest::default()).unwrap();
        let answer = timeout(LIMIT, open.answer_while_open())
            .await
            .unwrap()
            .unwrap();
        assert_eq!(answer.messages().unwrap(), ["early"]);
        assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok, "{answer:?}");
        assert_eq!(answer.trailers.unwrap()["x-test-late"], "yes");
        let told = timeout(LIMIT, open.told_to_stop()).await;
        assert_eq!(
            told.expect("the caller is told to stop").unwrap(),
            Reason::NO_ERROR
        );
    }
}

#[tokio::test]
async fn an_app_cannot_speak_for_the_mesh() {
    let (_upstream, _mesh, client) = answering(async |request| {
        let made_up = [("sidelane-error", "NO_ENDPOINT"), ("x-test-own", "kept")];
        let mut body = request.answer.begin(StatusCode::OK, &made_up);
        body.message(b"");
        let trailers = [&made_up[..], &[("grpc-status", "9")]].concat();
        body.trailers(&trailers, None);
    })
    .await;
    let answer = call(&client).await;
    let trailers = answer.trailers.clone().unwrap();
    for carrier in [&answer.headers, &trailers] {
        assert!(!carrier.contains_key("sidelane-error"), "{answer:?}");
        assert_eq!(carrier["x-test-own"], "kept", "{answer:?}");
    }
    assert_eq!(
        answer.grpc_status().unwrap().code(),
        Code::FailedPrecondition
    );
}

/// A mesh with this server behind it, and a client before it.
async fn answering<F, A>(answer: F) -> (RawUpstream, Cluster, RawClient)
where
    F: Fn(RawRequest) -> A + Send + Sync + 'static,
    A: Future<Output = ()> + Send + 'static,
{
    let upstream = RawUpstream::start(answer).await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let client = RawClient::connect(mesh.node("caller").outbound())
        .await
        .unwrap();
    (upstream, mesh, client)
}

async fn call(client: &RawClient) -> RawAnswer {
    call_with(client, &[]).await
}

async fn call_with(client: &RawClient, headers: &[(&str, &str)]) -> RawAnswer {
    let request = UnaryRequest::default();
    let called = client.unary(UNARY, headers, &request);
    timeout(LIMIT, called)
        .await
        .expect("an answer in time")
        .unwrap()
}

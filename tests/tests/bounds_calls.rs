//! What calls of users may take: time, places and memory. Each bound is held by going past it, while
//! another address's calls go on.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::future::pending;
use std::time::{Duration, Instant};

use http::StatusCode;
use sidelane_tests::client::{RawAnswer, RawCall, RawClient};
use sidelane_tests::cluster::{LocalService, Node};
use sidelane_tests::flood::{Attacker, END_HEADERS, call, frame, is_closed, visit};
use sidelane_tests::frames::{EMPTY_SETTINGS, HEADERS, PREFACE, SETTINGS, WINDOW_UPDATE};
use sidelane_tests::upstream::raw::RawRequest;
use sidelane_tests::users::from_address as from;
use sidelane_tests::wire::v1::VisitRequest;
use sidelane_tests::{Cluster, RawUpstream, Upstream, cluster, services};
use tokio::io::{AsyncReadExt, AsyncWriteExt, sink};
use tokio::net::TcpSocket;
use tokio::time::{sleep, timeout};
use tonic::Code;

/// Answers at once.
const VISIT: &str = "/sidelane.test.v1.Front/Visit";
/// Answers with messages that never end.
const WATCH: &str = "/sidelane.test.v1.Front/Watch";
/// Some messages, and then nothing for ever.
const PAUSE: &str = "/sidelane.test.v1.Front/Pause";
/// Messages of `PAUSE`, and the time between two of them.
const MOVES: usize = 6;
const BETWEEN: Duration = Duration::from_millis(400);
/// More than a time limit may be passed by, on a machine that is busy with other things.
const SLACK: Duration = Duration::from_secs(5);

/// Users in the clear, so that connections cost little.
async fn mesh(upstream: &(impl LocalService + ?Sized), flags: &[(&str, &str)]) -> Cluster {
    let mut mesh = cluster!().control().node("edge").with("--health", "tcp");
    for (flag, value) in flags {
        mesh = mesh.with(flag, value);
    }
    mesh.serving(services::FRONT, upstream).start().await
}

async fn streams() -> RawUpstream {
    RawUpstream::start(|mut request: RawRequest| async move {
        let path = request.head.uri().path().to_owned();
        let limit = request.head.headers().get("grpc-timeout").cloned();
        let limit = limit.map(|it| it.to_str().unwrap().to_owned());
        let told = [("x-test-limit", limit.as_deref().unwrap_or("none"))];
        if path == VISIT {
            request.read_all().await;
            let status = [("grpc-status", "0"), told[0]];
            return request.answer.only_headers(StatusCode::OK, &status, None);
        }
        let mut answer = request.answer.begin(StatusCode::OK, &told);
        for number in 0.. {
            if path == PAUSE && number == MOVES {
                break;
            }
            tokio::select! {
                biased;
                () = answer.caller_leaves() => return,
                () = sleep(BETWEEN) => answer.message(b"more"),
            }
        }
        answer.caller_leaves().await;
    })
    .await
}

/// Users from this address.
async fn user(last: u8, node: &Node) -> RawClient {
    RawClient::over(from(last, node.external()).await)
        .await
        .unwrap()
}

async fn begun(user: &RawClient, path: &str, headers: &[(&str, &str)]) -> RawCall {
    let mut call = user.begin(path, headers).await.unwrap();
    call.send(&VisitRequest::default()).unwrap();
    call.end_request().unwrap();
    call
}

/// One call of a user that is not waited for long, and its status.
async fn visited(user: &RawClient) -> (Code, RawAnswer) {
    let empty = VisitRequest::default();
    let visit = user.unary(VISIT, &[], &empty);
    let answer = timeout(2 * SLACK, visit).await.unwrap().unwrap();
    (answer.grpc_status().unwrap().code(), answer)
}

async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !done().await {
        assert!(begun.elapsed() < 2 * SLACK, "{what}");
        sleep(Duration::from_millis(30)).await;
    }
}

async fn refused(node: &Node, reason: &str) -> f64 {
    let name = "sidelane_user_calls_refused_total";
    node.metrics().await.sum(name, &[("reason", reason)])
}

async fn held(node: &Node) -> f64 {
    let metrics = node.metrics().await;
    metrics.sum("sidelane_user_memory_bytes", &[])
}

#[tokio::test]
async fn a_call_ends_at_the_longest_time_whatever_it_asks_for() {
    let upstream = streams().await;
    let mesh = mesh(&upstream, &[("--external-deadline", "4s")]).await;
    let node = mesh.node("edge");
    let one = user(1, node).await;
    let asks: [&[(&str, &str)]; 2] = [&[], &[("grpc-timeout", "9H")]];
    for headers in asks {
        let started = Instant::now();
        let call = begun(&one, WATCH, headers).await;
        let answer = timeout(2 * SLACK, call.answer()).await.unwrap().unwrap();
        let status = answer.grpc_status().unwrap();
        assert_eq!(status.code(), Code::DeadlineExceeded, "{headers:?}");
        assert!(started.elapsed() >= Duration::from_secs(4), "{headers:?}");
        let messages = answer.messages().unwrap().len();
        assert!(messages > 1, "it went on until then: {messages}");
        // The callee knows it, too.
        let limit = answer.headers["x-test-limit"].to_str().unwrap();
        let (digits, unit) = limit.split_at(limit.len() - 1);
        let number: u64 = digits.parse().unwrap();
        let microseconds = match unit {
            "S" => number * 1_000_000,
            "m" => number * 1_000,
            "u" => number,
            _ => panic!("{limit}"),
        };
        assert!(microseconds <= 4_000_000, "{limit}");
    }
    // Who asks for less gets less; the app beside the sidecar has no such bound.
    let started = Instant::now();
    let short = begun(&one, WATCH, &[("grpc-timeout", "500m")]).await;
    let answer = short.answer().await.unwrap();
    let code = answer.grpc_status().unwrap().code();
    assert_eq!(code, Code::DeadlineExceeded);
    assert!(started.elapsed() < Duration::from_millis(1_900));
    let local = RawClient::connect(node.outbound()).await.unwrap();
    let call = begun(&local, WATCH, &[]).await;
    let three = timeout(Duration::from_secs(3), call.answer()).await;
    assert!(three.is_err(), "{three:?}");
}

#[tokio::test]
async fn a_call_on_which_nothing_moves_ends_and_one_that_moves_stays() {
    let upstream = streams().await;
    let mesh = mesh(&upstream, &[("--external-quiet", "2s")]).await;
    let node = mesh.node("edge");
    let one = user(1, node).await;
    let started = Instant::now();
    let watch = begun(&user(2, node).await, WATCH, &[]).await;
    let answer = begun(&one, PAUSE, &[]).await.answer();
    let answer = timeout(4 * SLACK, answer).await.unwrap().unwrap();
    let status = answer.grpc_status().unwrap();
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    assert_eq!(answer.messages().unwrap().len(), MOVES);
    let moved = BETWEEN * u32::try_from(MOVES).unwrap();
    assert!(started.elapsed() >= moved + Duration::from_secs(2));
    // What moves stays, and nobody holds it against the callee.
    let goes_on = timeout(Duration::from_secs(1), watch.answer()).await;
    assert!(goes_on.is_err(), "{goes_on:?}");
    for _ in 0..10 {
        assert_eq!(visited(&one).await.0, Code::Ok);
    }
    // A request that goes on is a move as well.
    let mut call = one.begin(PAUSE, &[]).await.unwrap();
    let started = Instant::now();
    while started.elapsed() < moved + Duration::from_secs(3) {
        call.send(&VisitRequest::default()).unwrap();
        sleep(BETWEEN).await;
    }
    let stopped = timeout(Duration::from_millis(100), call.told_to_stop()).await;
    assert!(stopped.is_err(), "{stopped:?}");
    let answer = timeout(2 * SLACK, call.answer()).await.unwrap().unwrap();
    let code = answer.grpc_status().unwrap().code();
    assert_eq!(code, Code::DeadlineExceeded);
}

#[tokio::test]
async fn an_address_has_so_many_calls_and_others_have_theirs() {
    let upstream = streams().await;
    let mesh = mesh(&upstream, &[("--external-calls", "3")]).await;
    let node = mesh.node("edge");
    let (one, again) = (user(1, node).await, user(1, node).await);
    let mut open = Vec::new();
    for user in [&one, &one, &again] {
        open.push(begun(user, WATCH, &[]).await);
    }
    until("they are not open", async || {
        node.metrics().await.sum("sidelane_open_calls", &[]) >= 3.0
    })
    .await;
    let (code, answer) = visited(&again).await;
    assert_eq!(code, Code::ResourceExhausted, "{answer:?}");
    assert_eq!(answer.headers["grpc-retry-pushback-ms"], "250");
    assert_eq!(refused(node, "calls_per_address").await, 1.0);
    let other = user(2, node).await;
    assert_eq!(visited(&other).await.0, Code::Ok);
    // Who ends one has room for another.
    open.remove(0).cancel();
    until("no room was made", async || {
        visited(&one).await.0 == Code::Ok
    })
    .await;
}

#[tokio::test]
async fn who_does_not_answer_a_ping_is_gone() {
    let upstream = streams().await;
    let mesh = mesh(&upstream, &[("--external-keepalive", "1s")]).await;
    let node = mesh.node("edge");
    // One whose library answers, and one that reads nothing at all, each with a call.
    let alive = user(2, node).await;
    let watch = begun(&alive, WATCH, &[]).await;
    let mut silent = from(1, node.external()).await;
    let open = frame(HEADERS, END_HEADERS, 1, &call(WATCH));
    for bytes in [PREFACE.as_slice(), EMPTY_SETTINGS, &open] {
        silent.write_all(bytes).await.unwrap();
    }
    let started = Instant::now();
    assert!(is_closed(&mut silent, 2 * SLACK).await);
    // A PING after a second, and as long for its answer.
    assert!(started.elapsed() > Duration::from_millis(1_500));
    let name = "sidelane_user_connections_refused_total";
    let metrics = node.metrics().await;
    assert_eq!(metrics.sum(name, &[("reason", "silent")]), 1.0);
    let stays = timeout(Duration::from_secs(3), watch.answer()).await;
    assert!(stays.is_err(), "{stays:?}");
    assert_eq!(visited(&alive).await.0, Code::Ok);
}

#[tokio::test]
async fn what_is_held_for_users_has_a_bound_and_each_address_a_part_of_what_others_leave() {
    const ALL: f64 = 2_097_152.0;
    let upstream = Upstream::named("front").start().await;
    let flags = [("--external-memory", "2MiB"), ("--external-stall", "20s")];
    let mesh = mesh(&upstream, &flags).await;
    let node = mesh.node("edge");
    // Readers that take nothing, each with more calls than its part can hold.
    let reader = async |last: u8| {
        let stream = from(last, node.external()).await;
        let mut reader = Attacker::over(stream, &[], &[(4, 0)]).await.unwrap();
        let calls = (0..32).map(|number| visit(2 * number + 1, 16_000));
        assert_eq!(reader.send(calls).await, 32);
        reader
    };
    let mut readers = vec![reader(1).await];
    until("all are let in", async || {
        refused(node, "memory_per_address").await > 0.0
    })
    .await;
    assert!(held(node).await <= ALL / 4.0);
    // Four of them, each with a quarter, would hold all of it.
    for last in 2..=4 {
        readers.push(reader(last).await);
    }
    until("the others found room", async || {
        held(node).await > ALL / 2.0
    })
    .await;
    let other = user(99, node).await;
    assert_eq!(visited(&other).await.0, Code::Ok, "another has room");
    // Eight leave a tenth of it, and a quarter of that has room for a call.
    for last in 5..=8 {
        readers.push(reader(last).await);
    }
    until("the others found room", async || {
        refused(node, "memory").await > 0.0
    })
    .await;
    assert_eq!(visited(&other).await.0, Code::Ok, "another has room still");
    // Once a quarter of what is left has no room for a call, who is new is told so.
    for last in 9..=60 {
        readers.push(reader(last).await);
    }
    until("it is not filled", async || held(node).await > ALL * 0.9).await;
    let told = visited(&other).await.0;
    assert!(matches!(told, Code::Ok | Code::ResourceExhausted), "{told}");
    assert!(held(node).await <= ALL);
    // Apps beside the sidecar are not held to it.
    let local = RawClient::connect(node.outbound()).await.unwrap();
    assert_eq!(visited(&local).await.0, Code::Ok);
    // Once they are gone, all of it is there again.
    drop(readers);
    until("nothing is given back", async || held(node).await == 0.0).await;
    assert_eq!(visited(&other).await.0, Code::Ok);
}

/// Who has answered a call has given its answer to the user's connection, which holds what is not read.
#[tokio::test]
async fn answers_that_wait_in_the_connection_are_held_to_the_same_bound() {
    /// What a window may be (RFC 9113 §6.9.1).
    const ALL: u32 = 0x7FFF_FFFF;
    // Small requests, and answers of 16 KB.
    let upstream = RawUpstream::start(|request: RawRequest| async move {
        let mut answer = request.answer.begin(StatusCode::OK, &[]);
        answer.message(&[b'p'; 16_000]);
        answer.trailers(&[("grpc-status", "0")], None);
    })
    .await;
    let flags = [("--external-memory", "2MiB"), ("--external-stall", "1s")];
    let mesh = mesh(&upstream, &flags).await;
    let node = mesh.node("edge");
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    let mut stream = socket.connect(node.external()).await.unwrap();
    // All windows are open: only the socket says that nothing is read.
    let window = [&[0, 4][..], &ALL.to_be_bytes()].concat();
    let more = (ALL - 65_535).to_be_bytes();
    let mut bytes = PREFACE.to_vec();
    bytes.extend(frame(SETTINGS, 0, 0, &window));
    bytes.extend(frame(WINDOW_UPDATE, 0, 0, &more));
    let open = async || node.metrics().await.sum("sidelane_open_calls", &[]);
    stream.write_all(&bytes).await.unwrap();
    let part = f64::from(1 << 19);
    let mut numbers = (0..).map(|number| 2 * number + 1);
    // The kernel takes some of it.
    until("nothing waits", async || {
        let calls = numbers.by_ref().take(100).map(|stream| visit(stream, 0));
        let calls = calls.collect::<Vec<_>>().concat();
        stream.write_all(&calls).await.unwrap();
        open().await == 0.0 && held(node).await > part / 2.0
    })
    .await;
    // All are answered, and their answers are held.
    let waits = held(node).await;
    assert!(
        waits > part / 2.0 && waits <= part,
        "{waits} bytes are held"
    );
    let other = user(2, node).await;
    assert_eq!(visited(&other).await.0, Code::Ok);
    // A call that is let in and whose answer finds no room ends as that, and not as a caller's who takes
    // nothing. Where there was no room for the call, a little is read.
    let of_front = ("service", services::FRONT);
    until("all answers find room", async || {
        let mut some = vec![0; 48 * 1024];
        let read = timeout(BETWEEN, stream.read(&mut some)).await;
        read.unwrap().unwrap();
        let calls = numbers.by_ref().take(100).map(|stream| visit(stream, 0));
        let calls = calls.collect::<Vec<_>>().concat();
        stream.write_all(&calls).await.unwrap();
        let overloaded = [of_front, ("reason", "OVERLOADED")];
        let metrics = node.metrics().await;
        metrics.sum("sidelane_errors_total", &overloaded) > 0.0
    })
    .await;
    let cancelled = node.metrics().await;
    let cancelled = cancelled.sum("sidelane_cancelled_total", &[of_front]);
    assert_eq!(cancelled, 0.0);
    // Who reads them gives the room back.
    let reading = tokio::spawn(async move { tokio::io::copy(&mut stream, &mut sink()).await });
    until("it stays held", async || held(node).await == 0.0).await;
    reading.abort();
}

/// What comes of a request while its call looks for a way is held, too, though nobody reads it yet.
#[tokio::test]
async fn requests_that_wait_for_their_way_are_held_to_the_same_bound() {
    let upstream = Upstream::named("front").start().await;
    let mesh = mesh(&upstream, &[("--external-memory", "2MiB")]).await;
    let node = mesh.node("edge");
    let one = user(1, node).await;
    let payload = vec![b'p'; 200 * 1024].into();
    let message = VisitRequest { payload };
    // Nobody has it, which is not said at once.
    let nowhere = "/sidelane.test.v1.Nowhere/Visit";
    let mut calls = Vec::new();
    for _ in 0..6 {
        let mut call = one.begin(nowhere, &[]).await.unwrap();
        call.send(&message).unwrap();
        calls.push(call);
    }
    let mut codes = Vec::new();
    for call in calls {
        let answer = timeout(2 * SLACK, call.answer()).await.unwrap().unwrap();
        codes.push(answer.grpc_status().unwrap().code());
    }
    assert!(codes.contains(&Code::ResourceExhausted), "{codes:?}");
    assert!(codes.contains(&Code::Unimplemented), "{codes:?}");
    assert!(refused(node, "memory_per_address").await > 0.0);
    until("it stays held", async || held(node).await == 0.0).await;
}

/// A request whose callee takes nothing is held as well, and has its bound.
#[tokio::test]
async fn requests_that_nobody_takes_are_held_to_the_same_bound() {
    let upstream = RawUpstream::start(|request: RawRequest| async move {
        // It reads nothing, and never answers.
        pending::<()>().await;
        drop(request);
    })
    .await;
    let mesh = mesh(&upstream, &[("--external-memory", "2MiB")]).await;
    let node = mesh.node("edge");
    let one = user(1, node).await;
    let payload = vec![b'p'; 300 * 1024].into();
    let message = VisitRequest { payload };
    let mut calls = Vec::new();
    for _ in 0..4 {
        let mut call = one.begin(WATCH, &[]).await.unwrap();
        call.send(&message).unwrap();
        calls.push(call);
    }
    // Half a megabyte is an address's, and two requests that stand still with 64 KiB of them kept
    // would be more.
    let mut codes = Vec::new();
    for call in calls.drain(1..) {
        let answer = timeout(2 * SLACK, call.answer()).await;
        let Ok(answer) = answer else { continue };
        codes.push(answer.unwrap().grpc_status().unwrap().code());
    }
    assert!(codes.contains(&Code::ResourceExhausted), "{codes:?}");
    assert!(held(node).await <= f64::from(1 << 19));
}

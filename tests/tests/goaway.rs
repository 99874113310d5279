//! A peer that goes away amid calls which may run once only: those that it says to have seen are
//! nobody else's, those that came after are made elsewhere, and so are those that find nobody.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::net::Ipv4Addr;
use std::time::Duration;

use prost::Message;
use sidelane_proto::wire::peer::v1::HelloRequest;
use sidelane_tests::ask::{ECHO_UNARY, ask_over};
use sidelane_tests::client::{RawCall, RawClient, framed, mesh_reason};
use sidelane_tests::fake_control::{FakeControl, endpoint, full, state};
use sidelane_tests::fake_peer::{FakePeer, welcome};
use sidelane_tests::flood::{DATA, END_HEADERS, END_STREAM, frame};
use sidelane_tests::frames::{EMPTY_SETTINGS, Frame, HEADERS, PREFACE};
use sidelane_tests::hub::{HubWatch, fit};
use sidelane_tests::ports::free_port;
use sidelane_tests::services::ECHO;
use sidelane_tests::{RawUpstream, cluster};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tonic::Code;

const ACK: u8 = 1;
/// Hello is the first stream of a link, so these are its first two calls.
const CALLS: [u32; 2] = [3, 5];
/// `:status` 200 and `content-type: application/grpc` (RFC 7541 §6.1, §6.2.2).
const HEAD: &[u8] = b"\x88\x0f\x10\x10application/grpc";
/// `grpc-status: 0`.
const TRAILERS: &[u8] = b"\x00\x0bgrpc-status\x010";

/// Welcomes whoever dials, takes two calls, and when it is told to go says that it has seen the first
/// of them alone. `seen` says how many have come.
async fn leaves(mut stream: TcpStream, seen: watch::Sender<usize>, mut go: watch::Receiver<bool>) {
    let mut opening = [0; 8 + PREFACE.len()];
    stream.read_exact(&mut opening).await.unwrap();
    stream.write_all(EMPTY_SETTINGS).await.unwrap();
    while *seen.borrow() < CALLS.len() {
        let taken = Frame::read(&mut stream).await.unwrap();
        match (taken.kind, taken.stream) {
            _ if taken.is_settings() => {
                let ack = frame(taken.kind, ACK, 0, &[]);
                stream.write_all(&ack).await.unwrap();
            }
            (DATA, 1) if !taken.payload.is_empty() => {
                let hello = HelloRequest::decode(&taken.payload[5..]).unwrap();
                let welcome = framed(&welcome(&hello).encode_to_vec());
                let mut answer = frame(HEADERS, END_HEADERS, 1, HEAD);
                answer.extend(frame(DATA, 0, 1, &welcome));
                answer.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, TRAILERS));
                stream.write_all(&answer).await.unwrap();
            }
            (HEADERS, stream) if CALLS.contains(&stream) => {
                seen.send_modify(|seen| *seen += 1);
            }
            _ => {}
        }
    }
    go.wait_for(|go| *go).await.unwrap();
    let goaway = Frame::goaway(CALLS[0], 0);
    stream.write_all(&goaway).await.unwrap();
    stream.shutdown().await.unwrap();
    // What is left unread would have the connection reset, and that frame forgotten.
    let _ = stream.read_to_end(&mut Vec::new()).await;
}

async fn begun(client: &RawClient, name: &str) -> RawCall {
    let mut call = client.begin(ECHO_UNARY, &[("x-call", name)]).await.unwrap();
    call.request.send_data(framed(&[]), true).unwrap();
    call
}

#[tokio::test]
async fn what_a_leaving_peer_has_not_seen_is_made_elsewhere_and_nothing_else() {
    let ((seen, mut seen_by_test), (go, gone)) = (watch::channel(0), watch::channel(false));
    let leaving =
        RawUpstream::connections(move |stream| leaves(stream, seen.clone(), gone.clone())).await;
    let staying = FakePeer::welcoming().await;
    let (_control, mesh, mut session) = FakeControl::of(cluster!().node("caller")).await;
    let leaving = endpoint(ECHO, "leaving", 7, leaving.address());
    let alone = state(vec![leaving.clone()]);
    session.update(full(1, vec![alone])).await.unwrap();
    let caller = mesh.node("caller");
    caller.ready().await;
    let client = RawClient::connect(caller.outbound()).await.unwrap();
    let first = begun(&client, "first").await;
    seen_by_test.wait_for(|seen| *seen == 1).await.unwrap();
    let second = begun(&client, "second").await;
    seen_by_test.wait_for(|seen| *seen == 2).await.unwrap();

    let both = state(vec![
        leaving,
        endpoint(ECHO, "staying", 7, staying.address()),
    ]);
    session.update(full(2, vec![both])).await.unwrap();
    let hub = HubWatch::start(caller.admin());
    let limit = Duration::from_secs(10);
    hub.sees("there is somewhere else", limit, |held| fit(held) == 2)
        .await;
    go.send_replace(true);

    let second = second.answer().await.unwrap().grpc_status().unwrap();
    assert_eq!(second.code(), Code::Ok, "{second:?}");
    let first = first.answer().await.unwrap().grpc_status().unwrap();
    assert_eq!(first.code(), Code::Unavailable, "{first:?}");
    assert_eq!(mesh_reason(&first).as_deref(), Some("PEER_RESET"));
    let calls: Vec<_> = staying
        .links()
        .into_iter()
        .flat_map(|it| it.calls)
        .collect();
    let names: Vec<_> = calls
        .iter()
        .map(|(_, headers)| &headers["x-call"])
        .collect();
    assert_eq!(names, ["second"]);
}

#[tokio::test]
async fn what_finds_nobody_at_its_endpoint_is_made_elsewhere() {
    let staying = FakePeer::welcoming().await;
    let (_control, mesh, mut session) = FakeControl::of(cluster!().node("caller")).await;
    let known = vec![
        endpoint(ECHO, "absent", 7, (Ipv4Addr::LOCALHOST, free_port()).into()),
        endpoint(ECHO, "staying", 7, staying.address()),
    ];
    session.update(full(1, vec![state(known)])).await.unwrap();
    let caller = mesh.node("caller");
    caller.ready().await;
    let client = RawClient::connect(caller.outbound()).await.unwrap();
    for _ in 0..20 {
        let status = ask_over(&client, ECHO_UNARY, &[]).await.grpc_status();
        assert_eq!(status.unwrap().code(), Code::Ok);
    }
    let calls: usize = staying.links().iter().map(|it| it.calls.len()).sum();
    assert_eq!(calls, 20);
}

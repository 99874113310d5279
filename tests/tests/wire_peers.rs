//! Peers that are not who was meant, or speak something else: the caller learns what was wanted,
//! what was found, and that the call was not processed.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sidelane_proto::wire::peer::v1::HelloResponse;
use sidelane_tests::ask::{ECHO_UNARY, ask};
use sidelane_tests::cluster::ClusterBuilder;
use sidelane_tests::fake_control::{FakeControl, Session, endpoint, full, state};
use sidelane_tests::fake_peer::{FakePeer, welcome};
use sidelane_tests::frames::PREFACE;
use sidelane_tests::refusal::Refusal;
use sidelane_tests::{Cluster, RawUpstream, cluster, services};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tonic::{Code, Status};

/// A trace that somebody does not record.
const THEIRS: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
/// It names none.
const NOTHING: &str = "00-00000000000000000000000000000000-0000000000000000-00";

/// A sidecar that knows the peer at this address as the one endpoint of Echo.
async fn mesh(peer: SocketAddr) -> (Cluster, FakeControl, Session) {
    mesh_with(cluster!().node("caller"), peer).await
}

async fn mesh_with(mesh: ClusterBuilder, peer: SocketAddr) -> (Cluster, FakeControl, Session) {
    let (control, mesh, mut session) = FakeControl::of(mesh).await;
    let echo = endpoint(services::ECHO, "peer", 7, peer);
    let news = full(1, vec![state(vec![echo])]);
    session.update(news).await.unwrap();
    mesh.node("caller").ready().await;
    (mesh, control, session)
}

/// Calls the peer, which cannot be. Gives the reason, after its address.
async fn refused(peer: SocketAddr) -> String {
    refused_after(peer).await.0
}

/// The same, and how long it took.
async fn refused_after(peer: SocketAddr) -> (String, Duration) {
    let (mesh, _control, _session) = mesh(peer).await;
    let begun = Instant::now();
    let refusal = Refusal::of(&ask(mesh.node("caller"), ECHO_UNARY, &[]).await);
    let lasted = begun.elapsed();
    let text = refusal.text.clone();
    let expected = Refusal::new("CONNECT_FAILED", Code::Unavailable, text.clone());
    assert_eq!(refusal, expected);
    let about = format!("sidelane.test.v1.Echo on peer (Internal, lane general): {peer} ");
    let why = text.strip_prefix(&about).unwrap_or(&text);
    // A dial that failed just now is not made again at once.
    let why = why.split(" (next dial in ").next();
    (why.unwrap_or_default().to_owned(), lasted)
}

#[tokio::test]
async fn a_peer_that_is_somebody_else_gets_no_call() {
    let peer = FakePeer::answering(|hello| {
        let mut answer = welcome(hello);
        answer.node_id = "impostor".to_owned();
        Ok(answer)
    })
    .await;
    let why = "is not who was meant: wanted node peer, generation 7, Internal, lane general, \
               found node impostor, generation 7, Internal, lane general";
    assert_eq!(refused(peer.address()).await, why);
    assert!(peer.links().iter().all(|link| link.calls.is_empty()));
}

#[tokio::test]
async fn a_peer_that_takes_the_link_for_another_lane_gets_no_call() {
    let peer = FakePeer::answering(|hello| {
        let mut answer = welcome(hello);
        (answer.lane_id, answer.lane) = (1, "gossip".to_owned());
        Ok(answer)
    })
    .await;
    let why = "is not who was meant: wanted node peer, generation 7, Internal, lane general, \
               found node peer, generation 7, Internal, lane gossip";
    assert_eq!(refused(peer.address()).await, why);
    assert!(peer.links().iter().all(|link| link.calls.is_empty()));
}

#[tokio::test]
async fn a_peer_that_refuses_the_link_is_quoted() {
    let peer = FakePeer::answering(|_| Err(Status::failed_precondition("not today"))).await;
    assert_eq!(refused(peer.address()).await, "refused the link: not today");
}

#[tokio::test]
async fn a_peer_that_speaks_something_else_is_told_so() {
    let peer = RawUpstream::connections(|mut stream| async move {
        // Not before it was spoken to, as a server of HTTP/1.1 would.
        let mut opening = [0; 8 + PREFACE.len()];
        let _ = stream.read_exact(&mut opening).await;
        let answer = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
        let _ = stream.write_all(answer).await;
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    assert_eq!(
        refused(peer.address()).await,
        "ended the connection before it answered: connection error detected: frame with invalid \
         size"
    );
}

#[tokio::test]
async fn a_peer_that_does_not_answer_its_hello_is_given_up() {
    let peer = RawUpstream::connections(|mut stream| async move {
        let _ = stream.read_to_end(&mut Vec::new()).await;
    })
    .await;
    let (why, lasted) = refused_after(peer.address()).await;
    assert_eq!(why, "did not answer within 3000 ms");
    assert!(lasted < Duration::from_secs(6), "{lasted:?}");
}

#[tokio::test]
async fn only_a_peer_that_has_agreed_gets_calls_without_the_id_of_a_trace() {
    const NONE: &[(&str, &str)] = &[("--sampling", "0")];
    const ALL: &[(&str, &str)] = &[("--sampling", "1")];
    // Its own ids are kept beside the caller.
    const ERRORS: &[(&str, &str)] = &[("--sampling", "0"), ("--sample-errors", "")];
    const LOGGED: &[(&str, &str)] = &[("--sampling", "0"), ("--access-log", "all")];
    // Whether the peer agrees, whether it is offered anything, and whether calls that bring no id go on
    // with one.
    let cases = [
        (NONE, true, true, false),
        (NONE, false, true, true),
        (ALL, true, true, true),
        (ERRORS, true, false, true),
        (LOGGED, true, false, true),
    ];
    for (flags, agrees, offered, named) in cases {
        let peer = FakePeer::answering(move |hello| {
            let unmarked_is_unrecorded = agrees;
            Ok(HelloResponse {
                unmarked_is_unrecorded,
                ..welcome(hello)
            })
        })
        .await;
        let mesh = cluster!().node("caller");
        // A collector that is not there.
        let mut mesh = mesh.with("--otlp", "http://127.0.0.1:1");
        for (flag, value) in flags {
            mesh = match *value {
                "" => mesh.switched_on(flag),
                value => mesh.with(flag, value),
            };
        }
        let (mesh, _control, _session) = mesh_with(mesh, peer.address()).await;
        for came in [None, Some(NOTHING), Some(THEIRS)] {
            let headers: Vec<_> = came.map(|came| ("traceparent", came)).into_iter().collect();
            let answer = ask(mesh.node("caller"), ECHO_UNARY, &headers).await;
            assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
        }
        let links = peer.links();
        let [link] = &links[..] else {
            panic!("{links:?}");
        };
        assert_eq!(link.hellos[0].unmarked_is_unrecorded, offered, "{flags:?}");
        let ids = link
            .calls
            .iter()
            .map(|(_, headers)| headers.get("traceparent"));
        let [none, nothing, theirs] = ids.collect::<Vec<_>>()[..] else {
            panic!("{:?}", link.calls);
        };
        let case = format!("{flags:?}, {agrees}");
        assert_eq!(
            (none.is_some(), nothing.is_some()),
            (named, named),
            "{case}"
        );
        assert!(nothing.is_none_or(|nothing| nothing != NOTHING), "{case}");
        assert!(theirs.is_some(), "{case}");
    }
}

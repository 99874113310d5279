//! How a sidecar ends: what is open finishes whole, what merely stands open delays nothing, nobody
//! hears of the end before control does, and the app beside it can call until it is gone itself.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::time::{Duration, Instant};

use bytes::Bytes;
use sidelane::routing::ConnectionClass;
use sidelane_proto::model::Lane;
use sidelane_proto::wire::control::v1::DrainConfirmed;
use sidelane_proto::wire::control::v1::sync_request::Message as Said;
use sidelane_proto::wire::control::v1::sync_response::Message as Heard;
use sidelane_tests::fake_control::{FakeControl, full};
use sidelane_tests::frames::{EMPTY_SETTINGS, Frame, GOAWAY, PREFACE};
use sidelane_tests::wire::v1::ChatRequest;
use sidelane_tests::wire::v1::UnaryRequest;
use sidelane_tests::wire::v1::echo_client::EchoClient;
use sidelane_tests::{Upstream, cluster, link, services};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;

/// What takes longer than this has gone wrong.
const LIMIT: Duration = Duration::from_secs(20);
const STREAMS: u8 = 50;
const BODY: usize = 16 * 1024;
/// Messages on each stream, half of them once the drain has begun.
const MESSAGES: u32 = 20;

#[tokio::test]
async fn fifty_streams_of_16_kib_bodies_go_through_a_drain_intact() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .node("callee")
        .with("--grace", "60s")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let channel = mesh.node("caller").channel().await;
    let (begun, mut all_begun) = mpsc::channel(usize::from(STREAMS));
    let (drains, draining) = tokio::sync::watch::channel(false);
    let streams: Vec<_> = (0..STREAMS)
        .map(|number| {
            let (client, begun) = (EchoClient::new(channel.clone()), begun.clone());
            tokio::spawn(conversation(client, number, begun, draining.clone()))
        })
        .collect();
    for _ in 0..STREAMS {
        timeout(LIMIT, all_begun.recv()).await.unwrap().unwrap();
    }
    let callee = mesh.node("callee");
    callee.terminate();
    callee
        .answers("/readyz?for=inbound", |it| it.body.contains("draining"))
        .await;
    drains.send(true).unwrap();
    for stream in streams {
        timeout(LIMIT, stream).await.unwrap().unwrap();
    }
    // Long before its grace is over: nothing is left to wait for.
    assert!(callee.exited(LIMIT).await.success());
    assert!(
        callee.log().contains("0 calls were cut"),
        "{}",
        callee.log()
    );
}

/// Half of the messages before the drain, half of them within it; each answer is what was sent.
async fn conversation(
    mut client: EchoClient<tonic::transport::Channel>,
    number: u8,
    begun: mpsc::Sender<()>,
    mut draining: tokio::sync::watch::Receiver<bool>,
) {
    let (sender, receiver) = mpsc::channel(1);
    let body = Bytes::from(vec![number; BODY]);
    let say = || ChatRequest {
        payload: body.clone(),
        ..ChatRequest::default()
    };
    // The server answers with headers once it has the first message.
    sender.send(say()).await.unwrap();
    let answers = client.chat(ReceiverStream::new(receiver)).await;
    let mut answers = answers.unwrap().into_inner();
    for index in 0..MESSAGES {
        if index == MESSAGES / 2 {
            begun.send(()).await.unwrap();
            draining.wait_for(|drains| *drains).await.unwrap();
        }
        if index > 0 {
            sender.send(say()).await.unwrap();
        }
        let answer = answers.message().await.unwrap().expect("an answer to each");
        assert_eq!(answer.index, index);
        assert_eq!(answer.payload, body, "stream {number}, message {index}");
    }
    drop(sender);
    assert_eq!(answers.message().await.unwrap(), None, "an end with OK");
}

#[tokio::test]
async fn connections_that_say_nothing_do_not_delay_the_end() {
    let mesh = cluster!()
        .control()
        .node("patient")
        .with("--grace", "60s")
        .node("hasty")
        .with("--grace", "1s")
        .start()
        .await;
    // Towards peers and on the admin port they mean nothing.
    let patient = mesh.node("patient");
    let mut silent = Vec::new();
    for address in [patient.internal(), patient.external(), patient.admin()] {
        for _ in 0..5 {
            silent.push(TcpStream::connect(address).await.unwrap());
        }
    }
    // One that has begun HTTP/2 and stops.
    let mut half = TcpStream::connect(patient.internal()).await.unwrap();
    half.write_all(&PREFACE[..10]).await.unwrap();
    let begun = Instant::now();
    patient.stop(LIMIT).await;
    assert!(begun.elapsed() < LIMIT, "{:?}", begun.elapsed());

    // An app may still call: its connection is waited for, as long as the grace lasts.
    let hasty = mesh.node("hasty");
    let _app = TcpStream::connect(hasty.outbound()).await.unwrap();
    let begun = Instant::now();
    hasty.stop(LIMIT).await;
    let lasted = begun.elapsed();
    assert!(lasted >= Duration::from_secs(1), "{lasted:?}");
    assert!(lasted < Duration::from_secs(10), "{lasted:?}");
}

#[tokio::test]
async fn control_hears_of_the_end_before_any_peer_does() {
    let control = FakeControl::start().await;
    let mesh = cluster!()
        .node("callee")
        .with("--control", &control.address())
        .launch()
        .await;
    let mut session = control.session().await;
    session.welcome().await;
    session.update(full(1, Vec::new())).await.unwrap();
    let callee = mesh.node("callee");
    callee.answers("/livez", |it| it.status == 200).await;
    let class = ConnectionClass::Internal;
    let mut peer = link::said(
        link::listener(callee, class),
        &link::preamble(class, Lane::GENERAL),
    )
    .await
    .unwrap();
    peer.write_all(PREFACE).await.unwrap();
    peer.write_all(EMPTY_SETTINGS).await.unwrap();

    callee.terminate();
    let told = async { while !matches!(session.next().await, Said::Draining(_)) {} };
    timeout(LIMIT, told).await.unwrap();
    // Nothing is said to peers while control has not confirmed.
    let early = timeout(Duration::from_millis(500), goaway(&mut peer)).await;
    assert!(early.is_err(), "{early:?}");
    let confirmed = DrainConfirmed::default();
    session.say(Heard::DrainConfirmed(confirmed)).await;
    let said = timeout(LIMIT, goaway(&mut peer)).await.unwrap();
    assert!(said.is_ok(), "{said:?}");
}

/// Waits for a GOAWAY.
async fn goaway(peer: &mut TcpStream) -> std::io::Result<()> {
    while Frame::read(peer).await?.kind != GOAWAY {}
    Ok(())
}

#[tokio::test]
async fn the_app_beside_it_calls_until_it_is_gone_itself() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = cluster!()
        .control()
        .node("leaving")
        .with("--grace", "60s")
        .node("callee")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let leaving = mesh.node("leaving");
    let channel = leaving.channel().await;
    let mut app = EchoClient::new(channel.clone());
    app.unary(UnaryRequest::default()).await.unwrap();
    leaving.terminate();
    leaving
        .answers("/readyz?for=inbound", |it| it.body.contains("draining"))
        .await;
    let begun = Instant::now();
    while begun.elapsed() < Duration::from_secs(1) {
        let answer = app.unary(UnaryRequest::default()).await;
        assert_eq!(answer.unwrap().into_inner().node, "callee");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    // A new connection of it is taken, too.
    let answer = EchoClient::new(leaving.channel().await)
        .unary(UnaryRequest::default())
        .await;
    assert_eq!(answer.unwrap().into_inner().node, "callee");
    assert_eq!(leaving.ended().await, None);
    drop((app, channel));
    assert!(leaving.exited(LIMIT).await.success());
}

#[tokio::test]
async fn control_gives_those_who_hang_its_grace_and_no_more() {
    let grace = Duration::from_millis(1_500);
    let cluster = cluster!()
        .control()
        .with("--grace", "1500ms")
        .launch()
        .await;
    let control = cluster.control();
    control.ready().await;
    let mut hung = TcpStream::connect(control.listen()).await.unwrap();
    hung.write_all(PREFACE).await.unwrap();
    hung.write_all(EMPTY_SETTINGS).await.unwrap();
    // Its SETTINGS, so that it is known to be taken in. It never answers them.
    hung.read_exact(&mut [0; 9]).await.unwrap();
    let begun = Instant::now();
    control.stop(LIMIT).await;
    let took = begun.elapsed();
    // The usual grace is 10 s.
    assert!((grace..Duration::from_secs(8)).contains(&took), "{took:?}");
}

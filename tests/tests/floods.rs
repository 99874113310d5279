//! Floods on the external listener: whatever an attacker sends there, the sidecar lives, holds no more
//! memory for it, ends the connection where it may, and goes on to serve those who behave.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prost::Message;
use sidelane_proto::model::{ConnectionClass, Lane};
use sidelane_tests::admin::{Answer, Metrics};
use sidelane_tests::ask::ask_over;
use sidelane_tests::client::{RawClient, framed};
use sidelane_tests::cluster::Node;
use sidelane_tests::flood::{
    Attacker, DATA, END_HEADERS, END_STREAM, Ended, PING, PRIORITY, RST_STREAM, VISIT, call,
    continuation, frame, hpack_bomb, is_closed, made_you_reset, rapid_reset, same, slow_preface,
    text, visit,
};
use sidelane_tests::frames::{HEADERS, SETTINGS, WINDOW_UPDATE};
use sidelane_tests::{Cluster, Upstream, cluster, exclusive, link, services};
use tonic::Code;

/// As many frames as an attacker sends.
const MANY: u32 = 100_000;
/// What a sidecar may hold more after a flood than before.
const GROWTH: u64 = 50 << 20;
/// A connection that is to end ends within this time.
const SOON: Duration = Duration::from_secs(20);
/// The error code of HTTP/2 (RFC 9113 §7).
const ENHANCE_YOUR_CALM: u32 = 11;

/// Users in the clear, so that a flood is a flood of frames and not of TLS.
async fn mesh(upstream: &Upstream, flags: &[(&str, &str)]) -> Cluster {
    let mut mesh = cluster!().control().node("edge");
    for (flag, value) in flags {
        mesh = mesh.with(flag, value);
    }
    mesh.serving(services::FRONT, upstream).start().await
}

/// One who behaves, beside a flood.
struct Behaved {
    over: Arc<AtomicBool>,
    calls: tokio::task::JoinHandle<Vec<Duration>>,
}

impl Behaved {
    async fn calling(node: &Node) -> Self {
        let client = RawClient::connect(node.external()).await.unwrap();
        visited(&client).await;
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        let calls = tokio::spawn(async move {
            let mut took = Vec::new();
            while !until.load(Ordering::Relaxed) || took.len() < 20 {
                let begun = Instant::now();
                visited(&client).await;
                took.push(begun.elapsed());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            took
        });
        Self { over, calls }
    }

    /// How long its calls took, all of which went well.
    async fn took(self) -> Vec<Duration> {
        self.over.store(true, Ordering::Relaxed);
        let mut took = self.calls.await.unwrap();
        took.sort_unstable();
        took
    }
}

async fn visited(client: &RawClient) {
    let answer = ask_over(client, VISIT, &[]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok, "{answer:?}");
}

/// A flood, beside one who behaves. How it ended; `None` where the connection stands.
async fn flooded(
    node: &Node,
    settings: &[(u16, u32)],
    frames: impl Iterator<Item = Vec<u8>>,
) -> (usize, Option<Ended>) {
    let behaved = Behaved::calling(node).await;
    let before = node.resident_memory();
    let mut attacker = Attacker::connect(node.external(), settings).await.unwrap();
    let taken = attacker.send(frames).await;
    let ended = attacker.ended(SOON).await;
    let grown = node.resident_memory().saturating_sub(before);
    assert!(grown < GROWTH, "{grown} bytes more");
    let took = behaved.took().await;
    println!(
        "{taken} frames taken, {grown} bytes more, {ended:?}; beside it {} calls, the middle one took {:?}",
        took.len(),
        took[took.len() / 2]
    );
    assert!(node.ended().await.is_none(), "{}", node.end_of_log());
    (taken, ended)
}

async fn calmed(name: &str, frames: impl Iterator<Item = Vec<u8>>, code: u32) {
    let _alone = exclusive::exclusive().await;
    let upstream = Upstream::named("front").start().await;
    let mesh = mesh(&upstream, &[]).await;
    let (_, ended) = flooded(mesh.node("edge"), &[], frames).await;
    let ended = ended.unwrap_or_else(|| panic!("{name}: the connection stands"));
    // A reset may overtake the GOAWAY where the attacker still sends.
    assert!(
        ended.goaway.is_none_or(|it| it == code),
        "{name}: {ended:?}"
    );
}

#[tokio::test]
async fn rapid_reset_ends_the_connection() {
    calmed("rapid reset", rapid_reset(VISIT, MANY), ENHANCE_YOUR_CALM).await;
}

#[tokio::test]
async fn made_you_reset_ends_the_connection() {
    let frames = made_you_reset(VISIT, MANY);
    calmed("MadeYouReset", frames, ENHANCE_YOUR_CALM).await;
}

#[tokio::test]
async fn headers_that_never_end_end_the_connection() {
    let frames = continuation(VISIT, MANY as usize);
    calmed("CONTINUATION", frames, ENHANCE_YOUR_CALM).await;
}

#[tokio::test]
async fn settings_without_end_end_the_connection() {
    let frames = same(frame(SETTINGS, 0, 0, &[]), MANY as usize);
    calmed("SETTINGS", frames, ENHANCE_YOUR_CALM).await;
}

#[tokio::test]
async fn pings_without_end_end_the_connection() {
    let frames = same(frame(PING, 0, 0, &[7; 8]), MANY as usize);
    calmed("PING", frames, ENHANCE_YOUR_CALM).await;
}

#[tokio::test]
async fn priorities_without_end_end_the_connection() {
    let frames = same(frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]), MANY as usize);
    calmed("PRIORITY", frames, ENHANCE_YOUR_CALM).await;
}

#[tokio::test]
async fn windows_without_end_end_the_connection() {
    let frames = same(frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), MANY as usize);
    calmed("WINDOW_UPDATE", frames, ENHANCE_YOUR_CALM).await;
}

#[tokio::test]
async fn empty_data_without_end_ends_the_connection() {
    let begun = frame(HEADERS, END_HEADERS, 1, &call(VISIT));
    let frames = std::iter::once(begun).chain(same(frame(DATA, 0, 1, &[]), MANY as usize));
    calmed("empty DATA", frames, ENHANCE_YOUR_CALM).await;
}

#[tokio::test]
async fn headers_that_unfold_are_refused_and_hold_nothing() {
    let _alone = exclusive::exclusive().await;
    let upstream = Upstream::named("front").start().await;
    let mesh = mesh(&upstream, &[]).await;
    let (taken, ended) = flooded(mesh.node("edge"), &[], hpack_bomb(VISIT, 200)).await;
    // Each is refused by itself, or they end the connection: none may come through.
    let ended = ended.map(|ended| ended.goaway);
    assert!(taken == 200 || ended.is_some(), "{taken}: {ended:?}");
    let metrics = mesh.node("edge").metrics().await;
    let calls = metrics.sum("sidelane_open_calls", &[]);
    assert_eq!(calls, 0.0);
}

#[tokio::test]
async fn headers_beyond_64_kib_are_refused_and_the_connection_stays() {
    let _alone = exclusive::exclusive().await;
    let upstream = Upstream::named("front").start().await;
    let mesh = mesh(&upstream, &[]).await;
    let client = RawClient::connect(mesh.node("edge").external())
        .await
        .unwrap();
    let large = "v".repeat(70 * 1024);
    let answer = client
        .unary(VISIT, &[("x-large", large.as_str())], &())
        .await;
    let refused = answer.as_ref().is_ok_and(|answer| answer.status == 431) || answer.is_err();
    assert!(refused, "{answer:?}");
    // The same for one who did not look at the bound that it was told.
    let mut block = call(VISIT);
    block.push(0);
    text(&mut block, "x-large");
    text(&mut block, &large);
    let mut pieces = block.chunks(16 * 1024).enumerate().map(|(index, piece)| {
        let last = (index + 1) * 16 * 1024 >= block.len();
        let kind = if index == 0 { HEADERS } else { 9 };
        frame(kind, if last { END_HEADERS } else { 0 }, 1, piece)
    });
    let (_, ended) = flooded(mesh.node("edge"), &[], pieces.by_ref()).await;
    println!("{ended:?}");
    let user = RawClient::connect(mesh.node("edge").external())
        .await
        .unwrap();
    visited(&user).await;
}

#[tokio::test]
async fn answers_that_nobody_reads_hold_little_and_stall_nobody() {
    let _alone = exclusive::exclusive().await;
    let upstream = Upstream::named("front").start().await;
    let mesh = mesh(&upstream, &[]).await;
    // `SETTINGS_INITIAL_WINDOW_SIZE` 0: nothing may be answered.
    let frames = (0..1_000_u32).map(|number| visit(2 * number + 1, 4_096));
    let (taken, ended) = flooded(mesh.node("edge"), &[(4, 0)], frames).await;
    assert_eq!((taken, ended), (1_000, None));
}

#[tokio::test]
async fn two_thousand_slow_prefaces_are_turned_away_or_ended() {
    let _alone = exclusive::exclusive().await;
    let upstream = Upstream::named("front").start().await;
    let mesh = mesh(&upstream, &[("--external-accept-rate", "1000000")]).await;
    let node = mesh.node("edge");
    let behaved = Behaved::calling(node).await;
    let before = node.resident_memory();
    let mut slow = Vec::new();
    for _ in 0..2_000 {
        slow.push(slow_preface(node.external()).await.unwrap());
    }
    let grown = node.resident_memory().saturating_sub(before);
    assert!(grown < GROWTH, "{grown} bytes more");
    // The last ones may not have been looked at yet.
    let turned = |answer: &Answer| {
        let name = "sidelane_user_connections_refused_total";
        let labels = [("reason", "connections_per_address")];
        Metrics::parse(&answer.body).sum(name, &labels) >= 2_000.0 - 512.0
    };
    node.answers("/metrics", turned).await;
    // And those that were let in are not waited for.
    for stream in &mut slow {
        assert!(
            is_closed(stream, SOON).await,
            "a slow preface is still waited for"
        );
    }
    let took = behaved.took().await;
    assert!(took.len() > 20, "{took:?}");
}

/// Between sidecars a connection is shared: what is wrong with one call is that call's alone.
#[tokio::test]
async fn on_a_peers_link_errors_and_resets_end_streams_alone() {
    let _alone = exclusive::exclusive().await;
    let upstream = Upstream::named("front").start().await;
    let mesh = mesh(&upstream, &[]).await;
    let node = mesh.node("edge");
    let (class, lane) = (ConnectionClass::External, Lane::INGRESS_DATA);
    let opened = link::preamble(class, lane);
    let mut peer = Attacker::after(&opened, node.external(), &[])
        .await
        .unwrap();
    let hello = framed(&link::hello(node, class, lane).await.encode_to_vec());
    let mut greeting = frame(HEADERS, END_HEADERS, 1, &call(link::HELLO_PATH));
    greeting.extend(frame(DATA, END_STREAM, 1, &hello));
    peer.send(std::iter::once(greeting)).await;
    // A call beside others that are wrong, until the Hello is answered and it is taken; the first
    // stream was the Hello's.
    let mut stream = 1;
    let mut wrong_ones = 0;
    let begun = Instant::now();
    let answered = |metrics: &Metrics| {
        let labels = [("direction", "inbound"), ("status", "0")];
        metrics.sum("sidelane_responses_total", &labels)
    };
    while answered(&node.metrics().await) < 3.0 {
        assert!(begun.elapsed() < SOON, "the calls beside are not answered");
        let wrong = (0..1_000_u32).map(|number| {
            let stream = stream + 2 * (number + 1);
            let mut bytes = frame(HEADERS, END_HEADERS, stream, &call(VISIT));
            bytes.extend(match number % 2 {
                0 => frame(WINDOW_UPDATE, 0, stream, &[0x7F, 0xFF, 0xFF, 0xFF]),
                _ => frame(RST_STREAM, 0, stream, &[0, 0, 0, 8]),
            });
            bytes
        });
        let last = visit(stream + 2_002, 200);
        let sent = peer.send(wrong.chain(std::iter::once(last))).await;
        assert_eq!(
            sent, 1_001,
            "the link was ended after {wrong_ones} wrong calls"
        );
        stream += 2_002;
        wrong_ones += 1_000;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    assert!(peer.ended(Duration::from_millis(200)).await.is_none());
}

/// What one who behaves feels of attackers that do not hurry, on a machine that has time.
#[tokio::test]
#[ignore = "measures time: needs a machine that does nothing else"]
async fn beside_paced_attackers_calls_are_quick() {
    let _alone = exclusive::exclusive().await;
    let upstream = Upstream::named("front").start().await;
    let mesh = mesh(&upstream, &[]).await;
    let node = mesh.node("edge");
    let behaved = Behaved::calling(node).await;
    let mut attackers = Vec::new();
    for kind in 0..4_u32 {
        attackers.push(tokio::spawn(paced(kind, node.external())));
    }
    for attacker in attackers {
        attacker.await.unwrap();
    }
    let took = behaved.took().await;
    let p99 = took[took.len() * 99 / 100];
    println!("{} calls, p99 {p99:?}", took.len());
    assert!(p99 < Duration::from_millis(50), "{p99:?}");
}

/// Again and again for ten seconds: whoever is thrown out comes back.
async fn paced(kind: u32, address: SocketAddr) {
    let until = Instant::now() + Duration::from_secs(10);
    while Instant::now() < until {
        let Ok(mut attacker) = Attacker::connect(address, &[(4, 0)]).await else {
            continue;
        };
        for round in 0..50 {
            let (first, next) = (round * 20, round * 20 + 20);
            let skipped = first as usize;
            let frames: Vec<Vec<u8>> = match kind {
                0 => rapid_reset(VISIT, next).skip(skipped).collect(),
                1 => made_you_reset(VISIT, next).skip(skipped).collect(),
                2 => same(frame(PING, 0, 0, &[7; 8]), 50).collect(),
                _ => (first..next).map(|it| visit(2 * it + 1, 4_096)).collect(),
            };
            attacker.send(frames.into_iter()).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

//! Floods on the external listener: whatever an attacker sends there, the sidecar lives, holds no more
//! memory for it, ends the connection where it may, and goes on to serve those who behave.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prost::Message;
use sidelane_identity::tls;
use sidelane_identity::verify::Expected;
use sidelane_proto::model::{ConnectionClass, Lane};
use sidelane_tests::admin::{Answer, Metrics};
use sidelane_tests::ask::{ECHO_UNARY, ask_over};
use sidelane_tests::certificates::{Authority, LONG};
use sidelane_tests::client::{RawClient, framed};
use sidelane_tests::cluster::Node;
use sidelane_tests::flood::{
    Attacker, DATA, END_HEADERS, END_STREAM, Ended, PING, PRIORITY, RST_STREAM, VISIT, call,
    continuation, frame, hpack_bomb, is_closed, late_data, made_you_reset, oversize_headers,
    rapid_reset, same, slow_preface, visit,
};
use sidelane_tests::frames::{HEADERS, PREFACE, SETTINGS, WINDOW_UPDATE};
use sidelane_tests::users::from_address;
use sidelane_tests::wire::v1::UnaryRequest;
use sidelane_tests::{Cluster, Upstream, cluster, exclusive, link, services};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
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
    /// A user from another address than the attacker's.
    async fn calling(node: &Node) -> Self {
        let stream = from_address(2, node.external()).await;
        Self::over(RawClient::over(stream).await.unwrap(), VISIT).await
    }

    async fn over(client: RawClient, path: &'static str) -> Self {
        answered(&client, path).await;
        let over = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&over);
        let calls = tokio::spawn(async move {
            let mut took = Vec::new();
            while !until.load(Ordering::Relaxed) || took.len() < 20 {
                let begun = Instant::now();
                answered(&client, path).await;
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
    answered(client, VISIT).await;
}

async fn answered(client: &RawClient, path: &str) {
    let answer = ask_over(client, path, &[]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok, "{answer:?}");
}

/// A flood, beside one who behaves and all of whose calls go well. How many frames were taken, how it
/// ended (`None` where the connection stands), and how many calls went beside it.
async fn flooded(
    node: &Node,
    settings: &[(u16, u32)],
    frames: impl Iterator<Item = Vec<u8>>,
) -> (usize, Option<Ended>, usize) {
    let behaved = Behaved::calling(node).await;
    let before = node.forget_peak();
    let mut attacker = Attacker::connect(node.external(), settings).await.unwrap();
    let taken = attacker.send(frames).await;
    let ended = attacker.ended(SOON).await;
    let grown = node.peak_memory() - before;
    println!("{taken} frames taken, {grown} bytes more, {ended:?}");
    assert!(grown < GROWTH, "{grown} bytes more");
    let took = behaved.took().await;
    println!(
        "{taken} frames taken, {grown} bytes more, {ended:?}; beside it {} calls, the middle one took {:?}",
        took.len(),
        took[took.len() / 2]
    );
    assert!(node.ended().await.is_none(), "{}", node.end_of_log());
    (taken, ended, took.len() + 1)
}

async fn calmed(name: &str, frames: impl Iterator<Item = Vec<u8>>) {
    let _alone = exclusive::exclusive().await;
    let upstream = Upstream::named("front").start().await;
    let mesh = mesh(&upstream, &[]).await;
    let (taken, ended, _) = flooded(mesh.node("edge"), &[], frames).await;
    let ended = ended.unwrap_or_else(|| panic!("{name}: the connection stands"));
    assert_eq!(ended.goaway, Some(ENHANCE_YOUR_CALM), "{name}: {ended:?}");
    // It was a flood: the least that is too much for a user was sent.
    assert!(taken >= 1_000, "{name}: {taken} frames were taken");
    // By the count of frames, or by one of HTTP/2's own bounds, whichever was met first.
    let metrics = mesh.node("edge").metrics().await;
    let refused = "sidelane_user_connections_refused_total";
    let of = |reason| metrics.sum(refused, &[("reason", reason)]);
    assert_eq!(of("flood") + of("protocol"), 1.0, "{name}: {ended:?}");
}

#[tokio::test]
async fn rapid_reset_ends_the_connection() {
    calmed("rapid reset", rapid_reset(VISIT, MANY)).await;
}

#[tokio::test]
async fn made_you_reset_ends_the_connection() {
    let frames = made_you_reset(VISIT, MANY);
    calmed("MadeYouReset", frames).await;
}

#[tokio::test]
async fn headers_that_never_end_end_the_connection() {
    let frames = continuation(VISIT, MANY as usize);
    calmed("CONTINUATION", frames).await;
}

#[tokio::test]
async fn settings_without_end_end_the_connection() {
    let frames = same(frame(SETTINGS, 0, 0, &[]), MANY as usize);
    calmed("SETTINGS", frames).await;
}

#[tokio::test]
async fn pings_without_end_end_the_connection() {
    let frames = same(frame(PING, 0, 0, &[7; 8]), MANY as usize);
    calmed("PING", frames).await;
}

#[tokio::test]
async fn priorities_without_end_end_the_connection() {
    let frames = same(frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]), MANY as usize);
    calmed("PRIORITY", frames).await;
}

#[tokio::test]
async fn windows_without_end_end_the_connection() {
    let frames = same(frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]), MANY as usize);
    calmed("WINDOW_UPDATE", frames).await;
}

#[tokio::test]
async fn empty_data_without_end_ends_the_connection() {
    let begun = frame(HEADERS, END_HEADERS, 1, &call(VISIT));
    let frames = std::iter::once(begun).chain(same(frame(DATA, 0, 1, &[]), MANY as usize));
    calmed("empty DATA", frames).await;
}

#[tokio::test]
async fn headers_that_unfold_are_refused_and_hold_nothing() {
    let _alone = exclusive::exclusive().await;
    let upstream = Upstream::named("front").start().await;
    let mesh = mesh(&upstream, &[]).await;
    let bombs = hpack_bomb(VISIT, 200);
    let (taken, ended, beside) = flooded(mesh.node("edge"), &[], bombs).await;
    let ended = ended.expect("the connection stands");
    assert_eq!(ended.goaway, Some(ENHANCE_YOUR_CALM), "{taken}: {ended:?}");
    assert_eq!(ended.answers, 0, "none may come through");
    let metrics = mesh.node("edge").metrics().await;
    assert_eq!(metrics.sum("sidelane_open_calls", &[]), 0.0);
    let calls = metrics.sum("sidelane_requests_total", &[("service", services::FRONT)]);
    assert_eq!(calls, f64::from(u32::try_from(beside).unwrap()));
}

#[tokio::test]
async fn headers_beyond_64_kib_are_refused_and_the_connection_stays() {
    let _alone = exclusive::exclusive().await;
    let upstream = Upstream::named("front").start().await;
    let mesh = mesh(&upstream, &[]).await;
    let node = mesh.node("edge");
    let user = RawClient::connect(node.external()).await.unwrap();
    let large = "v".repeat(70 * 1024);
    let answer = user.unary(VISIT, &[("x-large", large.as_str())], &()).await;
    let refused = answer.as_ref().is_ok_and(|answer| answer.status == 431) || answer.is_err();
    assert!(refused, "{answer:?}");
    // The same for one who did not look at the bound that it was told.
    let calls = (0..100).map(|number| oversize_headers(VISIT, 2 * number + 3));
    let mut attacker = Attacker::connect(node.external(), &[]).await.unwrap();
    let before = node.forget_peak();
    assert_eq!(attacker.send(calls).await, 100);
    let (seen, stands) = attacker.settled(SOON).await;
    let grown = node.peak_memory() - before;
    println!("{grown} bytes more, {seen:?}");
    assert!(grown < GROWTH, "{grown} bytes more");
    assert!(stands && seen.goaway.is_none(), "{seen:?}");
    assert_eq!(seen.resets.max(seen.answers), 100, "{seen:?}");
    visited(&user).await;
}

#[tokio::test]
async fn answers_that_nobody_reads_hold_little_and_stall_nobody() {
    let _alone = exclusive::exclusive().await;
    let upstream = Upstream::named("front").start().await;
    let mesh = mesh(&upstream, &[]).await;
    // `SETTINGS_INITIAL_WINDOW_SIZE` 0: nothing may be answered.
    let frames = (0..1_000_u32).map(|number| visit(2 * number + 1, 4_096));
    let (taken, ended, _) = flooded(mesh.node("edge"), &[(4, 0)], frames).await;
    assert_eq!((taken, ended), (1_000, None));
}

#[tokio::test]
async fn calls_beyond_the_bound_of_a_connection_are_refused_by_themselves() {
    /// The error code of HTTP/2 (RFC 9113 §7).
    const REFUSED_STREAM: u32 = 7;
    let _alone = exclusive::exclusive().await;
    let upstream = Upstream::named("front").start().await;
    let mesh = mesh(&upstream, &[("--external-streams", "8")]).await;
    let node = mesh.node("edge");
    let behaved = Behaved::calling(node).await;
    // With no window their answers stand still, and they stay open.
    let mut reader = Attacker::connect(node.external(), &[(4, 0)]).await.unwrap();
    let calls = (0..20_u32).map(|number| visit(2 * number + 1, 4_096));
    assert_eq!(reader.send(calls).await, 20);
    let begun = Instant::now();
    while reader.seen().resets < 12 {
        assert!(begun.elapsed() < SOON, "{:?}", reader.seen());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // What follows on a stream that was refused is refused as well, by another code.
    let seen = reader.seen();
    assert_eq!(seen.reset, Some(REFUSED_STREAM));
    assert_eq!(seen.goaway, None, "the others go on");
    assert!(behaved.took().await.len() >= 20);
}

/// A link of somebody who has a certificate, and whose Hello was taken.
async fn peer(authority: &Authority, node: &Node) -> Attacker {
    let (class, lane) = (ConnectionClass::Internal, Lane::GENERAL);
    let (_holds, source) = authority.issue(link::DIALLER, LONG).source();
    let config = tls::client(source, Expected::Any).unwrap();
    let stream = TcpStream::connect(node.internal()).await.unwrap();
    let connector = TlsConnector::from(config);
    let stream = connector.connect(tls::name(), stream).await.unwrap();
    let greeting = greeting(node, class, lane).await;
    let opened = link::preamble(class, lane);
    let peer = Attacker::over(stream, &opened, &[]).await.unwrap();
    greeted(peer, &greeting).await
}

/// The frames of a Hello.
async fn greeting(node: &Node, class: ConnectionClass, lane: Lane) -> Vec<u8> {
    let hello = framed(&link::hello(node, class, lane).await.encode_to_vec());
    let mut greeting = frame(HEADERS, END_HEADERS, 1, &call(link::HELLO_PATH));
    greeting.extend(frame(DATA, END_STREAM, 1, &hello));
    greeting
}

/// A link on which this Hello was said and answered.
async fn greeted(mut peer: Attacker, greeting: &[u8]) -> Attacker {
    peer.send(std::iter::once(greeting.to_vec())).await;
    let begun = Instant::now();
    // The answer's head, and its trailers.
    while peer.seen().answers < 2 {
        assert!(begun.elapsed() < SOON, "the Hello is not answered");
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    peer
}

/// What becomes of a peer's link by a flood.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fate {
    /// It is ended, and told why.
    Calmed,
    /// It goes on, and all that was sent was taken in.
    Borne,
    /// One or the other: it depends on how much of it arrives at once.
    Either,
    /// It goes on; each of the calls was reset by itself.
    Reset,
    /// It goes on; each of the calls was refused by itself, with an answer or a reset.
    Refused,
}

type Frames = Box<dyn Iterator<Item = Vec<u8>> + Send>;

/// All the floods, on a link's second stream and those after it.
fn of_a_peer() -> Vec<(&'static str, Frames, Fate)> {
    let many = MANY as usize;
    let begun = frame(HEADERS, END_HEADERS, 3, &call(ECHO_UNARY));
    let empty_data = std::iter::once(begun).chain(same(frame(DATA, 0, 3, &[]), many - 1));
    let priority = frame(PRIORITY, 0, 1, &[0, 0, 0, 0, 1]);
    let window = frame(WINDOW_UPDATE, 0, 0, &[0, 0, 0, 1]);
    let late = late_data(ECHO_UNARY, MANY - 1);
    let oversize = (0..100).map(|number| oversize_headers(ECHO_UNARY, 2 * number + 3));
    vec![
        (
            "rapid reset",
            Box::new(rapid_reset(ECHO_UNARY, MANY)),
            Fate::Either,
        ),
        (
            "MadeYouReset",
            Box::new(made_you_reset(ECHO_UNARY, MANY)),
            Fate::Reset,
        ),
        ("late DATA", Box::new(late), Fate::Reset),
        (
            "CONTINUATION",
            Box::new(continuation(ECHO_UNARY, many)),
            Fate::Calmed,
        ),
        (
            "SETTINGS",
            Box::new(same(frame(SETTINGS, 0, 0, &[]), many)),
            Fate::Borne,
        ),
        (
            "PING",
            Box::new(same(frame(PING, 0, 0, &[7; 8]), many)),
            Fate::Borne,
        ),
        ("PRIORITY", Box::new(same(priority, many)), Fate::Borne),
        ("WINDOW_UPDATE", Box::new(same(window, many)), Fate::Borne),
        ("empty DATA", Box::new(empty_data), Fate::Calmed),
        (
            "HPACK bombs",
            Box::new(hpack_bomb(ECHO_UNARY, 200)),
            Fate::Calmed,
        ),
        ("oversize headers", Box::new(oversize), Fate::Refused),
        ("zero windows", Box::new(unread_echoes(1_000)), Fate::Borne),
    ]
}

/// Whole calls of `Echo.Unary`, after a window that takes nothing of their answers.
fn unread_echoes(count: u32) -> impl Iterator<Item = Vec<u8>> + Send {
    // `SETTINGS_INITIAL_WINDOW_SIZE` 0.
    let closed = frame(SETTINGS, 0, 0, &[0, 4, 0, 0, 0, 0]);
    let message = UnaryRequest {
        payload: vec![b'p'; 4_096].into(),
        ..UnaryRequest::default()
    };
    let message = framed(&message.encode_to_vec());
    let calls = (0..count).map(move |number| {
        let stream = 2 * number + 3;
        let mut request = frame(HEADERS, END_HEADERS, stream, &call(ECHO_UNARY));
        request.extend(frame(DATA, END_STREAM, stream, &message));
        request
    });
    std::iter::once(closed).chain(calls)
}

/// A callee and a caller that prove who they are.
async fn strict_pair(authority: &Authority, upstream: &Upstream) -> Cluster {
    cluster!()
        .control()
        .node("callee")
        .strict(&authority.issue("callee", LONG))
        .serving(services::ECHO, upstream)
        .node("caller")
        .strict(&authority.issue("caller", LONG))
        .start()
        .await
}

/// Peers are trusted further than users, and one of them may still be somebody else's by now: on the
/// port for peers a flood costs that peer its link, or nothing, and the others nothing at all.
#[tokio::test]
async fn floods_of_a_peer_on_the_internal_port_hold_little_and_harm_nobody() {
    let _alone = exclusive::exclusive().await;
    let authority = Authority::new();
    let upstream = Upstream::named("callee").start().await;
    let mesh = strict_pair(&authority, &upstream).await;
    let callee = mesh.node("callee");
    let idle = callee.forget_peak();
    let mut peak = 0;
    for (name, frames, fate) in of_a_peer() {
        let client = RawClient::connect(mesh.node("caller").outbound()).await;
        let behaved = Behaved::over(client.unwrap(), ECHO_UNARY).await;
        let mut attacker = peer(&authority, callee).await;
        let before = callee.forget_peak();
        let (mut sent, mut calls) = (0, 0);
        let taken = attacker.send(frames.inspect(|_| sent += 1)).await;
        let (seen, stands) = attacker.settled(SOON).await;
        let grown = callee.peak_memory() - before;
        peak = callee.peak_memory().max(peak);
        calls += behaved.took().await.len();
        println!(
            "{name}: {taken} of {sent} frames taken, {grown} bytes more, {seen:?}; {calls} calls beside it"
        );
        assert!(grown < GROWTH, "{name}: {grown} bytes more");
        let calmed = !stands && seen.goaway == Some(ENHANCE_YOUR_CALM);
        let borne = stands && seen.goaway.is_none() && taken == sent;
        let resets = seen.resets as usize;
        let held = match fate {
            Fate::Calmed => calmed,
            Fate::Borne => borne && resets == 0,
            Fate::Either => calmed || borne,
            // What was refused at its beginning may be forgotten at its end, on a busy machine by many.
            Fate::Reset => borne && resets >= sent / 10,
            Fate::Refused => borne && resets.max(seen.answers as usize - 2) == sent,
        };
        assert!(
            held,
            "{name}: {fate:?} was expected, {taken} of {sent} were taken, {seen:?}"
        );
        assert!(
            callee.ended().await.is_none(),
            "{name}: {}",
            callee.end_of_log()
        );
    }
    // Nor do they add up: what one of them took is there for the next.
    assert!(peak - idle < 2 * GROWTH, "{} bytes more", peak - idle);
}

#[tokio::test]
async fn two_thousand_slow_prefaces_are_turned_away_or_ended() {
    let _alone = exclusive::exclusive().await;
    let upstream = Upstream::named("front").start().await;
    let mesh = mesh(&upstream, &[("--external-accept-rate", "1000000")]).await;
    let node = mesh.node("edge");
    let behaved = Behaved::calling(node).await;
    let mut slow = slow_prefaces(node, node.external(), &PREFACE[..3]).await;
    // The last ones may not have been looked at yet.
    let turned = |answer: &Answer| {
        let name = "sidelane_user_connections_refused_total";
        let labels = [("reason", "connections_per_address")];
        Metrics::parse(&answer.body).sum(name, &labels) >= 2_000.0 - 512.0
    };
    node.answers("/metrics", turned).await;
    // And those that were let in are not waited for.
    all_closed(&mut slow).await;
    assert!(behaved.took().await.len() > 20);
}

/// Where peers call, who does not go on to prove who it is has no more time than a user.
#[tokio::test]
async fn so_are_slow_handshakes_on_the_internal_port() {
    /// A handshake's record, of which nothing more comes.
    const TLS_BEGINS: [u8; 3] = [0x16, 3, 1];
    let _alone = exclusive::exclusive().await;
    let authority = Authority::new();
    let upstream = Upstream::named("callee").start().await;
    let mesh = strict_pair(&authority, &upstream).await;
    let callee = mesh.node("callee");
    let client = RawClient::connect(mesh.node("caller").outbound()).await;
    let behaved = Behaved::over(client.unwrap(), ECHO_UNARY).await;
    let mut slow = slow_prefaces(callee, callee.internal(), &TLS_BEGINS).await;
    all_closed(&mut slow).await;
    assert!(behaved.took().await.len() > 20);
    let metrics = callee.metrics().await;
    let refused = metrics.sum("sidelane_tls_refused_total", &[]);
    assert_eq!(refused, 2_000.0, "{metrics:?}");
}

/// Two thousand of them, and what they hold.
async fn slow_prefaces(node: &Node, to: SocketAddr, bytes: &[u8]) -> Vec<TcpStream> {
    let before = node.forget_peak();
    let mut slow = Vec::new();
    for _ in 0..2_000 {
        slow.push(slow_preface(to, bytes).await.unwrap());
    }
    let grown = node.peak_memory() - before;
    println!("{grown} bytes more");
    assert!(grown < GROWTH, "{grown} bytes more");
    slow
}

async fn all_closed(slow: &mut [TcpStream]) {
    for stream in slow {
        let closed = is_closed(stream, SOON).await;
        assert!(closed, "a slow preface is still waited for");
    }
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
    let greeting = greeting(node, class, lane).await;
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

/// What those who behave feel of attackers that do not hurry, on either port, on a machine that has
/// time.
#[tokio::test]
#[ignore = "measures time: needs a machine that does nothing else"]
async fn beside_paced_attackers_calls_are_quick() {
    let _alone = exclusive::exclusive().await;
    let upstream = Upstream::named("front").start().await;
    let mesh = cluster!()
        .control()
        .node("edge")
        .serving(services::FRONT, &upstream)
        .serving(services::ECHO, &upstream)
        .node("caller")
        .start()
        .await;
    let node = mesh.node("edge");
    let user = Behaved::calling(node).await;
    let client = RawClient::connect(mesh.node("caller").outbound()).await;
    let peer = Behaved::over(client.unwrap(), ECHO_UNARY).await;
    let (class, lane) = (ConnectionClass::Internal, Lane::GENERAL);
    let hello = greeting(node, class, lane).await;
    let mut attackers = Vec::new();
    for kind in 0..4_u32 {
        attackers.push(tokio::spawn(paced(kind, node.external(), None)));
        attackers.push(tokio::spawn(paced(
            kind,
            node.internal(),
            Some(hello.clone()),
        )));
    }
    for attacker in attackers {
        let (connections, rounds) = attacker.await.unwrap();
        println!("an attacker sent {rounds} rounds by {connections} connections");
        // Of a thousand, if nothing took any time.
        assert!(rounds >= 300, "{rounds} rounds are no attack");
    }
    for (who, behaved) in [("a user", user), ("a peer", peer)] {
        let took = behaved.took().await;
        let p99 = took[took.len() * 99 / 100];
        println!("{who}: {} calls, p99 {p99:?}", took.len());
        assert!(p99 < Duration::from_millis(50), "{who}: {p99:?}");
    }
}

/// Again and again for ten seconds: whoever is thrown out comes back. Says by how many connections,
/// and how many rounds were taken.
async fn paced(kind: u32, address: SocketAddr, hello: Option<Vec<u8>>) -> (u32, u32) {
    let until = Instant::now() + Duration::from_secs(10);
    let (mut connections, mut rounds) = (0, 0);
    let path = if hello.is_none() { VISIT } else { ECHO_UNARY };
    let preamble = link::preamble(ConnectionClass::Internal, Lane::GENERAL);
    while Instant::now() < until {
        let mut attacker = match &hello {
            None => Attacker::connect(address, &[(4, 0)]).await.unwrap(),
            Some(hello) => {
                let opened = Attacker::after(&preamble, address, &[]).await;
                greeted(opened.unwrap(), hello).await
            }
        };
        connections += 1;
        for round in 0..50 {
            let (first, next) = (round * 20, round * 20 + 20);
            let skipped = first as usize;
            let frames: Vec<Vec<u8>> = match kind {
                0 => rapid_reset(path, next).skip(skipped).collect(),
                1 => made_you_reset(path, next).skip(skipped).collect(),
                2 => same(frame(PING, 0, 0, &[7; 8]), 50).collect(),
                _ if hello.is_none() => (first..next).map(|it| visit(2 * it + 3, 4_096)).collect(),
                _ => unread_echoes(next).skip(skipped).collect(),
            };
            let sent = frames.len();
            if attacker.send(frames.into_iter()).await < sent {
                break;
            }
            rounds += 1;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
    (connections, rounds)
}

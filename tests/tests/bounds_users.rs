//! What users are allowed on the external listener, each bound held by going past it; and that what
//! they share is divided by their addresses.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use bytes::Bytes;
use sidelane_proto::wire::routing::v1 as wire;
use sidelane_sidecar::accept::LINKS_LIMIT;
use sidelane_sidecar::edge::FIRST_REQUEST_LIMIT;
use sidelane_sidecar::trust::HANDSHAKE_LIMIT;
use sidelane_tests::applied::{applied, tuning, with};
use sidelane_tests::ask::ask_over;
use sidelane_tests::client::RawClient;
use sidelane_tests::cluster::Node;
use sidelane_tests::flood::{self, Attacker, is_closed};
use sidelane_tests::frames::{EMPTY_SETTINGS, Opening, PREFACE};
use sidelane_tests::users::{Form, Front, from_address as from, told};
use sidelane_tests::wire::v1::{VisitRequest, VisitResponse};
use sidelane_tests::{Cluster, Upstream, cluster, services};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::sleep;
use tonic::Code;

const VISIT: &str = "/sidelane.test.v1.Front/Visit";
const FOUR_MIB: usize = 4 << 20;
/// More than a time limit may be passed by, on a machine that is busy with other things.
const SLACK: Duration = Duration::from_secs(5);

/// Users in the clear, so that connections cost little.
async fn mesh(upstream: &Upstream, flags: &[(&str, &str)]) -> Cluster {
    let mut mesh = cluster!().control().node("edge");
    for (flag, value) in flags {
        mesh = mesh.with(flag, value);
    }
    mesh.serving(services::FRONT, upstream).start().await
}

/// Is a user from there served?
async fn is_served(stream: TcpStream) -> Option<RawClient> {
    let user = RawClient::over(stream).await.ok()?;
    let answer = user
        .unary(VISIT, &[], &VisitRequest::default())
        .await
        .ok()?;
    (answer.grpc_status().ok()?.code() == Code::Ok).then_some(user)
}

async fn refused(node: &Node, reason: &str) -> f64 {
    let metrics = node.metrics().await;
    let name = "sidelane_user_connections_refused_total";
    metrics.sum(name, &[("reason", reason)])
}

/// A visit whose message has so many bytes as it travels.
fn message_of(bytes: usize) -> VisitRequest {
    // One byte says which field it is, four how long.
    let payload = Bytes::from(vec![b'p'; bytes - 5]);
    VisitRequest { payload }
}

#[tokio::test]
async fn a_message_of_4_mib_is_taken_and_one_byte_more_is_not() {
    let upstream = Upstream::named("front").start().await;
    let default = mesh(&upstream, &[]).await;
    let small = mesh(&upstream, &[("--external-message", "1KiB")]).await;
    for (mesh, limit) in [(default, FOUR_MIB), (small, 1024)] {
        let node = mesh.node("edge");
        let user = RawClient::connect(node.external()).await.unwrap();
        let message = |bytes: usize| {
            // Below 128 its length would take one byte, below 16,384 two.
            let less = if bytes < 16_384 { 2 } else { 0 };
            message_of(bytes + less)
        };
        let answer = user.unary(VISIT, &[], &message(limit)).await.unwrap();
        assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok, "{limit}");
        let answer = user.unary(VISIT, &[], &message(limit + 1)).await.unwrap();
        let text = "sidelane.test.v1.Front: a message of the request is larger than is taken here";
        assert_eq!(told(&answer), (Code::ResourceExhausted, text.to_owned()));
        // The connection and the app go on, and nobody holds it against the app.
        let answer = ask_over(&user, VISIT, &[]).await;
        assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
        // Local apps have no such bound.
        let local = RawClient::connect(node.outbound()).await.unwrap();
        let answer = local.unary(VISIT, &[], &message(limit + 1)).await.unwrap();
        assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
    }
}

#[tokio::test]
async fn users_have_so_many_connections_and_an_address_its_part() {
    let upstream = Upstream::named("front").start().await;
    let flags = [
        ("--external-connections", "4"),
        ("--external-per-address", "3"),
    ];
    let mesh = mesh(&upstream, &flags).await;
    let node = mesh.node("edge");
    let to = node.external();
    let mut users = Vec::new();
    for _ in 0..3 {
        users.push(is_served(from(1, to).await).await.unwrap());
    }
    assert!(is_closed(&mut from(1, to).await, SLACK).await);
    assert_eq!(refused(node, "connections_per_address").await, 1.0);
    users.push(is_served(from(2, to).await).await.unwrap());
    assert!(is_closed(&mut from(2, to).await, SLACK).await);
    assert_eq!(refused(node, "connections").await, 1.0);
    let metrics = node.metrics().await;
    assert_eq!(metrics.sum("sidelane_user_connections", &[]), 4.0);
    // Who leaves makes room, and those who stayed are served.
    drop(users.remove(0));
    let begun = Instant::now();
    while is_served(from(1, to).await).await.is_none() {
        assert!(begun.elapsed() < SLACK, "no room was made");
        sleep(Duration::from_millis(50)).await;
    }
    for user in &users {
        let answer = ask_over(user, VISIT, &[]).await;
        assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
    }
}

#[tokio::test]
async fn so_many_connections_are_accepted_in_a_second() {
    let upstream = Upstream::named("front").start().await;
    // Four at once and each second, and one of them from one address.
    let mesh = mesh(&upstream, &[("--external-accept-rate", "4")]).await;
    let node = mesh.node("edge");
    let mut kept = Vec::new();
    for last in [1, 1, 2, 3, 4, 5, 6, 7, 8, 9] {
        kept.push(from(last, node.external()).await);
    }
    let begun = Instant::now();
    while refused(node, "accept_rate").await + refused(node, "accept_rate_per_address").await < 2.0
    {
        assert!(begun.elapsed() < SLACK, "all were accepted");
        sleep(Duration::from_millis(20)).await;
    }
    assert!(refused(node, "accept_rate_per_address").await >= 1.0);
    assert!(refused(node, "accept_rate").await >= 1.0);
    // A little later there is room again.
    let begun = Instant::now();
    while is_served(from(99, node.external()).await).await.is_none() {
        assert!(begun.elapsed() < 2 * SLACK, "nobody is accepted any more");
        sleep(Duration::from_millis(300)).await;
    }
}

#[tokio::test]
async fn a_users_connection_is_told_its_bounds() {
    let upstream = Upstream::named("front").start().await;
    let mesh = mesh(&upstream, &[("--external-streams", "7")]).await;
    let node = mesh.node("edge");
    let mut stream = TcpStream::connect(node.external()).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(EMPTY_SETTINGS).await.unwrap();
    let opening = Opening::read(&mut stream).await.unwrap();
    assert_eq!(opening.max_concurrent_streams, Some(7));
    assert_eq!(opening.max_header_list_size, Some(64 * 1024));
    let config = node.config().await;
    let external = &config["users"];
    assert_eq!(external["concurrent_streams"], 7);
    assert_eq!(external["header_list_bytes"], 64 * 1024);
    let window = |name: &str| external[name].as_u64().map(|it| u32::try_from(it).unwrap());
    assert_eq!(opening.initial_window_size, window("stream_window"));
    assert_eq!(Some(opening.connection_window), window("connection_window"));
    for (name, value) in [
        ("message_bytes", 4_194_304),
        ("connections", 4_096),
        ("connections_per_address", 512),
        ("accepted_per_second", 1_000),
        ("accepted_per_second_and_address", 250),
        ("handshake_ms", 5_000),
        ("first_request_ms", 10_000),
        ("nowhere_after_ms", 500),
        ("peers_before_full_doors", 64),
        ("idle_ms", 300_000),
        ("stall_ms", 30_000),
        ("stall_in_a_crowd_ms", 3_000),
        ("stalls_without_a_crowd", 32),
        ("call_quiet_ms", 300_000),
        ("call_deadline_ms", 3_600_000),
        ("keepalive_ms", 60_000),
        ("keepalive_answer_ms", 20_000),
        ("calls_per_address", 1_024),
        ("memory_bytes", 536_870_912),
        ("memory_bytes_per_address", 134_217_728),
        ("memory_bytes_of_a_call", 16_384),
        ("pending_resets", 1_000),
        ("error_resets", 1_024),
    ] {
        assert_eq!(external[name], value, "{name}");
    }
    let peers = serde_json::json!({
        "links": LINKS_LIMIT,
        "strangers": 2_048,
        "handshake_ms": 5_000,
        "preface_ms": 10_000,
        "hello_ms": 3_000,
        "header_list_bytes": 68 * 1024,
        "pending_resets": 8_192,
        "error_resets": 100_000,
    });
    assert_eq!(config["peers"], peers);
}

#[tokio::test]
async fn who_says_nothing_is_not_waited_for() {
    let front = Front::new(Form::Pkcs8);
    let upstream = Upstream::named("front").start().await;
    let mesh = front.before(cluster!().control().node("edge"));
    let mesh = mesh
        .with("--external-idle", "1s")
        .serving(services::FRONT, &upstream)
        .start()
        .await;
    let node = mesh.node("edge");
    // No handshake.
    let mut silent = TcpStream::connect(node.external()).await.unwrap();
    let begun = Instant::now();
    assert!(is_closed(&mut silent, HANDSHAKE_LIMIT + SLACK).await);
    assert!(begun.elapsed() + Duration::from_millis(100) >= HANDSHAKE_LIMIT);
    assert_eq!(refused(node, "handshake_timeout").await, 1.0);
    // A handshake and no request: neither a preface, nor one with nothing behind it.
    let said: [&[u8]; 2] = [b"", PREFACE];
    for bytes in said {
        let mut stream = front.dial(node.external()).await.unwrap();
        stream.write_all(bytes).await.unwrap();
        let (begun, mut read) = (Instant::now(), Vec::new());
        let ended = tokio::io::AsyncReadExt::read_to_end(&mut stream, &mut read);
        let ended = tokio::time::timeout(FIRST_REQUEST_LIMIT + SLACK, ended).await;
        assert!(ended.is_ok(), "it is waited for");
        // One that is idle for a second goes sooner, in good order.
        assert!(begun.elapsed() < FIRST_REQUEST_LIMIT + SLACK);
    }
    assert!(refused(node, "no_request").await >= 1.0);
    // One request, and none for a second.
    let stream = front.dial(node.external()).await.unwrap();
    let user = RawClient::over_stream(stream, node.external())
        .await
        .unwrap();
    let begun = Instant::now();
    while user
        .unary(VISIT, &[], &VisitRequest::default())
        .await
        .is_ok()
    {
        assert!(begun.elapsed() < 6 * SLACK, "it stays for ever");
        // Twice as long each time, beginning well below what is idle.
        sleep(begun.elapsed().max(Duration::from_millis(100))).await;
    }
    assert!(begun.elapsed() > Duration::from_secs(1));
}

#[tokio::test]
async fn an_answer_that_is_not_taken_is_broken_off() {
    let upstream = Upstream::named("front").start().await;
    let mesh = mesh(&upstream, &[("--external-stall", "1s")]).await;
    let node = mesh.node("edge");
    // Two windows of nothing: these answers can go nowhere.
    let nothing = [(4, 0)];
    let mut reader = Attacker::connect(node.external(), &nothing).await.unwrap();
    let frames = (0..64).map(|number| flood::visit(2 * number + 1, 4_000));
    assert_eq!(reader.send(frames).await, 64);
    let begun = Instant::now();
    while node.metrics().await.sum("sidelane_cancelled_total", &[]) < 64.0 {
        assert!(begun.elapsed() < 2 * SLACK, "they are waited for");
        sleep(Duration::from_millis(50)).await;
    }
    assert!(begun.elapsed() > Duration::from_millis(500));
    // The connection is there, and so are others.
    let user = RawClient::connect(node.external()).await.unwrap();
    let answer = ask_over(&user, VISIT, &[]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
    assert!(reader.ended(Duration::from_millis(100)).await.is_none());
}

/// What users do not take fills the window between sidecar and app, which others need.
#[tokio::test]
async fn of_many_answers_that_are_not_taken_most_are_broken_off_soon() {
    let upstream = Upstream::named("front").start().await;
    let mesh = mesh(&upstream, &[]).await;
    let node = mesh.node("edge");
    let mut reader = Attacker::connect(node.external(), &[(4, 0)]).await.unwrap();
    let frames = (0..64).map(|number| flood::visit(2 * number + 1, 4_000));
    assert_eq!(reader.send(frames).await, 64);
    let begun = Instant::now();
    // Those beyond the crowd of 32; the others have half a minute.
    while node.metrics().await.sum("sidelane_cancelled_total", &[]) < 32.0 {
        assert!(begun.elapsed() < 3 * SLACK, "they are waited for");
        sleep(Duration::from_millis(50)).await;
    }
    assert!(begun.elapsed() > Duration::from_secs(2));
    let open = node.metrics().await.sum("sidelane_open_calls", &[]);
    assert!((1.0..=32.0).contains(&open), "{open} stand still");
    let user = RawClient::connect(node.external()).await.unwrap();
    let answer = ask_over(&user, VISIT, &[]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
}

#[tokio::test]
async fn limits_tell_users_apart_by_their_addresses() {
    let upstream = Upstream::named("front").start().await;
    let mesh = mesh(&upstream, &[]).await;
    let node = mesh.node("edge");
    let limited = with(tuning(services::FRONT), |rule| {
        rule.limits = vec![wire::Limit {
            requests_per_second: 1,
            burst: 3,
            per: vec![wire::Per::Caller.into()],
            outbound: false,
        }];
    });
    applied(mesh.control(), &[node], limited).await;
    for last in [1, 2] {
        let stream = from(last, node.external()).await;
        let user = RawClient::over(stream).await.unwrap();
        let mut codes = Vec::new();
        for _ in 0..6 {
            let answer = ask_over(&user, VISIT, &[]).await;
            codes.push(answer.grpc_status().unwrap().code());
        }
        let taken = codes.iter().filter(|code| **code == Code::Ok).count();
        // Some time passes, and a token a second with it.
        assert!((3..=5).contains(&taken), "127.0.0.{last}: {codes:?}");
        assert!(codes.contains(&Code::ResourceExhausted), "{codes:?}");
    }
}

#[tokio::test]
async fn a_users_address_is_the_key_where_there_is_no_other() {
    let names = ["one", "two", "three"];
    let mut upstreams = Vec::new();
    let mut mesh = cluster!().control().node("edge");
    for name in names {
        let upstream = Upstream::named(name).start().await;
        mesh = mesh.node(name).serving(services::FRONT, &upstream);
        upstreams.push(upstream);
    }
    let mesh = mesh.start().await;
    let edge = mesh.node("edge");
    let hashed = with(tuning(services::FRONT), |rule| {
        rule.load_balancing = wire::LoadBalancing::ConsistentHash.into();
    });
    applied(mesh.control(), &[edge], hashed).await;
    let mut all = BTreeSet::new();
    for last in 1..=24 {
        let mut of_one = BTreeSet::new();
        for _ in 0..3 {
            let stream = from(last, edge.external()).await;
            let user = RawClient::over(stream).await.unwrap();
            let answer = ask_over(&user, VISIT, &[]).await;
            of_one.insert(answer.message::<VisitResponse>().unwrap().node);
        }
        assert_eq!(of_one.len(), 1, "127.0.0.{last}: {of_one:?}");
        all.extend(of_one);
    }
    assert_eq!(all.len(), names.len(), "24 addresses found {all:?}");
}

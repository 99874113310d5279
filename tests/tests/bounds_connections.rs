//! How many connections a sidecar takes, held by going past it: one more is closed at once and
//! counted, those that are open go on, and whoever leaves makes room.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::io::ErrorKind::WouldBlock;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sidelane_proto::model::{ConnectionClass, Lane};
use sidelane_sidecar::accept::{CONNECTIONS_LIMIT, LINKS_LIMIT};
use sidelane_tests::ask::{until_answered, who};
use sidelane_tests::cluster::{ClusterBuilder, Node};
use sidelane_tests::frames::{EMPTY_SETTINGS, PREFACE};
use sidelane_tests::link::{hello, open, preamble, say_hello};
use sidelane_tests::users::from_address;
use sidelane_tests::wire::v1::UnaryRequest;
use sidelane_tests::wire::v1::echo_client::EchoClient;
use sidelane_tests::{Cluster, Upstream, cluster, exclusive, services};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::time::{Instant, sleep, timeout};

/// A connection that is one too many is closed at once.
const AT_ONCE: Duration = Duration::from_secs(5);
/// Connections that control takes at once.
const CONTROL_LIMIT: usize = 4_096;
/// Files that a test needs beside its connections.
const OTHER_FILES: usize = 256;

async fn mesh(upstream: &Upstream) -> Cluster {
    cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::ECHO, upstream)
        .start()
        .await
}

/// May this process open so many? Without that the test would show something else.
fn files_for(connections: usize) {
    let files = sidelane_process::files::raise_limit().unwrap();
    let wanted = u64::try_from(connections + OTHER_FILES).unwrap();
    assert!(
        files >= wanted,
        "{files} files may be open, and this test needs {wanted}: raise the hard limit (ulimit -Hn)"
    );
}

/// A connection that begins as HTTP/2 does, and says no more. One too many may be closed before it has
/// said even that, which [`is_taken`] tells.
async fn begun(to: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let _ = stream
        .write_all(&[&PREFACE[..], EMPTY_SETTINGS].concat())
        .await;
    stream
}

/// Was it taken? A connection that was answers with SETTINGS, one too many ends.
async fn is_taken(stream: &mut TcpStream) -> bool {
    let first = timeout(AT_ONCE, stream.read(&mut [0; 9])).await;
    matches!(first.expect("neither taken nor closed"), Ok(bytes) if bytes > 0)
}

#[tokio::test]
async fn one_connection_of_an_app_too_many_is_closed_and_room_is_made_again() {
    files_for(CONNECTIONS_LIMIT);
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let node = mesh.node("caller");
    // Its connection is one of them, and is used once all are there.
    let mut echo = EchoClient::new(node.channel().await);
    echo.unary(UnaryRequest::default()).await.unwrap();
    let mut open = Vec::new();
    while open.len() < CONNECTIONS_LIMIT - 1 {
        let mut stream = begun(node.outbound()).await;
        assert!(is_taken(&mut stream).await, "after {} others", open.len());
        open.push(stream);
    }
    assert!(!is_taken(&mut begun(node.outbound()).await).await);
    let refused = |metrics: &sidelane_tests::admin::Metrics| {
        metrics.sum("sidelane_connections_refused_total", &[])
    };
    assert_eq!(refused(&node.metrics().await), 1.0);
    echo.unary(UnaryRequest::default()).await.unwrap();
    open.pop();
    // The sidecar hears of the end when it reads it.
    let until = Instant::now() + AT_ONCE;
    while !is_taken(&mut begun(node.outbound()).await).await {
        assert!(Instant::now() < until, "no room was made");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn one_link_too_many_is_closed_and_calls_go_on() {
    files_for(LINKS_LIMIT);
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let (caller, callee) = (mesh.node("caller"), mesh.node("callee"));
    assert_eq!(who(caller).await.unwrap(), "callee");
    // Whose Hello was taken is no stranger.
    let class = ConnectionClass::Internal;
    let hello = hello(callee, class, Lane::GENERAL).await;
    let greeted = async || {
        let link = open(callee, class, Lane::GENERAL).await?;
        say_hello(&link, &hello).await??;
        anyhow::Ok(link)
    };
    // The caller has its own.
    let mut links = Vec::new();
    let refused = loop {
        match timeout(AT_ONCE, greeted()).await.unwrap() {
            Ok(link) => links.push(link),
            Err(refused) => break refused,
        }
        assert!(links.len() < LINKS_LIMIT, "all were taken");
    };
    assert!(links.len() > LINKS_LIMIT - 16, "{}: {refused}", links.len());
    assert!(links_refused(callee).await >= 1.0);
    assert_eq!(who(caller).await.unwrap(), "callee");
}

async fn links_refused(node: &Node) -> f64 {
    node.metrics()
        .await
        .sum("sidelane_links_refused_total", &[])
}

/// Connections from an address of their own that say this and nothing more: a hundred every few
/// milliseconds, and none is left before it is closed. Tells once there were so many.
async fn strangers(to: SocketAddr, words: &[u8], most: usize, all: Arc<Notify>) {
    let mut open: Vec<TcpStream> = Vec::new();
    let mut opened = 0;
    loop {
        open.retain(|stream| {
            let read = stream.try_read(&mut [0; 64]);
            read.map_or_else(|error| error.kind() == WouldBlock, |bytes| bytes > 0)
        });
        for _ in 0..100 {
            let mut stream = from_address(9, to).await;
            // It may be closed already.
            let _ = stream.write_all(words).await;
            open.push(stream);
        }
        opened += 100;
        if opened > most {
            all.notify_one();
        }
        sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn strangers_who_say_nothing_shut_nobody_out() {
    let mesh = cluster!().control().enrolled();
    nobody_is_shut_out(mesh, [b"", b""]).await;
}

/// Where nobody is asked for a certificate.
#[tokio::test]
async fn strangers_who_begin_and_say_no_more_shut_nobody_out() {
    let preamble = preamble(ConnectionClass::Internal, Lane::GENERAL);
    nobody_is_shut_out(cluster!().control(), [PREFACE, &preamble]).await;
}

/// What strangers say to control, and to a sidecar.
async fn nobody_is_shut_out(mesh: ClusterBuilder, words: [&[u8]; 2]) {
    let _turn = exclusive().await;
    // More than all connections that either takes.
    let most = [2 * CONTROL_LIMIT, LINKS_LIMIT + CONTROL_LIMIT];
    files_for(LINKS_LIMIT + CONTROL_LIMIT);
    let upstream = Upstream::named("callee").start().await;
    let mut mesh = mesh
        .node("callee")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let doors = [mesh.control().listen(), mesh.node("callee").internal()];
    let all = [(); 2].map(|()| Arc::new(Notify::new()));
    let crowds = [0, 1].map(|door| {
        let (to, words) = (doors[door], words[door].to_vec());
        let (most, all) = (most[door], Arc::clone(&all[door]));
        tokio::spawn(async move { strangers(to, &words, most, all).await })
    });
    for all in all {
        timeout(12 * AT_ONCE, all.notified()).await.unwrap();
    }
    let control = mesh.control().metrics().await;
    let refused = control.sum("sidelane_control_connections_refused_total", &[]);
    assert!(refused > 0.0, "control has room for all");
    let refused = links_refused(mesh.node("callee")).await;
    assert!(refused > 0.0, "the sidecar has room for all");
    // It enrols, as a stranger first, and opens a link of its own.
    let late = mesh.add("late", &[], &[]).await;
    late.ready().await;
    assert_eq!(until_answered(late).await, "callee");
    assert!(crowds.iter().all(|crowd| !crowd.is_finished()));
    // They had the places of strangers, and never all.
    let logs = [mesh.control().log(), mesh.node("callee").log()];
    for (log, limit) in logs.iter().zip([CONTROL_LIMIT, LINKS_LIMIT]) {
        assert!(!log.contains(&format!("\"limit\":{limit}")), "{log}");
    }
    crowds.iter().for_each(tokio::task::JoinHandle::abort);
}

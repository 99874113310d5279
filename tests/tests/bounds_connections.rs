//! How many connections a sidecar takes, held by going past it: one more is closed at once and
//! counted, those that are open go on, and whoever leaves makes room.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::net::SocketAddr;
use std::time::Duration;

use sidelane_sidecar::accept::{CONNECTIONS_LIMIT, LINKS_LIMIT};
use sidelane_tests::ask::who;
use sidelane_tests::frames::{EMPTY_SETTINGS, PREFACE};
use sidelane_tests::wire::v1::UnaryRequest;
use sidelane_tests::wire::v1::echo_client::EchoClient;
use sidelane_tests::{Cluster, Upstream, cluster, services};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep, timeout};

/// A connection that is one too many is closed at once.
const AT_ONCE: Duration = Duration::from_secs(5);
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

/// A connection that begins as HTTP/2 does, and says no more.
async fn begun(to: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    stream.write_all(EMPTY_SETTINGS).await.unwrap();
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
    // Links that say nothing are closed after some seconds: all must be there before.
    let mut open = Vec::new();
    while open.len() < LINKS_LIMIT {
        open.push(TcpStream::connect(callee.internal()).await.unwrap());
    }
    let refused =
        |metrics: &sidelane_tests::admin::Metrics| metrics.sum("sidelane_links_refused_total", &[]);
    let until = Instant::now() + AT_ONCE;
    while refused(&callee.metrics().await) < 1.0 {
        assert!(Instant::now() < until, "none was refused");
        sleep(Duration::from_millis(10)).await;
    }
    assert_eq!(who(caller).await.unwrap(), "callee");
}

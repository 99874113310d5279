//! Taps at the edge of what they are for: users' calls that go nowhere are told as well, and a reader that
//! is there and does not read loses its place soon.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::time::Duration;

use serde_json::Value;
use sidelane_process::fetch::{self, Lines};
use sidelane_tests::admin::Metrics;
use sidelane_tests::ask::ask_over;
use sidelane_tests::users::{Form, Front, told};
use sidelane_tests::{Upstream, cluster, services};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpSocket;
use tokio::time::{Instant, sleep, timeout};
use tonic::Code;

const LIMIT: Duration = Duration::from_secs(30);
/// Until a place is free whose reader does not read: what it has to be told of, and be it nothing, fills what
/// kernels hold, in 16 KiB every 5 s, and 30 s later its connection is cut. With time to spare.
const FREE: Duration = Duration::from_secs(240);

async fn next(lines: &mut Lines) -> Value {
    loop {
        let line = timeout(LIMIT, lines.next()).await.unwrap();
        let line = line.unwrap().unwrap();
        if !line.trim().is_empty() {
            return serde_json::from_str(&line).unwrap();
        }
    }
}

#[tokio::test]
async fn calls_of_users_that_go_nowhere_are_told() {
    let front = Front::new(Form::Pkcs8);
    let upstream = Upstream::named("echo").start().await;
    let mesh = front.before(cluster!().control().node("edge"));
    let mesh = mesh
        .serving(services::FRONT, &upstream)
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let edge = mesh.node("edge");
    let url = format!("http://{}/tap?headers=true", edge.admin());
    let mut lines = fetch::lines(&url, LIMIT).await.unwrap().unwrap();
    assert_eq!(next(&mut lines).await["kind"], "begun");
    let user = front.raw(edge.external()).await.unwrap();
    for (path, reason) in [
        // There, and not for users; and not there at all.
        ("/sidelane.test.v1.Echo/Unary", "NOT_EXPOSED"),
        ("/made.up.Service/Call", "UNKNOWN_SERVICE"),
    ] {
        let headers = [("x-test-note", "visible"), ("authorization", "s3cret")];
        let answer = ask_over(&user, path, &headers).await;
        // The user is told nothing of the mesh.
        assert_eq!(told(&answer).0, Code::Unimplemented);
        let call = next(&mut lines).await;
        assert_eq!(call["kind"], "call", "{call:#}");
        for (name, expected) in [
            ("path", path),
            ("reason", reason),
            ("caller", "user"),
            ("user", "127.0.0.1"),
            ("direction", "outbound"),
            ("end", "failed"),
        ] {
            assert_eq!(call[name], expected, "{name}: {call:#}");
        }
        assert!(!call.to_string().contains("s3cret"), "{call:#}");
        let request = call["headers"]["request"].to_string();
        assert!(request.contains("visible"), "{call:#}");
    }
}

#[tokio::test]
async fn who_does_not_read_loses_its_place_also_where_there_is_nothing_to_tell() {
    let mesh = cluster!().control().node("quiet").start().await;
    let quiet = mesh.node("quiet");
    let taps = async || {
        let page = quiet.get("/metrics").await;
        Metrics::parse(&page.body).sum("sidelane_taps", &[])
    };
    let until = async |count: f64, limit: Duration| {
        let began = Instant::now();
        while (taps().await - count).abs() > 0.1 {
            assert!(began.elapsed() < limit, "not {count} within {limit:?}");
            sleep(Duration::from_millis(200)).await;
        }
    };
    let socket = TcpSocket::new_v4().unwrap();
    // Less room in the kernel is filled sooner.
    socket.set_recv_buffer_size(4 * 1024).unwrap();
    let mut stalled = socket.connect(quiet.admin()).await.unwrap();
    let asked = "GET /tap HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stalled.write_all(asked.as_bytes()).await.unwrap();
    until(1.0, LIMIT).await;
    // Another one reads, and hears nothing either.
    let url = format!("http://{}/tap", quiet.admin());
    let mut lines = fetch::lines(&url, LIMIT).await.unwrap().unwrap();
    assert_eq!(next(&mut lines).await["kind"], "begun");
    until(2.0, LIMIT).await;
    let reading = tokio::spawn(async move {
        while let Some(line) = lines.next().await.unwrap() {
            assert!(line.trim().is_empty(), "{line}");
        }
    });
    until(1.0, FREE).await;
    assert!(!reading.is_finished(), "who reads keeps its place");
    drop(stalled);
    reading.abort();
}

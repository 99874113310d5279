//! The log of calls, as real sidecars write it: its lines are the calls that were made, and what
//! becomes of it is no call's concern.
#![allow(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "a panic is a failed test, and figures are whole numbers"
)]

use std::path::Path;
use std::time::Duration;

use serde_json::Value;
use sidelane_tests::admin::{Answer, Metrics};
use sidelane_tests::ask::until_answered;
use sidelane_tests::client::RawClient;
use sidelane_tests::wire::v1::UnaryRequest;
use sidelane_tests::{Cluster, Upstream, cluster, services};
use tonic::Code;

const UNARY: &str = "/sidelane.test.v1.Echo/Unary";
/// Served by nobody.
const MISSING: &str = "/sidelane.test.v1.Echo/Missing";
/// In which a sidecar that ends does.
const ENDS: Duration = Duration::from_secs(20);

/// A caller and a callee. What the caller logs goes to this file, and what the callee does not.
async fn mesh(upstream: &Upstream, which: &str, file: &Path) -> Cluster {
    let file = file.display().to_string();
    let mesh = cluster!()
        .control()
        .node("callee")
        .serving(services::ECHO, upstream)
        .node("caller")
        .with("--access-log", which)
        .with("--access-log-file", &file)
        .start()
        .await;
    until_answered(mesh.node("caller")).await;
    mesh
}

/// So many calls that are answered, with twice as many that nobody knows how to answer among them.
async fn load(mesh: &Cluster, answered: usize) {
    let client = RawClient::connect(mesh.node("caller").outbound()).await;
    let client = client.unwrap();
    for number in 0..answered * 3 {
        let (path, code) = match number % 3 {
            0 => (UNARY, Code::Ok),
            _ => (MISSING, Code::Unimplemented),
        };
        let secret = [("authorization", "Bearer s3cret"), ("x-note", "s3cret")];
        let answer = client.unary(path, &secret, &UnaryRequest::default()).await;
        assert_eq!(answer.unwrap().grpc_status().unwrap().code(), code);
    }
}

/// The lines once the caller has ended.
async fn lines(mesh: &Cluster, file: &Path) -> Vec<Value> {
    mesh.node("caller").stop(ENDS).await;
    let text = std::fs::read_to_string(file).unwrap();
    assert!(!text.contains("s3cret"), "{text}");
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn with<'a>(lines: &'a [Value], path: &str) -> Vec<&'a Value> {
    lines.iter().filter(|line| line["path"] == path).collect()
}

#[tokio::test]
async fn every_call_is_a_line_that_says_what_became_of_it() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("calls.log");
    let upstream = Upstream::named("echo").start().await;
    let mesh = mesh(&upstream, "all", &file).await;
    load(&mesh, 20).await;
    let counted = mesh.node("caller").metrics().await;
    let lines = lines(&mesh, &file).await;
    assert_eq!(
        lines.len() as f64,
        counted.sum("sidelane_requests_total", &[])
    );
    let (unary, missing) = (with(&lines, UNARY), with(&lines, MISSING));
    assert_eq!(missing.len(), 40);
    // The others made sure that the mesh stands.
    assert!(unary.len() > 20 && unary.len() + missing.len() == lines.len());
    let (answered, refused) = (unary.last().unwrap(), missing[0]);
    for (line, method, status) in [(answered, "Unary", 0), (&refused, "other", 12)] {
        assert_eq!(line["service"], services::ECHO, "{line}");
        assert_eq!(line["method"], method, "{line}");
        assert_eq!(line["direction"], "outbound", "{line}");
        assert_eq!(line["lane"], "general", "{line}");
        assert_eq!(
            (&line["end"], &line["status"]),
            (&"answered".into(), &status.into())
        );
        assert!(line["duration_ms"].as_f64().unwrap() > 0.0, "{line}");
        assert!(line["time"].as_str().unwrap().ends_with('Z'), "{line}");
    }
    // An empty message is its prefix.
    assert_eq!(
        (&answered["request_bytes"], &answered["request_messages"]),
        (&5.into(), &1.into())
    );
    assert_eq!(answered["response_messages"], 1);
}

#[tokio::test]
async fn errors_alone_are_logged_where_that_is_asked_for() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("calls.log");
    let upstream = Upstream::named("echo").start().await;
    let mesh = mesh(&upstream, "errors", &file).await;
    load(&mesh, 20).await;
    let lines = lines(&mesh, &file).await;
    assert_eq!(with(&lines, MISSING).len(), 40);
    assert!(lines.iter().all(|line| line["status"] != 0), "{lines:?}");
}

#[tokio::test]
async fn a_full_disk_costs_lines_and_no_call() {
    let upstream = Upstream::named("echo").start().await;
    let mesh = mesh(&upstream, "all", Path::new("/dev/full")).await;
    load(&mesh, 20).await;
    let caller = mesh.node("caller");
    let calls = caller.metrics().await.sum("sidelane_requests_total", &[]);
    let failed = |answer: &Answer| {
        Metrics::parse(&answer.body).sum("sidelane_access_log_failed_total", &[]) >= calls
    };
    let page = caller.answers("/metrics", failed).await;
    let written = Metrics::parse(&page.body).sum("sidelane_access_log_lines_total", &[]);
    assert_eq!(written, 0.0);
}

#[tokio::test]
async fn a_file_that_is_moved_is_opened_anew() {
    let folder = tempfile::tempdir().unwrap();
    let (file, moved) = (
        folder.path().join("calls.log"),
        folder.path().join("calls.1"),
    );
    let upstream = Upstream::named("echo").start().await;
    let mesh = mesh(&upstream, "all", &file).await;
    std::fs::rename(&file, &moved).unwrap();
    // It is noticed within a second, with the next call.
    let begun = std::time::Instant::now();
    while !file.exists() {
        assert!(begun.elapsed() < ENDS);
        load(&mesh, 1).await;
    }
    let calls = mesh
        .node("caller")
        .metrics()
        .await
        .sum("sidelane_requests_total", &[]);
    let after = lines(&mesh, &file).await.len();
    let before = std::fs::read_to_string(moved).unwrap().lines().count();
    assert!(after > 0 && before > 0);
    assert_eq!((before + after) as f64, calls, "none is lost");
}

#[tokio::test]
async fn nothing_is_logged_unless_it_is_asked_for() {
    let upstream = Upstream::named("echo").start().await;
    let folder = tempfile::tempdir().unwrap();
    let mesh = mesh(&upstream, "errors", &folder.path().join("calls.log")).await;
    load(&mesh, 2).await;
    // The callee was not asked to.
    let callee = mesh.node("callee").metrics().await;
    assert!(callee.sum("sidelane_requests_total", &[]) >= 6.0);
    assert_eq!(callee.sum("sidelane_access_log_lines_total", &[]), 0.0);
    assert!(!mesh.node("callee").log().contains("\"request_bytes\""));
}

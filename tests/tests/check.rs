//! `sidelane check` beside installations that are broken: each finding names what is wrong, whose it
//! is and what to do, for people and for programs.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use sidelane_tests::cluster::Cluster;
use sidelane_tests::ports::free_port;
use sidelane_tests::run::{Ended, Run};
use sidelane_tests::services::ECHO;
use sidelane_tests::{RawUpstream, Upstream, cluster};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sidelane-under-test");
/// Until a mesh has noticed.
const SOON: Duration = Duration::from_secs(20);

/// What the command says of this mesh, with the sidecars of these nodes.
struct Checked {
    people: Ended,
    programs: Value,
}

/// Asks once.
async fn checked(mesh: &Cluster, control: SocketAddr, sidecars: &[&str]) -> Checked {
    let admins = sidecars.iter().map(|name| mesh.node(name).admin());
    asked(mesh, control, &admins.collect::<Vec<_>>()).await
}

async fn asked(mesh: &Cluster, control: SocketAddr, sidecars: &[SocketAddr]) -> Checked {
    let mut arguments = vec![
        "check".to_owned(),
        "--control".to_owned(),
        control.to_string(),
    ];
    if !sidecars.is_empty() {
        let all: Vec<String> = sidecars.iter().map(ToString::to_string).collect();
        arguments.extend(["--sidecar".to_owned(), all.join(",")]);
    }
    let run = Run::of(PROGRAM)
        .with(arguments)
        .variable("XDG_RUNTIME_DIR", &mesh.folder().display().to_string());
    let people = run.clone().to_its_end().await;
    let programs = run.with(["-o", "json"]).to_its_end().await;
    assert_eq!(programs.code, people.code, "{programs:?} {people:?}");
    Checked {
        programs: serde_json::from_str(&programs.stdout).unwrap(),
        people,
    }
}

/// Asks until it finds this of that one, and nothing else of it.
async fn found(mesh: &Cluster, sidecars: &[&str], kind: &str, subject: &str, advice: &str) {
    let control = mesh.control().listen();
    let begun = Instant::now();
    loop {
        let checked = checked(mesh, control, sidecars).await;
        // People are told a moment before programs, and between the two it may change.
        let both = checked.finds(kind, subject);
        if both.is_some_and(|found| checked.tells(found)) {
            checked.says(kind, subject, advice);
            return;
        }
        let people = &checked.people;
        assert!(begun.elapsed() < SOON, "no {kind} of {subject}: {people:?}");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}

impl Checked {
    fn finds(&self, kind: &str, subject: &str) -> Option<&Value> {
        let findings = self.programs["findings"].as_array()?;
        let mut fits = findings
            .iter()
            .filter(|it| it["kind"] == kind && it["subject"] == subject);
        fits.next()
    }

    /// Are people told this, too?
    fn tells(&self, found: &Value) -> bool {
        let text = |name: &str| found[name].as_str().unwrap();
        let [subject, message, advice] = ["subject", "message", "advice"].map(text);
        let line = format!("{subject}: {message}: {advice}");
        let said = match text("weight") {
            "problem" => &self.people.stderr,
            _ => &self.people.stdout,
        };
        // How long is left may differ by a moment.
        let without_digits = |text: &str| text.replace(|it: char| it.is_ascii_digit(), "");
        without_digits(said).contains(&without_digits(&line))
    }

    /// People and programs are told the same, and it has this advice.
    fn says(&self, kind: &str, subject: &str, advice: &str) {
        let found = self.finds(kind, subject);
        let found = found.unwrap_or_else(|| panic!("no {kind} in {}", self.programs));
        assert!(
            found["advice"].as_str().unwrap().contains(advice),
            "{found}"
        );
        assert!(
            self.tells(found),
            "{found} is not told in {:?}",
            self.people
        );
        let code = i32::from(found["weight"] == "problem");
        assert!(self.people.code >= Some(code), "{:?}", self.people);
    }
}

#[tokio::test]
async fn a_mesh_that_is_whole_is_said_to_be() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = cluster!()
        .enrolled()
        .control()
        .node("caller")
        .node("callee")
        .serving(ECHO, &upstream)
        .start()
        .await;
    let control = mesh.control().listen();
    let checked = checked(&mesh, control, &["caller", "callee"]).await;
    assert_eq!(checked.people.code, Some(0), "{:?}", checked.people);
    assert_eq!(
        checked.people.stdout,
        "nothing is broken (looked at: nodes 2, services 1, sidecars 2)\n"
    );
    assert_eq!(
        checked.programs,
        json!({ "findings": [], "disagreements": [] })
    );
}

#[tokio::test]
async fn nodes_that_are_away_ill_or_replaced_are_told() {
    let upstream = Upstream::named("callee").start().await;
    let nobody = format!("{ECHO}=127.0.0.1:{}", free_port());
    let mesh = cluster!()
        .control()
        .node("killed")
        .node("replaced")
        .node("callee")
        .serving(ECHO, &upstream)
        .node("ill")
        .with("--health-interval", "100ms")
        .with("--serve", &nobody)
        .launch()
        .await;
    for name in ["killed", "replaced", "callee"] {
        mesh.node(name).ready().await;
    }
    found(
        &mesh,
        &["ill"],
        "unhealthy",
        "ill",
        "/readyz of its sidecar",
    )
    .await;
    found(
        &mesh,
        &["ill"],
        "not_ready",
        "ill",
        "answers its health checks",
    )
    .await;
    // Nothing of those that are well, but that the mesh is in the clear.
    found(&mesh, &["callee"], "not_strict", "callee", "--trust strict").await;

    mesh.node("killed").kill().await;
    found(&mesh, &[], "node_away", "killed", "start its sidecar again").await;

    let control = mesh.control().listen().to_string();
    let newer = cluster!()
        .node("newer")
        .with("--node", "replaced")
        .with("--control", &control)
        .launch()
        .await;
    newer.node("newer").ready().await;
    found(
        &mesh,
        &["replaced"],
        "node_replaced",
        "replaced",
        "stop one of the two",
    )
    .await;
}

#[tokio::test]
async fn a_control_that_is_away_is_told_by_its_sidecars() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = cluster!()
        .control()
        .node("callee")
        .serving(ECHO, &upstream)
        .start()
        .await;
    let control = mesh.control().listen();
    mesh.control().stop(SOON).await;
    found(
        &mesh,
        &["callee"],
        "control_away",
        "callee",
        "start control",
    )
    .await;
    let all = checked(&mesh, control, &["callee"]).await;
    all.says("control_unreachable", "control", "sidecars work on");
    assert_eq!(all.people.code, Some(1));

    // With nobody to ask people are told how to start one, and programs what was not there.
    mesh.node("callee").stop(SOON).await;
    let none = checked(&mesh, control, &["callee"]).await;
    assert_eq!(none.people.code, Some(1));
    let said = &none.people.stderr;
    assert!(said.contains("no control plane answers at"), "{said}");
    assert!(none.finds("control_unreachable", "control").is_some());
}

#[tokio::test]
async fn a_service_that_nobody_serves_and_a_sidecar_that_is_not_there_are_told() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = cluster!()
        .control()
        .node("callee")
        .serving(ECHO, &upstream)
        .with("--health-interval", "50ms")
        .start()
        .await;
    drop(upstream);
    found(&mesh, &[], "no_endpoint", ECHO, "start it").await;
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let checked = asked(&mesh, mesh.control().listen(), &[nobody]).await;
    let url = format!("http://{nobody}");
    checked.says("sidecar_unreachable", &url, "--sidecar URL");
}

#[tokio::test]
async fn a_certificate_that_ended_is_told_with_what_stands_in_its_way() {
    let mesh = cluster!()
        .enrolled()
        .control()
        .with("--leaf-life", "3s")
        .node("callee")
        .start()
        .await;
    let control = mesh.control().listen();
    mesh.control().kill().await;
    mesh.node("callee")
        .answers("/readyz", |it| it.body.contains("the certificate ended"))
        .await;
    let checked = checked(&mesh, control, &["callee"]).await;
    checked.says("certificate_ended", "callee", "can renew it");
    checked.says("not_ready", "callee", "ready by itself");
}

/// An admin port with a clock of its own.
async fn sidecar_with_a_clock(ahead: Duration) -> RawUpstream {
    RawUpstream::connections(move |mut stream| async move {
        let mut asked = [0; 1_024];
        let count = stream.read(&mut asked).await.unwrap();
        let body = if asked[..count].starts_with(b"GET /config ") {
            let now = SystemTime::now() + ahead;
            let now = now.duration_since(UNIX_EPOCH).unwrap().as_millis();
            json!({ "node": "ahead", "unix_ms": u64::try_from(now).unwrap(),
                "control": "connected to nobody (0.1.0)" })
            .to_string()
        } else {
            "outbound: ready\ninbound: ready\n".to_owned()
        };
        let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", body.len());
        stream.write_all((head + &body).as_bytes()).await.unwrap();
    })
    .await
}

#[tokio::test]
async fn clocks_that_differ_are_told_with_how_much() {
    let mesh = cluster!().control().node("here").start().await;
    let minute = Duration::from_secs(60);
    for (ahead, weight) in [(minute, "warning"), (6 * minute, "problem")] {
        let sidecar = sidecar_with_a_clock(ahead).await;
        let control = mesh.control().listen();
        let checked = asked(&mesh, control, &[sidecar.address()]).await;
        checked.says("clock_skew", "ahead", "NTP");
        let found = checked.finds("clock_skew", "ahead").unwrap();
        assert_eq!(found["weight"], weight, "{found}");
        let message = found["message"].as_str().unwrap();
        let seconds = ahead.as_secs();
        let said = [seconds - 1, seconds].map(|it| format!("its clock is {it} s ahead of"));
        assert!(said.iter().any(|it| message.starts_with(it)), "{message}");
    }
    // Control's own clock is this machine's.
    let control = mesh.control().listen();
    let checked = checked(&mesh, control, &["here"]).await;
    assert!(
        !checked.people.stdout.contains("clock"),
        "{:?}",
        checked.people
    );
}

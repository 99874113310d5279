//! The commands against a real control plane and a real sidecar, each started by the same binary.

#![allow(
    clippy::unwrap_used,
    reason = "what surrounds a test may fail it like the test itself"
)]

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Output, Stdio};

use serde_json::Value;

/// A program that ends with the test.
struct Running(Child);

impl Running {
    fn start(arguments: &[&str]) -> Self {
        let child = sidelane(arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn();
        Self(child.unwrap())
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn sidelane(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidelane"));
    for (name, _) in std::env::vars() {
        if name.starts_with("SIDELANE_") {
            command.env_remove(name);
        }
    }
    // Where control leaves its join file, and everybody else looks for it.
    command.env("XDG_RUNTIME_DIR", env!("CARGO_TARGET_TMPDIR"));
    command.args(arguments);
    command
}

fn run(arguments: &[&str]) -> Output {
    sidelane(arguments).output().unwrap()
}

/// What a command prints when it does what it is for.
#[track_caller]
fn answer(arguments: &[&str]) -> String {
    let output = run(arguments);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

#[track_caller]
fn json(arguments: &[&str]) -> Value {
    let text = answer(&[arguments, &["-o", "json"]].concat());
    serde_json::from_str(&text).unwrap()
}

/// An address where nobody listens yet.
fn free() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap()
}

#[test]
fn the_commands_tell_what_a_mesh_knows() {
    let folder = tempfile::tempdir().unwrap();
    let data = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    let [control, control_admin, outbound, internal, admin] = [(); 5].map(|()| free().to_string());
    // Something that accepts connections is all that the sidecar looks for beside it.
    let service = TcpListener::bind("127.0.0.1:0").unwrap();
    let serve = format!("test.v1.Thing={}", service.local_addr().unwrap());

    let _sidecar = Running::start(&[
        "sidecar",
        "--node",
        "thing-1",
        "--control",
        &control,
        "--serve",
        &serve,
        "--outbound",
        &outbound,
        "--internal",
        &internal,
        "--admin",
        &admin,
        "--data",
        &data("thing-1"),
    ]);
    // Without control there is no certificate, and the sidecar says what it waits for.
    let sidecar = format!("http://{admin}");
    let waited = run(&["wait", "--timeout", "2s", "--sidecar", &sidecar]);
    assert_eq!(waited.status.code(), Some(1));
    let why = String::from_utf8(waited.stderr).unwrap();
    assert!(
        why.contains("/readyz was not ready within 2 s: it answered 503"),
        "{why}"
    );

    let _control = Running::start(&[
        "control",
        "--listen",
        &control,
        "--admin",
        &control_admin,
        "--data",
        &data("control"),
    ]);
    let ready = answer(&["wait", "--sidecar", &sidecar]);
    assert!(
        ready.starts_with(&format!("{sidecar}/readyz is ready")),
        "{ready}"
    );
    let revision = answer(&["wait", "--revision", "0", "--control", &control]);
    assert!(
        revision.starts_with("every connected sidecar has revision "),
        "{revision}"
    );

    let nodes = json(&["nodes", "--control", &control]);
    let node = &nodes["nodes"][0];
    assert_eq!(nodes["nodes"].as_array().unwrap().len(), 1, "{nodes:#}");
    assert_eq!(
        (&node["node_id"], &node["health"]),
        (&"thing-1".into(), &"HEALTHY".into())
    );
    assert_eq!(node["addresses"]["internal"], *internal);
    assert_eq!(node["services"][0], "test.v1.Thing");
    let table = answer(&["nodes", "--control", &control]);
    assert!(
        table.contains("thing-1") && table.contains("open"),
        "{table}"
    );

    let services = json(&["services", "--control", &control]);
    let endpoint = &services["services"][0]["endpoints"][0];
    assert_eq!(
        services["services"][0]["service"], "test.v1.Thing",
        "{services:#}"
    );
    assert_eq!(endpoint["addresses"]["internal"], *internal);
    let other = json(&["services", "--control", &control, "--network", "elsewhere"]);
    assert_eq!(other["services"].as_array().unwrap().len(), 0, "{other:#}");

    let path = "/test.v1.Thing/Get";
    let explained = json(&["explain", path, "--sidecar", &sidecar]);
    assert_eq!(explained["pick"], "thing-1", "{explained:#}");
    let refused = run(&["explain", "/test.v1.Nothing/Get", "--sidecar", &sidecar]);
    assert_eq!(refused.status.code(), Some(1));
    let text = String::from_utf8(refused.stdout).unwrap();
    assert!(
        text.contains("\nrefused     UNKNOWN_SERVICE: test.v1.Nothing"),
        "{text}"
    );
    let elsewhere = run(&["explain", path, "--node", "thing-2", "--sidecar", &sidecar]);
    let text = String::from_utf8(elsewhere.stdout).unwrap();
    assert!(text.contains("\nrefused     UNKNOWN_NODE: "), "{text}");

    let never = "999999999999";
    let behind = run(&[
        "wait",
        "--revision",
        never,
        "--control",
        &control,
        "--timeout",
        "100ms",
    ]);
    assert_eq!(behind.status.code(), Some(1));
    let why = String::from_utf8(behind.stderr).unwrap();
    let said = "sidelane wait: control did not come to revision 999999999999 within 100 ms: its \
                newest is ";
    assert!(why.starts_with(said), "{why}");
}

#[test]
fn the_programs_get_their_arguments_untouched() {
    let output = run(&["sidecar", "--outbond", "127.0.0.1:1"]);
    let why = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        why.contains("unknown flag --outbond; the nearest known flag is --outbound"),
        "{why}"
    );
    let output = run(&["control", "--lisen", "127.0.0.1:1"]);
    let why = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(
        why.contains("unknown flag --lisen; the nearest known flag is --listen"),
        "{why}"
    );
    for program in ["sidecar", "control"] {
        let help = answer(&["help", program]);
        assert!(help.contains(&format!("sidelane-{program}")), "{help}");
    }
}

//! The program itself: what it says when it cannot start, and what a SIGKILL leaves.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use sidelane_proto::wire::control::v1::Health;

use crate::sidecar::{Sidecar, channel, hello, of, watcher};

/// A child that does not outlive its test.
pub(crate) struct Program(Child);

impl Program {
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn command(data: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidelane-control"));
    command
        .args([
            "--trust",
            "disabled",
            "--listen",
            "127.0.0.1:0",
            "--admin",
            "127.0.0.1:0",
            "--data",
        ])
        .arg(data)
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped());
    command
}

/// Starts the program and reads its `ready` line.
pub(crate) fn start(data: &Path) -> (Program, std::net::SocketAddr) {
    let (program, listen, _) = start_with_admin(data);
    (program, listen)
}

/// The same, with the address of the admin pages.
pub(crate) fn start_with_admin(
    data: &Path,
) -> (Program, std::net::SocketAddr, std::net::SocketAddr) {
    let mut child = command(data).spawn().unwrap();
    let mut log = BufReader::new(child.stderr.take().unwrap());
    let program = Program(child);
    let mut line = String::new();
    while log.read_line(&mut line).unwrap() > 0 {
        let entry: serde_json::Value = serde_json::from_str(&line).expect("the log is JSON");
        if entry["message"] == "ready" {
            let address = |name: &str| entry[name].as_str().unwrap().parse().unwrap();
            let (listen, admin) = (address("listen"), address("admin"));
            // Read on, so that it never finds its log closed or full.
            std::thread::spawn(move || std::io::copy(&mut log, &mut std::io::sink()));
            return (program, listen, admin);
        }
        line.clear();
    }
    panic!("it ended before it was ready");
}

/// Runs the program, which must not start. Returns its exit code and what it says.
fn refused(command: &mut Command) -> (i32, String) {
    let output = command.output().unwrap();
    let text = String::from_utf8(output.stderr).unwrap();
    (output.status.code().unwrap(), text)
}

#[tokio::test]
async fn a_sigkill_and_a_new_start_show_suspects_and_newer_versions() {
    let folder = tempfile::tempdir().unwrap();
    let (program, address) = start(folder.path());
    let node = Sidecar::join(channel(address).await, hello("n", 5, &["a.A"])).await;
    let mut watching = Sidecar::join(channel(address).await, watcher("w", &["a.A"])).await;
    watching.take().await;
    let before = watching.taken();
    // What was published is written behind; it is there once the file has changed.
    wait_for_record(folder.path()).await;
    drop(program);
    drop((node, watching));
    let (_program, address) = start(folder.path());
    let mut watching = Sidecar::join(channel(address).await, watcher("w", &["a.A"])).await;
    watching.take().await;
    assert_eq!(of(&watching.held, "a.A"), [("n", 5, Health::Suspect)]);
    let after = watching.taken();
    assert_eq!(after.store_id, before.store_id);
    assert!(after.counter > before.counter);
}

async fn wait_for_record(folder: &Path) {
    let file = folder.join(sidelane_control::store::Embedded::FILE);
    let began = std::time::Instant::now();
    loop {
        let bytes = std::fs::read(&file).unwrap();
        if bytes.windows(9).any(|window| window == b"default\0n") {
            return;
        }
        assert!(began.elapsed() < crate::sidecar::PATIENCE);
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
}

#[test]
fn two_controls_on_one_store_are_told_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let (first, _) = start(folder.path());
    let (code, text) = refused(&mut command(folder.path()));
    assert_eq!(code, 1);
    assert_eq!(
        text,
        format!(
            "sidelane-control: the store {} is in use by another control plane (process {}); stop \
             that one, or give this one a folder of its own with --data\n",
            folder.path().join("control.redb").display(),
            first.id()
        )
    );
}

#[test]
fn a_port_that_is_taken_is_named_with_its_flag() {
    let folder = tempfile::tempdir().unwrap();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let mut command = Command::new(env!("CARGO_BIN_EXE_sidelane-control"));
    command
        .args([
            "--trust",
            "disabled",
            "--listen",
            &address,
            "--admin",
            "127.0.0.1:0",
            "--data",
        ])
        .arg(folder.path())
        .env_clear();
    let (code, text) = refused(&mut command);
    assert_eq!(code, 1);
    assert_eq!(
        text,
        format!(
            "sidelane-control: cannot listen on {address}, as --listen says: another process \
             listens there; choose another with --listen, or port 0 for any free one\n"
        )
    );
}

#[test]
fn a_store_that_is_none_is_named_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("control.redb");
    std::fs::write(&path, "dear diary").unwrap();
    let (code, text) = refused(&mut command(folder.path()));
    assert_eq!(code, 1);
    assert_eq!(
        text,
        format!(
            "sidelane-control: {} is not a store of Sidelane's control plane, and is left as it \
             is; move it away, or choose another folder with --data\n",
            path.display()
        )
    );
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "dear diary");
}

#[test]
fn a_wrong_setting_is_a_usage_error() {
    let folder = tempfile::tempdir().unwrap();
    let (code, text) = refused(command(folder.path()).arg("--laese=5s"));
    assert_eq!(code, 2);
    assert!(text.contains("lease"), "{text}");
}

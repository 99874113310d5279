//! The demo, to its end and to every other end: nothing of it may be left behind.

#![cfg(target_os = "linux")] // Who is whose child is read from /proc.
#![allow(
    clippy::unwrap_used,
    reason = "what surrounds a test may fail it like the test itself"
)]

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _};
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

/// The demo's processes beside itself: control, six sidecars, six apps.
const CHILDREN: usize = 13;
/// How long the children may take to see that their parent has gone.
const GONE_LIMIT: Duration = Duration::from_secs(10);

/// How long a command may find something wrong with a mesh that has just been put right.
const LOOK_LIMIT: Duration = Duration::from_secs(30);

/// A demo has thirteen processes and paces its calls: two at once would show how busy the machine is.
static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

/// A demo that runs.
struct Demo {
    process: Child,
    output: BufReader<ChildStdout>,
    /// What it has written so far.
    seen: String,
    _alone: MutexGuard<'static, ()>,
}

impl Demo {
    fn start(arguments: &[&str]) -> Self {
        let alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        let mut process = Command::new(env!("CARGO_BIN_EXE_sidelane"))
            .arg("demo")
            .args(arguments)
            // Settings of somebody else's sidecar are not for the demo's.
            .env("SIDELANE_OUTBOUND", "127.0.0.1:1")
            .env("SIDELANE_CONFIG", "/nonexistent.yaml")
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        Self {
            output: BufReader::new(process.stdout.take().unwrap()),
            process,
            seen: String::new(),
            _alone: alone,
        }
    }

    /// Reads on until a line has this in it.
    #[track_caller]
    fn until(&mut self, text: &str) {
        loop {
            let before = self.seen.len();
            self.output.read_line(&mut self.seen).unwrap();
            let line = &self.seen[before..];
            assert!(!line.is_empty(), "ended without {text:?}:\n{}", self.seen);
            if line.contains(text) {
                return;
            }
        }
    }

    /// The folder of data and logs, which the first line names.
    fn folder(&self) -> PathBuf {
        let line = self.seen.lines().next().unwrap();
        PathBuf::from(line.rsplit(' ').next().unwrap())
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.process.id()).unwrap();
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
    }

    /// Reads the rest, and returns how it ended.
    fn end(&mut self) -> ExitStatus {
        self.output.read_to_string(&mut self.seen).unwrap();
        self.process.wait().unwrap()
    }

    fn children(&self) -> Vec<u32> {
        let parent = self.process.id();
        let processes = fs::read_dir("/proc").unwrap();
        let ids = processes.filter_map(|entry| entry.unwrap().file_name().to_str()?.parse().ok());
        ids.filter(|id| state(*id).is_some_and(|(_, of)| of == parent))
            .collect()
    }
}

impl Drop for Demo {
    fn drop(&mut self) {
        // A failed assertion must not leave a mesh behind.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A process's state and parent (`proc_pid_stat(5)`); `None` if there is no such process.
fn state(id: u32) -> Option<(char, u32)> {
    let stat = fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    // The name in parentheses may hold anything.
    let mut fields = stat.rsplit_once(") ")?.1.split(' ');
    let state = fields.next()?.chars().next()?;
    Some((state, fields.next()?.parse().ok()?))
}

/// Waits until all of these have ended. A zombie has: it only waits for whoever adopted it.
#[track_caller]
fn all_end(ids: &[u32]) {
    let deadline = Instant::now() + GONE_LIMIT;
    let runs = |id: &&u32| state(**id).is_some_and(|(state, _)| state != 'Z');
    while ids.iter().any(|id| runs(&id)) {
        let left: Vec<_> = ids.iter().filter(runs).collect();
        assert!(Instant::now() < deadline, "{left:?} still run");
        // No event tells of the end of another one's child.
        thread::sleep(Duration::from_millis(20));
    }
}

fn exists(folder: &Path) -> bool {
    folder.try_exists().unwrap()
}

#[test]
fn runs_to_its_end_and_holds() {
    let began = Instant::now();
    // `.ci/run` has one that ends by itself.
    let mut demo = Demo::start(&["--keep"]);
    demo.until("every second 300 unary calls");
    let (children, folder) = (demo.children(), demo.folder());
    assert_eq!(children.len(), CHILDREN, "{}", demo.seen);
    assert!(exists(&folder.join("control.log")));

    demo.until("It held: ");
    let took = began.elapsed();
    let played = demo.seen.clone();
    demo.until("Ctrl-C ends all of it");
    look_around(&demo.seen[played.len()..]);
    demo.signal(Signal::INT);
    // What it has shown counts, not what ended it.
    let status = demo.end();
    assert!(status.success(), "{status}\n{}", demo.seen);
    let text = &played;
    assert!(took < Duration::from_secs(60), "{text}");
    all_end(&children);
    assert!(!exists(&folder));

    for step in [
        "SIGKILL to orders-2",
        "SIGKILL to control",
        "all nodes are back at control",
        "orders-1 is back and answers calls",
        "orders-3 is back and answers calls",
    ] {
        assert!(text.contains(step), "{step:?} is not in\n{text}");
    }
    for row in [
        "unary, direct",
        "unary ",
        "client-streaming",
        "server-streaming",
        "bidirectional",
        "heartbeat         gossip",
        "bulk stream       bifrost_data",
        "orders-1 ",
        "orders-2 ",
        "orders-3 ",
        "inventory-1 ",
        "inventory-2 ",
    ] {
        let found = text.lines().any(|line| line.trim_start().starts_with(row));
        assert!(found, "no row {row:?} in\n{text}");
    }
    let (_, trace) = text
        .split_once("One call, as its sidecars recorded it\n")
        .unwrap();
    let [_, first, second] = [0, 1, 2].map(|line| trace.lines().nth(line).unwrap());
    assert!(first.contains(" storefront, client: "), "{trace}");
    assert!(second.contains(", server: "), "{trace}");
    assert!(
        text.lines().last().unwrap().starts_with("It held: "),
        "{text}"
    );
}

/// Does what a demo that was left running says can be done: each of its commands, as it is written.
#[track_caller]
fn look_around(said: &str) {
    let mut done = Vec::new();
    for line in said.lines() {
        let Some((_, command)) = line.split_once(env!("CARGO_BIN_EXE_sidelane")) else {
            continue;
        };
        let arguments: Vec<_> = command.split_whitespace().collect();
        let deadline = Instant::now() + LOOK_LIMIT;
        loop {
            let ended = Command::new(env!("CARGO_BIN_EXE_sidelane"))
                .args(&arguments)
                .output()
                .unwrap();
            if ended.status.success() {
                assert!(!ended.stdout.trim_ascii().is_empty(), "{command}");
                break;
            }
            // `check` finds who is behind, as may be on a busy machine.
            let wrong = String::from_utf8_lossy(&ended.stderr);
            assert!(Instant::now() < deadline, "{command}:\n{wrong}");
            thread::sleep(Duration::from_millis(200));
        }
        done.push(arguments[0]);
    }
    done.dedup();
    assert_eq!(
        done,
        [
            "nodes", "services", "explain", "check", "top", "lanes", "tap"
        ],
        "{said}"
    );
}

#[test]
fn sends_spans_where_it_is_told_to() {
    let collector = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", collector.local_addr().unwrap());
    let mut demo = Demo::start(&["--otlp", &url]);
    demo.until("every second 300 unary calls");
    let children = demo.children();
    // The sidecars call it, by HTTP/2.
    let (mut sidecar, _) = collector.accept().unwrap();
    let mut preface = [0; 14];
    sidecar.read_exact(&mut preface).unwrap();
    assert_eq!(&preface, b"PRI * HTTP/2.0");
    demo.signal(Signal::INT);
    assert_eq!(demo.end().code(), Some(130), "{}", demo.seen);
    all_end(&children);

    drop(demo);
    let mut demo = Demo::start(&["--otlp", "127.0.0.1:4317"]);
    assert_eq!(demo.end().code(), Some(2), "{}", demo.seen);
}

#[test]
fn ends_with_everything_on_ctrl_c_and_sigterm() {
    for (signal, code) in [(Signal::INT, 130), (Signal::TERM, 143)] {
        let mut demo = Demo::start(&["--keep"]);
        demo.until("every second 300 unary calls");
        let (children, folder) = (demo.children(), demo.folder());
        assert_eq!(children.len(), CHILDREN, "{}", demo.seen);
        demo.signal(signal);
        assert_eq!(demo.end().code(), Some(code), "{}", demo.seen);
        all_end(&children);
        assert!(!exists(&folder));
        assert!(
            demo.seen.ends_with("everything is ended\n"),
            "{}",
            demo.seen
        );
    }
}

#[test]
fn leaves_no_process_behind_even_when_it_is_killed() {
    let mut demo = Demo::start(&[]);
    demo.until("every second 300 unary calls");
    let (children, folder) = (demo.children(), demo.folder());
    assert_eq!(children.len(), CHILDREN, "{}", demo.seen);
    demo.signal(Signal::KILL);
    assert!(!demo.end().success());
    all_end(&children);
    // Nobody was left to do this.
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_process_that_dies_ends_the_demo_with_its_log() {
    let mut demo = Demo::start(&[]);
    demo.until("every second 300 unary calls");
    let (children, folder) = (demo.children(), demo.folder());
    let sidecar = children.iter().find(|id| {
        let command = fs::read_to_string(format!("/proc/{id}/cmdline")).unwrap();
        command.contains("demo-sidecar") && command.contains("inventory-1")
    });
    let id = i32::try_from(*sidecar.unwrap()).unwrap();
    kill_process(Pid::from_raw(id).unwrap(), Signal::KILL).unwrap();
    let status = demo.end();
    assert_eq!(status.code(), Some(1), "{}", demo.seen);
    all_end(&children);
    let last = demo.seen.lines().last().unwrap();
    let logs = format!("what everybody logged is in {}", folder.display());
    assert!(last.ends_with(&logs), "{last}");
    assert!(exists(&folder.join("inventory-1-sidecar.log")));
    fs::remove_dir_all(folder).unwrap();
}

#[test]
fn a_pause_ends_when_it_is_told_to_and_not_before() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut pause = Command::new(env!("CARGO_BIN_EXE_sidelane"))
            .arg("pause")
            .spawn()
            .unwrap();
        let id = i32::try_from(pause.id()).unwrap();
        let deadline = Instant::now() + LOOK_LIMIT;
        while !takes(id, signal) {
            assert_eq!(pause.try_wait().unwrap(), None);
            assert!(Instant::now() < deadline);
            thread::sleep(Duration::from_millis(10));
        }
        assert_eq!(pause.try_wait().unwrap(), None);
        kill_process(Pid::from_raw(id).unwrap(), signal).unwrap();
        assert!(pause.wait().unwrap().success());
    }
}

/// Has the process a handler for this signal (`SigCgt` of `proc_pid_status(5)`)?
fn takes(id: i32, signal: Signal) -> bool {
    let status = fs::read_to_string(format!("/proc/{id}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:"));
    let caught = caught.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    caught.is_some_and(|mask| mask >> (signal.as_raw() - 1) & 1 == 1)
}

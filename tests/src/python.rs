//! grpcio, unchanged from `PyPI`, as server and as client. The interpreter that has it is named by
//! `SIDELANE_TEST_PYTHON`; the stubs are generated from the tests' proto at test time, as a Python
//! user does it.

use std::collections::HashSet;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::ChildStdout;

use crate::cases::{CASE_LIMIT, CASES, Ground, Report, ServerKind, Way};
use crate::cluster::LocalService;
use crate::process::{Output, Process};

/// Names the interpreter.
pub const PYTHON_VARIABLE: &str = "SIDELANE_TEST_PYTHON";
/// Importing grpcio takes seconds on a busy machine.
const START_LIMIT: Duration = Duration::from_secs(60);

/// A Python with grpcio, and a folder with generated stubs.
#[derive(Debug)]
pub struct Python {
    interpreter: PathBuf,
    folder: TempDir,
}

/// `echo_server.py`. It ends with this value.
#[derive(Debug)]
pub struct PythonServer {
    process: Process,
    address: SocketAddr,
}

impl Python {
    /// Finds the interpreter and generates the stubs.
    ///
    /// # Panics
    /// If the variable is missing, or its Python has no grpcio.
    pub async fn with_grpcio() -> Self {
        let interpreter = std::env::var_os(PYTHON_VARIABLE).unwrap_or_else(|| {
            panic!(
                "{PYTHON_VARIABLE} is not set: name a Python that has what \
                 tests/python/requirements.txt lists"
            )
        });
        let interpreter = PathBuf::from(interpreter);
        let folder = tempfile::tempdir().expect("a folder for stubs");
        let protos = here().join("proto");
        // What the tests' proto imports: the options that a rule is written with.
        let options = here().join("../proto");
        let output = tokio::process::Command::new(&interpreter)
            .args(["-m", "grpc_tools.protoc"])
            .arg(format!("-I{}", protos.display()))
            .arg(format!("-I{}", options.display()))
            .arg(format!("--python_out={}", folder.path().display()))
            .arg(format!("--grpc_python_out={}", folder.path().display()))
            .arg(protos.join("sidelane/test/v1/echo.proto"))
            .arg(options.join("sidelane/routing/v1/routing.proto"))
            .kill_on_drop(true)
            .output();
        let output = tokio::time::timeout(START_LIMIT, output).await;
        let output = output.unwrap_or_else(|_| panic!("no stubs within {START_LIMIT:?}"));
        let output = output.unwrap_or_else(|error| {
            panic!("{} ({PYTHON_VARIABLE}): {error}", interpreter.display())
        });
        assert!(
            output.status.success(),
            "{} makes no stubs: {}",
            interpreter.display(),
            String::from_utf8_lossy(&output.stderr)
        );
        Self {
            interpreter,
            folder,
        }
    }

    /// Starts a server that calls itself so.
    ///
    /// # Panics
    /// If it does not listen within a minute.
    pub async fn serve(&self, node: &str) -> PythonServer {
        let arguments = self.arguments("echo_server.py", &[("--node", node)]);
        let process = self.start("python-server", arguments).await;
        let mut lines = BufReader::new(process.take_output().await).lines();
        let first = tokio::time::timeout(START_LIMIT, lines.next_line()).await;
        let port = first
            .ok()
            .and_then(|line| line.ok()?)
            .and_then(|line| line.parse::<u16>().ok())
            .unwrap_or_else(|| {
                panic!(
                    "the Python server does not listen:\n{}",
                    process.end_of_log()
                )
            });
        PythonServer {
            process,
            address: SocketAddr::from((Ipv4Addr::LOCALHOST, port)),
        }
    }

    /// Runs all cases with grpcio as the client.
    ///
    /// # Panics
    /// If one fails or does not end, or if Python has other cases than Rust.
    pub async fn run_all(&self, ground: &Ground) {
        let (target, server) = (ground.target.to_string(), ground.server.to_string());
        let kind = match ground.server_kind {
            ServerKind::Rust => "Rust",
            ServerKind::Python => "Python",
        };
        let mut flags = vec![
            ("--target", target.as_str()),
            ("--server", server.as_str()),
            ("--server-kind", kind),
        ];
        if let Way::Mesh { caller } = &ground.way {
            flags.push(("--caller", caller));
        }
        let arguments = self.arguments("echo_client.py", &flags);
        let process = self.start("python-client", arguments).await;
        let mut lines = BufReader::new(process.take_output().await).lines();
        let mut report = Report::default();
        let mut ran = HashSet::new();
        while let Some(name) = run_one(&mut lines, &process, &mut report).await {
            ran.insert(name);
        }
        let ours: HashSet<String> = CASES.iter().map(|case| case.name.to_owned()).collect();
        assert_eq!(
            ran,
            ours,
            "Python and Rust must have the same cases\n{}",
            process.end_of_log()
        );
        let status = process.exited(START_LIMIT).await;
        assert!(
            status.success(),
            "the Python client ended with {status}:\n{}",
            process.end_of_log()
        );
        report.conclude(&format!("{ground:?}, from Python"));
    }

    fn arguments(&self, program: &str, flags: &[(&str, &str)]) -> Vec<String> {
        let program = here().join("python").join(program);
        let mut arguments = vec![program.display().to_string()];
        arguments.extend([
            "--stubs".to_owned(),
            self.folder.path().display().to_string(),
        ]);
        for (flag, value) in flags {
            arguments.extend([(*flag).to_owned(), (*value).to_owned()]);
        }
        arguments
    }

    async fn start(&self, name: &str, arguments: Vec<String>) -> Process {
        let folder = self.folder.path();
        Process::start(name, &self.interpreter, arguments, folder, Output::Piped).await
    }
}

/// Reads the two lines of one case; `None` after the last.
async fn run_one(
    lines: &mut Lines<BufReader<ChildStdout>>,
    process: &Process,
    report: &mut Report,
) -> Option<String> {
    let begin = line(lines, process, START_LIMIT, "the next case").await?;
    let name = begin["begin"]
        .as_str()
        .expect("a case begins with its name")
        .to_owned();
    let end = line(lines, process, CASE_LIMIT, &name).await;
    let end = end.unwrap_or_else(|| panic!("Python ended in {name}:\n{}", process.end_of_log()));
    assert_eq!(end["case"], begin["begin"], "{end}");
    let took = Duration::from_millis(end["took_ms"].as_u64().expect("milliseconds"));
    let result = match &end["error"] {
        Value::Null => Ok(()),
        Value::String(error) => Err(error.clone()),
        other => Err(other.to_string()),
    };
    report.add(&name, took, result);
    Some(name)
}

async fn line(
    lines: &mut Lines<BufReader<ChildStdout>>,
    process: &Process,
    limit: Duration,
    what: &str,
) -> Option<Value> {
    let line = tokio::time::timeout(limit, lines.next_line()).await;
    let line = line.unwrap_or_else(|_| {
        panic!(
            "Python is not done with {what} after {limit:?}:\n{}",
            process.end_of_log()
        )
    });
    let line = line.expect("Python writes text")?;
    Some(serde_json::from_str(&line).unwrap_or_else(|error| panic!("no JSON ({error}): {line}")))
}

impl PythonServer {
    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    #[must_use]
    pub fn process(&self) -> &Process {
        &self.process
    }
}

impl LocalService for PythonServer {
    fn address(&self) -> String {
        self.address.to_string()
    }
}

fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

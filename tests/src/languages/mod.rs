//! gRPC in other languages, unchanged from their registries, as servers and as clients of the call
//! matrix. A language is a [`Kit`]: two programs that somebody has prepared outside of the tests, a
//! variable that names them, and the variables that make the library use a proxy.
//!
//! What a language must bring, so that the matrix can run it:
//!
//! - **A server**, that does what the Rust [`Upstream`](crate::Upstream) does for `Echo` and
//!   `Witness` (`echo.proto` says what that is). `--node NAME` is what it calls itself. It listens
//!   on a free port of 127.0.0.1, prints that port as its first line, and serves until it is ended.
//! - **A client**, that has the cases of [`crate::cases`] by the same names. `--target HOST:PORT` is
//!   whom it calls, `--server IP:PORT` whom it asks what was seen (`Witness`, never through the
//!   mesh), `--server-kind` what the server is made of (`Rust`, `Python`, ...: [`Language`]),
//!   `--caller NODE` the node behind which it stands (without it, it calls the server itself), and
//!   `--cases NAME,NAME` which cases to run, in that order (without it, all). It prints one line of
//!   JSON before each case, `{"begin": NAME}`, and one after it,
//!   `{"case": NAME, "took_ms": NUMBER, "error": TEXT or null}`, and nothing else, and ends with 0
//!   whatever came of the cases.
//! - **A version**: a command whose first line of output names the library and the runtime.
//! - **A proxy**: the environment variables by which any user of that library makes it use one. The
//!   client knows nothing of it. Its target is then a name that is not this machine's, and 127.0.0.1
//!   is where it must go without the proxy, since libraries differ in what they do with that.
//!
//! Both programs end when their standard input does, where `TETHERED_TO_TEST` is set. A case that a
//! library's public API cannot express stands in the kit's table with the reason; the cases that
//! ran are compared with those that were wanted, so none is left out in silence.

mod client;
pub mod go;
pub mod java;
pub mod node;
pub mod python;
mod server;

use std::collections::HashSet;
use std::fmt;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

pub use server::Server;

use crate::cases::{CASES, Ground, Report};
use crate::process::{Output, Process};
use crate::run::Run;

/// Importing grpcio, or starting a Java machine, takes seconds where others work, too.
const START_LIMIT: Duration = Duration::from_secs(60);

/// What a client or a server is made of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Language {
    /// tonic.
    Rust,
    /// grpcio.
    Python,
    /// grpc-go.
    Go,
    /// grpc-js.
    Node,
    /// grpc-java.
    Java,
}

/// A case that a language does not have.
#[derive(Debug, Clone, Copy)]
pub struct Missing {
    /// Its name.
    pub case: &'static str,
    /// What the library's public API lacks.
    pub reason: &'static str,
}

/// How a program is started.
#[derive(Debug, Clone)]
pub struct Launch {
    /// The program.
    pub program: PathBuf,
    /// What it is always told.
    pub arguments: Vec<String>,
}

/// A proxy, as its user sees it.
#[derive(Debug, Clone)]
pub struct Proxy {
    /// Where it listens.
    pub address: SocketAddr,
    /// Whom the client believes to call, `HOST:PORT`. It need not be anywhere.
    pub target: String,
}

/// A language as the matrix runs it.
#[derive(Debug)]
pub struct Kit {
    language: Language,
    client: Launch,
    server: Launch,
    version: Launch,
    /// Environment variables of both programs.
    variables: Vec<(String, String)>,
    proxy: fn(SocketAddr) -> Vec<(String, String)>,
    missing: &'static [Missing],
    alone: &'static [Missing],
    /// For logs, and for what a kit makes for itself.
    folder: TempDir,
}

impl fmt::Display for Language {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The words that clients know.
        fmt::Debug::fmt(self, formatter)
    }
}

impl Kit {
    /// Which language it is.
    #[must_use]
    pub fn language(&self) -> Language {
        self.language
    }

    /// What its version command says: the library and the runtime.
    ///
    /// # Panics
    /// If that fails.
    pub async fn version(&self) -> String {
        let mut run = Run::of(&self.version.program).with(self.version.arguments.clone());
        for (name, value) in &self.variables {
            run = run.variable(name, value);
        }
        let ended = run.to_its_end().await;
        let first = ended.stdout.lines().next().unwrap_or_default().to_owned();
        assert!(
            ended.code == Some(0) && !first.is_empty(),
            "{} does not tell its version: {ended:?}",
            self.language
        );
        first
    }

    /// The cases that it does not have, each with the reason.
    #[must_use]
    pub fn missing(&self) -> &'static [Missing] {
        self.missing
    }

    /// The cases that its server does not pass alone, whoever calls it, each with the reason. They
    /// say nothing of the mesh, through which they may well pass.
    #[must_use]
    pub fn alone(&self) -> &'static [Missing] {
        self.alone
    }

    /// Starts a server that calls itself so.
    ///
    /// # Panics
    /// If it does not listen within a minute.
    pub async fn serve(&self, node: &str) -> Server {
        let name = format!("{}-server", self.language);
        let flags = [("--node", node.to_owned())];
        let process = self.start(&name, &self.server, &flags, &[]).await;
        Server::listening(process).await
    }

    /// Runs these cases with this language as the client, as far as it has them. With a proxy the
    /// client calls the proxy's target, by nothing but its variables.
    pub async fn run(&self, ground: &Ground, proxy: Option<&Proxy>, cases: &[&str]) -> Report {
        let missing: HashSet<&str> = self.missing.iter().map(|missing| missing.case).collect();
        let had = cases.iter().filter(|case| !missing.contains(**case));
        let had: Vec<&str> = had.copied().collect();
        client::run(self, ground, proxy, &had).await
    }

    /// Its client dials by TLS, and believes this root. Python's alone can be told so.
    #[must_use]
    pub fn believing(mut self, root: &Path) -> Self {
        let root = root.display().to_string();
        self.client.arguments.extend(["--root".to_owned(), root]);
        self
    }

    /// Runs all cases with this language as the client.
    ///
    /// # Panics
    /// If one fails or does not end, or if another set of cases has run.
    pub async fn run_all(&self, ground: &Ground) {
        let all: Vec<&str> = CASES.iter().map(|case| case.name).collect();
        let report = self.run(ground, None, &all).await;
        report.conclude(&format!("{ground:?}, from {}", self.language));
    }

    async fn start(
        &self,
        name: &str,
        launch: &Launch,
        flags: &[(&str, String)],
        variables: &[(String, String)],
    ) -> Process {
        let mut arguments = launch.arguments.clone();
        for (flag, value) in flags {
            arguments.extend([(*flag).to_owned(), value.clone()]);
        }
        Process::start_with(
            name,
            &launch.program,
            arguments,
            [&self.variables, variables].concat(),
            self.folder.path(),
            Output::Piped,
        )
        .await
    }
}

/// What a variable names.
fn named_by(variable: &str, what: &str) -> PathBuf {
    let path = std::env::var_os(variable).unwrap_or_else(|| {
        panic!("{variable} is not set: name {what}, or run `.ci/run languages`, which makes it")
    });
    PathBuf::from(path)
}

/// The folder of the tests' crate.
fn here() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

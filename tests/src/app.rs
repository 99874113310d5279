//! A server that is a process of its own, for tests that kill it. It serves `Echo.Unary`, and
//! writes the key of each call into a file before it does anything else for it: what is written
//! stays when the process is killed.

use std::collections::HashMap;
use std::fs::File;
use std::io::{Read, Write};
use std::net::SocketAddr;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use tokio::net::TcpStream;
use tonic::Response;

use crate::Upstream;
use crate::cluster::{LocalService, READY_LIMIT};
use crate::ports::free_port;
use crate::process::{Output, Process, TETHER_VARIABLE};
use crate::wire::v1::UnaryResponse;

/// A server that is a process. It ends with this value.
#[derive(Debug)]
pub struct App {
    process: Process,
    address: SocketAddr,
    journal: PathBuf,
    _folder: TempDir,
}

impl App {
    /// Starts it; it listens when this returns. `app!(…)` knows the program.
    ///
    /// # Panics
    /// If it does not.
    pub async fn start(program: impl AsRef<Path>, node: &str) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the log and the journal");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let journal = folder.path().join("journal");
        let arguments = vec![
            node.to_owned(),
            address.to_string(),
            journal.display().to_string(),
        ];
        let name = format!("app-{node}");
        let program = program.as_ref();
        let process =
            Process::start(&name, program, arguments, folder.path(), Output::Logged).await;
        let app = Self {
            process,
            address,
            journal,
            _folder: folder,
        };
        app.listens().await;
        app
    }

    /// Waits until it listens.
    ///
    /// # Panics
    /// If it does not within 20 s.
    pub async fn listens(&self) {
        let connected = async {
            while TcpStream::connect(self.address).await.is_err() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let connected = tokio::time::timeout(READY_LIMIT, connected).await;
        assert!(connected.is_ok(), "{} does not listen", self.name());
    }

    /// How often it began with each call.
    ///
    /// # Panics
    /// If the journal cannot be read.
    #[must_use]
    pub fn executed(&self) -> HashMap<String, usize> {
        let written = std::fs::read_to_string(&self.journal).expect("the journal can be read");
        let mut executed = HashMap::new();
        for key in written.lines() {
            *executed.entry(key.to_owned()).or_default() += 1;
        }
        executed
    }
}

impl Deref for App {
    type Target = Process;

    fn deref(&self) -> &Process {
        &self.process
    }
}

impl LocalService for App {
    fn address(&self) -> String {
        self.address.to_string()
    }
}

/// What the process does: `NODE ADDRESS JOURNAL` are its arguments. It ends when its standard
/// input does, if a test started it.
///
/// # Panics
/// If an argument is missing or wrong, or it cannot listen.
pub fn main(mut arguments: impl Iterator<Item = String>) {
    if std::env::var_os(TETHER_VARIABLE).is_some() {
        std::thread::spawn(|| {
            // The test writes nothing: this returns when the test has ended.
            let _ = std::io::stdin().read(&mut [0]);
            std::process::exit(1);
        });
    }
    let mut argument = |name: &str| {
        let next = arguments.next();
        next.unwrap_or_else(|| panic!("{name} is missing; usage: NODE ADDRESS JOURNAL"))
    };
    let node = argument("NODE");
    let address: SocketAddr = argument("ADDRESS").parse().expect("ADDRESS is IP:PORT");
    let journal = File::options()
        .create(true)
        .append(true)
        .open(argument("JOURNAL"))
        .expect("JOURNAL can be written");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime can be made");
    runtime.block_on(serve(node, address, journal));
}

async fn serve(node: String, address: SocketAddr, journal: File) {
    let journal = Arc::new(journal);
    let name = node.clone();
    let upstream = Upstream::named(&node).listening_on(address);
    let _upstream = upstream
        .answering_unary(move |request| {
            let (journal, node) = (Arc::clone(&journal), name.clone());
            async move {
                let request = request.into_inner();
                let behaviour = request.behaviour.unwrap_or_default();
                // One write, so that a line is there as a whole or not at all.
                (&*journal)
                    .write_all(format!("{}\n", behaviour.ledger_key).as_bytes())
                    .expect("the journal takes a line");
                let delay = Duration::from_millis(behaviour.delay_ms.into());
                tokio::time::sleep(delay).await;
                Ok(Response::new(UnaryResponse {
                    payload: request.payload,
                    node,
                    ..UnaryResponse::default()
                }))
            }
        })
        .start()
        .await;
    std::future::pending::<()>().await;
}

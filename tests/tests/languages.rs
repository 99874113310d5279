//! The call matrix in every language that there is a kit for: each as the client and each as the
//! server, through two sidecars. The client dials its sidecar, or it knows of none and has a proxy
//! variable. The same pairs without a mesh are the control group: what fails there is not ours.
//!
//! One mesh for each language of the server, so that all clients find the same; the test names each
//! cell and case that failed, after all have run. Of the hundreds of cases that measure time, one that
//! failed is run once more, so that a moment of a busy machine fails nobody.

use std::fmt::Write;
use std::time::Instant;

use sidelane_tests::cases::{self, CASES, Ground, Report, Way};
use sidelane_tests::cluster::{Cluster, LocalService};
use sidelane_tests::languages::{Kit, Language, Proxy, go, java, node, python};
use sidelane_tests::{Upstream, cluster, services};
use tokio::sync::Mutex;

/// Cases measure time, so only one test of this file runs at a time.
static TURN: Mutex<()> = Mutex::const_new(());

/// The name that clients believe to call; `.test` is never anybody's (RFC 6761).
const NOBODY: &str = "echo.test:50051";

/// Takes seconds where a language is slow, and the connection of one client is all that it is
/// about: left to the cells of a language with itself and with Rust.
const LONG: &str = "ten_thousand_cancelled";

/// How a client comes to its server.
#[derive(Debug, Clone, Copy)]
enum Road {
    Directly,
    Dialled,
    ByProxyVariable,
}

/// What came of the cells.
#[derive(Default)]
struct Table {
    cells: usize,
    cases: usize,
    failures: String,
}

/// Who calls: tonic in this process, or a kit.
enum Client {
    Rust,
    Kit(Box<Kit>),
}

#[tokio::test]
#[ignore = "needs other languages: SIDELANE_TEST_PYTHON, ..._GO, ..._NODE, ..._JAVA"]
async fn every_language_calls_rust() {
    let _turn = TURN.lock().await;
    let server = Upstream::named("echo").start().await;
    row(Language::Rust, server.address(), &server, &clients().await).await;
}

#[tokio::test]
#[ignore = "needs other languages: SIDELANE_TEST_PYTHON, ..._GO, ..._NODE, ..._JAVA"]
async fn every_language_calls_python() {
    served_by(Language::Python).await;
}

#[tokio::test]
#[ignore = "needs other languages: SIDELANE_TEST_PYTHON, ..._GO, ..._NODE, ..._JAVA"]
async fn every_language_calls_go() {
    served_by(Language::Go).await;
}

#[tokio::test]
#[ignore = "needs other languages: SIDELANE_TEST_PYTHON, ..._GO, ..._NODE, ..._JAVA"]
async fn every_language_calls_node() {
    served_by(Language::Node).await;
}

#[tokio::test]
#[ignore = "needs other languages: SIDELANE_TEST_PYTHON, ..._GO, ..._NODE, ..._JAVA"]
async fn every_language_calls_java() {
    served_by(Language::Java).await;
}

async fn served_by(language: Language) {
    let _turn = TURN.lock().await;
    let clients = clients().await;
    let mut kits = clients.iter().filter_map(Client::kit);
    let kit = kits.find(|kit| kit.language() == language);
    let kit = kit.unwrap_or_else(|| panic!("{language} has no kit"));
    let server = kit.serve("echo").await;
    row(language, server.address(), &server, &clients).await;
}

async fn clients() -> Vec<Client> {
    vec![
        Client::Rust,
        Client::Kit(Box::new(python::kit().await)),
        Client::Kit(Box::new(go::kit())),
        Client::Kit(Box::new(node::kit())),
        Client::Kit(Box::new(java::kit())),
    ]
}

/// All cells of one server.
async fn row(
    language: Language,
    server: std::net::SocketAddr,
    service: &impl LocalService,
    clients: &[Client],
) {
    let mesh = mesh(service).await;
    let outbound = mesh.node("caller").outbound();
    let mut kits = clients.iter().filter_map(Client::kit);
    let kit = kits.find(|kit| kit.language() == language);
    let alone = kit.map_or(&[][..], Kit::alone);
    for missing in alone {
        println!(
            "{language} alone serves no {}: {}",
            missing.case, missing.reason
        );
    }
    let mut table = Table::default();
    for client in clients {
        println!("{}", client.version().await);
        let mut ground = Ground {
            target: server,
            server,
            way: Way::Direct,
            server_kind: language,
        };
        let all = client.language() == language
            || client.language() == Language::Rust
            || language == Language::Rust;
        let chosen: Vec<&str> = CASES
            .iter()
            .map(|case| case.name)
            .filter(|case| all || *case != LONG)
            .collect();
        // The control group: without the mesh, that is, without anything of ours.
        if all {
            let alone = |case: &&str| !alone.iter().any(|missing| missing.case == *case);
            let chosen: Vec<&str> = chosen.iter().copied().filter(alone).collect();
            table
                .cell(client, Road::Directly, &ground, None, &chosen)
                .await;
        }
        ground.target = outbound;
        ground.way = Way::Mesh {
            caller: "caller".to_owned(),
        };
        table
            .cell(client, Road::Dialled, &ground, None, &chosen)
            .await;
        if client.kit().is_some() {
            let proxy = Proxy {
                address: outbound,
                target: NOBODY.to_owned(),
            };
            table
                .cell(
                    client,
                    Road::ByProxyVariable,
                    &ground,
                    Some(&proxy),
                    &chosen,
                )
                .await;
        }
    }
    println!("{} cells, {} cases passed", table.cells, table.cases);
    assert!(
        table.failures.is_empty(),
        "to {language}:\n{}",
        table.failures
    );
}

impl Table {
    async fn cell(
        &mut self,
        client: &Client,
        road: Road,
        ground: &Ground,
        proxy: Option<&Proxy>,
        chosen: &[&str],
    ) {
        let cell = format!("{} to {}, {road}", client.language(), ground.server_kind);
        println!("---- {cell}");
        let start = Instant::now();
        let mut report = client.run(ground, proxy, chosen).await;
        self.cases += report.passed();
        if let Some(timed) = report.only_timed().filter(|timed| !timed.is_empty()) {
            println!("once more, since they measure time: {}", timed.join(", "));
            let again = client.run(ground, proxy, &timed).await;
            self.cases += again.passed();
            report = again;
        }
        println!("---- {cell}: {} ms", start.elapsed().as_millis());
        self.cells += 1;
        if !report.failures().is_empty() {
            // Writing to a string does not fail.
            let _ = writeln!(self.failures, "{cell}:\n{}", report.failures());
        }
    }
}

impl Client {
    fn kit(&self) -> Option<&Kit> {
        match self {
            Self::Rust => None,
            Self::Kit(kit) => Some(kit),
        }
    }

    fn language(&self) -> Language {
        self.kit().map_or(Language::Rust, Kit::language)
    }

    async fn version(&self) -> String {
        match self {
            Self::Rust => format!("tonic {}", locked("tonic")),
            Self::Kit(kit) => {
                let mut said = kit.version().await;
                for missing in kit.missing() {
                    // Writing to a string does not fail.
                    let _ = write!(said, "\n  not {}: {}", missing.case, missing.reason);
                }
                said
            }
        }
    }

    async fn run(&self, ground: &Ground, proxy: Option<&Proxy>, chosen: &[&str]) -> Report {
        match self {
            Self::Rust => cases::run(ground, chosen).await,
            Self::Kit(kit) => kit.run(ground, proxy, chosen).await,
        }
    }
}

impl std::fmt::Display for Road {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(match self {
            Self::Directly => "directly",
            Self::Dialled => "dialled through two sidecars",
            Self::ByProxyVariable => "by proxy variable through two sidecars",
        })
    }
}

/// The version of a crate in this build.
fn locked(name: &str) -> &'static str {
    let lock = include_str!("../../Cargo.lock");
    let entry = format!("name = \"{name}\"\nversion = \"");
    let version = lock
        .split_once(&entry)
        .and_then(|(_, rest)| rest.split_once('"'));
    version.map_or("of no known version", |(version, _)| version)
}

async fn mesh(service: &impl LocalService) -> Cluster {
    cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::ECHO, service)
        .start()
        .await
}

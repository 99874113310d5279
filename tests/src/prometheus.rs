//! A real Prometheus, unchanged, that scrapes what is under test and answers queries. The folder with
//! `prometheus` and `promtool` is named by `SIDELANE_TEST_PROMETHEUS`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio::time::{Instant, sleep};

use crate::admin::get;
use crate::ports::free_port;
use crate::process::{Output, Process};

/// Names the folder.
pub const VARIABLE: &str = "SIDELANE_TEST_PROMETHEUS";
/// Longer than anything that is waited for takes.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks.
const AGAIN: Duration = Duration::from_millis(100);

/// Prometheus, with what it has read so far.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    address: SocketAddr,
    _folder: TempDir,
}

/// One series of an answer: its labels and its value.
pub type Series = (BTreeMap<String, String>, f64);

impl Prometheus {
    /// Starts it. Each second it reads `/metrics` of these, whose figures get the label `node`.
    ///
    /// # Panics
    /// If the variable is missing, or it cannot read all of them within a minute.
    pub async fn scraping(targets: &[(&str, SocketAddr)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let mut config = "global:\n  scrape_interval: 1s\n  scrape_timeout: 1s\nscrape_configs:\n\
                          - job_name: mesh\n  static_configs:\n"
            .to_owned();
        for (node, address) in targets {
            config += &format!("  - targets: [\"{address}\"]\n    labels: {{node: {node}}}\n");
        }
        let file = folder.path().join("prometheus.yml");
        std::fs::write(&file, config).expect("a file that can be written");
        let address = SocketAddr::from(([127, 0, 0, 1], free_port()));
        let arguments = vec![
            format!("--config.file={}", file.display()),
            format!(
                "--storage.tsdb.path={}",
                folder.path().join("data").display()
            ),
            format!("--web.listen-address={address}"),
        ];
        let program = program("prometheus");
        let output = Output::Logged;
        let process = Process::start("prometheus", &program, arguments, folder.path(), output);
        let prometheus = Self {
            process: process.await,
            address,
            _folder: folder,
        };
        let all = targets.len();
        prometheus
            .until("up == 1", |series| series.len() == all)
            .await;
        prometheus
    }

    /// What it answers to a query now; `None` while it is not there.
    pub async fn query(&self, query: &str) -> Option<Vec<Series>> {
        let mut path = "/api/v1/query?query=".to_owned();
        for byte in query.bytes() {
            path += &format!("%{byte:02X}");
        }
        let answer = get(self.address, &path).await.ok()?;
        let answer: Value = serde_json::from_str(&answer.body).ok()?;
        let found = answer["data"]["result"].as_array()?;
        found.iter().map(series).collect()
    }

    /// The one value that it answers to a query; nothing counts as zero.
    ///
    /// # Panics
    /// If it is not there, or answers with several.
    pub async fn value(&self, query: &str) -> f64 {
        let found = self.query(query).await;
        let found = found.unwrap_or_else(|| panic!("{query}: {}", self.process.end_of_log()));
        assert!(found.len() < 2, "{query}: {found:?}");
        found.first().map_or(0.0, |(_, value)| *value)
    }

    /// Waits for an answer that is wanted.
    ///
    /// # Panics
    /// If there is none within a minute: with the last one.
    pub async fn until(&self, query: &str, wanted: impl Fn(&[Series]) -> bool) -> Vec<Series> {
        let began = Instant::now();
        loop {
            let found = self.query(query).await;
            if let Some(found) = found.as_ref().filter(|found| wanted(found)) {
                return found.clone();
            }
            let log = || self.process.end_of_log();
            assert!(began.elapsed() < LIMIT, "{query}: {found:?}\n{}", log());
            sleep(AGAIN).await;
        }
    }
}

/// Has `promtool` check a page in the text format.
///
/// # Panics
/// If the variable is missing, or it finds anything.
pub async fn check(page: &str) {
    let mut child = Command::new(program("promtool"))
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("promtool starts");
    let mut input = child.stdin.take().expect("it is piped");
    input.write_all(page.as_bytes()).await.expect("it reads");
    drop(input);
    let said = child.wait_with_output().await.expect("it ends");
    let text = [&said.stdout, &said.stderr].map(|it| String::from_utf8_lossy(it).into_owned());
    assert!(
        said.status.success() && text.concat().is_empty(),
        "{text:?}\n{page}"
    );
}

fn series(found: &Value) -> Option<Series> {
    let labels = found["metric"].as_object()?.iter();
    let labels = labels.map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned())));
    let value = found["value"][1].as_str()?.parse().ok()?;
    Some((labels.collect::<Option<_>>()?, value))
}

fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os(VARIABLE);
    let folder = folder.unwrap_or_else(|| {
        panic!("{VARIABLE} names no folder with prometheus and promtool; .ci/run gets one")
    });
    PathBuf::from(folder).join(name)
}

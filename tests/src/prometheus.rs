//! A real Prometheus, unchanged, that scrapes what is under test and answers queries. The folder with
//! `prometheus` and `promtool` is named by `SIDELANE_TEST_PROMETHEUS`.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Stdio;
use std::time::{Duration, SystemTime};

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
/// Prometheus moves the moments of samples by so many milliseconds at most, to make them even, into the past.
const BEFORE_ITS_TIME: i64 = 2;
/// Between two looks.
const AGAIN: Duration = Duration::from_millis(100);

/// Prometheus, with what it has read so far.
#[derive(Debug)]
pub struct Prometheus {
    process: Process,
    address: SocketAddr,
    _folder: TempDir,
}

/// A page that was read.
#[derive(Debug, Clone, Copy)]
pub struct Scrape {
    /// When that began, in milliseconds since 1970: the moment of its samples.
    pub at: i64,
    /// How long it took. What the page tells is from in between.
    pub took: Duration,
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
        let found = self.ask(query, None).await?;
        found.iter().map(series).collect()
    }

    /// What it answers to a query as of this moment, in milliseconds since 1970.
    ///
    /// # Panics
    /// If it is not there, or does not understand.
    pub async fn query_at(&self, query: &str, moment: i64) -> Vec<Series> {
        let found = self.ask(query, Some(moment)).await;
        let found = found.and_then(|found| found.iter().map(series).collect());
        found.unwrap_or_else(|| panic!("{query}: {}", self.process.end_of_log()))
    }

    /// The one value that it answers to a query as of this moment; nothing counts as zero.
    ///
    /// # Panics
    /// If it is not there, or answers with several.
    pub async fn value_at(&self, query: &str, moment: i64) -> f64 {
        let found = self.query_at(query, moment).await;
        assert!(found.len() < 2, "{query}: {found:?}");
        found.first().map_or(0.0, |(_, value)| *value)
    }

    /// When it has read the page of this node in the last ten minutes, each time with success.
    ///
    /// # Panics
    /// If it is not there, or has never tried.
    pub async fn scrapes(&self, node: &str) -> Vec<Scrape> {
        let up = self.samples(&format!("up{{node=\"{node}\"}}")).await;
        let took = format!("scrape_duration_seconds{{node=\"{node}\"}}");
        let took: BTreeMap<_, _> = self.samples(&took).await.into_iter().collect();
        // Of one that has just ended, the two answers may be from before and after.
        let scrape = |(at, up): (i64, f64)| {
            let took = Duration::try_from_secs_f64(*took.get(&at)?).ok()?;
            (up > 0.0).then_some(Scrape { at, took })
        };
        up.into_iter().filter_map(scrape).collect()
    }

    /// The next time that it reads the page of this node, from now on, with success.
    ///
    /// # Panics
    /// If it does not within a minute.
    pub async fn next_scrape(&self, node: &str) -> Scrape {
        let now = unix_ms() + BEFORE_ITS_TIME;
        let began = Instant::now();
        loop {
            let scrapes = self.scrapes(node).await;
            if let Some(scrape) = scrapes.iter().find(|scrape| scrape.at > now) {
                return *scrape;
            }
            let last = scrapes.last();
            assert!(
                began.elapsed() < LIMIT,
                "{node} is not read again: {last:?}"
            );
            sleep(AGAIN).await;
        }
    }

    /// Moments and values of the one series that this selects.
    async fn samples(&self, selector: &str) -> Vec<(i64, f64)> {
        let query = format!("{selector}[10m]");
        let found = self.ask(&query, None).await;
        let samples = found.as_ref().and_then(|found| match &**found {
            [one] => one["values"].as_array()?.iter().map(sample).collect(),
            _ => None,
        });
        samples.unwrap_or_else(|| panic!("{query}: {found:?} {}", self.process.end_of_log()))
    }

    async fn ask(&self, query: &str, moment: Option<i64>) -> Option<Vec<Value>> {
        let mut path = "/api/v1/query?query=".to_owned();
        for byte in query.bytes() {
            path += &format!("%{byte:02X}");
        }
        if let Some(ms) = moment {
            path += &format!("&time={}.{:03}", ms / 1_000, ms % 1_000);
        }
        let answer = get(self.address, &path).await.ok()?;
        let mut answer: Value = serde_json::from_str(&answer.body).ok()?;
        match answer["data"]["result"].take() {
            Value::Array(found) => Some(found),
            _ => None,
        }
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

/// Now, in milliseconds since 1970.
///
/// # Panics
/// If the clock is before that.
#[must_use]
pub fn unix_ms() -> i64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
    let ms = since.expect("a clock that was set").as_millis();
    i64::try_from(ms).expect("a moment of our time")
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

fn sample(pair: &Value) -> Option<(i64, f64)> {
    let [at, value] = pair.as_array()?.as_slice() else {
        return None;
    };
    // Milliseconds are exact in a number of seconds as JSON has it, but for the last bits.
    #[expect(
        clippy::cast_possible_truncation,
        reason = "far below what an i64 holds"
    )]
    let ms = (at.as_f64()? * 1_000.0).round() as i64;
    Some((ms, value.as_str()?.parse().ok()?))
}

fn program(name: &str) -> PathBuf {
    let folder = std::env::var_os(VARIABLE);
    let folder = folder.unwrap_or_else(|| {
        panic!("{VARIABLE} names no folder with prometheus and promtool; .ci/run gets one")
    });
    PathBuf::from(folder).join(name)
}

//! The real Jaeger, which `tests/jaeger/build` builds: a process of this test's own, that takes spans by
//! OTLP and is asked over its HTTP API. What it answers is read as the spans of [`crate::collector`] are.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde_json::Value;
use tempfile::TempDir;
use tokio::time::sleep;

use crate::admin;
use crate::collector::Span;
use crate::ports::free_port;
use crate::process::{Output, Process};

/// Names the program.
pub const PROGRAM: &str = "SIDELANE_TEST_JAEGER";
/// For its start, and for spans to be there.
const LIMIT: Duration = Duration::from_secs(60);
/// A question may have thousands of traces for an answer.
const QUESTION_LIMIT: Duration = Duration::from_secs(30);
/// The most traces of an answer.
const MOST: usize = 5_000;

/// A Jaeger. It ends with this value, or with the thread that started it.
#[derive(Debug)]
pub struct Jaeger {
    process: Process,
    otlp: SocketAddr,
    http: SocketAddr,
    _folder: TempDir,
}

impl Jaeger {
    /// Starts it; it answers when this returns.
    ///
    /// # Panics
    /// Where [`PROGRAM`] does not name it, or it does not answer in time.
    pub async fn start() -> Self {
        let program = std::env::var_os(PROGRAM).map(PathBuf::from);
        let program = program.unwrap_or_else(|| {
            panic!("{PROGRAM} must name the program that tests/jaeger/build FOLDER makes")
        });
        let folder = tempfile::tempdir().expect("a folder for the log");
        let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("jaeger/config.yaml");
        let [otlp, http, grpc] = [free_port(), free_port(), free_port()];
        // It knows nothing of tethers: the kernel ends it where the test cannot.
        let arguments = ["--pdeathsig", "KILL", "--"].map(str::to_owned);
        let mut arguments = arguments.to_vec();
        arguments.push(program.display().to_string());
        arguments.extend(["--config".to_owned(), config.display().to_string()]);
        let ports = [
            ("JAEGER_OTLP", otlp),
            ("JAEGER_HTTP", http),
            ("JAEGER_GRPC", grpc),
        ];
        let ports = ports.map(|(name, port)| (name.to_owned(), port.to_string()));
        let process = Process::start_with(
            "jaeger",
            Path::new("setpriv"),
            arguments,
            ports.to_vec(),
            folder.path(),
            Output::Logged,
        );
        let jaeger = Self {
            process: process.await,
            otlp: ([127, 0, 0, 1], otlp).into(),
            http: ([127, 0, 0, 1], http).into(),
            _folder: folder,
        };
        let begun = Instant::now();
        while !jaeger.listens().await {
            let ended = jaeger.process.ended().await;
            assert!(ended.is_none(), "Jaeger has ended: {ended:?}");
            assert!(begun.elapsed() < LIMIT, "Jaeger does not answer");
            sleep(Duration::from_millis(50)).await;
        }
        jaeger
    }

    async fn listens(&self) -> bool {
        let takes = tokio::net::TcpStream::connect(self.otlp).await.is_ok();
        takes
            && admin::get(self.http, "/api/services")
                .await
                .is_ok_and(|it| it.status == 200)
    }

    /// Where it takes spans, as `--otlp` has it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.otlp)
    }

    /// The spans of all traces that have one of this service.
    ///
    /// # Panics
    /// If it does not answer as its API says.
    pub async fn spans(&self, service: &str) -> Vec<Span> {
        let question = format!("/api/traces?service={service}&limit={MOST}&lookback=1h");
        let answer = admin::get_within(self.http, &question, QUESTION_LIMIT).await;
        let answer = answer.unwrap_or_else(|error| panic!("{question}: {error:#}"));
        assert_eq!(answer.status, 200, "{question}: {}", answer.body);
        let answer: Value = serde_json::from_str(&answer.body).expect("JSON");
        assert_eq!(answer["errors"], Value::Null, "{question}");
        let traces = list(&answer["data"]);
        assert!(traces.len() < MOST, "{question}: there may be more");
        traces.iter().flat_map(spans_of).collect()
    }

    /// Waits until there are spans as wanted, and returns all of traces with this service.
    ///
    /// # Panics
    /// If there are none in time: with those that there are.
    pub async fn until(&self, service: &str, wanted: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let begun = Instant::now();
        loop {
            let spans = self.spans(service).await;
            if wanted(&spans) {
                return spans;
            }
            let some: Vec<_> = spans.iter().take(20).collect();
            assert!(
                begun.elapsed() < LIMIT,
                "{} spans, none as wanted: {some:#?}",
                spans.len()
            );
            sleep(Duration::from_millis(200)).await;
        }
    }
}

fn spans_of(trace: &Value) -> Vec<Span> {
    let mut resources = HashMap::new();
    if let Some(processes) = trace["processes"].as_object() {
        for (id, process) in processes {
            let mut resource = tags(&process["tags"]);
            resource.insert("service.name".to_owned(), text(&process["serviceName"]));
            resources.insert(id.clone(), resource);
        }
    }
    list(&trace["spans"])
        .iter()
        .map(|span| {
            read(
                span,
                &resources[span["processID"].as_str().expect("a process")],
            )
        })
        .collect()
}

/// A span as OTLP has it: Jaeger keeps its kind, status and scope among its tags.
fn read(span: &Value, resource: &BTreeMap<String, String>) -> Span {
    let mut attributes = tags(&span["tags"]);
    let mut taken = |name: &str| attributes.remove(name).unwrap_or_default();
    let kind = match &*taken("span.kind") {
        "internal" => 1,
        "server" => 2,
        "client" => 3,
        other => panic!("a span of kind {other:?}: {span}"),
    };
    let scope = taken("otel.scope.name");
    let state = taken("w3c.tracestate");
    taken("otel.scope.version");
    let failed = taken("error") == "true";
    let code = taken("otel.status_code");
    assert_eq!(failed, code == "ERROR", "{span}");
    let failure = failed.then(|| taken("otel.status_description"));
    let to = |it: &Value| (text(&it["traceID"]), text(&it["spanID"]));
    let of_kind = |kind: &str| {
        let all = list(&span["references"]).iter();
        let of_kind = all.filter(|it| it["refType"] == kind);
        of_kind.map(to).collect::<Vec<_>>()
    };
    let trace = text(&span["traceID"]);
    let parents = of_kind("CHILD_OF");
    assert!(parents.len() <= 1, "{span}");
    let parent = parents.into_iter().next().map(|(of_trace, parent)| {
        assert_eq!(of_trace, trace, "{span}");
        parent
    });
    let micros = |name: &str| span[name].as_u64().expect("microseconds");
    let begun = micros("startTime");
    Span {
        resource: resource.clone(),
        scope,
        state,
        id: text(&span["spanID"]),
        parent: parent.unwrap_or_default(),
        name: text(&span["operationName"]),
        kind,
        time: (begun * 1_000, (begun + micros("duration")) * 1_000),
        events: list(&span["logs"]).iter().map(event).collect(),
        links: of_kind("FOLLOWS_FROM"),
        failure,
        attributes,
        trace,
    }
}

fn event(log: &Value) -> (String, BTreeMap<String, String>) {
    let mut fields = tags(&log["fields"]);
    let name = fields.remove("event").unwrap_or_default();
    (name, fields)
}

fn tags(tags: &Value) -> BTreeMap<String, String> {
    let each = list(tags).iter();
    each.map(|tag| (text(&tag["key"]), text(&tag["value"])))
        .collect()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}

fn text(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

//! A collector of traces: a tonic server of OTLP's trace service, in this process, which keeps what it
//! is sent, refuses it, or takes its time. A test reads spans from it by their names, and follows them
//! up to their parents.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value};
use opentelemetry_proto::tonic::trace::v1 as otlp;
use tokio::net::TcpListener;
use tokio::time::sleep;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::metadata::MetadataMap;
use tonic::transport::Server;
use tonic::{Request, Response, Status};

use crate::cluster::ClusterBuilder;
use crate::{Cluster, Upstream, services};

/// How long a test waits for spans: sidecars send them once a second.
const LIMIT: Duration = Duration::from_secs(20);

/// How it takes spans.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Takes {
    /// All of them, at once.
    All,
    /// None: it refuses them.
    Nothing,
    /// None: it never answers.
    Forever,
    /// All of them, after this time.
    Slowly(Duration),
    /// All but one of each request.
    ButOne,
}

/// A collector. It ends with the test's runtime.
#[derive(Debug)]
pub struct Collector {
    address: SocketAddr,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    takes: Mutex<Takes>,
    spans: Mutex<Vec<Span>>,
    /// What came with the newest request.
    headers: Mutex<MetadataMap>,
}

/// A span that was sent.
#[derive(Debug, Clone)]
pub struct Span {
    /// Who says where it comes from.
    pub resource: BTreeMap<String, String>,
    /// Who made it.
    pub scope: String,
    /// Its trace, its own id and its parent's, in hexadecimal; no parent is empty.
    pub trace: String,
    /// See there.
    pub id: String,
    /// See there.
    pub parent: String,
    /// The trace's `tracestate`.
    pub state: String,
    /// Its name.
    pub name: String,
    /// 2 is a server's, 3 a client's.
    pub kind: i32,
    /// From when to when, in nanoseconds since 1970.
    pub time: (u64, u64),
    /// What is said of it.
    pub attributes: BTreeMap<String, String>,
    /// What happened meanwhile, in the order in which it did.
    pub events: Vec<(String, BTreeMap<String, String>)>,
    /// Traces and spans that it has to do with.
    pub links: Vec<(String, String)>,
    /// Is it a failure, and why?
    pub failure: Option<String>,
}

impl Collector {
    /// Starts one that takes everything.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn start() -> Self {
        Self::at("127.0.0.1:0".parse().expect("an address")).await
    }

    /// The same, there.
    ///
    /// # Panics
    /// If it cannot listen.
    pub async fn at(address: SocketAddr) -> Self {
        let listener = TcpListener::bind(address).await.expect("a port");
        let address = listener.local_addr().expect("an address");
        let shared = Arc::new(Shared {
            takes: Mutex::new(Takes::All),
            spans: Mutex::default(),
            headers: Mutex::default(),
        });
        let service = TraceServiceServer::from_arc(Arc::clone(&shared));
        let serving = Server::builder().add_service(service);
        tokio::spawn(serving.serve_with_incoming(TcpListenerStream::new(listener)));
        Self { address, shared }
    }

    /// Where it is, as `--otlp` has it.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Takes spans so from now on.
    pub fn now(&self, takes: Takes) {
        *lock(&self.shared.takes) = takes;
    }

    /// What came with the newest request.
    #[must_use]
    pub fn headers(&self) -> MetadataMap {
        lock(&self.shared.headers).clone()
    }

    /// What it took so far.
    #[must_use]
    pub fn spans(&self) -> Vec<Span> {
        lock(&self.shared.spans).clone()
    }

    /// Forgets what it took so far.
    pub fn forget(&self) {
        lock(&self.shared.spans).clear();
    }

    /// Waits until there are spans as wanted, and returns them all.
    ///
    /// # Panics
    /// If there are none in time: with those that there are.
    pub async fn until(&self, wanted: impl Fn(&[Span]) -> bool) -> Vec<Span> {
        let begun = Instant::now();
        loop {
            let spans = self.spans();
            if wanted(&spans) {
                return spans;
            }
            let short: Vec<_> = spans.iter().rev().take(20).collect();
            assert!(
                begun.elapsed() < LIMIT,
                "{} spans, none as wanted: {short:#?}",
                spans.len()
            );
            sleep(Duration::from_millis(20)).await;
        }
    }

    /// The spans of the one trace that has this span, once there are so many.
    ///
    /// # Panics
    /// As [`Collector::until`].
    pub async fn trace(&self, trace: &str, count: usize) -> Vec<Span> {
        let of = |span: &&Span| span.trace == trace;
        let spans = self.until(|spans| spans.iter().filter(of).count() >= count);
        spans.await.into_iter().filter(|span| of(&span)).collect()
    }
}

/// A caller and a callee that serves `Echo` from there; both send spans to this collector, with these
/// flags more.
///
/// # Panics
/// If they do not start.
pub async fn pair(
    mesh: ClusterBuilder,
    upstream: &Upstream,
    collector: &str,
    flags: &[&str],
) -> Cluster {
    let mut mesh = mesh.control();
    for name in ["callee", "caller"] {
        mesh = mesh.node(name).with("--otlp", collector);
        for flag in flags {
            mesh = match flag.split_once(' ') {
                Some((flag, value)) => mesh.with(flag, value),
                None => mesh.switched_on(flag),
            };
        }
        if name == "callee" {
            mesh = mesh.serving(services::ECHO, upstream);
        }
    }
    mesh.start().await
}

/// Spans whose parent is not among these.
#[must_use]
pub fn orphans(spans: &[Span]) -> Vec<&Span> {
    let known: HashSet<(&str, &str)> = spans
        .iter()
        .map(|span| (span.trace.as_str(), span.id.as_str()))
        .collect();
    let orphan = |span: &&Span| {
        let parent = (span.trace.as_str(), span.parent.as_str());
        !span.parent.is_empty() && !known.contains(&parent)
    };
    spans.iter().filter(orphan).collect()
}

/// A span and those above it, up to the one that began the trace.
///
/// # Panics
/// If a parent is not among these.
#[must_use]
pub fn line<'a>(spans: &'a [Span], from: &'a Span) -> Vec<&'a Span> {
    let known: HashMap<(&str, &str), &Span> = spans
        .iter()
        .map(|span| ((span.trace.as_str(), span.id.as_str()), span))
        .collect();
    let mut line = vec![from];
    let mut last = from;
    while !last.parent.is_empty() {
        let parent = known.get(&(last.trace.as_str(), last.parent.as_str()));
        last = parent.unwrap_or_else(|| panic!("an orphan: {last:#?}"));
        line.push(last);
    }
    line
}

impl Span {
    /// The node whose sidecar sent it; `None` for an app's.
    #[must_use]
    pub fn node(&self) -> Option<&str> {
        self.resource.get("sidelane.node").map(String::as_str)
    }

    /// One of its attributes.
    ///
    /// # Panics
    /// If it has none of this name.
    #[must_use]
    pub fn attribute(&self, name: &str) -> &str {
        let value = self.attributes.get(name);
        value.unwrap_or_else(|| panic!("no {name}: {self:#?}"))
    }

    /// What is said of those of its events that have this name.
    #[must_use]
    pub fn events(&self, name: &str) -> Vec<&BTreeMap<String, String>> {
        let of_name = self.events.iter().filter(|(own, _)| own == name);
        of_name.map(|(_, said)| said).collect()
    }
}

#[tonic::async_trait]
impl TraceService for Shared {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let takes = *lock(&self.takes);
        *lock(&self.headers) = request.metadata().clone();
        match takes {
            Takes::All | Takes::ButOne => {}
            Takes::Slowly(time) => sleep(time).await,
            Takes::Nothing => return Err(Status::permission_denied("nothing is taken here")),
            Takes::Forever => std::future::pending().await,
        }
        for of_resource in request.into_inner().resource_spans {
            let resource = of_resource.resource.unwrap_or_default();
            let resource = said(resource.attributes);
            for of_scope in of_resource.scope_spans {
                let scope = of_scope.scope.unwrap_or_default().name;
                let spans = of_scope.spans.into_iter();
                let spans = spans.map(|span| Span::read(span, &resource, &scope));
                lock(&self.spans).extend(spans);
            }
        }
        let rejected = ExportTracePartialSuccess {
            rejected_spans: 1,
            error_message: "one too many".to_owned(),
        };
        let partial_success = match takes {
            Takes::ButOne => lock(&self.spans).pop().map(|_| rejected),
            _ => None,
        };
        Ok(Response::new(ExportTraceServiceResponse {
            partial_success,
        }))
    }
}

impl Span {
    fn read(span: otlp::Span, resource: &BTreeMap<String, String>, scope: &str) -> Self {
        let status = span.status.unwrap_or_default();
        let failed = status.code() == otlp::status::StatusCode::Error;
        Self {
            resource: resource.clone(),
            scope: scope.to_owned(),
            trace: hex(&span.trace_id),
            id: hex(&span.span_id),
            parent: hex(&span.parent_span_id),
            state: span.trace_state,
            name: span.name,
            kind: span.kind,
            time: (span.start_time_unix_nano, span.end_time_unix_nano),
            attributes: said(span.attributes),
            events: (span.events.into_iter())
                .map(|event| (event.name, said(event.attributes)))
                .collect(),
            links: (span.links.into_iter())
                .map(|link| (hex(&link.trace_id), hex(&link.span_id)))
                .collect(),
            failure: failed.then_some(status.message),
        }
    }
}

fn said(attributes: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(any_value::Value::StringValue(text)) => text,
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        Some(any_value::Value::BoolValue(truth)) => truth.to_string(),
        other => format!("{other:?}"),
    };
    let each = attributes.into_iter();
    each.map(|it| (it.key, text(it.value))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

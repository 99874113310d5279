//! One call as the sidecars recorded it: the demo is its own collector, unless it is told of another
//! one. It keeps the first traces that come and shows the one that tells most.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::{KeyValue, any_value::Value};
use opentelemetry_proto::tonic::trace::v1::Span as Sent;
use serde::Serialize;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// The share of its calls that the demo has recorded: a few each second.
const SHARE: &str = "0.05";
/// Traces that are kept; those that come later are let go.
const KEPT_LIMIT: usize = 512;
/// Spans that are kept of one of them.
const SPANS_LIMIT: usize = 16;

/// Where the sidecars send their spans.
pub(super) struct Traces {
    url: String,
    own: Option<Own>,
}

/// The demo's own collector. It ends with this.
struct Own {
    kept: Arc<Kept>,
    serving: JoinHandle<()>,
}

/// Spans by their traces.
#[derive(Default)]
struct Kept(Mutex<HashMap<Vec<u8>, Vec<Span>>>);

/// What is shown of a span.
#[derive(Debug, Clone)]
struct Span {
    id: Vec<u8>,
    parent: Vec<u8>,
    method: String,
    node: String,
    kind: &'static str,
    status: String,
    /// In nanoseconds since 1970.
    began: u64,
    took: u64,
}

/// A span in its place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub(super) struct Hop {
    /// How many are above it.
    pub(super) depth: usize,
    /// The call's path, without the first `/`.
    pub(super) method: String,
    /// Whose sidecar has recorded it.
    pub(super) node: String,
    /// `client` or `server`.
    pub(super) side: &'static str,
    /// How the call ended.
    pub(super) status: String,
    /// From the call's beginning to this one's, in microseconds.
    pub(super) after_us: u64,
    /// How long it took, in microseconds.
    pub(super) took_us: u64,
}

impl Traces {
    /// Another collector, or one of the demo's own.
    pub(super) async fn begin(elsewhere: Option<String>) -> std::io::Result<Self> {
        if let Some(url) = elsewhere {
            return Ok(Self { url, own: None });
        }
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let url = format!("http://{}", listener.local_addr()?);
        let kept = Arc::<Kept>::default();
        let service = TraceServiceServer::from_arc(Arc::clone(&kept));
        let serving = tokio::spawn(async move {
            let incoming = TcpIncoming::from(listener);
            // Without it there is nothing to show, and sidecars say that nobody takes their spans.
            let _ = Server::builder()
                .serve_with_incoming(service, incoming)
                .await;
        });
        Ok(Self {
            url,
            own: Some(Own { kept, serving }),
        })
    }

    /// What a sidecar is told.
    pub(super) fn flags(&self) -> [String; 4] {
        ["--otlp", &self.url, "--sampling", SHARE].map(str::to_owned)
    }

    /// The trace that tells most; none where another collector has them all.
    pub(super) fn best(&self) -> Vec<Hop> {
        let kept = self.own.as_ref().map(|own| own.kept.lock());
        let trees = kept
            .iter()
            .flat_map(|kept| kept.values().map(|spans| tree(spans)));
        // Of two that are alike, the one that was first.
        let told = |hops: &Vec<Hop>| {
            let nodes: std::collections::BTreeSet<_> = hops.iter().map(|hop| &hop.node).collect();
            (hops.len(), nodes.len())
        };
        trees.max_by_key(told).unwrap_or_default()
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Kept {
    fn lock(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Vec<Span>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn keep(&self, node: &str, span: Sent) {
        let mut kept = self.lock();
        if kept.len() >= KEPT_LIMIT && !kept.contains_key(&span.trace_id) {
            return;
        }
        let spans = kept.entry(span.trace_id.clone()).or_default();
        if spans.len() < SPANS_LIMIT {
            spans.push(Span {
                kind: match span.kind {
                    3 => "client",
                    _ => "server",
                },
                status: text(&span.attributes, "rpc.response.status_code"),
                id: span.span_id,
                parent: span.parent_span_id,
                method: span.name,
                node: node.to_owned(),
                began: span.start_time_unix_nano,
                took: span
                    .end_time_unix_nano
                    .saturating_sub(span.start_time_unix_nano),
            });
        }
    }
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        for of_resource in request.into_inner().resource_spans {
            let resource = of_resource.resource.unwrap_or_default();
            let node = text(&resource.attributes, "sidelane.node");
            for of_scope in of_resource.scope_spans {
                for span in of_scope.spans {
                    self.keep(&node, span);
                }
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

fn text(attributes: &[KeyValue], name: &str) -> String {
    let found = attributes.iter().find(|it| it.key == name);
    let value = found.and_then(|it| it.value.as_ref()?.value.as_ref());
    match value {
        Some(Value::StringValue(text)) => text.clone(),
        _ => String::new(),
    }
}

/// The spans from the first one down, each before those below it; nothing where the first one is not
/// there. Those whose parent is missing are left out.
fn tree(spans: &[Span]) -> Vec<Hop> {
    let mut hops = Vec::new();
    if let Some(root) = spans.iter().find(|span| span.parent.is_empty()) {
        add(spans, (root, root), 0, &mut hops);
    }
    hops
}

fn add(spans: &[Span], (root, span): (&Span, &Span), depth: usize, hops: &mut Vec<Hop>) {
    let microseconds = |nanoseconds: u64| nanoseconds / 1_000;
    hops.push(Hop {
        depth,
        method: span.method.clone(),
        node: span.node.clone(),
        side: span.kind,
        status: span.status.clone(),
        after_us: microseconds(span.began.saturating_sub(root.began)),
        took_us: microseconds(span.took),
    });
    let mut below: Vec<&Span> = spans.iter().filter(|it| it.parent == span.id).collect();
    below.sort_by_key(|it| it.began);
    // A circle of parents would have no end.
    if depth < SPANS_LIMIT {
        for child in below {
            add(spans, (root, child), depth + 1, hops);
        }
    }
}

/// For people: the hops, one a line.
pub(super) fn lines(hops: &[Hop]) -> String {
    let name = |hop: &Hop| format!("{}{}", "  ".repeat(hop.depth), hop.method);
    let width = hops.iter().map(|hop| name(hop).len()).max();
    let width = width.unwrap_or_default();
    let milliseconds = |us: u64| Duration::from_micros(us).as_secs_f64() * 1_000.0;
    let line = |hop: &Hop| {
        format!(
            "{:>8.2} ms {:>8.2} ms  {:width$}  {}, {}: {}\n",
            milliseconds(hop.after_us),
            milliseconds(hop.took_us),
            name(hop),
            hop.node,
            hop.side,
            hop.status,
        )
    };
    let head = format!("{:>11} {:>11}\n", "after", "took");
    hops.iter().map(line).fold(head, |text, line| text + &line)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: u8, parent: Option<u8>, began: u64) -> Span {
        Span {
            id: vec![id],
            parent: parent.map(|id| vec![id]).unwrap_or_default(),
            method: "shop.v1.Orders/GetOrder".to_owned(),
            node: format!("node-{id}"),
            kind: if parent.is_none() { "client" } else { "server" },
            status: "OK".to_owned(),
            began,
            took: 1_500_000,
        }
    }

    #[test]
    fn a_tree_is_written_from_its_root_in_the_order_of_time() {
        let spans = [
            span(3, Some(1), 3_000_000),
            span(2, Some(1), 1_250_000),
            span(1, None, 1_000_000),
            span(9, Some(8), 1_000_000),
        ];
        let hops = tree(&spans);
        let found: Vec<_> = hops.iter().map(|it| (it.depth, &*it.node)).collect();
        assert_eq!(found, [(0, "node-1"), (1, "node-2"), (1, "node-3")]);
        let expected = "      after        took\n    \
                        0.00 ms     1.50 ms  shop.v1.Orders/GetOrder    node-1, client: OK\n    \
                        0.25 ms     1.50 ms    shop.v1.Orders/GetOrder  node-2, server: OK\n    \
                        2.00 ms     1.50 ms    shop.v1.Orders/GetOrder  node-3, server: OK\n";
        assert_eq!(lines(&hops), expected);
        assert_eq!(tree(&spans[..2]), []);
        // Whose parent is itself, and whose are each other's.
        assert!(tree(&[span(1, None, 0), span(1, Some(1), 0)]).len() <= 2 * SPANS_LIMIT);
    }

    #[test]
    fn what_is_kept_has_its_bounds() {
        let kept = Kept::default();
        let sent = |trace: usize, id: usize| Sent {
            trace_id: trace.to_be_bytes().to_vec(),
            span_id: id.to_be_bytes().to_vec(),
            ..Sent::default()
        };
        for trace in 0..KEPT_LIMIT + 1 {
            kept.keep("a", sent(trace, 1));
        }
        for id in 0..SPANS_LIMIT + 1 {
            kept.keep("a", sent(0, id));
        }
        assert_eq!(kept.lock().len(), KEPT_LIMIT);
        assert_eq!(
            kept.lock()[&0_usize.to_be_bytes().to_vec()].len(),
            SPANS_LIMIT
        );
    }
}

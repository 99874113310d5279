//! The way of spans to a collector, over OTLP/gRPC: a queue with a bound, and one task that sends
//! what is in it, some at once. A call puts its span there and goes on, whatever becomes of it: what
//! finds no room, or is not taken, is counted.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use opentelemetry::KeyValue;
use opentelemetry_otlp::{SpanExporter, WithExportConfig, WithTonicConfig};
use opentelemetry_sdk::Resource as OtelResource;
use opentelemetry_sdk::trace::{SpanData, SpanExporter as _};
use sidelane_process::address::HostPort;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tonic::transport::Endpoint;
use tracing::warn;

use super::super::metrics::{heading, line};
use super::super::target::add;
use sidelane_process::seldom::Seldom;

/// How the URL of a collector is written.
const WANTED: &str = "write http://HOST:PORT of a collector that takes OTLP over gRPC, such as \
                      http://127.0.0.1:4317";

/// Spans that wait at most; about 2 KB each.
pub const QUEUE: usize = 4_096;
/// Spans that are sent at once at most. They are encoded in one piece, and no call moves meanwhile.
pub const BATCH: usize = 128;
/// No span waits longer than about this for others to be sent with.
pub const EXPORT_EVERY: Duration = Duration::from_secs(1);
/// A collector that has not taken them within this time did not.
pub const EXPORT_LIMIT: Duration = Duration::from_secs(10);
/// How long the connection to it may take to be made.
pub const BEGIN_LIMIT: Duration = Duration::from_secs(3);
/// How long the end of the sidecar waits for what is left to be sent.
pub const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Where the spans come from.
#[derive(Debug, Clone, Copy)]
pub struct Resource<'a> {
    /// This node.
    pub node: &'a str,
    /// Its mesh.
    pub network: &'a str,
}

/// What became of spans.
#[derive(Debug, Default)]
pub struct SpanCounters {
    exported: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    queued: AtomicU64,
}

impl SpanCounters {
    pub(in crate::telemetry) fn render(&self, text: &mut String) {
        let all = [
            (
                "sidelane_spans_exported_total",
                "counter",
                "Spans that the collector took.",
                &self.exported,
            ),
            (
                "sidelane_spans_failed_total",
                "counter",
                "Spans that were sent and not taken.",
                &self.failed,
            ),
            (
                "sidelane_spans_dropped_total",
                "counter",
                "Spans for which there was no room among those that wait.",
                &self.dropped,
            ),
            (
                "sidelane_spans_queued",
                "gauge",
                "Spans that wait to be sent.",
                &self.queued,
            ),
        ];
        for (name, kind, help, counter) in all {
            heading(text, name, kind, help);
            line(text, name, "", counter.load(Ordering::Relaxed));
        }
    }
}

/// Spans that wait.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Vec<SpanData>>,
    /// Spans that are being sent.
    under_way: AtomicU64,
    /// There are enough for a batch, or nobody adds to them any more.
    due: Notify,
    counters: Arc<SpanCounters>,
}

impl Queue {
    fn new(counters: Arc<SpanCounters>) -> Self {
        Self {
            waiting: Mutex::default(),
            under_way: AtomicU64::default(),
            due: Notify::new(),
            counters,
        }
    }

    pub(super) fn push(&self, span: SpanData) {
        let mut waiting = self.waiting();
        if waiting.len() >= QUEUE {
            add(&self.counters.dropped);
            return;
        }
        waiting.push(span);
        self.count(&waiting);
        if waiting.len() == BATCH {
            self.due.notify_one();
        }
    }

    /// The oldest of them, at most a batch, and whether there is another whole one.
    fn take(&self) -> (Vec<SpanData>, bool) {
        let mut waiting = self.waiting();
        let many = waiting.len().min(BATCH);
        let batch = waiting.drain(..many).collect();
        self.count(&waiting);
        (batch, waiting.len() >= BATCH)
    }

    fn count(&self, waiting: &[SpanData]) {
        let queued = &self.counters.queued;
        queued.store(waiting.len() as u64, Ordering::Relaxed);
    }

    fn waiting(&self) -> MutexGuard<'_, Vec<SpanData>> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The collector, and the task that sends to it.
#[derive(Debug)]
pub struct Collector {
    queue: Arc<Queue>,
    ending: Arc<Notify>,
    sending: JoinHandle<()>,
}

impl Collector {
    /// Sends spans to this URL from now on, on this runtime.
    ///
    /// # Errors
    /// The URL is none that can be dialled.
    pub fn start(
        url: &str,
        resource: Resource<'_>,
        counters: Arc<SpanCounters>,
    ) -> Result<Self, String> {
        let wrong = |error: &dyn std::error::Error| format!("--otlp {url}: {error}");
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| wrong(&error))?;
        let endpoint = endpoint.connect_timeout(BEGIN_LIMIT).timeout(EXPORT_LIMIT);
        let exporter = SpanExporter::builder()
            .with_tonic()
            .with_channel(endpoint.connect_lazy())
            .with_timeout(EXPORT_LIMIT)
            .build();
        let mut exporter = exporter.map_err(|error| wrong(&error))?;
        exporter.set_resource(&described(resource));
        let queue = Arc::new(Queue::new(counters));
        let ending = Arc::new(Notify::new());
        let sending = Sending {
            exporter,
            url: url.to_owned(),
            queue: Arc::clone(&queue),
            seldom: Seldom::default(),
        };
        let sending = tokio::spawn(sending.run(Arc::clone(&ending)));
        Ok(Self {
            queue,
            ending,
            sending,
        })
    }

    pub(super) fn queue(&self) -> Arc<Queue> {
        Arc::clone(&self.queue)
    }

    /// Sends what is left, as far as that is done within [`FLUSH_LIMIT`]; the rest is dropped.
    pub async fn flush(mut self) {
        self.ending.notify_one();
        let counters = &self.queue.counters;
        if timeout(FLUSH_LIMIT, &mut self.sending).await.is_err() {
            self.sending.abort();
            let cut = self.queue.under_way.swap(0, Ordering::Relaxed);
            counters.failed.fetch_add(cut, Ordering::Relaxed);
        }
        let left = std::mem::take(&mut *self.queue.waiting()).len();
        if left > 0 {
            counters.dropped.fetch_add(left as u64, Ordering::Relaxed);
            warn!(spans = left, "spans are left that were not sent in time");
        }
    }
}

/// Reads the URL of a collector: `http://HOST:PORT`.
///
/// # Errors
/// Anything else, with what fits.
pub fn collector_url(text: &str) -> Result<String, String> {
    let Some(rest) = text.strip_prefix("http://") else {
        return Err(match text.starts_with("https://") {
            true => format!("TLS is not spoken to a collector; {WANTED}"),
            false => WANTED.to_owned(),
        });
    };
    let at = rest.strip_suffix('/').unwrap_or(rest);
    let wrong = |error: &dyn std::fmt::Display| format!("the address {at:?} {error}; {WANTED}");
    if at.contains(['/', '@', '?', '#']) {
        return Err(wrong(&"has more than a host and a port"));
    }
    let _: HostPort = at.parse().map_err(|error| wrong(&error))?;
    Ok(format!("http://{at}"))
}

fn described(resource: Resource<'_>) -> OtelResource {
    let text = |name, text: &str| KeyValue::new(name, text.to_owned());
    OtelResource::builder_empty()
        .with_service_name("sidelane-sidecar")
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            text("service.instance.id", resource.node),
            text("sidelane.node", resource.node),
            text("sidelane.network", resource.network),
        ])
        .build()
}

struct Sending {
    exporter: SpanExporter,
    url: String,
    queue: Arc<Queue>,
    seldom: Seldom,
}

impl Sending {
    async fn run(self, ending: Arc<Notify>) {
        let mut last = false;
        while !last {
            tokio::select! {
                () = self.queue.due.notified() => {}
                () = sleep(EXPORT_EVERY) => {}
                () = ending.notified() => last = true,
            }
            self.send_all(last).await;
        }
    }

    /// Sends whole batches, and first of all what has waited; at the end, everything.
    async fn send_all(&self, last: bool) {
        loop {
            let (batch, more) = self.queue.take();
            let none = batch.is_empty();
            if !none {
                self.send(batch).await;
            }
            if none || !(more || last) {
                return;
            }
        }
    }

    async fn send(&self, batch: Vec<SpanData>) {
        let spans = batch.len() as u64;
        let counters = &self.queue.counters;
        self.queue.under_way.store(spans, Ordering::Relaxed);
        let sent = timeout(EXPORT_LIMIT, self.exporter.export(batch)).await;
        self.queue.under_way.store(0, Ordering::Relaxed);
        let error = match sent {
            Ok(Ok(())) => {
                counters.exported.fetch_add(spans, Ordering::Relaxed);
                return;
            }
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {} s", EXPORT_LIMIT.as_secs()),
        };
        counters.failed.fetch_add(spans, Ordering::Relaxed);
        if let Some(omitted) = self.seldom.line("spans", Instant::now()) {
            warn!(
                collector = self.url,
                spans, omitted, "spans were not taken: {error}"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::reason::Reason;
    use crate::telemetry::trace::{EVENTS, Facts, Kind, Ratio, Tracing};
    use crate::telemetry::{Outcome, Traffic};
    use http::HeaderMap;
    use sidelane_proto::model::{ConnectionClass, Lane};
    use tonic::Code;

    /// A collector that takes connections and never says a word, and what begins spans for it.
    async fn silent() -> (TcpListener, Collector, Tracing, Arc<SpanCounters>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        let resource = Resource {
            node: "orders-1",
            network: "default",
        };
        let counters = Arc::<SpanCounters>::default();
        let collector = Collector::start(&url, resource, Arc::clone(&counters)).unwrap();
        let tracing = Tracing::to(&collector, Ratio::new(1.0).unwrap(), false);
        (listener, collector, tracing, counters)
    }

    fn begun(tracing: &Tracing) -> crate::telemetry::trace::CallSpan {
        let facts = || Facts {
            kind: Kind::Server,
            path: "/shop.v1.Orders/Get",
            class: ConnectionClass::Internal,
            lane: Lane::GENERAL,
            rule: None,
            node: None,
        };
        tracing.begin(&HeaderMap::new(), (Instant::now(), None), facts)
    }

    #[tokio::test]
    async fn an_end_waits_for_a_silent_collector_no_longer_than_it_may_and_counts_every_span() {
        let (_listener, collector, tracing, counters) = silent().await;
        let more = 10;
        for _ in 0..QUEUE + more {
            begun(&tracing).ended(Outcome::Answered(0), Traffic::default());
        }
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        assert_eq!(read(&counters.dropped), more as u64);
        assert_eq!(read(&counters.queued), QUEUE as u64);
        // A batch is on its way.
        while collector.queue.under_way.load(Ordering::Relaxed) == 0 {
            tokio::task::yield_now().await;
        }
        let since = Instant::now();
        collector.flush().await;
        let took = since.elapsed();
        assert!(took >= FLUSH_LIMIT && took < EXPORT_LIMIT, "{took:?}");
        assert_eq!(read(&counters.failed), BATCH as u64);
        let all = QUEUE + more - BATCH;
        assert_eq!(read(&counters.dropped), all as u64);
    }

    #[tokio::test]
    async fn a_span_has_so_many_events_and_counts_the_others() {
        let (_listener, collector, tracing, _) = silent().await;
        let mut span = begun(&tracing);
        for _ in 0..EVENTS + 3 {
            span.withheld("budget");
        }
        span.ended(Outcome::Answered(0), Traffic::default());
        let (spans, _) = collector.queue.take();
        let events = &spans[0].events;
        assert_eq!((events.events.len(), events.dropped_count), (EVENTS, 3));
    }

    #[tokio::test]
    async fn who_failed_is_told_by_the_side_and_the_status() {
        use opentelemetry::trace::Status;
        let (_listener, collector, tracing, _) = silent().await;
        let ended = |outcome, said: Option<(Code, Reason, &str)>| {
            let mut span = begun(&tracing);
            if let Some((code, reason, text)) = said {
                span.refused(code, reason, text);
            }
            span.ended(outcome, Traffic::default());
            let (spans, _) = collector.queue.take();
            spans[0].status.clone()
        };
        // A callee has done its part where the call was wrong, or its caller left.
        for well in [
            Outcome::Answered(0),
            Outcome::Answered(5),
            Outcome::Cancelled,
        ] {
            assert_eq!(ended(well, None), Status::Unset);
        }
        assert_eq!(ended(Outcome::Answered(13), None), Status::error(""));
        let limit = (Code::ResourceExhausted, Reason::RateLimited, "too many");
        let failed = Outcome::Failed(Reason::RateLimited);
        assert_eq!(ended(failed, Some(limit)), Status::error("too many"));
    }
}

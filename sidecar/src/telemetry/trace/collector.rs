//! The collector that spans go to: what its URL is, what is said of where they come from, and the
//! thread that sends them. It lives from the start of the sidecar to its end, and holds nothing up.

use std::sync::Arc;
use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_sdk::Resource as OtelResource;
use sidelane_process::address::HostPort;
use tokio::runtime::Builder;
use tokio::sync::oneshot;
use tonic::transport::Endpoint;

use super::export::Export;
use super::queue::{Queue, SpanCounters};

/// How the URL of a collector is written.
const WANTED: &str = "write http://HOST:PORT of a collector that takes OTLP over gRPC, such as \
                      http://127.0.0.1:4317";

/// How long the connection to it may take to be made.
pub const BEGIN_LIMIT: Duration = Duration::from_secs(3);

/// Where the spans come from.
#[derive(Debug, Clone, Copy)]
pub struct Resource<'a> {
    /// What a trace's readers find them by.
    pub service: &'a str,
    /// This node.
    pub node: &'a str,
    /// Its mesh.
    pub network: &'a str,
}

/// The collector, and the thread that sends to it.
#[derive(Debug)]
pub struct Collector {
    queue: Arc<Queue>,
    /// Dropped, it is time to end.
    ending: oneshot::Sender<()>,
    /// Dropped by the thread when it has.
    ended: oneshot::Receiver<()>,
}

impl Collector {
    /// Sends spans to this URL from now on, on a thread of their own.
    ///
    /// # Errors
    /// The URL is none that can be dialled, or no thread is to be had.
    pub fn start(
        url: &str,
        resource: Resource<'_>,
        counters: Arc<SpanCounters>,
    ) -> Result<Self, String> {
        let wrong = |error: &dyn std::error::Error| format!("--otlp {url}: {error}");
        let endpoint = Endpoint::from_shared(url.to_owned()).map_err(|error| wrong(&error))?;
        let endpoint = endpoint
            .user_agent(concat!("sidelane-sidecar/", env!("CARGO_PKG_VERSION")))
            .map_err(|error| wrong(&error))?
            .connect_timeout(BEGIN_LIMIT);
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| wrong(&error))?;
        let queue = Arc::new(Queue::new(counters));
        let resource = ResourceAttributesWithSchema::from(&described(resource));
        let (ending, told) = oneshot::channel();
        let (done, ended) = oneshot::channel::<()>();
        let to = (url.to_owned(), Arc::clone(&queue));
        let sending = move || {
            runtime.block_on(async { Export::new(endpoint, resource, to).run(told).await });
            // A look-up of a name that hangs holds the end up no longer.
            runtime.shutdown_background();
            drop(done);
        };
        let thread = std::thread::Builder::new().name("spans".to_owned());
        thread.spawn(sending).map_err(|error| wrong(&error))?;
        Ok(Self {
            queue,
            ending,
            ended,
        })
    }

    pub(super) fn queue(&self) -> Arc<Queue> {
        Arc::clone(&self.queue)
    }

    /// Sends what is left, as far as that is done within [`super::FLUSH_LIMIT`]; the rest is dropped.
    pub async fn flush(self) {
        drop(self.ending);
        let _ = self.ended.await;
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
        .with_service_name(resource.service.to_owned())
        .with_attributes([
            KeyValue::new("service.version", env!("CARGO_PKG_VERSION")),
            text("service.instance.id", resource.node),
            text("sidelane.node", resource.node),
            text("sidelane.network", resource.network),
        ])
        .build()
}

#[cfg(test)]
mod tests {
    use std::net::{Shutdown, TcpListener};
    use std::sync::Mutex;
    use std::time::Instant;

    use http::{HeaderMap, Uri};
    use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
        TraceService, TraceServiceServer,
    };
    use opentelemetry_proto::tonic::collector::trace::v1::{
        ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
    };
    use sidelane_proto::model::{ConnectionClass, Lane};
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::{Code, Request, Response, Status, transport::Server};

    use super::super::export::{EXPORT_LIMIT, FLUSH_LIMIT};
    use super::super::queue::{BATCH, QUEUE};
    use super::super::{By, EVENTS, Facts, Kind, Ratio, Tracing};
    use super::*;
    use crate::reason::Reason;
    use crate::telemetry::{Outcome, Traffic};

    /// A busy machine's ample bound for anything that happens here.
    const LIMIT: Duration = Duration::from_secs(30);

    fn to(listener: &TcpListener) -> (Collector, Tracing, Arc<SpanCounters>) {
        let url = format!("http://{}", listener.local_addr().unwrap());
        let resource = Resource {
            service: "orders",
            node: "orders-1",
            network: "default",
        };
        let counters = Arc::<SpanCounters>::default();
        let collector = Collector::start(&url, resource, Arc::clone(&counters)).unwrap();
        let tracing = Tracing::to(&collector, Ratio::new(1.0).unwrap(), false);
        (collector, tracing, counters)
    }

    /// A collector that takes connections and never says a word, and what begins spans for it.
    fn silent() -> (TcpListener, Collector, Tracing, Arc<SpanCounters>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let (collector, tracing, counters) = to(&listener);
        (listener, collector, tracing, counters)
    }

    /// Answers each request with the next of these, and the last one again and again.
    struct Answers(Mutex<Vec<Result<ExportTraceServiceResponse, Status>>>);

    #[tonic::async_trait]
    impl TraceService for Answers {
        async fn export(
            &self,
            _: Request<ExportTraceServiceRequest>,
        ) -> Result<Response<ExportTraceServiceResponse>, Status> {
            let mut left = self.0.lock().unwrap();
            let answer = match left.len() {
                1 => left[0].clone(),
                _ => left.remove(0),
            };
            answer.map(Response::new)
        }
    }

    /// A collector on a thread of its own that answers so.
    fn answering(answers: Vec<Result<ExportTraceServiceResponse, Status>>) -> TcpListener {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let serving = listener.try_clone().unwrap();
        std::thread::spawn(move || {
            let runtime = Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let listener = tokio::net::TcpListener::from_std(serving).unwrap();
                let service = TraceServiceServer::new(Answers(Mutex::new(answers)));
                let server = Server::builder().add_service(service);
                let incoming = TcpListenerStream::new(listener);
                server.serve_with_incoming(incoming).await.unwrap();
            });
        });
        listener
    }

    fn taken() -> Result<ExportTraceServiceResponse, Status> {
        Ok(ExportTraceServiceResponse::default())
    }

    fn begun(tracing: &Tracing) -> crate::telemetry::trace::CallSpan {
        let uri = Uri::from_static("/shop.v1.Orders/Get");
        let facts = || Facts {
            kind: Kind::Server,
            uri: &uri,
            named: true,
            way: Some((ConnectionClass::Internal, Lane::GENERAL)),
            rule: None,
            node: None,
            destination: None,
        };
        tracing.begin(&HeaderMap::new(), Instant::now(), By::App, facts)
    }

    fn make(tracing: &Tracing, spans: u64) {
        for _ in 0..spans {
            begun(tracing).ended(Outcome::Answered(0), Traffic::default());
        }
    }

    /// Waits with this thread, on which nothing else moves meanwhile.
    fn until(counters: &SpanCounters, wanted: impl Fn([u64; 4]) -> bool) -> [u64; 4] {
        let since = Instant::now();
        while !wanted(counters.all()) {
            assert!(since.elapsed() < LIMIT, "{:?}", counters.all());
            std::thread::sleep(Duration::from_millis(5));
        }
        counters.all()
    }

    #[tokio::test]
    async fn an_end_waits_for_a_silent_collector_no_longer_than_it_may_and_counts_every_span() {
        let (_listener, collector, tracing, counters) = silent();
        let more = 10;
        let mut made = 0;
        // A batch is on its way, and no other one follows.
        while counters.all()[2] < more {
            make(&tracing, 100);
            made += 100;
        }
        let [exported, failed, dropped, queued] = counters.all();
        assert_eq!((exported, failed, queued), (0, 0, QUEUE as u64));
        let under_way = made - dropped - queued;
        assert!(under_way <= BATCH as u64, "{under_way}");
        let since = Instant::now();
        collector.flush().await;
        let took = since.elapsed();
        assert!(took >= FLUSH_LIMIT && took < EXPORT_LIMIT, "{took:?}");
        // What comes after the end has no room either.
        make(&tracing, 1);
        let dropped = made + 1 - under_way;
        assert_eq!(counters.all(), [0, under_way, dropped, 0]);
    }

    #[tokio::test]
    async fn spans_leave_while_the_thread_of_calls_is_busy() {
        let (collector, tracing, counters) = to(&answering(vec![taken()]));
        let spans = 2 * BATCH as u64;
        make(&tracing, spans);
        until(&counters, |it| it[0] == spans);
        make(&tracing, 3);
        collector.flush().await;
        assert_eq!(counters.all(), [spans + 3, 0, 0, 0]);
    }

    #[tokio::test]
    async fn what_a_collector_rejects_of_a_batch_counts_as_failed() {
        let partial = |rejected_spans, said: &str| ExportTraceServiceResponse {
            partial_success: Some(ExportTracePartialSuccess {
                rejected_spans,
                error_message: said.to_owned(),
            }),
        };
        let answers = vec![Ok(partial(3, "too old")), Ok(partial(0, "slow down"))];
        let (_collector, tracing, counters) = to(&answering(answers));
        make(&tracing, 5);
        // It may have left in two pieces, of which one alone is rejected.
        until(&counters, |it| it[0] + it[1] == 5);
        let failed = counters.all()[1];
        assert!((1..=3).contains(&failed), "{:?}", counters.all());
        make(&tracing, 5);
        let after = until(&counters, |it| it[0] + it[1] == 10);
        assert_eq!(after[1], failed);
    }

    #[tokio::test]
    async fn a_batch_is_sent_once_more_where_the_collector_may_take_it_later() {
        let not_now = || Err(Status::unavailable("begins"));
        let answers = vec![not_now(), not_now(), not_now(), taken()];
        let (_collector, tracing, counters) = to(&answering(answers));
        make(&tracing, 1);
        assert_eq!(until(&counters, |it| it[0] + it[1] == 1), [1, 0, 0, 0]);
        let answers = vec![Err(Status::unimplemented("no")), taken()];
        let (_collector, tracing, counters) = to(&answering(answers));
        make(&tracing, 1);
        assert_eq!(until(&counters, |it| it[0] + it[1] == 1), [0, 1, 0, 0]);
        // Four times in vain, and it is over.
        let answers = vec![not_now(), not_now(), not_now(), not_now(), taken()];
        let (_collector, tracing, counters) = to(&answering(answers));
        make(&tracing, 1);
        assert_eq!(until(&counters, |it| it[0] + it[1] == 1), [0, 1, 0, 0]);
        make(&tracing, 1);
        assert_eq!(until(&counters, |it| it[0] == 1), [1, 1, 0, 0]);
    }

    #[tokio::test]
    async fn a_connection_on_which_nothing_was_answered_is_not_used_again() {
        let (listener, _collector, tracing, counters) = silent();
        make(&tracing, 1);
        let (first, _) = listener.accept().unwrap();
        until(&counters, |it| it[1] == 1);
        make(&tracing, 1);
        // It would wait on the first one for ever.
        let (second, _) = listener.accept().unwrap();
        for connection in [first, second] {
            let _ = connection.shutdown(Shutdown::Both);
        }
    }

    #[tokio::test]
    async fn one_that_is_dropped_ends_as_well() {
        let (_listener, collector, tracing, counters) = silent();
        drop(collector);
        until(&counters, |_| {
            make(&tracing, 1);
            counters.all()[2] > 0
        });
    }

    #[tokio::test]
    async fn a_span_has_so_many_events_and_counts_the_others() {
        let (_listener, collector, tracing, _) = silent();
        let mut span = begun(&tracing);
        for _ in 0..EVENTS + 3 {
            span.withheld(false, "budget");
        }
        span.ended(Outcome::Answered(0), Traffic::default());
        let spans = collector.queue.take(true).unwrap().spans();
        let events = &spans[0].events;
        assert_eq!((events.events.len(), events.dropped_count), (EVENTS, 3));
    }

    #[tokio::test]
    async fn who_failed_is_told_by_the_side_and_the_status() {
        use opentelemetry::trace::Status;
        let (_listener, collector, tracing, _) = silent();
        let ended = |outcome, said: Option<(Code, Reason, &str)>| {
            let mut span = begun(&tracing);
            if let Some((code, reason, text)) = said {
                span.refused(code, reason, text);
            }
            span.ended(outcome, Traffic::default());
            let spans = collector.queue.take(true).unwrap().spans();
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
        // Nor is it the callee's failure where the mesh refuses what is asked of it.
        let limit = (Code::ResourceExhausted, Reason::RateLimited, "too many");
        let failed = Outcome::Failed(Reason::RateLimited);
        assert_eq!(ended(failed, Some(limit)), Status::Unset);
        let lost = (Code::Unavailable, Reason::PeerReset, "it broke");
        let failed = Outcome::Failed(Reason::PeerReset);
        assert_eq!(ended(failed, Some(lost)), Status::error("it broke"));
    }
}

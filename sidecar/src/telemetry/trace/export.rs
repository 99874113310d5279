//! Sends what waits in the queue, over OTLP/gRPC (OpenTelemetry Protocol 1.x), some at once. This runs
//! on a thread of its own: to put a batch of spans into bytes takes longer than many calls do. It reads
//! no settings but those that it is given, whatever `OTEL_…` the environment has.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut, Bytes};
use http::uri::PathAndQuery;
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::transform::common::tonic::ResourceAttributesWithSchema;
use opentelemetry_proto::transform::trace::tonic::group_spans_by_resource_and_scope;
use prost::encoding::{DecodeContext, WireType};
use prost::{DecodeError, Message};
use sidelane_process::seldom::Seldom;
use tokio::sync::oneshot;
use tokio::time::{sleep, timeout};
use tonic::client::Grpc;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Status};
use tonic_prost::ProstCodec;
use tonic_types::StatusExt as _;
use tracing::warn;

use super::queue::{Batch, Queue};
use super::span::name_of;

/// No span waits longer than about this for others to be sent with.
pub const EXPORT_EVERY: Duration = Duration::from_secs(1);
/// A collector that has not taken a batch within this time did not, however often it was sent.
pub const EXPORT_LIMIT: Duration = Duration::from_secs(10);
/// How long the end of the sidecar waits for what is left to be sent.
pub const FLUSH_LIMIT: Duration = Duration::from_secs(2);
/// How often a batch is sent once more, where the collector may take it later.
pub const RETRIES: u32 = 3;
/// The pause before that, doubled each time.
const RETRY_PAUSE: Duration = Duration::from_millis(100);

/// What takes spans (opentelemetry-proto, `trace_service.proto`).
const EXPORT: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// Spans as they are sent. Put into bytes once, however often they are sent.
#[derive(Debug, Clone, Default)]
struct Encoded(Bytes);

impl Message for Encoded {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        buffer.put_slice(&self.0);
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    /// Nobody answers with one.
    fn merge_field(
        &mut self,
        tag: u32,
        wire: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        prost::encoding::skip_field(wire, tag, buffer, context)
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

/// The one who sends.
pub(super) struct Export {
    endpoint: Endpoint,
    client: Grpc<Channel>,
    resource: ResourceAttributesWithSchema,
    url: String,
    queue: Arc<Queue>,
    seldom: Seldom,
}

impl Export {
    /// Within a runtime, which it dials by.
    pub(super) fn new(
        endpoint: Endpoint,
        resource: ResourceAttributesWithSchema,
        (url, queue): (String, Arc<Queue>),
    ) -> Self {
        Self {
            client: dialled(&endpoint),
            endpoint,
            resource,
            url,
            queue,
            seldom: Seldom::default(),
        }
    }

    /// Sends until `ending` is told, or nobody is left to tell it; then what is left, for at most
    /// [`FLUSH_LIMIT`].
    pub(super) async fn run(mut self, ending: oneshot::Receiver<()>) {
        let queue = Arc::clone(&self.queue);
        {
            let mut sending = std::pin::pin!(self.send_all());
            tokio::select! {
                () = &mut sending => {}
                _ = ending => {
                    queue.close();
                    let _ = timeout(FLUSH_LIMIT, sending).await;
                }
            }
            // What is still under way ends here, and counts as failed.
        }
        let left = queue.abandon();
        if left > 0 {
            warn!(spans = left, "spans are left that were not sent in time");
        }
    }

    /// Until the queue is closed, and empty.
    async fn send_all(&mut self) {
        while !self.queue.is_closed() {
            tokio::select! {
                () = self.queue.due() => {}
                () = sleep(EXPORT_EVERY) => {}
            }
            // First of all what has waited, then whole batches.
            let mut all = true;
            while let Some(batch) = self.queue.take(all) {
                self.send(batch).await;
                all = false;
            }
        }
    }

    async fn send(&mut self, mut batch: Batch) {
        let resource_spans = group_spans_by_resource_and_scope(batch.spans(), &self.resource);
        let request = ExportTraceServiceRequest { resource_spans };
        let request = Encoded(request.encode_to_vec().into());
        let (spans, deadline) = (batch.len(), Instant::now() + EXPORT_LIMIT);
        let sent = timeout(EXPORT_LIMIT, self.export(request, deadline)).await;
        let told = match sent {
            Ok(Ok(None)) => return batch.taken_but(0),
            Ok(Ok(Some(partial))) => {
                let rejected = u64::try_from(partial.rejected_spans).unwrap_or_default();
                batch.taken_but(rejected);
                format!("{rejected} were rejected: {}", partial.error_message)
            }
            Ok(Err(status)) => format!("{}: {}", name_of(status.code()), status.message()),
            Err(_) => {
                // Nothing says that anybody is at the other end of this connection any more.
                self.client = dialled(&self.endpoint);
                format!("no answer within {} s", EXPORT_LIMIT.as_secs())
            }
        };
        if let Some(omitted) = self.seldom.line("spans", Instant::now()) {
            warn!(
                collector = self.url,
                spans, omitted, "spans were not taken: {told}"
            );
        }
    }

    /// Sends it, and once more where that may help; what the collector says of those that it did not
    /// take, where it has anything to say.
    async fn export(
        &mut self,
        request: Encoded,
        deadline: Instant,
    ) -> Result<Option<ExportTracePartialSuccess>, Status> {
        let mut attempt = 0;
        loop {
            let status = match self.ask(request.clone()).await {
                Ok(answer) => {
                    let partial = answer.partial_success;
                    let said = |it: &ExportTracePartialSuccess| {
                        it.rejected_spans > 0 || !it.error_message.is_empty()
                    };
                    return Ok(partial.filter(said));
                }
                Err(status) => status,
            };
            let Some(pause) = again(&status, attempt) else {
                return Err(status);
            };
            if attempt == RETRIES || Instant::now() + pause >= deadline {
                return Err(status);
            }
            sleep(pause).await;
            attempt += 1;
        }
    }

    async fn ask(&mut self, request: Encoded) -> Result<ExportTraceServiceResponse, Status> {
        let away = |error| Status::unavailable(format!("{error}"));
        self.client.ready().await.map_err(away)?;
        let (path, codec) = (PathAndQuery::from_static(EXPORT), ProstCodec::default());
        let answer = self.client.unary(Request::new(request), path, codec).await;
        answer.map(tonic::Response::into_inner)
    }
}

fn dialled(endpoint: &Endpoint) -> Grpc<Channel> {
    Grpc::new(endpoint.connect_lazy())
}

/// When it is sent once more, where the protocol has it that it may be taken then.
fn again(status: &Status, attempt: u32) -> Option<Duration> {
    let asked = status.get_details_retry_info();
    let asked = asked.and_then(|info| info.retry_delay);
    let may = match status.code() {
        Code::Cancelled
        | Code::DeadlineExceeded
        | Code::Aborted
        | Code::OutOfRange
        | Code::Unavailable
        | Code::DataLoss => true,
        // Only where it says when.
        Code::ResourceExhausted => asked.is_some(),
        _ => false,
    };
    let own = RETRY_PAUSE * 2_u32.pow(attempt);
    // Not all sidecars at the same moment.
    let own = own.mul_f64(0.5 + fastrand::f64());
    may.then(|| asked.unwrap_or_default().max(own))
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    #[test]
    fn what_is_sent_once_more_is_what_the_protocol_says() {
        let after = |code, asked: Option<u64>| {
            let mut details = ErrorDetails::new();
            if let Some(asked) = asked {
                details.set_retry_info(Some(Duration::from_secs(asked)));
            }
            again(&Status::with_error_details(code, "", details), 2)
        };
        let own = RETRY_PAUSE * 2..=RETRY_PAUSE * 6;
        for code in [Code::Unavailable, Code::Aborted, Code::DataLoss] {
            assert!(own.contains(&after(code, None).unwrap()));
            assert_eq!(after(code, Some(5)), Some(Duration::from_secs(5)));
        }
        assert_eq!(after(Code::ResourceExhausted, None), None);
        let asked = after(Code::ResourceExhausted, Some(1));
        assert_eq!(asked, Some(Duration::from_secs(1)));
        for code in [Code::PermissionDenied, Code::Unimplemented, Code::Internal] {
            assert_eq!(after(code, Some(1)), None);
        }
    }
}

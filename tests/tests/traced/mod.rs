//! Apps of this process that make spans of their own, as `sidelane-trace` has it, and send them to a
//! collector. A process has one subscriber, so they are those of one test.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use futures_util::{Stream, StreamExt};
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::{SpanExporter, WithExportConfig};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider};
use sidelane_tests::client;
use sidelane_tests::wire::v1::beat_server::Beat;
use sidelane_tests::wire::v1::echo_client::EchoClient;
use sidelane_tests::wire::v1::echo_server::Echo;
use sidelane_tests::wire::v1::{
    ChatRequest, ChatResponse, CollectRequest, CollectResponse, ExpandRequest, ExpandResponse,
    PingRequest, PingResponse, UnaryRequest, UnaryResponse,
};
use tokio::net::TcpListener;
use tokio::sync::mpsc;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use tower::Layer;
use tracing::Instrument;
use tracing_subscriber::layer::SubscriberExt;

/// How an app calls on, once that is known.
pub(crate) type Onward = Arc<OnceLock<EchoClient<Traced>>>;
pub(crate) type Traced = sidelane_trace::Joined<Channel>;

/// The spans of all apps of this process go there.
pub(crate) fn apps_send_to(url: &str) -> SdkTracerProvider {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(url)
        .build()
        .unwrap();
    let config = BatchConfigBuilder::default()
        .with_max_queue_size(50_000)
        .with_scheduled_delay(Duration::from_millis(200))
        .build();
    let processor = BatchSpanProcessor::builder(exporter)
        .with_batch_config(config)
        .build();
    let provider = SdkTracerProvider::builder()
        .with_span_processor(processor)
        .with_resource(Resource::builder_empty().with_service_name("app").build())
        .build();
    let spans = tracing_opentelemetry::layer().with_tracer(provider.tracer("apps"));
    let filter = tracing_subscriber::filter::Targets::new()
        .with_target("sidelane_trace", tracing::Level::INFO)
        .with_target("app_traces", tracing::Level::INFO)
        .with_target("jaeger", tracing::Level::INFO);
    let subscriber = tracing_subscriber::registry().with(filter).with(spans);
    tracing::subscriber::set_global_default(subscriber).unwrap();
    provider
}

/// The app in the middle, which calls the last one by its own sidecar.
pub(crate) struct Middle(pub(crate) Onward);

#[tonic::async_trait]
impl Beat for Middle {
    async fn ping(&self, _: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        let own = tracing::info_span!("work");
        let mut echo = self.0.get().unwrap().clone();
        let call = async move { echo.unary(UnaryRequest::default()).await };
        call.instrument(own).await?;
        Ok(Response::new(PingResponse::default()))
    }
}

/// The last app. It tells what came with each call.
pub(crate) struct Last(pub(crate) mpsc::UnboundedSender<MetadataMap>);

pub(crate) type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for Last {
    type ExpandStream = Answers<ExpandResponse>;
    type ChatStream = Answers<ChatResponse>;

    async fn unary(
        &self,
        request: Request<UnaryRequest>,
    ) -> Result<Response<UnaryResponse>, Status> {
        self.0.send(request.metadata().clone()).unwrap();
        let fails = request.metadata().get("x-test-fails").is_some();
        match fails {
            true => Err(Status::data_loss("as it was told to")),
            false => Ok(Response::new(UnaryResponse::default())),
        }
    }

    async fn collect(
        &self,
        _: Request<Streaming<CollectRequest>>,
    ) -> Result<Response<CollectResponse>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn expand(
        &self,
        _: Request<ExpandRequest>,
    ) -> Result<Response<Self::ExpandStream>, Status> {
        Err(Status::unimplemented("not asked for here"))
    }

    async fn chat(
        &self,
        request: Request<Streaming<ChatRequest>>,
    ) -> Result<Response<Self::ChatStream>, Status> {
        let answers = request.into_inner();
        let answers = answers.map(|message| message.map(|_| ChatResponse::default()));
        Ok(Response::new(Box::pin(answers)))
    }
}

pub(crate) async fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    (listener, address)
}

/// Calls there, each with a span.
pub(crate) async fn traced(address: SocketAddr) -> Traced {
    let channel = client::channel(address).await.unwrap();
    sidelane_trace::client().layer(channel)
}

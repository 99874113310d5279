//! An app's own spans and its log, as any app of a user's would have them: `tracing`, and
//! `tracing-opentelemetry` to a collector. The layers of `sidelane-trace` make them one trace with those
//! of its sidecars.

use std::time::Duration;

use opentelemetry::KeyValue;
use opentelemetry::trace::TracerProvider as _;
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig as _};
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tokio::task::spawn_blocking;
use tracing::Level;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::{Layer as _, fmt, registry};

/// How long the end of an app waits for what is left to be sent.
const FLUSH_LIMIT: Duration = Duration::from_secs(2);

/// Log or spans could not be set up.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SpansError {
    /// The collector's address.
    #[error("cannot send spans: {0}")]
    Exporter(#[from] ExporterBuildError),
    /// Somebody was here before.
    #[error("cannot set up the log: {0}")]
    Log(#[from] tracing::subscriber::SetGlobalDefaultError),
}

/// What is sent is bounded and dropped beyond that, by the SDK of OpenTelemetry: 2,048 spans wait.
pub(super) struct Spans(Option<SdkTracerProvider>);

impl Spans {
    /// Sets up the log, and sends the spans of `node` to `collector` if there is one. All of them are
    /// recorded: those of the sidecars follow. Must be called in a runtime, which does the sending.
    pub(super) fn begin(node: &str, collector: Option<String>) -> Result<Self, SpansError> {
        let provider = collector.map(|url| provider(node, url)).transpose()?;
        let own = || Targets::new().with_target(env!("CARGO_CRATE_NAME"), Level::INFO);
        let spans = provider.as_ref().map(|provider| {
            let filter = own().with_target("sidelane_trace", Level::INFO);
            let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("shop"));
            layer.with_filter(filter)
        });
        // The spans' fields are for the collector alone.
        let log = fmt::layer()
            .with_writer(std::io::stderr)
            .json()
            .flatten_event(true)
            .with_current_span(false)
            .with_span_list(false)
            .with_filter(own());
        tracing::subscriber::set_global_default(registry().with(spans).with(log))?;
        Ok(Self(provider))
    }

    /// Sends what is left.
    pub(super) async fn end(self) {
        if let Some(provider) = self.0 {
            // It blocks, and waits for what this runtime sends. An error says that the collector did
            // not take them, which the app has no use for any more.
            let ended = spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_LIMIT)).await;
            if let Ok(Err(error)) = ended {
                tracing::warn!(%error, "the last spans were not taken");
            }
        }
    }
}

fn provider(node: &str, url: String) -> Result<SdkTracerProvider, ExporterBuildError> {
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(url)
        .build()?;
    let resource = Resource::builder_empty()
        .with_service_name(node.to_owned())
        .with_attribute(KeyValue::new("service.namespace", "shop"))
        .build();
    Ok(SdkTracerProvider::builder()
        .with_batch_exporter(exporter)
        .with_resource(resource)
        .build())
}

//! The two layers. A call's span goes with its body, so that it ends where the call does.

use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::{Body, Frame, SizeHint};
use opentelemetry::context::FutureExt;
use opentelemetry::trace::TraceContextExt;
use tower_layer::Layer;
use tower_service::Service;
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::carrier::{extract, inject};
use crate::span::{Open, Side};

/// Makes a span of each call that goes out, and sends the call on in its name.
#[must_use]
pub const fn client() -> ClientLayer {
    ClientLayer(())
}

/// Makes a span of each call that comes in, below the one that it comes from.
#[must_use]
pub const fn server() -> ServerLayer {
    ServerLayer(())
}

/// See [`client`].
#[derive(Debug, Clone, Copy)]
pub struct ClientLayer(());

/// See [`server`].
#[derive(Debug, Clone, Copy)]
pub struct ServerLayer(());

/// A service whose calls have spans.
#[derive(Debug, Clone)]
pub struct Joined<S> {
    service: S,
    side: Side,
}

/// A body that takes its call's span along.
#[derive(Debug)]
pub struct Traced<B> {
    body: B,
    open: Open,
    /// What the messages of an answer are made within, where the span is filtered out.
    around: Option<opentelemetry::Context>,
}

impl<S> Layer<S> for ClientLayer {
    type Service = Joined<S>;

    fn layer(&self, service: S) -> Joined<S> {
        let side = Side::Client;
        Joined { service, side }
    }
}

impl<S> Layer<S> for ServerLayer {
    type Service = Joined<S>;

    fn layer(&self, service: S) -> Joined<S> {
        let side = Side::Server;
        Joined { service, side }
    }
}

impl<S, In, Out> Service<Request<In>> for Joined<S>
where
    S: Service<Request<In>, Response = Response<Out>>,
    S::Error: Display,
    S::Future: Send + 'static,
    Out: Body,
{
    type Response = Response<Traced<Out>>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<In>) -> Self::Future {
        let mut open = Open::new(self.side, request.uri().path());
        // A span that is filtered out, or that nobody takes, stands nowhere in a trace: the call goes on in
        // the name of what is above it.
        let around = match self.side {
            Side::Client => {
                let own = open.span.context();
                let stands = own.span().span_context().is_valid();
                let from = if stands { own } else { above() };
                inject(&from, request.headers_mut());
                None
            }
            Side::Server => {
                let from = extract(request.headers());
                let stands = open.span.set_parent(from.clone()).is_ok();
                (!stands).then_some(from)
            }
        };
        let calling = {
            let _entered = around.clone().map(opentelemetry::Context::attach);
            open.span.in_scope(|| self.service.call(request))
        };
        let calling = calling.instrument(open.span.clone());
        Box::pin(async move {
            let answer = match &around {
                None => calling.await,
                Some(around) => calling.with_context(around.clone()).await,
            };
            match answer {
                Ok(response) => {
                    // A status in the head is the whole answer.
                    open.heard(response.headers());
                    Ok(response.map(|body| Traced { body, open, around }))
                }
                Err(error) => {
                    open.broke(&error);
                    Err(error)
                }
            }
        })
    }
}

/// Where a call without a span of its own stands: in the span that is entered, or else in what has been
/// attached to this thread.
fn above() -> opentelemetry::Context {
    let entered = tracing::Span::current().context();
    if entered.span().span_context().is_valid() {
        return entered;
    }
    opentelemetry::Context::current()
}

impl<B> Body for Traced<B>
where
    B: Body + Unpin,
    B::Error: Display,
{
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        let Self { body, open, around } = self.get_mut();
        let _entered = around.clone().map(opentelemetry::Context::attach);
        // What makes the messages of a stream belongs to its call.
        let span = open.span.clone();
        let polled = span.in_scope(|| Pin::new(body).poll_frame(context));
        match &polled {
            Poll::Ready(Some(Ok(frame))) => {
                if let Some(trailers) = frame.trailers_ref() {
                    open.heard(trailers);
                }
            }
            Poll::Ready(Some(Err(error))) => open.broke(error),
            Poll::Ready(None) | Poll::Pending => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

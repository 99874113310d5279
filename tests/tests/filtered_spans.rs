//! Calls by the layers of `sidelane-trace` whose spans an app's filter leaves out: they go on in the name
//! of what is above them.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use http::{HeaderMap, Request, Response};
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_sdk::trace::SdkTracerProvider;
use sidelane_trace::{Joined, client, server};
use tonic::body::Body;
use tower::{Layer, Service};
use tracing::Level;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;

const PARENT: &str = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";

type Seen = Arc<Mutex<Vec<HeaderMap>>>;

/// A server that writes down what comes.
#[derive(Clone, Default)]
struct Noting(Seen);

impl Service<Request<Body>> for Noting {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.0.lock().unwrap().push(request.headers().clone());
        std::future::ready(Ok(Response::new(Body::empty())))
    }
}

/// An app that calls a server, and what it calls by.
#[derive(Clone)]
struct App(Joined<Noting>);

impl Service<Request<Body>> for App {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        let mut onward = self.0.clone();
        Box::pin(async move {
            // Not before the future is polled: the app does something else first.
            tokio::task::yield_now().await;
            onward.call(Request::new(Body::empty())).await?;
            Ok(Response::new(Body::empty()))
        })
    }
}

/// What a server gets of a call that comes with `PARENT` to an app which calls it, where no span of
/// these layers is wanted.
async fn onward() -> String {
    let seen = Seen::default();
    let app = App(client().layer(Noting(Arc::clone(&seen))));
    let mut request = Request::new(Body::empty());
    let headers = request.headers_mut();
    headers.insert("traceparent", PARENT.parse().unwrap());
    headers.insert("baggage", "tier=gold".parse().unwrap());
    server().layer(app).call(request).await.unwrap();
    let seen = seen.lock().unwrap();
    assert_eq!(seen[0]["baggage"], "tier=gold");
    seen[0]["traceparent"].to_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_call_whose_spans_are_filtered_out_goes_on_in_the_name_of_what_is_above() {
    let provider = SdkTracerProvider::builder().build();
    let tracer = provider.tracer("test");
    let wanted = Targets::new()
        .with_default(Level::INFO)
        .with_target("sidelane_trace", Level::WARN);
    let spans = tracing_opentelemetry::layer().with_tracer(tracer);
    let subscriber = tracing_subscriber::registry().with(wanted).with(spans);
    let _here = tracing::subscriber::set_default(subscriber);
    assert_eq!(onward().await, PARENT);
    // A span of the app's own that is entered is above its calls.
    let own = tracing::info_span!("own");
    let seen = Seen::default();
    let mut calls = client().layer(Noting(Arc::clone(&seen)));
    let calling = own.in_scope(|| calls.call(Request::new(Body::empty())));
    calling.await.unwrap();
    let context = own.context();
    let span = context.span().span_context().span_id().to_string();
    let parent = seen.lock().unwrap()[0]["traceparent"].clone();
    assert!(parent.to_str().unwrap().contains(&span), "{parent:?}");
}

#[tokio::test]
async fn nor_is_it_lost_where_nobody_takes_spans_at_all() {
    let _here = tracing::subscriber::set_default(tracing_subscriber::registry());
    assert_eq!(onward().await, PARENT);
}

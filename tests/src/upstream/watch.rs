//! A layer around all services of an upstream, for what handlers cannot do themselves: catch
//! their panics, add trailers to answers that end well, end an answer by `RST_STREAM`, and compress
//! only for those who ask for it in a header of their own.

use std::any::Any;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::FutureExt;
use http::{HeaderMap, Request, Response};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

/// Only a caller that sends this header, with any value, gets compressed answers. gRPC libraries
/// offer to take them always, and then nothing uncompressed would be tested.
pub const COMPRESS_HEADER: &str = "x-test-compress";

/// In a response's extensions: add these trailers.
#[derive(Debug, Clone)]
pub(super) struct Trailers(pub(super) HeaderMap);

/// In a response's extensions: where its trailers would stand, reset the stream with CANCEL.
#[derive(Debug, Clone, Copy)]
pub(super) struct ResetAtEnd;

/// In a request's extensions: its body has broken off. tonic's servers take a request that the
/// caller gave up for one that has come to its end.
#[derive(Debug, Clone, Default)]
pub(super) struct Broken(Arc<AtomicBool>);

type BoxError = Box<dyn std::error::Error + Send + Sync>;
type Panics = Arc<Mutex<Vec<String>>>;

#[derive(Debug, Clone)]
pub(super) struct WatchLayer {
    panics: Panics,
}

#[derive(Debug, Clone)]
pub(super) struct Watch<S> {
    inner: S,
    panics: Panics,
}

struct WatchedRequest {
    inner: Body,
    broken: Broken,
}

struct WatchedBody {
    inner: Body,
    panics: Panics,
    trailers: Option<HeaderMap>,
    reset: bool,
}

impl WatchLayer {
    pub(super) fn new(panics: Panics) -> Self {
        Self { panics }
    }
}

impl<S> Layer<S> for WatchLayer {
    type Service = Watch<S>;

    fn layer(&self, inner: S) -> Watch<S> {
        let panics = self.panics.clone();
        Watch { inner, panics }
    }
}

impl<S> Service<Request<Body>> for Watch<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Future: Send + 'static>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        if !request.headers().contains_key(COMPRESS_HEADER) {
            request.headers_mut().remove("grpc-accept-encoding");
        }
        let broken = Broken::default();
        request.extensions_mut().insert(broken.clone());
        let request = request.map(|inner| Body::new(WatchedRequest { inner, broken }));
        let panics = self.panics.clone();
        let call = AssertUnwindSafe(self.inner.call(request)).catch_unwind();
        Box::pin(async move {
            match call.await {
                Ok(answered) => answered.map(|response| watched(response, panics)),
                Err(panic) => Ok(record(&panics, panic.as_ref()).into_http()),
            }
        })
    }
}

fn watched(mut response: Response<Body>, panics: Panics) -> Response<Body> {
    let trailers = response.extensions_mut().remove::<Trailers>();
    let reset = response.extensions_mut().remove::<ResetAtEnd>();
    response.map(|inner| {
        Body::new(WatchedBody {
            inner,
            panics,
            trailers: trailers.map(|Trailers(trailers)| trailers),
            reset: reset.is_some(),
        })
    })
}

fn record(panics: &Panics, panic: &(dyn Any + Send)) -> Status {
    let text = panic.downcast_ref::<&str>().map(|text| (*text).to_owned());
    let text = text.or_else(|| panic.downcast_ref::<String>().cloned());
    let text = text.unwrap_or_else(|| "something that is no text".to_owned());
    let mut panics = panics.lock().unwrap_or_else(PoisonError::into_inner);
    panics.push(text.clone());
    Status::internal(format!("the handler panicked: {text}"))
}

impl Broken {
    pub(super) fn is_broken(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }
}

impl HttpBody for WatchedRequest {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let polled = Pin::new(&mut self.inner).poll_frame(context);
        if let Poll::Ready(Some(Err(_))) = &polled {
            self.broken.0.store(true, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl HttpBody for WatchedBody {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let inner = &mut self.inner;
        let polled =
            std::panic::catch_unwind(AssertUnwindSafe(|| Pin::new(inner).poll_frame(context)));
        let frame = match polled {
            Ok(Poll::Pending) => return Poll::Pending,
            Ok(Poll::Ready(frame)) => frame,
            Err(panic) => Some(Err(record(&self.panics, panic.as_ref()))),
        };
        Poll::Ready(frame.map(|frame| self.at_end(frame?)))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

impl WatchedBody {
    fn at_end(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BoxError> {
        match frame.into_trailers() {
            Err(data) => Ok(data),
            Ok(_) if self.reset => Err(h2::Error::from(h2::Reason::CANCEL).into()),
            Ok(mut trailers) => {
                trailers.extend(self.trailers.take().unwrap_or_default());
                Ok(Frame::trailers(trailers))
            }
        }
    }
}

//! The app behind the callee's sidecar: it answers a `Call` of the benchmark's services with the
//! bytes that it brings, as they come, so that bulk fills both directions at once; a `Take` with an
//! empty message once it has read all, as who keeps a copy of a log does; all others with
//! `UNIMPLEMENTED`.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Empty, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use std::future::ready;
use std::io;
use tokio::net::TcpListener;

use crate::{http2, message};

/// The package of the services that are called.
const PREFIX: &str = "/sidelane.bench.";
/// How the path ends of what is read and not sent back.
const TAKE: &str = "/Take";
const STATUS: HeaderName = HeaderName::from_static("grpc-status");

/// Serves until the listener fails.
pub(super) async fn serve(listener: TcpListener) -> io::Result<()> {
    let http = http2::server();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A broken connection is the caller's to report: it counts the calls that failed.
        tokio::spawn(http.serve_connection(TokioIo::new(stream), service_fn(answer)));
    }
}

async fn answer(
    request: Request<Incoming>,
) -> Result<Response<BoxBody<Bytes, hyper::Error>>, hyper::Error> {
    // A sidecar may ask for health, which is not served: an echo would be a wrong answer.
    let ours = request.uri().path().starts_with(PREFIX);
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(
        STATUS,
        HeaderValue::from_static(if ours { "0" } else { "12" }),
    );
    let trailers = ready(Some(Ok(trailers)));
    let body = if ours && request.uri().path().ends_with(TAKE) {
        let mut taken = request.into_body();
        while let Some(frame) = taken.frame().await {
            frame?;
        }
        let empty = Full::new(message::frame(0)).map_err(|never| match never {});
        empty.with_trailers(trailers).boxed()
    } else if ours {
        request.into_body().with_trailers(trailers).boxed()
    } else {
        let nothing = Empty::new().map_err(|never| match never {});
        nothing.with_trailers(trailers).boxed()
    };
    let mut response = Response::new(body);
    response.headers_mut().insert(CONTENT_TYPE, message::GRPC);
    Ok(response)
}

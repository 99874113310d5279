//! The echo server at the end of every way, a process of its own: reads a message whole and gives
//! the same bytes back as a gRPC answer. It is hyper and nothing above it, so that what it costs
//! stays small beside what is measured, and it must never copy a payload.

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response};
use http_body_util::BodyExt as _;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::io;
use tokio::net::TcpListener;

use crate::body::MessageBody;
use crate::{http2, message};

const GRPC_STATUS: HeaderName = HeaderName::from_static("grpc-status");
const OK: HeaderValue = HeaderValue::from_static("0");
const UNIMPLEMENTED: HeaderValue = HeaderValue::from_static("12");

/// Serves until the listener fails.
pub(crate) async fn serve(listener: TcpListener) -> io::Result<()> {
    let http = http2::server();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        // A broken connection is the caller's to report: it counts the calls that failed.
        tokio::spawn(http.serve_connection(TokioIo::new(stream), service_fn(answer)));
    }
}

async fn answer(request: Request<Incoming>) -> Result<Response<MessageBody>, hyper::Error> {
    // A sidecar may ask for grpc.health.v1: an echo would be a wrong answer, this is a true one.
    if request.uri().path() != message::PATH {
        let mut response = Response::new(MessageBody::default());
        response.headers_mut().insert(CONTENT_TYPE, message::GRPC);
        response.headers_mut().insert(GRPC_STATUS, UNIMPLEMENTED);
        return Ok(response);
    }
    let mut incoming = request.into_body();
    let mut echoed = MessageBody::default();
    while let Some(frame) = incoming.frame().await {
        if let Ok(data) = frame?.into_data() {
            echoed.push(data);
        }
    }
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, OK);
    let mut response = Response::new(echoed.with_trailers(trailers));
    response.headers_mut().insert(CONTENT_TYPE, message::GRPC);
    Ok(response)
}

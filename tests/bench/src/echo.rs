//! The echo server at the end of every way, a process of its own: gives the bytes that it reads
//! back as a gRPC answer, whole, many times over, or as they come. It is hyper and nothing above
//! it, so that what it costs stays small beside what is measured, and it must never copy a payload.

use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::{Request, Response};
use http_body::{Body, Frame};
use http_body_util::{BodyExt as _, Collected};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
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

async fn answer(request: Request<Incoming>) -> Result<Response<Answer>, hyper::Error> {
    let (head, incoming) = request.into_parts();
    let mut messages = 1;
    match head.uri.path() {
        message::CHAT => return Ok(response(Answer::Back(incoming, Some(trailers())))),
        message::UNARY => {}
        message::EXPAND => {
            let asked = head.headers.get(message::MESSAGES);
            let asked = asked.and_then(|asked| asked.to_str().ok()?.parse().ok());
            messages = asked.unwrap_or(messages);
        }
        // A sidecar may ask for grpc.health.v1: an echo would be a wrong answer, this is a true one.
        _ => {
            let mut response = response(Answer::Whole(MessageBody::default()));
            response.headers_mut().insert(GRPC_STATUS, UNIMPLEMENTED);
            return Ok(response);
        }
    }
    let echoed = read(incoming).await?;
    let echoed = if messages == 1 {
        echoed
    } else {
        let message = echoed
            .collect()
            .await
            .map(Collected::to_bytes)
            .unwrap_or_default();
        MessageBody::repeated(message, messages)
    };
    Ok(response(Answer::Whole(echoed.with_trailers(trailers()))))
}

/// The frames of a message, as they came.
async fn read(mut incoming: Incoming) -> Result<MessageBody, hyper::Error> {
    let mut echoed = MessageBody::default();
    while let Some(frame) = incoming.frame().await {
        if let Ok(data) = frame?.into_data() {
            echoed.push(data);
        }
    }
    Ok(echoed)
}

fn response(answer: Answer) -> Response<Answer> {
    let mut response = Response::new(answer);
    response.headers_mut().insert(CONTENT_TYPE, message::GRPC);
    response
}

fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::with_capacity(1);
    trailers.insert(GRPC_STATUS, OK);
    trailers
}

/// The body of an answer.
enum Answer {
    /// What is already here.
    Whole(MessageBody),
    /// What comes, as it comes, and then trailers.
    Back(Incoming, Option<HeaderMap>),
}

impl Body for Answer {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Whole(body) => match ready!(Pin::new(body).poll_frame(context)) {
                Some(Ok(frame)) => Poll::Ready(Some(Ok(frame))),
                // The error of what cannot fail.
                Some(Err(never)) => match never {},
                None => Poll::Ready(None),
            },
            Self::Back(incoming, trailers) => {
                if let Some(frame) = ready!(Pin::new(incoming).poll_frame(context)) {
                    return Poll::Ready(Some(frame));
                }
                Poll::Ready(
                    trailers
                        .take()
                        .map(|trailers| Ok(Frame::trailers(trailers))),
                )
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Whole(body) => body.is_end_stream(),
            Self::Back(_, trailers) => trailers.is_none(),
        }
    }
}

//! Where HTTP/2 streams and tonic meet: a received stream as a body, a connection as a tonic
//! transport, a tonic service answering on a stream; and the PINGs of both ends of a link. Passed-through calls do not come here;
//! they move frames (see `forward`).

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::request::Parts;
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};

use crate::details;
use crate::lane::LaneSettings;

/// A received stream, as a body.
#[derive(Debug)]
pub struct ReceivedBody {
    stream: RecvStream,
    data_done: bool,
}

impl ReceivedBody {
    /// The body of a message whose head was read.
    #[must_use]
    pub fn new(stream: RecvStream) -> Self {
        Self {
            stream,
            data_done: false,
        }
    }
}

/// What tonic can read of trailers.
fn readable(mut trailers: HeaderMap) -> HeaderMap {
    details::strip_unreadable(&mut trailers);
    trailers
}

impl Body for ReceivedBody {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_done {
            match std::task::ready!(self.stream.poll_data(context)) {
                Some(Ok(data)) => {
                    let released = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(released.map(|()| Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_done = true,
            }
        }
        let trailers = std::task::ready!(self.stream.poll_trailers(context));
        Poll::Ready(
            trailers
                .transpose()
                .map(|trailers| trailers.map(readable).map(Frame::trailers)),
        )
    }

    fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }
}

/// A connection as a tonic transport: every generated client works over it.
#[derive(Debug, Clone)]
pub struct Transport {
    sender: SendRequest<Bytes>,
}

/// What a call over a [`Transport`] fails with.
type BoxError = Box<dyn std::error::Error + Send + Sync>;

impl Transport {
    /// Over this connection.
    #[must_use]
    pub fn new(sender: SendRequest<Bytes>) -> Self {
        Self { sender }
    }
}

impl tower_service::Service<Request<tonic::body::Body>> for Transport {
    type Response = Response<ReceivedBody>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.sender.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, request: Request<tonic::body::Body>) -> Self::Future {
        let (mut parts, body) = request.into_parts();
        // Generated clients know no authority; HTTP/2 needs one beside the scheme.
        let path = parts.uri.path_and_query().cloned();
        let uri = http::Uri::builder().scheme("http").authority("sidelane");
        let uri = uri
            .path_and_query(path.map_or("/".to_owned(), |path| path.to_string()))
            .build();
        let mut sender = self.sender.clone();
        Box::pin(async move {
            parts.uri = uri?;
            parts.version = http::Version::HTTP_2;
            poll_fn(|context| sender.poll_ready(context)).await?;
            let (response, stream) = sender.send_request(Request::from_parts(parts, ()), false)?;
            send_body(body, stream).await?;
            let mut response = response.await?;
            details::strip_unreadable(response.headers_mut());
            Ok(response.map(ReceivedBody::new))
        })
    }
}

/// Answers a request on an HTTP/2 stream with a tonic service, which is dropped when its caller
/// goes away.
///
/// # Errors
/// The stream broke; the caller is gone.
pub async fn serve<Service>(
    mut service: Service,
    parts: Parts,
    body: RecvStream,
    mut respond: SendResponse<Bytes>,
) -> Result<(), BoxError>
where
    Service: tower_service::Service<
            Request<tonic::body::Body>,
            Response = Response<tonic::body::Body>,
            Error = std::convert::Infallible,
        >,
{
    let body = tonic::body::Body::new(ReceivedBody::new(body));
    let mut answer = std::pin::pin!(service.call(Request::from_parts(parts, body)));
    let answered = poll_fn(|context| {
        if let Poll::Ready(reset) = respond.poll_reset(context) {
            return Poll::Ready(Err(reset));
        }
        answer.as_mut().poll(context).map(Ok)
    });
    let response = match answered.await {
        Ok(Ok(response)) => response,
        Err(Ok(reason)) => return Err(format!("the call was reset: {reason:?}").into()),
        Err(Err(error)) => return Err(error.into()),
    };
    let (mut head, body) = response.into_parts();
    head.version = http::Version::HTTP_2;
    let end = body.is_end_stream();
    let stream = respond.send_response(Response::from_parts(head, ()), end)?;
    if end {
        return Ok(());
    }
    send_body(body, stream).await
}

/// Sends a PING as often as the lane says. Ready, with how long was waited, when one was not
/// answered in time; never otherwise: a connection that ends says so itself.
pub async fn silent(pings: &mut h2::PingPong, settings: &LaneSettings) -> Duration {
    loop {
        tokio::time::sleep(settings.ping_every).await;
        if pings.send_ping(h2::Ping::opaque()).is_err() {
            return std::future::pending().await;
        }
        let pong = poll_fn(|context| pings.poll_pong(context));
        match tokio::time::timeout(settings.ping_timeout, pong).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => return std::future::pending().await,
            Err(_) => return settings.ping_timeout,
        }
    }
}

/// Sends a body, never more than the other side has room for.
async fn send_body(
    mut body: tonic::body::Body,
    mut stream: SendStream<Bytes>,
) -> Result<(), BoxError> {
    loop {
        // A body may wait for something to happen; its reader may go away meanwhile.
        let next = poll_fn(|context| {
            if let Poll::Ready(reset) = stream.poll_reset(context) {
                return Poll::Ready(Err(reset));
            }
            Pin::new(&mut body).poll_frame(context).map(Ok)
        });
        let frame = match next.await {
            Ok(Some(frame)) => frame,
            Ok(None) => break,
            Err(Ok(reason)) => return Err(format!("the stream was reset: {reason:?}").into()),
            Err(Err(error)) => return Err(error.into()),
        };
        match frame?.into_data() {
            Ok(mut data) => {
                while !data.is_empty() {
                    stream.reserve_capacity(data.len());
                    let room = match poll_fn(|context| stream.poll_capacity(context)).await {
                        Some(room) => room?,
                        None => return Err("the stream was closed".into()),
                    };
                    stream.send_data(data.split_to(room.min(data.len())), false)?;
                }
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    stream.send_trailers(trailers)?;
                    return Ok(());
                }
            }
        }
    }
    stream.send_data(Bytes::new(), true)?;
    Ok(())
}

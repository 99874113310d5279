//! The body of a gRPC message on its way out: DATA frames that are already there, and trailers
//! when it is an answer. It tells hyper no length, so that no `content-length` is sent, as gRPC
//! libraries send none; it must never copy a payload.

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::pin::Pin;
use std::task::{Context, Poll};

/// Frames to be sent in order, then the trailers if there are any.
#[derive(Default)]
pub(crate) struct MessageBody {
    // Apart from the rest, so that the usual body of one frame allocates nothing.
    first: Option<Bytes>,
    // How often the first is sent again.
    again: u32,
    rest: VecDeque<Bytes>,
    trailers: Option<HeaderMap>,
}

impl MessageBody {
    /// One frame and no trailers: a request.
    pub(crate) fn once(frame: Bytes) -> Self {
        Self {
            first: Some(frame),
            ..Self::default()
        }
    }

    /// The same frame so many times.
    pub(crate) fn repeated(frame: Bytes, times: u32) -> Self {
        Self {
            first: (times > 0).then_some(frame),
            again: times.saturating_sub(1),
            ..Self::default()
        }
    }

    /// Adds a frame behind the others.
    pub(crate) fn push(&mut self, frame: Bytes) {
        if self.first.is_none() {
            self.first = Some(frame);
        } else {
            self.rest.push_back(frame);
        }
    }

    /// Ends the body with these trailers.
    #[must_use]
    pub(crate) fn with_trailers(mut self, trailers: HeaderMap) -> Self {
        self.trailers = Some(trailers);
        self
    }
}

impl Body for MessageBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let data = if self.again > 0 {
            self.again -= 1;
            self.first.clone()
        } else {
            self.first.take().or_else(|| self.rest.pop_front())
        };
        Poll::Ready(match data {
            Some(data) => Some(Ok(Frame::data(data))),
            None => self
                .trailers
                .take()
                .map(|trailers| Ok(Frame::trailers(trailers))),
        })
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_empty() && self.trailers.is_none()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt as _;

    #[tokio::test]
    async fn frames_come_in_order_and_trailers_last() {
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        let mut body = MessageBody::default();
        for piece in ["one", "two", "three"] {
            body.push(Bytes::from_static(piece.as_bytes()));
        }
        let mut body = body.with_trailers(trailers);
        for piece in ["one", "two", "three"] {
            let frame = body.frame().await.unwrap().unwrap();
            assert_eq!(frame.into_data().unwrap(), piece);
        }
        assert!(!body.is_end_stream(), "the trailers are still to come");
        let last = body
            .frame()
            .await
            .unwrap()
            .unwrap()
            .into_trailers()
            .unwrap();
        assert_eq!(last["grpc-status"], "0");
        assert!(body.is_end_stream());
        assert!(body.frame().await.is_none());
    }

    #[tokio::test]
    async fn a_frame_is_repeated_as_often_as_it_says() {
        for times in [0, 1, 3] {
            let mut body = MessageBody::repeated(Bytes::from_static(b"again"), times);
            for _ in 0..times {
                assert!(!body.is_end_stream());
                let frame = body.frame().await.unwrap().unwrap();
                assert_eq!(frame.into_data().unwrap(), "again");
            }
            assert!(body.is_end_stream());
            assert!(body.frame().await.is_none());
        }
    }

    #[tokio::test]
    async fn a_request_ends_with_its_only_frame() {
        let mut body = MessageBody::once(Bytes::from_static(b"only"));
        assert!(body.size_hint().exact().is_none(), "no content-length");
        assert!(!body.is_end_stream());
        body.frame().await.unwrap().unwrap();
        assert!(body.is_end_stream());
    }
}

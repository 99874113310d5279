//! A request that was read whole, once more: for an attempt beside the one that reads it from the
//! caller. It shares the bytes that are kept for attempts one after the other, and takes no window
//! of the caller's.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::SendStream;
use http::HeaderMap;

use super::upload::UploadError;

/// One more attempt's way through a request.
#[derive(Debug)]
pub struct Replay {
    pub(super) kept: Vec<Bytes>,
    pub(super) trailers: Option<HeaderMap>,
    /// How many of `kept` were begun.
    pub(super) sent: usize,
    /// The rest of the last of them.
    pub(super) chunk: Bytes,
    /// The end was sent.
    pub(super) finished: bool,
}

impl Replay {
    /// The whole request, from its beginning.
    pub(super) fn new(kept: Vec<Bytes>, trailers: Option<HeaderMap>) -> Self {
        Self {
            // An empty one ends with its head.
            finished: kept.is_empty() && trailers.is_none(),
            kept,
            trailers,
            sent: 0,
            chunk: Bytes::new(),
        }
    }

    /// The request has no body at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty() && self.trailers.is_none()
    }

    /// Sends what can be sent. Ready when the whole request has left. It is at most what is kept for
    /// another attempt, so it need not give way to others.
    pub(super) fn poll(
        &mut self,
        to: &mut SendStream<Bytes>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), UploadError>> {
        while !self.finished {
            if !self.chunk.is_empty() {
                to.reserve_capacity(self.chunk.len());
                let room = match to.capacity() {
                    0 => match ready!(to.poll_capacity(context)) {
                        Some(Ok(room)) => room,
                        Some(Err(_)) | None => return Poll::Ready(Err(UploadError::Callee)),
                    },
                    room => room,
                };
                let part = self.chunk.split_to(room.min(self.chunk.len()));
                let last = self.chunk.is_empty() && self.sent == self.kept.len();
                let end = last && self.trailers.is_none();
                if !part.is_empty() {
                    to.send_data(part, end).map_err(|_| UploadError::Callee)?;
                    self.finished = end;
                }
            } else if let Some(chunk) = self.kept.get(self.sent) {
                self.chunk = chunk.clone();
                self.sent += 1;
            } else {
                let end = match &self.trailers {
                    Some(trailers) => to.send_trailers(trailers.clone()),
                    None => to.send_data(Bytes::new(), true),
                };
                end.map_err(|_| UploadError::Callee)?;
                self.finished = true;
            }
        }
        Poll::Ready(Ok(()))
    }
}

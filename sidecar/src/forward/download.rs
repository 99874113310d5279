//! The answer's way: from the callee's stream to the caller's.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;

use super::{FRAMES_A_POLL, ForwardError};
use crate::patience::{Patience, Wait};
use crate::telemetry::Stall;
use crate::turns::give_way;

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Download {
    from: RecvStream,
    chunk: Bytes,
    data_done: bool,
    /// Whether the caller has no room, for its lane's figures.
    stall: Stall,
    /// How long it may have none, where that has a bound.
    patience: Option<Patience>,
    /// Since it has none.
    wait: Option<Wait>,
}

/// Why an answer stopped.
#[derive(Debug)]
pub(super) enum Stop {
    /// The callee's side broke.
    Callee(ForwardError),
    /// The caller is gone.
    Caller,
    /// The caller is there, and takes nothing.
    Stalled,
}

impl Download {
    pub(super) fn new(from: RecvStream, stall: Stall, patience: Option<Patience>) -> Self {
        Self {
            from,
            chunk: Bytes::new(),
            data_done: false,
            stall,
            patience,
            wait: None,
        }
    }

    /// Sends what can be sent. Ready with the trailers, once all data has left.
    pub(super) fn poll(
        &mut self,
        to: &mut SendStream<Bytes>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Option<HeaderMap>, Stop>> {
        for _ in 0..FRAMES_A_POLL {
            if !self.chunk.is_empty() {
                ready!(self.poll_send_chunk(to, context))?;
            } else if self.data_done {
                let trailers = ready!(self.from.poll_trailers(context));
                return Poll::Ready(trailers.map_err(|error| Stop::Callee(error.into())));
            } else {
                match ready!(self.from.poll_data(context)) {
                    Some(Ok(data)) => self.chunk = data,
                    Some(Err(error)) => return Poll::Ready(Err(Stop::Callee(error.into()))),
                    None => self.data_done = true,
                }
            }
        }
        // Others on this thread want to run, too.
        give_way(context);
        Poll::Pending
    }

    fn poll_send_chunk(
        &mut self,
        to: &mut SendStream<Bytes>,
        context: &mut Context<'_>,
    ) -> Poll<Result<(), Stop>> {
        to.reserve_capacity(self.chunk.len());
        let mut room = to.capacity();
        if room == 0 {
            room = match to.poll_capacity(context) {
                Poll::Ready(Some(Ok(room))) => room,
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(Stop::Caller)),
                Poll::Pending => {
                    self.stall.begins();
                    return self.poll_patience(context);
                }
            };
        }
        self.stall.ends();
        self.wait = None;
        let part = self.chunk.split_to(room.min(self.chunk.len()));
        if !part.is_empty() {
            let length = part.len();
            to.send_data(part, false).map_err(|_| Stop::Caller)?;
            // Only now may the callee send as much again: this is the backpressure. It fails
            // only where the stream is over, which the next read tells.
            let _ = self.from.flow_control().release_capacity(length);
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the caller has had no room for as long as it may.
    fn poll_patience(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Stop>> {
        let Some(patience) = &self.patience else {
            return Poll::Pending;
        };
        let wait = self.wait.get_or_insert_with(|| patience.wait());
        ready!(wait.poll_over(context));
        Poll::Ready(Err(Stop::Stalled))
    }
}

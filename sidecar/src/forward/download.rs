//! The answer's way: from the callee's stream to the caller's.

use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::HeaderMap;

use super::messages::Messages;
use super::{FRAMES_A_POLL, ForwardError};
use crate::edge::SEND_BUFFER;
use crate::edge::room::Share;
use crate::patience::{Patience, Wait};
use crate::telemetry::{Carried, Full, Stall};
use crate::turns::give_way;

/// An answer on its way.
#[derive(Debug)]
pub(super) struct Download {
    from: RecvStream,
    chunk: Bytes,
    data_done: bool,
    /// Whether the caller has no room, for its lane's figures.
    stall: Stall,
    /// What is allowed to it, where that has a bound.
    taker: Option<Taker>,
    /// Since it has none.
    wait: Option<Wait>,
    /// Something came since this was asked last.
    moved: bool,
    /// Where it is in its messages.
    messages: Messages,
}

/// A caller from outside the mesh: how long it may take nothing, and what is held for it until then.
#[derive(Debug)]
pub struct Taker {
    /// With those who take nothing.
    pub patience: Patience,
    /// Counts what is held; for longer than the answer takes to be given to its connection.
    pub share: Arc<Mutex<Share>>,
    /// Bytes that were given to its connection, up to what that holds of one answer.
    pub given: usize,
}

impl Taker {
    /// Counts what its connection may hold of the answer, and `more`. Exact is only the bound: the
    /// connection does not say how much has left.
    fn holds(&mut self, more: usize) -> Result<(), Full> {
        let mut share = self.share.lock().unwrap_or_else(PoisonError::into_inner);
        share.hold(self.given.min(SEND_BUFFER) + more)
    }
}

impl Drop for Taker {
    /// From now on the connection alone holds something.
    fn drop(&mut self) {
        // No more than it was with the last piece.
        let _ = self.holds(0);
    }
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
    /// There was no room for the answer for as long as a caller may take nothing.
    Full(Full),
}

impl Download {
    pub(super) fn new(from: RecvStream, stall: Stall, taker: Option<Taker>) -> Self {
        Self {
            from,
            chunk: Bytes::new(),
            data_done: false,
            stall,
            taker,
            wait: None,
            moved: false,
            messages: Messages::default(),
        }
    }

    /// Has something come since this was asked last?
    pub(super) fn has_moved(&mut self) -> bool {
        std::mem::take(&mut self.moved)
    }

    /// What has come so far.
    pub(super) const fn carried(&self) -> Carried {
        self.messages.carried()
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
                    Some(Ok(data)) => {
                        // Of any size.
                        let _ = self.messages.read(&data);
                        (self.chunk, self.moved) = (data, true);
                    }
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
        if let Some(taker) = &mut self.taker
            && let Err(full) = taker.holds(self.chunk.len())
        {
            // As one who takes nothing: it is asked again soon, until its patience is over.
            return self.poll_patience(context, Stop::Full(full));
        }
        to.reserve_capacity(self.chunk.len());
        let mut room = to.capacity();
        if room == 0 {
            room = match to.poll_capacity(context) {
                Poll::Ready(Some(Ok(room))) => room,
                Poll::Ready(Some(Err(_)) | None) => return Poll::Ready(Err(Stop::Caller)),
                Poll::Pending => {
                    self.stall.begins();
                    return self.poll_patience(context, Stop::Stalled);
                }
            };
        }
        self.stall.ends();
        self.wait = None;
        let part = self.chunk.split_to(room.min(self.chunk.len()));
        if !part.is_empty() {
            let length = part.len();
            to.send_data(part, false).map_err(|_| Stop::Caller)?;
            if let Some(taker) = &mut self.taker {
                taker.given = taker.given.saturating_add(length);
            }
            // Only now may the callee send as much again: this is the backpressure. It fails
            // only where the stream is over, which the next read tells.
            let _ = self.from.flow_control().release_capacity(length);
        }
        Poll::Ready(Ok(()))
    }

    /// Ready when the caller has had no room for as long as it may.
    fn poll_patience(&mut self, context: &mut Context<'_>, stop: Stop) -> Poll<Result<(), Stop>> {
        let Some(taker) = &self.taker else {
            return Poll::Pending;
        };
        let wait = self.wait.get_or_insert_with(|| taker.patience.wait());
        ready!(wait.poll_over(context));
        Poll::Ready(Err(stop))
    }
}

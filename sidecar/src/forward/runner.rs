//! One attempt of a call from its request's head to the first word of its callee: the request goes up
//! while the answer is awaited. A call has one of them, or several beside each other where it is
//! hedged.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;
use h2::server::SendResponse;

use super::clock::Ring;
use super::replay::Replay;
use super::upload::{Upload, UploadError};
use super::{Answer, Clock};

/// One attempt that is under way. Dropped, it is cancelled.
#[derive(Debug)]
pub struct Runner {
    to: SendStream<Bytes>,
    response: ResponseFuture,
    /// The request; `None` for the attempt that reads it from the caller. In a box, since few have
    /// one.
    replay: Option<Box<Replay>>,
    /// The request has left, or nobody takes it any more.
    sent: bool,
}

/// What was heard first.
#[derive(Debug)]
pub enum Heard {
    /// This of the attempt at this place.
    Of(usize, Answer),
    /// The caller left, its time is over, or it sends what is not taken.
    GivenUp(Answer),
}

/// A word of one attempt.
pub(super) enum Word {
    /// Its callee's.
    Callee(Answer),
    /// Its caller's, to all attempts: it left, or sends what is not taken.
    Caller(Answer),
}

impl Runner {
    /// An attempt that was begun.
    #[must_use]
    pub fn new(to: SendStream<Bytes>, response: ResponseFuture, replay: Option<Replay>) -> Self {
        Self {
            to,
            response,
            replay: replay.map(Box::new),
            sent: false,
        }
    }

    /// The attempt counts: what is left of its request goes on from here.
    #[must_use]
    pub fn wins(self, upload: &mut Upload) -> SendStream<Bytes> {
        if let Some(replay) = self.replay {
            upload.adopt(*replay);
        }
        self.to
    }

    /// Waits for the answer's head. `None` when the clock rang before the call's time is over: it may
    /// be called again then.
    pub async fn answer(
        &mut self,
        upload: &mut Upload,
        caller: &mut SendResponse<Bytes>,
        clock: &mut Clock,
    ) -> Option<Answer> {
        poll_fn(|context| {
            if let Poll::Ready(Word::Callee(answer) | Word::Caller(answer)) =
                self.poll(upload, context)
            {
                return Poll::Ready(Some(answer));
            }
            if caller.poll_reset(context).is_ready() {
                return Poll::Ready(Some(Answer::CallerGone));
            }
            if let Poll::Ready(ring) = clock.poll(context) {
                return Poll::Ready(match ring {
                    Ring::Early => None,
                    Ring::Deadline => Some(Answer::DeadlineOver),
                });
            }
            let quiet = upload.poll_quiet(context);
            quiet.map(|error| Some(Answer::Failed(error)))
        })
        .await
    }

    pub(super) fn poll(&mut self, upload: &mut Upload, context: &mut Context<'_>) -> Poll<Word> {
        if !self.sent {
            let sent = match &mut self.replay {
                Some(replay) => replay.poll(&mut self.to, context),
                None => upload.poll(&mut self.to, context),
            };
            match sent {
                // A callee that takes no more has answered already, or its error is on its way.
                Poll::Ready(Ok(()) | Err(UploadError::Callee)) => self.sent = true,
                Poll::Ready(Err(UploadError::Caller)) => {
                    return Poll::Ready(Word::Caller(Answer::CallerGone));
                }
                Poll::Ready(Err(UploadError::Refused(error))) => {
                    return Poll::Ready(Word::Caller(Answer::Failed(error)));
                }
                Poll::Pending => {}
            }
        }
        let answer = Pin::new(&mut self.response).poll(context);
        answer.map(|answer| {
            Word::Callee(match answer {
                Ok(answer) => Answer::Begun(answer),
                Err(error) => Answer::Failed(error.into()),
            })
        })
    }
}

/// Waits for the first word of any of these. It may be dropped and called again.
pub async fn race(
    upload: &mut Upload,
    runners: impl Iterator<Item = &mut Runner>,
    caller: &mut SendResponse<Bytes>,
    clock: &mut Clock,
) -> Heard {
    let mut runners: Vec<&mut Runner> = runners.collect();
    poll_fn(|context| {
        for (index, runner) in runners.iter_mut().enumerate() {
            match runner.poll(upload, context) {
                Poll::Ready(Word::Callee(answer)) => {
                    return Poll::Ready(Heard::Of(index, answer));
                }
                Poll::Ready(Word::Caller(answer)) => return Poll::Ready(Heard::GivenUp(answer)),
                Poll::Pending => {}
            }
        }
        if caller.poll_reset(context).is_ready() {
            return Poll::Ready(Heard::GivenUp(Answer::CallerGone));
        }
        if clock.is_over(context) {
            return Poll::Ready(Heard::GivenUp(Answer::DeadlineOver));
        }
        let quiet = upload.poll_quiet(context);
        quiet.map(|error| Heard::GivenUp(Answer::Failed(error)))
    })
    .await
}

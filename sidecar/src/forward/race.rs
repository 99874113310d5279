//! Several attempts of one call at once: their requests go up while the first word of any of them is
//! awaited. Which of them counts is for whoever waits to say.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use h2::SendStream;
use h2::client::ResponseFuture;
use h2::server::SendResponse;

use super::replay::Replay;
use super::upload::{Upload, UploadError};
use super::{Answer, Clock, ForwardError};

/// One attempt that is under way. Dropped, it is cancelled.
#[derive(Debug)]
pub struct Runner {
    to: SendStream<Bytes>,
    response: ResponseFuture,
    /// The request; `None` for the attempt that reads it from the caller.
    replay: Option<Replay>,
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

impl Runner {
    /// An attempt that was begun.
    #[must_use]
    pub fn new(to: SendStream<Bytes>, response: ResponseFuture, replay: Option<Replay>) -> Self {
        Self {
            to,
            response,
            replay,
            sent: false,
        }
    }

    /// The attempt counts: what is left of its request goes on from here.
    #[must_use]
    pub fn wins(self, upload: &mut Upload) -> SendStream<Bytes> {
        if let Some(replay) = self.replay {
            upload.adopt(replay);
        }
        self.to
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
            if !runner.sent {
                let sent = match &mut runner.replay {
                    Some(replay) => replay.poll(&mut runner.to, context),
                    None => upload.poll(&mut runner.to, context),
                };
                match sent {
                    // A callee that takes no more has answered already, or its error is on its way.
                    Poll::Ready(Ok(()) | Err(UploadError::Callee)) => runner.sent = true,
                    Poll::Ready(Err(UploadError::Caller)) => {
                        return Poll::Ready(Heard::GivenUp(Answer::CallerGone));
                    }
                    Poll::Ready(Err(UploadError::TooLarge(error))) => {
                        let error = ForwardError::TooLarge(error);
                        return Poll::Ready(Heard::GivenUp(Answer::Failed(error)));
                    }
                    Poll::Pending => {}
                }
            }
            if let Poll::Ready(answer) = Pin::new(&mut runner.response).poll(context) {
                let answer = match answer {
                    Ok(answer) => Answer::Begun(answer),
                    Err(error) => Answer::Failed(error.into()),
                };
                return Poll::Ready(Heard::Of(index, answer));
            }
        }
        if caller.poll_reset(context).is_ready() {
            return Poll::Ready(Heard::GivenUp(Answer::CallerGone));
        }
        let over = clock
            .as_mut()
            .is_some_and(|clock| clock.as_mut().poll(context).is_ready());
        if over {
            Poll::Ready(Heard::GivenUp(Answer::DeadlineOver))
        } else {
            Poll::Pending
        }
    })
    .await
}

//! One attempt of one call: the request goes up while the answer is awaited, then both go on
//! until the answer's end. Whoever waits here also watches the caller and the clock.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::Poll;

use bytes::Bytes;
use h2::client::ResponseFuture;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Response};
use tokio::time::Sleep;

use super::ForwardError;
use super::download::{Download, Stop};
use super::upload::{Upload, UploadError};
use crate::patience::Patience;
use crate::telemetry::Stall;

/// A call's clock, where it has a deadline.
pub type Clock = Option<Pin<Box<Sleep>>>;

/// How the wait for an answer ended.
#[derive(Debug)]
pub enum Answer {
    /// With an answer's head.
    Begun(Response<RecvStream>),
    /// With an error of the callee's side.
    Failed(ForwardError),
    /// The caller went away.
    CallerGone,
    /// The call's time is over.
    DeadlineOver,
}

/// How an answer that had begun ended.
#[derive(Debug)]
pub enum End {
    /// In good order, with these trailers. They are still to be sent.
    Trailers(HeaderMap),
    /// Without trailers.
    NoTrailers,
    /// The callee's side broke.
    Failed(ForwardError),
    /// The caller went away.
    CallerGone,
    /// The caller took nothing for as long as it may.
    CallerStalled,
    /// The call's time is over.
    DeadlineOver,
}

/// Sends the request and waits for the answer's head.
pub async fn await_answer(
    upload: &mut Upload,
    to: &mut SendStream<Bytes>,
    mut response: ResponseFuture,
    caller: &mut SendResponse<Bytes>,
    clock: &mut Clock,
) -> Answer {
    let mut uploading = true;
    poll_fn(|context| {
        if uploading && let Poll::Ready(sent) = upload.poll(to, context) {
            match sent {
                // A callee that takes no more has answered already, or its error is on its way.
                Ok(()) | Err(UploadError::Callee) => uploading = false,
                Err(UploadError::Caller) => return Poll::Ready(Answer::CallerGone),
                Err(UploadError::TooLarge(error)) => {
                    return Poll::Ready(Answer::Failed(ForwardError::TooLarge(error)));
                }
            }
        }
        if let Poll::Ready(answer) = Pin::new(&mut response).poll(context) {
            return Poll::Ready(match answer {
                Ok(answer) => Answer::Begun(answer),
                Err(error) => Answer::Failed(error.into()),
            });
        }
        if caller.poll_reset(context).is_ready() {
            return Poll::Ready(Answer::CallerGone);
        }
        let over = clock
            .as_mut()
            .is_some_and(|clock| clock.as_mut().poll(context).is_ready());
        if over {
            Poll::Ready(Answer::DeadlineOver)
        } else {
            Poll::Pending
        }
    })
    .await
}

/// Streams the rest of the answer, and of the request where it goes on. `stall` counts in the
/// caller's lane; `patience` says how long the caller may take nothing, where that has a bound.
pub async fn stream_answer(
    upload: &mut Upload,
    to: &mut SendStream<Bytes>,
    answer: RecvStream,
    (caller, stall, patience): (&mut SendStream<Bytes>, Stall, Option<Patience>),
    clock: &mut Clock,
) -> End {
    upload.commit();
    let mut download = Download::new(answer, stall, patience);
    let mut uploading = true;
    poll_fn(|context| {
        if uploading && let Poll::Ready(sent) = upload.poll(to, context) {
            match sent {
                Ok(()) | Err(UploadError::Callee) => uploading = false,
                Err(UploadError::Caller) => return Poll::Ready(End::CallerGone),
                Err(UploadError::TooLarge(error)) => {
                    return Poll::Ready(End::Failed(ForwardError::TooLarge(error)));
                }
            }
        }
        if let Poll::Ready(ended) = download.poll(caller, context) {
            return Poll::Ready(match ended {
                Ok(Some(trailers)) => End::Trailers(trailers),
                Ok(None) => End::NoTrailers,
                Err(Stop::Callee(error)) => End::Failed(error),
                Err(Stop::Caller) => End::CallerGone,
                Err(Stop::Stalled) => End::CallerStalled,
            });
        }
        if caller.poll_reset(context).is_ready() {
            return Poll::Ready(End::CallerGone);
        }
        let over = clock
            .as_mut()
            .is_some_and(|clock| clock.as_mut().poll(context).is_ready());
        if over {
            Poll::Ready(End::DeadlineOver)
        } else {
            Poll::Pending
        }
    })
    .await
}

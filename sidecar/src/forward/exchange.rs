//! How an answer begins, and one that has begun up to its end: what is left of the request goes up
//! beside it. Whoever waits here also watches the caller and the clock.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use h2::{RecvStream, SendStream};
use http::{HeaderMap, Response};

use super::download::{Download, Stop, Taker};
use super::upload::{Upload, UploadError};
use super::{Clock, ForwardError};
use crate::telemetry::Stall;

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

/// Streams the rest of the answer, and of the request where it goes on. `stall` counts in the
/// caller's lane; `taker` says how long the caller may take nothing and how much may be held for it,
/// where that has a bound.
pub async fn stream_answer(
    upload: &mut Upload,
    to: &mut SendStream<Bytes>,
    answer: RecvStream,
    (caller, stall, taker): (&mut SendStream<Bytes>, Stall, Option<Taker>),
    clock: &mut Clock,
) -> End {
    upload.commit();
    upload.moved();
    let mut download = Download::new(answer, stall, taker);
    let mut uploading = true;
    poll_fn(|context| {
        if uploading && let Poll::Ready(sent) = upload.poll(to, context) {
            match sent {
                Ok(()) | Err(UploadError::Callee) => uploading = false,
                Err(UploadError::Caller) => return Poll::Ready(End::CallerGone),
                Err(UploadError::Refused(error)) => return Poll::Ready(End::Failed(error)),
            }
        }
        let polled = download.poll(caller, context);
        if download.has_moved() {
            upload.answered(download.carried());
            upload.moved();
        }
        if let Poll::Ready(ended) = polled {
            return Poll::Ready(match ended {
                Ok(Some(trailers)) => End::Trailers(trailers),
                Ok(None) => End::NoTrailers,
                Err(Stop::Callee(error)) => End::Failed(error),
                Err(Stop::Caller) => End::CallerGone,
                Err(Stop::Stalled) => End::CallerStalled,
                Err(Stop::Full(full)) => End::Failed(ForwardError::NoRoom(full)),
            });
        }
        if caller.poll_reset(context).is_ready() {
            return Poll::Ready(End::CallerGone);
        }
        if clock.is_over(context) {
            return Poll::Ready(End::DeadlineOver);
        }
        upload.poll_quiet(context).map(End::Failed)
    })
    .await
}

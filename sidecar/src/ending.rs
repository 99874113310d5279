//! Ends a call that no callee answered: with a failure, with a peer's refusal, or because its
//! caller gave up. `stack` decides which; here the caller is told and the guard is.

use std::future::poll_fn;
use std::task::Poll;

use bytes::Bytes;
use h2::server::SendResponse;
use http::StatusCode;

use crate::deliver::{Delivery, Refusal};
use crate::reason::{Processed, Reason};
use crate::respond::Failure;
use crate::telemetry::{CallGuard, Outcome};

/// The caller goes away, or its time is over, while a way is looked for.
pub(crate) async fn given_up(delivery: &mut Delivery<'_>) -> GivenUp {
    poll_fn(|context| {
        if delivery.respond.poll_reset(context).is_ready() {
            return Poll::Ready(GivenUp::CallerGone);
        }
        if delivery.clock.is_over(context) {
            Poll::Ready(GivenUp::DeadlineOver)
        } else {
            Poll::Pending
        }
    })
    .await
}

/// How a call ends that nobody had taken yet.
#[derive(Clone, Copy)]
pub(crate) enum GivenUp {
    CallerGone,
    DeadlineOver,
}

/// Ends a call that was given up while nobody had it. `processed` is what is known of attempts
/// before.
pub(crate) fn finish(
    guard: &CallGuard,
    delivery: &mut Delivery<'_>,
    given_up: GivenUp,
    processed: Processed,
) {
    match given_up {
        GivenUp::CallerGone => guard.ended(Outcome::Cancelled),
        GivenUp::DeadlineOver => {
            let path = delivery.head.uri.path();
            let failure = Failure::deadline(path, delivery.arrived.elapsed(), processed);
            refuse_at_last(guard, delivery, Refusal::Ours(failure));
        }
    }
}

/// Ends a call with what the last attempt said.
pub(crate) fn refuse_at_last(guard: &CallGuard, delivery: &mut Delivery<'_>, refusal: Refusal) {
    match refusal {
        Refusal::Ours(failure) => {
            let told = delivery.outside.is_some();
            let told = told.then(|| delivery.head.uri.path());
            end_of(guard, delivery.respond, failure, told);
        }
        Refusal::Peers(response) => guard.ended(delivery.answer(response)),
    }
}

/// Ends a call with a failure.
pub(crate) fn end(guard: &CallGuard, respond: &mut SendResponse<Bytes>, failure: Failure) {
    end_of(guard, respond, failure, None);
}

/// The same, and where the call of this path comes from outside, its caller is not told all of it:
/// its span is for those who run the mesh, and says what the failure is.
pub(crate) fn end_of(
    guard: &CallGuard,
    respond: &mut SendResponse<Bytes>,
    failure: Failure,
    outside: Option<&str>,
) {
    guard
        .span()
        .refused(failure.code, failure.reason, &failure.text);
    if let Some(followed) = guard.followed() {
        followed.failed(failure.code, &failure.text);
    }
    let failure = match outside {
        Some(path) => failure.for_user(path),
        None => failure,
    };
    guard.ended(match send_failure(respond, failure) {
        Ok(reason) => Outcome::Failed(reason),
        Err(CallerGone) => Outcome::Cancelled,
    });
}

/// The caller cannot be answered any more.
pub(crate) struct CallerGone;

/// Answers without a body, or, for plain HTTP, with the failure's text.
pub(crate) fn send_failure(
    respond: &mut SendResponse<Bytes>,
    failure: Failure,
) -> Result<Reason, CallerGone> {
    let reason = failure.reason;
    let text = failure
        .plain
        .map(|_| Bytes::from(format!("{}\n", failure.text)));
    let response = failure.into_response();
    let sent = respond
        .send_response(response, text.is_none())
        .map_err(|_| CallerGone)?;
    if let Some(text) = text {
        let mut stream = sent;
        stream.send_data(text, true).map_err(|_| CallerGone)?;
    }
    Ok(reason)
}

/// The failure as plain HTTP says it.
pub(crate) fn as_http(failure: Failure) -> Failure {
    let status = match failure.reason {
        Reason::Deadline => StatusCode::GATEWAY_TIMEOUT,
        Reason::LaneFull => StatusCode::SERVICE_UNAVAILABLE,
        Reason::Loop => StatusCode::LOOP_DETECTED,
        _ => StatusCode::BAD_GATEWAY,
    };
    Failure {
        plain: Some(status),
        ..failure
    }
}

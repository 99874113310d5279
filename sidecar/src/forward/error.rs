//! What can befall a call that was sent.

use std::time::Duration;

use h2::Reason;
use http::StatusCode;
use tonic::Code;

use super::messages::TooLarge;
use crate::reason::Processed;
use crate::telemetry::Full;

/// The callee's stream ended in the wrong way.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ForwardError {
    /// The stream was reset by the other side.
    #[error("the stream was reset with {0:?}{hint}", hint = if *.0 == Reason::REFUSED_STREAM { ", before the call was looked at" } else { "" })]
    Reset(Reason),
    /// The connection is going away, and this call was not looked at.
    #[error("the connection was going away, the call was not looked at")]
    GoingAway,
    /// The connection broke.
    #[error("the connection broke while the call was open ({0}); it may have run")]
    Broken(String),
    /// The answer broke a rule or a bound of HTTP/2, so that this side ended the stream.
    #[error(
        "the answer could not be taken ({0:?}): it breaks the rules of HTTP/2, or a bound, such as \
         64 KiB of headers; the call may have run"
    )]
    Unreadable(Reason),
    /// A message of the request is larger than is taken from its caller.
    #[error("{0}; the call may have run with what came before")]
    TooLarge(TooLarge),
    /// Nothing moved on a call from outside for as long as that may be.
    #[error("nothing moved on the call for {} s, and no longer is waited from outside; it may have run", .0.as_secs())]
    Quiet(Duration),
    /// There is no room left for what a call from outside brings and nobody takes.
    #[error("too much is held for calls from outside ({}); it may have run", .0.label())]
    NoRoom(Full),
    /// The answer ended without a status.
    #[error("the answer ended without a status; it may have run")]
    Unfinished,
    /// The answer is one of HTTP, not of gRPC, and has no body.
    #[error("the answer has no gRPC status, only {0} of HTTP; it may have run")]
    NoStatus(StatusCode),
}

impl ForwardError {
    /// May the callee have seen the call?
    #[must_use]
    pub fn processed(&self) -> Processed {
        match self {
            Self::Reset(Reason::REFUSED_STREAM) | Self::GoingAway => Processed::No,
            _ => Processed::Maybe,
        }
    }

    /// Is it the caller's own doing, wherever the call went?
    #[must_use]
    pub fn is_callers(&self) -> bool {
        matches!(self, Self::TooLarge(_) | Self::Quiet(_) | Self::NoRoom(_))
    }

    /// Was it the connection that was lost, rather than this call alone?
    #[must_use]
    pub fn is_loss(&self) -> bool {
        matches!(self, Self::Broken(_))
    }

    /// The gRPC status, as the protocol maps HTTP/2 error codes ("gRPC over HTTP/2", Errors).
    #[must_use]
    pub fn code(&self) -> Code {
        match self {
            Self::Reset(Reason::CANCEL) => Code::Cancelled,
            Self::Reset(Reason::ENHANCE_YOUR_CALM) | Self::TooLarge(_) | Self::NoRoom(_) => {
                Code::ResourceExhausted
            }
            Self::Quiet(_) => Code::DeadlineExceeded,
            Self::Reset(Reason::INADEQUATE_SECURITY) => Code::PermissionDenied,
            Self::Reset(Reason::REFUSED_STREAM) | Self::GoingAway | Self::Broken(_) => {
                Code::Unavailable
            }
            Self::Reset(_) | Self::Unreadable(_) => Code::Internal,
            Self::Unfinished => Code::Unavailable,
            Self::NoStatus(status) => of_http(*status),
        }
    }
}

/// The gRPC status for an answer of HTTP ("HTTP to gRPC Status Code Mapping"), and for too many
/// headers, which HTTP/2 layers answer by themselves.
fn of_http(status: StatusCode) -> Code {
    match status.as_u16() {
        400 | 431 => Code::Internal,
        401 => Code::Unauthenticated,
        403 => Code::PermissionDenied,
        404 => Code::Unimplemented,
        429 | 502 | 503 | 504 => Code::Unavailable,
        _ => Code::Unknown,
    }
}

impl From<h2::Error> for ForwardError {
    fn from(error: h2::Error) -> Self {
        if error.is_go_away() && error.is_remote() {
            // h2 ends only those streams with the peer's GOAWAY that are above its last id.
            return Self::GoingAway;
        }
        match error.reason() {
            Some(reason) if error.is_reset() && error.is_remote() => Self::Reset(reason),
            Some(reason) if error.is_reset() && error.is_library() => Self::Unreadable(reason),
            _ => Self::Broken(error.to_string()),
        }
    }
}

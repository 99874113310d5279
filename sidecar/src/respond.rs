//! The only map from errors to gRPC statuses. Each failure that the mesh makes has a reason from
//! the public contract, a text that a person can act on, and says whether the call may have been
//! processed.

use std::fmt;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::{Response, StatusCode};
use sidelane_proto::model::{ConnectionClass, Lane};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

use crate::admission::NotAdmitted;
use crate::authorization::NotAuthorized;
use crate::balance::PickError;
use crate::call::{CallError, ERROR_HEADER, PUSHBACK_HEADER};
use crate::classify::ClassifyError;
use crate::details;
use crate::forward::ForwardError;
use crate::pool::PoolError;
use crate::reason::{Processed, Reason};
use crate::telemetry::trace::{Why, name_of};

pub mod users;

/// The domain of every `google.rpc.ErrorInfo` that the mesh makes.
pub const DOMAIN: &str = "sidelane.dev";

/// A failure that the mesh made.
#[derive(Debug, Clone)]
pub struct Failure {
    /// The machine-readable reason.
    pub reason: Reason,
    /// The gRPC status; usually the reason's own.
    pub code: Code,
    /// What was asked, what was known, what to try.
    pub text: String,
    /// May the callee have seen the call?
    pub processed: Processed,
    /// Not before this long should it be tried again.
    pub pushback: Option<Duration>,
    /// Plain HTTP asked: the answer is plain HTTP, with this status.
    pub plain: Option<StatusCode>,
    /// It is told to somebody outside the mesh, who has no use for its reasons: see [`users`].
    pub outside: bool,
}

impl Failure {
    /// As a span says it.
    pub(crate) fn as_why(&self) -> Why<'_> {
        Why {
            status: name_of(self.code),
            reason: Some(self.reason.name()),
            text: &self.text,
        }
    }

    /// A failure before delivery: the call was not processed.
    #[must_use]
    pub fn refused(reason: Reason, text: impl Into<String>) -> Self {
        Self {
            reason,
            code: reason.code(),
            text: text.into(),
            processed: Processed::No,
            pushback: None,
            plain: None,
            outside: false,
        }
    }

    /// The call's time is over.
    #[must_use]
    pub fn deadline(path: &str, waited: Duration, processed: Processed) -> Self {
        let text = format!(
            "{path}: the call's time was over after {} ms; give it more, or see /metrics of both \
             sidecars for where the time goes",
            waited.as_millis()
        );
        Self {
            processed,
            ..Self::refused(Reason::Deadline, text)
        }
    }

    /// The answer without a body.
    #[must_use]
    pub fn into_response(self) -> Response<()> {
        let mut response = Response::new(());
        if let Some(status) = self.plain {
            *response.status_mut() = status;
            let headers = response.headers_mut();
            headers.insert(
                CONTENT_TYPE,
                HeaderValue::from_static("text/plain; charset=utf-8"),
            );
            if !self.outside {
                headers.insert(ERROR_HEADER, HeaderValue::from_static(self.reason.name()));
            }
            return response;
        }
        let headers = response.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        self.write_to(headers);
        response
    }

    /// The answer's trailers, where its headers have left already.
    #[must_use]
    pub fn into_trailers(self) -> HeaderMap {
        let mut trailers = HeaderMap::with_capacity(8);
        self.write_to(&mut trailers);
        trailers
    }

    fn status(&self) -> Status {
        if self.outside {
            return Status::new(self.code, self.text.clone());
        }
        let processed = match self.processed {
            Processed::No => "no",
            Processed::Maybe => "maybe",
        };
        let metadata = [("processed".to_owned(), processed.to_owned())];
        let details = ErrorDetails::with_error_info(self.reason.name(), DOMAIN, metadata);
        Status::with_error_details(self.code, self.text.clone(), details)
    }

    fn write_to(&self, headers: &mut HeaderMap) {
        let status = self.status();
        if status.add_header(headers).is_err() {
            // Only a text that cannot be a header value leads here; the code always can.
            headers.insert(
                crate::call::STATUS_HEADER,
                HeaderValue::from(i32::from(self.code)),
            );
        }
        if !self.outside {
            headers.insert(ERROR_HEADER, HeaderValue::from_static(self.reason.name()));
        }
        if let Some(pushback) = self.pushback {
            let milliseconds = u64::try_from(pushback.as_millis()).unwrap_or(u64::MAX);
            headers.insert(PUSHBACK_HEADER, HeaderValue::from(milliseconds));
        }
    }
}

/// Reads from a peer sidecar's refusal whether the call may have been processed. `None`: it is no
/// refusal by the mesh.
#[must_use]
pub fn peer_refusal(headers: &HeaderMap) -> Option<Processed> {
    headers.get(ERROR_HEADER)?;
    if !details::are_readable(headers) {
        return None;
    }
    let info = Status::from_header_map(headers)?.get_details_error_info()?;
    (info.domain == DOMAIN).then(
        || match info.metadata.get("processed").map(String::as_str) {
            Some("no") => Processed::No,
            _ => Processed::Maybe,
        },
    )
}

/// Says a peer sidecar that the call is meant to fail: see [`Reason::is_meant`].
#[must_use]
pub fn is_meant(headers: &HeaderMap) -> bool {
    let reason = headers.get(ERROR_HEADER).map(HeaderValue::as_bytes);
    Reason::MEANT
        .iter()
        .any(|meant| reason == Some(meant.name().as_bytes()))
}

/// Says a peer sidecar that the caller may not make the call?
#[must_use]
pub fn is_denied(headers: &HeaderMap) -> bool {
    let reason = headers.get(ERROR_HEADER).map(HeaderValue::as_bytes);
    reason == Some(Reason::NotAuthorized.name().as_bytes())
}

/// Says a peer sidecar that it lost the callee while the call was open?
#[must_use]
pub fn is_peer_reset(headers: &HeaderMap) -> bool {
    let reason = headers.get(ERROR_HEADER).map(HeaderValue::as_bytes);
    reason == Some(Reason::PeerReset.name().as_bytes()) && peer_refusal(headers).is_some()
}

/// Says a peer sidecar that its app does not answer? Read where it is known to be a refusal.
pub fn is_unreached(headers: &HeaderMap) -> bool {
    let reason = headers.get(ERROR_HEADER).map(HeaderValue::as_bytes);
    reason == Some(Reason::ConnectFailed.name().as_bytes())
}

impl From<CallError> for Failure {
    fn from(error: CallError) -> Self {
        let plain = match &error {
            CallError::Method(_) => Some(StatusCode::NOT_IMPLEMENTED),
            CallError::ContentType(_) => Some(StatusCode::UNSUPPORTED_MEDIA_TYPE),
            _ => None,
        };
        let reason = match &error {
            CallError::Lane { .. } => Reason::LaneRefused,
            CallError::Rule(_) => Reason::RulesMismatch,
            _ => Reason::NotGrpc,
        };
        Self {
            plain,
            ..Self::refused(reason, error.to_string())
        }
    }
}

impl From<ClassifyError> for Failure {
    fn from(error: ClassifyError) -> Self {
        let reason = match &error {
            ClassifyError::UnknownService { .. } | ClassifyError::NoRule { .. } => {
                Reason::UnknownService
            }
            ClassifyError::NotBeside { .. } => Reason::UnknownNode,
            ClassifyError::LaneRefused { .. } | ClassifyError::WrongListener { .. } => {
                Reason::LaneRefused
            }
            ClassifyError::NotSecure { .. } => Reason::NotSecure,
            ClassifyError::NotExposed { .. } => Reason::NotExposed,
            ClassifyError::RulesMismatch { .. }
            | ClassifyError::CallersRule { .. }
            | ClassifyError::CallersStrategy { .. } => Reason::RulesMismatch,
        };
        Self::refused(reason, error.to_string())
    }
}

/// Whom an attempt goes to, for errors: they are read on the caller's node, so an app's names the
/// node that it is beside.
#[derive(Debug, Clone, Copy)]
pub enum Callee<'a> {
    /// The sidecar of this node.
    Peer(&'a str),
    /// The app beside the sidecar of this node.
    App(&'a str),
    /// Where a call was meant to go before it came to this sidecar.
    Destination(&'a str),
}

impl fmt::Display for Callee<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Peer(node) => formatter.write_str(node),
            Self::App(node) => write!(formatter, "the local service of {node}"),
            Self::Destination(address) => write!(formatter, "its destination {address}"),
        }
    }
}

/// A pick that failed, for the service it was about.
#[must_use]
pub fn pick_failure(service: &str, error: &PickError) -> Failure {
    let reason = match error {
        PickError::UnknownNode { .. } | PickError::MustNameNode { .. } => Reason::UnknownNode,
        PickError::NodeGone { .. } => Reason::NodeGone,
        PickError::RulesMismatch { .. } => Reason::RulesMismatch,
        PickError::BreakerOpen { .. } => Reason::BreakerOpen,
        _ => Reason::NoEndpoint,
    };
    Failure::refused(reason, format!("{service}: {error}"))
}

/// A link that was not to be had, for the node and lane it was about.
#[must_use]
pub fn pool_failure(
    service: &str,
    callee: Callee<'_>,
    (class, lane): (ConnectionClass, Lane),
    error: &PoolError,
) -> Failure {
    let text = match callee {
        Callee::Destination(_) => format!("{service} on {callee}: {error}"),
        _ => format!("{service} on {callee} ({class}, lane {lane}): {error}"),
    };
    match error {
        PoolError::LaneFull { .. } | PoolError::TooManyDestinations => Failure {
            pushback: Some(Duration::from_millis(100)),
            ..Failure::refused(Reason::LaneFull, text)
        },
        PoolError::Connect { error, .. } if error.is_loop() => Failure::refused(Reason::Loop, text),
        PoolError::Connect { .. } | PoolError::Closed => {
            Failure::refused(Reason::ConnectFailed, text)
        }
    }
}

/// A call that its rule does not admit.
#[must_use]
pub fn admission_failure(service: &str, error: &NotAdmitted) -> Failure {
    let text = format!("{service}: {error}");
    match error {
        NotAdmitted::Limited { wait, .. } => Failure {
            pushback: Some(whole_milliseconds(*wait)),
            ..Failure::refused(Reason::RateLimited, text)
        },
        NotAdmitted::Overloaded { concurrency, .. } => Failure {
            pushback: Some(concurrency.longest_wait),
            ..Failure::refused(Reason::Overloaded, text)
        },
        NotAdmitted::Injected { status, .. } => Failure {
            code: i32::try_from(*status).map_or(Code::Unknown, Code::from),
            ..Failure::refused(Reason::FaultInjected, text)
        },
    }
}

/// A call that its caller may not make.
#[must_use]
pub fn authorization_failure(error: &NotAuthorized) -> Failure {
    Failure::refused(Reason::NotAuthorized, error.to_string())
}

/// Rounded up: who comes back a little too early is refused once more.
fn whole_milliseconds(time: Duration) -> Duration {
    let milliseconds = time.as_nanos().div_ceil(1_000_000);
    Duration::from_millis(u64::try_from(milliseconds).unwrap_or(u64::MAX))
}

/// A call that was sent and did not come back.
#[must_use]
pub fn forward_failure(service: &str, callee: Callee<'_>, error: &ForwardError) -> Failure {
    let text = format!("{service} on {callee}: {error}");
    let reason = match error {
        ForwardError::TooLarge(_) => Reason::MessageTooLarge,
        ForwardError::Quiet(_) => Reason::Deadline,
        ForwardError::NoRoom(_) => Reason::Overloaded,
        _ => Reason::PeerReset,
    };
    Failure {
        code: error.code(),
        processed: error.processed(),
        ..Failure::refused(reason, text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_whose_details_cannot_be_read_says_nothing() {
        let mut headers = Failure::refused(Reason::NoEndpoint, "none").into_trailers();
        assert_eq!(peer_refusal(&headers), Some(Processed::No));
        headers.insert(details::DETAILS_HEADER, HeaderValue::from_static("ES"));
        assert_eq!(peer_refusal(&headers), None);
    }

    #[test]
    fn a_failure_carries_status_reason_and_details() {
        let failure = Failure {
            pushback: Some(Duration::from_millis(40)),
            ..Failure::refused(Reason::LaneFull, "größer")
        };
        let response = failure.into_response();
        let headers = response.headers();
        assert_eq!(headers["content-type"], "application/grpc");
        assert_eq!(headers["grpc-status"], "8");
        assert_eq!(headers["grpc-message"], "gr%C3%B6%C3%9Fer");
        assert_eq!(headers["sidelane-error"], "LANE_FULL");
        assert_eq!(headers["grpc-retry-pushback-ms"], "40");
        let status = Status::from_header_map(headers).unwrap();
        let info = status.get_details_error_info().unwrap();
        assert_eq!(
            (info.reason.as_str(), info.domain.as_str()),
            ("LANE_FULL", "sidelane.dev")
        );
        assert_eq!(peer_refusal(headers), Some(Processed::No));
    }

    #[test]
    fn a_call_whose_time_is_over_is_asked_nowhere_else() {
        for reason in Reason::ALL {
            let response = Failure::refused(reason, "so").into_response();
            let meant = is_meant(response.headers());
            assert_eq!(meant, reason.is_meant(), "{reason:?}");
        }
        let path = "/shop.v1.Orders/Get";
        let late = Failure::deadline(path, Duration::from_secs(1), Processed::No);
        assert!(is_meant(late.into_response().headers()));
    }

    #[test]
    fn a_peers_refusal_says_whether_the_call_may_have_run() {
        let maybe = Failure {
            processed: Processed::Maybe,
            ..Failure::refused(Reason::PeerReset, "gone")
        };
        assert_eq!(peer_refusal(&maybe.into_trailers()), Some(Processed::Maybe));
        assert_eq!(peer_refusal(&HeaderMap::new()), None);
        let mut forged = HeaderMap::new();
        forged.insert(ERROR_HEADER, HeaderValue::from_static("NO_ENDPOINT"));
        assert_eq!(peer_refusal(&forged), None);
    }

    #[test]
    fn pushback_is_rounded_up() {
        let rounded = |nanoseconds| whole_milliseconds(Duration::from_nanos(nanoseconds));
        assert_eq!(rounded(1), Duration::from_millis(1));
        assert_eq!(rounded(2_000_000), Duration::from_millis(2));
        assert_eq!(rounded(2_000_001), Duration::from_millis(3));
    }

    #[test]
    fn plain_http_gets_a_plain_answer() {
        let failure = Failure::from(CallError::Method(http::Method::GET));
        let response = failure.into_response();
        assert_eq!(response.status(), StatusCode::NOT_IMPLEMENTED);
        assert!(response.headers().get("grpc-status").is_none());
    }
}

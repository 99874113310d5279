//! What users hear of failures. The inside of the mesh is none of their business: which nodes,
//! addresses, rules and other services there are, and whether one that they asked for is there and
//! not for them. What they are told is what they asked for, what they may do, and whether it may
//! have run; the rest is in this sidecar's metrics and in its log.

use http::header::{HeaderMap, HeaderValue};
use tonic::Code;

use super::{Failure, peer_refusal};
use crate::call::{ERROR_HEADER, PUSHBACK_HEADER, STATUS_HEADER, strip_mesh_headers};
use crate::reason::{Processed, Reason};

/// Without it, what a failure's details say of it.
const DETAILS: &str = "grpc-status-details-bin";
const MESSAGE: &str = "grpc-message";

impl Failure {
    /// As its caller may hear of it.
    #[must_use]
    pub fn told(self, outside: bool, path: &str) -> Self {
        if outside { self.for_user(path) } else { self }
    }

    /// As somebody outside the mesh may hear of it.
    #[must_use]
    pub fn for_user(self, path: &str) -> Self {
        let service = path.trim_start_matches('/');
        let service = service.split('/').next().unwrap_or(service);
        let text = match self.reason {
            // It says what the user sent, and what a call looks like.
            Reason::NotGrpc => self.text,
            Reason::UnknownService | Reason::NotExposed => {
                return Self {
                    text: format!("{service}: there is no such service here"),
                    outside: true,
                    ..Self::refused(Reason::UnknownService, "")
                };
            }
            Reason::Deadline => {
                format!("{path}: the call's time was over, or nothing moved on it for too long")
            }
            Reason::NotAuthorized => format!("{path}: not authorized"),
            Reason::RateLimited | Reason::Overloaded | Reason::LaneFull => {
                format!("{service}: there are too many calls; try again later")
            }
            Reason::MessageTooLarge => {
                format!("{service}: a message of the request is larger than is taken here")
            }
            _ if self.processed == Processed::No => {
                format!("{service}: it cannot be called now; try again later")
            }
            _ => format!("{service}: the call broke off, and may have run"),
        };
        Self {
            text,
            outside: true,
            ..self
        }
    }
}

/// Makes the headers or trailers of an answer what somebody outside may see. What an app answered
/// stays as it is: its own headers of the mesh were taken out where it answered, so whatever says
/// that the mesh made it, the mesh made.
pub fn tell(headers: &mut HeaderMap, path: &str) {
    let Some(reason) = headers.get(ERROR_HEADER) else {
        if headers
            .keys()
            .any(|name| name.as_str().starts_with("sidelane-"))
        {
            strip_mesh_headers(headers);
        }
        return;
    };
    let known = Reason::ALL
        .into_iter()
        .find(|known| known.name().as_bytes() == reason.as_bytes());
    let status = headers.get(STATUS_HEADER).and_then(|status| {
        let status: i32 = status.to_str().ok()?.parse().ok()?;
        Some(Code::from(status))
    });
    let pushback = headers.get(PUSHBACK_HEADER).cloned();
    let reason = known.unwrap_or(Reason::PeerReset);
    let failure = Failure {
        code: status.unwrap_or(reason.code()),
        processed: peer_refusal(headers).unwrap_or(Processed::Maybe),
        ..Failure::refused(reason, "")
    };
    strip_mesh_headers(headers);
    headers.remove(DETAILS);
    headers.remove(MESSAGE);
    failure.for_user(path).write_to(headers);
    if let Some(pushback) = pushback {
        headers.insert::<http::HeaderName>(PUSHBACK_HEADER, HeaderValue::clone(&pushback));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATH: &str = "/shop.v1.Front/Visit";
    /// What a user must not read anywhere.
    const INSIDE: &str = "orders-1 at 10.0.0.7:15006, shop.v1.Stock, rules.yaml:3";

    #[test]
    fn no_failure_says_what_is_inside() {
        for reason in Reason::ALL {
            if reason == Reason::NotGrpc {
                continue;
            }
            for processed in [Processed::No, Processed::Maybe] {
                let failure = Failure {
                    processed,
                    ..Failure::refused(reason, INSIDE)
                };
                let told = failure.clone().for_user(PATH);
                assert!(!told.text.contains("orders-1"), "{told:?}");
                assert!(told.text.contains("shop.v1.Front"), "{told:?}");
                // A peer says the same of it.
                let mut headers = failure.into_trailers();
                tell(&mut headers, PATH);
                let shown = format!("{headers:?}");
                assert!(!shown.contains("orders-1"), "{shown}");
                let names: Vec<&str> = headers.keys().map(http::HeaderName::as_str).collect();
                assert_eq!(names, ["grpc-status", "grpc-message"]);
                assert_eq!(headers, told.into_trailers());
            }
        }
    }

    #[test]
    fn what_is_not_for_users_looks_as_if_it_did_not_exist() {
        let said = |reason| {
            let failure = Failure::refused(reason, INSIDE);
            failure.for_user(PATH).into_trailers()
        };
        assert_eq!(said(Reason::NotExposed), said(Reason::UnknownService));
    }

    #[test]
    fn when_to_come_again_is_kept_and_an_apps_own_words_are() {
        let mut headers = Failure::refused(Reason::RateLimited, INSIDE).into_trailers();
        headers.insert(PUSHBACK_HEADER, HeaderValue::from_static("40"));
        tell(&mut headers, PATH);
        assert_eq!(headers[PUSHBACK_HEADER], "40");
        let mut own = HeaderMap::new();
        own.insert("grpc-status", HeaderValue::from_static("5"));
        own.insert("grpc-message", HeaderValue::from_static("no such order"));
        let before = own.clone();
        tell(&mut own, PATH);
        assert_eq!(own, before);
    }
}

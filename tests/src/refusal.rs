//! Failures that the mesh itself made, as a caller sees them: status, `sidelane-error` and the
//! `google.rpc.ErrorInfo`. Reading one checks that the three agree, so that a test that compares a
//! [`Refusal`] has compared all of the contract.

use http::{HeaderMap, StatusCode};
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::client::RawAnswer;

/// The header in which the mesh names its reason.
pub const ERROR_HEADER: &str = "sidelane-error";
/// The domain of every `ErrorInfo` that the mesh makes.
pub const DOMAIN: &str = "sidelane.dev";

/// A failure that the mesh made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The machine-readable reason.
    pub reason: String,
    /// The gRPC status.
    pub code: Code,
    /// `no` or `maybe`: whether the call may have been processed.
    pub processed: String,
    /// The message for people.
    pub text: String,
}

impl Refusal {
    /// A failure before delivery.
    #[must_use]
    pub fn new(reason: &str, code: Code, text: impl Into<String>) -> Self {
        Self {
            reason: reason.to_owned(),
            code,
            processed: "no".to_owned(),
            text: text.into(),
        }
    }

    /// The same, of a call that may have been processed.
    #[must_use]
    pub fn that_may_have_run(self) -> Self {
        let processed = "maybe".to_owned();
        Self { processed, ..self }
    }

    /// Reads it from an answer.
    ///
    /// # Panics
    /// If the answer is not a gRPC failure made by the mesh, or its parts contradict each other.
    #[must_use]
    pub fn of(answer: &RawAnswer) -> Self {
        assert_eq!(answer.status, StatusCode::OK, "{answer:?}");
        assert_eq!(
            answer.headers["content-type"], "application/grpc",
            "{answer:?}"
        );
        let carrier = answer.trailers.as_ref().unwrap_or(&answer.headers);
        Self::read(carrier).unwrap_or_else(|why| panic!("{why}: {answer:?}"))
    }

    /// Reads it from what a gRPC library made of an answer.
    ///
    /// # Panics
    /// As [`Refusal::of`].
    #[must_use]
    pub fn of_status(status: &Status) -> Self {
        let headers = status.metadata().clone().into_headers();
        Self::parts(status, &headers).unwrap_or_else(|why| panic!("{why}: {status:?}"))
    }

    fn read(headers: &HeaderMap) -> Result<Self, String> {
        let status = Status::from_header_map(headers).ok_or("no grpc-status")?;
        Self::parts(&status, headers)
    }

    fn parts(status: &Status, headers: &HeaderMap) -> Result<Self, String> {
        let named = headers
            .get(ERROR_HEADER)
            .ok_or_else(|| format!("no {ERROR_HEADER}"))?;
        let info = status.get_details_error_info().ok_or("no ErrorInfo")?;
        if info.domain != DOMAIN {
            return Err(format!("the domain is `{}`", info.domain));
        }
        if named != info.reason.as_str() {
            let reason = &info.reason;
            return Err(format!(
                "{ERROR_HEADER} says {named:?}, the details {reason}"
            ));
        }
        let processed = info.metadata.get("processed");
        let processed = processed.ok_or("the details do not say whether it was processed")?;
        Ok(Self {
            reason: info.reason.clone(),
            code: status.code(),
            processed: processed.clone(),
            text: status.message().to_owned(),
        })
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;
    use tonic_types::ErrorDetails;

    use super::*;

    fn headers(domain: &str, reason: &'static str) -> HeaderMap {
        let metadata = [("processed".to_owned(), "maybe".to_owned())];
        let details = ErrorDetails::with_error_info("PEER_RESET", domain, metadata);
        let status = Status::with_error_details(Code::Unavailable, "gone", details);
        let mut headers = HeaderMap::new();
        status.add_header(&mut headers).unwrap();
        headers.insert(ERROR_HEADER, HeaderValue::from_static(reason));
        headers
    }

    #[test]
    fn a_refusal_is_read_from_headers() {
        let expected = Refusal::new("PEER_RESET", Code::Unavailable, "gone").that_may_have_run();
        assert_eq!(Refusal::read(&headers(DOMAIN, "PEER_RESET")), Ok(expected));
    }

    #[test]
    fn what_is_none_or_contradicts_itself_is_told() {
        let mut bare = HeaderMap::new();
        assert_eq!(Refusal::read(&bare), Err("no grpc-status".to_owned()));
        bare.insert("grpc-status", HeaderValue::from_static("14"));
        assert_eq!(Refusal::read(&bare), Err("no sidelane-error".to_owned()));
        let foreign = Refusal::read(&headers("example.com", "PEER_RESET"));
        assert_eq!(foreign, Err("the domain is `example.com`".to_owned()));
        let other = Refusal::read(&headers(DOMAIN, "LOOP")).unwrap_err();
        assert_eq!(
            other,
            "sidelane-error says \"LOOP\", the details PEER_RESET"
        );
    }
}

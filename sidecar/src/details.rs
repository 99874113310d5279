//! The details of a status, as the other side has sent them. tonic takes for granted that they are
//! base64, and panics where they are not; so they are looked at before it reads any.

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use http::header::{HeaderMap, HeaderName};

/// Where a status has its details (gRPC over HTTP/2, "Status-Details").
pub(crate) const DETAILS_HEADER: HeaderName = HeaderName::from_static("grpc-status-details-bin");

/// With padding or without: both are seen.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &base64::alphabet::STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// Can they be read, where there are any?
#[must_use]
pub(crate) fn are_readable(headers: &HeaderMap) -> bool {
    let details = headers.get(DETAILS_HEADER);
    details.is_none_or(|details| BASE64.decode(details.as_bytes()).is_ok())
}

/// Takes out those that cannot be read.
pub(crate) fn strip_unreadable(headers: &mut HeaderMap) {
    if !are_readable(headers) {
        headers.remove(DETAILS_HEADER);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use tonic::Status;

    #[test]
    fn what_is_no_base64_is_taken_out_and_the_rest_is_read() {
        for (text, readable) in [
            ("CAESAA==", true),
            ("CAESAA", true),
            ("", true),
            ("ES", false),
            ("CAES!", false),
            ("C", false),
        ] {
            let mut headers = HeaderMap::new();
            headers.insert("grpc-status", HeaderValue::from_static("14"));
            headers.insert(DETAILS_HEADER, HeaderValue::from_static(text));
            assert_eq!(are_readable(&headers), readable, "{text}");
            strip_unreadable(&mut headers);
            assert_eq!(headers.contains_key(DETAILS_HEADER), readable, "{text}");
            let status = Status::from_header_map(&headers).unwrap();
            assert_eq!(status.code(), tonic::Code::Unavailable);
        }
    }
}

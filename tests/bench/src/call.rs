//! One call from its request to its trailers, with what is verified of the answer: status and
//! length. It is the load generator's inner loop and must not allocate for a good answer.

use http::{HeaderMap, StatusCode};
use http_body_util::BodyExt as _;
use hyper::client::conn::http2::SendRequest;
use std::io;
use thiserror::Error;

use crate::body::MessageBody;
use crate::message::EchoCall;

/// What a connection is to the load generator.
pub(crate) type Sender = SendRequest<MessageBody>;

/// Why a call does not count as answered.
#[derive(Debug, Error)]
pub(crate) enum CallError {
    /// There was no connection to make it on.
    #[error("no connection")]
    Connect(#[source] io::Error),
    /// The connection or the stream broke.
    #[error("the call broke off")]
    Broken(#[from] hyper::Error),
    /// Somebody on the way answered with plain HTTP.
    #[error("HTTP status {0} in place of a gRPC answer")]
    Http(StatusCode),
    /// Neither headers nor trailers carried a status.
    #[error("the answer ended without grpc-status")]
    NoStatus,
    /// The callee or the mesh refused.
    #[error("grpc-status {code}: {message}")]
    Refused {
        /// As it was on the wire.
        code: String,
        /// As it was on the wire, percent-encoded; empty without one.
        message: String,
    },
    /// Not the message that was sent.
    #[error("the answer has {got} bytes, {wanted} were sent")]
    Length {
        /// Bytes that came back, gRPC prefix included.
        got: usize,
        /// Bytes that were sent.
        wanted: usize,
    },
    /// Of the same length, but not what was sent; seen only by [`compare`].
    #[error("the answer's bytes are not those that were sent")]
    Changed,
}

/// Makes one call and verifies status and length of its answer.
pub(crate) async fn make(sender: &mut Sender, call: &EchoCall) -> Result<(), CallError> {
    let got = exchange(sender, call, |_, _| ()).await?;
    let wanted = call.answer_length();
    if got == wanted {
        Ok(())
    } else {
        Err(CallError::Length { got, wanted })
    }
}

/// Makes one call whose answer may be anything that is good.
pub(crate) async fn accept(sender: &mut Sender, call: &EchoCall) -> Result<(), CallError> {
    exchange(sender, call, |_, _| ()).await.map(drop)
}

/// Makes one call and compares every byte of its answer with what was sent.
pub(crate) async fn compare(sender: &mut Sender, call: &EchoCall) -> Result<(), CallError> {
    let sent = call.frame();
    let mut same = true;
    let got = exchange(sender, call, |offset, data| {
        same &= sent.get(offset..offset + data.len()) == Some(data);
    })
    .await?;
    if got != sent.len() {
        return Err(CallError::Length {
            got,
            wanted: sent.len(),
        });
    }
    if same {
        Ok(())
    } else {
        Err(CallError::Changed)
    }
}

/// The length of the answer, once its status is known to be good. `see` gets each piece with
/// its offset.
async fn exchange(
    sender: &mut Sender,
    call: &EchoCall,
    mut see: impl FnMut(usize, &[u8]),
) -> Result<usize, CallError> {
    let response = sender.send_request(call.request()).await?;
    if response.status() != StatusCode::OK {
        return Err(CallError::Http(response.status()));
    }
    // A trailers-only answer carries its status here, and then it is a refusal or has no body.
    let mut status = grpc_status(response.headers());
    let mut body = response.into_body();
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        match frame?.into_data() {
            Ok(data) => {
                see(length, &data);
                length += data.len();
            }
            Err(frame) => {
                if let Ok(trailers) = frame.into_trailers() {
                    status = grpc_status(&trailers).or(status);
                }
            }
        }
    }
    status.unwrap_or(Err(CallError::NoStatus)).map(|()| length)
}

/// `None` without a `grpc-status`.
fn grpc_status(headers: &HeaderMap) -> Option<Result<(), CallError>> {
    let code = headers.get("grpc-status")?;
    if code == "0" {
        return Some(Ok(()));
    }
    let text = |value: &http::HeaderValue| String::from_utf8_lossy(value.as_bytes()).into_owned();
    let message = headers.get("grpc-message").map(text).unwrap_or_default();
    Some(Err(CallError::Refused {
        code: text(code),
        message,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_status_zero_is_good() {
        let mut headers = HeaderMap::new();
        assert!(grpc_status(&headers).is_none());
        headers.insert("grpc-status", "0".parse().unwrap());
        assert!(matches!(grpc_status(&headers), Some(Ok(()))));
        headers.insert("grpc-status", "14".parse().unwrap());
        headers.insert("grpc-message", "nobody there".parse().unwrap());
        let refused = grpc_status(&headers).unwrap().unwrap_err();
        assert_eq!(refused.to_string(), "grpc-status 14: nobody there");
    }
}

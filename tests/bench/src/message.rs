//! The calls that every pair carries, of `sidelane.test.v1.Echo`, as bytes on the wire. A call is
//! built once and cloned each time, and must never cost an encoding: what is measured is the way,
//! not the message.

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue, TE};
use http::uri::InvalidUri;
use http::{Method, Request, Uri, Version};
use std::net::SocketAddr;

use crate::body::MessageBody;

/// The service of the call, as a sidecar's `--serve` names it.
pub(crate) const SERVICE: &str = "sidelane.test.v1.Echo";

/// One message each way. To a method that is not among these three, the echo server answers
/// `UNIMPLEMENTED`.
pub(crate) const UNARY: &str = "/sidelane.test.v1.Echo/Unary";

/// One message in, as many out as [`MESSAGES`] says.
pub(crate) const EXPAND: &str = "/sidelane.test.v1.Echo/Expand";

/// Each message is answered as it comes.
pub(crate) const CHAT: &str = "/sidelane.test.v1.Echo/Chat";

/// How many messages an answer to [`EXPAND`] has; in a header, because the echo server reads none.
pub(crate) const MESSAGES: HeaderName = HeaderName::from_static("bench-messages");

/// The content type of both directions.
pub(crate) const GRPC: HeaderValue = HeaderValue::from_static("application/grpc");

/// The longest payload, in bytes: with its protobuf and gRPC prefixes it stays below 4 MiB, which
/// is the longest message that gRPC servers accept by default.
pub(crate) const LONGEST_PAYLOAD: u32 = 4 * 1024 * 1024 - 64;

/// A gRPC frame: one flag byte (not compressed), the length as a big-endian u32, and a
/// `UnaryRequest` with nothing but its payload, which is field 1 of the response too. So the
/// bytes that come back are a correct `UnaryResponse`.
pub(crate) fn frame(payload: u32) -> Bytes {
    let mut message = BytesMut::new();
    if payload > 0 {
        message.put_u8(0x0a);
        put_varint(&mut message, payload);
        for index in 0..payload {
            // Bytes that differ from their neighbours, so that a lost or doubled piece is seen.
            message.put_u8(index.to_le_bytes()[0] ^ index.to_le_bytes()[1]);
        }
    }
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    // `payload` is a u32 below `LONGEST_PAYLOAD`, and the prefix adds at most six bytes.
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(&message);
    frame.freeze()
}

fn put_varint(into: &mut BytesMut, mut value: u32) {
    while value >= 0x80 {
        into.put_u8(value.to_le_bytes()[0] | 0x80);
        value >>= 7;
    }
    into.put_u8(value.to_le_bytes()[0]);
}

/// What a call is like.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// One message each way.
    Unary,
    /// One message up, so many down.
    Expand(u32),
    /// So many messages up, and each comes back.
    Chat(u32),
}

impl Shape {
    fn path(self) -> &'static str {
        match self {
            Self::Unary => UNARY,
            Self::Expand(_) => EXPAND,
            Self::Chat(_) => CHAT,
        }
    }

    /// Messages that come back.
    pub(crate) fn answers(self) -> u32 {
        match self {
            Self::Unary => 1,
            Self::Expand(messages) | Self::Chat(messages) => messages,
        }
    }
}

/// One call to one address, ready to be sent any number of times.
pub(crate) struct EchoCall {
    uri: Uri,
    headers: HeaderMap,
    frame: Bytes,
    shape: Shape,
    answer: usize,
}

impl EchoCall {
    /// A unary call that goes to `target` with `frame` as its only message.
    pub(crate) fn new(target: SocketAddr, frame: Bytes) -> Result<Self, InvalidUri> {
        Self::shaped(target, frame, Shape::Unary)
    }

    /// A call of this shape, all of whose messages are `frame`.
    pub(crate) fn shaped(
        target: SocketAddr,
        frame: Bytes,
        shape: Shape,
    ) -> Result<Self, InvalidUri> {
        let mut headers = HeaderMap::with_capacity(3);
        headers.insert(CONTENT_TYPE, GRPC);
        headers.insert(TE, HeaderValue::from_static("trailers"));
        if let Shape::Expand(messages) = shape {
            headers.insert(MESSAGES, HeaderValue::from(messages));
        }
        Ok(Self {
            uri: Uri::try_from(format!("http://{target}{}", shape.path()))?,
            headers,
            answer: frame.len() * shape.answers() as usize,
            frame,
            shape,
        })
    }

    /// The same, to another method than the echo server's.
    pub(crate) fn at_path(mut self, path: &str) -> Result<Self, http::Error> {
        let mut parts = self.uri.into_parts();
        parts.path_and_query = Some(path.parse()?);
        self.uri = Uri::from_parts(parts)?;
        Ok(self)
    }

    /// The same, answered by an empty message.
    pub(crate) fn taken(self) -> Self {
        Self {
            answer: frame(0).len(),
            ..self
        }
    }

    /// The message, which is also what must come back.
    pub(crate) fn frame(&self) -> &Bytes {
        &self.frame
    }

    /// Bytes that must come back in all.
    pub(crate) fn answer_length(&self) -> usize {
        self.answer
    }

    /// A request of its own for one call.
    pub(crate) fn request(&self) -> Request<MessageBody> {
        let body = match self.shape {
            Shape::Unary | Shape::Expand(_) => MessageBody::once(self.frame.clone()),
            Shape::Chat(messages) => MessageBody::repeated(self.frame.clone(), messages),
        };
        let mut request = Request::new(body);
        *request.method_mut() = Method::POST;
        *request.version_mut() = Version::HTTP_2;
        *request.uri_mut() = self.uri.clone();
        *request.headers_mut() = self.headers.clone();
        request
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_frame_is_flag_length_tag_length_payload() {
        let bytes = frame(300);
        assert_eq!(bytes[0], 0, "not compressed");
        assert_eq!(bytes[1..5], 303_u32.to_be_bytes());
        assert_eq!(bytes[5..8], [0x0a, 0xac, 0x02], "field 1, 300 bytes");
        assert_eq!(bytes.len(), 5 + 3 + 300);
    }

    #[test]
    fn an_empty_payload_is_an_empty_message() {
        assert_eq!(frame(0).as_ref(), [0, 0, 0, 0, 0]);
    }

    #[test]
    fn the_longest_payload_stays_below_what_grpc_servers_accept() {
        assert!(frame(LONGEST_PAYLOAD).len() < 4 * 1024 * 1024);
    }

    #[test]
    fn a_request_is_a_grpc_call_to_the_echo_service() {
        let call = EchoCall::new(SocketAddr::from(([127, 0, 0, 1], 80)), frame(3)).unwrap();
        let request = call.request();
        assert_eq!(
            request.uri(),
            "http://127.0.0.1:80/sidelane.test.v1.Echo/Unary"
        );
        assert_eq!(request.method(), Method::POST);
        assert_eq!(request.headers()[TE], "trailers");
        for path in [UNARY, EXPAND, CHAT] {
            assert!(path.starts_with(&format!("/{SERVICE}/")));
        }
    }
}

//! The untyped way to make a call: a request as it stands on the wire, and what its caller's rule
//! says of it. Whoever carries calls another way (a test, a process that is its own sidecar)
//! implements [`NetworkSender`].

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue};
use http_body_util::{BodyExt, Full};
use sidelane_proto::model::spoken::RULE_HEADER;
use sidelane_proto::model::{ConnectionClass, Generation, Lane, NodeId, SpokenRule};
use tonic::Status;
use tonic::body::Body;

use super::hash::HASH_HEADER;

const LANE: HeaderName = HeaderName::from_static("sidelane-lane");
const NODE: HeaderName = HeaderName::from_static("sidelane-node");
const RULE: HeaderName = HeaderName::from_static(RULE_HEADER);
const TIMEOUT: HeaderName = HeaderName::from_static("grpc-timeout");
/// A message's length stands before it, and whether it is compressed (gRPC over HTTP/2).
const PREFIX: usize = 5;

/// What becomes of a call: the head of an answer, whose messages and trailers stand in its body.
pub type Answering = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Status>> + Send>>;

/// Carries calls to the mesh.
///
/// ```
/// use bytes::Bytes;
/// use sidelane::sender::{Answering, NetworkCall, NetworkSender, NetworkSenderExt, answer};
///
/// /// A mesh in which everybody says what they heard.
/// struct Echoes;
///
/// impl NetworkSender for Echoes {
///     fn send(&self, call: NetworkCall) -> Answering {
///         Box::pin(async move {
///             let message: Bytes = call.message().await?;
///             Ok(answer(&message))
///         })
///     }
/// }
///
/// let sender = Echoes.typed();
/// ```
pub trait NetworkSender: Send + Sync + 'static {
    /// Makes the call. A refusal by the mesh is an error or a status in the answer's trailers, as
    /// for every gRPC call.
    fn send(&self, call: NetworkCall) -> Answering;

    /// A sender whose calls share no connection with those of others, for as long as it is held;
    /// `None` where there is no such thing and all go through this one.
    fn apart(&self, key: &ConnectionKey) -> Option<Arc<dyn NetworkSender>> {
        let _ = key;
        None
    }

    /// The generation in which this node lives now, if that is known here.
    fn generation(&self, node: &NodeId) -> Option<Generation> {
        let _ = node;
        None
    }
}

impl<T: NetworkSender + ?Sized> NetworkSender for Arc<T> {
    fn send(&self, call: NetworkCall) -> Answering {
        T::send(self, call)
    }

    fn apart(&self, key: &ConnectionKey) -> Option<Arc<dyn NetworkSender>> {
        T::apart(self, key)
    }

    fn generation(&self, node: &NodeId) -> Option<Generation> {
        T::generation(self, node)
    }
}

/// Who is meant by a call.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Recipient {
    /// Whom the rule's strategy picks.
    #[default]
    Any,
    /// This node and no other: standard mode.
    Node(NodeId),
}

/// Calls of one of these share a connection, and no others do.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ConnectionKey {
    /// Who is meant.
    pub recipient: Recipient,
    /// The generation of the node that is meant, where it is known.
    pub generation: Option<Generation>,
    /// From where its services are reached.
    pub class: ConnectionClass,
    /// In which lane its calls travel.
    pub lane: Lane,
}

/// A call that nobody's types know any more.
#[derive(Debug)]
pub struct NetworkCall {
    recipient: Recipient,
    rule: Arc<CallRule>,
    request: http::Request<Body>,
}

/// A rule as its caller says it, with its text ready.
#[derive(Debug)]
pub(super) struct CallRule {
    spoken: SpokenRule,
    text: HeaderValue,
}

impl Recipient {
    /// The node, if one is meant.
    #[must_use]
    pub fn node(&self) -> Option<&NodeId> {
        match self {
            Self::Any => None,
            Self::Node(node) => Some(node),
        }
    }
}

impl From<NodeId> for Recipient {
    fn from(node: NodeId) -> Self {
        Self::Node(node)
    }
}

impl From<&NodeId> for Recipient {
    fn from(node: &NodeId) -> Self {
        Self::Node(node.clone())
    }
}

impl From<Option<NodeId>> for Recipient {
    fn from(node: Option<NodeId>) -> Self {
        node.map_or(Self::Any, Self::Node)
    }
}

impl CallRule {
    pub(super) fn new(spoken: SpokenRule) -> Self {
        // Names and numbers are always a value.
        let text = HeaderValue::try_from(spoken.to_string());
        Self {
            spoken,
            text: text.unwrap_or_else(|_| HeaderValue::from_static("")),
        }
    }
}

impl NetworkCall {
    pub(super) fn new(
        recipient: Recipient,
        rule: Arc<CallRule>,
        request: http::Request<Body>,
    ) -> Self {
        Self {
            recipient,
            rule,
            request,
        }
    }

    /// The gRPC path, `/pkg.Service/Method`.
    #[must_use]
    pub fn path(&self) -> &str {
        self.request.uri().path()
    }

    /// Who is meant.
    #[must_use]
    pub fn recipient(&self) -> &Recipient {
        &self.recipient
    }

    /// What the caller's rule says: class, lane, secure, strategy, persistence, time limit.
    #[must_use]
    pub fn rule(&self) -> &SpokenRule {
        &self.rule.spoken
    }

    /// The key that keeps calls together, if it brings one.
    #[must_use]
    pub fn hash_key(&self) -> Option<&[u8]> {
        let value = self.request.headers().get(HASH_HEADER)?;
        Some(value.as_bytes())
    }

    /// How long its caller waits, where it says so itself; otherwise its rule's limit holds.
    #[must_use]
    pub fn timeout(&self) -> Option<Duration> {
        let value = self.request.headers().get(TIMEOUT)?;
        read_timeout(value.to_str().ok()?)
    }

    /// Its metadata.
    #[must_use]
    pub fn headers(&self) -> &HeaderMap {
        self.request.headers()
    }

    /// The whole as a sidecar takes it on its outbound port: node, lane and rule stand in headers,
    /// instead of what its caller may have put there.
    #[must_use]
    pub fn into_request(mut self) -> http::Request<Body> {
        let headers = self.request.headers_mut();
        if let Recipient::Node(node) = &self.recipient {
            // A node id is letters, digits and a few signs.
            if let Ok(value) = HeaderValue::try_from(node.as_str()) {
                headers.insert(NODE, value);
            }
        }
        let lane = HeaderValue::from_static(self.rule.spoken.lane.name());
        headers.insert(LANE, lane);
        headers.insert(RULE, self.rule.text.clone());
        self.request
    }

    /// The one message of a call whose caller sends one, for senders that carry no streams.
    ///
    /// # Errors
    /// It has none, more than one, or one that is compressed.
    pub async fn message(self) -> Result<Bytes, Status> {
        let body = self.request.into_body().collect().await?;
        let mut bytes = body.to_bytes();
        let prefix = bytes
            .get(..PREFIX)
            .and_then(|prefix| <[u8; PREFIX]>::try_from(prefix).ok());
        let Some([compressed, length @ ..]) = prefix else {
            return Err(Status::internal("the call has no message"));
        };
        if compressed != 0 {
            return Err(Status::unimplemented("the call's message is compressed"));
        }
        let length = u32::from_be_bytes(length);
        if u32::try_from(bytes.len() - PREFIX) != Ok(length) {
            return Err(Status::internal("the call has not exactly one message"));
        }
        Ok(bytes.split_off(PREFIX))
    }
}

/// The answer to a call that went well and is answered by one message.
#[must_use]
pub fn answer(message: &[u8]) -> http::Response<Body> {
    let mut frame = BytesMut::with_capacity(PREFIX + message.len());
    frame.put_u8(0);
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.put_slice(message);
    let trailers = HeaderMap::from_iter([(
        HeaderName::from_static("grpc-status"),
        HeaderValue::from_static("0"),
    )]);
    let body = Full::new(frame.freeze()).with_trailers(std::future::ready(Some(Ok(trailers))));
    let mut response = http::Response::new(Body::new(body));
    let kind = HeaderValue::from_static("application/grpc");
    response
        .headers_mut()
        .insert(http::header::CONTENT_TYPE, kind);
    response
}

/// Reads a `grpc-timeout`: up to eight digits and a unit.
fn read_timeout(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let digits = text.strip_suffix(unit)?;
    if digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number: u64 = digits.parse().ok()?;
    Some(match unit {
        'H' => Duration::from_secs(number * 3_600),
        'M' => Duration::from_secs(number * 60),
        'S' => Duration::from_secs(number),
        'm' => Duration::from_millis(number),
        'u' => Duration::from_micros(number),
        'n' => Duration::from_nanos(number),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit() {
        for (text, expected) in [
            ("1H", Some(Duration::from_secs(3_600))),
            ("2M", Some(Duration::from_secs(120))),
            ("3S", Some(Duration::from_secs(3))),
            ("4m", Some(Duration::from_millis(4))),
            ("5u", Some(Duration::from_micros(5))),
            ("99999999n", Some(Duration::from_nanos(99_999_999))),
            ("999999999n", None),
            ("m", None),
            ("", None),
            ("5ü", None),
            ("-5m", None),
        ] {
            assert_eq!(read_timeout(text), expected, "{text}");
        }
    }
}

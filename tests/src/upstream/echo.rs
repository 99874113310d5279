//! `Echo`, `Beat`, `Vault` and `Front` as [`Upstream`](super::Upstream) serves them. The
//! `Behaviour` in a request says what happens; `echo_server.py` does exactly the same.

use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use futures_util::{Stream, stream};
use tonic::metadata::{KeyAndValueRef, MetadataMap};
use tonic::{Code, Extensions, Request, Response, Status, Streaming};

use super::Shared;
use super::ledger::Guard;
use super::watch::{Broken, ResetAtEnd, Trailers};
use crate::wire::v1::beat_server::Beat;
use crate::wire::v1::echo_server::Echo;
use crate::wire::v1::front_server::Front;
use crate::wire::v1::vault_server::Vault;
use crate::wire::v1::{
    Behaviour, ChatRequest, ChatResponse, CollectRequest, CollectResponse, ExpandRequest,
    ExpandResponse, OpenRequest, OpenResponse, PingRequest, PingResponse, UnaryRequest,
    UnaryResponse, VisitRequest, VisitResponse,
};

/// Metadata with this prefix is the tests' own, and is what `echo_metadata` returns.
pub const ECHOED_PREFIX: &str = "x-test-";

/// How far apart the end of a request and its reset may come.
const SETTLES: Duration = Duration::from_millis(100);

type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A call and what is to be done with it.
struct Visitor {
    shared: Shared,
    behaviour: Behaviour,
    echoed: MetadataMap,
    guard: Guard,
}

#[tonic::async_trait]
impl Echo for Shared {
    type ExpandStream = Answers<ExpandResponse>;
    type ChatStream = Answers<ChatResponse>;

    async fn unary(
        &self,
        mut request: Request<UnaryRequest>,
    ) -> Result<Response<UnaryResponse>, Status> {
        if let Some(answer) = &self.unary {
            return answer(request).await;
        }
        let behaviour = request.get_mut().behaviour.take().unwrap_or_default();
        let mut visitor = Visitor::new(self, behaviour, request.metadata());
        visitor.act().await?;
        let response = UnaryResponse {
            node: self.node.to_string(),
            remaining_ms: milliseconds(remaining(request.metadata())),
            metadata: lines(request.metadata()),
            payload: request.into_inner().payload,
        };
        visitor.guard.finish();
        Ok(visitor.respond(response))
    }

    async fn collect(
        &self,
        request: Request<Streaming<CollectRequest>>,
    ) -> Result<Response<CollectResponse>, Status> {
        let (metadata, extensions, mut messages) = request.into_parts();
        let mut response = CollectResponse {
            node: self.node.to_string(),
            ..CollectResponse::default()
        };
        let mut visitor = None;
        while let Some(message) = messages.message().await? {
            response.messages += 1;
            response.bytes += message.payload.len() as u64;
            let visitor = visitor.get_or_insert_with(|| {
                Visitor::new(self, message.behaviour.unwrap_or_default(), &metadata)
            });
            if visitor.behaviour.early && visitor.is_due(response.messages) {
                break;
            }
        }
        check_whole(&extensions).await?;
        let mut visitor =
            visitor.unwrap_or_else(|| Visitor::new(self, Behaviour::default(), &metadata));
        visitor.act().await?;
        visitor.guard.finish();
        Ok(visitor.respond(response))
    }

    async fn expand(
        &self,
        mut request: Request<ExpandRequest>,
    ) -> Result<Response<Self::ExpandStream>, Status> {
        let behaviour = request.get_mut().behaviour.take().unwrap_or_default();
        let mut visitor = Visitor::new(self, behaviour, request.metadata());
        // Nothing was answered yet: an error now is an answer of trailers only.
        let acted = visitor.behaviour.after_messages == 0;
        if acted {
            visitor.act().await?;
        }
        let response = visitor.respond(());
        let messages = request.into_inner();
        let expansion = Expansion {
            visitor,
            messages,
            index: 0,
            acted,
        };
        Ok(response.map(|()| expansion.into_stream()))
    }

    async fn chat(
        &self,
        request: Request<Streaming<ChatRequest>>,
    ) -> Result<Response<Self::ChatStream>, Status> {
        let (metadata, extensions, mut messages) = request.into_parts();
        let mut next = messages.message().await?;
        let behaviour = next.as_mut().and_then(|first| first.behaviour.take());
        let mut visitor = Visitor::new(self, behaviour.unwrap_or_default(), &metadata);
        let acted = visitor.behaviour.after_messages == 0;
        if acted {
            visitor.act().await?;
        }
        let response = visitor.respond(());
        let conversation = Conversation {
            epilogue: visitor.behaviour.epilogue,
            visitor,
            messages,
            extensions,
            next,
            index: 0,
            acted,
        };
        Ok(response.map(|()| conversation.into_stream()))
    }
}

/// What makes a stream of answers. The stream stands for its call: dropped before its end, it
/// means that the caller has given up.
trait Script: Sized + Send + 'static {
    type Answer: Send + 'static;

    /// The next answer; `None` at the end.
    fn next(&mut self) -> impl Future<Output = Result<Option<Self::Answer>, Status>> + Send;

    fn visitor(&mut self) -> &mut Visitor;

    fn into_stream(self) -> Answers<Self::Answer> {
        Box::pin(stream::unfold(Some(self), |script| async move {
            let mut script = script?;
            match script.next().await {
                Ok(Some(answer)) => Some((Ok(answer), Some(script))),
                Ok(None) => {
                    script.visitor().guard.finish();
                    None
                }
                Err(status) => Some((Err(status), None)),
            }
        }))
    }
}

/// `Expand` under way.
struct Expansion {
    visitor: Visitor,
    messages: ExpandRequest,
    index: u32,
    acted: bool,
}

/// `Chat` under way.
struct Conversation {
    visitor: Visitor,
    messages: Streaming<ChatRequest>,
    extensions: Extensions,
    /// The first message, which was read to see the behaviour.
    next: Option<ChatRequest>,
    index: u32,
    acted: bool,
    epilogue: u32,
}

impl Script for Expansion {
    type Answer = ExpandResponse;

    async fn next(&mut self) -> Result<Option<ExpandResponse>, Status> {
        let last = self.index == self.messages.messages;
        if !self.acted && (last || self.visitor.is_due(self.index.into())) {
            self.acted = true;
            self.visitor.act().await?;
        }
        if last {
            return Ok(None);
        }
        let lowest = u8::try_from(self.index % 256).unwrap_or_default();
        let answer = ExpandResponse {
            index: self.index,
            payload: vec![lowest; self.messages.bytes as usize].into(),
            node: self.visitor.shared.node.to_string(),
        };
        self.index += 1;
        Ok(Some(answer))
    }

    fn visitor(&mut self) -> &mut Visitor {
        &mut self.visitor
    }
}

impl Script for Conversation {
    type Answer = ChatResponse;

    async fn next(&mut self) -> Result<Option<ChatResponse>, Status> {
        if !self.acted && self.visitor.is_due(self.index.into()) {
            self.acted = true;
            self.visitor.act().await?;
        }
        let message = match self.next.take() {
            Some(first) => Some(first),
            None => self.messages.message().await?,
        };
        if message.is_none() {
            check_whole(&self.extensions).await?;
        }
        let payload = match message {
            Some(message) => message.payload,
            None if self.epilogue > 0 => {
                self.epilogue -= 1;
                Bytes::new()
            }
            None => return Ok(None),
        };
        let index = self.index;
        self.index += 1;
        Ok(Some(ChatResponse {
            payload,
            index,
            node: self.visitor.shared.node.to_string(),
        }))
    }

    fn visitor(&mut self) -> &mut Visitor {
        &mut self.visitor
    }
}

impl Visitor {
    fn new(shared: &Shared, behaviour: Behaviour, metadata: &MetadataMap) -> Self {
        let guard = shared
            .ledger
            .arrive(&behaviour.ledger_key, remaining(metadata));
        let echoed = if behaviour.echo_metadata {
            echoed(metadata)
        } else {
            MetadataMap::new()
        };
        Self {
            shared: shared.clone(),
            behaviour,
            echoed,
            guard,
        }
    }

    fn is_due(&self, messages: u64) -> bool {
        messages == u64::from(self.behaviour.after_messages)
    }

    /// Does what the behaviour says: waits, and perhaps fails.
    async fn act(&mut self) -> Result<(), Status> {
        let behaviour = &self.behaviour;
        let delay = Duration::from_millis(behaviour.delay_ms.into());
        if behaviour.gather > 0 {
            let ledger = self.shared.ledger.clone();
            let all = behaviour.gather as usize;
            let arrived = crate::wire::v1::Moment::Arrived;
            let gathered = ledger
                .reached(&behaviour.ledger_key, arrived, all, delay)
                .await;
            if gathered.is_none() {
                let count = ledger.count(&behaviour.ledger_key, arrived);
                let text = format!("only {count} of {all} calls came within {delay:?}");
                self.guard.finish();
                return Err(Status::aborted(text));
            }
        } else if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        if behaviour.cancel {
            self.guard.finish();
            return Err(Status::cancelled("given up by the server"));
        }
        if behaviour.status != 0 {
            self.guard.finish();
            return Err(Status::with_details_and_metadata(
                Code::from_i32(behaviour.status),
                behaviour.message.clone(),
                behaviour.details.clone(),
                self.echoed.clone(),
            ));
        }
        Ok(())
    }

    /// An answer with the echoed metadata in its headers and its trailers.
    fn respond<T>(&self, message: T) -> Response<T> {
        let mut extensions = Extensions::default();
        extensions.insert(Trailers(self.echoed.clone().into_headers()));
        if self.behaviour.cancel {
            extensions.insert(ResetAtEnd);
        }
        Response::from_parts(self.echoed.clone(), message, extensions)
    }
}

/// Has the request come to its end, and not been given up? Node ends the request of a call that it
/// gives up, and resets it a moment later: then hyper drops the whole call while this waits.
async fn check_whole(extensions: &Extensions) -> Result<(), Status> {
    tokio::time::sleep(SETTLES).await;
    match extensions.get::<Broken>() {
        Some(broken) if broken.is_broken() => Err(Status::cancelled("the caller gave up")),
        _ => Ok(()),
    }
}

fn echoed(metadata: &MetadataMap) -> MetadataMap {
    let headers = metadata.clone().into_headers();
    let echoed = headers
        .iter()
        .filter(|(name, _)| name.as_str().starts_with(ECHOED_PREFIX))
        .map(|(name, value)| (name.clone(), value.clone()));
    MetadataMap::from_headers(echoed.collect())
}

/// `name: value` for each, `-bin` values in padded base64, the order within a name kept.
fn lines(metadata: &MetadataMap) -> Vec<String> {
    let line = |entry: KeyAndValueRef<'_>| match entry {
        KeyAndValueRef::Ascii(name, value) => {
            format!(
                "{name}: {}",
                String::from_utf8_lossy(value.as_encoded_bytes())
            )
        }
        KeyAndValueRef::Binary(name, value) => match value.to_bytes() {
            Ok(bytes) => format!("{name}: {}", STANDARD.encode(bytes)),
            Err(_) => format!("{name}: no base64: {value:?}"),
        },
    };
    metadata.iter().map(line).collect()
}

/// The caller's deadline as it arrived (gRPC over HTTP2, `grpc-timeout`).
fn remaining(metadata: &MetadataMap) -> Option<Duration> {
    let text = metadata.get("grpc-timeout")?.to_str().ok()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let number: u64 = number.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(number * 3_600),
        "M" => Duration::from_secs(number * 60),
        "S" => Duration::from_secs(number),
        "m" => Duration::from_millis(number),
        "u" => Duration::from_micros(number),
        "n" => Duration::from_nanos(number),
        _ => return None,
    })
}

pub(super) fn milliseconds(remaining: Option<Duration>) -> i64 {
    remaining.map_or(-1, |time| {
        i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
    })
}

macro_rules! gives_back {
    ($service:ident, $method:ident, $request:ident, $response:ident) => {
        #[tonic::async_trait]
        impl $service for Shared {
            async fn $method(
                &self,
                request: Request<$request>,
            ) -> Result<Response<$response>, Status> {
                Ok(Response::new($response {
                    payload: request.into_inner().payload,
                    node: self.node.to_string(),
                }))
            }
        }
    };
}

gives_back!(Beat, ping, PingRequest, PingResponse);
gives_back!(Vault, open, OpenRequest, OpenResponse);
gives_back!(Front, visit, VisitRequest, VisitResponse);

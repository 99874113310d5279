//! The span of one call, from its headers to its end. Names and attributes are those of
//! OpenTelemetry's conventions for RPC, beside the mesh's own, which begin with `sidelane.`.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use http::HeaderMap;
use opentelemetry::trace::{
    Event, Link, SpanContext, SpanId as OtelSpanId, SpanKind, Status, TraceFlags,
    TraceId as OtelTraceId, TraceState,
};
use opentelemetry::{InstrumentationScope, KeyValue};
use opentelemetry_sdk::trace::{SpanData, SpanEvents, SpanLinks};
use sidelane_proto::model::{ConnectionClass, Lane};
use tonic::Code;

use super::context::{Context, SpanId};
use super::queue::Queue;
use super::read::{self, Amended};
use crate::reason::Reason;
use crate::telemetry::{Outcome, Traffic};

/// The most events of one span; those beyond it are counted in it.
pub const EVENTS: usize = 64;

/// The span of a call. Empty where the call is not recorded.
#[derive(Debug, Default)]
pub struct CallSpan {
    context: Option<Context>,
    /// Does the call go on in the name of `context`, or of its caller's span?
    own: bool,
    amended: Option<Box<Amended>>,
    recording: Option<Box<Recording>>,
}

/// On which side of the call the sidecar stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// On its caller's.
    Client,
    /// On its callee's; and on the mesh's, where a user calls.
    Server,
}

/// What is known of a call when its span begins.
#[derive(Debug, Clone, Copy)]
pub struct Facts<'a> {
    /// On which side.
    pub kind: Kind,
    /// The path of the call.
    pub path: &'a str,
    /// The class of its connection.
    pub class: ConnectionClass,
    /// Its lane.
    pub lane: Lane,
    /// Where its rule comes from.
    pub rule: Option<&'a str>,
    /// The node that calls, where it is another one.
    pub node: Option<&'a str>,
}

/// Where an attempt goes.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'a> {
    /// The node, where it is another one.
    pub node: Option<&'a str>,
    /// What was dialled; `None` where it is no TCP.
    pub remote: Option<SocketAddr>,
    /// It goes out while others are under way.
    pub hedge: bool,
}

#[derive(Debug)]
struct Recording {
    context: Context,
    parent: Option<SpanId>,
    linked: Option<Context>,
    kind: Kind,
    arrived: Instant,
    began: SystemTime,
    /// The path, without the `/` before it.
    method: String,
    told: Mutex<Told>,
    queue: Arc<Queue>,
}

/// What is heard of a call while it goes on.
#[derive(Debug, Default)]
struct Told {
    attributes: Vec<KeyValue>,
    events: SpanEvents,
    attempts: i64,
    node: Option<String>,
    remote: Option<SocketAddr>,
    failure: Option<(Code, String)>,
    /// What another sidecar says of a call that it fails: its reason, and in words.
    heard: Option<(String, String)>,
}

impl CallSpan {
    /// Of a call that others began and do not record.
    pub(super) fn passing(context: Context, amended: Option<Box<Amended>>) -> Self {
        Self {
            context: Some(context),
            own: false,
            amended,
            recording: None,
        }
    }

    /// Of a call whose trace begins here and is not recorded.
    pub(super) fn unrecorded(context: Context, amended: Option<Box<Amended>>) -> Self {
        Self {
            own: true,
            ..Self::passing(context, amended)
        }
    }

    pub(super) fn recorded(
        (context, parent): (Context, Option<SpanId>),
        linked: Option<Context>,
        amended: Option<Box<Amended>>,
        (arrived, facts): (Instant, Facts<'_>),
        queue: &Arc<Queue>,
    ) -> Self {
        let attributes = vec![
            KeyValue::new("rpc.system.name", "grpc"),
            KeyValue::new("sidelane.connection", facts.class.name()),
            KeyValue::new("sidelane.lane", facts.lane.name()),
        ];
        let mut told = Told {
            attributes,
            node: facts.node.map(str::to_owned),
            ..Told::default()
        };
        if let Some(rule) = facts.rule {
            told.attributes
                .push(KeyValue::new("sidelane.rule", rule.to_owned()));
        }
        let recording = Recording {
            context,
            parent,
            linked,
            kind: facts.kind,
            arrived,
            began: SystemTime::now() - arrived.elapsed(),
            method: facts.path.trim_start_matches('/').to_owned(),
            told: Mutex::new(told),
            queue: Arc::clone(queue),
        };
        Self {
            recording: Some(Box::new(recording)),
            ..Self::unrecorded(context, amended)
        }
    }

    /// The trace and the span in whose name the call goes on, and whether that is recorded; `None`
    /// where traces are off.
    #[must_use]
    pub const fn context(&self) -> Option<Context> {
        self.context
    }

    /// Writes what goes on with the call.
    #[inline]
    pub fn onward(&self, headers: &mut HeaderMap) {
        if let (true, Some(context)) = (self.own, &self.context) {
            read::write(context, headers);
        }
        if let Some(amended) = &self.amended {
            amended.write(headers);
        }
    }

    /// Is anything written down of it?
    #[inline]
    #[must_use]
    pub const fn is_recorded(&self) -> bool {
        self.recording.is_some()
    }

    /// An attempt was sent.
    #[inline]
    pub fn sent(&self, sent: Sent<'_>) {
        if let Some(recording) = &self.recording {
            recording.sent(sent);
        }
    }

    /// An attempt came to nothing, and another one may follow.
    #[inline]
    pub fn failed<'a>(&self, node: Option<&str>, why: impl FnOnce() -> Why<'a>) {
        if let Some(recording) = &self.recording {
            let why = why();
            let mut attributes = vec![KeyValue::new("rpc.response.status_code", why.status)];
            let node = node.map(|node| KeyValue::new("sidelane.node", node.to_owned()));
            attributes.extend(node);
            attributes.extend(why.attributes());
            recording.event("sidelane.attempt.failed", attributes);
        }
    }

    /// Another attempt was due and is not made.
    #[inline]
    pub fn withheld(&self, why: &'static str) {
        if let Some(recording) = &self.recording {
            let why = KeyValue::new("sidelane.why", why);
            recording.event("sidelane.retry.withheld", vec![why]);
        }
    }

    /// The mesh fails the call.
    #[inline]
    pub fn refused(&self, code: Code, reason: Reason, text: &str) {
        if let Some(recording) = &self.recording {
            let name = match reason {
                Reason::BreakerOpen => "sidelane.breaker",
                Reason::RateLimited | Reason::Overloaded | Reason::LaneFull => "sidelane.limit",
                _ => "sidelane.refused",
            };
            let why = KeyValue::new("sidelane.error", reason.name());
            let text = text.to_owned();
            let said = KeyValue::new("sidelane.message", text.clone());
            recording.event(name, vec![why, said]);
            recording.told().failure = Some((code, text));
        }
    }

    /// Another sidecar has failed the call, for this reason and with these words.
    #[inline]
    pub fn heard(&self, heard: impl FnOnce() -> Option<(String, String)>) {
        if let Some(recording) = &self.recording
            && let Some(heard) = heard()
        {
            recording.told().heard = Some(heard);
        }
    }

    /// The call has ended so, and has carried this. Said once, by its guard.
    #[inline]
    pub(in crate::telemetry) fn ended(&mut self, outcome: Outcome, traffic: Traffic) {
        if let Some(recording) = self.recording.take() {
            recording.ended(outcome, traffic);
        }
    }
}

/// Why an attempt came to nothing.
#[derive(Debug, Clone, Copy)]
pub struct Why<'a> {
    /// The status of it.
    pub status: &'static str,
    /// The mesh's reason, where it is one of its.
    pub reason: Option<&'a str>,
    /// In words.
    pub text: &'a str,
}

impl Why<'_> {
    fn attributes(&self) -> impl Iterator<Item = KeyValue> {
        let owned = |name, text: &str| KeyValue::new(name, text.to_owned());
        let reason = self.reason.map(|reason| owned("sidelane.error", reason));
        let said = !self.text.is_empty();
        let text = said.then(|| owned("sidelane.message", self.text));
        reason.into_iter().chain(text)
    }
}

impl Recording {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The clock of the machine may be set meanwhile; the span's does not move for it.
    fn now(&self) -> SystemTime {
        self.began + self.arrived.elapsed()
    }

    fn event(&self, name: &'static str, attributes: Vec<KeyValue>) {
        let event = Event::new(name, self.now(), attributes, 0);
        let mut told = self.told();
        if told.events.events.len() < EVENTS {
            told.events.events.push(event);
        } else {
            told.events.dropped_count += 1;
        }
    }

    fn sent(&self, sent: Sent<'_>) {
        let number = {
            let mut told = self.told();
            told.attempts += 1;
            if let Some(node) = sent.node {
                told.node = Some(node.to_owned());
            }
            told.remote = sent.remote;
            told.attempts
        };
        let mut attributes = vec![KeyValue::new("sidelane.attempt", number)];
        let node = sent.node;
        attributes.extend(node.map(|node| KeyValue::new("sidelane.node", node.to_owned())));
        attributes.extend(sent.remote.into_iter().flat_map(address));
        if sent.hedge {
            attributes.push(KeyValue::new("sidelane.hedge", true));
        }
        self.event("sidelane.attempt", attributes);
    }

    fn ended(self, outcome: Outcome, traffic: Traffic) {
        let code = match outcome {
            Outcome::Answered(status) => Code::from_i32(status.into()),
            Outcome::Failed(reason) => reason.code(),
            Outcome::Cancelled => Code::Cancelled,
        };
        let reason = match outcome {
            Outcome::Failed(reason) => Some(reason.name()),
            _ => None,
        };
        let failed = reason.is_some() || is_error(self.kind, code);
        if !(failed || self.context.sampled) {
            return;
        }
        let mut told = std::mem::take(&mut *self.told());
        let (code, error, said) = match (reason, told.failure.take(), told.heard.take()) {
            // What a rule has fail on purpose fails with the rule's own status.
            (Some(reason), Some((code, said)), _) => (code, Some(reason.to_owned()), said),
            (Some(reason), None, _) => (code, Some(reason.to_owned()), String::new()),
            (None, _, Some((error, said))) => (code, Some(error), said),
            (None, _, None) => (code, None, String::new()),
        };
        let attributes = &mut told.attributes;
        attributes.push(KeyValue::new("rpc.method", self.method.clone()));
        attributes.push(KeyValue::new("rpc.response.status_code", name_of(code)));
        attributes.push(KeyValue::new("sidelane.attempts", told.attempts));
        attributes.extend(told.node.map(|node| KeyValue::new("sidelane.node", node)));
        attributes.extend(told.remote.into_iter().flat_map(address));
        if failed {
            let kind = error.clone().unwrap_or_else(|| name_of(code).to_owned());
            attributes.push(KeyValue::new("error.type", kind));
        }
        attributes.extend(error.map(|error| KeyValue::new("sidelane.error", error)));
        let Traffic { request, response } = traffic;
        let carried = [
            ("sidelane.request.messages", request.messages),
            ("sidelane.request.bytes", request.bytes),
            ("sidelane.response.messages", response.messages),
            ("sidelane.response.bytes", response.bytes),
        ];
        for (name, count) in carried {
            let count = i64::try_from(count).unwrap_or(i64::MAX);
            attributes.push(KeyValue::new(name, count));
        }
        let status = match failed {
            // What went well is left for the app to say.
            false => Status::Unset,
            true => Status::error(said),
        };
        let mut links = SpanLinks::default();
        let linked = self.linked.as_ref();
        links
            .links
            .extend(linked.map(|it| Link::with_context(otel(it, true))));
        self.queue.push(SpanData {
            span_context: otel(&self.context, false),
            parent_span_id: self
                .parent
                .map_or(OtelSpanId::INVALID, OtelSpanId::from_bytes),
            parent_span_is_remote: self.parent.is_some(),
            span_kind: match self.kind {
                Kind::Client => SpanKind::Client,
                Kind::Server => SpanKind::Server,
            },
            name: self.method.clone().into(),
            start_time: self.began,
            end_time: self.now(),
            attributes: told.attributes,
            dropped_attributes_count: 0,
            events: told.events,
            links,
            status,
            instrumentation_scope: scope(),
        });
    }
}

/// Who makes these spans.
fn scope() -> InstrumentationScope {
    InstrumentationScope::builder("sidelane-sidecar")
        .with_version(env!("CARGO_PKG_VERSION"))
        .build()
}

fn otel(context: &Context, remote: bool) -> SpanContext {
    let flags = TraceFlags::default().with_sampled(context.sampled);
    SpanContext::new(
        OtelTraceId::from_bytes(context.trace),
        OtelSpanId::from_bytes(context.span),
        flags,
        remote,
        TraceState::NONE,
    )
}

fn address(remote: SocketAddr) -> [KeyValue; 2] {
    let ip = remote.ip().to_canonical().to_string();
    [
        KeyValue::new("server.address", ip),
        KeyValue::new("server.port", i64::from(remote.port())),
    ]
}

/// Is a call with this status a failure to that side? A callee has done its part where the call was
/// wrong (OpenTelemetry's conventions for gRPC).
fn is_error(kind: Kind, code: Code) -> bool {
    match kind {
        Kind::Client => code != Code::Ok,
        Kind::Server => matches!(
            code,
            Code::Unknown
                | Code::DeadlineExceeded
                | Code::Unimplemented
                | Code::Internal
                | Code::Unavailable
                | Code::DataLoss
        ),
    }
}

/// A status as the conventions write it.
#[must_use]
pub const fn name_of(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

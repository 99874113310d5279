//! The span of one call, from its headers to its end: what is noted of it while it goes on. It is noted as it
//! is, shared or copied, because of most calls nothing is ever written down: `data` makes attributes
//! of it once it is known that the span is sent.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Instant, SystemTime};

use http::uri::PathAndQuery;
use http::{HeaderMap, HeaderValue, Uri};
use sidelane_proto::model::{ConnectionClass, Lane, NodeId, PeerAddress, Rule};
use tonic::Code;

use super::context::{Context, SpanId};
use super::queue::Queue;
use super::read::{self, Amended};
use super::told::{Told, What};
use crate::reason::Reason;
use crate::telemetry::{Outcome, Traffic};

/// The span of a call. Empty where the call is not recorded.
#[derive(Debug, Default)]
pub struct CallSpan {
    context: Option<Context>,
    named: Named,
    amended: Option<Box<Amended>>,
    recording: Option<Box<Recording>>,
}

/// How a call goes on.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Named {
    /// In the name of its caller's span.
    #[default]
    AsItCame,
    /// In the name of its own.
    Always,
    /// The same, unless who takes it has agreed that what has no name is not recorded.
    WhereAsked {
        /// A `traceparent` that names nothing came with it.
        came: bool,
    },
}

/// On which side of the call the sidecar stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// On its caller's.
    Client,
    /// On its callee's; and on the mesh's, where a user calls.
    Server,
}

/// What is known of a call when its span begins. Nothing of it is copied that can be shared.
#[derive(Debug)]
pub struct Facts<'a> {
    /// On which side.
    pub kind: Kind,
    /// What is called.
    pub uri: &'a Uri,
    /// Is its method one that its service's rule names? What a caller may make up names no span.
    pub named: bool,
    /// The class of its connection and its lane; `None` where it ends before that is known.
    pub way: Option<(ConnectionClass, Lane)>,
    /// Its rule, where there is one.
    pub rule: Option<&'a Arc<Rule>>,
    /// The node that calls, where it is another one.
    pub node: Option<&'a NodeId>,
    /// Where it was meant to go, where that is no service of the mesh.
    pub destination: Option<&'a PeerAddress>,
}

/// Where an attempt goes.
#[derive(Debug, Clone, Copy)]
pub struct Sent<'a> {
    /// Whom it reaches.
    pub to: Reached<'a>,
    /// It goes out while others are under way.
    pub hedge: bool,
}

/// Whom an attempt reaches.
#[derive(Debug, Clone, Copy)]
pub struct Reached<'a> {
    /// The node, where it is another one.
    pub node: Option<&'a NodeId>,
    /// What was dialled; `None` where it is no TCP.
    pub remote: Option<SocketAddr>,
}

#[derive(Debug)]
pub(super) struct Recording {
    pub(super) context: Context,
    pub(super) parent: Option<SpanId>,
    pub(super) linked: Option<Context>,
    pub(super) state: Option<HeaderValue>,
    pub(super) kind: Kind,
    arrived: Instant,
    pub(super) began: SystemTime,
    pub(super) path: Option<PathAndQuery>,
    pub(super) named: bool,
    pub(super) way: Option<(ConnectionClass, Lane)>,
    pub(super) rule: Option<Arc<Rule>>,
    pub(super) destination: Option<PeerAddress>,
    told: Mutex<Told>,
    queue: Arc<Queue>,
}

/// What the headers of a call say of the span that it is to have.
#[derive(Debug)]
pub(super) struct Begun {
    pub(super) context: Context,
    pub(super) parent: Option<SpanId>,
    /// Another trace's, which it may not join.
    pub(super) linked: Option<Context>,
    /// The `tracestate` that goes on with the call.
    pub(super) state: Option<HeaderValue>,
    pub(super) arrived: Instant,
}

impl CallSpan {
    /// Of a call that others began and do not record.
    pub(super) fn passing(context: Context, amended: Option<Box<Amended>>) -> Self {
        Self {
            context: Some(context),
            named: Named::AsItCame,
            amended,
            recording: None,
        }
    }

    /// Of a call whose trace begins here and is not recorded.
    pub(super) fn unrecorded(
        context: Context,
        named: Named,
        amended: Option<Box<Amended>>,
    ) -> Self {
        Self {
            named,
            ..Self::passing(context, amended)
        }
    }

    pub(super) fn recorded(
        begun: Begun,
        amended: Option<Box<Amended>>,
        facts: &Facts<'_>,
        queue: &Arc<Queue>,
    ) -> Self {
        let Begun {
            context, arrived, ..
        } = begun;
        let told = Told::of(facts.node.cloned());
        let recording = Recording {
            context,
            parent: begun.parent,
            linked: begun.linked,
            state: begun.state,
            kind: facts.kind,
            arrived,
            began: SystemTime::now() - arrived.elapsed(),
            path: facts.uri.path_and_query().cloned(),
            named: facts.named,
            way: facts.way,
            rule: facts.rule.cloned(),
            destination: facts.destination.cloned(),
            told: Mutex::new(told),
            queue: Arc::clone(queue),
        };
        Self {
            recording: Some(Box::new(recording)),
            ..Self::unrecorded(context, Named::Always, amended)
        }
    }

    /// The trace and the span in whose name the call goes on, and whether that is recorded; `None`
    /// where traces are off.
    #[must_use]
    pub const fn context(&self) -> Option<Context> {
        self.context
    }

    /// Writes what goes on with the call, to whoever takes it. Has it agreed that a call `unmarked` by a
    /// `traceparent` is not recorded? And is this the `first` one on its connection?
    ///
    /// No two calls have the same. In HPACK's table it would push out what calls have in common, and would
    /// be compared with those of all calls before it, so it stays out of there as what is sensitive does;
    /// but for the first, whose name the others point at instead of spelling it out.
    #[inline]
    pub fn onward(&self, headers: &mut HeaderMap, unmarked: bool, first: impl FnOnce() -> bool) {
        match (&self.context, self.named) {
            (None, _) => {}
            (Some(_), Named::AsItCame) => read::keep(headers, first()),
            (Some(_), Named::WhereAsked { came: false }) if unmarked => {}
            (Some(_), Named::WhereAsked { came: true }) if unmarked => read::leave_out(headers),
            (Some(context), _) => read::write(context, headers, first()),
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

    /// The call's answer is that of this attempt, and not of the one that was sent last.
    #[inline]
    pub fn answered(&self, by: Reached<'_>) {
        if let Some(recording) = &self.recording {
            recording.told().by(by);
        }
    }

    /// An attempt came to nothing, and another one may follow.
    #[inline]
    pub fn failed<'a>(&self, node: Option<&NodeId>, why: impl FnOnce() -> Why<'a>) {
        if let Some(recording) = &self.recording {
            let why = why();
            recording.note(What::Failed {
                node: node.cloned(),
                status: why.status,
                reason: why.reason.map(str::to_owned),
                text: why.text.to_owned(),
            });
        }
    }

    /// An attempt was cancelled because another one has answered, or the call is over.
    #[inline]
    pub fn cancelled(&self, node: Option<&NodeId>) {
        if let Some(recording) = &self.recording {
            let node = node.cloned();
            recording.note(What::Cancelled { node });
        }
    }

    /// Another attempt was due and is not made; a hedge, if it says so.
    #[inline]
    pub fn withheld(&self, hedge: bool, why: &'static str) {
        if let Some(recording) = &self.recording {
            recording.note(What::Withheld { hedge, why });
        }
    }

    /// The mesh fails the call. These are the words for those who run it, whatever its caller is
    /// told.
    #[inline]
    pub fn refused(&self, code: Code, reason: Reason, text: &str) {
        if let Some(recording) = &self.recording {
            let text = text.to_owned();
            recording.note(What::Refused { reason, text });
            recording.told().failure = Some(code);
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

impl Recording {
    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The clock of the machine may be set meanwhile; the span's does not move for it.
    pub(super) fn now(&self) -> SystemTime {
        self.began + self.arrived.elapsed()
    }

    fn note(&self, what: What) {
        let at = self.arrived.elapsed();
        self.told().note(at, what);
    }

    fn sent(&self, sent: Sent<'_>) {
        let at = self.arrived.elapsed();
        let mut told = self.told();
        told.attempts += 1;
        told.by(sent.to);
        let number = told.attempts;
        let what = What::Sent {
            number,
            node: sent.to.node.cloned(),
            remote: sent.to.remote,
            hedge: sent.hedge,
        };
        told.note(at, what);
    }

    fn ended(self, outcome: Outcome, traffic: Traffic) {
        let told = std::mem::take(&mut *self.told());
        let ended = Ended::of(outcome, &told, self.kind);
        // An attempt that came to nothing may have a span at its callee's, which must not be an
        // orphan: the call's is kept, however well it ended.
        let kept = ended.failed || ended.reason.is_some() || told.lost;
        let sampled = self.context.sampled;
        // Asked first: what finds no room is not made.
        if (sampled || kept) && self.queue.has_room(sampled) {
            let queue = Arc::clone(&self.queue);
            queue.push(self.into_data(told, &ended, traffic));
        }
    }
}

/// How a call ended, as a span says it.
#[derive(Debug)]
pub(super) struct Ended {
    pub(super) code: Code,
    /// The mesh's reason, where this sidecar has failed it.
    pub(super) reason: Option<Reason>,
    /// Is it a failure to this side?
    pub(super) failed: bool,
}

impl Ended {
    fn of(outcome: Outcome, told: &Told, kind: Kind) -> Self {
        let (code, reason) = match outcome {
            Outcome::Answered(status) => (Code::from_i32(status.into()), None),
            // What a rule has fail on purpose fails with the rule's own status.
            Outcome::Failed(reason) => (told.failure.unwrap_or(reason.code()), Some(reason)),
            Outcome::Cancelled => (Code::Cancelled, None),
        };
        Self {
            code,
            reason,
            failed: is_error(kind, code),
        }
    }
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

//! Traces: what a call's headers say of its trace, whether it is recorded, its span, and the way of
//! spans to a collector. A span is made by hand and not through `tracing`: a sidecar may be linked
//! into a program whose subscriber is its own, several may be in one process, and a call that is
//! recorded for how it ended needs a span that began before anybody knew.
//!
//! A call that is not recorded costs one walk over its headers, and new ids where it brings none.

mod carried;
mod collector;
mod context;
mod data;
mod export;
mod queue;
mod read;
mod sample;
mod span;
mod told;

use std::sync::Arc;
use std::time::Instant;

use http::HeaderMap;
use tonic::Code;

use super::{Outcome, Traffic};
use crate::reason::Reason;

pub use carried::{BAGGAGE_BYTES, BAGGAGE_MEMBERS, STATE_BYTES, STATE_MEMBERS};
pub use collector::{BEGIN_LIMIT, Collector, Resource, collector_url};
pub use context::{Context, SpanId, TraceId};
pub use data::ORIGINAL;
pub use export::{EXPORT_EVERY, EXPORT_LIMIT, FLUSH_LIMIT, RETRIES};
pub use queue::{BATCH, BATCH_BYTES, QUEUE, QUEUE_BYTES, SHARE_OF_ERRORS, SpanCounters};
pub use read::strip;
pub use sample::Ratio;
pub use span::{CallSpan, Facts, Kind, Reached, Sent, Why, name_of};
pub use told::EVENTS;

use queue::Queue;
use read::Read;
use span::Begun;

/// Begins the spans of calls.
#[derive(Debug, Default)]
pub struct Tracing(Option<On>);

#[derive(Debug)]
struct On {
    share: Ratio,
    errors: bool,
    queue: Arc<Queue>,
}

impl Tracing {
    /// No call is looked at: what its headers say of a trace goes on as it is.
    #[must_use]
    pub fn off() -> Self {
        Self::default()
    }

    /// This share of the traces that begin here is recorded, and of the others, where `errors` says
    /// so, each call that fails. What others began they decided.
    #[must_use]
    pub fn to(collector: &Collector, share: Ratio, errors: bool) -> Self {
        Self(Some(On {
            share,
            errors,
            queue: collector.queue(),
        }))
    }

    /// Begins the span of a call that came at `arrived` with these headers. `linked` is another
    /// trace's, which it may not join. `facts` are asked for only where it is recorded.
    #[inline]
    #[must_use]
    pub fn begin<'a>(
        &self,
        headers: &HeaderMap,
        (arrived, linked): (Instant, Option<Context>),
        facts: impl FnOnce() -> Facts<'a>,
    ) -> CallSpan {
        match &self.0 {
            None => CallSpan::default(),
            Some(on) => on.begin(headers, (arrived, linked), facts),
        }
    }

    /// The span of a call that the mesh refuses before it is known what it is for.
    pub fn refused<'a>(
        &self,
        headers: &HeaderMap,
        begun: (Instant, Option<Context>),
        facts: impl FnOnce() -> Facts<'a>,
        (code, reason, text): (Code, Reason, &str),
    ) {
        let mut span = self.begin(headers, begun, facts);
        span.refused(code, reason, text);
        span.ended(Outcome::Failed(reason), Traffic::default());
    }
}

impl On {
    fn begin<'a>(
        &self,
        headers: &HeaderMap,
        (arrived, linked): (Instant, Option<Context>),
        facts: impl FnOnce() -> Facts<'a>,
    ) -> CallSpan {
        let read = Read::of(headers);
        let amended = read.amended();
        let context = match read.parent {
            // Nobody here has anything to say of it.
            Some(parent) if !parent.sampled && !self.errors => {
                return CallSpan::passing(parent, amended);
            }
            Some(parent) => parent.child(),
            None => {
                let mut context = Context::new(false);
                context.sampled = self.share.takes(&context.trace);
                context
            }
        };
        if !context.sampled && !self.errors {
            return CallSpan::unrecorded(context, amended);
        }
        let begun = Begun {
            context,
            parent: read.parent.map(|parent| parent.span),
            linked,
            state: read.state(amended.as_deref()),
            arrived,
        };
        CallSpan::recorded(begun, amended, &facts(), &self.queue)
    }
}

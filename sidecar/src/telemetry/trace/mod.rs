//! Traces: what a call's headers say of its trace, whether it is recorded, its span, and the way of
//! spans to a collector. A span is made by hand and not through `tracing`: a sidecar may be linked
//! into a program whose subscriber is its own, several may be in one process, and a call that is
//! recorded for how it ended needs a span that began before anybody knew.
//!
//! A call that is not recorded costs one walk over its headers, and a new id for the app where it brings
//! none: what its caller's sidecar has decided takes a byte on the link, unless that sidecar keeps the id,
//! in its access log or for calls that fail.

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
    /// Are the ids of calls that are not recorded kept somewhere?
    keeps: bool,
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
            keeps: errors,
            queue: collector.queue(),
        }))
    }

    /// The ids of calls that are not recorded are kept, too.
    #[must_use]
    pub fn keeping_ids(mut self) -> Self {
        if let Some(on) = &mut self.0 {
            on.keeps = true;
        }
        self
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
            Some(on) => {
                let mut read = Read::of(headers);
                // Who is no sidecar cannot decide it so.
                read.unrecorded = false;
                on.begin(&read, (arrived, linked), facts)
            }
        }
    }

    /// Begins the span of a call that another sidecar sent on, which may have decided that it is not
    /// recorded.
    #[inline]
    #[must_use]
    pub fn begin_of_peer<'a>(
        &self,
        headers: &HeaderMap,
        arrived: Instant,
        facts: impl FnOnce() -> Facts<'a>,
    ) -> CallSpan {
        match &self.0 {
            None => CallSpan::default(),
            Some(on) => on.begin(&Read::of(headers), (arrived, None), facts),
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
        read: &Read<'_>,
        (arrived, linked): (Instant, Option<Context>),
        facts: impl FnOnce() -> Facts<'a>,
    ) -> CallSpan {
        let amended = read.amended();
        let context = match read.parent {
            // Nobody here has anything to say of it.
            Some(parent) if !parent.sampled && !self.errors => {
                return CallSpan::passing(parent, amended);
            }
            Some(parent) => parent.child(),
            None => {
                let mut context = Context::new(false);
                context.sampled = !read.unrecorded && self.share.takes(&context.trace);
                context
            }
        };
        if !context.sampled && !self.errors {
            let span = CallSpan::unrecorded(context, amended);
            return if self.keeps { span } else { span.nameless() };
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

#[cfg(test)]
mod tests {
    use http::{HeaderValue, Uri};

    use super::context::{TRACEPARENT, UNRECORDED};
    use super::*;

    fn tracing(share: f64, errors: bool) -> Tracing {
        Tracing(Some(On {
            share: Ratio::new(share).unwrap(),
            errors,
            keeps: errors,
            queue: Arc::new(Queue::new(Arc::default())),
        }))
    }

    fn headers(parent: Option<&'static str>) -> HeaderMap {
        let parent = parent.map(HeaderValue::from_static);
        parent
            .map(|value| (TRACEPARENT.parse().unwrap(), value))
            .into_iter()
            .collect()
    }

    fn begun(tracing: &Tracing, headers: &HeaderMap, of_peer: bool) -> CallSpan {
        let uri = Uri::from_static("/a.B/C");
        let facts = || Facts {
            kind: Kind::Client,
            uri: &uri,
            named: true,
            way: None,
            rule: None,
            node: None,
            destination: None,
        };
        let now = Instant::now();
        match of_peer {
            false => tracing.begin(headers, (now, None), facts),
            true => tracing.begin_of_peer(headers, now, facts),
        }
    }

    fn onward(span: &CallSpan, mut headers: HeaderMap, to_peer: bool) -> HeaderValue {
        span.onward(&mut headers, to_peer);
        headers.remove(TRACEPARENT).unwrap()
    }

    /// It says that it is not recorded, and in which trace.
    fn is_named(value: &HeaderValue) -> bool {
        Context::parse(value.as_bytes()).is_some_and(|context| !context.sampled)
    }

    #[test]
    fn what_is_not_recorded_takes_no_id_on_a_link_and_one_beside_an_app() {
        let span = begun(&tracing(0.0, false), &headers(None), false);
        assert_eq!(onward(&span, headers(None), true), UNRECORDED);
        assert!(is_named(&onward(&span, headers(None), false)));
        // Its ids are kept.
        for tracing in [tracing(0.0, false).keeping_ids(), tracing(0.0, true)] {
            let span = begun(&tracing, &headers(None), false);
            assert!(is_named(&onward(&span, headers(None), true)));
        }
    }

    #[test]
    fn a_sidecar_follows_what_the_one_before_it_has_decided() {
        let came = || headers(Some(UNRECORDED));
        for errors in [false, true] {
            let all = tracing(1.0, errors);
            let span = begun(&all, &came(), true);
            let context = span.context().unwrap();
            assert!(!context.sampled);
            let goes = onward(&span, came(), false);
            assert_eq!(goes, context.header());
            // An app cannot decide it so: to it that is no context.
            assert!(begun(&all, &came(), false).context().unwrap().sampled);
        }
        // Nor where it is said twice.
        let mut twice = came();
        twice.append(TRACEPARENT, HeaderValue::from_static(UNRECORDED));
        let span = begun(&tracing(1.0, false), &twice, true);
        assert!(span.context().unwrap().sampled);
    }

    #[test]
    fn what_others_do_not_record_goes_on_as_it_is_and_out_of_hpacks_table() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        for to_peer in [false, true] {
            let came = headers(Some(parent));
            let span = begun(&tracing(1.0, false), &came, to_peer);
            let goes = onward(&span, came, to_peer);
            assert!(goes == parent && goes.is_sensitive());
        }
    }
}

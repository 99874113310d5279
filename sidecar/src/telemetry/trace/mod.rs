//! Traces: what a call's headers say of its trace, whether it is recorded, its span, and the way of
//! spans to a collector. A span is made by hand and not through `tracing`: a sidecar may be linked
//! into a program whose subscriber is its own, several may be in one process, and a call that is
//! recorded for how it ended needs a span that began before anybody knew.
//!
//! A call that is not recorded costs one walk over its headers, and a new id for the app where it brings
//! none. On a link whose ends have agreed so it goes without a `traceparent`, which says as much, unless
//! its caller's sidecar keeps the id, in its access log or for calls that fail.

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
use span::{Begun, Named};

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

/// Who sends a call.
#[derive(Debug, Clone, Copy)]
pub enum By {
    /// Another sidecar.
    Peer {
        /// It has agreed to send without a `traceparent` what it does not record.
        unmarked: bool,
    },
    /// An app.
    App,
    /// A user, who names another trace, which the call may not join.
    User(Option<Context>),
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

    /// Does it keep no id of a call that it does not record? Then peers that know need none.
    #[must_use]
    pub fn leaves_unmarked(&self) -> bool {
        self.0.as_ref().is_some_and(|on| !on.keeps)
    }

    /// Begins the span of a call that came at `arrived` with these headers. `facts` are asked for only
    /// where it is recorded.
    #[inline]
    #[must_use]
    pub fn begin<'a>(
        &self,
        headers: &HeaderMap,
        arrived: Instant,
        by: By,
        facts: impl FnOnce() -> Facts<'a>,
    ) -> CallSpan {
        match &self.0 {
            None => CallSpan::default(),
            Some(on) => on.begin(headers, arrived, by, facts),
        }
    }

    /// The span of a call that the mesh refuses before it is known what it is for.
    pub fn refused<'a>(
        &self,
        headers: &HeaderMap,
        (arrived, by): (Instant, By),
        facts: impl FnOnce() -> Facts<'a>,
        (code, reason, text): (Code, Reason, &str),
    ) {
        let mut span = self.begin(headers, arrived, by, facts);
        span.refused(code, reason, text);
        span.ended(Outcome::Failed(reason), Traffic::default());
    }
}

impl On {
    fn begin<'a>(
        &self,
        headers: &HeaderMap,
        arrived: Instant,
        by: By,
        facts: impl FnOnce() -> Facts<'a>,
    ) -> CallSpan {
        let read = Read::of(headers);
        let (decided, linked) = match by {
            By::Peer { unmarked } => (unmarked && read.parents == 0, None),
            By::App => (false, None),
            By::User(linked) => (false, linked),
        };
        let amended = read.amended();
        let context = match read.parent {
            // Nobody here has anything to say of it.
            Some(parent) if !parent.sampled && !self.errors => {
                return CallSpan::passing(parent, amended);
            }
            Some(parent) => parent.child(),
            None => {
                let mut context = Context::new(false);
                context.sampled = !decided && self.share.takes(&context.trace);
                context
            }
        };
        if !context.sampled && !self.errors {
            let named = match self.keeps {
                true => Named::Always,
                false => Named::WhereAsked {
                    came: read.parents > 0,
                },
            };
            return CallSpan::unrecorded(context, named, amended);
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

    use super::context::TRACEPARENT;
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

    const APP: By = By::App;
    const PEER: By = By::Peer { unmarked: false };
    /// One that has agreed so.
    const AGREED: By = By::Peer { unmarked: true };
    /// It names no span.
    const NOTHING: &str = "00-00000000000000000000000000000000-0000000000000000-00";

    fn facts(uri: &Uri) -> Facts<'_> {
        Facts {
            kind: Kind::Client,
            uri,
            named: true,
            way: None,
            rule: None,
            node: None,
            destination: None,
        }
    }

    fn begun(tracing: &Tracing, headers: &HeaderMap, by: By) -> CallSpan {
        let uri = Uri::from_static("/a.B/C");
        tracing.begin(headers, Instant::now(), by, || facts(&uri))
    }

    fn is_sampled(tracing: &Tracing, headers: &HeaderMap, by: By) -> bool {
        begun(tracing, headers, by).context().unwrap().sampled
    }

    fn onward(span: &CallSpan, mut headers: HeaderMap, unmarked: bool) -> Option<HeaderValue> {
        span.onward(&mut headers, unmarked, || false);
        headers.remove(TRACEPARENT)
    }

    /// It says that it is not recorded, and in which trace.
    fn is_named(value: Option<HeaderValue>) -> bool {
        let context = value.and_then(|value| Context::parse(value.as_bytes()));
        context.is_some_and(|context| !context.sampled)
    }

    #[test]
    fn what_is_not_recorded_goes_without_an_id_only_where_that_is_agreed() {
        for came in [None, Some(NOTHING)] {
            let span = begun(&tracing(0.0, false), &headers(came), APP);
            assert_eq!(onward(&span, headers(came), true), None);
            assert!(is_named(onward(&span, headers(came), false)));
            // Its ids are kept.
            for tracing in [tracing(0.0, false).keeping_ids(), tracing(0.0, true)] {
                let span = begun(&tracing, &headers(came), APP);
                assert!(is_named(onward(&span, headers(came), true)));
            }
        }
    }

    #[test]
    fn only_who_keeps_no_id_agrees_to_send_none() {
        assert!(tracing(0.5, false).leaves_unmarked());
        assert!(!tracing(0.5, false).keeping_ids().leaves_unmarked());
        assert!(!tracing(0.5, true).leaves_unmarked());
        assert!(!Tracing::off().leaves_unmarked());
    }

    #[test]
    fn a_sidecar_follows_what_the_one_before_it_has_decided() {
        for errors in [false, true] {
            let all = tracing(1.0, errors);
            let span = begun(&all, &headers(None), AGREED);
            let context = span.context().unwrap();
            assert!(!context.sampled);
            let goes = onward(&span, headers(None), false);
            assert_eq!(goes, Some(context.header()));
            // Who has not agreed says nothing by it, and an app cannot.
            for by in [PEER, APP, By::User(None)] {
                assert!(is_sampled(&all, &headers(None), by));
            }
        }
        // What names no span, or two, is not what was agreed.
        let all = tracing(1.0, false);
        assert!(is_sampled(&all, &headers(Some(NOTHING)), AGREED));
        let mut twice = headers(Some(NOTHING));
        twice.append(TRACEPARENT, HeaderValue::from_static(NOTHING));
        assert!(is_sampled(&all, &twice, AGREED));
    }

    #[test]
    fn what_a_peer_does_not_record_is_not_recorded_where_it_is_refused_either() {
        let all = tracing(1.0, false);
        let uri = Uri::from_static("/a.B/C");
        let recorded = |by: By| {
            let why = (Code::Unimplemented, Reason::UnknownService, "no service");
            let began = (Instant::now(), by);
            all.refused(&headers(None), began, || facts(&uri), why);
            let queue = &all.0.as_ref().unwrap().queue;
            queue.take(true).map_or(0, |batch| batch.len())
        };
        assert_eq!(recorded(AGREED), 0);
        for by in [PEER, APP, By::User(None)] {
            assert_eq!(recorded(by), 1, "{by:?}");
        }
    }

    #[test]
    fn what_others_do_not_record_goes_on_as_it_is() {
        let parent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        for (by, unmarked) in [(APP, true), (AGREED, false)] {
            let came = headers(Some(parent));
            let span = begun(&tracing(1.0, false), &came, by);
            assert_eq!(onward(&span, came, unmarked).unwrap(), parent);
        }
    }

    #[test]
    fn only_the_first_on_a_connection_gets_into_hpacks_table() {
        let unsampled = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
        for came in [None, Some(unsampled)] {
            let span = begun(&tracing(1.0, false), &headers(came), APP);
            for first in [true, false] {
                let mut goes = headers(came);
                span.onward(&mut goes, false, || first);
                assert_eq!(goes[TRACEPARENT].is_sensitive(), !first, "{came:?}");
            }
        }
    }
}

//! Spans that wait to be sent. A call puts its span there and goes on, whatever becomes of it: what
//! finds no room is counted, and so is what is sent and not taken. Bound by number, and by size: a
//! span holds its call's path, which may be long.

use std::collections::VecDeque;
use std::mem::size_of;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use opentelemetry::trace::{Event, Link, Status};
use opentelemetry::{KeyValue, Value};
use opentelemetry_sdk::trace::SpanData;
use tokio::sync::Notify;

use super::super::metrics::{heading, line};
use super::super::target::add;

/// Spans that wait at most; about 2 KB each.
pub const QUEUE: usize = 4_096;
/// Bytes of spans that wait at most.
pub const QUEUE_BYTES: usize = 16 << 20;
/// Of both, this part is for spans that are sent only because their calls failed: when all fail,
/// the traces that were chosen still have room.
pub const SHARE_OF_ERRORS: usize = 4;
/// Spans that are sent at once at most.
pub const BATCH: usize = 512;
/// Bytes of spans that are sent at once at most, but for a single one that is larger. Collectors take
/// messages of 4 MiB where nobody has told them otherwise.
pub const BATCH_BYTES: usize = 1 << 20;

/// What became of spans.
#[derive(Debug, Default)]
pub struct SpanCounters {
    exported: AtomicU64,
    failed: AtomicU64,
    dropped: AtomicU64,
    queued: AtomicU64,
}

impl SpanCounters {
    pub(in crate::telemetry) fn render(&self, text: &mut String) {
        let all = [
            (
                "sidelane_spans_exported_total",
                "counter",
                "Spans that the collector took.",
                &self.exported,
            ),
            (
                "sidelane_spans_failed_total",
                "counter",
                "Spans that were sent and not taken.",
                &self.failed,
            ),
            (
                "sidelane_spans_dropped_total",
                "counter",
                "Spans for which there was no room among those that wait.",
                &self.dropped,
            ),
            (
                "sidelane_spans_queued",
                "gauge",
                "Spans that wait to be sent.",
                &self.queued,
            ),
        ];
        for (name, kind, help, counter) in all {
            heading(text, name, kind, help);
            line(text, name, "", counter.load(Ordering::Relaxed));
        }
    }
}

/// The queue.
#[derive(Debug)]
pub(super) struct Queue {
    waiting: Mutex<Waiting>,
    /// There are enough for a batch.
    due: Notify,
    counters: Arc<SpanCounters>,
}

#[derive(Debug, Default)]
struct Waiting {
    /// Each with its bytes, the oldest first.
    spans: VecDeque<(usize, SpanData)>,
    bytes: usize,
    /// Those of them that are sent only because their calls failed, and their bytes.
    errors: (usize, usize),
    /// Nobody takes more of them.
    closed: bool,
}

/// Spans that are being sent. What nobody says was taken was not, also where this is dropped.
#[derive(Debug)]
pub(super) struct Batch {
    spans: Vec<SpanData>,
    unsettled: u64,
    counters: Arc<SpanCounters>,
}

impl Queue {
    pub(super) fn new(counters: Arc<SpanCounters>) -> Self {
        Self {
            waiting: Mutex::default(),
            due: Notify::new(),
            counters,
        }
    }

    /// Is there room for another span, of a trace that was chosen or of a call that failed? Without, it
    /// counts as dropped.
    pub(super) fn has_room(&self, sampled: bool) -> bool {
        let room = self.waiting().has_room(sampled, 0);
        if !room {
            add(&self.counters.dropped);
        }
        room
    }

    pub(super) fn push(&self, span: SpanData) {
        let bytes = bytes_of(&span);
        let sampled = span.span_context.is_sampled();
        let mut waiting = self.waiting();
        if !waiting.has_room(sampled, bytes) {
            add(&self.counters.dropped);
            return;
        }
        let was_due = waiting.is_due();
        waiting.spans.push_back((bytes, span));
        waiting.bytes += bytes;
        if !sampled {
            let (errors, of_errors) = waiting.errors;
            waiting.errors = (errors + 1, of_errors + bytes);
        }
        self.count(&waiting);
        if waiting.is_due() && !was_due {
            self.due.notify_one();
        }
    }

    /// Waits until there are enough for a batch.
    pub(super) async fn due(&self) {
        self.due.notified().await;
    }

    /// The oldest of them: a whole batch, or where `all` says so, or nobody adds to them, what there is.
    pub(super) fn take(&self, all: bool) -> Option<Batch> {
        let mut waiting = self.waiting();
        if !(all || waiting.closed || waiting.is_due()) {
            return None;
        }
        let (mut spans, mut bytes) = (Vec::new(), 0);
        while let Some((more, _)) = waiting.spans.front()
            && (spans.is_empty() || bytes + more <= BATCH_BYTES)
            && spans.len() < BATCH
        {
            let (more, span) = waiting.spans.pop_front()?;
            bytes += more;
            if !span.span_context.is_sampled() {
                let (errors, of_errors) = waiting.errors;
                waiting.errors = (errors - 1, of_errors - more);
            }
            spans.push(span);
        }
        waiting.bytes -= bytes;
        self.count(&waiting);
        (!spans.is_empty()).then(|| Batch {
            unsettled: spans.len() as u64,
            spans,
            counters: Arc::clone(&self.counters),
        })
    }

    /// From now on nobody adds to them.
    pub(super) fn close(&self) {
        self.waiting().closed = true;
        self.due.notify_one();
    }

    pub(super) fn is_closed(&self) -> bool {
        self.waiting().closed
    }

    /// Those that are left will not be sent; how many they are.
    pub(super) fn abandon(&self) -> u64 {
        let mut waiting = self.waiting();
        let left = std::mem::take(&mut waiting.spans).len() as u64;
        (waiting.bytes, waiting.errors, waiting.closed) = (0, (0, 0), true);
        self.count(&waiting);
        self.counters.dropped.fetch_add(left, Ordering::Relaxed);
        left
    }

    fn count(&self, waiting: &Waiting) {
        let queued = &self.counters.queued;
        queued.store(waiting.spans.len() as u64, Ordering::Relaxed);
    }

    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Waiting {
    fn has_room(&self, sampled: bool, bytes: usize) -> bool {
        let fits = |(spans, of_them): (usize, usize), share: usize| {
            spans < QUEUE / share && of_them + bytes <= QUEUE_BYTES / share
        };
        let all = fits((self.spans.len(), self.bytes), 1);
        !self.closed && all && (sampled || fits(self.errors, SHARE_OF_ERRORS))
    }

    fn is_due(&self) -> bool {
        self.spans.len() >= BATCH || self.bytes >= BATCH_BYTES
    }
}

impl Batch {
    /// What is to be sent; asked for once.
    pub(super) fn spans(&mut self) -> Vec<SpanData> {
        std::mem::take(&mut self.spans)
    }

    pub(super) fn len(&self) -> u64 {
        self.unsettled
    }

    /// The collector took all of them but these.
    pub(super) fn taken_but(mut self, rejected: u64) {
        let rejected = rejected.min(self.unsettled);
        let taken = std::mem::replace(&mut self.unsettled, rejected) - rejected;
        self.counters.exported.fetch_add(taken, Ordering::Relaxed);
    }
}

impl Drop for Batch {
    fn drop(&mut self) {
        let counters = &self.counters;
        counters.failed.fetch_add(self.unsettled, Ordering::Relaxed);
    }
}

/// What a span takes here, and at most what it takes when it is sent.
fn bytes_of(span: &SpanData) -> usize {
    let said = |attributes: &[KeyValue]| -> usize {
        let each = attributes.iter().map(|it| {
            let value = match &it.value {
                Value::String(text) => text.as_str().len(),
                _ => 0,
            };
            size_of::<KeyValue>() + it.key.as_str().len() + value
        });
        each.sum()
    };
    let events = span.events.events.iter();
    let events: usize = events
        .map(|event| size_of::<Event>() + event.name.len() + said(&event.attributes))
        .sum();
    let status = match &span.status {
        Status::Error { description } => description.len(),
        _ => 0,
    };
    let links = size_of::<Link>() * span.links.links.len();
    let state = span.span_context.trace_state().header().len();
    let texts = span.name.len() + state + status;
    size_of::<SpanData>() + texts + said(&span.attributes) + events + links
}

#[cfg(test)]
pub(super) mod tests {
    use std::time::SystemTime;

    use opentelemetry::InstrumentationScope;
    use opentelemetry::trace::{SpanContext, SpanId, SpanKind, TraceFlags, TraceId, TraceState};
    use opentelemetry_proto::tonic::trace::v1::Span;
    use opentelemetry_sdk::trace::{SpanEvents, SpanLinks};
    use prost::Message as _;

    use super::*;

    impl SpanCounters {
        /// Exported, failed, dropped, and queued.
        pub(in super::super) fn all(&self) -> [u64; 4] {
            [&self.exported, &self.failed, &self.dropped, &self.queued]
                .map(|counter| counter.load(Ordering::Relaxed))
        }
    }

    /// A span that has this name, so often.
    pub(in super::super) fn span(name: &str) -> SpanData {
        let now = SystemTime::now();
        let said = || {
            vec![
                KeyValue::new("rpc.method", name.to_owned()),
                KeyValue::new("a", 7),
            ]
        };
        let mut events = SpanEvents::default();
        events
            .events
            .push(Event::new("sidelane.attempt", now, said(), 0));
        SpanData {
            span_context: SpanContext::new(
                TraceId::from(7),
                SpanId::from(7),
                TraceFlags::SAMPLED,
                false,
                TraceState::NONE,
            ),
            parent_span_id: SpanId::from(8),
            parent_span_is_remote: true,
            span_kind: SpanKind::Server,
            name: name.to_owned().into(),
            start_time: now,
            end_time: now,
            attributes: said(),
            dropped_attributes_count: 0,
            events,
            links: SpanLinks::default(),
            status: Status::error(name.to_owned()),
            instrumentation_scope: InstrumentationScope::default(),
        }
    }

    fn queue() -> (Queue, Arc<SpanCounters>) {
        let counters = Arc::<SpanCounters>::default();
        (Queue::new(Arc::clone(&counters)), counters)
    }

    #[test]
    fn beyond_so_many_spans_each_one_is_dropped_and_counted() {
        let (queue, counters) = queue();
        for _ in 0..QUEUE + 10 {
            queue.push(span("short"));
        }
        assert_eq!(counters.all(), [0, 0, 10, QUEUE as u64]);
        // The oldest go first, and make room.
        let batch = queue.take(false).unwrap();
        assert_eq!(batch.len(), BATCH as u64);
        queue.push(span("short"));
        batch.taken_but(0);
        let queued = (QUEUE - BATCH + 1) as u64;
        assert_eq!(counters.all(), [BATCH as u64, 0, 10, queued]);
        // Nothing of them is forgotten at the end.
        queue.close();
        queue.push(span("late"));
        assert_eq!(queue.abandon(), queued);
        assert_eq!(counters.all(), [BATCH as u64, 0, 11 + queued, 0]);
    }

    /// The same of a trace that was not chosen.
    fn failed(name: &str) -> SpanData {
        let mut span = span(name);
        let (trace, id) = (TraceId::from(7), SpanId::from(9));
        let flags = TraceFlags::default();
        span.span_context = SpanContext::new(trace, id, flags, false, TraceState::NONE);
        span
    }

    #[test]
    fn calls_that_fail_leave_room_for_the_traces_that_were_chosen() {
        let share = QUEUE / SHARE_OF_ERRORS;
        let (queue, counters) = queue();
        for _ in 0..QUEUE {
            queue.push(failed("short"));
        }
        let beyond = (QUEUE - share) as u64;
        assert_eq!(counters.all(), [0, 0, beyond, share as u64]);
        assert!(!queue.has_room(false) && queue.has_room(true));
        for _ in 0..QUEUE - share {
            queue.push(span("short"));
        }
        assert_eq!(counters.all(), [0, 0, beyond + 1, QUEUE as u64]);
        // Those that were sent make room for as many.
        let taken = queue.take(false).unwrap().len();
        for _ in 0..BATCH {
            queue.push(failed("short"));
        }
        assert_eq!(taken, BATCH as u64);
        assert_eq!(counters.all()[2..], [beyond + 1, QUEUE as u64]);
        let (queue, counters) = self::queue();
        let long = "n".repeat(64 << 10);
        let room = QUEUE_BYTES / SHARE_OF_ERRORS / bytes_of(&failed(&long));
        for _ in 0..room + 3 {
            queue.push(failed(&long));
        }
        queue.push(span(&long));
        assert_eq!(counters.all(), [0, 0, 3, room as u64 + 1]);
    }

    #[test]
    fn beyond_so_many_bytes_too() {
        let (queue, counters) = queue();
        let long = "n".repeat(16 << 10);
        let each = bytes_of(&span(&long));
        let room = QUEUE_BYTES / each;
        assert!(room < QUEUE);
        for _ in 0..room + 10 {
            queue.push(span(&long));
        }
        assert_eq!(counters.all(), [0, 0, 10, room as u64]);
        let batch = queue.take(false).unwrap();
        assert_eq!(batch.len(), (BATCH_BYTES / each) as u64);
        // A larger one goes by itself.
        let (queue, _) = self::queue();
        queue.push(span(&"n".repeat(BATCH_BYTES)));
        queue.push(span("short"));
        assert_eq!(queue.take(false).unwrap().len(), 1);
        assert!(queue.take(false).is_none());
        assert_eq!(queue.take(true).unwrap().len(), 1);
    }

    #[test]
    fn what_is_sent_is_no_longer_than_it_was_counted() {
        for name in ["", "shop.v1.Orders/Get", &"n".repeat(70_000)] {
            let span = span(name);
            let counted = bytes_of(&span);
            let sent = Span::from(span).encoded_len();
            assert!(sent <= counted, "{sent} of {counted}");
        }
    }

    #[test]
    fn what_nobody_took_has_failed_also_where_only_some_were_rejected() {
        let (queue, counters) = queue();
        for _ in 0..10 {
            queue.push(span("short"));
        }
        drop(queue.take(true));
        assert_eq!(counters.all(), [0, 10, 0, 0]);
        for rejected in [3, 100] {
            for _ in 0..10 {
                queue.push(span("short"));
            }
            queue.take(true).unwrap().taken_but(rejected);
        }
        assert_eq!(counters.all(), [7, 23, 0, 0]);
    }
}

//! The figures of one lane: what its links to peers carry, and what waits in it. A link has a side:
//! the sidecar that dialled it sends calls on it, the one that accepted it takes them.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sidelane_proto::model::{ConnectionClass, Lane};

use super::metrics::{heading, line};
use super::target::add;

/// The one figure with a direction.
const BYTES: &str = "sidelane_lane_bytes_total";

/// Who opened a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Side {
    /// This sidecar.
    Dialled,
    /// The peer.
    Accepted,
}

impl Side {
    /// The label's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Dialled => "dialled",
            Self::Accepted => "accepted",
        }
    }
}

/// The counters of all links of one class, lane and side.
#[derive(Debug)]
pub struct LaneCounters {
    class: ConnectionClass,
    lane: Lane,
    side: Side,
    connections: AtomicU64,
    calls: AtomicU64,
    waiting: AtomicU64,
    full: AtomicU64,
    stalled: AtomicU64,
    stalls: AtomicU64,
    sent: AtomicU64,
    received: AtomicU64,
}

/// Counts something for as long as it lives.
#[derive(Debug)]
pub struct Counted {
    counters: Arc<LaneCounters>,
    gauge: fn(&LaneCounters) -> &AtomicU64,
}

impl Drop for Counted {
    fn drop(&mut self) {
        (self.gauge)(&self.counters).fetch_sub(1, Ordering::Relaxed);
    }
}

/// Whether one stream waits for room, and counts that in its lane, where it has one.
#[derive(Debug, Default)]
pub struct Stall {
    counters: Option<Arc<LaneCounters>>,
    open: bool,
    waiting: Option<Counted>,
}

impl Stall {
    /// Of a stream in this lane that begins now. Every stream waits once, until the connection has
    /// opened it; that is no stall.
    #[must_use]
    pub fn of_new(counters: Option<&Arc<LaneCounters>>) -> Self {
        Self {
            counters: counters.cloned(),
            open: false,
            waiting: None,
        }
    }

    /// Of a stream that the other side has opened.
    #[must_use]
    pub fn of_open(counters: Option<&Arc<LaneCounters>>) -> Self {
        Self {
            open: true,
            ..Self::of_new(counters)
        }
    }

    /// The stream has bytes and no room for them.
    pub fn begins(&mut self) {
        if self.open
            && self.waiting.is_none()
            && let Some(counters) = &self.counters
        {
            add(&counters.stalls);
            self.waiting = Some(counters.count(|counters| &counters.stalled));
        }
    }

    /// There is room.
    pub fn ends(&mut self) {
        self.open = true;
        self.waiting = None;
    }
}

impl LaneCounters {
    pub(super) fn new(class: ConnectionClass, lane: Lane, side: Side) -> Self {
        Self {
            class,
            lane,
            side,
            connections: AtomicU64::default(),
            calls: AtomicU64::default(),
            waiting: AtomicU64::default(),
            full: AtomicU64::default(),
            stalled: AtomicU64::default(),
            stalls: AtomicU64::default(),
            sent: AtomicU64::default(),
            received: AtomicU64::default(),
        }
    }

    /// A link that stands.
    #[must_use]
    pub fn connection(self: &Arc<Self>) -> Counted {
        self.count(|counters| &counters.connections)
    }

    /// A call on a link.
    #[must_use]
    pub fn call(self: &Arc<Self>) -> Counted {
        self.count(|counters| &counters.calls)
    }

    /// A call that waits for a link.
    #[must_use]
    pub fn waiting(self: &Arc<Self>) -> Counted {
        self.count(|counters| &counters.waiting)
    }

    /// An attempt found no room.
    pub fn full(&self) {
        add(&self.full);
    }

    /// So many bytes left.
    pub fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    /// So many bytes came.
    pub fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    fn count(self: &Arc<Self>, gauge: fn(&Self) -> &AtomicU64) -> Counted {
        add(gauge(self));
        Counted {
            counters: Arc::clone(self),
            gauge,
        }
    }

    fn labels(&self) -> String {
        let (class, lane, side) = (self.class, self.lane, self.side.name());
        format!("connection=\"{class}\",lane=\"{lane}\",side=\"{side}\"")
    }
}

/// All lanes as Prometheus text.
pub(super) fn render(text: &mut String, lanes: &mut [Arc<LaneCounters>]) {
    type Read = fn(&LaneCounters) -> &AtomicU64;
    lanes.sort_by_key(|it| (it.class.name(), it.lane.id(), it.side));
    let figures: [(&str, &str, &str, Read); 6] = [
        (
            "sidelane_lane_connections",
            "gauge",
            "Links between sidecars that stand.",
            |lane| &lane.connections,
        ),
        (
            "sidelane_lane_calls_in_flight",
            "gauge",
            "Calls open on links now.",
            |lane| &lane.calls,
        ),
        (
            "sidelane_lane_calls_waiting",
            "gauge",
            "Calls that wait for a link that is being dialled, or for room on full ones.",
            |lane| &lane.waiting,
        ),
        (
            "sidelane_lane_full_total",
            "counter",
            "Attempts that found no room.",
            |lane| &lane.full,
        ),
        (
            "sidelane_lane_streams_stalled",
            "gauge",
            "Streams that have bytes to send and no room: the window or the socket is full.",
            |lane| &lane.stalled,
        ),
        (
            "sidelane_lane_stalls_total",
            "counter",
            "How often streams found no room.",
            |lane| &lane.stalls,
        ),
    ];
    for (name, kind, help, read) in figures {
        heading(text, name, kind, help);
        // Only who dials waits for a link, or finds none.
        let dialling = name.ends_with("_waiting") || name.ends_with("_full_total");
        for lane in lanes.iter() {
            if lane.side == Side::Dialled || !dialling {
                line(
                    text,
                    name,
                    &lane.labels(),
                    read(lane).load(Ordering::Relaxed),
                );
            }
        }
    }
    heading(text, BYTES, "counter", "Bytes on links, with all framing.");
    for lane in lanes.iter() {
        for (direction, count) in [("sent", &lane.sent), ("received", &lane.received)] {
            let count = count.load(Ordering::Relaxed);
            let labels = lane.labels();
            let _ = writeln!(
                text,
                "{BYTES}{{{labels},direction=\"{direction}\"}} {count}"
            );
        }
    }
}

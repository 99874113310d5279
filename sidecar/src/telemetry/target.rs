//! The counters of one service in one direction.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use sidelane_proto::model::{ConnectionClass, Lane, ServiceName};

use crate::reason::Reason;

/// The upper bounds of the duration histogram, in seconds.
pub(super) const BUCKETS: [f64; 14] = [
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// From where the calls come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the local app.
    Outbound,
    /// From peers.
    Inbound,
}

impl Direction {
    /// The label's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// The counters of one service in one direction, one class and one lane.
#[derive(Debug)]
pub struct TargetCounters {
    pub(super) service: ServiceName,
    pub(super) direction: Direction,
    pub(super) class: ConnectionClass,
    pub(super) lane: Lane,
    pub(super) requests: AtomicU64,
    pub(super) in_flight: AtomicU64,
    pub(super) attempts: AtomicU64,
    /// By gRPC status, 0 to 16; the last is for what is none.
    pub(super) responses: [AtomicU64; 18],
    pub(super) errors: [AtomicU64; Reason::ALL.len()],
    pub(super) cancelled: AtomicU64,
    pub(super) buckets: [AtomicU64; BUCKETS.len() + 1],
    pub(super) nanoseconds: AtomicU64,
}

impl TargetCounters {
    pub(super) fn new(
        service: ServiceName,
        direction: Direction,
        (class, lane): (ConnectionClass, Lane),
    ) -> Self {
        Self {
            service,
            direction,
            class,
            lane,
            requests: AtomicU64::default(),
            in_flight: AtomicU64::default(),
            attempts: AtomicU64::default(),
            responses: Default::default(),
            errors: Default::default(),
            cancelled: AtomicU64::default(),
            buckets: Default::default(),
            nanoseconds: AtomicU64::default(),
        }
    }

    /// Another attempt of a call was sent on its way.
    pub fn attempt(&self) {
        add(&self.attempts);
    }

    /// How many calls there were, where none is open now.
    #[must_use]
    pub fn calls_at_rest(&self) -> Option<u64> {
        let open = self.in_flight.load(Ordering::Relaxed);
        (open == 0).then(|| self.requests.load(Ordering::Relaxed))
    }

    pub(super) fn took(&self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        let bucket = BUCKETS
            .iter()
            .position(|bound| seconds <= *bound)
            .unwrap_or(BUCKETS.len());
        add(&self.buckets[bucket]);
        let nanoseconds = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        self.nanoseconds.fetch_add(nanoseconds, Ordering::Relaxed);
    }
}

pub(super) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

//! What an endpoint has to do at present, as this sidecar sees it: its calls in flight, and how
//! long it takes to answer. Calls change it while nobody holds the hub, so it is shared.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::latency::Latency;

/// The load of one generation of an endpoint.
#[derive(Debug, Default)]
pub(super) struct Load {
    in_flight: AtomicU64,
    /// The calls in flight of the whole hub; this one's are among them.
    all: Arc<AtomicU64>,
    latency: Mutex<Latency>,
}

/// Counts as one call in flight on one generation of an endpoint, until it is dropped. What the
/// call meets there is told to it.
#[derive(Debug)]
#[must_use = "dropped, it no longer counts"]
pub struct InFlight(Arc<Load>);

impl Load {
    pub(super) fn new(all: &Arc<AtomicU64>) -> Self {
        Self {
            all: Arc::clone(all),
            ..Self::default()
        }
    }

    pub(super) fn in_flight(&self) -> u64 {
        self.in_flight.load(Ordering::Relaxed)
    }

    pub(super) fn latency(&self, now: Instant) -> Option<Duration> {
        self.with(|latency| latency.at(now))
    }

    fn with<T>(&self, change: impl FnOnce(&mut Latency) -> T) -> T {
        // An estimate is replaced as a whole: a panic cannot leave half of one.
        let mut latency = self.latency.lock().unwrap_or_else(PoisonError::into_inner);
        change(&mut latency)
    }
}

impl InFlight {
    pub(super) fn new(load: &Arc<Load>) -> Self {
        // Relaxed: figures, by which nothing else is ordered.
        load.in_flight.fetch_add(1, Ordering::Relaxed);
        load.all.fetch_add(1, Ordering::Relaxed);
        Self(Arc::clone(load))
    }

    /// How many calls are in flight there, this one included.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.0.in_flight()
    }

    /// The endpoint began to answer, so long after the call was sent.
    pub fn answered(&self, latency: Duration, now: Instant) {
        self.0.with(|it| it.answered(latency, now));
    }

    /// The call failed there, or was turned away. It counts as a slow answer.
    pub fn failed(&self, latency: Duration, now: Instant) {
        self.0.with(|it| it.failed(latency, now));
    }

    /// The caller gave up before there was an answer.
    pub fn given_up(&self, waited: Duration, now: Instant) {
        self.0.with(|it| it.given_up(waited, now));
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.0.all.fetch_sub(1, Ordering::Relaxed);
    }
}

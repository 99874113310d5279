//! What an endpoint has to do at present, as this sidecar sees it: its calls in flight, and how
//! long it takes to answer. Calls change it while nobody holds the hub, so it is shared.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::circuit::{Circuit, Ticket, Verdict};
use super::latency::Latency;
use super::trips::Trips;

/// The load of one generation of an endpoint.
#[derive(Debug)]
pub(super) struct Load {
    in_flight: AtomicU64,
    /// The calls in flight of the whole hub; this one's are among them.
    all: Arc<AtomicU64>,
    latency: Mutex<Latency>,
    circuit: Mutex<Circuit>,
    /// Of the whole hub: told when a breaker changes.
    trips: Arc<Trips>,
}

/// Counts as one call in flight on one generation of an endpoint, until it is dropped. What the
/// call meets there is told to it.
#[derive(Debug)]
#[must_use = "dropped, it no longer counts"]
pub struct InFlight {
    load: Arc<Load>,
    /// What the breaker is to be told with. `None` in standard mode: who names a node decides for
    /// itself how often to ask it.
    ticket: Option<Ticket>,
    /// The breaker was told.
    told: AtomicBool,
}

impl Load {
    pub(super) fn new(all: &Arc<AtomicU64>, circuit: Circuit, trips: &Arc<Trips>) -> Self {
        Self {
            in_flight: AtomicU64::default(),
            all: Arc::clone(all),
            latency: Mutex::default(),
            circuit: Mutex::new(circuit),
            trips: Arc::clone(trips),
        }
    }

    /// The breaker, for a few instructions.
    pub(super) fn circuit(&self) -> MutexGuard<'_, Circuit> {
        // It is plain figures: a panic cannot leave anything in it that time does not mend.
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
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
    pub(super) fn new(load: &Arc<Load>, ticket: Option<Ticket>) -> Self {
        // Relaxed: figures, by which nothing else is ordered.
        load.in_flight.fetch_add(1, Ordering::Relaxed);
        load.all.fetch_add(1, Ordering::Relaxed);
        Self {
            load: Arc::clone(load),
            ticket,
            told: AtomicBool::new(false),
        }
    }

    /// How many calls are in flight there, this one included.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.load.in_flight()
    }

    /// The endpoint began to answer, so long after the call was sent.
    pub fn answered(&self, latency: Duration, now: Instant) {
        self.load.with(|it| it.answered(latency, now));
    }

    /// The call failed there, or was turned away. It counts as a slow answer.
    pub fn failed(&self, latency: Duration, now: Instant) {
        self.load.with(|it| it.failed(latency, now));
    }

    /// The caller gave up before there was an answer.
    pub fn given_up(&self, waited: Duration, now: Instant) {
        self.load.with(|it| it.given_up(waited, now));
    }

    /// What came of the call as far as the endpoint's breaker goes. The first word counts. `random`
    /// is any number from 0 to 1.
    pub fn verdict(&self, verdict: Verdict, random: f64, now: Instant) {
        let Some(ticket) = self.ticket else { return };
        if self.told.swap(true, Ordering::Relaxed) {
            return;
        }
        let change = self.load.circuit().tell(ticket, verdict, random, now);
        if ticket.is_probe() || change.is_some() {
            self.load.trips.changed(change);
        }
    }

    /// Is it to show whether the endpoint is well again?
    #[must_use]
    pub fn is_probe(&self) -> bool {
        self.ticket.is_some_and(Ticket::is_probe)
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        self.load.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.load.all.fetch_sub(1, Ordering::Relaxed);
        // A probe of which nothing was learned makes room for another.
        if let Some(ticket) = self.ticket
            && ticket.is_probe()
            && !self.told.load(Ordering::Relaxed)
            && self.load.circuit().abandon(ticket)
        {
            self.load.trips.changed(None);
        }
    }
}

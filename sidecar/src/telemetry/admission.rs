//! The figures of what a service admits at once, and of what is held back on purpose.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sidelane_proto::model::ServiceName;

use super::metrics::{heading, line};
use super::target::add;

/// The counters of one service whose rule says what it admits.
#[derive(Debug, Default)]
pub struct AdmissionCounters {
    limit: AtomicU64,
    in_flight: AtomicU64,
    waiting: AtomicU64,
    refused: AtomicU64,
    samples: AtomicU64,
    delayed: AtomicU64,
    beyond_shares: AtomicU64,
}

/// Counts a call that waits for a place, for as long as it lives.
#[derive(Debug)]
pub struct WaitingForPlace(Arc<AdmissionCounters>);

impl Drop for WaitingForPlace {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

impl AdmissionCounters {
    /// So many calls at once are admitted.
    pub fn limit(&self, calls: u32) {
        self.limit.store(calls.into(), Ordering::Relaxed);
    }

    /// A call has a place.
    pub fn entered(&self) {
        add(&self.in_flight);
    }

    /// It gave it back.
    pub fn left(&self) {
        self.in_flight.fetch_sub(1, Ordering::Relaxed);
    }

    /// A call waits for a place.
    #[must_use]
    pub fn waiting(self: &Arc<Self>) -> WaitingForPlace {
        add(&self.waiting);
        WaitingForPlace(Arc::clone(self))
    }

    /// There was no place for a call.
    pub fn refused(&self) {
        add(&self.refused);
    }

    /// The bound learned from a call.
    pub fn sampled(&self) {
        add(&self.samples);
    }

    /// A limit tells as many shares apart as it can, and a call is of another one.
    pub fn beyond_shares(&self) {
        add(&self.beyond_shares);
    }

    /// How often that was.
    #[cfg(test)]
    pub(crate) fn beyond(&self) -> u64 {
        self.beyond_shares.load(Ordering::Relaxed)
    }

    /// A call was held back on purpose.
    pub fn delayed(&self) {
        add(&self.delayed);
    }
}

/// All services as Prometheus text.
pub(super) fn render(text: &mut String, services: &[(ServiceName, Arc<AdmissionCounters>)]) {
    type Read = fn(&AdmissionCounters) -> &AtomicU64;
    let figures: [(&str, &str, &str, Read); 7] = [
        (
            "sidelane_concurrency_limit",
            "gauge",
            "Calls that are admitted to the local service at once; 0 where there is no bound.",
            |it| &it.limit,
        ),
        (
            "sidelane_concurrency_in_flight",
            "gauge",
            "Calls that have a place at the local service now.",
            |it| &it.in_flight,
        ),
        (
            "sidelane_concurrency_waiting",
            "gauge",
            "Calls that wait for a place at the local service.",
            |it| &it.waiting,
        ),
        (
            "sidelane_concurrency_refused_total",
            "counter",
            "Calls that found no place at the local service.",
            |it| &it.refused,
        ),
        (
            "sidelane_concurrency_samples_total",
            "counter",
            "Calls whose time said how many the local service can do at once.",
            |it| &it.samples,
        ),
        (
            "sidelane_faults_delayed_total",
            "counter",
            "Calls that were held back on purpose.",
            |it| &it.delayed,
        ),
        (
            "sidelane_limit_beyond_shares_total",
            "counter",
            "Calls of callers, methods or lanes beyond the 4096 shares that a limit tells apart: they \
             have one share together.",
            |it| &it.beyond_shares,
        ),
    ];
    for (name, kind, help, read) in figures {
        if services.is_empty() {
            return;
        }
        heading(text, name, kind, help);
        for (service, counters) in services {
            let labels = format!("service=\"{service}\"");
            line(text, name, &labels, read(counters).load(Ordering::Relaxed));
        }
    }
}

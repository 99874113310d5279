//! Breakers of a hub, as far as they concern all of it: that one has changed, how often that
//! happened, and which endpoints fail more often than the others do. Calls end while nobody holds the
//! hub, so they leave word here, and the next pick puts the endpoints where they belong.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use sidelane_proto::model::{Breaker, Outlier};

use super::circuit::{Cause, Change, Stand};
use super::hub::Hub;

/// How often endpoints are compared with each other: calls are counted over seconds.
const COMPARE_EVERY: Duration = Duration::from_secs(1);

/// What endpoints share.
#[derive(Debug, Default)]
pub(super) struct Trips {
    news: AtomicBool,
    changes: [AtomicU64; 3],
}

impl Trips {
    /// A breaker is not what it was, or has room for another probe.
    pub(super) fn changed(&self, change: Option<Change>) {
        if let Some(change) = change {
            self.changes[change as usize].fetch_add(1, Ordering::Relaxed);
        }
        self.news.store(true, Ordering::Release);
    }
}

/// When a hub looks at its breakers again.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Due {
    /// The first that is open may be probed.
    probe: Option<Instant>,
    /// Endpoints are compared.
    compare: Option<Instant>,
    /// One is half-open and waits for a probe.
    pub(super) now: bool,
}

impl Hub {
    /// Goes by these from now on. Without a breaker that somebody wrote down, that of
    /// [`Breaker::DEFAULT`] steers and refuses nothing: a few calls with too little time must not
    /// shut a service for all others.
    pub fn set_breaker(&mut self, written: Option<Breaker>, outlier: Outlier, now: Instant) {
        self.outlier = outlier;
        let breaker = written.unwrap_or(Breaker::DEFAULT);
        // Switched off in an emergency: nobody waits for a probe then.
        let all_off = breaker.off && outlier.off;
        if self.breaker == breaker && self.refuses == written.is_some() && !all_off {
            return;
        }
        self.breaker = breaker;
        self.refuses = written.is_some();
        for held in &self.held {
            let mut circuit = held.load.circuit();
            circuit.tune(breaker, now);
            if all_off {
                circuit.release(now);
            }
        }
        self.trips.changed(None);
    }

    /// How often breakers changed: to open, to half-open, to closed.
    pub fn breaker_changes(&self) -> impl Iterator<Item = (Change, u64)> {
        let changes = [Change::Opened, Change::HalfOpened, Change::Closed];
        let counts = changes.into_iter().zip(&self.trips.changes);
        counts.map(|(change, count)| (change, count.load(Ordering::Relaxed)))
    }

    /// How many endpoints no call should go to because of their breakers.
    #[must_use]
    pub fn tripped(&self) -> usize {
        self.held.iter().filter(|held| held.blocked).count()
    }

    /// Puts endpoints where their breakers say, if anything has changed or is due. Nearly always
    /// nothing is.
    #[inline]
    pub fn settle_breakers(&mut self, now: Instant) {
        let past = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        if past(self.due.compare) {
            self.compare(now);
        }
        if self.trips.news.load(Ordering::Acquire) || past(self.due.probe) {
            self.look_at_breakers(now);
        }
    }

    /// Begins to compare, once there is anything to compare.
    pub(super) fn compare_later(&mut self, now: Instant) {
        self.due.compare = self.due.compare.or(now.checked_add(COMPARE_EVERY));
    }

    fn look_at_breakers(&mut self, now: Instant) {
        self.trips.news.store(false, Ordering::Release);
        (self.due.probe, self.due.now) = (None, false);
        for slot in 0..self.held.len() {
            let held = &mut self.held[slot];
            let (stand, due, epoch) = {
                let circuit = held.load.circuit();
                (circuit.stand(now), circuit.due(), circuit.epoch())
            };
            held.epoch = epoch;
            held.guarded = stand != Stand::Closed;
            held.blocked = matches!(stand, Stand::Open(_) | Stand::HalfOpen { free: false });
            self.due.now |= matches!(stand, Stand::HalfOpen { free: true });
            if let Some(due) = due.filter(|_| held.blocked) {
                let first = self.due.probe.map_or(due, |probe| probe.min(due));
                self.due.probe = Some(first);
            }
            self.regroup(slot);
        }
    }

    /// Opens the breakers of those whose share of successes is far below the mean of the others',
    /// the worst first. Standard deviations are no measure here: among four endpoints none can be
    /// more than 1.5 of them below the mean, however bad it is.
    fn compare(&mut self, now: Instant) {
        self.due.compare = now.checked_add(COMPARE_EVERY);
        let Outlier {
            off,
            below_mean,
            min_calls,
            max_percent,
        } = self.outlier;
        if off {
            return;
        }
        let shares = self.held.iter().enumerate().filter_map(|(slot, held)| {
            let share = held.load.circuit().share(min_calls, now)?;
            Some((share, slot))
        });
        let mut shares: Vec<(u32, usize)> = shares.collect();
        shares.sort_unstable();
        // Those that are left alone for whatever reason count: the rest carries the load.
        let mut open = self.tripped();
        let part = usize::try_from(max_percent).unwrap_or(100);
        let mut rest = shares.as_slice();
        while let Some(((share, slot), others)) = rest.split_first()
            && !others.is_empty()
            && (open + 1) * 100 <= part * self.held.len()
        {
            let sum: u64 = others.iter().map(|(share, _)| u64::from(*share)).sum();
            let mean = sum / others.len() as u64;
            if u64::from(*share) + u64::from(below_mean) >= mean {
                break;
            }
            let held = &self.held[*slot];
            // No chance: other sidecars compare at other times, and see other calls.
            let cause = Cause::Outlier(*share);
            let change = held.load.circuit().open(cause, 0.0, now);
            self.trips.changed(Some(change));
            open += 1;
            rest = others;
        }
    }
}

//! What a server saw of the calls that named a key: when each arrived, with which deadline, and
//! whether it was finished or given up by its caller. "No call was executed twice" is read here.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use tokio::sync::watch;

use crate::wire::v1::Moment;

/// All calls that a server saw.
#[derive(Debug, Clone)]
pub struct Ledger {
    entries: Arc<Mutex<HashMap<String, Vec<Visit>>>>,
    /// Counts changes, so that somebody can wait for one.
    changes: watch::Sender<u64>,
}

/// One call, as its server saw it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Visit {
    /// When it began with it.
    pub arrived: SystemTime,
    /// The deadline, from then; `None` without one.
    pub remaining: Option<Duration>,
    /// When and how it ended; `None` while it goes on.
    pub ended: Option<(SystemTime, Moment)>,
}

/// Stands for a call while the server works on it. Dropped unfinished, it means that the caller
/// has given up.
#[derive(Debug)]
pub(super) struct Guard {
    ledger: Ledger,
    key: String,
    index: usize,
    finished: bool,
}

impl Default for Ledger {
    fn default() -> Self {
        Self {
            entries: Arc::default(),
            changes: watch::Sender::new(0),
        }
    }
}

impl Ledger {
    pub(super) fn arrive(&self, key: &str, remaining: Option<Duration>) -> Guard {
        let visit = Visit {
            arrived: SystemTime::now(),
            remaining,
            ended: None,
        };
        let mut entries = self.entries();
        let visits = entries.entry(key.to_owned()).or_default();
        visits.push(visit);
        let index = visits.len() - 1;
        drop(entries);
        self.changed();
        Guard {
            ledger: self.clone(),
            key: key.to_owned(),
            index,
            finished: false,
        }
    }

    /// The calls with this key, in the order of their arrival.
    #[must_use]
    pub fn visits(&self, key: &str) -> Vec<Visit> {
        self.entries().get(key).cloned().unwrap_or_default()
    }

    /// How many calls came so far; an empty key means all calls.
    #[must_use]
    pub fn count(&self, key: &str, moment: Moment) -> usize {
        let entries = self.entries();
        let counted = |visits: &Vec<Visit>| {
            let reached = visits
                .iter()
                .filter(|visit| visit.reached(moment).is_some());
            reached.count()
        };
        if key.is_empty() {
            entries.values().map(counted).sum()
        } else {
            entries.get(key).map_or(0, counted)
        }
    }

    /// How often each call was begun; those without a key are left out.
    #[must_use]
    pub fn counts(&self) -> Vec<(String, usize)> {
        let entries = self.entries();
        let keyed = entries.iter().filter(|(key, _)| !key.is_empty());
        keyed
            .map(|(key, visits)| (key.clone(), visits.len()))
            .collect()
    }

    /// The keys of all calls that were begun more than once.
    #[must_use]
    pub fn executed_more_than_once(&self) -> Vec<String> {
        let entries = self.entries();
        let twice = entries
            .iter()
            .filter(|(key, visits)| !key.is_empty() && visits.len() > 1);
        twice.map(|(key, _)| key.clone()).collect()
    }

    /// Waits until `count` calls with this key came so far, and returns when the last of them did
    /// and with which deadline it had come; `None` if they have not within this time.
    pub async fn reached(
        &self,
        key: &str,
        moment: Moment,
        count: usize,
        within: Duration,
    ) -> Option<(SystemTime, Option<Duration>)> {
        let mut changes = self.changes.subscribe();
        let found = || {
            let entries = self.entries();
            let visits = entries.get(key)?.iter();
            let mut reached =
                visits.filter_map(|visit| Some((visit.reached(moment)?, visit.remaining)));
            reached.nth(count.checked_sub(1)?)
        };
        let waiting = changes.wait_for(|_| found().is_some());
        tokio::time::timeout(within, waiting).await.ok()?.ok()?;
        found()
    }

    fn entries(&self) -> MutexGuard<'_, HashMap<String, Vec<Visit>>> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn changed(&self) {
        self.changes
            .send_modify(|count| *count = count.wrapping_add(1));
    }
}

impl Visit {
    /// When the call came so far, if it has.
    #[must_use]
    pub fn reached(&self, moment: Moment) -> Option<SystemTime> {
        match moment {
            Moment::Unspecified => None,
            Moment::Arrived => Some(self.arrived),
            Moment::Finished | Moment::Cancelled => {
                let ended = self.ended.filter(|(_, how)| *how == moment);
                ended.map(|(when, _)| when)
            }
        }
    }
}

impl Guard {
    /// The server has done what it wanted to do.
    pub(super) fn finish(&mut self) {
        if !self.finished {
            self.finished = true;
            self.end(Moment::Finished);
        }
    }

    fn end(&self, how: Moment) {
        if let Some(visits) = self.ledger.entries().get_mut(&self.key) {
            visits[self.index].ended = Some((SystemTime::now(), how));
        }
        self.ledger.changed();
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        if !self.finished {
            self.end(Moment::Cancelled);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    #[tokio::test]
    async fn a_call_is_finished_or_cancelled_and_counted_once() {
        let ledger = Ledger::default();
        let remaining = Some(Duration::from_secs(1));
        let mut first = ledger.arrive("a", remaining);
        let second = ledger.arrive("b", None);
        first.finish();
        drop(first);
        drop(second);
        assert_eq!(ledger.count("a", Moment::Finished), 1);
        assert_eq!(ledger.count("a", Moment::Cancelled), 0);
        assert_eq!(ledger.count("b", Moment::Cancelled), 1);
        assert_eq!(ledger.count("", Moment::Arrived), 2);
        assert_eq!(ledger.visits("a")[0].remaining, remaining);
        assert!(ledger.executed_more_than_once().is_empty());
        drop(ledger.arrive("a", None));
        assert_eq!(ledger.executed_more_than_once(), ["a"]);
    }

    #[tokio::test]
    async fn one_can_wait_for_a_call() {
        let ledger = Ledger::default();
        let waiting = ledger.reached("a", Moment::Cancelled, 2, SOON);
        let calls = async {
            drop(ledger.arrive("a", None));
            tokio::task::yield_now().await;
            drop(ledger.arrive("a", None));
        };
        let (reached, ()) = tokio::join!(waiting, calls);
        assert!(reached.is_some());
        let never = ledger.reached("a", Moment::Finished, 1, Duration::from_millis(1));
        assert_eq!(never.await, None);
    }
}

//! What came of a load, as tests ask for it and as people read it.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};
use std::time::{Duration, Instant};

use super::{Call, Failed, HANGS};
use crate::cases::median;

/// The share of the calls asked for that a machine with time to spare must make.
const PACE: f64 = 0.9;
/// A machine that is idle for less of its time than this is overloaded.
const SPARE: f64 = 0.1;

/// What came of a load.
#[derive(Debug)]
pub struct Report {
    /// All calls, in the order in which they were due.
    pub calls: Vec<Call>,
    pub(super) rate: u32,
    pub(super) started: Instant,
    pub(super) stopped: Instant,
    pub(super) marks: Vec<(String, Instant)>,
    pub(super) spare: f64,
}

impl Report {
    /// The calls that failed.
    pub fn failed(&self) -> impl Iterator<Item = (&Call, &Failed)> {
        let failed = |call: &'_ Call| call.result.is_err();
        self.calls
            .iter()
            .filter(move |call| failed(call))
            .filter_map(|call| Some((call, call.result.as_ref().err()?)))
    }

    /// How many calls that were sent in this time each node answered.
    #[must_use]
    pub fn shares(&self, from: Instant, to: Instant) -> BTreeMap<String, usize> {
        let mut shares = BTreeMap::new();
        for call in self.calls.iter().filter(|call| within(call, from, to)) {
            if let Ok(node) = &call.result {
                *shares.entry(node.clone()).or_default() += 1;
            }
        }
        shares
    }

    /// Of the calls that were sent in this time, this node answered its share: a third, with room
    /// for those that were under way when the counting began.
    ///
    /// # Panics
    /// If it did not.
    pub fn has_its_share(&self, node: &str, from: Instant, to: Instant) {
        let shares = self.shares(from, to);
        let all: usize = shares.values().sum();
        let own = shares.get(node).copied().unwrap_or_default();
        assert!(
            own * 4 > all,
            "{node} answered {own} of {all}: {shares:?}\n{self}"
        );
    }

    /// How long 99 of 100 answered calls took at most.
    ///
    /// # Panics
    /// If none was answered.
    #[must_use]
    pub fn p99_of_answered(&self) -> Duration {
        let answered = self.calls.iter().filter(|call| call.result.is_ok());
        let mut took: Vec<Duration> = answered.map(|call| call.ended - call.sent).collect();
        took.sort_unstable();
        took[took.len() * 99 / 100]
    }

    /// How long the middle one took of the calls that were sent in this time and answered, from
    /// when it was due.
    ///
    /// # Panics
    /// If there was none.
    #[must_use]
    pub fn median_of_answered(&self, from: Instant, to: Instant) -> Duration {
        let calls = self.calls.iter().filter(|call| within(call, from, to));
        let answered = calls.filter(|call| call.result.is_ok());
        median(
            answered
                .map(|call| call.ended.duration_since(call.due))
                .collect(),
        )
    }

    /// When the last call was started.
    #[must_use]
    pub fn stopped(&self) -> Instant {
        self.stopped
    }

    /// Not one call failed.
    ///
    /// # Panics
    /// If one did: with the first ones.
    pub fn nothing_failed(&self) {
        // Some are sent a little after the last one was due.
        self.nothing_failed_between(self.started, self.stopped + HANGS);
    }

    /// Not one call failed of those that were sent in this time.
    ///
    /// # Panics
    /// If one did: with the first ones.
    pub fn nothing_failed_between(&self, from: Instant, to: Instant) {
        let failed = self.failed().filter(|(call, _)| within(call, from, to));
        let failed: Vec<String> = failed
            .map(|(call, failed)| {
                let at = call.sent.duration_since(self.started);
                let took = call.ended.duration_since(call.sent);
                format!("at {at:?}, after {took:?}: {failed}: {}", failed.message)
            })
            .collect();
        assert!(
            failed.is_empty(),
            "{} of {} calls failed, the first: {:#?}\n{self}",
            failed.len(),
            self.calls.len(),
            &failed[..failed.len().min(5)],
        );
    }

    /// The load was what it should be, or the machine has no time to spare, which is printed.
    ///
    /// # Panics
    /// If calls were fewer although the machine had time for more.
    pub fn pace_was_kept(&self) {
        let reached = self.pace();
        assert!(
            reached >= PACE || self.spare < SPARE,
            "the load reached {:.0} % of {} calls a second, and the machine was idle for {:.0} % \
             of the time:\n{self}",
            reached * 100.0,
            self.rate,
            self.spare * 100.0,
        );
    }

    /// The load was what it should be, whatever else the machine had to do.
    ///
    /// # Panics
    /// If calls were fewer.
    pub fn pace_was_reached(&self) {
        assert!(self.pace() >= PACE, "the load fell behind:\n{self}");
    }

    /// Calls that were made, of those that should have been.
    fn pace(&self) -> f64 {
        let time = self.stopped.duration_since(self.started).as_secs_f64();
        self.calls.len() as f64 / (time * f64::from(self.rate)).max(1.0)
    }
}

fn within(call: &Call, from: Instant, to: Instant) -> bool {
    call.sent >= from && call.sent < to
}

impl Display for Report {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        let failed = self.failed().count();
        let rate = self.pace() * f64::from(self.rate);
        let low = if self.pace() < PACE {
            " LOWER THAN ASKED FOR,"
        } else {
            ""
        };
        writeln!(
            formatter,
            "  {} calls, {failed} failed; {rate:.0} a second of {},{low} machine idle for {:.0} %",
            self.calls.len(),
            self.rate,
            self.spare * 100.0,
        )?;
        let ends = self.marks.iter().skip(1).map(|(_, at)| *at);
        let far = self.stopped + HANGS;
        for ((what, from), to) in self.marks.iter().zip(ends.chain([far])) {
            let calls = self.calls.iter().filter(|call| within(call, *from, to));
            let phase = Phase::of(calls);
            let at = from.duration_since(self.started).as_secs_f64();
            writeln!(formatter, "  from {at:5.1} s, {what}: {phase}")?;
        }
        Ok(())
    }
}

/// The figures of some calls.
#[derive(Debug, Default)]
struct Phase {
    latencies: Vec<Duration>,
    nodes: BTreeMap<String, usize>,
    failed: BTreeMap<String, usize>,
}

impl Phase {
    fn of<'a>(calls: impl Iterator<Item = &'a Call>) -> Self {
        let mut phase = Self::default();
        for call in calls {
            // From when it was due: a load that came late must not look fast.
            phase.latencies.push(call.ended.duration_since(call.due));
            let (counts, name) = match &call.result {
                Ok(node) => (&mut phase.nodes, node.clone()),
                Err(failed) => (&mut phase.failed, failed.to_string()),
            };
            *counts.entry(name).or_default() += 1;
        }
        phase.latencies.sort_unstable();
        phase
    }

    fn quantile(&self, quantile: f64) -> u128 {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "an index, rounded down on purpose"
        )]
        let index = (self.latencies.len() as f64 * quantile) as usize;
        let last = self.latencies.len().saturating_sub(1);
        let latency = self.latencies.get(index.min(last));
        latency.map_or(0, Duration::as_millis)
    }
}

impl Display for Phase {
    fn fmt(&self, formatter: &mut Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} calls, p50 {} ms, p99 {} ms, longest {} ms; answered by",
            self.latencies.len(),
            self.quantile(0.5),
            self.quantile(0.99),
            self.quantile(1.0),
        )?;
        for (node, count) in &self.nodes {
            write!(formatter, " {node}: {count}")?;
        }
        if self.failed.is_empty() {
            return write!(formatter, "; none failed");
        }
        for (how, count) in &self.failed {
            write!(formatter, "\n    {count} failed: {how}")?;
        }
        Ok(())
    }
}

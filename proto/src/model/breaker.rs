//! When an endpoint that fails is left alone, and when it is tried again. It is on by default: a
//! rule that says nothing of it goes by [`Breaker::DEFAULT`].

use std::time::Duration;

use super::error::FieldError;
use super::flaw::PolicyFlaw;
use super::written::{span, span_text};
use crate::wire::routing::v1 as wire;

/// The most failures in a row that a rule may wait for.
pub const FAILURES_LIMIT: u32 = 1_000;
/// The most calls that a rule may demand before it judges by their share of successes.
pub const CALLS_LIMIT: u32 = 100_000;
/// The least and the longest time over which successes are counted.
pub const INTERVAL: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// The least and the longest time for which an endpoint is left alone.
pub const OPEN: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(3_600));
/// The most probes at once, and the most successes of them that a rule may demand.
pub const PROBES_LIMIT: u32 = 100;

/// What opens an endpoint's breaker, for how long, and what closes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Breaker {
    /// It never opens.
    pub off: bool,
    /// So many failures in a row open it: 1 to [`FAILURES_LIMIT`].
    pub consecutive_failures: u32,
    /// So does a share of successes below this, in percent; 0 for never.
    pub success_percent: u32,
    /// But only over so many calls: 1 to [`CALLS_LIMIT`].
    pub min_calls: u32,
    /// The time over which they are counted, within [`INTERVAL`].
    pub interval: Duration,
    /// For how long it stays open at first, within [`OPEN`].
    pub open: Duration,
    /// For how long at most.
    pub max_open: Duration,
    /// Probes at once: 1 to [`PROBES_LIMIT`].
    pub probes: u32,
    /// Successes of probes that close it: 1 to [`PROBES_LIMIT`].
    pub successes: u32,
}

impl Breaker {
    /// That of a rule that says nothing of it.
    pub const DEFAULT: Self = Self {
        off: false,
        consecutive_failures: 5,
        success_percent: 50,
        min_calls: 20,
        interval: Duration::from_secs(10),
        open: Duration::from_secs(5),
        max_open: Duration::from_secs(60),
        probes: 1,
        successes: 2,
    };
    /// None at all.
    pub const OFF: Self = Self {
        off: true,
        ..Self::DEFAULT
    };

    pub(super) fn from_wire(
        breaker: Option<wire::Breaker>,
        path: &str,
    ) -> Result<Option<Self>, FieldError> {
        let Some(breaker) = breaker else {
            return Ok(None);
        };
        let time = |text: &str, field: &str| span(text, &format!("{path}.{field}"));
        let default = Self::DEFAULT;
        Ok(Some(Self {
            off: breaker.off,
            consecutive_failures: breaker
                .consecutive_failures
                .unwrap_or(default.consecutive_failures),
            success_percent: breaker.success_percent.unwrap_or(default.success_percent),
            min_calls: breaker.min_calls.unwrap_or(default.min_calls),
            interval: time(&breaker.interval, "interval")?.unwrap_or(default.interval),
            open: time(&breaker.open, "open")?.unwrap_or(default.open),
            max_open: time(&breaker.max_open, "max_open")?.unwrap_or(default.max_open),
            probes: breaker.probes.unwrap_or(default.probes),
            successes: breaker.successes.unwrap_or(default.successes),
        }))
    }

    pub(super) fn to_wire(self) -> wire::Breaker {
        wire::Breaker {
            off: self.off,
            consecutive_failures: Some(self.consecutive_failures),
            success_percent: Some(self.success_percent),
            min_calls: Some(self.min_calls),
            interval: span_text(self.interval),
            open: span_text(self.open),
            max_open: span_text(self.max_open),
            probes: Some(self.probes),
            successes: Some(self.successes),
        }
    }

    /// What is wrong with it in itself.
    pub(super) const fn flaw(&self) -> Option<PolicyFlaw> {
        if self.consecutive_failures < 1 || self.consecutive_failures > FAILURES_LIMIT {
            return PolicyFlaw::some("breaker.consecutive_failures", "is 1 to 1000");
        }
        if self.success_percent > 100 {
            return PolicyFlaw::some("breaker.success_percent", "is 0 to 100");
        }
        if self.min_calls < 1 || self.min_calls > CALLS_LIMIT {
            return PolicyFlaw::some("breaker.min_calls", "is 1 to 100000");
        }
        if !is_within(self.interval, INTERVAL) {
            return PolicyFlaw::some("breaker.interval", "is whole milliseconds from 1s to 10m");
        }
        if !is_within(self.open, OPEN) {
            return PolicyFlaw::some("breaker.open", "is whole milliseconds from 100ms to 1h");
        }
        if !is_within(self.max_open, OPEN) {
            return PolicyFlaw::some("breaker.max_open", "is whole milliseconds from 100ms to 1h");
        }
        if self.max_open.as_nanos() < self.open.as_nanos() {
            return PolicyFlaw::some("breaker.max_open", "is below `open`");
        }
        if self.probes < 1 || self.probes > PROBES_LIMIT {
            return PolicyFlaw::some("breaker.probes", "is 1 to 100");
        }
        if self.successes < 1 || self.successes > PROBES_LIMIT {
            return PolicyFlaw::some("breaker.successes", "is 1 to 100");
        }
        None
    }
}

/// Whole milliseconds, since that is what rules are written in, from the one to the other.
pub(super) const fn is_within(time: Duration, (least, most): (Duration, Duration)) -> bool {
    let nanos = time.as_nanos();
    nanos.is_multiple_of(1_000_000) && nanos >= least.as_nanos() && nanos <= most.as_nanos()
}

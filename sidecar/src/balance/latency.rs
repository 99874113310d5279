//! How long an endpoint takes to answer, as an average that rises at once and forgets slowly: a
//! peak-sensitive, exponentially weighted moving average, as Finagle's `PeakEwma` keeps it. It is
//! pure: time comes in with every question.

use std::time::{Duration, Instant};

/// After this time an answer counts for 1/e of what it did.
pub(super) const DECAY: Duration = Duration::from_secs(10);
/// A failure counts as an answer that took at least so long, since the quickest answer of all is
/// the one of an endpoint that does nothing.
pub const FAILURE: Duration = Duration::from_secs(1);
/// What is quicker counts as this. Below it, differences are noise; and an estimate that decayed
/// to nothing would stay the least whatever number of calls hung there.
pub(super) const FLOOR: Duration = Duration::from_micros(100);

/// The estimate for one generation of one endpoint; nothing until it has answered once.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Latency(Option<Estimate>);

#[derive(Debug, Clone, Copy)]
struct Estimate {
    /// In nanoseconds, of which a fraction may be left.
    value: f64,
    at: Instant,
}

impl Latency {
    /// What is expected now. It sinks while nothing is heard: who was slow gets another chance.
    pub(super) fn at(&self, now: Instant) -> Option<Duration> {
        self.expected(now)
            .map(|nanoseconds| duration(nanoseconds).max(FLOOR))
    }

    fn expected(&self, now: Instant) -> Option<f64> {
        let Estimate { value, at } = self.0?;
        Some(value * left(at, now))
    }

    /// An answer came.
    pub(super) fn answered(&mut self, latency: Duration, now: Instant) {
        let new = nanoseconds(latency);
        let value = match self.0 {
            Some(before) => {
                let left = left(before.at, now);
                let expected = before.value * left;
                if new < expected.max(nanoseconds(FLOOR)) {
                    expected + new * (1.0 - left)
                } else {
                    new
                }
            }
            None => new,
        };
        self.set(value, now);
    }

    /// None came, or one that says "not here".
    pub(super) fn failed(&mut self, latency: Duration, now: Instant) {
        self.answered(latency.max(FAILURE), now);
    }

    /// The caller gave up waiting. That is news only where it waited longer than was expected.
    pub(super) fn given_up(&mut self, waited: Duration, now: Instant) {
        if self.at(now).is_none_or(|expected| waited > expected) {
            self.set(nanoseconds(waited), now);
        }
    }

    fn set(&mut self, value: f64, now: Instant) {
        // Clocks of two threads may be read in one order and arrive in the other.
        let at = self.0.map_or(now, |before| before.at.max(now));
        self.0 = Some(Estimate { value, at });
    }
}

/// As a number to reckon with: [`Duration`] checks each product, which takes longer than it.
#[allow(clippy::cast_precision_loss, reason = "exact for 104 days")]
fn nanoseconds(time: Duration) -> f64 {
    time.as_nanos() as f64
}

#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "never negative, and what is too long becomes the longest"
)]
fn duration(nanoseconds: f64) -> Duration {
    Duration::from_nanos(nanoseconds as u64)
}

/// How much of what was known at `then` still counts, between 0 and 1.
fn left(then: Instant, now: Instant) -> f64 {
    let age = now.saturating_duration_since(then);
    (-age.as_secs_f64() / DECAY.as_secs_f64()).exp()
}

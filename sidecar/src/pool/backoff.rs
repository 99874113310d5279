//! How long to wait after a failed dial: it doubles from 250 ms to 5 s, and a random part keeps
//! many diallers from coming back at once. Kept per key, never in a static.

use std::time::Duration;

/// The first wait.
pub(super) const FIRST: Duration = Duration::from_millis(250);
/// The longest wait.
pub(super) const LONGEST: Duration = Duration::from_secs(5);

/// The state of one key.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    failures: u32,
}

impl Backoff {
    /// Another dial failed. Returns how long to wait: between half of the step and all of it.
    pub(super) fn failed(&mut self, random: u64) -> Duration {
        let step = FIRST
            .saturating_mul(1 << self.failures.min(16))
            .min(LONGEST);
        self.failures = self.failures.saturating_add(1);
        let half = step / 2;
        let most = u64::try_from(half.as_micros()).unwrap_or(u64::MAX).max(1);
        half + Duration::from_micros(random % most)
    }

    /// A dial succeeded.
    pub(super) fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_doubles_to_its_ceiling_and_starts_anew() {
        let mut backoff = Backoff::default();
        let steps: Vec<_> = (0..8)
            .map(|_| backoff.failed(u64::MAX).as_millis())
            .collect();
        for (step, full) in steps
            .iter()
            .zip([250, 500, 1000, 2000, 4000, 5000, 5000, 5000])
        {
            assert!((full / 2..=full).contains(step), "{steps:?}");
        }
        backoff.succeeded();
        assert!(backoff.failed(0) == FIRST / 2);
    }
}

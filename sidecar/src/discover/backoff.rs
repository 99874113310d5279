//! How long to wait between two attempts to reach control. Pure: chance comes in as an argument.
//! Full jitter, so that the thousand sidecars that one control lost do not come back at once
//! ("Exponential Backoff And Jitter", Marc Brooker, AWS Architecture Blog, 2015).

use std::time::Duration;

/// A growing pause. It lives in the client, never in a static: two meshes in one process must not
/// slow each other down.
#[derive(Debug, Clone)]
pub(super) struct Backoff {
    first: Duration,
    ceiling: Duration,
    next: Duration,
}

impl Backoff {
    /// Pauses of at most `first`, then twice that, up to `ceiling`.
    pub(super) fn new(first: Duration, ceiling: Duration) -> Self {
        Self {
            first,
            ceiling,
            next: first.min(ceiling),
        }
    }

    /// The next pause, for a `chance` drawn evenly from 0 to 1.
    pub(super) fn pause(&mut self, chance: f64) -> Duration {
        let pause = self.next.mul_f64(chance.clamp(0.0, 1.0));
        self.next = self.next.saturating_mul(2).min(self.ceiling);
        pause
    }

    /// Things went well: begin anew.
    pub(super) fn reset(&mut self) {
        self.next = self.first.min(self.ceiling);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_ceiling_and_begin_anew_after_a_success() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        let longest: Vec<u128> = (0..8).map(|_| backoff.pause(1.0).as_millis()).collect();
        assert_eq!(longest, [100, 200, 400, 800, 1600, 3200, 5000, 5000]);
        backoff.reset();
        assert_eq!(backoff.pause(1.0), Duration::from_millis(100));
    }

    #[test]
    fn a_thousand_that_waited_long_come_back_spread_over_four_seconds() {
        let timing = crate::discover::Timing::default();
        let mut waiting = Backoff::new(timing.backoff_first, timing.backoff_ceiling);
        for _ in 0..20 {
            waiting.pause(1.0);
        }
        let pause = |number: u32| waiting.clone().pause(f64::from(number) / 1_000.0);
        let mut by_tenth = [0; 40];
        for number in 0..1_000 {
            by_tenth[pause(number).as_millis() as usize / 100] += 1;
        }
        assert_eq!(by_tenth.iter().max(), Some(&25), "{by_tenth:?}");
    }

    #[test]
    fn jitter_is_full() {
        let mut backoff = Backoff::new(Duration::from_millis(100), Duration::from_secs(5));
        assert_eq!(backoff.pause(0.0), Duration::ZERO);
        assert_eq!(backoff.pause(0.5), Duration::from_millis(100));
    }
}

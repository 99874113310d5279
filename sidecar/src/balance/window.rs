//! Successes and failures of the last while, in a ring of tenths of it: what is older than the whole
//! and a tenth is forgotten, whatever comes.

use std::time::{Duration, Instant};

/// Parts of the time that are forgotten one by one.
const PARTS: usize = 10;

#[derive(Debug, Clone)]
pub(super) struct Window {
    part: Duration,
    /// When the part that is being filled began.
    since: Instant,
    current: usize,
    /// Successes and failures.
    parts: [(u32, u32); PARTS],
}

impl Window {
    pub(super) fn new(whole: Duration, now: Instant) -> Self {
        Self {
            part: whole / 10,
            since: now,
            current: 0,
            parts: [(0, 0); PARTS],
        }
    }

    pub(super) fn add(&mut self, success: bool, now: Instant) {
        self.forget(now);
        let (successes, failures) = &mut self.parts[self.current];
        let count = if success { successes } else { failures };
        *count = count.saturating_add(1);
    }

    /// The share of successes in percent, rounded down; `None` for fewer calls than that.
    pub(super) fn share(&self, min_calls: u32, now: Instant) -> Option<u32> {
        let gone = self.passed(now);
        let parts = (0..PARTS).skip(gone).map(|age| {
            // The oldest are behind the current one, around the ring.
            self.parts[(self.current + 1 + age) % PARTS]
        });
        let (successes, calls) = parts.fold((0_u64, 0_u64), |(good, all), (ok, failed)| {
            (
                good + u64::from(ok),
                all + u64::from(ok) + u64::from(failed),
            )
        });
        let enough = calls > 0 && calls >= u64::from(min_calls);
        enough.then(|| u32::try_from(successes * 100 / calls).unwrap_or(100))
    }

    fn forget(&mut self, now: Instant) {
        let passed = self.passed(now);
        if passed == 0 {
            return;
        }
        for _ in 0..passed.min(PARTS) {
            self.current = (self.current + 1) % PARTS;
            self.parts[self.current] = (0, 0);
        }
        let parts = u32::try_from(passed).unwrap_or(u32::MAX);
        self.since = if passed >= PARTS {
            now
        } else {
            self.since + self.part * parts
        };
    }

    /// How many parts have begun since the current one did.
    fn passed(&self, now: Instant) -> usize {
        let age = now.saturating_duration_since(self.since);
        usize::try_from(age.as_nanos() / self.part.as_nanos().max(1)).unwrap_or(usize::MAX)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const WHOLE: Duration = Duration::from_secs(10);

    proptest! {
        #[test]
        fn what_is_counted_is_what_came_within_the_time_give_or_take_a_tenth(
            calls in proptest::collection::vec((0_u64..3_000, any::<bool>()), 1..80),
            after in 0_u64..15_000,
        ) {
            let start = Instant::now();
            let mut window = Window::new(WHOLE, start);
            let (mut now, mut came) = (start, Vec::new());
            for (pause, success) in calls {
                now += Duration::from_millis(pause);
                window.add(success, now);
                came.push((now, success));
            }
            let end = now + Duration::from_millis(after);
            let within = |age: Duration| {
                came.iter().filter(move |(at, _)| end - *at < age)
            };
            let calls = |age| u32::try_from(within(age).count()).unwrap();
            let (surely, perhaps) = (calls(WHOLE - WHOLE / 10), calls(WHOLE + WHOLE / 10));
            if surely > 0 {
                prop_assert!(window.share(surely, end).is_some());
            }
            prop_assert_eq!(window.share(perhaps + 1, end), None);
            if within(WHOLE + WHOLE / 10).all(|(_, success)| *success) && surely > 0 {
                prop_assert_eq!(window.share(1, end), Some(100));
            }
        }
    }

    #[test]
    fn the_share_is_of_all_calls_and_forgets() {
        let start = Instant::now();
        let mut window = Window::new(WHOLE, start);
        for call in 0..20 {
            window.add(call % 4 == 0, start);
        }
        assert_eq!(window.share(20, start), Some(25));
        assert_eq!(window.share(21, start), None);
        let later = start + WHOLE;
        assert_eq!(window.share(1, later), None);
        window.add(true, later);
        assert_eq!(window.share(1, later), Some(100));
    }
}

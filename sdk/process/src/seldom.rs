//! Lines of the log that somebody outside can cause: of each kind so many at once and one a second, and
//! the next one says how many were left out. What they tell is counted elsewhere, without a bound.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// Lines of a kind at once.
pub const LINES_AT_ONCE: u32 = 10;
/// After that time there is room for one more.
pub const LINE_EVERY: Duration = Duration::from_secs(1);

/// Lines of a closed list of kinds.
#[derive(Debug, Default)]
pub struct Seldom(Mutex<HashMap<&'static str, Lines>>);

/// Room for lines of one kind. Pure.
#[derive(Debug)]
pub struct Lines {
    burst: u32,
    every: Duration,
    room: u32,
    /// Up to then room was given.
    at: Option<Instant>,
    /// Since the last line.
    omitted: u64,
}

impl Lines {
    /// Room for `burst` lines at once after a pause, and for one more each time `every`, which is more
    /// than nothing, has passed.
    #[must_use]
    pub const fn new(burst: u32, every: Duration) -> Self {
        Self {
            burst,
            every,
            room: burst,
            at: None,
            omitted: 0,
        }
    }

    /// How many were left out before it, where one may be written now.
    pub fn take(&mut self, now: Instant) -> Option<u64> {
        let since = now.saturating_duration_since(*self.at.get_or_insert(now));
        let earned = since.as_nanos() / self.every.as_nanos();
        let earned = u32::try_from(earned).unwrap_or(u32::MAX);
        if earned >= self.burst - self.room {
            (self.room, self.at) = (self.burst, Some(now));
        } else {
            self.room += earned;
            self.at = self.at.and_then(|at| at.checked_add(self.every * earned));
        }
        if self.room == 0 {
            self.omitted += 1;
            return None;
        }
        self.room -= 1;
        Some(std::mem::take(&mut self.omitted))
    }
}

impl Seldom {
    /// May a line of this kind be written now? Then how many of it were left out since the last one.
    pub fn line(&self, kind: &'static str, now: Instant) -> Option<u64> {
        let mut kinds = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Lines::new(LINES_AT_ONCE, LINE_EVERY);
        kinds.entry(kind).or_insert_with(fresh).take(now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_of_lines_is_one_a_second_and_none_is_uncounted() {
        let seldom = Seldom::default();
        let start = Instant::now();
        let mut written = 0_u32;
        let mut told = 0;
        for number in 0..10_000_u64 {
            // A thousand in each second.
            let now = start + Duration::from_millis(number);
            if let Some(omitted) = seldom.line("a", now) {
                written += 1;
                told += omitted;
            }
        }
        assert!((19..=20).contains(&written), "{written}");
        let end = seldom.line("a", start + Duration::from_secs(20));
        assert_eq!(u64::from(written) + told + end.unwrap(), 10_000);
        // Another kind has its own.
        assert_eq!(seldom.line("b", start), Some(0));
    }
}

//! How many further attempts the calls of one service may have together, so that retries cannot
//! make a storm of what is only trouble. It counts what goes out a second time for whatever reason
//! (repeats of what may have run, re-sends of what was refused), with one exception:
//! what a connection that goes away in good order did not look at. That happens once to each call
//! that was on the connection, on every deploy, and none of them may fail for it.
//!
//! It belongs to a service, as its hub does, and lies below the stages.
//!
//! From the moment when a budget is made, the attempts that it grants are never more than its share
//! of the calls, plus its attempts for each second that has passed and for one more.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sidelane_proto::model::RetryBudget;

/// What is granted and not used is gone after about this time: an hour without a failure is no
/// leave to double the load for a minute.
const KEPT: Duration = Duration::from_secs(2);

/// The account, pure: time and the number of calls come in.
#[derive(Debug, Clone, Copy)]
pub struct Budget {
    /// Attempts that may be made now.
    tokens: f64,
    /// Calls that have been counted in.
    calls: u64,
    /// When that was.
    at: Instant,
}

impl Budget {
    /// A full one: what a second grants.
    #[must_use]
    pub fn new(limits: RetryBudget, now: Instant) -> Self {
        Self {
            tokens: f64::from(limits.per_second),
            calls: 0,
            at: now,
        }
    }

    /// Takes one attempt, if there is one. `calls` is how many calls there have been until now.
    #[must_use]
    pub fn take(&mut self, limits: RetryBudget, calls: u64, now: Instant) -> bool {
        self.fill(limits, calls, now);
        let granted = self.tokens >= 1.0;
        if granted {
            self.tokens -= 1.0;
        }
        granted
    }

    /// Gives one back that was taken, and for which no attempt was made.
    pub fn give_back(&mut self) {
        self.tokens += 1.0;
    }

    fn fill(&mut self, limits: RetryBudget, calls: u64, now: Instant) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        let kept = KEPT.as_secs_f64();
        #[allow(clippy::cast_precision_loss, reason = "exact below 2^53 calls")]
        let fresh = calls.saturating_sub(self.calls) as f64;
        // If they came evenly, so many of them came lately.
        let lately = fresh * (kept / passed.max(kept));
        self.tokens = self.tokens * (1.0 - passed / kept).max(0.0)
            + lately * f64::from(limits.percent) / 100.0
            + passed.min(kept) * f64::from(limits.per_second);
        self.calls = self.calls.max(calls);
        self.at = self.at.max(now);
    }
}

/// Why a further attempt is made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Further {
    /// The one before may have run, and its rule says that this does no harm.
    Repeat,
    /// The one before was refused, and was not looked at.
    Refused,
    /// Its connection went away in good order, and it was not looked at.
    GoingAway,
    /// The one before takes long, or has failed, and its rule has it hedged.
    Hedge,
}

/// Leave to make one further attempt. Dropped unused, it goes back: who finds nobody to ask must
/// not use up what others could have asked with.
#[derive(Debug)]
#[must_use = "dropped, it is given back"]
pub struct Token<'a> {
    of: &'a Retries,
    why: Further,
    used: bool,
}

/// Why one is not made that would have been.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Withheld {
    /// The budget is used up.
    Budget,
    /// The callee said so.
    Pushback,
    /// The call's time would be over.
    Deadline,
}

impl Further {
    /// All of them, for counters.
    pub const ALL: [Self; 4] = [Self::Repeat, Self::Refused, Self::GoingAway, Self::Hedge];

    /// The label's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Repeat => "repeat",
            Self::Refused => "refused",
            Self::GoingAway => "going_away",
            Self::Hedge => "hedge",
        }
    }
}

impl Withheld {
    /// All of them, for counters.
    pub const ALL: [Self; 3] = [Self::Budget, Self::Pushback, Self::Deadline];

    /// The label's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Budget => "budget",
            Self::Pushback => "pushback",
            Self::Deadline => "deadline",
        }
    }
}

/// The further attempts of one service's calls: its budget, and what came of it.
#[derive(Debug)]
pub struct Retries {
    /// Apart from the budget, so that a call that needs no second attempt takes no lock.
    calls: AtomicU64,
    budget: Mutex<Budget>,
    made: [AtomicU64; Further::ALL.len()],
    withheld: [AtomicU64; Withheld::ALL.len()],
    hedges_withheld: [AtomicU64; Withheld::ALL.len()],
    hedges_won: AtomicU64,
}

impl Retries {
    /// None was made yet.
    #[must_use]
    pub fn new(limits: RetryBudget, now: Instant) -> Self {
        Self {
            calls: AtomicU64::default(),
            budget: Mutex::new(Budget::new(limits, now)),
            made: Default::default(),
            withheld: Default::default(),
            hedges_withheld: Default::default(),
            hedges_won: AtomicU64::default(),
        }
    }

    /// A call came.
    pub fn call(&self) {
        // Relaxed: a figure, by which nothing else is ordered.
        self.calls.fetch_add(1, Ordering::Relaxed);
    }

    /// Leave for a further attempt, if there is any. It is counted if there is none, and otherwise
    /// when it is used.
    pub fn take(&self, why: Further, limits: RetryBudget, now: Instant) -> Option<Token<'_>> {
        let granted = why == Further::GoingAway || {
            let calls = self.calls.load(Ordering::Relaxed);
            self.budget().take(limits, calls, now)
        };
        if !granted {
            match why {
                Further::Hedge => self.hedge_withheld(Withheld::Budget),
                _ => self.withheld(Withheld::Budget),
            }
        }
        granted.then(|| Token {
            of: self,
            why,
            used: false,
        })
    }

    fn budget(&self) -> MutexGuard<'_, Budget> {
        // The account is changed by assignments only: a panic cannot leave half of a change that
        // would matter.
        self.budget.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One was not made.
    pub fn withheld(&self, why: Withheld) {
        self.withheld[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// A hedge was not sent.
    pub fn hedge_withheld(&self, why: Withheld) {
        self.hedges_withheld[why as usize].fetch_add(1, Ordering::Relaxed);
    }

    /// The answer of a hedge was the call's.
    pub fn hedge_won(&self) {
        self.hedges_won.fetch_add(1, Ordering::Relaxed);
    }

    /// How many hedges had the answer that counted.
    #[must_use]
    pub fn hedges_won(&self) -> u64 {
        self.hedges_won.load(Ordering::Relaxed)
    }

    /// How many hedges were not sent, for each reason.
    pub fn hedges_withheld(&self) -> impl Iterator<Item = (Withheld, u64)> {
        let withheld = Withheld::ALL.into_iter().zip(&self.hedges_withheld);
        withheld.map(|(why, count)| (why, count.load(Ordering::Relaxed)))
    }

    /// How many were made, for each reason.
    pub fn counts(&self) -> impl Iterator<Item = (Further, u64)> {
        let made = Further::ALL.into_iter().zip(&self.made);
        made.map(|(why, count)| (why, count.load(Ordering::Relaxed)))
    }

    /// How many were not, for each reason.
    pub fn withheld_counts(&self) -> impl Iterator<Item = (Withheld, u64)> {
        let withheld = Withheld::ALL.into_iter().zip(&self.withheld);
        withheld.map(|(why, count)| (why, count.load(Ordering::Relaxed)))
    }
}

impl Token<'_> {
    /// The attempt is made.
    pub fn used(mut self) {
        self.used = true;
        self.of.made[self.why as usize].fetch_add(1, Ordering::Relaxed);
    }
}

impl Drop for Token<'_> {
    fn drop(&mut self) {
        if !self.used && self.why != Further::GoingAway {
            self.of.budget().give_back();
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DEFAULT: RetryBudget = RetryBudget::DEFAULT;

    /// A step of time, with so many calls in it and so many wishes for a further attempt after it,
    /// every third of which is given back.
    fn any_steps() -> impl Strategy<Value = Vec<(u64, u64, u32)>> {
        let time = prop_oneof![0_u64..3, 0_u64..3_000, 0_u64..100_000_000];
        let step = (time, 0_u64..3_000, 0_u32..400);
        proptest::collection::vec(step, 0..60)
    }

    proptest! {
        #[test]
        fn no_sequence_of_calls_and_failures_exceeds_it(
            steps in any_steps(),
            percent in 0_u32..=100,
            per_second in 0_u32..50,
        ) {
            let limits = RetryBudget { percent, per_second };
            let start = Instant::now();
            let (mut now, mut calls, mut granted) = (start, 0, 0_u32);
            let mut budget = Budget::new(limits, start);
            for (milliseconds, more, wishes) in steps {
                now += Duration::from_millis(milliseconds);
                calls += more;
                for wish in 0..wishes {
                    let token = budget.take(limits, calls, now);
                    granted += u32::from(token);
                    if token && wish % 3 == 0 {
                        budget.give_back();
                        granted -= 1;
                    }
                }
                let seconds = (now - start).as_secs_f64() + 1.0;
                #[allow(clippy::cast_precision_loss, reason = "few calls")]
                let share = calls as f64 * f64::from(percent) / 100.0;
                let most = share + seconds * f64::from(per_second);
                // A millionth for the rounding of floating point.
                prop_assert!(f64::from(granted) <= most + 1e-6, "{granted} of {most}");
            }
        }

        #[test]
        fn what_is_not_used_is_not_saved_up(
            steps in any_steps(),
        ) {
            let start = Instant::now();
            let (mut now, mut calls) = (start, 0);
            let mut budget = Budget::new(DEFAULT, start);
            for (milliseconds, more, _) in steps {
                now += Duration::from_millis(milliseconds);
                calls += more;
            }
            // Two minutes later, whatever there was before.
            let quiet = now + Duration::from_secs(120);
            let granted = (0..1_000_000).take_while(|_| budget.take(DEFAULT, calls, quiet)).count();
            let seldom = 20.0 + 0.2 * 60.0 * 3_000.0 * KEPT.as_secs_f64() / 120.0;
            #[allow(clippy::cast_precision_loss, reason = "few calls")]
            let granted = granted as f64;
            prop_assert!(granted <= seldom, "{granted} of {seldom}");
        }
    }

    #[test]
    fn a_steady_share_of_failures_below_it_is_all_tried_again() {
        let start = Instant::now();
        let mut budget = Budget::new(DEFAULT, start);
        // 1,000 calls a second, a fifth of which fails once.
        for call in 1..=20_000_u64 {
            let now = start + Duration::from_millis(call);
            if call % 5 == 0 {
                assert!(budget.take(DEFAULT, call, now), "call {call}");
            }
        }
    }

    #[test]
    fn seldom_calls_may_all_be_tried_again_and_the_first_as_well() {
        let start = Instant::now();
        let mut budget = Budget::new(DEFAULT, start);
        for second in 0..20 {
            let now = start + Duration::from_secs(second);
            for _ in 0..10 {
                assert!(budget.take(DEFAULT, second, now));
            }
        }
    }

    #[test]
    fn what_went_away_in_good_order_is_free_and_counted() {
        let none = RetryBudget {
            percent: 0,
            per_second: 0,
        };
        let now = Instant::now();
        let retries = Retries::new(none, now);
        retries.take(Further::GoingAway, none, now).unwrap().used();
        for why in [Further::Repeat, Further::Refused, Further::Hedge] {
            assert!(retries.take(why, none, now).is_none());
        }
        assert_eq!(
            retries.hedges_withheld().next(),
            Some((Withheld::Budget, 1))
        );
        let made: Vec<_> = retries.counts().map(|(_, count)| count).collect();
        assert_eq!(made, [0, 0, 1, 0]);
        let withheld: Vec<_> = retries.withheld_counts().collect();
        assert_eq!(withheld[0], (Withheld::Budget, 2));
    }

    #[test]
    fn a_token_for_which_nobody_is_found_goes_back() {
        let one = RetryBudget {
            percent: 0,
            per_second: 1,
        };
        let now = Instant::now();
        let retries = Retries::new(one, now);
        for _ in 0..100 {
            let token = retries.take(Further::Refused, one, now);
            assert!(token.is_some());
            // While one holds it, there is none for another.
            assert!(retries.take(Further::Repeat, one, now).is_none());
        }
        // What was free is none that could go back.
        drop(retries.take(Further::GoingAway, one, now));
        retries.take(Further::Refused, one, now).unwrap().used();
        assert!(retries.take(Further::Refused, one, now).is_none());
        let made: Vec<_> = retries.counts().map(|(_, count)| count).collect();
        assert_eq!(made, [0, 1, 0, 0]);
    }
}

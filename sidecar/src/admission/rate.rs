//! So many calls a second: token buckets (governor's, which are GCRA: ATM Forum TM 4.0, §4.4.2).
//! Each share of a limit has a bucket of its own. Callers bring shares, so their number has a
//! bound; beyond it the others share one. The time is told, never asked.

use std::collections::HashMap;
use std::num::NonZeroU32;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use governor::clock::Clock;
use governor::middleware::StateInformationMiddleware;
use governor::nanos::Nanos;
use governor::state::{NotKeyed, StateStore};
use governor::{Quota, RateLimiter};
use sidelane_proto::model::{Lane, Limit, NodeId};

use crate::call::User;
use crate::hash::QuickState;
use crate::telemetry::AdmissionCounters;

/// Shares of one limit that have a bucket of their own. Those beyond it share one more.
pub(super) const SHARES_LIMIT: usize = 4_096;
/// When there is no room for another share, those that are full again are looked for this often.
const SWEEP: Duration = Duration::from_secs(1);

/// Of what a call is one, as far as a limit asks.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Share {
    /// Its caller.
    pub(super) caller: Option<Who>,
    /// Its method, hashed; `None` also for those that the rule does not know.
    pub(super) method: Option<u64>,
    /// Its lane.
    pub(super) lane: Option<Lane>,
}

/// Who calls: users are told apart by their addresses.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Who {
    Node(NodeId),
    User(User),
}

/// One limit, and what was used of it.
#[derive(Debug)]
pub(super) struct Rate {
    /// What it allows.
    pub(super) limit: Limit,
    /// The method that it is for; `None` for all of its service.
    pub(super) method: Option<u64>,
    told: Told,
    buckets: Mutex<Buckets>,
}

#[derive(Debug)]
struct Buckets {
    /// Of all, where nothing has a share of its own; else of those beyond the bound.
    common: Bucket,
    each: HashMap<Share, Bucket, QuickState>,
    swept: Option<Instant>,
}

#[derive(Debug)]
struct Bucket {
    limiter: RateLimiter<NotKeyed, Level, Told, StateInformationMiddleware>,
    level: Level,
    last: Instant,
}

/// How full a bucket is, in a way that can be put back. Whoever looks at it holds the buckets.
#[derive(Debug, Clone)]
struct Level(Arc<AtomicU64>);

impl Level {
    /// Nobody has taken anything yet.
    const UNTOUCHED: u64 = u64::MAX;

    fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    fn put_back(&self, level: u64) {
        self.0.store(level, Ordering::Relaxed);
    }
}

impl Default for Level {
    fn default() -> Self {
        Self(Arc::new(AtomicU64::new(Self::UNTOUCHED)))
    }
}

impl StateStore for Level {
    type Key = NotKeyed;

    fn measure_and_replace<T, F, E>(&self, _: &NotKeyed, f: F) -> Result<T, E>
    where
        F: Fn(Option<Nanos>) -> Result<(T, Nanos), E>,
    {
        let before = Some(self.get()).filter(|level| *level != Self::UNTOUCHED);
        let (outcome, level) = f(before.map(Nanos::from))?;
        self.put_back(level.into());
        Ok(outcome)
    }
}

/// A token that was taken. Nobody else sees the limit until it is kept or given back.
#[derive(Debug)]
pub(super) struct Taken<'a> {
    buckets: MutexGuard<'a, Buckets>,
    /// Whose it was; `None` for the bucket of all.
    share: Option<Share>,
    /// How full the bucket was; `None` for one that was not there.
    before: Option<u64>,
}

impl Taken<'_> {
    /// As if nobody had asked.
    pub(super) fn give_back(mut self) {
        let buckets = &mut *self.buckets;
        match (self.share, self.before) {
            (None, before) => {
                let level = before.unwrap_or(Level::UNTOUCHED);
                buckets.common.level.put_back(level);
            }
            (Some(share), None) => {
                buckets.each.remove(&share);
            }
            (Some(share), Some(before)) => {
                if let Some(bucket) = buckets.each.get(&share) {
                    bucket.level.put_back(before);
                }
            }
        }
    }
}

/// A clock that says what it was told.
#[derive(Debug, Clone)]
struct Told {
    start: Instant,
    nanoseconds: Arc<AtomicU64>,
}

impl Told {
    fn tell(&self, now: Instant) {
        let nanoseconds = now.saturating_duration_since(self.start).as_nanos();
        let nanoseconds = u64::try_from(nanoseconds).unwrap_or(u64::MAX);
        // Calls of two threads may come in another order than their times.
        self.nanoseconds.fetch_max(nanoseconds, Ordering::Relaxed);
    }
}

impl Clock for Told {
    type Instant = Duration;

    fn now(&self) -> Duration {
        Duration::from_nanos(self.nanoseconds.load(Ordering::Relaxed))
    }
}

impl Rate {
    /// Nothing was used yet.
    #[must_use]
    pub(super) fn new(limit: Limit, method: Option<u64>, now: Instant) -> Self {
        let told = Told {
            start: now,
            nanoseconds: Arc::default(),
        };
        let common = Bucket::new(limit, &told, now);
        Self {
            limit,
            method,
            told,
            buckets: Mutex::new(Buckets {
                common,
                each: HashMap::default(),
                swept: None,
            }),
        }
    }

    /// Can what was used of this one be counted against that limit?
    #[must_use]
    pub(super) fn is_of(&self, limit: &Limit, method: Option<u64>) -> bool {
        (self.limit.per, self.limit.outbound, self.method) == (limit.per, limit.outbound, method)
    }

    /// The limit that holds from now on: so many calls as were used of each share are used of it,
    /// as far as it goes.
    #[must_use]
    pub(super) fn changed(&self, limit: Limit, now: Instant) -> Self {
        let next = Self::new(limit, self.method, now);
        self.told.tell(now);
        let (mut from, mut to) = (self.buckets(), next.buckets());
        to.common.use_up(from.common.used(self.limit), limit);
        for (share, bucket) in &mut from.each {
            let used = bucket.used(self.limit);
            if used > 0 {
                let mut changed = Bucket::new(limit, &next.told, now);
                changed.use_up(used, limit);
                to.each.insert(share.clone(), changed);
            }
        }
        drop((from, to));
        next
    }

    /// Takes one call's token.
    ///
    /// # Errors
    /// There is none; there will be after this time.
    pub(super) fn take(
        &self,
        share: impl FnOnce() -> Share,
        now: Instant,
        counters: &AdmissionCounters,
    ) -> Result<Taken<'_>, Duration> {
        self.told.tell(now);
        let mut buckets = self.buckets();
        let per = self.limit.per;
        let share = (per.caller || per.method || per.lane).then(share);
        let known = share.as_ref();
        if let Some(bucket) = known.and_then(|share| buckets.each.get_mut(share)) {
            let before = Some(bucket.level.get());
            bucket.take(&self.told, now)?;
            return Ok(Taken {
                buckets,
                share,
                before,
            });
        }
        let crowded = buckets.each.len() >= SHARES_LIMIT;
        let beyond = share.is_some() && crowded && !buckets.sweep(self.limit, now);
        if beyond {
            counters.beyond_shares();
        }
        let share = share.filter(|_| !beyond);
        let before = if let Some(share) = &share {
            let mut bucket = Bucket::new(self.limit, &self.told, now);
            bucket.take(&self.told, now)?;
            buckets.each.insert(share.clone(), bucket);
            None
        } else {
            let before = buckets.common.level.get();
            buckets.common.take(&self.told, now)?;
            Some(before)
        };
        Ok(Taken {
            buckets,
            share,
            before,
        })
    }

    fn buckets(&self) -> MutexGuard<'_, Buckets> {
        self.buckets.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Buckets {
    /// Forgets the shares that are as if nobody had ever used them. Is there room then?
    fn sweep(&mut self, limit: Limit, now: Instant) -> bool {
        if self.swept.is_none_or(|swept| now >= swept + SWEEP) {
            self.swept = Some(now);
            let full = fills_in(limit);
            let since = |last| now.saturating_duration_since(last);
            self.each.retain(|_, bucket| since(bucket.last) <= full);
        }
        self.each.len() < SHARES_LIMIT
    }
}

/// An empty bucket is full again after this long.
fn fills_in(limit: Limit) -> Duration {
    Duration::from_secs(limit.burst.into()) / limit.requests_per_second.max(1)
}

impl Bucket {
    fn new(limit: Limit, told: &Told, now: Instant) -> Self {
        let some = |number| NonZeroU32::new(number).unwrap_or(NonZeroU32::MIN);
        let quota = Quota::per_second(some(limit.requests_per_second));
        let quota = quota.allow_burst(some(limit.burst));
        let level = Level::default();
        Self {
            limiter: RateLimiter::new(quota, level.clone(), told.clone()),
            level,
            last: now,
        }
    }

    fn take(&mut self, told: &Told, now: Instant) -> Result<(), Duration> {
        self.last = self.last.max(now);
        match self.limiter.check() {
            Ok(_) => Ok(()),
            Err(not_until) => Err(not_until.wait_time_from(told.now())),
        }
    }

    /// How many tokens are missing. It takes one more to see it, so the bucket is of no use then.
    fn used(&mut self, limit: Limit) -> u32 {
        match self.limiter.check() {
            Ok(state) => limit
                .burst
                .saturating_sub(state.remaining_burst_capacity() + 1),
            Err(_) => limit.burst,
        }
    }

    fn use_up(&mut self, calls: u32, limit: Limit) {
        if let Some(calls) = NonZeroU32::new(calls.min(limit.burst)) {
            // No more than it holds.
            let _ = self.limiter.check_n(calls);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use sidelane_proto::model::Per;

    use super::*;

    fn limit(requests_per_second: u32, burst: u32) -> Limit {
        Limit {
            burst,
            ..Limit::of(requests_per_second)
        }
    }

    fn nobody() -> Share {
        Share {
            caller: None,
            method: None,
            lane: None,
        }
    }

    fn from(caller: &str) -> Share {
        Share {
            caller: Some(Who::Node(NodeId::new(caller).unwrap())),
            ..nobody()
        }
    }

    /// Takes a token for good.
    fn take(rate: &Rate, share: Share, now: Instant) -> Result<(), Duration> {
        let counters = AdmissionCounters::default();
        rate.take(|| share, now, &counters).map(drop)
    }

    const PER_CALLER: Per = Per {
        caller: true,
        method: false,
        lane: false,
    };

    proptest! {
        /// Against a bucket as a textbook has it, in exact numbers: tokens are counted in
        /// nanoseconds times the rate.
        #[test]
        fn it_does_what_a_bucket_of_tokens_does(
            // Rates that divide a second into whole nanoseconds, as both sides count in these.
            rate in prop::sample::select(vec![1_u32, 4, 50, 1_000, 8_000, 1_000_000]),
            burst in 1_u32..40,
            pauses in prop::collection::vec(0_u64..400_000_000, 1..200),
        ) {
            const SECOND: u128 = 1_000_000_000;
            let start = Instant::now();
            let limited = Rate::new(limit(rate, burst), None, start);
            let full = u128::from(burst) * SECOND;
            let (mut tokens, mut at) = (full, start);
            for pause in pauses {
                at += Duration::from_nanos(pause);
                tokens = full.min(tokens + u128::from(pause) * u128::from(rate));
                match take(&limited, nobody(), at) {
                    Ok(()) => {
                        prop_assert!(tokens >= SECOND, "{tokens} were left");
                        tokens -= SECOND;
                    }
                    Err(wait) => {
                        prop_assert!(tokens < SECOND, "{tokens} were left");
                        let missing = (SECOND - tokens).div_ceil(u128::from(rate));
                        prop_assert_eq!(wait.as_nanos(), missing);
                    }
                }
            }
        }

        #[test]
        fn what_was_used_stays_used_when_the_limit_changes(
            before in 1_u32..50, after in 1_u32..50, taken in 0_u32..60,
        ) {
            let now = Instant::now();
            let limited = Rate::new(limit(1, before), None, now);
            for _ in 0..taken {
                let _ = take(&limited, nobody(), now);
            }
            let changed = limited.changed(limit(5, after), now);
            let left = after.saturating_sub(taken.min(before));
            for _ in 0..left {
                prop_assert!(take(&changed, nobody(), now).is_ok());
            }
            prop_assert!(take(&changed, nobody(), now).is_err());
        }
    }

    proptest! {
        /// Tokens that are given back were never taken: beside a limit that is asked for nothing else.
        #[test]
        fn what_is_given_back_was_never_taken(
            burst in 1_u32..6,
            calls in prop::collection::vec((0_u64..2_000, 0_u8..3, any::<bool>()), 1..100),
        ) {
            let start = Instant::now();
            let of_all = Limit { per: PER_CALLER, ..limit(2, burst) };
            let (one, other) = (Rate::new(of_all, None, start), Rate::new(of_all, None, start));
            let (counters, mut at) = (AdmissionCounters::default(), start);
            for (pause, caller, keeps) in calls {
                at += Duration::from_millis(pause);
                let share = || from(&format!("c{caller}"));
                if keeps {
                    prop_assert_eq!(take(&one, share(), at), take(&other, share(), at));
                } else if let Ok(taken) = one.take(share, at, &counters) {
                    taken.give_back();
                }
            }
        }
    }

    #[test]
    fn each_share_has_its_own_and_keeps_it_over_a_change() {
        let now = Instant::now();
        let per_caller = |burst| Limit {
            per: PER_CALLER,
            ..limit(1, burst)
        };
        let limited = Rate::new(per_caller(2), None, now);
        for caller in ["one", "two"] {
            assert_eq!(take(&limited, from(caller), now), Ok(()));
        }
        assert_eq!(take(&limited, from("one"), now), Ok(()));
        let second = Duration::from_secs(1);
        assert_eq!(take(&limited, from("one"), now), Err(second));
        assert_eq!(take(&limited, from("one"), now + second), Ok(()));
        let later = now + second;
        let changed = limited.changed(per_caller(3), later);
        assert_eq!(take(&changed, from("one"), later), Ok(()));
        assert!(take(&changed, from("one"), later).is_err());
        for _ in 0..3 {
            assert_eq!(take(&changed, from("two"), later), Ok(()));
        }
        assert!(take(&changed, from("two"), later).is_err());
    }

    #[test]
    fn shares_have_a_bound_and_those_beyond_it_share_one() {
        let now = Instant::now();
        let limited = Rate::new(
            Limit {
                per: PER_CALLER,
                ..limit(1, 1)
            },
            None,
            now,
        );
        for number in 0..SHARES_LIMIT {
            assert_eq!(take(&limited, from(&format!("c{number}")), now), Ok(()));
        }
        let counters = AdmissionCounters::default();
        for beyond in ["beyond-1", "beyond-2", "c7"] {
            let taken = limited.take(|| from(beyond), now, &counters);
            assert_eq!(taken.is_ok(), beyond == "beyond-1");
        }
        // One that came in time is not beyond it, though it has used up what it has.
        assert_eq!(counters.beyond(), 2);
        assert_eq!(limited.buckets().each.len(), SHARES_LIMIT);
        // Those that are as if they had never been used make room.
        let later = now + Duration::from_secs(2);
        assert_eq!(take(&limited, from("beyond-2"), later), Ok(()));
        assert_eq!(limited.buckets().each.len(), 1);
    }
}

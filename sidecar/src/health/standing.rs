//! How a local service stands, by what the looks at it have found: pure, one transition for each
//! look. It decides when a service falls, when it heals, and how soon it is looked at again; who
//! looks and who is told is in `health`.

use std::time::Duration;

/// An unhealthy service is looked at this often, however long the interval is: nobody calls it, so
/// it has the time, and the mesh wants it back.
pub const UNHEALTHY_EVERY: Duration = Duration::from_secs(1);
/// Between two looks at an address that takes no connections. That costs a local machine nothing,
/// and an app that starts gets calls as soon as it listens.
pub const REFUSED_EVERY: Duration = Duration::from_millis(100);

/// How local services are looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checks {
    /// What is asked of them.
    pub by: CheckBy,
    /// From one look at a healthy service to the next.
    pub interval: Duration,
    /// How long one look may take.
    pub timeout: Duration,
    /// Looks without an answer, one after the other, after which a service is unhealthy.
    pub unhealthy_after: u32,
    /// Good answers, one after the other, after which it is healthy again.
    pub healthy_after: u32,
}

/// What is asked of a local service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CheckBy {
    /// Its health service, `grpc.health.v1`, where it has one.
    Grpc,
    /// Whether it takes connections, and nothing more.
    Tcp,
}

impl Default for Checks {
    fn default() -> Self {
        Self {
            by: CheckBy::Grpc,
            interval: Duration::from_secs(10),
            timeout: Duration::from_secs(5),
            unhealthy_after: 3,
            healthy_after: 2,
        }
    }
}

/// What a look at one service has found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// Its health service says SERVING.
    Serving,
    /// It takes connections, and there is no health service to ask.
    Connects,
    /// Its health service says something else.
    NotServing,
    /// It takes connections, and gives no answer that means anything.
    Silent,
    /// It takes no connections.
    Refused,
}

impl Outcome {
    /// Every one.
    pub const ALL: [Self; 5] = [
        Self::Serving,
        Self::Connects,
        Self::NotServing,
        Self::Silent,
        Self::Refused,
    ];

    /// The word that metrics and `/config` have.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Serving => "serving",
            Self::Connects => "connects",
            Self::NotServing => "not_serving",
            Self::Silent => "silent",
            Self::Refused => "refused",
        }
    }

    const fn is_good(self) -> bool {
        matches!(self, Self::Serving | Self::Connects)
    }
}

/// How one local service stands.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Standing {
    healthy: bool,
    /// It has taken a connection since this sidecar began.
    seen: bool,
    /// Good looks since the last bad one, and the other way round.
    run: u32,
    last: Option<Outcome>,
    last_bad: Option<Outcome>,
}

impl Standing {
    /// Takes in what a look has found. True if the service is healthy now and was not before, or
    /// the other way round.
    ///
    /// An app that says that it is not serving, and an address that takes no connections, leave
    /// nothing to guess, so the service falls at once. Silence may be one slow moment: it falls
    /// after `unhealthy_after` of them. A service that was never seen is believed at its first
    /// connection.
    pub fn take(&mut self, outcome: Outcome, checks: &Checks) -> bool {
        let same = self
            .last
            .is_some_and(|it| it.is_good() == outcome.is_good());
        self.run = if same { self.run.saturating_add(1) } else { 1 };
        self.last = Some(outcome);
        if !outcome.is_good() {
            self.last_bad = Some(outcome);
        }
        let first = !self.seen && outcome != Outcome::Refused;
        self.seen |= first;
        if first {
            self.run = 1;
        }
        let before = self.healthy;
        self.healthy = match outcome {
            Outcome::Serving | Outcome::Connects => {
                before || first || self.run >= checks.healthy_after
            }
            Outcome::Silent => (before || first) && self.run < checks.unhealthy_after,
            Outcome::NotServing | Outcome::Refused => false,
        };
        before != self.healthy
    }

    /// Can it take calls?
    #[must_use]
    pub const fn is_healthy(&self) -> bool {
        self.healthy
    }

    /// What the last look found.
    #[must_use]
    pub const fn last(&self) -> Option<Outcome> {
        self.last
    }

    /// How many looks in a row found it as good, or as bad, as the last one.
    #[must_use]
    pub const fn run(&self) -> u32 {
        self.run
    }

    /// When it is looked at again.
    #[must_use]
    pub fn next_look(&self, checks: &Checks) -> Duration {
        let pace = match (self.healthy, self.last_bad) {
            (true, _) => checks.interval,
            (false, None | Some(Outcome::Refused)) => REFUSED_EVERY,
            (false, Some(_)) => UNHEALTHY_EVERY,
        };
        pace.min(checks.interval)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn after(outcomes: &[Outcome]) -> Standing {
        let mut standing = Standing::default();
        for outcome in outcomes {
            standing.take(*outcome, &Checks::default());
        }
        standing
    }

    #[test]
    fn nothing_is_believed_until_it_was_seen_and_then_at_once() {
        use Outcome::*;
        assert!(!Standing::default().is_healthy());
        assert!(!after(&[Refused, Refused]).is_healthy());
        for first in [Serving, Connects, Silent] {
            assert!(after(&[first]).is_healthy(), "{first:?}");
            assert!(after(&[Refused, Refused, first]).is_healthy(), "{first:?}");
        }
        assert!(!after(&[NotServing]).is_healthy());
    }

    #[test]
    fn silence_takes_three_looks_and_healing_two() {
        use Outcome::*;
        assert!(after(&[Serving, Silent, Silent]).is_healthy());
        let fallen = [Serving, Silent, Silent, Silent];
        assert!(!after(&fallen).is_healthy());
        // A good look in between starts the count anew.
        assert!(after(&[Serving, Silent, Silent, Serving, Silent, Silent]).is_healthy());
        assert!(!after(&[&fallen[..], &[Serving]].concat()).is_healthy());
        assert!(after(&[&fallen[..], &[Serving, Serving]].concat()).is_healthy());
        assert!(!after(&[&fallen[..], &[Serving, Silent, Serving]].concat()).is_healthy());
    }

    #[test]
    fn what_leaves_nothing_to_guess_counts_at_once() {
        use Outcome::*;
        for certain in [NotServing, Refused] {
            assert!(!after(&[Serving, certain]).is_healthy());
            assert!(!after(&[Serving, certain, Serving]).is_healthy());
            assert!(after(&[Serving, certain, Serving, Serving]).is_healthy());
        }
    }

    #[test]
    fn the_worse_it_stands_the_sooner_it_is_looked_at() {
        use Outcome::*;
        let checks = Checks::default();
        let next = |outcomes: &[Outcome]| after(outcomes).next_look(&checks);
        assert_eq!(next(&[Serving]), checks.interval);
        assert_eq!(next(&[Serving, Silent]), checks.interval);
        assert_eq!(next(&[Serving, NotServing]), UNHEALTHY_EVERY);
        assert_eq!(next(&[Serving, NotServing, Serving]), UNHEALTHY_EVERY);
        assert_eq!(next(&[Serving, Refused]), REFUSED_EVERY);
        assert_eq!(next(&[Serving, Refused, Serving]), REFUSED_EVERY);
        assert_eq!(next(&[]), REFUSED_EVERY);
        let quick = Checks {
            interval: Duration::from_millis(50),
            ..checks
        };
        assert_eq!(
            after(&[Serving, NotServing]).next_look(&quick),
            quick.interval
        );
    }

    proptest! {
        /// Whatever happened before, so many looks of one kind settle it.
        #[test]
        fn enough_looks_of_one_kind_settle_it(
            before in proptest::collection::vec(proptest::sample::select(&Outcome::ALL[..]), 0..20),
            unhealthy_after in 1_u32..5,
            healthy_after in 1_u32..5,
            last in proptest::sample::select(&Outcome::ALL[..]),
        ) {
            let checks = Checks { unhealthy_after, healthy_after, ..Checks::default() };
            let mut standing = Standing::default();
            for outcome in before {
                let was = standing.is_healthy();
                let changed = standing.take(outcome, &checks);
                prop_assert_eq!(changed, was != standing.is_healthy());
            }
            for _ in 0..unhealthy_after.max(healthy_after) {
                standing.take(last, &checks);
            }
            prop_assert_eq!(standing.is_healthy(), last.is_good());
        }
    }
}

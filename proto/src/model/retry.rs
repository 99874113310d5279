//! How calls of idempotent methods are tried again. What cannot have been processed is tried again
//! anyway (gRFC A6); this is for what may have been.

use std::fmt;
use std::time::Duration;

use super::breaker::is_within;
use super::error::{FieldError, Problem};
use super::flaw::PolicyFlaw;
use super::written::{span, span_text};
use crate::wire::routing::v1 as wire;

/// The most attempts that a rule may ask for, the first included.
pub const ATTEMPTS_LIMIT: u32 = 5;
/// The largest fixed part of a budget, in further attempts a second.
pub const BUDGET_LIMIT: u32 = 10_000;
/// The least and the longest pause that a rule may ask for.
pub const PAUSE: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(60));

/// How often, and after what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Retry {
    /// Attempts in all, the first included: 2 to [`ATTEMPTS_LIMIT`].
    pub attempts: u32,
    /// After which gRPC statuses.
    pub on: Statuses,
    /// What all further attempts of the service's calls may be together; `None` where nothing is
    /// said of it. Only a service's own, since its methods share it.
    pub budget_percent: Option<u32>,
    /// The part of it that does not depend on the number of calls, in attempts a second.
    pub budget_per_second: Option<u32>,
    /// The longest pause before the second attempt, within [`PAUSE`]. It doubles with each.
    pub pause: Duration,
    /// The longest pause there is.
    pub max_pause: Duration,
}

/// How many further attempts a service's calls may have together.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RetryBudget {
    /// For each 100 calls: 0 to 100.
    pub percent: u32,
    /// A second, beside these: 0 to [`BUDGET_LIMIT`].
    pub per_second: u32,
}

impl RetryBudget {
    /// That of a rule that says nothing of it.
    pub const DEFAULT: Self = Self {
        percent: 20,
        per_second: 10,
    };
}

/// A set of gRPC statuses, `OK` never among them.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Statuses(u32);

/// The gRPC statuses by number (grpc/status.proto), `OK` left out.
const NAMES: [&str; 16] = [
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl Retry {
    /// Three attempts, after `UNAVAILABLE` alone.
    pub const DEFAULT: Self = Self {
        attempts: 3,
        on: Statuses::UNAVAILABLE,
        budget_percent: None,
        budget_per_second: None,
        pause: Duration::from_millis(25),
        max_pause: Duration::from_secs(1),
    };

    /// The budget that it asks for.
    #[must_use]
    pub fn budget(&self) -> RetryBudget {
        let default = RetryBudget::DEFAULT;
        RetryBudget {
            percent: self.budget_percent.unwrap_or(default.percent),
            per_second: self.budget_per_second.unwrap_or(default.per_second),
        }
    }

    /// What is wrong with it in itself, but for its attempts.
    pub(super) const fn flaw(&self, of_method: bool) -> Option<PolicyFlaw> {
        if of_method && (self.budget_percent.is_some() || self.budget_per_second.is_some()) {
            return PolicyFlaw::some(
                "retry",
                "has a budget, which is the service's: all its methods share it; say it in the \
                 service's `retry`",
            );
        }
        if let Some(percent) = self.budget_percent {
            if percent > 100 {
                return PolicyFlaw::some("retry.budget_percent", "is 0 to 100");
            }
            if percent == 0 && matches!(self.budget_per_second, Some(0)) {
                return PolicyFlaw::some(
                    "retry.budget_percent",
                    "and `budget_per_second` are both 0, so nothing would ever be tried again; \
                     leave `retry` out",
                );
            }
        }
        if let Some(count) = self.budget_per_second
            && count > BUDGET_LIMIT
        {
            return PolicyFlaw::some("retry.budget_per_second", "is 0 to 10000");
        }
        if !is_within(self.pause, PAUSE) {
            return PolicyFlaw::some("retry.pause", "is whole milliseconds from 1ms to 1m");
        }
        if !is_within(self.max_pause, PAUSE) {
            return PolicyFlaw::some("retry.max_pause", "is whole milliseconds from 1ms to 1m");
        }
        if self.max_pause.as_nanos() < self.pause.as_nanos() {
            return PolicyFlaw::some("retry.max_pause", "is below `pause`");
        }
        None
    }

    pub(super) fn from_wire(
        retry: Option<wire::Retry>,
        path: &str,
    ) -> Result<Option<Self>, FieldError> {
        let Some(retry) = retry else { return Ok(None) };
        if !(2..=ATTEMPTS_LIMIT).contains(&retry.attempts) {
            let text = format!(
                "{} attempts; it is 2 to {ATTEMPTS_LIMIT}, the first included",
                retry.attempts
            );
            let path = format!("{path}.attempts");
            return Err(FieldError::new(path, Problem::OutOfBounds(text)));
        }
        let mut on = Statuses(0);
        for (index, name) in retry.on.iter().enumerate() {
            let status = Statuses::one(name).ok_or_else(|| {
                let problem = Problem::unknown_name(name, "gRPC status", NAMES);
                FieldError::new(format!("{path}.on[{index}]"), problem)
            })?;
            on = Statuses(on.0 | status.0);
        }
        if retry.on.is_empty() {
            on = Statuses::UNAVAILABLE;
        }
        let default = Self::DEFAULT;
        let time = |text: &str, field: &str| span(text, &format!("{path}.{field}"));
        let pause = time(&retry.pause, "pause")?.unwrap_or(default.pause);
        let most = default.max_pause.max(pause);
        Ok(Some(Self {
            attempts: retry.attempts,
            on,
            budget_percent: retry.budget_percent,
            budget_per_second: retry.budget_per_second,
            pause,
            max_pause: time(&retry.max_pause, "max_pause")?.unwrap_or(most),
        }))
    }

    pub(super) fn to_wire(self) -> wire::Retry {
        wire::Retry {
            attempts: self.attempts,
            on: self.on.names().map(str::to_owned).collect(),
            budget_percent: self.budget_percent,
            budget_per_second: self.budget_per_second,
            pause: span_text(self.pause),
            max_pause: span_text(self.max_pause),
        }
    }
}

impl Statuses {
    /// `UNAVAILABLE` alone.
    pub const UNAVAILABLE: Self = Self(1 << 14);

    /// Those of these numbers, for constants; `OK` and numbers that do not exist are left out.
    #[must_use]
    pub const fn of(numbers: &[u32]) -> Self {
        let mut bits = 0;
        let mut index = 0;
        while index < numbers.len() {
            if numbers[index] >= 1 && numbers[index] <= 16 {
                bits |= 1 << numbers[index];
            }
            index += 1;
        }
        Self(bits)
    }

    /// Is the status with this number among them?
    #[must_use]
    pub const fn contains(self, number: u32) -> bool {
        number < 32 && self.0 & (1 << number) != 0
    }

    /// Their numbers, in order.
    pub fn numbers(self) -> impl Iterator<Item = u32> {
        (1..=16).filter(move |number| self.contains(*number))
    }

    /// Their names, in the order of their numbers.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        let named = (1_u32..).zip(NAMES);
        named.filter_map(move |(number, name)| self.contains(number).then_some(name))
    }

    /// The number of the status with this name; `OK` is none here.
    pub(super) fn named(name: &str) -> Result<u32, Problem> {
        let known = (1_u32..).zip(NAMES).find(|(_, known)| *known == name);
        let unknown = || Problem::unknown_name(name, "gRPC status", NAMES);
        known.map(|(number, _)| number).ok_or_else(unknown)
    }

    fn one(name: &str) -> Option<Self> {
        let index = NAMES.iter().position(|known| *known == name)?;
        Some(Self(2 << index))
    }
}

impl fmt::Debug for Statuses {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_set().entries(self.names()).finish()
    }
}

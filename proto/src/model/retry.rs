//! How calls of idempotent methods are tried again. What cannot have been processed is tried again
//! anyway (gRFC A6); this is for what may have been.

use std::fmt;

use super::error::{FieldError, Problem};
use crate::wire::routing::v1 as wire;

/// The most attempts that a rule may ask for, the first included.
pub const ATTEMPTS_LIMIT: u32 = 5;

/// How often, and after what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Retry {
    /// Attempts in all, the first included: 2 to [`ATTEMPTS_LIMIT`].
    pub attempts: u32,
    /// After which gRPC statuses.
    pub on: Statuses,
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
        let attempts = retry.attempts;
        Ok(Some(Self { attempts, on }))
    }

    pub(super) fn to_wire(self) -> wire::Retry {
        wire::Retry {
            attempts: self.attempts,
            on: self.on.names().map(str::to_owned).collect(),
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

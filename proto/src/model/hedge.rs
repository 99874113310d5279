//! When a method's call is sent a second time although the first may still be answered (gRFC A6,
//! "Hedging Policy"): a slow endpoint then costs a little load instead of the caller's time. Only
//! unary methods that are idempotent may say so, since the attempts run beside each other.

use std::time::Duration;

use super::breaker::is_within;
use super::error::{FieldError, Problem};
use super::flaw::PolicyFlaw;
use super::retry::ATTEMPTS_LIMIT;
use super::written::{span, span_text};
use crate::wire::routing::v1 as wire;

/// The shortest and the longest time after which the next attempt may be sent.
pub const AFTER: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(60));

/// When, and how often.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hedge {
    /// It is not, whatever was said before: for rules that are applied.
    pub off: bool,
    /// So long without an answer, and the next attempt is sent, within [`AFTER`].
    pub after: Duration,
    /// Attempts in all, the first included: 2 to [`ATTEMPTS_LIMIT`].
    pub max_attempts: u32,
}

impl Hedge {
    /// None.
    pub const OFF: Self = Self {
        off: true,
        ..Self::after(Duration::from_secs(1))
    };

    /// A second attempt, and no third, after this time.
    #[must_use]
    pub const fn after(after: Duration) -> Self {
        Self {
            off: false,
            after,
            max_attempts: 2,
        }
    }

    /// What is wrong with it, for a method of this kind.
    pub(super) const fn flaw(&self, idempotent: bool, unary: bool) -> Option<PolicyFlaw> {
        if !unary {
            return PolicyFlaw::some(
                "hedge",
                "is of a method that streams, and only unary calls can be sent to two endpoints \
                 at once; leave `hedge` out",
            );
        }
        if !idempotent {
            return PolicyFlaw::some(
                "hedge",
                "is of a method that is not idempotent: two attempts at once could do its work \
                 twice; say `idempotent: true` if that does no harm, or leave `hedge` out",
            );
        }
        if !is_within(self.after, AFTER) {
            return PolicyFlaw::some("hedge.after", "is whole milliseconds from 1ms to 1m");
        }
        if self.max_attempts < 2 || self.max_attempts > ATTEMPTS_LIMIT {
            return PolicyFlaw::some("hedge.max_attempts", "is 2 to 5, the first included");
        }
        None
    }

    pub(super) fn from_wire(
        hedge: Option<wire::Hedge>,
        path: &str,
    ) -> Result<Option<Self>, FieldError> {
        let Some(hedge) = hedge else { return Ok(None) };
        let field = format!("{path}.after");
        let after = match span(&hedge.after, &field)? {
            Some(after) => after,
            None if hedge.off => Self::OFF.after,
            None => return Err(FieldError::new(field, Problem::Missing)),
        };
        let default = Self::after(after);
        Ok(Some(Self {
            off: hedge.off,
            max_attempts: hedge.max_attempts.unwrap_or(default.max_attempts),
            ..default
        }))
    }

    pub(super) fn to_wire(self) -> wire::Hedge {
        wire::Hedge {
            off: self.off,
            after: span_text(self.after),
            max_attempts: Some(self.max_attempts),
        }
    }
}

//! A further attempt of a call while an earlier one is still under way (gRFC A6, "Hedging Policy").

use std::time::Duration;

use super::breaker::is_within;
use super::error::{FieldError, Problem};
use super::flaw::PolicyFlaw;
use super::retry::ATTEMPTS_LIMIT;
use super::written::{span, span_text};
use crate::wire::routing::v1 as wire;

/// Sidecars hedge.
const BUILT: bool = false;
/// The least and the longest delay that a rule may ask for.
pub const DELAY: (Duration, Duration) = (Duration::from_millis(1), Duration::from_secs(60));

/// When a further attempt is made, and how many in all.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Hedge {
    /// The time between one attempt and the next, within [`DELAY`].
    pub delay: Duration,
    /// Attempts in all, the first included: 2 to [`ATTEMPTS_LIMIT`].
    pub max_attempts: u32,
}

impl Hedge {
    /// One further attempt after this delay.
    #[must_use]
    pub const fn after(delay: Duration) -> Self {
        Self {
            delay,
            max_attempts: 2,
        }
    }

    pub(super) fn from_wire(
        hedge: Option<wire::Hedge>,
        path: &str,
    ) -> Result<Option<Self>, FieldError> {
        let Some(hedge) = hedge else { return Ok(None) };
        let path = format!("{path}.delay");
        let delay = span(&hedge.delay, &path)?;
        let delay = delay.ok_or_else(|| FieldError::new(path, Problem::Missing))?;
        let plain = Self::after(delay);
        Ok(Some(Self {
            max_attempts: hedge.max_attempts.unwrap_or(plain.max_attempts),
            ..plain
        }))
    }

    pub(super) fn to_wire(self) -> wire::Hedge {
        wire::Hedge {
            delay: span_text(self.delay),
            max_attempts: Some(self.max_attempts),
        }
    }

    /// What is wrong with it in itself.
    pub(super) const fn flaw(&self) -> Option<PolicyFlaw> {
        if !BUILT {
            return PolicyFlaw::some("hedge", "is not built yet; leave it out");
        }
        if !is_within(self.delay, DELAY) {
            return PolicyFlaw::some("hedge.delay", "is whole milliseconds from 1ms to 1m");
        }
        if self.max_attempts < 2 || self.max_attempts > ATTEMPTS_LIMIT {
            return PolicyFlaw::some("hedge.max_attempts", "is 2 to 5, the first included");
        }
        None
    }
}

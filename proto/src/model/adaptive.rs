//! A bound of calls at once that follows latency: what a rule may say of it. How the bound is found
//! is the sidecar's (`admission::gradient`).

use std::fmt;
use std::time::Duration;

use super::admission::{IN_FLIGHT_LIMIT, Wrong, refused, time, wrong};
use super::breaker::is_within;
use super::error::FieldError;
use super::written::duration_text;
use crate::wire::routing::v1 as wire;

/// The most that calls may be slower than alone, in percent.
pub const TOLERANCE_LIMIT: u32 = 400;
/// The shortest time between two looks at how long calls take alone.
pub const SHORTEST_REMEASURE: Duration = Duration::from_secs(1);
/// The longest.
pub const LONGEST_REMEASURE: Duration = Duration::from_secs(600);

/// A bound of calls at once that falls while calls take longer than they do alone, and else grows
/// with what is asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Adaptive {
    /// The bound never falls below this: 1 to [`IN_FLIGHT_LIMIT`].
    pub min: u32,
    /// The bound never rises above this: `min` to [`IN_FLIGHT_LIMIT`].
    pub max: u32,
    /// So much longer than alone calls may take, in percent, before the bound falls: 1 to
    /// [`TOLERANCE_LIMIT`].
    pub tolerance_percent: u32,
    /// How often it is looked anew how long calls take alone: [`SHORTEST_REMEASURE`] to
    /// [`LONGEST_REMEASURE`], and up to a fifth more.
    pub remeasure: Duration,
}

impl Adaptive {
    /// What holds where a rule says nothing else.
    pub const DEFAULT: Self = Self {
        min: 1,
        max: 1_000,
        tolerance_percent: 25,
        remeasure: Duration::from_secs(10),
    };

    /// A bound between these two.
    #[must_use]
    pub const fn between(min: u32, max: u32) -> Self {
        Self {
            min,
            max,
            ..Self::DEFAULT
        }
    }

    pub(super) const fn flaw(&self) -> Option<Wrong> {
        if self.min == 0 || self.min > IN_FLIGHT_LIMIT {
            return wrong("concurrency.adaptive.min", "is 1 to 65536");
        }
        if self.max == 0 || self.max > IN_FLIGHT_LIMIT {
            return wrong("concurrency.adaptive.max", "is 1 to 65536");
        }
        if self.min > self.max {
            return wrong(
                "concurrency.adaptive.min",
                "is above `max`, which is 1000 if not given",
            );
        }
        if self.tolerance_percent == 0 || self.tolerance_percent > TOLERANCE_LIMIT {
            return wrong("concurrency.adaptive.tolerance_percent", "is 1 to 400");
        }
        if !is_within(self.remeasure, (SHORTEST_REMEASURE, LONGEST_REMEASURE)) {
            return wrong(
                "concurrency.adaptive.remeasure",
                "is whole milliseconds from 1s to 10m",
            );
        }
        None
    }

    pub(super) fn from_wire(adaptive: &wire::Adaptive) -> Result<Self, FieldError> {
        let usual = Self::DEFAULT;
        let remeasure = time(&adaptive.remeasure, "adaptive.remeasure")?;
        let read = Self {
            min: adaptive.min.unwrap_or(usual.min),
            max: adaptive.max.unwrap_or(usual.max),
            tolerance_percent: adaptive
                .tolerance_percent
                .unwrap_or(usual.tolerance_percent),
            remeasure: remeasure.unwrap_or(usual.remeasure),
        };
        refused(read.flaw())?;
        Ok(read)
    }

    pub(super) fn to_wire(self) -> wire::Adaptive {
        wire::Adaptive {
            min: Some(self.min),
            max: Some(self.max),
            tolerance_percent: Some(self.tolerance_percent),
            remeasure: duration_text(self.remeasure),
        }
    }
}

impl fmt::Display for Adaptive {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (min, max, tolerance) = (self.min, self.max, self.tolerance_percent);
        write!(
            formatter,
            "{min} to {max} calls at once, as many as take at most {tolerance} % longer than alone"
        )
    }
}

//! When an endpoint is left alone because it fails more often than the others of its service do.
//! It is on by default, as the breaker is, which also says for how long.

use super::breaker::CALLS_LIMIT;
use super::flaw::PolicyFlaw;
use crate::wire::routing::v1 as wire;

/// The largest part of a service's endpoints that a rule may have left alone in this way, in
/// percent: those that are compared with would be the fewer ones above it.
pub const PART_LIMIT: u32 = 50;

/// How endpoints are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Outlier {
    /// They are not.
    pub off: bool,
    /// So many percent points below the mean success of the others is too few: 1 to 100.
    pub below_mean: u32,
    /// After so many calls in the breaker's interval an endpoint is compared: 1 to
    /// [`CALLS_LIMIT`].
    pub min_calls: u32,
    /// The largest part of the endpoints that is left alone for it, in percent: 1 to
    /// [`PART_LIMIT`].
    pub max_percent: u32,
}

impl Outlier {
    /// That of a rule that says nothing of it.
    pub const DEFAULT: Self = Self {
        off: false,
        below_mean: 25,
        min_calls: 20,
        max_percent: PART_LIMIT,
    };
    /// None at all.
    pub const OFF: Self = Self {
        off: true,
        ..Self::DEFAULT
    };

    pub(super) fn from_wire(outlier: Option<wire::Outlier>) -> Option<Self> {
        let outlier = outlier?;
        let default = Self::DEFAULT;
        Some(Self {
            off: outlier.off,
            below_mean: outlier.below_mean.unwrap_or(default.below_mean),
            min_calls: outlier.min_calls.unwrap_or(default.min_calls),
            max_percent: outlier.max_percent.unwrap_or(default.max_percent),
        })
    }

    pub(super) fn to_wire(self) -> wire::Outlier {
        wire::Outlier {
            off: self.off,
            below_mean: Some(self.below_mean),
            min_calls: Some(self.min_calls),
            max_percent: Some(self.max_percent),
        }
    }

    /// What is wrong with it in itself.
    pub(super) const fn flaw(&self) -> Option<PolicyFlaw> {
        if self.below_mean < 1 || self.below_mean > 100 {
            return PolicyFlaw::some("outlier.below_mean", "is 1 to 100 percent points");
        }
        if self.min_calls < 1 || self.min_calls > CALLS_LIMIT {
            return PolicyFlaw::some("outlier.min_calls", "is 1 to 100000");
        }
        if self.max_percent < 1 || self.max_percent > PART_LIMIT {
            return PolicyFlaw::some(
                "outlier.max_percent",
                "is 1 to 50: those that are left must be the more",
            );
        }
        None
    }
}

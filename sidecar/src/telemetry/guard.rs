//! One call, one guard: it records how the call ended exactly once, also when the call is dropped.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::reason::Reason;

use super::target::{TargetCounters, add};

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With the callee's own status, 0 to 16; others count as 17.
    Answered(u16),
    /// The mesh failed it.
    Failed(Reason),
    /// Its caller went away.
    Cancelled,
}

/// Counts a call for as long as it lives, and its end when it is dropped.
#[derive(Debug)]
pub struct CallGuard {
    counters: Arc<TargetCounters>,
    open: Arc<AtomicU64>,
    arrived: Instant,
    outcome: Outcome,
}

impl CallGuard {
    pub(super) fn new(
        counters: Arc<TargetCounters>,
        open: Arc<AtomicU64>,
        arrived: Instant,
    ) -> Self {
        add(&counters.requests);
        add(&counters.in_flight);
        add(&open);
        // A call that is dropped without another word ends with its caller's connection.
        Self {
            counters,
            open,
            arrived,
            outcome: Outcome::Cancelled,
        }
    }

    /// Says how the call ended.
    pub fn ended(&mut self, outcome: Outcome) {
        self.outcome = outcome;
    }

    /// How the call ended; as long as nobody said so, it is given up.
    #[must_use]
    pub const fn outcome(&self) -> Outcome {
        self.outcome
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        let counters = &self.counters;
        match self.outcome {
            Outcome::Answered(status) => {
                add(&counters.responses[usize::from(status.min(17))]);
            }
            Outcome::Failed(reason) => {
                let index = Reason::ALL.iter().position(|known| *known == reason);
                add(&counters.errors[index.unwrap_or_default()]);
            }
            Outcome::Cancelled => add(&counters.cancelled),
        }
        counters.took(self.arrived.elapsed());
        counters.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

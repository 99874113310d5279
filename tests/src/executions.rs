//! Compares what callers were told with what servers did: no call may be executed twice, wherever;
//! a call that was answered was executed once; one of which the mesh says that it cannot have run
//! was not executed at all.

use std::collections::HashMap;

use crate::Upstream;
use crate::app::App;
use crate::load::Report;

/// How often each call was begun, by all servers together.
#[derive(Debug, Default)]
pub struct Executions {
    counts: HashMap<String, usize>,
}

impl Executions {
    /// Of these servers.
    #[must_use]
    pub fn of<'a>(upstreams: impl IntoIterator<Item = &'a Upstream>) -> Self {
        let mut all = Self::default();
        for upstream in upstreams {
            for (key, count) in upstream.ledger().counts() {
                *all.counts.entry(key).or_default() += count;
            }
        }
        all
    }

    /// And of this one.
    #[must_use]
    pub fn and(mut self, app: &App) -> Self {
        for (key, count) in app.executed() {
            *self.counts.entry(key).or_default() += count;
        }
        self
    }

    /// Checks each call of a load, and returns how many of the calls that failed were executed.
    ///
    /// # Panics
    /// If a call was executed more often than it may have been.
    pub fn agree_with(&self, report: &Report) -> usize {
        let mut executed = 0;
        for call in &report.calls {
            let count = self.counts.get(&call.key).copied().unwrap_or_default();
            let allowed = match &call.result {
                Ok(_) => count == 1,
                Err(failed) if failed.processed == "no" => count == 0,
                Err(_) => count <= 1,
            };
            assert!(allowed, "executed {count} times: {call:#?}\n{report}");
            executed += usize::from(call.result.is_err() && count == 1);
        }
        executed
    }
}

//! What this project demands of every rule, beside what Sidelane does. The build script, the
//! control plane and the sidecar all run it.

use sidelane::routing::{FieldError, Problem, Rule, Validation};

/// Every service says how long a call of it may take.
pub struct TimeLimits;

impl Validation for TimeLimits {
    fn name(&self) -> &'static str {
        "time-limits"
    }

    fn check(&self, rule: &Rule) -> Result<(), FieldError> {
        if rule.timeout.is_some() {
            return Ok(());
        }
        let text = "is missing: every service of ours says how long a call may take".to_owned();
        Err(FieldError::new("timeout", Problem::Refused(text)))
    }
}

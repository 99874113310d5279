//! Validation rules of one's own: what a project, or a company, demands of every rule beside what
//! Sidelane does. The build, `sidelane apply`'s control and the sidecar run the same ones.

use super::error::FieldError;
use super::rule::Rule;

/// A demand on every rule. It is pure: the same rule is always judged alike.
///
/// ```
/// use sidelane_proto::model::error::Problem;
/// use sidelane_proto::model::{FieldError, Rule, Validation};
///
/// /// Everything in our mesh has a time limit.
/// struct TimeLimits;
///
/// impl Validation for TimeLimits {
///     fn name(&self) -> &'static str {
///         "time-limits"
///     }
///
///     fn check(&self, rule: &Rule) -> Result<(), FieldError> {
///         if rule.timeout.is_some() {
///             return Ok(());
///         }
///         let text = "every service of ours says its `timeout`".to_owned();
///         Err(FieldError::new("timeout", Problem::Refused(text)))
///     }
/// }
/// ```
pub trait Validation: Send + Sync {
    /// The name that refusals show.
    fn name(&self) -> &'static str;

    /// Judges a rule that is right in itself.
    ///
    /// # Errors
    /// The field that is wrong, as rules have it (`timeout`, `methods[2].retry`), and why.
    fn check(&self, rule: &Rule) -> Result<(), FieldError>;
}

/// Runs all of them; the refusal names the one that spoke.
///
/// # Errors
/// The first refusal.
pub fn run<'a>(
    validations: impl IntoIterator<Item = &'a (dyn Validation + 'a)>,
    rule: &Rule,
) -> Result<(), FieldError> {
    for validation in validations {
        validation.check(rule).map_err(|error| {
            let text = format!("{} (validation `{}`)", error.problem, validation.name());
            FieldError::new(error.path, super::error::Problem::Refused(text))
        })?;
    }
    Ok(())
}

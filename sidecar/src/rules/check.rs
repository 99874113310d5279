//! May a pushed rule be taken here? It must not move what was compiled in, and must pass the
//! project's own validations.

use std::collections::HashMap;

use sidelane::routing::RouteTable;
use sidelane_proto::model::{FieldError, PushedRule, Rule, ServiceName, Validation, validation};

/// Judges pushed rules.
pub struct RuleCheck {
    compiled: HashMap<&'static str, &'static Rule>,
    validations: Vec<Box<dyn Validation>>,
}

impl RuleCheck {
    /// Beside these rules, by these validations.
    #[must_use]
    pub fn new(routes: RouteTable, validations: Vec<Box<dyn Validation>>) -> Self {
        let named = routes.rules().map(|rule| (&*rule.service, rule));
        Self {
            compiled: named.collect(),
            validations,
        }
    }

    /// Judges one rule that is right in itself.
    ///
    /// # Errors
    /// The field that is wrong, as rules have it (`lane`, `methods[2].retry`), and why.
    pub fn check(&self, pushed: &PushedRule) -> Result<(), FieldError> {
        let compiled = self.compiled.get(&*pushed.rule.service).copied();
        if let Some(compiled) = compiled {
            pushed.check_against(compiled)?;
        }
        let default;
        let base = match compiled {
            Some(compiled) => compiled,
            None => {
                default = Rule::default_for(&ServiceName::new(&pushed.rule.service)?);
                &default
            }
        };
        // The project judges what would hold, not the part that was pushed.
        let whole = pushed.beside(base, compiled.is_some());
        let validations = self.validations.iter().map(|validation| &**validation);
        validation::run(validations.map(|it| it as &dyn Validation), &whole)
    }
}

impl std::fmt::Debug for RuleCheck {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let validations: Vec<_> = self.validations.iter().map(|it| it.name()).collect();
        formatter
            .debug_struct("RuleCheck")
            .field("rules", &self.compiled.len())
            .field("validations", &validations)
            .finish()
    }
}

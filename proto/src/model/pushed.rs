//! Rules that the control plane hands out. They hold for services that a program was not compiled
//! with; of a compiled rule they tune time limits, retries, balancing, breakers, splits, what is
//! admitted and who may call, and nothing else.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use prost::Message as _;

use super::error::{FieldError, Problem};
use super::rule::{Category, MethodRule, Rule};
use crate::wire::routing::v1 as wire;

/// The most rules that may be applied to a mesh.
pub const RULES_LIMIT: usize = 20_000;
/// The most bytes that they may have together, as encoded: what a sidecar that wants to know all
/// is told at once must leave room for endpoints.
pub const RULES_BYTES_LIMIT: usize = 24 << 20;

/// A rule that was applied to a running mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PushedRule {
    /// What it says.
    pub rule: Arc<Rule>,
    /// It says nothing of class, lane, secure, persistent and category; those that it has are the
    /// default rule's.
    pub tuning_only: bool,
    /// The change of control's store with which it came; 0 where it was not applied yet.
    pub version: u64,
}

impl PushedRule {
    /// May this rule stand beside `fixed`, with which a program was compiled?
    ///
    /// # Errors
    /// The field that it would move.
    pub fn check_against(&self, fixed: &Rule) -> Result<(), FieldError> {
        if !self.tuning_only {
            self.check_fixed(fixed)?;
        }
        if !fixed.methods.is_empty() {
            self.check_methods(fixed)?;
        }
        // Each may be right alone, and a timeout of one above the ceiling of the other.
        self.beside(fixed, true).check().map_err(|error| {
            let text = format!(
                "beside the compiled rule ({}): {}",
                fixed.origin, error.problem
            );
            FieldError::new(error.path, Problem::Refused(text))
        })
    }

    fn check_fixed(&self, fixed: &Rule) -> Result<(), FieldError> {
        let rule = &self.rule;
        if rule.class != fixed.class {
            return Err(moved(fixed, "connection", &fixed.class, &rule.class));
        }
        if rule.lane != fixed.lane {
            return Err(moved(fixed, "lane", &fixed.lane, &rule.lane));
        }
        if rule.secure != fixed.secure {
            return Err(moved(fixed, "secure", &fixed.secure, &rule.secure));
        }
        if rule.persistent != fixed.persistent {
            let (from, to) = (&fixed.persistent, &rule.persistent);
            return Err(moved(fixed, "persistent", from, to));
        }
        if rule.category != Category::Unspecified && rule.category != fixed.category {
            let (from, to) = (fixed.category.name(), rule.category.name());
            return Err(moved(fixed, "category", &from, &to));
        }
        Ok(())
    }

    fn check_methods(&self, fixed: &Rule) -> Result<(), FieldError> {
        for (index, method) in self.rule.methods.iter().enumerate() {
            let within = |error: FieldError| error.within(format_args!("methods[{index}]"));
            let Some(known) = fixed.method(&method.name) else {
                let names = fixed.methods.iter().map(|method| &*method.name);
                let problem = Problem::unknown_name(&method.name, "method", names);
                return Err(within(FieldError::new("name", problem)));
            };
            for (path, says, is) in [
                ("idempotent", method.idempotent, known.idempotent),
                (
                    "client_streaming",
                    method.client_streaming,
                    known.client_streaming,
                ),
                (
                    "server_streaming",
                    method.server_streaming,
                    known.server_streaming,
                ),
            ] {
                if says && !is {
                    return Err(within(moved(fixed, path, &is, &says)));
                }
            }
        }
        Ok(())
    }

    /// The rule that holds where this one stands beside `base`. A compiled base keeps all but its
    /// tuning; any other gives way wherever this one says something. Where this one lowers the
    /// ceiling, time limits of the base are cut to it; its own are for [`Rule::check`].
    #[must_use]
    pub fn beside(&self, base: &Rule, compiled: bool) -> Rule {
        let pushed = &*self.rule;
        let mut rule = if compiled || self.tuning_only {
            base.clone()
        } else {
            Rule {
                methods: base.methods.clone(),
                load_balancing: base.load_balancing,
                strategy: base.strategy.clone(),
                balancing: base.balancing.clone(),
                timeout: base.timeout,
                max_timeout: base.max_timeout,
                retry: base.retry,
                breaker: base.breaker,
                outlier: base.outlier,
                split: base.split.clone(),
                admission: base.admission.clone(),
                authorization: base.authorization.clone(),
                ..pushed.clone()
            }
        };
        if pushed.load_balancing.is_some() || pushed.strategy.is_some() {
            rule.load_balancing = pushed.load_balancing;
            rule.strategy.clone_from(&pushed.strategy);
        }
        rule.balancing = pushed.balancing.or(&rule.balancing);
        rule.timeout = pushed.timeout.or(rule.timeout);
        rule.max_timeout = pushed.max_timeout.or(rule.max_timeout);
        rule.retry = pushed.retry.or(rule.retry);
        rule.breaker = pushed.breaker.or(rule.breaker);
        rule.outlier = pushed.outlier.or(rule.outlier);
        if pushed.split.is_some() {
            rule.split.clone_from(&pushed.split);
        }
        rule.admission = pushed.admission.or(&rule.admission);
        if pushed.authorization.is_some() {
            rule.authorization.clone_from(&pushed.authorization);
        }
        if !pushed.methods.is_empty() {
            rule.methods = Cow::Owned(methods(&rule.methods, &pushed.methods, compiled));
        }
        if let Some(ceiling) = pushed.max_timeout {
            cut(&mut rule, pushed, ceiling);
        }
        rule
    }
}

/// Cuts the time limits that `pushed` does not set itself.
fn cut(rule: &mut Rule, pushed: &Rule, ceiling: Duration) {
    let above = |limit: Option<Duration>| limit.is_some_and(|limit| limit > ceiling);
    if pushed.timeout.is_none() && above(rule.timeout) {
        rule.timeout = Some(ceiling);
    }
    let own = |method: &MethodRule| {
        let method = pushed.method(&method.name);
        method.is_some_and(|method| method.timeout.is_some())
    };
    let long = |method: &MethodRule| above(method.timeout) && !own(method);
    if rule.methods.iter().any(long) {
        for method in rule.methods.to_mut().iter_mut().filter(|it| long(it)) {
            method.timeout = Some(ceiling);
        }
    }
}

fn moved(
    fixed: &Rule,
    path: &str,
    from: &dyn std::fmt::Display,
    to: &dyn std::fmt::Display,
) -> FieldError {
    let text = format!(
        "is compiled in as {from} ({}) and cannot become {to} at run time: change the .proto and \
         build again; a rule that is applied tunes load_balancing, hash_header, locality, slow_start, \
         timeout, max_timeout, retry, breaker, outlier, split, limits, concurrency, fault, \
         authorization and, of methods, hash_on and hedge",
        fixed.origin
    );
    FieldError::new(path, Problem::Refused(text))
}

fn methods(base: &[MethodRule], pushed: &[MethodRule], compiled: bool) -> Vec<MethodRule> {
    let mut methods = base.to_vec();
    for method in pushed {
        let Some(known) = methods.iter_mut().find(|known| known.name == method.name) else {
            methods.push(method.clone());
            continue;
        };
        if !compiled {
            known.idempotent |= method.idempotent;
            known.client_streaming |= method.client_streaming;
            known.server_streaming |= method.server_streaming;
        }
        known.timeout = method.timeout.or(known.timeout);
        known.retry = method.retry.or(known.retry);
        known.hedge = method.hedge.or(known.hedge);
        known.admission = method.admission.or(&known.admission);
        if method.authorization.is_some() {
            known.authorization.clone_from(&method.authorization);
        }
        if method.hash_on.is_some() {
            known.hash_on.clone_from(&method.hash_on);
        }
    }
    methods
}

impl PushedRule {
    /// The rule as bytes, for a store.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        wire::PushedRule::from(self).encode_to_vec()
    }

    /// Reads what [`PushedRule::to_bytes`] wrote, with the same checks as for one from the wire.
    ///
    /// # Errors
    /// Bytes that are no such message, or the field that is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FieldError> {
        let pushed = wire::PushedRule::decode(bytes).map_err(|error| {
            let given = error.to_string();
            let wanted = "a stored rule";
            FieldError::new("rule", Problem::Malformed { given, wanted })
        })?;
        Self::try_from(pushed)
    }

    /// Reads a rule from the wire; `read` knows the lanes and classes that it may name.
    pub(super) fn read(
        pushed: wire::PushedRule,
        read: impl FnOnce(wire::Rule) -> Result<Rule, FieldError>,
    ) -> Result<Self, FieldError> {
        let Some(mut rule) = pushed.rule else {
            return Err(FieldError::new("rule", Problem::Missing));
        };
        if pushed.tuning_only {
            let class = rule.connection != 0 || rule.class_definition.is_some();
            let lane = rule.lane_id != 0 || !rule.lane.is_empty() || rule.lane_definition.is_some();
            if class || lane || rule.secure || rule.persistent || rule.category != 0 {
                let text = "tuning_only, and yet it names a class, lane, secure, persistent or \
                            category";
                let problem = Problem::Contradiction(text.to_owned());
                return Err(FieldError::new("tuning_only", problem));
            }
            rule.connection = wire::Connection::Internal.into();
            rule.lane = super::lane::Lane::GENERAL.name().to_owned();
        }
        let rule = read(rule).map_err(|error| error.within("rule"))?;
        Ok(Self {
            rule: Arc::new(rule),
            tuning_only: pushed.tuning_only,
            version: pushed.version,
        })
    }
}

impl TryFrom<wire::PushedRule> for PushedRule {
    type Error = FieldError;

    fn try_from(pushed: wire::PushedRule) -> Result<Self, FieldError> {
        Self::read(pushed, Rule::try_from)
    }
}

impl From<&PushedRule> for wire::PushedRule {
    fn from(pushed: &PushedRule) -> Self {
        let mut rule = wire::Rule::from(&*pushed.rule);
        if pushed.tuning_only {
            rule.connection = 0;
            rule.lane = String::new();
        }
        Self {
            rule: Some(rule),
            tuning_only: pushed.tuning_only,
            version: pushed.version,
        }
    }
}

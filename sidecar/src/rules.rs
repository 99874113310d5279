//! Which rule holds for a service, and why. Class, lane, secure and persistent are those of the
//! compiled rule, else of the pushed one, else of what endpoints offer, else the default; time
//! limits, retries and balancing are the pushed rule's first. Pure; it lies below the stages, and
//! whoever decides or explains asks here.

mod check;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use sidelane_proto::model::{MethodRule, PushedRule, Rule, ServiceName};

pub use check::RuleCheck;

/// Where a service's class, lane and secure came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleSource {
    /// This program was compiled with it.
    Compiled,
    /// It was applied to the running mesh.
    Pushed,
    /// The nodes that offer the service said so.
    Offered,
    /// Nobody said anything.
    Default,
}

impl RuleSource {
    /// The word that `explain` uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Compiled => "compiled",
            Self::Pushed => "pushed",
            Self::Offered => "offered",
            Self::Default => "default",
        }
    }

    /// Does it bind this node, rather than follow what others say?
    #[must_use]
    pub const fn binds(self) -> bool {
        matches!(self, Self::Compiled | Self::Pushed)
    }
}

/// What was said of one service, and by whom.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Said {
    /// By the program's own rules.
    pub compiled: Option<Arc<Rule>>,
    /// By control.
    pub pushed: Option<PushedRule>,
    /// By the endpoint of the newest generation that says anything.
    pub offered: Option<Arc<Rule>>,
}

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Origin<'a> {
    /// Who said so.
    pub source: RuleSource,
    /// The pushed rule's version.
    pub version: Option<u64>,
    /// Where it was written, `file:line`; empty for the default.
    pub written: &'a str,
}

impl Said {
    /// The rule that holds, and who has decided its class, lane and secure.
    #[must_use]
    pub fn ruling(&self, service: &ServiceName) -> (Arc<Rule>, RuleSource) {
        let (base, source) = match (&self.compiled, self.offered()) {
            (Some(compiled), Some(offered)) => (filled(compiled, offered), RuleSource::Compiled),
            (Some(compiled), None) => (Arc::clone(compiled), RuleSource::Compiled),
            (None, Some(offered)) => (Arc::clone(offered), RuleSource::Offered),
            (None, None) => (Arc::new(Rule::default_for(service)), RuleSource::Default),
        };
        let Some(pushed) = &self.pushed else {
            return (base, source);
        };
        let compiled = self.compiled.is_some();
        let source = if pushed.tuning_only || compiled {
            source
        } else {
            RuleSource::Pushed
        };
        (Arc::new(pushed.beside(&base, compiled)), source)
    }

    /// Who decided class, lane, secure and persistent.
    #[must_use]
    pub fn fixed_by(&self) -> Origin<'_> {
        match (&self.compiled, self.pushed_fixed(), &self.offered) {
            (Some(rule), _, _) => Origin::of(RuleSource::Compiled, rule),
            (None, Some(pushed), _) => Origin::pushed(pushed),
            (None, None, Some(rule)) => Origin::of(RuleSource::Offered, rule),
            (None, None, None) => Origin::DEFAULT,
        }
    }

    /// Who decided a value that can be tuned: the first that says anything of it.
    #[must_use]
    pub fn tuned_by(&self, says: impl Fn(&Rule) -> bool) -> Origin<'_> {
        if let Some(pushed) = self.pushed.as_ref().filter(|pushed| says(&pushed.rule)) {
            return Origin::pushed(pushed);
        }
        let compiled = self.compiled.as_deref().filter(|rule| says(rule));
        if let Some(rule) = compiled {
            return Origin::of(RuleSource::Compiled, rule);
        }
        let offered = self.offered().map(|rule| &**rule).filter(|rule| says(rule));
        offered.map_or(Origin::DEFAULT, |rule| {
            Origin::of(RuleSource::Offered, rule)
        })
    }

    /// All that was said, the word that counts most first; what is `offered` only where it is asked
    /// for.
    pub fn words(&self, offered: bool) -> impl Iterator<Item = (&Rule, Origin<'_>)> {
        let pushed = self.pushed.as_ref();
        let pushed = pushed.map(|pushed| (&*pushed.rule, Origin::pushed(pushed)));
        let compiled = self.compiled.as_deref();
        let compiled = compiled.map(|rule| (rule, Origin::of(RuleSource::Compiled, rule)));
        let offered = self.offered().filter(|_| offered).map(|rule| &**rule);
        let offered = offered.map(|rule| (rule, Origin::of(RuleSource::Offered, rule)));
        pushed.into_iter().chain(compiled).chain(offered)
    }

    /// The pushed rule where it says how an endpoint is picked.
    #[must_use]
    pub fn balanced(&self) -> Option<&PushedRule> {
        let says = |rule: &Rule| rule.load_balancing.is_some() || rule.strategy.is_some();
        self.pushed.as_ref().filter(|pushed| says(&pushed.rule))
    }

    /// The time limit that the pushed rule sets for calls of this method.
    #[must_use]
    pub fn timed(&self, method: Option<&MethodRule>) -> Option<Duration> {
        let pushed = &*self.pushed.as_ref()?.rule;
        let own = method.and_then(|method| pushed.method(&method.name)?.timeout);
        own.or(pushed.timeout)
    }

    /// The pushed rule, where it says more than tuning.
    fn pushed_fixed(&self) -> Option<&PushedRule> {
        self.pushed.as_ref().filter(|pushed| !pushed.tuning_only)
    }

    /// What is offered, unless it is another rule than the one that binds this node: what a
    /// stranger to the rule says must not tune it.
    fn offered(&self) -> Option<&Arc<Rule>> {
        let pushed = self.pushed_fixed().map(|pushed| &*pushed.rule);
        let binding = self.compiled.as_deref().or(pushed);
        self.offered.as_ref().filter(|offered| {
            binding.is_none_or(|binding| binding.agreement() == offered.agreement())
        })
    }
}

/// A compiled rule, with the tuning of an offered one where it says nothing itself.
fn filled(compiled: &Arc<Rule>, offered: &Rule) -> Arc<Rule> {
    let mut rule = Cow::Borrowed(&**compiled);
    if compiled.load_balancing.is_none()
        && compiled.strategy.is_none()
        && (offered.load_balancing.is_some() || offered.strategy.is_some())
    {
        let rule = rule.to_mut();
        rule.load_balancing = offered.load_balancing;
        rule.strategy.clone_from(&offered.strategy);
    }
    let balancing = compiled.balancing.or(&offered.balancing);
    if balancing != compiled.balancing {
        rule.to_mut().balancing = balancing;
    }
    if compiled.timeout.is_none() && offered.timeout.is_some() {
        rule.to_mut().timeout = offered.timeout;
    }
    if compiled.max_timeout.is_none() && offered.max_timeout.is_some() {
        rule.to_mut().max_timeout = offered.max_timeout;
    }
    if compiled.retry.is_none() && offered.retry.is_some() {
        rule.to_mut().retry = offered.retry;
    }
    if compiled.breaker.is_none() && offered.breaker.is_some() {
        rule.to_mut().breaker = offered.breaker;
    }
    if compiled.outlier.is_none() && offered.outlier.is_some() {
        rule.to_mut().outlier = offered.outlier;
    }
    if compiled.split.is_none() && offered.split.is_some() {
        rule.to_mut().split.clone_from(&offered.split);
    }
    let admission = compiled.admission.or(&offered.admission);
    if admission != compiled.admission {
        rule.to_mut().admission = admission;
    }
    for (index, method) in compiled.methods.iter().enumerate() {
        let theirs = offered.method(&method.name);
        if let Some(tuned) = theirs.and_then(|theirs| filled_method(method, theirs)) {
            rule.to_mut().methods.to_mut()[index] = tuned;
        }
    }
    match rule {
        // The same rule is the same allocation: whoever compares sees that nothing changed.
        Cow::Borrowed(_) => Arc::clone(compiled),
        Cow::Owned(rule) => Arc::new(rule),
    }
}

/// `None` if there is nothing to fill in.
fn filled_method(compiled: &MethodRule, offered: &MethodRule) -> Option<MethodRule> {
    let mut method = compiled.clone();
    method.timeout = method.timeout.or(offered.timeout);
    method.retry = method.retry.or(offered.retry);
    method.hedge = method.hedge.or(offered.hedge);
    method.admission = method.admission.or(&offered.admission);
    if method.hash_on.is_none() {
        method.hash_on.clone_from(&offered.hash_on);
    }
    (method != *compiled).then_some(method)
}

impl<'a> Origin<'a> {
    /// Nobody's word.
    pub const DEFAULT: Origin<'static> = Origin {
        source: RuleSource::Default,
        version: None,
        written: "",
    };

    fn of(source: RuleSource, rule: &'a Rule) -> Self {
        Self {
            source,
            version: None,
            written: &rule.origin,
        }
    }

    fn pushed(pushed: &'a PushedRule) -> Self {
        Self {
            version: Some(pushed.version),
            ..Self::of(RuleSource::Pushed, &pushed.rule)
        }
    }
}

impl fmt::Display for Origin<'_> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.source, self.version) {
            (RuleSource::Default, _) => formatter.write_str("the default"),
            (RuleSource::Pushed, Some(version)) => {
                write!(
                    formatter,
                    "pushed rule, version {version}, {}",
                    self.written
                )
            }
            (source, _) => write!(formatter, "{} {}", source.name(), self.written),
        }
    }
}

#[cfg(test)]
mod tests;

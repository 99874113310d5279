//! How long a call may take. A caller's own limit bounds every kind of call; where it brings
//! none, a unary call gets its rule's, or the default of rules that were written. No unary call
//! takes longer than its rule's ceiling, whatever its caller says.

use std::time::{Duration, Instant};

use sidelane_proto::model::{MethodRule, Rule, SpokenRule};

/// Unary calls of a rule that says nothing else.
pub const DEFAULT: Duration = Duration::from_secs(5);
/// Unary calls of a persistent rule that says nothing else.
pub const DEFAULT_PERSISTENT: Duration = Duration::from_secs(30);

/// The call's time was over before it began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Expired;

/// When the call's time is over, if ever. `written` is false for the default rule, which sets no
/// limit. `method` is what the rule says of the call's method, where it knows it.
///
/// # Errors
/// It is over now.
pub fn decide(
    asked: Option<Instant>,
    rule: &Rule,
    written: bool,
    method: Option<&MethodRule>,
    now: Instant,
) -> Result<Option<Instant>, Expired> {
    match asked {
        Some(deadline) if deadline <= now => Err(Expired),
        Some(deadline) => {
            let ceiling = ceiling(rule, method).and_then(|ceiling| now.checked_add(ceiling));
            Ok(Some(ceiling.map_or(deadline, |at| at.min(deadline))))
        }
        None => Ok(limit(rule, written, method).and_then(|limit| now.checked_add(limit))),
    }
}

/// The longest that a call may take, whatever its caller or its method says.
#[must_use]
pub fn ceiling(rule: &Rule, method: Option<&MethodRule>) -> Option<Duration> {
    rule.max_timeout
        .filter(|_| method.is_some_and(MethodRule::is_unary))
}

/// The limit of a call that brings none.
#[must_use]
pub fn limit(rule: &Rule, written: bool, method: Option<&MethodRule>) -> Option<Duration> {
    // A method that the rule does not know counts as streaming, and streams have no limit.
    let method = method.filter(|method| method.is_unary())?;
    let limit = method.timeout.or(rule.timeout).or_else(|| {
        written.then_some(if rule.persistent {
            DEFAULT_PERSISTENT
        } else {
            DEFAULT
        })
    });
    match (limit, rule.max_timeout) {
        (Some(limit), Some(ceiling)) => Some(limit.min(ceiling)),
        (limit, ceiling) => limit.or(ceiling),
    }
}

/// A call whose caller's own rule decides where no sidecar's does: the caller knows whether it is
/// unary, and may say how long it may take.
#[derive(Debug, Clone, Copy)]
pub struct Caller<'a> {
    /// What it says.
    pub spoken: &'a SpokenRule,
    /// What a pushed rule sets for calls of this method: tuning comes before what was compiled.
    pub pushed: Option<Duration>,
    /// The rule that holds here for all else.
    pub rule: &'a Rule,
    /// What that says of the call's method, where it knows it.
    pub method: Option<&'a MethodRule>,
}

impl Caller<'_> {
    /// As [`decide`].
    ///
    /// # Errors
    /// The call's time is over now.
    pub fn decide(&self, asked: Option<Instant>, now: Instant) -> Result<Option<Instant>, Expired> {
        let limit = match asked {
            Some(deadline) if deadline <= now => return Err(Expired),
            Some(_) => self.ceiling(),
            None => self.limit(),
        };
        let limit = limit.and_then(|limit| now.checked_add(limit));
        Ok(limit.into_iter().chain(asked).min())
    }

    /// As [`limit`].
    #[must_use]
    pub fn limit(&self) -> Option<Duration> {
        if !self.is_unary() {
            return None;
        }
        let rules = || self.method.and_then(|it| it.timeout).or(self.rule.timeout);
        let limit = self.pushed.or(self.spoken.timeout).or_else(rules);
        let limit = limit.unwrap_or(if self.spoken.persistent {
            DEFAULT_PERSISTENT
        } else {
            DEFAULT
        });
        Some(self.ceiling().map_or(limit, |most| most.min(limit)))
    }

    /// As [`ceiling`].
    #[must_use]
    pub fn ceiling(&self) -> Option<Duration> {
        self.rule.max_timeout.filter(|_| self.is_unary())
    }

    /// One message each way, as the caller or the rule here knows.
    #[must_use]
    pub fn is_unary(&self) -> bool {
        self.spoken.unary || self.method.is_some_and(MethodRule::is_unary)
    }
}

#[cfg(test)]
mod tests {
    use std::borrow::Cow;

    use sidelane::routing::{ConnectionClass, Lane, MethodRule, rule};

    use super::*;

    const METHODS: &[MethodRule] = &[
        MethodRule::unary("Get"),
        MethodRule::streaming("Watch", false, true),
    ];

    fn orders() -> Rule {
        rule(
            "shop.v1.Orders",
            ConnectionClass::Internal,
            Lane::GENERAL,
            METHODS,
            "here",
        )
    }

    #[test]
    fn a_callers_limit_bounds_every_call() {
        let now = Instant::now();
        let soon = now + Duration::from_millis(7);
        for method in ["Get", "Watch", "Unheard"] {
            let rule = orders();
            let asked = |at| decide(Some(at), &rule, true, rule.method(method), now);
            assert_eq!(asked(soon), Ok(Some(soon)));
            assert_eq!(asked(now), Err(Expired));
        }
    }

    #[test]
    fn without_one_only_unary_calls_of_written_rules_are_bounded() {
        let rule = orders();
        assert_eq!(limit(&rule, true, rule.method("Get")), Some(DEFAULT));
        assert_eq!(limit(&rule, true, rule.method("Watch")), None);
        assert_eq!(limit(&rule, true, rule.method("Unheard")), None);
        assert_eq!(limit(&rule, false, rule.method("Get")), None);
        let persistent = Rule {
            persistent: true,
            ..orders()
        };
        assert_eq!(
            limit(&persistent, true, persistent.method("Get")),
            Some(DEFAULT_PERSISTENT)
        );
    }

    #[test]
    fn the_methods_limit_beats_the_services() {
        let second = Duration::from_secs(1);
        let mut rule = Rule {
            timeout: Some(second),
            ..orders()
        };
        assert_eq!(limit(&rule, true, rule.method("Get")), Some(second));
        let mut get = MethodRule::unary("Get");
        get.timeout = Some(Duration::from_millis(3));
        rule.methods = Cow::Owned(vec![get]);
        assert_eq!(
            limit(&rule, true, rule.method("Get")),
            Some(Duration::from_millis(3))
        );
    }

    #[test]
    fn a_callers_own_rule_is_heard_after_what_tunes_and_before_all_else() {
        let (now, second) = (Instant::now(), Duration::from_secs(1));
        let spoken = |text: &str| -> SpokenRule {
            let always = "Internal/general/secure=false";
            format!("{always}/{text}").parse().unwrap()
        };
        let rule = |timeout, max_timeout| Rule {
            timeout,
            max_timeout,
            ..orders()
        };
        let (silent, kept) = ("persistent=false/unary=true", "persistent=true/unary=true");
        let says = "persistent=false/timeout=3000ms";
        for (text, pushed, timeout, ceiling, limit) in [
            (silent, None, None, None, Some(DEFAULT)),
            (kept, None, None, None, Some(DEFAULT_PERSISTENT)),
            (silent, None, Some(2 * second), None, Some(2 * second)),
            (says, None, Some(2 * second), None, Some(3 * second)),
            (says, Some(4 * second), None, None, Some(4 * second)),
            (silent, Some(4 * second), None, Some(second), Some(second)),
            ("persistent=true", Some(second), None, Some(second), None),
        ] {
            let (spoken, rule) = (spoken(text), rule(timeout, ceiling));
            let mut caller = Caller {
                spoken: &spoken,
                pushed,
                rule: &rule,
                method: None,
            };
            assert_eq!(caller.limit(), limit, "{text}");
            let at = limit.map(|limit| now + limit);
            assert_eq!(caller.decide(None, now), Ok(at), "{text}");
            // Its call's own limit comes first, up to the ceiling.
            let asked = now + 9 * second;
            let bounded = ceiling.filter(|_| caller.is_unary());
            let bounded = bounded.map_or(asked, |most| now + most);
            assert_eq!(caller.decide(Some(asked), now), Ok(Some(bounded)), "{text}");
            assert_eq!(caller.decide(Some(now), now), Err(Expired));
            // What the rule here knows of the method its caller need not say.
            caller.method = rule.method("Get");
            assert!(caller.limit().is_some(), "{text}");
        }
    }

    #[test]
    fn no_unary_call_takes_longer_than_the_ceiling() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let rule = Rule {
            max_timeout: Some(second),
            ..orders()
        };
        let at = |asked: Option<Duration>, name| {
            let asked = asked.map(|asked| now + asked);
            let decided = decide(asked, &rule, true, rule.method(name), now);
            decided.unwrap().map(|at| at - now)
        };
        assert_eq!(at(None, "Get"), Some(second));
        assert_eq!(at(Some(9 * second), "Get"), Some(second));
        assert_eq!(at(Some(second / 2), "Get"), Some(second / 2));
        // What streams, or may, is bounded by its caller alone.
        for name in ["Watch", "Unheard"] {
            assert_eq!(at(None, name), None);
            assert_eq!(at(Some(9 * second), name), Some(9 * second));
        }
        assert_eq!(limit(&rule, false, rule.method("Get")), Some(second));
    }
}

//! What makes a rule impossible. The decision can be made in a constant, so that rustc refuses a
//! rule that is written in Rust for the same reasons for which the build, `sidelane apply`,
//! control and the sidecar refuse theirs ([`Rule::check`]).

use std::borrow::Cow;
use std::time::Duration;

use super::admission::Wrong;
use super::balancing::BalancingFlaw;
use super::error::{FieldError, Problem};
use super::lane::is_plain_name;
use super::matrix::check_pair;
use super::name::{SERVICE_NAME_LIMIT, is_identifier, is_service};
use super::path::METHOD_NAME_LIMIT;
use super::retry::{ATTEMPTS_LIMIT, Retry};
use super::rule::{METHODS_LIMIT, MethodRule, ORIGIN_LIMIT, Rule, TIMEOUT_LIMIT};
use super::split::Split;

/// Why a rule cannot be. Numbers are places among the rule's methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flaw {
    /// The service's name is no gRPC service, or too long.
    Service,
    /// The origin is longer than [`ORIGIN_LIMIT`].
    Origin,
    /// The class and the lane do not go together.
    Pair,
    /// A strategy of Sidelane's own and one of the project's.
    TwoStrategies,
    /// The name of a strategy of one's own is none.
    Strategy,
    /// The time limit is zero, or above [`TIMEOUT_LIMIT`].
    Timeout,
    /// The ceiling is.
    MaxTimeout,
    /// What it says of balancing cannot be.
    Balancing(BalancingFlaw),
    /// The time limit is above the ceiling.
    AboveCeiling,
    /// More methods than [`METHODS_LIMIT`].
    Methods,
    /// Attempts are 2 to [`ATTEMPTS_LIMIT`].
    Attempts,
    /// It is tried again, and no method of it may.
    RetryOfNone,
    /// No name of a method, or too long.
    MethodName(usize),
    /// The name of one before it.
    MethodTwice(usize),
    /// No field of a message, or too long.
    MethodHashOn(usize),
    /// Its time limit is zero, or above [`TIMEOUT_LIMIT`].
    MethodTimeout(usize),
    /// Its time limit is above the service's ceiling.
    MethodAboveCeiling(usize),
    /// Its attempts are 2 to [`ATTEMPTS_LIMIT`].
    MethodAttempts(usize),
    /// It is tried again, and is not idempotent.
    RetryOfOnce(usize),
    /// It takes a stream, no part of which is known when the endpoint is picked.
    HashOnStream(usize),
    /// It takes a stream, which cannot be sent twice.
    RetryOfStream(usize),
    /// What it admits cannot be.
    Admission(Wrong),
    /// Its split between versions cannot be.
    Split(Wrong),
    /// What this method admits cannot be.
    MethodAdmission(usize, Wrong),
    /// One of the service's policies cannot be.
    Policy(PolicyFlaw),
    /// One of a method's cannot be.
    MethodPolicy(usize, PolicyFlaw),
}

/// What is wrong with a policy, such as `retry` or `breaker`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PolicyFlaw {
    /// The field, with the policy's name before it.
    pub field: &'static str,
    /// Why it cannot be, as it goes on after the field's name.
    pub reason: &'static str,
}

impl PolicyFlaw {
    /// This one.
    pub(super) const fn some(field: &'static str, reason: &'static str) -> Option<Self> {
        Some(Self { field, reason })
    }
}

impl Rule {
    /// What makes it impossible, if anything does: the first that is found.
    #[must_use]
    pub const fn flaw(&self) -> Option<Flaw> {
        let service = text(&self.service);
        if service.len() > SERVICE_NAME_LIMIT || !is_service(service) {
            return Some(Flaw::Service);
        }
        if text(&self.origin).len() > ORIGIN_LIMIT {
            return Some(Flaw::Origin);
        }
        if !self.class.allows(self.lane) {
            return Some(Flaw::Pair);
        }
        if let Some(strategy) = &self.strategy {
            if self.load_balancing.is_some() {
                return Some(Flaw::TwoStrategies);
            }
            if !is_plain_name(text(strategy)) {
                return Some(Flaw::Strategy);
            }
        }
        if let Some(flaw) = self.balancing.flaw() {
            return Some(Flaw::Balancing(flaw));
        }
        if !is_limit(self.timeout) {
            return Some(Flaw::Timeout);
        }
        if !is_limit(self.max_timeout) {
            return Some(Flaw::MaxTimeout);
        }
        if is_above(self.timeout, self.max_timeout) {
            return Some(Flaw::AboveCeiling);
        }
        if !may_try(self.retry) {
            return Some(Flaw::Attempts);
        }
        if let Some(wrong) = self.admission.flaw() {
            return Some(Flaw::Admission(wrong));
        }
        if let Some(flaw) = self.flaw_of_policies() {
            return Some(Flaw::Policy(flaw));
        }
        if let Some(flaw) = self.flaw_of_methods() {
            return Some(flaw);
        }
        if let Some(split) = &self.split
            && let Some(wrong) = split.flaw()
        {
            return Some(Flaw::Split(wrong));
        }
        None
    }

    const fn flaw_of_policies(&self) -> Option<PolicyFlaw> {
        if let Some(retry) = &self.retry
            && let Some(flaw) = retry.flaw(false)
        {
            return Some(flaw);
        }
        if let Some(breaker) = &self.breaker
            && let Some(flaw) = breaker.flaw()
        {
            return Some(flaw);
        }
        if let Some(outlier) = &self.outlier
            && let Some(flaw) = outlier.flaw()
        {
            return Some(flaw);
        }
        if let Some(authorization) = &self.authorization {
            return authorization.flaw();
        }
        None
    }

    const fn flaw_of_methods(&self) -> Option<Flaw> {
        let methods = self.methods();
        if methods.len() > METHODS_LIMIT {
            return Some(Flaw::Methods);
        }
        let mut tried_again = methods.is_empty();
        let mut index = 0;
        while index < methods.len() {
            let method = &methods[index];
            if let Some(flaw) = self.flaw_of_method(method, index) {
                return Some(flaw);
            }
            tried_again |= method.idempotent && !method.client_streaming;
            index += 1;
        }
        if self.retry.is_some() && !tried_again {
            return Some(Flaw::RetryOfNone);
        }
        None
    }

    const fn flaw_of_method(&self, method: &MethodRule, index: usize) -> Option<Flaw> {
        let name = text(&method.name);
        if name.len() > METHOD_NAME_LIMIT || !is_identifier(name) {
            return Some(Flaw::MethodName(index));
        }
        let mut before = 0;
        while before < index {
            if is_same(text(&self.methods()[before].name), name) {
                return Some(Flaw::MethodTwice(index));
            }
            before += 1;
        }
        if !is_limit(method.timeout) {
            return Some(Flaw::MethodTimeout(index));
        }
        if is_above(method.timeout, self.max_timeout) {
            return Some(Flaw::MethodAboveCeiling(index));
        }
        if !may_try(method.retry) {
            return Some(Flaw::MethodAttempts(index));
        }
        if method.retry.is_some() && !method.idempotent {
            return Some(Flaw::RetryOfOnce(index));
        }
        if let Some(flaw) = method.flaw_of_policies() {
            return Some(Flaw::MethodPolicy(index, flaw));
        }
        if let Some(field) = &method.hash_on {
            if !is_field_path(text(field)) {
                return Some(Flaw::MethodHashOn(index));
            }
            if method.client_streaming {
                return Some(Flaw::HashOnStream(index));
            }
        }
        let again = method.retry.is_some() || self.retry.is_some();
        if method.idempotent && method.client_streaming && again {
            return Some(Flaw::RetryOfStream(index));
        }
        if let Some(wrong) = method.admission.flaw_of_method() {
            return Some(Flaw::MethodAdmission(index, wrong));
        }
        None
    }

    const fn methods(&self) -> &[MethodRule] {
        match &self.methods {
            Cow::Borrowed(methods) => methods,
            Cow::Owned(methods) => methods.as_slice(),
        }
    }

    /// What no single field shows: do the parts of the rule go together? The one check that the
    /// build, `sidelane apply`, control, the sidecar and rustc share.
    ///
    /// # Errors
    /// The first field that cannot be, and why.
    pub fn check(&self) -> Result<(), FieldError> {
        match self.flaw() {
            None => Ok(()),
            // In more words than a constant has.
            Some(flaw @ Flaw::Split(_)) => match self.split.as_ref().map(Split::check) {
                Some(Err(error)) => Err(error.within("split")),
                _ => Err(flaw.error(self)),
            },
            Some(Flaw::Pair) => check_pair(self.class, self.lane, "lane"),
            Some(flaw) => Err(flaw.error(self)),
        }
    }
}

impl MethodRule {
    const fn flaw_of_policies(&self) -> Option<PolicyFlaw> {
        if let Some(retry) = &self.retry
            && let Some(flaw) = retry.flaw(true)
        {
            return Some(flaw);
        }
        if let Some(hedge) = &self.hedge
            && let Some(flaw) = hedge.flaw(self.idempotent, self.is_unary())
        {
            return Some(flaw);
        }
        if let Some(authorization) = &self.authorization {
            return authorization.flaw();
        }
        None
    }
}

impl Flaw {
    /// The field that is wrong, beneath the method if it is one's.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::Service => "service",
            Self::Origin => "origin",
            Self::Pair => "lane",
            Self::TwoStrategies | Self::Strategy => "load_balancing_custom",
            Self::Timeout
            | Self::AboveCeiling
            | Self::MethodTimeout(_)
            | Self::MethodAboveCeiling(_) => "timeout",
            Self::MaxTimeout => "max_timeout",
            Self::Balancing(flaw) => flaw.field(),
            Self::Methods => "methods",
            Self::Attempts | Self::MethodAttempts(_) => "retry.attempts",
            Self::RetryOfNone | Self::RetryOfOnce(_) => "retry",
            Self::MethodName(_) | Self::MethodTwice(_) => "name",
            Self::MethodHashOn(_) | Self::HashOnStream(_) => "hash_on",
            Self::RetryOfStream(_) => "idempotent",
            Self::Admission(wrong) | Self::MethodAdmission(_, wrong) | Self::Split(wrong) => {
                wrong.field
            }
            Self::Policy(flaw) | Self::MethodPolicy(_, flaw) => flaw.field,
        }
    }

    /// The method that is to blame, if it is one.
    #[must_use]
    pub const fn method(self, rule: &Rule) -> Option<&MethodRule> {
        match self.place() {
            Some(index) => Some(&rule.methods()[index]),
            None => None,
        }
    }

    /// Why it cannot be, as it goes on after the name of the field or of the method.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::Service => "is no gRPC service such as `shop.v1.Orders`, of at most 255 bytes",
            Self::Origin => "is longer than 1024 bytes",
            Self::Pair => "does not go with this connection class",
            Self::TwoStrategies => "is given, and load_balancing too; one of them decides",
            Self::Balancing(flaw) => flaw.reason(),
            Self::Strategy => "is no name of lower-case letters, digits and `_`, of at most 63",
            Self::Timeout | Self::MaxTimeout | Self::MethodTimeout(_) => {
                "is no time limit above zero and of at most 24 hours"
            }
            Self::AboveCeiling | Self::MethodAboveCeiling(_) => {
                "is above the service's ceiling, max_timeout"
            }
            Self::Methods => "has more than 1024 entries",
            Self::Attempts | Self::MethodAttempts(_) => "is 2 to 5, the first included",
            Self::RetryOfNone => {
                "is for idempotent methods, and none of this service is; mark those that may run \
                 twice `idempotent: true`, or leave it out"
            }
            Self::MethodName(_) => "is no name of a method, of at most 255 bytes",
            Self::MethodTwice(_) => "is named twice",
            Self::MethodHashOn(_) => "is no field of the request",
            Self::RetryOfOnce(_) => {
                "is not idempotent: a second attempt could do its work twice; say \
                 `idempotent: true` if that does no harm, or leave `retry` out"
            }
            Self::HashOnStream(_) => {
                "takes a stream, and a call goes to its endpoint before the first message: the \
                 field is not known then; leave `hash_on` out"
            }
            Self::RetryOfStream(_) => {
                "takes a stream, which cannot be sent twice; leave `idempotent` out, or give \
                 `retry` to the other methods alone"
            }
            Self::Admission(wrong) | Self::MethodAdmission(_, wrong) | Self::Split(wrong) => {
                wrong.reason
            }
            Self::Policy(flaw) | Self::MethodPolicy(_, flaw) => flaw.reason,
        }
    }

    const fn place(self) -> Option<usize> {
        match self {
            Self::MethodName(index)
            | Self::MethodTwice(index)
            | Self::MethodHashOn(index)
            | Self::MethodTimeout(index)
            | Self::MethodAboveCeiling(index)
            | Self::MethodAttempts(index)
            | Self::RetryOfOnce(index)
            | Self::HashOnStream(index)
            | Self::MethodPolicy(index, _)
            | Self::RetryOfStream(index)
            | Self::MethodAdmission(index, _) => Some(index),
            _ => None,
        }
    }

    /// The field, with the place of a limit among the others, which a constant cannot say.
    fn path(self, rule: &Rule) -> Cow<'static, str> {
        let field = self.field();
        let admission = self
            .method(rule)
            .map_or(&rule.admission, |it| &it.admission);
        let limits = &mut admission.limits.iter();
        match (
            field.strip_prefix("limits."),
            limits.position(|it| it.flaw().is_some()),
        ) {
            (Some(field), Some(index)) => Cow::Owned(format!("limits[{index}].{field}")),
            _ => Cow::Borrowed(field),
        }
    }

    fn error(self, rule: &Rule) -> FieldError {
        let method = self.method(rule);
        let reason = self.reason();
        let problem = match self {
            Self::TwoStrategies => {
                let text = "load_balancing and load_balancing_custom are both given";
                Problem::Contradiction(text.to_owned())
            }
            Self::AboveCeiling | Self::MethodAboveCeiling(_) => {
                let timeout = method.map_or(rule.timeout, |method| method.timeout);
                let (timeout, ceiling) = (timeout.unwrap_or_default(), rule.max_timeout);
                let ceiling = ceiling.unwrap_or_default();
                Problem::OutOfBounds(format!("{timeout:?} {reason} {ceiling:?}"))
            }
            Self::RetryOfOnce(_) | Self::HashOnStream(_) | Self::RetryOfStream(_) => {
                let name = method.map_or("", |method| &*method.name);
                Problem::Refused(format!("`{name}` {reason}"))
            }
            _ => Problem::Refused(reason.to_owned()),
        };
        let error = FieldError::new(self.path(rule), problem);
        match self.place() {
            Some(index) => error.within(format_args!("methods[{index}]")),
            None => error,
        }
    }
}

/// Above zero, and not so long that it is none.
pub(super) const fn is_limit(timeout: Option<Duration>) -> bool {
    match timeout {
        Some(timeout) => !timeout.is_zero() && timeout.as_nanos() <= TIMEOUT_LIMIT.as_nanos(),
        None => true,
    }
}

/// `order_id`, or `order.id` for a field of a field.
pub(super) const fn is_field_path(text: &str) -> bool {
    text.len() <= METHOD_NAME_LIMIT && is_service(text)
}

const fn is_above(timeout: Option<Duration>, ceiling: Option<Duration>) -> bool {
    match (timeout, ceiling) {
        (Some(timeout), Some(ceiling)) => timeout.as_nanos() > ceiling.as_nanos(),
        _ => false,
    }
}

const fn may_try(retry: Option<Retry>) -> bool {
    match retry {
        Some(retry) => retry.attempts >= 2 && retry.attempts <= ATTEMPTS_LIMIT,
        None => true,
    }
}

/// Names of methods differ in their length or at their end more often than at their beginning.
const fn is_same(one: &str, other: &str) -> bool {
    let (bytes, others) = (one.as_bytes(), other.as_bytes());
    bytes.len() == others.len()
        && bytes[bytes.len() - 1] == others[others.len() - 1]
        && super::class::same_text(one, other)
}

/// What a `Cow` is otherwise read by is not for constants.
#[allow(clippy::ptr_arg)]
const fn text<'a>(text: &'a Cow<'static, str>) -> &'a str {
    match text {
        Cow::Borrowed(text) => text,
        Cow::Owned(text) => text.as_str(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Breaker, ConnectionClass, Hedge, Lane, LoadBalancing, Outlier};

    const ONCE: MethodRule = MethodRule::unary("Once");
    const AGAIN: MethodRule = MethodRule::unary("Again").idempotent();
    const TAKES: MethodRule = MethodRule::streaming("Takes", true, false);
    const TRIED: Retry = Retry::DEFAULT;
    const SECOND: Duration = Duration::from_secs(1);

    fn rule(change: impl FnOnce(&mut Rule)) -> Rule {
        let class = ConnectionClass::Internal;
        let mut rule = Rule::new("a.B", class, Lane::GENERAL, &[], "here");
        change(&mut rule);
        rule
    }

    fn of_methods(methods: &[MethodRule]) -> Rule {
        rule(|rule| {
            rule.methods = Cow::Owned(methods.to_vec());
            rule.max_timeout = Some(SECOND);
        })
    }

    #[test]
    fn a_constant_knows_that_it_cannot_be() {
        const METHODS: &[MethodRule] = &[AGAIN, ONCE.with_retry(TRIED)];
        static WRONG: Rule = Rule::new(
            "a.B",
            ConnectionClass::Internal,
            Lane::GENERAL,
            METHODS,
            "here",
        );
        const FLAW: Option<Flaw> = WRONG.flaw();
        assert_eq!(FLAW, Some(Flaw::RetryOfOnce(1)));
        assert_eq!(Flaw::RetryOfOnce(1).method(&WRONG).unwrap().name, "Once");
    }

    #[test]
    fn each_flaw_is_found_and_named_by_its_field() {
        let (day, long) = (TIMEOUT_LIMIT + Duration::from_nanos(1), "x".repeat(1_025));
        let many = vec![ONCE; METHODS_LIMIT + 1];
        for (rule, field) in [
            (rule(|rule| rule.service = "a..B".into()), "service"),
            (rule(|rule| rule.service = long.clone().into()), "service"),
            (rule(|rule| rule.origin = long.clone().into()), "origin"),
            (rule(|rule| rule.lane = Lane::INGRESS_DATA), "lane"),
            (
                rule(|rule| {
                    rule.load_balancing = Some(LoadBalancing::Random);
                    rule.strategy = Some("mine".into());
                }),
                "load_balancing_custom",
            ),
            (
                rule(|rule| rule.strategy = Some("Mine".into())),
                "load_balancing_custom",
            ),
            (rule(|rule| rule.timeout = Some(Duration::ZERO)), "timeout"),
            (rule(|rule| rule.max_timeout = Some(day)), "max_timeout"),
            (
                rule(|rule| {
                    rule.timeout = Some(SECOND * 2);
                    rule.max_timeout = Some(SECOND);
                }),
                "timeout",
            ),
            (
                rule(|rule| {
                    rule.retry = Some(Retry {
                        attempts: 1,
                        ..TRIED
                    });
                }),
                "retry.attempts",
            ),
            (
                rule(|rule| {
                    rule.retry = Some(TRIED);
                    rule.methods = Cow::Owned(vec![ONCE]);
                }),
                "retry",
            ),
            (of_methods(&many), "methods"),
            (
                of_methods(&[MethodRule::unary("Not ok")]),
                "methods[0].name",
            ),
            (of_methods(&[ONCE, AGAIN, ONCE]), "methods[2].name"),
            (
                of_methods(&[ONCE.with_hash_on("a..b")]),
                "methods[0].hash_on",
            ),
            (
                of_methods(&[ONCE.with_timeout(Duration::ZERO)]),
                "methods[0].timeout",
            ),
            (
                of_methods(&[AGAIN, ONCE.with_timeout(SECOND * 2)]),
                "methods[1].timeout",
            ),
            (
                of_methods(&[AGAIN.with_retry(Retry {
                    attempts: 6,
                    ..TRIED
                })]),
                "methods[0].retry.attempts",
            ),
            (of_methods(&[ONCE.with_retry(TRIED)]), "methods[0].retry"),
            (
                of_methods(&[TAKES.with_hash_on("id")]),
                "methods[0].hash_on",
            ),
            (
                of_methods(&[TAKES.idempotent().with_retry(TRIED)]),
                "methods[0].idempotent",
            ),
        ] {
            assert_eq!(rule.check().unwrap_err().path, field, "{rule:?}");
        }
    }

    #[test]
    fn each_flaw_of_a_policy_is_found_and_named_by_its_field() {
        let retry = |change: fn(&mut Retry)| {
            rule(|rule| {
                let retry = rule.retry.insert(TRIED);
                change(retry);
            })
        };
        let breaker =
            |change: fn(&mut Breaker)| rule(|rule| change(rule.breaker.insert(Breaker::DEFAULT)));
        let outlier =
            |change: fn(&mut Outlier)| rule(|rule| change(rule.outlier.insert(Outlier::DEFAULT)));
        let watch = MethodRule::streaming("Watch", false, true);
        let hedged = |method: MethodRule, after, max_attempts| {
            of_methods(&[method.with_hedge(Hedge {
                max_attempts,
                ..Hedge::after(after)
            })])
        };
        let shared = Retry {
            budget_percent: Some(5),
            ..TRIED
        };
        for (rule, field) in [
            (
                retry(|it| it.budget_percent = Some(101)),
                "retry.budget_percent",
            ),
            (
                retry(|it| {
                    it.budget_percent = Some(0);
                    it.budget_per_second = Some(0);
                }),
                "retry.budget_percent",
            ),
            (
                retry(|it| it.budget_per_second = Some(10_001)),
                "retry.budget_per_second",
            ),
            (retry(|it| it.pause = Duration::ZERO), "retry.pause"),
            (retry(|it| it.max_pause = SECOND * 61), "retry.max_pause"),
            (retry(|it| it.max_pause = it.pause / 5), "retry.max_pause"),
            (of_methods(&[AGAIN.with_retry(shared)]), "methods[0].retry"),
            (hedged(ONCE, SECOND, 2), "methods[0].hedge"),
            (hedged(watch.idempotent(), SECOND, 2), "methods[0].hedge"),
            (hedged(TAKES.idempotent(), SECOND, 2), "methods[0].hedge"),
            (hedged(AGAIN, Duration::ZERO, 2), "methods[0].hedge.after"),
            (hedged(AGAIN, SECOND * 61, 2), "methods[0].hedge.after"),
            (hedged(AGAIN, SECOND, 1), "methods[0].hedge.max_attempts"),
            (hedged(AGAIN, SECOND, 6), "methods[0].hedge.max_attempts"),
            (
                breaker(|it| it.consecutive_failures = 0),
                "breaker.consecutive_failures",
            ),
            (
                breaker(|it| it.consecutive_failures = 1_001),
                "breaker.consecutive_failures",
            ),
            (
                breaker(|it| it.success_percent = 101),
                "breaker.success_percent",
            ),
            (breaker(|it| it.min_calls = 0), "breaker.min_calls"),
            (breaker(|it| it.min_calls = 100_001), "breaker.min_calls"),
            (
                breaker(|it| it.interval = Duration::ZERO),
                "breaker.interval",
            ),
            (breaker(|it| it.interval = SECOND * 601), "breaker.interval"),
            (breaker(|it| it.open = SECOND / 11), "breaker.open"),
            (breaker(|it| it.max_open = SECOND), "breaker.max_open"),
            (
                breaker(|it| it.max_open = SECOND * 3_601),
                "breaker.max_open",
            ),
            (breaker(|it| it.probes = 0), "breaker.probes"),
            (breaker(|it| it.probes = 101), "breaker.probes"),
            (breaker(|it| it.successes = 0), "breaker.successes"),
            (breaker(|it| it.successes = 101), "breaker.successes"),
            (outlier(|it| it.below_mean = 0), "outlier.below_mean"),
            (outlier(|it| it.below_mean = 101), "outlier.below_mean"),
            (outlier(|it| it.min_calls = 0), "outlier.min_calls"),
            (outlier(|it| it.max_percent = 0), "outlier.max_percent"),
            (outlier(|it| it.max_percent = 51), "outlier.max_percent"),
        ] {
            assert_eq!(rule.check().unwrap_err().path, field, "{rule:?}");
        }
    }

    #[test]
    fn what_can_be_has_none() {
        let methods = [
            AGAIN
                .with_retry(TRIED)
                .with_timeout(SECOND)
                .with_hedge(Hedge::after(SECOND / 50))
                .with_hash_on("order.id"),
            ONCE,
            TAKES,
        ];
        assert_eq!(of_methods(&methods).flaw(), None);
        assert_eq!(methods[0].hash_on.as_deref(), Some("order.id"));
    }
}

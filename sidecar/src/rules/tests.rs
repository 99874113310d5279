use std::time::Duration;

use sidelane::routing::{ConnectionClass, Lane, RouteTable};
use sidelane_proto::model::error::Problem;
use sidelane_proto::model::{FieldError, LoadBalancing, Retry, Validation};

use super::*;

const METHODS: &[MethodRule] = &[
    MethodRule::unary("Get").idempotent(),
    MethodRule::unary("Put"),
];
const SECOND: Duration = Duration::from_secs(1);

fn name() -> ServiceName {
    ServiceName::new("shop.v1.Orders").unwrap()
}

fn rule(lane: Lane, origin: &'static str) -> Rule {
    let class = ConnectionClass::Internal;
    Rule::new("shop.v1.Orders", class, lane, METHODS, origin)
}

fn pushed(lane: Lane, tuning_only: bool, change: fn(&mut Rule)) -> Option<PushedRule> {
    let mut rule = rule(lane, "rules.yaml:3");
    rule.methods = Cow::Borrowed(&[]);
    change(&mut rule);
    Some(PushedRule {
        rule: Arc::new(rule),
        tuning_only,
        version: 7,
    })
}

fn of(lane: Lane, origin: &'static str, change: fn(&mut Rule)) -> Option<Arc<Rule>> {
    let mut rule = rule(lane, origin);
    change(&mut rule);
    Some(Arc::new(rule))
}

/// Lane, timeout, who decided the lane, and who the timeout.
fn read(said: &Said) -> (Lane, Option<Duration>, String, String) {
    let (rule, source) = said.ruling(&name());
    assert_eq!(said.fixed_by().source, source);
    let timeout = said.tuned_by(|rule| rule.timeout.is_some());
    (
        rule.lane,
        rule.timeout,
        said.fixed_by().to_string(),
        timeout.to_string(),
    )
}

#[test]
fn each_says_what_those_before_it_left_open() {
    let slow: fn(&mut Rule) = |rule| rule.timeout = Some(2 * SECOND);
    let slower: fn(&mut Rule) = |rule| rule.timeout = Some(3 * SECOND);
    let silent: fn(&mut Rule) = |_| {};
    let mut said = Said::default();
    let default = "the default";
    let expected = (Lane::GENERAL, None, default.into(), default.into());
    assert_eq!(read(&said), expected);

    said.offered = of(Lane::GOSSIP, "shop.proto:9", slower);
    let offered = "offered shop.proto:9";
    let expected = (
        Lane::GOSSIP,
        Some(3 * SECOND),
        offered.into(),
        offered.into(),
    );
    assert_eq!(read(&said), expected);

    // Tuning alone leaves the lane to those who said it.
    said.pushed = pushed(Lane::GENERAL, true, |rule| rule.timeout = Some(SECOND));
    let tuned = "pushed rule, version 7, rules.yaml:3";
    let expected = (Lane::GOSSIP, Some(SECOND), offered.into(), tuned.into());
    assert_eq!(read(&said), expected);

    said.pushed = pushed(Lane::GOSSIP, false, silent);
    let expected = (Lane::GOSSIP, Some(3 * SECOND), tuned.into(), offered.into());
    assert_eq!(read(&said), expected);

    // What is offered under another rule tunes nothing.
    said.pushed = pushed(Lane::GENERAL, false, silent);
    let expected = (Lane::GENERAL, None, tuned.into(), default.into());
    assert_eq!(read(&said), expected);

    said.compiled = of(Lane::GENERAL, "shop.proto:12", slow);
    let compiled = "compiled shop.proto:12";
    let expected = (
        Lane::GENERAL,
        Some(2 * SECOND),
        compiled.into(),
        compiled.into(),
    );
    assert_eq!(read(&said), expected);

    said.pushed = pushed(Lane::GENERAL, true, |rule| rule.timeout = Some(SECOND));
    let expected = (Lane::GENERAL, Some(SECOND), compiled.into(), tuned.into());
    assert_eq!(read(&said), expected);

    said.pushed = None;
    said.compiled = of(Lane::GENERAL, "shop.proto:12", silent);
    said.offered = of(Lane::GENERAL, "shop.proto:9", slower);
    let expected = (
        Lane::GENERAL,
        Some(3 * SECOND),
        compiled.into(),
        offered.into(),
    );
    assert_eq!(read(&said), expected);
}

#[test]
fn an_offer_fills_in_tuning_and_nothing_else() {
    let offered = of(Lane::GENERAL, "new.proto:1", |rule| {
        rule.retry = Some(Retry {
            attempts: 2,
            ..Retry::DEFAULT
        });
        rule.max_timeout = Some(SECOND);
        rule.load_balancing = Some(LoadBalancing::Random);
        rule.persistent = true;
        // A method that the caller takes as not idempotent, and one that it does not know.
        let mut put = MethodRule::unary("Put").idempotent();
        put.timeout = Some(SECOND);
        rule.methods = Cow::Owned(vec![put, MethodRule::unary("New").idempotent()]);
    });
    let said = Said {
        compiled: of(Lane::GENERAL, "old.proto:1", |_| {}),
        offered,
        pushed: None,
    };
    let (rule, source) = said.ruling(&name());
    assert_eq!(source, RuleSource::Compiled);
    assert_eq!(rule.retry.map(|retry| retry.attempts), Some(2));
    assert_eq!(rule.max_timeout, Some(SECOND));
    assert_eq!(rule.load_balancing, Some(LoadBalancing::Random));
    assert!(!rule.persistent);
    let put = rule.method("Put").unwrap();
    assert_eq!((put.timeout, put.idempotent), (Some(SECOND), false));
    assert_eq!(rule.method("New"), None);
}

#[test]
fn where_nothing_changes_the_rule_stays_the_same_allocation() {
    let compiled = of(Lane::GENERAL, "shop.proto:12", |_| {});
    let said = Said {
        compiled: compiled.clone(),
        offered: of(Lane::GENERAL, "shop.proto:12", |_| {}),
        pushed: None,
    };
    assert!(Arc::ptr_eq(&said.ruling(&name()).0, &compiled.unwrap()));
}

struct TimeLimits;

impl Validation for TimeLimits {
    fn name(&self) -> &'static str {
        "time-limits"
    }

    fn check(&self, rule: &Rule) -> Result<(), FieldError> {
        if rule.timeout.is_some() {
            return Ok(());
        }
        let text = "every service of ours says its `timeout`".to_owned();
        Err(FieldError::new("timeout", Problem::Refused(text)))
    }
}

static TABLE: &[Rule] = &[{
    let mut rule = Rule::new(
        "shop.v1.Orders",
        ConnectionClass::Internal,
        Lane::GENERAL,
        METHODS,
        "shop.proto:12",
    );
    rule.timeout = Some(SECOND);
    rule
}];

#[test]
fn what_is_pushed_is_judged_as_it_would_hold() {
    let routes = RouteTable::new(TABLE);
    let check = RuleCheck::new(routes, vec![Box::new(TimeLimits)]);
    let judge = |pushed: Option<PushedRule>| check.check(&pushed.unwrap());

    // The compiled rule has a time limit, so that what only tunes it needs none.
    assert_eq!(judge(pushed(Lane::GENERAL, true, |_| {})), Ok(()));
    let moved = judge(pushed(Lane::GOSSIP, false, |_| {})).unwrap_err();
    assert_eq!(moved.path, "lane");
    let other = judge(pushed(Lane::GENERAL, false, |rule| {
        rule.service = "a.B".into();
    }));
    assert_eq!(
        other.unwrap_err().to_string(),
        "timeout every service of ours says its `timeout` (validation `time-limits`)"
    );
}

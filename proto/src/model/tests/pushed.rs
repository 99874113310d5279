//! Pushed rules in an update, and beside compiled ones.

use std::time::Duration;

use crate::model::error::Problem;
use crate::model::{ConnectionClass, FieldError, Lane, MethodRule, PushedRule, Retry, Rule};
use crate::model::{RefusedRule, Update};
use crate::wire::{control::v1 as control, routing::v1 as routing};

fn wire(service: &str, lane: &str) -> routing::PushedRule {
    routing::PushedRule {
        rule: Some(routing::Rule {
            service: service.to_owned(),
            connection: routing::Connection::Internal.into(),
            lane: lane.to_owned(),
            ..routing::Rule::default()
        }),
        tuning_only: false,
        version: 7,
    }
}

fn update(rules: Vec<routing::PushedRule>) -> Update {
    let version = Some(control::Version {
        store_id: "store".to_owned(),
        counter: 9,
    });
    let update = control::Update {
        version,
        rules,
        ..control::Update::default()
    };
    Update::try_from(update).unwrap()
}

#[test]
fn each_refused_rule_is_named_by_its_place_and_refuses_nothing_else() {
    let mut update = update(vec![
        wire("a.One", "general"),
        wire("a.Two", "fast"),
        wire("a.Three", "general"),
        wire("a.One", "general"),
        wire("not a name", "general"),
        wire("a.Four", "general"),
    ]);
    update.judge_rules(|pushed| {
        if pushed.rule.service != "a.Three" {
            return Ok(());
        }
        let problem = Problem::Refused("is not wanted here".to_owned());
        Err(FieldError::new("timeout", problem))
    });
    let taken: Vec<&str> = update
        .rules
        .iter()
        .map(|rule| &*rule.rule.service)
        .collect();
    assert_eq!(taken, ["a.One", "a.Four"]);
    let refused = update.refused.iter();
    let refused: Vec<_> = refused
        .map(|refused| (&*refused.service, refused.version, &*refused.error.path))
        .collect();
    let expected = [
        ("a.Two", 7, "rules[1].rule.lane"),
        ("a.Three", 7, "rules[2].rule.timeout"),
        ("a.One", 7, "rules[3].rule.service"),
        ("not a name", 7, "rules[4].rule.service"),
    ];
    assert_eq!(refused, expected);
}

const SECOND: Duration = Duration::from_secs(1);

/// A compiled rule with a ceiling of two seconds.
fn fixed() -> Rule {
    const METHODS: &[MethodRule] = &[MethodRule::unary("Get").with_timeout(SECOND)];
    let class = ConnectionClass::Internal;
    let mut fixed = Rule::new("a.B", class, Lane::GENERAL, METHODS, "a.proto:1");
    fixed.timeout = Some(SECOND);
    fixed.max_timeout = Some(2 * SECOND);
    fixed
}

fn tuning(change: fn(&mut Rule)) -> PushedRule {
    let class = ConnectionClass::Internal;
    let mut rule = Rule::new("a.B", class, Lane::GENERAL, &[], "rules.yaml:1");
    change(&mut rule);
    PushedRule {
        rule: rule.into(),
        tuning_only: true,
        version: 1,
    }
}

#[test]
fn what_two_rules_say_together_is_checked_too() {
    let judged = |change| tuning(change).check_against(&fixed());
    assert_eq!(judged(|rule| rule.timeout = Some(2 * SECOND)), Ok(()));
    let error = judged(|rule| rule.timeout = Some(3 * SECOND)).unwrap_err();
    assert_eq!(
        error.to_string(),
        "timeout beside the compiled rule (a.proto:1): is out of bounds: 3s is above the \
         service's ceiling, max_timeout 2s"
    );
    // Nothing in the compiled rule may run twice.
    let error = judged(|rule| {
        rule.retry = Some(Retry {
            attempts: 2,
            ..Retry::DEFAULT
        });
    });
    assert_eq!(error.unwrap_err().path, "retry");
}

#[test]
fn what_is_compiled_in_does_not_move_and_the_refusal_names_all_that_may() {
    let mut moving = tuning(|rule| rule.secure = true);
    moving.tuning_only = false;
    let error = moving.check_against(&fixed()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "secure is compiled in as false (a.proto:1) and cannot become true at run time: change \
         the .proto and build again; a rule that is applied tunes load_balancing, hash_header, \
         locality, slow_start, timeout, max_timeout, retry, breaker, outlier, split, limits, \
         concurrency, fault, authorization and, of methods, hash_on and hedge"
    );
}

#[test]
fn a_lower_ceiling_cuts_what_it_finds_and_not_what_comes_with_it() {
    let lower = tuning(|rule| rule.max_timeout = Some(SECOND / 2));
    lower.check_against(&fixed()).unwrap();
    let held = lower.beside(&fixed(), true);
    assert_eq!(held.max_timeout, Some(SECOND / 2));
    assert_eq!(held.timeout, Some(SECOND / 2));
    assert_eq!(held.methods[0].timeout, Some(SECOND / 2));
    let both = tuning(|rule| {
        rule.max_timeout = Some(SECOND / 2);
        rule.timeout = Some(SECOND);
    });
    assert_eq!(both.check_against(&fixed()).unwrap_err().path, "timeout");
}

#[test]
fn the_text_of_a_refusal_is_cut_where_it_travels() {
    let refused = RefusedRule {
        service: "s".repeat(300),
        version: 7,
        place: 0,
        error: FieldError::new("é".repeat(300), Problem::Refused("é".repeat(600))),
    };
    let wire = control::RuleRefusal::from(&refused);
    assert_eq!(wire.service.len(), 255);
    assert!(
        (254..=256).contains(&wire.field.len()),
        "{}",
        wire.field.len()
    );
    assert!(
        (510..=512).contains(&wire.problem.len()),
        "{}",
        wire.problem.len()
    );
    assert!(wire.problem.ends_with('…'));
}

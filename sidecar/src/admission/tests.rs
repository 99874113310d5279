//! What a rule admits, and what stays used when it changes.

use std::borrow::Cow;

use sidelane_proto::model::{Abort, Admission, Bound, ConnectionClass, Delay, Per};

use super::*;

const GET: MethodRule = MethodRule::unary("Get");
const PUT: MethodRule = MethodRule::unary("Put");

fn rule(admission: Admission, get: Admission) -> Arc<Rule> {
    let class = ConnectionClass::Internal;
    Arc::new(Rule {
        admission,
        methods: Cow::Owned(vec![GET.with_admission(get), PUT]),
        ..Rule::new("a.B", class, Lane::GENERAL, &[], "rules.yaml:3")
    })
}

fn said(rule: &Arc<Rule>) -> Said {
    Said {
        compiled: Some(Arc::clone(rule)),
        ..Said::default()
    }
}

fn limits(limits: &[Limit]) -> Admission {
    Admission {
        limits: Cow::Owned(limits.to_vec()),
        ..Admission::NONE
    }
}

fn burst(burst: u32, per: Per) -> Limit {
    Limit {
        burst,
        per,
        ..Limit::of(1)
    }
}

fn admitted(rule: &Arc<Rule>, now: Instant) -> Arc<Admitted> {
    Admitted::under(rule, &said(rule), None, Arc::default, now).unwrap()
}

/// How many calls come through before one is refused.
fn through(
    admitted: &Admitted,
    caller: &str,
    lane: Lane,
    method: &MethodRule,
    now: Instant,
) -> u32 {
    let caller = NodeId::new(caller).unwrap();
    let asked = Asked {
        caller: &caller,
        user: None,
        lane,
        method: Some(method),
    };
    (0..100)
        .take_while(|_| admitted.arrives(&asked, now).is_ok())
        .count()
        .try_into()
        .unwrap()
}

#[test]
fn a_rule_that_says_nothing_asks_nothing() {
    let rule = rule(Admission::NONE, Admission::NONE);
    assert!(Admitted::under(&rule, &said(&rule), None, Arc::default, Instant::now()).is_none());
}

#[test]
fn shares_are_told_apart_as_the_limit_says() {
    let now = Instant::now();
    let per = Per {
        caller: true,
        method: true,
        lane: true,
    };
    let admitted = admitted(&rule(limits(&[burst(3, per)]), Admission::NONE), now);
    let unknown = MethodRule::unary("Unheard");
    for (caller, lane, method) in [
        ("one", Lane::GENERAL, &GET),
        ("one", Lane::GENERAL, &PUT),
        ("one", Lane::GOSSIP, &GET),
        ("two", Lane::GENERAL, &GET),
        ("two", Lane::GENERAL, &unknown),
    ] {
        assert_eq!(through(&admitted, caller, lane, method, now), 3);
        assert_eq!(through(&admitted, caller, lane, method, now), 0);
    }
}

#[test]
fn all_limits_hold_and_a_methods_own_are_its_own() {
    let now = Instant::now();
    let all = limits(&[burst(5, Per::NOTHING)]);
    let admitted = admitted(&rule(all, limits(&[burst(2, Per::NOTHING)])), now);
    assert_eq!(through(&admitted, "one", Lane::GENERAL, &GET, now), 2);
    // The third was refused by the method's, and cost the service's nothing.
    assert_eq!(through(&admitted, "one", Lane::GENERAL, &PUT, now), 3);
}

#[test]
fn what_leaves_is_counted_apart_from_what_arrives() {
    let now = Instant::now();
    let out = Limit {
        outbound: true,
        ..burst(1, Per::NOTHING)
    };
    let admitted = admitted(&rule(limits(&[out]), Admission::NONE), now);
    let caller = NodeId::new("one").unwrap();
    let asked = Asked {
        caller: &caller,
        user: None,
        lane: Lane::GENERAL,
        method: None,
    };
    assert_eq!(through(&admitted, "one", Lane::GENERAL, &GET, now), 100);
    assert_eq!(admitted.leaves(&asked, now), Ok(()));
    let refused = admitted.leaves(&asked, now).unwrap_err().to_string();
    assert_eq!(
        refused,
        "its rule (compiled rules.yaml:3) admits 1 calls/s, 1 at once, where they leave, and that is used \
         up; there is room for the next call in 1000 ms"
    );
}

#[test]
fn a_rule_that_changes_keeps_what_was_used_and_who_is_in() {
    let now = Instant::now();
    let with = |calls, most| Admission {
        concurrency: Some(Concurrency::fixed(most)),
        ..limits(&[burst(calls, Per::NOTHING)])
    };
    let before = admitted(&rule(with(4, 1), Admission::NONE), now);
    let caller = NodeId::new("one").unwrap();
    let asked = Asked {
        caller: &caller,
        user: None,
        lane: Lane::GENERAL,
        method: None,
    };
    for _ in 0..3 {
        before.arrives(&asked, now).unwrap();
    }
    let Entered::Now(_place) = before.gate().unwrap().enter() else {
        panic!("there was room");
    };
    let next = rule(with(5, 2), Admission::NONE);
    let after = Admitted::under(&next, &said(&next), Some(&before), Arc::default, now).unwrap();
    assert_eq!(through(&after, "one", Lane::GENERAL, &GET, now), 2);
    let gate = after.gate().unwrap();
    assert!(matches!(gate.enter(), Entered::Now(_)));
    assert_eq!(gate.rule().bound, Bound::Fixed(2));
    // The same rule is the same.
    let same = Admitted::under(&next, &said(&next), Some(&after), Arc::default, now).unwrap();
    assert!(Arc::ptr_eq(&same, &after));
}

#[test]
fn who_is_inside_is_counted_while_no_rule_bounds_it() {
    let now = Instant::now();
    let two = Admission {
        concurrency: Some(Concurrency::fixed(2)),
        ..Admission::NONE
    };
    let (bounded, open) = (
        rule(two, Admission::NONE),
        rule(Admission::NONE, Admission::NONE),
    );
    let under = |rule: &Arc<Rule>, before: Option<&Arc<Admitted>>| {
        Admitted::under(rule, &said(rule), before, Arc::default, now)
    };
    let enter = |admitted: &Admitted| match admitted.gate().unwrap().enter() {
        Entered::Now(place) => Some(place),
        _ => None,
    };
    let before = under(&bounded, None).unwrap();
    // Nobody was there: nothing to be counted on, and calls ask nothing any more.
    assert!(under(&open, Some(&before)).is_none());
    let first = enter(&before).unwrap();
    let between = under(&open, Some(&before)).unwrap();
    let others: Vec<Place> = (0..9).map(|_| enter(&between).unwrap()).collect();
    let after = under(&bounded, Some(&between)).unwrap();
    assert!(enter(&after).is_none(), "ten are inside");
    drop(others);
    let second = enter(&after).unwrap();
    assert!(enter(&after).is_none(), "two are");
    drop((first, second));
    assert!(enter(&after).is_some());
}

#[test]
fn faults_meet_those_that_are_meant() {
    let second = Duration::from_secs(1);
    let fault = |header, value| Admission {
        fault: Some(Fault {
            delay: Some(Delay {
                percent: 50,
                time: second,
            }),
            abort: Some(Abort {
                percent: 10,
                status: 14,
            }),
            header,
            header_value: value,
        }),
        ..Admission::NONE
    };
    let text = |text| Some(Cow::Borrowed(text));
    let mut headers = HeaderMap::new();
    headers.append("x-test", "other".parse().unwrap());
    headers.append("x-test", "drill".parse().unwrap());
    let (none, both) = (
        Injected::default(),
        Injected {
            delay: Some(second),
            status: Some(14),
        },
    );
    let now = Instant::now();
    for (name, value, expected) in [
        (None, None, both),
        (text("x-test"), None, both),
        (text("x-test"), text("drill"), both),
        (text("x-test"), text("dril"), none),
        (text("x-none"), None, none),
    ] {
        let admitted = admitted(&rule(fault(name, value), Admission::NONE), now);
        assert_eq!(admitted.injected(None, &headers, (0, 0)), expected);
    }
    let all = fault(None, None);
    let own = Admission {
        fault: Some(Fault {
            delay: None,
            abort: Some(Abort {
                percent: 100,
                status: 5,
            }),
            header: None,
            header_value: None,
        }),
        ..Admission::NONE
    };
    let rule = rule(all, own);
    let admitted = admitted(&rule, now);
    let random = |random| admitted.injected(None, &headers, random);
    assert_eq!(random((50, 10)), none);
    assert_eq!(random((49, 10)).delay, Some(second));
    assert_eq!(random((50, 9)).status, Some(14));
    let get = admitted.injected(rule.method("Get"), &headers, (0, 99));
    assert_eq!((get.delay, get.status), (None, Some(5)));
}

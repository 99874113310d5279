//! Breakers in a hub: who gets calls while one is open, when it is probed, and how endpoints are
//! compared. Time and verdicts are given; nothing here waits.

use std::time::Duration;

use proptest::prelude::{any, prop, prop_assert, proptest};
use sidelane_proto::model::{Breaker, Outlier};

use super::super::{Cause, Change, Tripped, Verdict};
use super::*;

const SECOND: Duration = Duration::from_secs(1);
const FAILS: Verdict = Verdict::Failure;
const WORKS: Verdict = Verdict::Success;

/// One call at this time, with this verdict wherever it goes; the node that it went to.
fn call(hub: &mut Hub, now: Instant, verdict: impl Fn(&str) -> Verdict) -> Option<String> {
    let pick = hub.pick(&INTERNAL, 7, now).ok()?;
    let node = pick.endpoint.node.to_string();
    pick.in_flight.verdict(verdict(&node), 0.0, now);
    Some(node)
}

/// So many calls; how many went to that node.
fn share(hub: &mut Hub, calls: usize, now: Instant, node: &str) -> usize {
    let nodes = (0..calls).filter_map(|_| call(hub, now, |_| WORKS));
    nodes.filter(|it| it == node).count()
}

fn bad(node: &'static str) -> impl Fn(&str) -> Verdict {
    move |it| if it == node { FAILS } else { WORKS }
}

/// From now on as by a rule that writes the default down.
fn refuses(hub: &mut Hub, now: Instant) {
    hub.set_breaker(Some(Breaker::DEFAULT), Outlier::DEFAULT, now);
}

fn changes(hub: &Hub) -> Vec<u64> {
    hub.breaker_changes().map(|(_, count)| count).collect()
}

#[test]
fn an_endpoint_that_fails_is_left_alone_probed_and_taken_back() {
    let strategies = [
        Strategy::RoundRobin,
        Strategy::Random,
        Strategy::LeastConnections,
        Strategy::PeakEwma,
        Strategy::ConsistentHash,
    ];
    let cases = strategies.map(|strategy| [(strategy, true), (strategy, false)]);
    for (strategy, written) in cases.into_iter().flatten() {
        let mut hub = hub_of(&["a", "b"]);
        hub.set_strategy(strategy);
        let now = Instant::now();
        if written {
            refuses(&mut hub, now);
        }
        // By its key, a call of nobody in particular goes to one of the two.
        let first = call(&mut hub, now, |_| WORKS).unwrap();
        let (first, other) = if first == "a" { ("a", "b") } else { ("b", "a") };
        let mut failed = 0;
        while hub.tripped() == 0 && failed < 1_000 {
            let pick = hub.pick(&INTERNAL, fastrand::u64(..), now).unwrap();
            if pick.endpoint.node.as_str() == first {
                pick.in_flight.verdict(FAILS, 0.0, now);
                failed += 1;
            }
            drop(pick);
            hub.settle_breakers(now);
        }
        assert_eq!(failed, 5, "{strategy}");
        assert_eq!(share(&mut hub, 100, now, first), 0, "{strategy}");
        let tripped = Some(Tripped {
            cause: Cause::InARow(5),
            left: Some(5 * SECOND),
        });
        let unfit = if written {
            Unfit::BreakerOpen(tripped)
        } else {
            Unfit::Avoided(tripped)
        };
        let candidates = hub.candidates(&INTERNAL, now);
        let found = candidates.iter().find(|it| it.endpoint.node == id(first));
        assert_eq!(found.unwrap().unfit, Some(unfit));

        let due = now + 5 * SECOND;
        let almost = due - Duration::from_nanos(1);
        assert_eq!(share(&mut hub, 100, almost, first), 0, "{strategy}");
        // One probe at a time, and everybody else goes elsewhere meanwhile.
        let probe = hub.pick(&INTERNAL, 7, due).unwrap();
        assert_eq!(probe.endpoint.node, id(first), "{strategy}");
        assert!(probe.in_flight.is_probe());
        assert_eq!(share(&mut hub, 100, due, first), 0, "{strategy}");
        probe.in_flight.verdict(WORKS, 0.0, due);
        drop(probe);
        assert_eq!(call(&mut hub, due, |_| WORKS).unwrap(), first, "{strategy}");
        assert_eq!(changes(&hub), [1, 1, 1], "{strategy}");
        if strategy == Strategy::RoundRobin {
            assert_eq!(share(&mut hub, 100, due, other), 50);
        }
    }
}

#[test]
fn a_probe_that_fails_costs_one_call_and_doubles_the_time() {
    let mut hub = hub_of(&["a", "b"]);
    let mut now = Instant::now();
    for _ in 0..10 {
        call(&mut hub, now, bad("a"));
    }
    for seconds in [5, 10, 20, 40, 60, 60] {
        now += SECOND * seconds;
        let calls = (0..50).filter_map(|_| call(&mut hub, now, bad("a")));
        assert_eq!(calls.filter(|node| node == "a").count(), 1, "{seconds}");
    }
    assert_eq!(changes(&hub), [7, 6, 0]);
}

#[test]
fn a_probe_whose_caller_leaves_makes_room_for_another() {
    let mut hub = hub_of(&["a", "b"]);
    let now = Instant::now();
    for _ in 0..10 {
        call(&mut hub, now, bad("a"));
    }
    let due = now + 5 * SECOND;
    drop(hub.pick(&INTERNAL, 7, due).unwrap());
    assert_eq!(call(&mut hub, due, |_| WORKS).unwrap(), "a");
}

#[test]
fn breakers_may_open_on_all_of_a_hub_and_then_the_call_says_so() {
    let mut hub = hub_of(&["a", "b"]);
    let now = Instant::now();
    refuses(&mut hub, now);
    for _ in 0..10 {
        call(&mut hub, now, |_| FAILS);
    }
    let error = hub.pick(&INTERNAL, 7, now + SECOND).unwrap_err();
    assert_eq!(
        error.to_string(),
        "all 2 endpoints that could take the call have failed too often to be asked now (the first \
         to be asked again: its breaker is open for another 4.0 s: 5 failures in a row); look at \
         why they fail, or tune `breaker` in the service's rule"
    );
    // A node that is named is asked for as often as its caller likes, and tells nothing.
    let named = hub.pick(&INTERNAL.at("a"), 7, now).unwrap();
    named.in_flight.verdict(WORKS, 0.0, now);
    assert_eq!(hub.tripped(), 2);
    // A call that has tried the one that is left hears the same of the rest.
    assert_eq!(up(&mut hub, endpoint("c")), Up::Added);
    let tried = [id("c")];
    let wanted = Wanted {
        exclude: &tried,
        ..INTERNAL
    };
    let error = hub.pick(&wanted, 7, now).unwrap_err();
    let PickError::AllTried { tried: 1, counts } = error else {
        panic!("{error:?}");
    };
    assert_eq!(counts.tripped, 2);
}

#[test]
fn a_probe_that_hangs_shuts_nobody_out_for_ever() {
    let mut hub = hub_of(&["a"]);
    let now = Instant::now();
    refuses(&mut hub, now);
    for _ in 0..5 {
        call(&mut hub, now, |_| FAILS);
    }
    let due = now + 5 * SECOND;
    let hangs = hub.pick(&INTERNAL, 7, due).unwrap();
    assert!(hub.pick(&INTERNAL, 7, due).is_err());
    let later = due + 5 * SECOND;
    assert_eq!(call(&mut hub, later, |_| WORKS).as_deref(), Some("a"));
    assert_eq!(call(&mut hub, later, |_| WORKS).as_deref(), Some("a"));
    assert_eq!(hub.tripped(), 0);
    drop(hangs);
    assert_eq!(share(&mut hub, 10, later, "a"), 10);
}

#[test]
fn with_breaker_and_outlier_off_what_is_open_closes_at_once() {
    let mut hub = hub_of(&["a", "b"]);
    let now = Instant::now();
    refuses(&mut hub, now);
    for _ in 0..10 {
        call(&mut hub, now, |_| FAILS);
    }
    assert!(hub.pick(&INTERNAL, 7, now).is_err());
    let off = Breaker {
        off: true,
        ..Breaker::DEFAULT
    };
    // The breaker alone: what is open waits for its probe.
    hub.set_breaker(Some(off), Outlier::DEFAULT, now);
    assert!(hub.pick(&INTERNAL, 7, now).is_err());
    let outlier = Outlier {
        off: true,
        ..Outlier::DEFAULT
    };
    hub.set_breaker(Some(off), outlier, now);
    assert_eq!(share(&mut hub, 10, now, "a"), 5);
}

#[test]
fn where_no_rule_writes_one_all_are_asked_when_all_are_open() {
    let mut hub = hub_of(&["a", "b"]);
    let now = Instant::now();
    for _ in 0..10 {
        call(&mut hub, now, |_| FAILS);
    }
    hub.settle_breakers(now);
    assert_eq!(hub.tripped(), 2);
    // In turn, as if nothing were.
    assert_eq!(share(&mut hub, 100, now, "a"), 50);
    assert_eq!(unfit(&hub, &INTERNAL, "a"), None);
    // What comes of these says nothing to the breakers: probes do.
    assert_eq!(changes(&hub), [2, 0, 0]);
    // A third is preferred to both, and where it was tried already, they are asked again.
    assert_eq!(up(&mut hub, endpoint("c")), Up::Added);
    assert_eq!(share(&mut hub, 100, now, "c"), 100);
    let tried = [id("c")];
    let wanted = Wanted {
        exclude: &tried,
        ..INTERNAL
    };
    assert!(hub.pick(&wanted, 7, now).is_ok());
    // One whose channel is closed is the better one of none.
    assert!(hub.failed(&id("c"), generation(1), now));
    assert_eq!(share(&mut hub, 100, now, "c"), 0);
    // The rule is written after all, and taken back.
    refuses(&mut hub, now);
    let error = hub.pick(&wanted, 7, now).unwrap_err();
    assert!(matches!(error, PickError::AllTried { .. }), "{error:?}");
    assert_eq!(share(&mut hub, 100, now, "c"), 100);
    hub.set_breaker(None, Outlier::DEFAULT, now);
    assert_eq!(share(&mut hub, 100, now, "c"), 0);
    // They are probed and close, all the same.
    let due = now + 5 * SECOND;
    for _ in 0..4 {
        call(&mut hub, due, |_| WORKS);
    }
    hub.settle_breakers(due);
    assert_eq!(hub.tripped(), 0);
}

proptest! {
    #[test]
    fn where_no_rule_writes_one_a_hub_with_a_live_endpoint_always_picks_one(
        strategy in prop::sample::select(vec![
            Strategy::RoundRobin,
            Strategy::Random,
            Strategy::LeastConnections,
            Strategy::PeakEwma,
            Strategy::ConsistentHash,
        ]),
        suspects in 0_usize..4,
        ghosts in 0_usize..4,
        calls in prop::collection::vec((0_u64..8_000, 0_u32..10, any::<u64>()), 1..200),
    ) {
        let nodes = ["a", "b", "c"];
        let mut hub = hub_of(&nodes);
        hub.set_strategy(strategy);
        let mut now = Instant::now();
        for node in &nodes[..suspects.min(3)] {
            assert_eq!(up(&mut hub, with_health(node, Health::Suspect)), Up::Refreshed);
        }
        for node in &nodes[..ghosts.min(3)] {
            hub.failed(&id(node), generation(1), now);
        }
        let mut open = Vec::new();
        for (pause, outcome, random) in calls {
            now += Duration::from_millis(pause);
            let pick = hub.pick(&INTERNAL, random, now);
            prop_assert!(pick.is_ok(), "{pick:?}");
            let pick = pick.unwrap();
            match outcome {
                // Nearly all of them fail.
                0..7 => pick.in_flight.verdict(FAILS, 0.5, now),
                7 => pick.in_flight.verdict(WORKS, 0.5, now),
                8 => pick.in_flight.verdict(Verdict::Lost { sent: now }, 0.5, now),
                _ => open.push(pick),
            }
        }
    }
}

#[test]
fn a_newer_generation_begins_with_a_closed_breaker() {
    let mut hub = hub_of(&["a"]);
    let now = Instant::now();
    refuses(&mut hub, now);
    for _ in 0..5 {
        call(&mut hub, now, |_| FAILS);
    }
    assert!(hub.pick(&INTERNAL, 7, now).is_err());
    let old = generation(1);
    assert_eq!(up(&mut hub, with_generation("a", 2)), Up::Replaced { old });
    assert!(hub.pick(&INTERNAL, 7, now).is_ok());
}

#[test]
fn a_rule_tunes_and_switches_off() {
    let mut hub = hub_of(&["a", "b"]);
    let now = Instant::now();
    hub.set_breaker(Some(Breaker::OFF), Outlier::OFF, now);
    for _ in 0..1_000 {
        call(&mut hub, now, |_| FAILS);
    }
    assert_eq!(changes(&hub), [0, 0, 0]);
    let one = Breaker {
        consecutive_failures: 1,
        ..Breaker::DEFAULT
    };
    hub.set_breaker(Some(one), Outlier::OFF, now);
    assert_eq!(up(&mut hub, endpoint("c")), Up::Added);
    for _ in 0..3 {
        call(&mut hub, now, |_| FAILS);
    }
    hub.settle_breakers(now);
    assert_eq!(hub.tripped(), 3);
}

/// Calls until endpoints are compared; of each node every so many calls fail.
fn compare(hub: &mut Hub, now: Instant, fails: impl Fn(&str, usize) -> bool) {
    let mut counts = std::collections::HashMap::<String, usize>::new();
    for _ in 0..100 * hub.len() {
        let node = call(hub, now, |node| {
            if fails(node, counts.get(node).copied().unwrap_or(0)) {
                FAILS
            } else {
                WORKS
            }
        });
        if let Some(node) = node {
            *counts.entry(node).or_default() += 1;
        }
    }
    hub.settle_breakers(now + 2 * SECOND);
}

#[test]
fn one_that_fails_more_often_than_the_others_is_left_alone() {
    let third = |node: &str, call: usize| node == "a" && call.is_multiple_of(3);
    let mut hub = hub_of(&["a", "b"]);
    let now = Instant::now();
    compare(&mut hub, now, third);
    assert_eq!(hub.tripped(), 1);
    let later = now + 2 * SECOND;
    let candidates = hub.candidates(&INTERNAL, later);
    let of_a = candidates.iter().find(|it| it.endpoint.node == id("a"));
    let Some(Unfit::Avoided(Some(tripped))) = of_a.unwrap().unfit else {
        panic!("{of_a:?}");
    };
    assert_eq!(tripped.cause, Cause::Outlier(66));

    // Where all of them do, none is an outlier.
    let mut hub = hub_of(&["a", "b", "c"]);
    compare(&mut hub, now, |_, call| call.is_multiple_of(3));
    assert_eq!(hub.tripped(), 0);
    // Nor is one that does a little.
    let mut hub = hub_of(&["a", "b", "c"]);
    compare(&mut hub, now, |node, call| {
        node == "a" && call.is_multiple_of(5)
    });
    assert_eq!(hub.tripped(), 0);
    // And by a rule that says so, nobody.
    let mut hub = hub_of(&["a", "b"]);
    hub.set_breaker(None, Outlier::OFF, now);
    compare(&mut hub, now, third);
    assert_eq!(hub.tripped(), 0);
}

#[test]
fn no_more_than_a_part_of_a_hub_is_left_alone_for_being_worse() {
    let nodes = ["a", "b", "c", "d", "e", "f", "g", "h"];
    // Three of eight never fail.
    let worse = |node: &str, call: usize| node < "f" && call.is_multiple_of(3);
    for (max_percent, most) in [(50, 4), (25, 2), (12, 0), (13, 1)] {
        let mut hub = hub_of(&nodes);
        let now = Instant::now();
        let outlier = Outlier {
            max_percent,
            below_mean: 10,
            ..Outlier::DEFAULT
        };
        hub.set_breaker(None, outlier, now);
        for round in 0..5 {
            compare(&mut hub, now + SECOND * round, worse);
            assert!(hub.tripped() <= most, "{max_percent}: {}", hub.tripped());
        }
        assert_eq!(hub.tripped(), most, "{max_percent}");
    }
}

#[test]
fn a_change_has_a_name_of_a_closed_set() {
    let names = [Change::Opened, Change::HalfOpened, Change::Closed].map(Change::name);
    assert_eq!(names, ["open", "half_open", "closed"]);
}

//! New endpoints warm up, where a rule says so and others are there.

use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use sidelane_proto::model::Health;

use super::super::{Hub, Strategy};
use super::{INTERNAL, endpoint, id, with_generation, with_health};

const TIME: Duration = Duration::from_secs(10);

fn hub(strategy: Strategy, start: Instant) -> Hub {
    let mut hub = Hub::new(strategy);
    hub.set_slow_start(Some(TIME));
    let first = ["a", "b"].map(|node| Arc::new(endpoint(node)));
    let _ = hub.reconcile(&first, start);
    hub
}

fn join(hub: &mut Hub, node: &str, now: Instant) {
    let _ = hub.up(Arc::new(endpoint(node)), now);
}

fn warmth(hub: &Hub, node: &str, now: Instant) -> u8 {
    let mut all = hub.candidates(&INTERNAL, now).into_iter();
    all.find(|it| it.endpoint.node == id(node)).unwrap().warmth
}

/// How many of so many picks at this time go to the node.
fn share(hub: &mut Hub, node: &str, count: usize, now: Instant) -> usize {
    let mut random = 7_u64;
    let picked = (0..count).filter(|_| {
        random = random.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        let pick = hub.pick(&INTERNAL, random ^ (random >> 29), now).unwrap();
        pick.endpoint.node == id(node)
    });
    picked.count()
}

#[test]
fn a_newcomer_gets_a_tenth_of_its_share_and_then_all_of_it() {
    let start = Instant::now();
    for strategy in [
        Strategy::RoundRobin,
        Strategy::Random,
        Strategy::LeastConnections,
    ] {
        let mut hub = hub(strategy, start);
        join(&mut hub, "new", start);
        assert_eq!((warmth(&hub, "new", start), hub.warming()), (10, 1));
        // Of 2.1 shares it has 0.1; of 2.55, 0.55; of 3, 1.
        for (after, expected) in [(Duration::ZERO, 100), (TIME / 2, 453), (TIME, 700)] {
            let picked = share(&mut hub, "new", 2_100, start + after);
            let near = picked.abs_diff(expected) <= expected / 5;
            assert!(near, "{strategy}, {after:?}: {picked} for {expected}");
        }
        assert_eq!((warmth(&hub, "new", start), hub.warming()), (100, 0));
        for old in ["a", "b"] {
            assert_eq!(warmth(&hub, old, start), 100);
        }
    }
}

#[test]
fn turns_are_exact_again_once_all_are_warm() {
    let start = Instant::now();
    let mut hub = hub(Strategy::RoundRobin, start);
    join(&mut hub, "c", start);
    join(&mut hub, "d", start);
    assert!(share(&mut hub, "c", 400, start + TIME / 3) < 100);
    let warm = start + TIME * 2;
    let _ = share(&mut hub, "c", 40, warm);
    for node in ["a", "b", "c", "d"] {
        assert_eq!(share(&mut hub, node, 400, warm), 100, "{node}");
    }
}

#[test]
fn where_nobody_was_before_everybody_is_warm() {
    let start = Instant::now();
    let mut fresh = hub(Strategy::RoundRobin, start);
    assert_eq!(fresh.warming(), 0);
    // A deploy that replaces all at once: nobody is left to take the calls meanwhile.
    let all = ["a", "b"].map(|node| Arc::new(with_generation(node, 2)));
    let _ = fresh.reconcile(&all, start);
    assert_eq!(fresh.warming(), 0);
    // One after the other: each is new beside the other.
    let _ = fresh.up(Arc::new(with_generation("a", 3)), start);
    assert_eq!((warmth(&fresh, "a", start), fresh.warming()), (10, 1));
    let state = [
        with_generation("a", 3),
        with_generation("b", 2),
        endpoint("c"),
    ]
    .map(Arc::new);
    let _ = fresh.reconcile(&state, start);
    assert_eq!((warmth(&fresh, "c", start), fresh.warming()), (10, 2));

    let mut alone = Hub::new(Strategy::RoundRobin);
    alone.set_slow_start(Some(TIME));
    join(&mut alone, "one", start);
    let _ = alone.up(Arc::new(with_generation("one", 2)), start);
    assert_eq!(alone.warming(), 0);
}

#[test]
fn one_that_was_ill_is_new_again() {
    let start = Instant::now();
    let mut hub = hub(Strategy::RoundRobin, start);
    let ill = Arc::new(with_health("b", Health::Unhealthy));
    let _ = hub.up(Arc::clone(&ill), start);
    assert_eq!(hub.warming(), 0);
    join(&mut hub, "b", start);
    assert_eq!((warmth(&hub, "b", start), hub.warming()), (10, 1));
    // Heard of again and again, it goes on to warm up.
    hub.settle(start + TIME / 2);
    join(&mut hub, "b", start + TIME / 2);
    assert_eq!(warmth(&hub, "b", start), 55);
    // And where the other one is ill, all calls are its own.
    let _ = hub.up(Arc::new(with_health("a", Health::Unhealthy)), start);
    let _ = hub.up(ill, start);
    hub.settle(start + TIME);
    join(&mut hub, "b", start + TIME);
    assert_eq!((warmth(&hub, "b", start), hub.warming()), (100, 0));
}

#[test]
fn a_rule_that_says_nothing_more_makes_all_warm() {
    let start = Instant::now();
    let mut hub = hub(Strategy::RoundRobin, start);
    join(&mut hub, "new", start);
    hub.set_slow_start(None);
    assert_eq!((warmth(&hub, "new", start), hub.warming()), (100, 0));
    join(&mut hub, "newer", start);
    assert_eq!((warmth(&hub, "newer", start), hub.warming()), (100, 0));
}

#[test]
fn keys_do_not_wait_for_it() {
    let start = Instant::now();
    let (mut cold, mut warm) = (
        hub(Strategy::ConsistentHash, start),
        Hub::new(Strategy::ConsistentHash),
    );
    for node in ["a", "b", "new"] {
        join(&mut warm, node, start);
    }
    join(&mut cold, "new", start);
    for key in 0..300 {
        let wanted = super::Wanted {
            key: Some(key),
            ..INTERNAL
        };
        let node = |hub: &mut Hub| hub.pick(&wanted, 0, start).unwrap().endpoint.node.clone();
        assert_eq!(node(&mut cold), node(&mut warm));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 100,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Whenever it is looked at, it is not colder than before, never above the whole, and warm when
    /// its time is over.
    #[test]
    fn warmth_only_grows(steps in proptest::collection::vec(0..2_000_u64, 1..40)) {
        let start = Instant::now();
        let mut hub = hub(Strategy::PeakEwma, start);
        join(&mut hub, "new", start);
        let (mut now, mut before) = (start, 10);
        for step in steps {
            now += Duration::from_millis(step);
            let _ = hub.pick(&INTERNAL, step, now);
            let warm = warmth(&hub, "new", now);
            prop_assert!((before..=100).contains(&warm));
            let age = now.duration_since(start);
            // A step of its growth may not have come yet.
            let due = 10 + 90 * age.as_millis() / TIME.as_millis();
            prop_assert!(u128::from(warm) + 2 >= due.min(100), "{} of {}", warm, due);
            before = warm;
        }
        hub.settle(start + TIME * 10);
        prop_assert_eq!((warmth(&hub, "new", now), hub.warming()), (100, 0));
    }
}

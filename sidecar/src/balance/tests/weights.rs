//! What weights do to each strategy: shares are exact in turns, and right on the average otherwise.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use proptest::collection::vec;
use proptest::prelude::*;

use super::super::{CROWD, FEW, Hub, Pick, Strategy, Up, Wanted};
use super::{INTERNAL, endpoint, id, pick, picks, up};

const MILLISECOND: Duration = Duration::from_millis(1);

/// A hub with nodes `0`, `1`, … of these weights.
fn hub_of_weights(strategy: Strategy, weights: &[u32]) -> Hub {
    let mut hub = Hub::new(strategy);
    for (number, weight) in weights.iter().enumerate() {
        weigh(&mut hub, number, *weight);
    }
    hub
}

fn weigh(hub: &mut Hub, number: usize, weight: u32) {
    let mut endpoint = endpoint(&number.to_string());
    endpoint.offer.weight = weight;
    assert!(matches!(up(hub, endpoint), Up::Added | Up::Refreshed));
}

/// So many picks, each of a call that ends at once.
fn numbers(hub: &mut Hub, count: usize, chance: &mut u64) -> Vec<usize> {
    let mut next = || {
        *chance = chance.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(1);
        *chance ^ (*chance >> 29)
    };
    (0..count)
        .map(|_| hub.pick(&INTERNAL, next(), Instant::now()).unwrap())
        .map(|pick| pick.endpoint.node.as_str().parse().unwrap())
        .collect()
}

fn counts(numbers: &[usize], all: usize) -> Vec<usize> {
    let count = |number| numbers.iter().filter(|it| **it == number).count();
    (0..all).map(count).collect()
}

fn greatest_common_divisor(one: u32, other: u32) -> u32 {
    match other {
        0 => one,
        other => greatest_common_divisor(other, one % other),
    }
}

#[test]
fn a_heavy_endpoint_has_its_turns_between_those_of_others() {
    let mut hub = hub_of_weights(Strategy::RoundRobin, &[5, 1, 1]);
    assert_eq!(picks(&mut hub, 14), "0 1 0 0 2 0 0 0 1 0 0 2 0 0");
    // Half the weights and half the turns; nobody is asked to wait for what was.
    for (number, weight) in [5, 5, 5].into_iter().enumerate() {
        weigh(&mut hub, number, weight);
    }
    let numbers = numbers(&mut hub, 30, &mut 1);
    assert_eq!(counts(&numbers[6..], 3), [8, 8, 8], "{numbers:?}");
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 200,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// In any cycle, wherever it begins, each endpoint is picked as often as it weighs; and it is
    /// never a whole turn ahead of its share, nor one behind.
    #[test]
    fn turns_are_exact_over_a_cycle_and_evenly_spread(
        weights in vec(1..=40_u32, 1..9),
        skipped in 0..200_usize,
    ) {
        let mut hub = hub_of_weights(Strategy::RoundRobin, &weights);
        let all: u32 = weights.iter().sum();
        let divisor = weights.iter().copied().reduce(greatest_common_divisor).unwrap();
        let cycle = usize::try_from(all / divisor).unwrap();
        let picked = numbers(&mut hub, skipped + 2 * cycle, &mut 1);
        let expected: Vec<_> = weights.iter().map(|weight| (weight / divisor) as usize).collect();
        for start in [skipped, skipped + cycle] {
            let counts = counts(&picked[start..start + cycle], weights.len());
            prop_assert_eq!(counts, expected.clone(), "{:?}", picked);
        }
        let mut counts = vec![0_u32; weights.len()];
        for (number, picked) in (1_u32..).zip(&picked) {
            counts[*picked] += 1;
            for (count, weight) in counts.iter().zip(&weights) {
                let share = f64::from(number) * f64::from(*weight) / f64::from(all);
                let ahead = f64::from(*count) - share;
                prop_assert!(ahead.abs() <= 1.0, "{} of {}: {:?}", ahead, number, counts);
            }
        }
    }

    /// Endpoints of other weights come and go, change theirs, and are passed over: two of one
    /// weight that stay are picked in turns, and everybody is picked.
    #[test]
    fn equal_ones_take_turns_whatever_others_do(
        events in vec((0..6_usize, 0..4_u32, any::<bool>()), 1..120),
    ) {
        let mut hub = hub_of_weights(Strategy::RoundRobin, &[7, 7]);
        let mut last = None;
        let mut since = [0, 0];
        for (number, weight, tried) in events {
            let other = number + 2;
            if weight == 0 {
                let _ = hub.down(&id(&other.to_string()), super::generation(1));
            } else {
                weigh(&mut hub, other, weight * 5);
            }
            let exclude = [id(&other.to_string())];
            let wanted = Wanted {
                exclude: if tried { &exclude } else { &[] },
                ..INTERNAL
            };
            for _ in 0..3 {
                let node = pick(&mut hub, &wanted).unwrap();
                let Some(index) = ["0", "1"].iter().position(|it| *it == node) else {
                    since = since.map(|since| since + 1);
                    prop_assert!(since.iter().all(|since| *since < 60), "{:?}", since);
                    continue;
                };
                prop_assert_ne!(last.replace(index), Some(index));
                since[index] = 0;
            }
        }
    }
}

#[test]
fn chance_is_weighed_for_few_and_for_many() {
    // Of two, the one whose turn is first: not quite as exact as turns, and quicker among many.
    for (strategy, least) in [
        (Strategy::Random, 1_850),
        (Strategy::LeastConnections, 1_950),
    ] {
        for copies in [1, FEW] {
            let weights: Vec<u32> = [100, 300].repeat(copies);
            let mut hub = hub_of_weights(strategy, &weights);
            let counts = counts(&numbers(&mut hub, 8_000, &mut 7), weights.len());
            let light: usize = counts.iter().step_by(2).sum();
            assert!(
                (least..least + 500).contains(&light),
                "{strategy}, {copies}: {counts:?}"
            );
        }
    }
}

#[test]
fn what_was_tried_takes_its_weight_along() {
    let mut hub = hub_of_weights(Strategy::Random, &[1, 7, 2, 3]);
    let tried = [id("1"), id("3")];
    let wanted = Wanted {
        exclude: &tried,
        ..INTERNAL
    };
    let mut light = 0;
    for part in 0..300_u64 {
        let random = part * (u64::MAX / 300) + 7;
        let picked = hub.pick(&wanted, random, Instant::now()).unwrap();
        assert!(!tried.contains(&picked.endpoint.node));
        light += usize::from(picked.endpoint.node == id("0"));
    }
    assert!((98..=102).contains(&light), "{light}");
}

/// Begins so many calls, each of which takes as long anywhere; who has how many.
fn held(hub: &mut Hub, count: u64) -> (Vec<Pick>, BTreeMap<String, u64>) {
    let now = Instant::now();
    let mut calls = Vec::new();
    let mut counts = BTreeMap::new();
    for number in 0..count {
        let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let call = hub.pick(&INTERNAL, random, now).unwrap();
        call.in_flight.answered(10 * MILLISECOND, now);
        let node = call.endpoint.node.as_str().to_owned();
        *counts.entry(node).or_default() += 1;
        calls.push(call);
    }
    (calls, counts)
}

#[test]
fn calls_in_flight_are_weighed() {
    for strategy in [Strategy::LeastConnections, Strategy::PeakEwma] {
        let mut hub = hub_of_weights(strategy, &[100, 300]);
        let (_calls, counts) = held(&mut hub, 400);
        assert!((97..=103).contains(&counts["0"]), "{strategy}: {counts:?}");
    }
}

#[test]
fn keys_are_spread_by_weights_and_a_change_moves_no_others() {
    let weights = [100, 300, 50, 50, 200];
    let mut hub = hub_of_weights(Strategy::ConsistentHash, &weights);
    let nodes = |hub: &mut Hub| -> Vec<usize> {
        let keyed = |key: u64| Wanted {
            key: Some(key.wrapping_mul(0x9e37_79b9_7f4a_7c15)),
            ..INTERNAL
        };
        let node = |key| pick(hub, &keyed(key)).unwrap().parse().unwrap();
        (0..14_000).map(node).collect()
    };
    let before = nodes(&mut hub);
    let counts_before = counts(&before, weights.len());
    for (count, weight) in counts_before.iter().zip(weights) {
        let share = 20 * usize::try_from(weight).unwrap();
        assert!(
            *count * 4 >= share * 3 && *count * 4 <= share * 5,
            "{counts_before:?}"
        );
    }
    // One weighs more: it gets keys, and no other does.
    weigh(&mut hub, 0, 200);
    let after = nodes(&mut hub);
    let moved: Vec<_> = before
        .iter()
        .zip(&after)
        .filter(|(one, two)| one != two)
        .collect();
    assert!(!moved.is_empty());
    assert!(moved.iter().all(|(_, now)| **now == 0));
    weigh(&mut hub, 0, 100);
    assert_eq!(nodes(&mut hub), before);
    // The heaviest leaves: its own keys move, and no others.
    let _ = hub.down(&id("1"), super::generation(1));
    let after = nodes(&mut hub);
    let mut pairs = before.iter().zip(&after);
    assert!(pairs.all(|(one, two)| one == two || *one == 1));
}

#[test]
fn the_bound_of_a_crowd_is_weighed() {
    let mut hub = hub_of_weights(Strategy::ConsistentHash, &[100, 300]);
    let wanted = Wanted {
        key: Some(1),
        ..INTERNAL
    };
    let now = Instant::now();
    let calls: Vec<_> = (0..CROWD * 10)
        .map(|_| hub.pick(&wanted, 0, now).unwrap())
        .collect();
    let light = calls.iter().filter(|call| call.endpoint.node == id("0"));
    let light = u64::try_from(light.count()).unwrap();
    // A quarter of them, give or take a quarter.
    let share = CROWD * 10 / 4;
    assert!(light <= share * 5 / 4 + 1, "{light}");
    assert!(light >= CROWD * 10 - (share * 3 * 5 / 4 + 1), "{light}");
}

//! A hub with 10,000 endpoints: as exact as a small one, and a pick looks at a handful of slots.

use std::cell::Cell;
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use sidelane_proto::model::Health;

use super::super::eligible::{Barrier, Kind};
use super::super::rotation::Rotation;
use super::super::weight::Weight;
use super::super::{Down, Hub, Strategy, Up};
use super::{INTERNAL, endpoint, generation, id, up, with_health};

const MANY: usize = 10_000;

fn hub_of_size(count: usize, health: impl Fn(usize) -> Health) -> Hub {
    let mut hub = Hub::new(Strategy::RoundRobin);
    for number in 0..count {
        let endpoint = with_health(&format!("node-{number}"), health(number));
        assert_eq!(up(&mut hub, endpoint), Up::Added);
    }
    hub
}

#[test]
fn rounds_of_10_000_endpoints_are_exact() {
    let mut hub = hub_of_size(MANY, |_| Health::Healthy);
    for _ in 0..2 {
        let mut round = BTreeSet::new();
        for _ in 0..MANY {
            let pick = hub.pick(&INTERNAL, 0, Instant::now()).unwrap();
            round.insert(pick.endpoint.node.clone());
        }
        assert_eq!(round.len(), MANY);
    }
    for number in (0..MANY).filter(|number| number % 10 != 0) {
        let node = id(&format!("node-{number}"));
        assert_eq!(hub.down(&node, generation(1)), Down::Removed);
    }
    let mut round = BTreeSet::new();
    for _ in 0..MANY / 10 {
        let pick = hub.pick(&INTERNAL, 0, Instant::now()).unwrap();
        round.insert(pick.endpoint.node.clone());
    }
    assert_eq!(round.len(), MANY / 10);
    assert_eq!(hub.len(), MANY / 10);
}

#[test]
fn a_pick_looks_at_one_slot_of_each_kind_and_at_those_tried() {
    let mut rotation = Rotation::default();
    let healths = [Health::Unhealthy, Health::Draining, Health::Suspect];
    let kinds = healths.map(|health| Kind::of(&with_health("a", health), true, Barrier::Lifted));
    let good = Kind::of(&endpoint("a"), true, Barrier::Lifted);
    let weight = Weight::warm(100);
    for number in 0..MANY {
        rotation.push(kinds[number % kinds.len()], weight, None, 0);
    }
    for _ in 0..MANY {
        rotation.push(good, weight, None, 0);
    }
    let looked_at = Cell::new(0);
    let tried = [MANY, MANY + 1, MANY + 2];
    let passed_over = |slot: usize| {
        looked_at.set(looked_at.get() + 1);
        tried.contains(&slot)
    };
    let open = |kind: &Kind| *kind == good || *kind == kinds[2];
    assert_eq!(rotation.first(open, passed_over), Some(2));
    assert_eq!(looked_at.get(), tried.len() + 2);
}

/// A pick that went through all slots, if only to count them, takes over fifty times as long in the
/// larger hub; one that goes down a tree less than twice. The quickest of ten short rounds each is
/// compared, so that a busy machine cannot tip it.
#[test]
fn a_pick_from_10_000_endpoints_takes_little_longer_than_one_from_10() {
    let mostly_ill = |number| match number % 5 {
        0 => Health::Healthy,
        _ => Health::Unhealthy,
    };
    let round = |hub: &mut Hub| {
        let start = Instant::now();
        for _ in 0..2_000 {
            assert!(hub.pick(&INTERNAL, 0, start).is_ok());
        }
        start.elapsed()
    };
    let mut small = hub_of_size(10, mostly_ill);
    let mut large = hub_of_size(MANY, mostly_ill);
    let (mut quick, mut slow) = (Duration::MAX, Duration::MAX);
    for _ in 0..10 {
        quick = quick.min(round(&mut small));
        slow = slow.min(round(&mut large));
    }
    assert!(slow < quick * 20, "{quick:?} became {slow:?}");
}

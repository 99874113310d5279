//! Near endpoints first, and farther ones for what is too much for them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Instant;

use proptest::collection::vec;
use proptest::prelude::*;
use sidelane_proto::model::{Endpoint, Health, Locality};

use super::super::{Hub, NEAR_CROWD, NEAR_SHARES, Nearness, Pick, Strategy, Unfit, Wanted};
use super::{INTERNAL, endpoint, generation, id, picks, unfit, up};

const BY_LOAD_OR_TURN: [Strategy; 4] = [
    Strategy::RoundRobin,
    Strategy::Random,
    Strategy::LeastConnections,
    Strategy::PeakEwma,
];

fn at(node: &str, region: &str, zone: &str) -> Endpoint {
    Endpoint {
        locality: Locality::new(region, zone).unwrap(),
        ..endpoint(node)
    }
}

/// Two in our zone, two in our region, two elsewhere, seen from `eu/a`.
fn spread(strategy: Strategy) -> Hub {
    let mut hub = Hub::new(strategy);
    hub.stand_at(Locality::new("eu", "a").unwrap());
    for (node, region, zone) in [
        ("zone-1", "eu", "a"),
        ("zone-2", "eu", "a"),
        ("region-1", "eu", "b"),
        ("region-2", "eu", ""),
        ("far-1", "us", "a"),
        ("far-2", "", ""),
    ] {
        let _ = up(&mut hub, at(node, region, zone));
    }
    hub
}

/// How often each circle was picked.
fn circles(hub: &mut Hub, count: u64) -> BTreeMap<String, u64> {
    let mut circles = BTreeMap::new();
    for number in 0..count {
        let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let pick = hub.pick(&INTERNAL, random, Instant::now()).unwrap();
        let (circle, _) = pick.endpoint.node.as_str().split_once('-').unwrap();
        *circles.entry(circle.to_owned()).or_default() += 1;
    }
    circles
}

fn ill(hub: &mut Hub, node: &str) {
    let mut endpoint = Endpoint::clone(hub.get(node).unwrap());
    endpoint.offer.health = Health::Unhealthy;
    let _ = up(hub, endpoint);
}

#[test]
fn calls_stay_near_and_go_farther_by_circles() {
    for strategy in BY_LOAD_OR_TURN {
        let mut hub = spread(strategy);
        assert_eq!(circles(&mut hub, 90), [("zone".into(), 90)].into());
        assert_eq!(unfit(&hub, &INTERNAL, "region-1"), Some(Unfit::Farther));
        assert_eq!(hub.circle_for(&INTERNAL), Some(Nearness::Zone));
        // Half of the zone can still take its calls.
        ill(&mut hub, "zone-1");
        assert_eq!(circles(&mut hub, 90), [("zone".into(), 90)].into());
        assert!(hub.failed(&id("zone-2"), generation(1), Instant::now()));
        assert_eq!(circles(&mut hub, 90), [("region".into(), 90)].into());
        assert_eq!(hub.circle_for(&INTERNAL), Some(Nearness::Region));
        // Two of four in the region are well, and then one.
        ill(&mut hub, "region-1");
        let all = circles(&mut hub, 300);
        assert!(all["region"] > 0 && all["far"] > 0, "{strategy}: {all:?}");
        assert!(!all.contains_key("zone"));
        assert_eq!(hub.circle_for(&INTERNAL), Some(Nearness::Elsewhere));
        assert!(hub.ready(&id("zone-2"), generation(1)));
        assert_eq!(circles(&mut hub, 90), [("zone".into(), 90)].into());
    }
}

#[test]
fn a_second_attempt_goes_farther_only_where_it_must() {
    let mut hub = spread(Strategy::RoundRobin);
    let mut tried = Vec::new();
    for expected in ["zone", "zone", "region", "region", "far", "far"] {
        let wanted = Wanted {
            exclude: &tried,
            ..INTERNAL
        };
        let pick = hub.pick(&wanted, 0, Instant::now()).unwrap();
        let node = pick.endpoint.node.clone();
        assert!(
            node.as_str().starts_with(expected),
            "{node} after {tried:?}"
        );
        tried.push(node);
    }
}

#[test]
fn who_has_a_key_or_is_named_or_ignores_it_is_not_held_back() {
    let mut hub = spread(Strategy::ConsistentHash);
    let mut used = BTreeMap::new();
    for key in 0..200 {
        let wanted = Wanted {
            key: Some(key),
            ..INTERNAL
        };
        let pick = hub.pick(&wanted, 0, Instant::now()).unwrap();
        *used.entry(pick.endpoint.node.clone()).or_insert(0) += 1;
    }
    assert_eq!(used.len(), 6, "{used:?}");
    assert_eq!(hub.circle_for(&INTERNAL), None);
    hub.set_strategy(Strategy::RoundRobin);
    let named = hub.pick(&INTERNAL.at("far-1"), 0, Instant::now()).unwrap();
    assert_eq!(named.endpoint.node, id("far-1"));
    hub.prefer_near(false);
    assert_eq!(circles(&mut hub, 90).len(), 3);
    // A node that says nothing of itself has nobody near.
    hub.prefer_near(true);
    hub.stand_at(Locality::default());
    assert_eq!(circles(&mut hub, 90).len(), 3);
}

#[test]
fn a_panic_about_health_is_none_about_nearness() {
    let mut hub = spread(Strategy::RoundRobin);
    let all: Vec<_> = hub.iter().cloned().collect();
    for endpoint in all {
        let mut endpoint = Endpoint::clone(&endpoint);
        endpoint.offer.health = Health::Suspect;
        let _ = up(&mut hub, endpoint);
    }
    assert_eq!(picks(&mut hub, 4), "zone-1 zone-2 zone-1 zone-2");
}

fn begin(hub: &mut Hub, count: u64) -> Vec<Pick> {
    let pick = |number: u64| {
        let random = number.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hub.pick(&INTERNAL, random, Instant::now()).unwrap()
    };
    (0..count).map(pick).collect()
}

#[test]
fn what_is_too_much_for_near_ones_goes_farther_and_no_more() {
    for strategy in BY_LOAD_OR_TURN {
        // One near, nine far: its share of all is a tenth.
        let mut hub = Hub::new(strategy);
        hub.stand_at(Locality::new("eu", "a").unwrap());
        let _ = up(&mut hub, at("near", "eu", "a"));
        for number in 0..9 {
            let _ = up(&mut hub, at(&format!("far-{number}"), "us", "a"));
        }
        let quiet = begin(&mut hub, NEAR_CROWD);
        assert!(quiet.iter().all(|call| call.endpoint.node == id("near")));
        assert_eq!(hub.counters().spilled_picks, 0);
        let more = begin(&mut hub, 2_000);
        let near = |calls: &[Pick]| {
            calls
                .iter()
                .filter(|it| it.endpoint.node == id("near"))
                .count()
        };
        let near = near(&quiet) + near(&more);
        let share = (quiet.len() + more.len()) / 10;
        let most = share * usize::try_from(NEAR_SHARES).unwrap();
        assert!(near <= most + 1, "{strategy}: {near} of {most}");
        assert!(near >= share, "{strategy}: {near}");
        assert!(hub.counters().spilled_picks > 1_000);
        drop((quiet, more));
        let after = begin(&mut hub, 1);
        assert_eq!(after[0].endpoint.node, id("near"));
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 300,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Wherever endpoints stand and however they are, a quiet call goes to the smallest circle of
    /// which half can take it.
    #[test]
    fn the_smallest_circle_that_can_is_picked_from(
        endpoints in vec((0..3_u8, any::<bool>()), 1..12),
        strategy in 0..4_usize,
        random: u64,
    ) {
        let mut hub = Hub::new(BY_LOAD_OR_TURN[strategy]);
        hub.stand_at(Locality::new("eu", "a").unwrap());
        let places = [("eu", "a"), ("eu", "b"), ("us", "a")];
        for (number, (circle, well)) in endpoints.iter().enumerate() {
            let (region, zone) = places[usize::from(*circle)];
            let mut endpoint = at(&number.to_string(), region, zone);
            if !well {
                endpoint.offer.health = Health::Unhealthy;
            }
            let _ = hub.up(Arc::new(endpoint), Instant::now());
        }
        let well_within = |circle: u8| {
            let within = endpoints.iter().filter(move |(it, _)| *it <= circle);
            let well = within.clone().filter(|(_, well)| *well).count();
            (well, within.count())
        };
        let expected = (0..2).find(|circle| {
            let (well, all) = well_within(*circle);
            well > 0 && well * 2 >= all
        });
        match hub.pick(&INTERNAL, random, Instant::now()) {
            Ok(pick) => {
                let number: usize = pick.endpoint.node.as_str().parse().unwrap();
                let (circle, well) = endpoints[number];
                prop_assert!(well);
                prop_assert!(circle <= expected.unwrap_or(2), "{:?}", expected);
            }
            Err(_) => prop_assert_eq!(well_within(2).0, 0),
        }
    }
}

//! Calls of services that are split between versions: each goes to its part, to the others where
//! nobody of it can take it, and to nobody who gets no calls.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sidelane_proto::model::{Split, SplitPart};

use super::{Strategy, *};
use crate::parts::{Course, part_of_call};

fn split(percents: &[u32], strict: bool) -> Split {
    let part = |(index, percent): (usize, &u32)| SplitPart {
        value: format!("v{index}").into(),
        percent: *percent,
        header: None,
    };
    Split {
        label: "version".into(),
        parts: percents.iter().enumerate().map(part).collect(),
        strict,
    }
}

fn of_version(node: &str, version: &str) -> Endpoint {
    let mut endpoint = endpoint(node);
    let labels = [("version".to_owned(), version.to_owned())];
    endpoint.offer.labels = BTreeMap::from(labels);
    endpoint
}

/// Nodes of these versions, `a` of `v0`, and one without a version.
fn hub_of_versions(split: &Split) -> Hub {
    let mut hub = hub_of(&["none"]);
    hub.set_split(Some(split));
    for (node, version) in [("a", "v0"), ("b", "v1"), ("c", "v1"), ("d", "v2")] {
        let _ = up(&mut hub, of_version(node, version));
    }
    hub
}

fn to(split: &Split, part: usize) -> Wanted<'static> {
    Wanted {
        course: Course::to(split, part),
        ..INTERNAL
    }
}

#[test]
fn a_call_goes_to_its_part_alone() {
    let split = split(&[50, 50, 0], false);
    let mut hub = hub_of_versions(&split);
    for strategy in [
        Strategy::RoundRobin,
        Strategy::Random,
        Strategy::LeastConnections,
        Strategy::ConsistentHash,
        Strategy::PeakEwma,
    ] {
        hub.set_strategy(strategy);
        for random in [0, 1 << 62, u64::MAX] {
            for (part, nodes) in [(0, "a"), (1, "bc"), (2, "d")] {
                let picked = hub.pick(&to(&split, part), random, Instant::now()).unwrap();
                let node = picked.endpoint.node.as_str();
                assert!(nodes.contains(node), "{strategy}: {node} for {nodes}");
            }
        }
    }
    let wanted = to(&split, 1);
    assert_eq!(unfit(&hub, &wanted, "b"), None);
    for other in ["a", "d", "none"] {
        assert_eq!(unfit(&hub, &wanted, other), Some(Unfit::OtherPart));
    }
    // Who names a node gets it, and a call without a part any.
    assert_eq!(pick(&mut hub, &wanted.at("none")).unwrap(), "none");
    assert_eq!(unfit(&hub, &INTERNAL, "none"), None);
}

#[test]
fn a_part_without_anybody_falls_to_those_that_get_calls() {
    let split = split(&[50, 50, 0], false);
    let mut hub = hub_of_versions(&split);
    let _ = up(&mut hub, {
        let mut ill = of_version("a", "v0");
        ill.offer.health = Health::Unhealthy;
        ill
    });
    for _ in 0..10 {
        let node = pick(&mut hub, &to(&split, 0)).unwrap();
        assert!(["b", "c"].contains(&node.as_str()), "{node}");
    }
    assert_eq!(unfit(&hub, &to(&split, 0), "b"), None);
    let (_, picks) = hub.split().unwrap();
    assert_eq!((picks.of[0], picks.of[1], picks.fell_over), (0, 10, 10));

    // Those of 0 percent and of no part are no way out.
    for node in ["b", "c"] {
        let _ = hub.down(&id(node), generation(1));
    }
    let error = pick(&mut hub, &to(&split, 0)).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("1 unhealthy, 2 of other parts of the split"),
        "{text}"
    );
    assert_eq!(pick(&mut hub, &to(&split, 2)).unwrap(), "d");
}

#[test]
fn a_strict_split_rather_fails() {
    let split = split(&[50, 50, 0], true);
    let mut hub = hub_of_versions(&split);
    let _ = hub.down(&id("a"), generation(1));
    assert!(pick(&mut hub, &to(&split, 0)).is_err());
    assert!(pick(&mut hub, &to(&split, 1)).is_ok());
}

#[test]
fn a_part_that_was_tried_through_falls_to_the_others() {
    let split = split(&[50, 50, 0], false);
    let mut hub = hub_of_versions(&split);
    let tried = [id("a")];
    let wanted = Wanted {
        exclude: &tried,
        ..to(&split, 0)
    };
    let node = pick(&mut hub, &wanted).unwrap();
    assert!(["b", "c"].contains(&node.as_str()), "{node}");
}

#[test]
fn endpoints_that_stand_are_told_apart_by_a_new_split() {
    let mut hub = hub_of_versions(&split(&[100], false));
    let moved = split(&[0, 100], false);
    hub.set_split(Some(&moved));
    assert_eq!(unfit(&hub, &to(&moved, 1), "c"), None);
    assert_eq!(unfit(&hub, &to(&moved, 1), "a"), Some(Unfit::OtherPart));
    assert_eq!(
        hub.split().unwrap().1,
        crate::balance::SplitPicks::default()
    );
    hub.set_split(None);
    assert!(hub.split().is_none());
    assert_eq!(unfit(&hub, &INTERNAL, "a"), None);
}

proptest! {
    /// A key stays in its version, and within it at its endpoint; each version has its share.
    #[test]
    fn keys_stay_in_their_version(first in 0_u32..=100) {
        let split = split(&[first, 100 - first], false);
        let mut hub = hub_of_versions(&split);
        hub.set_strategy(Strategy::ConsistentHash);
        let keys = 400_u64;
        let mut in_first = 0;
        for key in 0..keys {
            let key = crate::call::hash_key(&key.to_le_bytes());
            let (part, _) = part_of_call(&split, None, Some(key), 1);
            prop_assert_eq!(part_of_call(&split, None, Some(key), u64::MAX).0, part);
            let wanted = Wanted { key: Some(key), ..to(&split, part) };
            let node = pick(&mut hub, &wanted).unwrap();
            prop_assert_eq!(&pick(&mut hub, &wanted).unwrap(), &node);
            prop_assert_eq!(node == "a", part == 0);
            in_first += u64::from(part == 0);
        }
        let expected = keys * u64::from(first) / 100;
        // Five standard deviations of so many draws.
        prop_assert!(in_first.abs_diff(expected) <= 50, "{} of {}", in_first, expected);
    }
}

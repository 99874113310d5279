//! Who is picked for a call, and what a call is told that finds nobody.

use std::time::Instant;

use sidelane_proto::model::{ConnectionClass, Health, Lane, PeerAddress};

use super::super::{
    Counts, Departure, Down, Hub, NAMED_IN_ERRORS, PickError, Strategy, Unfit, Up, Wanted,
};
use super::{
    INTERNAL, endpoint, generation, hub_of, id, pick, picks, unfit, up, with_health, with_lane,
};

#[test]
fn empty_hub() {
    let mut hub = Hub::new(Strategy::RoundRobin);
    assert_eq!(pick(&mut hub, &INTERNAL), Err(PickError::Empty));
    assert_eq!(
        hub.peek(&INTERNAL, 0, Instant::now()).unwrap_err(),
        PickError::Empty
    );
    assert!(hub.candidates(&INTERNAL, Instant::now()).is_empty());
    let unknown = pick(&mut hub, &INTERNAL.at("a")).unwrap_err();
    assert_eq!(
        unknown.to_string(),
        "node `a` does not offer the service; no node does"
    );
}

#[test]
fn unknown_id() {
    let names: Vec<String> = (0..10).map(|number| format!("node-{number}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut hub = hub_of(&names);
    let error = pick(&mut hub, &INTERNAL.at("nobody")).unwrap_err();
    assert_eq!(
        error.to_string(),
        "node `nobody` does not offer the service; known: node-0, node-1, node-2, node-3, \
         node-4, node-5, node-6, node-7 and 2 more"
    );
    let PickError::UnknownNode { known, count, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((known.len(), count), (NAMED_IN_ERRORS, 10));
}

#[test]
fn a_named_node_is_picked_and_no_other_even_where_others_are_better() {
    let mut hub = hub_of(&["a", "b", "c"]);
    let now = Instant::now();
    assert!(hub.failed(&id("b"), generation(1), now));
    let suspect = with_health("c", Health::Suspect);
    assert_eq!(up(&mut hub, suspect), Up::Refreshed);
    let tried = [id("b")];
    let wanted = Wanted {
        exclude: &tried,
        ..INTERNAL
    };
    for node in ["b", "c", "b", "c"] {
        assert_eq!(pick(&mut hub, &wanted.at(node)).unwrap(), node);
    }
    assert_eq!(unfit(&hub, &INTERNAL.at("b"), "a"), Some(Unfit::NotNamed));
    assert_eq!(unfit(&hub, &INTERNAL.at("b"), "b"), None);
}

#[test]
fn a_named_node_moves_nobodys_turn() {
    let mut hub = hub_of(&["a", "b"]);
    for _ in 0..3 {
        assert_eq!(pick(&mut hub, &INTERNAL.at("a")).unwrap(), "a");
    }
    assert_eq!(picks(&mut hub, 3), "a b a");
}

#[test]
fn a_named_node_that_cannot_take_the_call_is_an_error_of_its_own() {
    let mut hub = hub_of(&["a"]);
    for endpoint in [
        with_health("drains", Health::Draining),
        with_health("ill", Health::Unhealthy),
        with_lane("other", Lane::GOSSIP),
        endpoint("left"),
    ] {
        assert_eq!(up(&mut hub, endpoint), Up::Added);
    }
    assert_eq!(hub.down(&id("left"), generation(1)), Down::Removed);
    let wanted = Wanted {
        agreement: Some((ConnectionClass::Internal, Lane::GENERAL, false)),
        ..INTERNAL
    };
    let gone = |node: &str, why| PickError::NodeGone {
        node: id(node),
        generation: generation(1),
        why,
    };
    assert_eq!(
        pick(&mut hub, &wanted.at("drains")),
        Err(gone("drains", Departure::Draining))
    );
    assert_eq!(
        pick(&mut hub, &wanted.at("left")),
        Err(gone("left", Departure::Left))
    );
    let counts = Counts {
        unhealthy: 1,
        ..Counts::default()
    };
    assert_eq!(
        pick(&mut hub, &wanted.at("ill")),
        Err(PickError::NoneHealthy {
            node: Some(id("ill")),
            counts,
        })
    );
    let mismatch = pick(&mut hub, &wanted.at("other")).unwrap_err();
    assert!(
        matches!(&mismatch, PickError::RulesMismatch { node, count: 1, .. } if *node == id("other")),
        "{mismatch}"
    );
    let external = Wanted::any(ConnectionClass::External).at("a");
    let no_address = pick(&mut hub, &external).unwrap_err();
    assert_eq!(
        no_address.to_string(),
        "the only endpoint in question was without an address of class External; start the \
         sidecar there with `--external`"
    );
}

#[test]
fn a_closed_channel_met_by_a_call_is_not_picked_again() {
    let mut hub = hub_of(&["a", "b", "c"]);
    assert_eq!(picks(&mut hub, 1), "a");
    assert!(hub.failed(&id("b"), generation(1), Instant::now()));
    assert!(!hub.failed(&id("b"), generation(1), Instant::now()));
    assert_eq!(hub.counters().closed_channels, 1);
    assert_eq!(picks(&mut hub, 4), "c a c a");
    assert_eq!(unfit(&hub, &INTERNAL, "b"), Some(Unfit::NotReady));

    // Control says the same as before: our own eyes know better.
    assert_eq!(up(&mut hub, endpoint("b")), Up::Refreshed);
    assert_eq!(picks(&mut hub, 2), "c a");

    assert!(hub.ready(&id("b"), generation(1)));
    assert!(!hub.ready(&id("b"), generation(1)));
    assert_eq!(picks(&mut hub, 4), "b c a b");
}

#[test]
fn a_killed_node_gets_nothing_while_others_live() {
    for nodes in [&["dead", "b"][..], &["dead", "b", "c"]] {
        let mut hub = hub_of(nodes);
        assert!(hub.failed(&id("dead"), generation(1), Instant::now()));
        let suspect = with_health("dead", Health::Suspect);
        assert_eq!(up(&mut hub, suspect), Up::Refreshed);
        for _ in 0..12 {
            assert_ne!(pick(&mut hub, &INTERNAL).unwrap(), "dead");
        }
    }
}

#[test]
fn closed_channels_are_the_last_resort_also_in_panic() {
    let mut hub = hub_of(&["a", "b", "c", "d"]);
    for node in ["b", "c", "d"] {
        assert!(hub.failed(&id(node), generation(1), Instant::now()));
    }
    assert_eq!(picks(&mut hub, 3), "a a a");
    assert!(hub.failed(&id("a"), generation(1), Instant::now()));
    assert_eq!(picks(&mut hub, 5), "b c d a b");
}

#[test]
fn panic_threshold_after_control_restart() {
    let names = ["a", "b", "c", "d"];
    let mut hub = hub_of(&names);
    for node in names {
        let suspect = with_health(node, Health::Suspect);
        assert_eq!(up(&mut hub, suspect), Up::Refreshed);
    }
    assert_eq!(picks(&mut hub, 8), "a b c d a b c d");
    assert_eq!(up(&mut hub, endpoint("c")), Up::Refreshed);
    assert_eq!(picks(&mut hub, 8), "a b c d a b c d");
    assert_eq!(unfit(&hub, &INTERNAL, "a"), None);

    // Half of them is enough.
    assert_eq!(up(&mut hub, endpoint("a")), Up::Refreshed);
    assert_eq!(picks(&mut hub, 4), "a c a c");
    assert_eq!(unfit(&hub, &INTERNAL, "b"), Some(Unfit::Suspect));
}

#[test]
fn what_was_tried_is_not_picked_and_worse_ones_are_tried_then() {
    let mut hub = hub_of(&["a", "b", "c", "ghost"]);
    assert_eq!(
        up(&mut hub, with_health("c", Health::Suspect)),
        Up::Refreshed
    );
    assert!(hub.failed(&id("ghost"), generation(1), Instant::now()));
    let mut tried = Vec::new();
    for expected in ["a", "b", "c", "ghost"] {
        let wanted = Wanted {
            exclude: &tried,
            ..INTERNAL
        };
        assert_eq!(pick(&mut hub, &wanted).unwrap(), expected);
        tried.push(id(expected));
    }
    assert_eq!(up(&mut hub, with_health("d", Health::Draining)), Up::Added);
    let wanted = Wanted {
        exclude: &tried,
        ..INTERNAL
    };
    let error = pick(&mut hub, &wanted).unwrap_err();
    assert_eq!(
        error.to_string(),
        "all 4 endpoints in question were tried by this call already; others that exist: \
         1 draining"
    );
    assert_eq!(unfit(&hub, &wanted, "a"), Some(Unfit::Tried));
}

#[test]
fn none_that_drains_or_is_unhealthy_is_picked() {
    let mut hub = Hub::new(Strategy::RoundRobin);
    for endpoint in [
        with_health("a", Health::Draining),
        with_health("b", Health::Unhealthy),
        with_health("c", Health::Unhealthy),
    ] {
        assert_eq!(up(&mut hub, endpoint), Up::Added);
    }
    let error = pick(&mut hub, &INTERNAL).unwrap_err();
    assert_eq!(
        error.to_string(),
        "no endpoint takes new calls (1 draining, 2 unhealthy); see `sidelane nodes`"
    );
    assert_eq!(unfit(&hub, &INTERNAL, "a"), Some(Unfit::Draining));
    assert_eq!(up(&mut hub, endpoint("d")), Up::Added);
    assert_eq!(picks(&mut hub, 3), "d d d");
}

#[test]
fn strategy_none_with_two_endpoints() {
    let mut hub = hub_of(&["a"]);
    hub.set_strategy(Strategy::None);
    assert_eq!(picks(&mut hub, 2), "a a");
    assert_eq!(up(&mut hub, endpoint("b")), Up::Added);
    let error = pick(&mut hub, &INTERNAL).unwrap_err();
    assert_eq!(
        error.to_string(),
        "2 endpoints and strategy NONE: the call must name its node in `sidelane-node`, \
         such as a, b"
    );
    assert_eq!(unfit(&hub, &INTERNAL, "a"), Some(Unfit::MustBeNamed));
    assert_eq!(pick(&mut hub, &INTERNAL.at("b")).unwrap(), "b");

    // A handover: the one that is about to leave is not meant.
    assert_eq!(
        up(&mut hub, with_health("a", Health::Draining)),
        Up::Refreshed
    );
    assert_eq!(picks(&mut hub, 2), "b b");
}

#[test]
fn rules_mismatch() {
    let mut hub = Hub::new(Strategy::RoundRobin);
    for endpoint in [with_lane("bulk", Lane::BIFROST_DATA), endpoint("silent")] {
        assert_eq!(up(&mut hub, endpoint), Up::Added);
    }
    let wanted = Wanted {
        agreement: Some((ConnectionClass::Internal, Lane::GENERAL, false)),
        ..INTERNAL
    };
    for _ in 0..3 {
        assert_eq!(pick(&mut hub, &wanted).unwrap(), "silent");
    }
    assert_eq!(unfit(&hub, &wanted, "bulk"), Some(Unfit::OtherRule));
    assert_eq!(hub.down(&id("silent"), generation(1)), Down::Removed);
    assert_eq!(
        pick(&mut hub, &wanted).unwrap_err().to_string(),
        "the only endpoint in question was compiled with another rule, such as `bulk` with \
         class Internal, lane `bifrost_data`, not secure (orders.proto:12), here it is class \
         Internal, lane `general`, not secure; build both sides from the same .proto"
    );
    // A caller without a rule of its own has nothing to disagree with.
    assert_eq!(pick(&mut hub, &INTERNAL).unwrap(), "bulk");
    assert_eq!(up(&mut hub, with_lane("same", Lane::GENERAL)), Up::Added);
    assert_eq!(pick(&mut hub, &wanted).unwrap(), "same");
}

#[test]
fn an_endpoint_needs_an_address_of_the_class() {
    let mut hub = hub_of(&["inside"]);
    let mut both = endpoint("both");
    both.addresses.external = Some(PeerAddress::new("192.0.2.1:15443").unwrap());
    assert_eq!(up(&mut hub, both), Up::Added);
    let external = Wanted::any(ConnectionClass::External);
    for _ in 0..3 {
        assert_eq!(pick(&mut hub, &external).unwrap(), "both");
    }
    assert_eq!(unfit(&hub, &external, "inside"), Some(Unfit::NoAddress));
    assert_eq!(hub.down(&id("both"), generation(1)), Down::Removed);
    let class = ConnectionClass::External;
    assert_eq!(
        pick(&mut hub, &external),
        Err(PickError::NoAddress { class, count: 1 })
    );
}

#[test]
fn random_gives_each_the_same_share_and_passes_over_what_was_tried() {
    let names = ["a", "b", "c", "d", "e", "f"];
    let mut hub = hub_of(&names);
    hub.set_strategy(Strategy::Random);
    // Two kinds, so that an index has to cross from one to the next.
    for node in ["b", "e"] {
        let lane = with_lane(node, Lane::GENERAL);
        assert_eq!(up(&mut hub, lane), Up::Refreshed);
    }
    for tried in [
        vec![],
        vec![id("b")],
        vec![id("f"), id("a"), id("e"), id("a")],
    ] {
        let wanted = Wanted {
            exclude: &tried,
            ..INTERNAL
        };
        let left: Vec<&str> = names
            .into_iter()
            .filter(|it| !tried.contains(&id(it)))
            .collect();
        let count = u64::try_from(left.len()).unwrap();
        let mut picked: Vec<String> = (0..count)
            .map(|part| part * (u64::MAX / count) + u64::MAX / (2 * count))
            .map(|random| hub.pick(&wanted, random, Instant::now()).unwrap())
            .map(|pick| pick.endpoint.node.as_str().to_owned())
            .collect();
        picked.sort_unstable();
        assert_eq!(picked, left);
        for random in [0, u64::MAX] {
            assert!(hub.peek(&wanted, random, Instant::now()).is_ok());
        }
    }
}

//! Who is in the hub, and what their coming and going does to the turns of others.

use std::sync::Arc;
use std::time::Instant;

use sidelane_proto::model::{Endpoint, Health};

use super::super::departed::DEPARTED_LIMIT;
use super::super::{Departure, Down, Gone, Hub, PickError, Strategy, Up};
use super::{
    INTERNAL, endpoint, generation, hub_of, id, identity, pick, picks, unfit, up, with_generation,
    with_health, with_identity,
};

#[test]
fn late_down_of_a_replaced_generation_changes_nothing() {
    let mut hub = hub_of(&["a", "b"]);
    let old = generation(1);
    assert_eq!(up(&mut hub, with_generation("a", 2)), Up::Replaced { old });
    assert_eq!(hub.down(&id("a"), old), Down::Stale);
    assert_eq!(hub.len(), 2);
    assert_eq!(hub.get("a").unwrap().generation, generation(2));
    assert_eq!(picks(&mut hub, 4), "a b a b");
    assert_eq!(hub.counters().stale_downs, 1);

    assert_eq!(hub.down(&id("a"), generation(2)), Down::Removed);
    assert_eq!(hub.down(&id("a"), generation(2)), Down::Unknown);
    assert_eq!(picks(&mut hub, 2), "b b");
}

#[test]
fn an_older_generation_is_ignored_and_counted() {
    let mut hub = Hub::new(Strategy::RoundRobin);
    assert_eq!(up(&mut hub, with_generation("a", 5)), Up::Added);
    assert_eq!(up(&mut hub, with_generation("a", 4)), Up::Stale);
    assert_eq!(hub.get("a").unwrap().generation, generation(5));
    assert_eq!(hub.counters().stale_ups, 1);
}

#[test]
fn duplicate_up_keeps_the_turn() {
    let mut hub = hub_of(&["a", "b", "c"]);
    assert_eq!(picks(&mut hub, 1), "a");
    for node in ["a", "b", "a"] {
        assert_eq!(up(&mut hub, endpoint(node)), Up::Refreshed);
    }
    assert_eq!(hub.len(), 3);
    assert_eq!(picks(&mut hub, 5), "b c a b c");
}

#[test]
fn removal_below_the_cursor_skips_nobody() {
    let mut hub = hub_of(&["a", "b", "c", "d"]);
    assert_eq!(picks(&mut hub, 2), "a b");
    assert_eq!(hub.down(&id("a"), generation(1)), Down::Removed);
    assert_eq!(picks(&mut hub, 3), "c d b");
    assert_eq!(hub.down(&id("d"), generation(1)), Down::Removed);
    assert_eq!(picks(&mut hub, 4), "c b c b");
}

#[test]
fn an_addition_repeats_nobody() {
    let mut hub = hub_of(&["a", "b", "c"]);
    assert_eq!(picks(&mut hub, 1), "a");
    assert_eq!(up(&mut hub, endpoint("0")), Up::Added);
    assert_eq!(picks(&mut hub, 8), "b c a 0 b c a 0");
}

#[test]
fn a_peer_that_registers_anew_at_each_pick_takes_only_its_turn() {
    let mut hub = hub_of(&["a", "b", "peer"]);
    for round in 0..20 {
        for expected in ["a", "b", "peer"] {
            let number = hub.get("peer").unwrap().generation.number();
            let outcome = up(&mut hub, with_generation("peer", number + 1));
            let old = generation(number);
            assert_eq!(outcome, Up::Replaced { old });
            assert_eq!(
                pick(&mut hub, &INTERNAL).unwrap(),
                expected,
                "round {round}"
            );
        }
    }
}

#[test]
fn a_peer_that_leaves_and_returns_at_each_pick_takes_only_its_turn() {
    let mut hub = hub_of(&["a", "peer", "b"]);
    for round in 1..20 {
        for expected in ["a", "peer", "b"] {
            let number = hub.get("peer").unwrap().generation;
            assert_eq!(hub.down(&id("peer"), number), Down::Removed);
            let next = with_generation("peer", number.number() + 1);
            assert_eq!(up(&mut hub, next), Up::Added);
            assert_eq!(
                pick(&mut hub, &INTERNAL).unwrap(),
                expected,
                "round {round}"
            );
        }
    }
}

#[test]
fn newcomers_without_end_starve_nobody() {
    let mut hub = hub_of(&["a", "b"]);
    let mut picked = Vec::new();
    for number in 0..60 {
        let newcomer = format!("newcomer-{number}");
        assert_eq!(up(&mut hub, endpoint(&newcomer)), Up::Added);
        let node = pick(&mut hub, &INTERNAL).unwrap();
        if node.starts_with("newcomer") {
            assert_eq!(hub.down(&id(&node), generation(1)), Down::Removed);
        }
        picked.push(node);
    }
    // Newcomer n joined right before pick n. Whoever is picked between two picks of `a` was there
    // at the first of them: nobody gets ahead of it later.
    let turns: Vec<usize> = (0..60).filter(|turn| picked[*turn] == "a").collect();
    assert!(turns.len() >= 5, "{picked:?}");
    for pair in turns.windows(2) {
        for node in &picked[pair[0] + 1..pair[1]] {
            let joined = node.strip_prefix("newcomer-").map(|it| it.parse().unwrap());
            assert!(
                joined.is_none_or(|joined: usize| joined <= pair[0]),
                "{picked:?}"
            );
        }
    }
}

#[test]
fn identity_refused() {
    let mut hub = Hub::new(Strategy::RoundRobin);
    assert_eq!(up(&mut hub, with_identity("a", "orders")), Up::Added);
    let stranger = Endpoint {
        generation: generation(9),
        ..with_identity("a", "stranger")
    };
    let nobody = with_generation("a", 9);
    for endpoint in [stranger, nobody] {
        let held = identity("orders");
        assert_eq!(up(&mut hub, endpoint), Up::IdentityRefused { held });
    }
    assert_eq!(hub.get("a").unwrap().identity, Some(identity("orders")));
    assert_eq!(hub.get("a").unwrap().generation, generation(1));
    assert_eq!(hub.counters().identity_refusals, 2);

    // Once it has left, the id is free.
    assert_eq!(hub.down(&id("a"), generation(1)), Down::Removed);
    assert_eq!(up(&mut hub, with_identity("a", "stranger")), Up::Added);
}

#[test]
fn a_node_without_identity_may_get_one() {
    let mut hub = hub_of(&["a"]);
    assert_eq!(up(&mut hub, with_identity("a", "orders")), Up::Refreshed);
    assert_eq!(hub.get("a").unwrap().identity, Some(identity("orders")));
}

#[test]
fn a_whole_state_adds_renews_and_removes() {
    let mut hub = hub_of(&["a", "b", "c", "d"]);
    assert_eq!(picks(&mut hub, 1), "a");
    let state = [
        with_generation("e", 1),
        with_generation("c", 2),
        with_generation("b", 1),
    ];
    let state = state.map(Arc::new);
    let mut gone = hub.reconcile(&state, Instant::now());
    gone.sort_by(|left, right| left.node.cmp(&right.node));
    let all_first = ["a", "c", "d"].map(|node| Gone {
        node: id(node),
        generation: generation(1),
    });
    assert_eq!(gone, all_first);
    assert_eq!(picks(&mut hub, 6), "b c e b c e");
    assert_eq!(
        pick(&mut hub, &INTERNAL.at("d")),
        Err(PickError::NodeGone {
            node: id("d"),
            generation: generation(1),
            why: Departure::Missing,
        })
    );
    assert_eq!(hub.reconcile(&state, Instant::now()), []);
    assert_eq!(hub.reconcile(&[], Instant::now()).len(), 3);
    assert!(hub.is_empty());
}

#[test]
fn a_whole_state_keeps_a_newer_generation_that_the_node_itself_told() {
    let mut hub = hub_of(&["a"]);
    let (one, two, three) = (generation(1), generation(2), generation(3));
    let now = Instant::now();
    assert!(hub.learned(&id("a"), one, three, now));
    // Control is behind: it still names the one from before.
    assert_eq!(hub.reconcile(&[Arc::new(endpoint("a"))], now), []);
    assert_eq!(hub.get("a").unwrap().generation, three);
    // It names another than then: it has news, whatever its number.
    let news = Arc::new(with_generation("a", 2));
    let gone = hub.reconcile(&[news], now);
    assert_eq!(gone.len(), 1);
    assert_eq!(gone[0].generation, three);
    assert_eq!(hub.get("a").unwrap().generation, two);
}

#[test]
fn a_whole_state_may_name_an_older_generation() {
    let mut hub = hub_of(&["b"]);
    let two = generation(2);
    assert!(matches!(
        up(&mut hub, with_generation("b", 2)),
        Up::Replaced { .. }
    ));
    let gone = hub.reconcile(&[Arc::new(endpoint("b"))], Instant::now());
    assert_eq!(gone.len(), 1);
    assert_eq!(gone[0].generation, two);
    assert_eq!(hub.get("b").unwrap().generation, generation(1));
}

#[test]
fn a_whole_state_may_give_an_id_to_another_identity() {
    let mut hub = Hub::new(Strategy::RoundRobin);
    assert_eq!(up(&mut hub, with_identity("a", "orders")), Up::Added);
    let moved = with_identity("a", "orders-new");
    let gone = hub.reconcile(&[Arc::new(moved)], Instant::now());
    assert_eq!(gone.len(), 1);
    assert_eq!(hub.get("a").unwrap().identity, Some(identity("orders-new")));
    assert_eq!(hub.counters().identity_refusals, 0);
}

#[test]
fn a_new_generation_is_ready_and_counts_its_own_calls() {
    let mut hub = hub_of(&["a"]);
    let now = Instant::now();
    let first = hub.pick(&INTERNAL, 0, now).unwrap();
    assert!(hub.failed(&id("a"), generation(1), now));
    let old = generation(1);
    assert_eq!(up(&mut hub, with_generation("a", 2)), Up::Replaced { old });
    let second = hub.pick(&INTERNAL, 0, now).unwrap();
    assert_eq!((first.in_flight.count(), second.in_flight.count()), (1, 1));
    let candidate = &hub.candidates(&INTERNAL, Instant::now())[0];
    assert_eq!((candidate.in_flight, candidate.closed_since), (1, None));
    assert_eq!(candidate.last_picked, Some(now));
    drop(second);
    assert_eq!(hub.candidates(&INTERNAL, Instant::now())[0].in_flight, 0);
    assert_eq!(first.in_flight.count(), 1);

    // News of the old generation's channel is no news of the new one's.
    assert!(!hub.failed(&id("a"), generation(1), now));
    assert_eq!(unfit(&hub, &INTERNAL, "a"), None);
}

#[test]
fn the_departed_are_remembered_up_to_a_bound() {
    let mut hub = Hub::new(Strategy::RoundRobin);
    for number in 0..=DEPARTED_LIMIT {
        let node = format!("node-{number}");
        assert_eq!(up(&mut hub, endpoint(&node)), Up::Added);
        assert_eq!(hub.down(&id(&node), generation(1)), Down::Removed);
    }
    let first = pick(&mut hub, &INTERNAL.at("node-0")).unwrap_err();
    assert!(matches!(first, PickError::UnknownNode { .. }), "{first}");
    for node in ["node-1", &format!("node-{DEPARTED_LIMIT}")] {
        let gone = pick(&mut hub, &INTERNAL.at(node)).unwrap_err();
        assert!(matches!(gone, PickError::NodeGone { .. }), "{gone}");
    }
    // One that comes and goes again and again takes no more than one of these places, and counts
    // as the last to have left.
    for _ in 0..DEPARTED_LIMIT {
        assert_eq!(up(&mut hub, endpoint("node-9")), Up::Added);
        assert_eq!(hub.down(&id("node-9"), generation(1)), Down::Removed);
    }
    let remembered = |hub: &mut Hub, node: &str| {
        let error = pick(hub, &INTERNAL.at(node)).unwrap_err();
        matches!(error, PickError::NodeGone { .. })
    };
    assert!(remembered(&mut hub, "node-1"));
    for number in 0..20 {
        let node = format!("later-{number}");
        assert_eq!(up(&mut hub, endpoint(&node)), Up::Added);
        assert_eq!(hub.down(&id(&node), generation(1)), Down::Removed);
    }
    let nodes = ["node-1", "node-21", "node-22", "node-9", "later-0"];
    let known = nodes.map(|node| remembered(&mut hub, node));
    assert_eq!(known, [false, false, true, true, true]);
}

#[test]
fn a_change_of_strategy_keeps_endpoints_and_turns() {
    let mut hub = hub_of(&["a", "b", "c"]);
    assert_eq!(picks(&mut hub, 1), "a");
    hub.set_strategy(Strategy::None);
    assert!(pick(&mut hub, &INTERNAL).is_err());
    hub.set_strategy(Strategy::RoundRobin);
    assert_eq!(picks(&mut hub, 3), "b c a");
}

#[test]
fn health_that_changes_in_place_moves_no_turn() {
    let mut hub = hub_of(&["a", "b", "c"]);
    assert_eq!(picks(&mut hub, 1), "a");
    let unhealthy = with_health("b", Health::Unhealthy);
    assert_eq!(up(&mut hub, unhealthy), Up::Refreshed);
    assert_eq!(picks(&mut hub, 3), "c a c");
    assert_eq!(up(&mut hub, endpoint("b")), Up::Refreshed);
    assert_eq!(picks(&mut hub, 4), "b a c b");
}

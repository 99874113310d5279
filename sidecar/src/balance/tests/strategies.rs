//! What each strategy does: keys stay and move as little as they may, the least busy and the
//! quickest are found, and a project's own strategy is asked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use proptest::prelude::*;
use sidelane_proto::model::{LoadBalancing, Rule, ServiceName, Validation};

use super::super::latency::{DECAY, FLOOR, Latency};
use super::super::{
    CROWD, CallFacts, Choice, Down, FAILURE, FEW, Hub, OwnStrategy, Pick, PickError, Strategies,
    Strategy, StrategyNameError, Wanted,
};
use super::{INTERNAL, endpoint, generation, hub_of, id, pick, picks, up, with_lane};

const MILLISECOND: Duration = Duration::from_millis(1);

fn hub_with(strategy: Strategy, count: usize) -> Hub {
    let mut hub = Hub::new(strategy);
    for number in 0..count {
        let _ = up(&mut hub, endpoint(&format!("node-{number}")));
    }
    hub
}

fn with_key(key: u64) -> Wanted<'static> {
    Wanted {
        key: Some(key),
        ..INTERNAL
    }
}

/// The node of each of so many keys.
fn nodes_of_keys(hub: &mut Hub, keys: u64) -> BTreeMap<u64, String> {
    let node = |key: u64| (key, pick(hub, &with_key(key)).unwrap());
    (0..keys).map(node).collect()
}

fn begin(hub: &mut Hub, node: &str) -> Pick {
    hub.pick(&INTERNAL.at(node), 0, Instant::now()).unwrap()
}

#[test]
fn every_strategy_that_a_rule_can_name_is_the_one_that_serves_it() {
    for named in [
        LoadBalancing::RoundRobin,
        LoadBalancing::LeastConnections,
        LoadBalancing::ConsistentHash,
        LoadBalancing::Random,
        LoadBalancing::None,
        LoadBalancing::PeakEwma,
    ] {
        assert_eq!(Strategy::of(Some(named)).name(), named.name());
    }
    assert_eq!(Strategy::of(None), Strategy::PeakEwma);
    assert_eq!(Strategy::default(), Strategy::PeakEwma);
}

#[test]
fn a_call_may_be_picked_for_in_another_way_than_the_hubs() {
    let mut hub = hub_of(&["a", "b", "c"]);
    let keyed = Wanted {
        strategy: Some(Strategy::ConsistentHash),
        ..with_key(7)
    };
    let first = pick(&mut hub, &keyed).unwrap();
    for _ in 0..10 {
        assert_eq!(pick(&mut hub, &keyed).unwrap(), first);
    }
    assert_eq!(hub.strategy(), Strategy::RoundRobin);
    let single = Wanted {
        strategy: Some(Strategy::None),
        ..INTERNAL
    };
    let error = pick(&mut hub, &single).unwrap_err();
    assert!(matches!(error, PickError::MustNameNode { count: 3, .. }));
}

#[test]
fn one_key_goes_to_one_endpoint_whatever_else_happens_at_the_hub() {
    let mut hub = hub_with(Strategy::ConsistentHash, 5);
    let before = nodes_of_keys(&mut hub, 200);
    let used: BTreeSet<&String> = before.values().collect();
    assert_eq!(used.len(), 5, "every endpoint has keys");
    // Other calls, another rule, another generation: the key's endpoint is the same.
    for _ in 0..50 {
        drop(begin(&mut hub, "node-3"));
    }
    let newer = super::with_generation("node-1", 2);
    let _ = up(&mut hub, newer);
    assert_eq!(nodes_of_keys(&mut hub, 200), before);
    // Another sidecar heard of them in another order.
    let mut other = Hub::new(Strategy::ConsistentHash);
    for number in [4, 2, 0, 1, 3] {
        let _ = up(&mut other, endpoint(&format!("node-{number}")));
    }
    assert_eq!(nodes_of_keys(&mut other, 200), before);
}

#[test]
fn a_call_without_a_key_goes_by_its_caller_and_is_counted() {
    let mut hub = hub_with(Strategy::ConsistentHash, 8);
    let mut used = BTreeSet::new();
    for number in 0..40 {
        let caller = format!("caller-{number}");
        let wanted = Wanted {
            caller: &caller,
            ..INTERNAL
        };
        let node = pick(&mut hub, &wanted).unwrap();
        assert_eq!(pick(&mut hub, &wanted).unwrap(), node);
        used.insert(node);
    }
    assert!(used.len() > 4, "callers differ: {used:?}");
    assert_eq!(hub.counters().keyless_picks, 80);
    assert!(pick(&mut hub, &with_key(1)).is_ok());
    assert_eq!(hub.counters().keyless_picks, 80);
}

#[test]
fn a_keys_endpoint_that_fails_hands_its_keys_over_and_gets_them_back() {
    let mut hub = hub_with(Strategy::ConsistentHash, 4);
    let before = nodes_of_keys(&mut hub, 100);
    assert!(hub.failed(&id("node-2"), generation(1), Instant::now()));
    for (key, node) in nodes_of_keys(&mut hub, 100) {
        assert_ne!(node, "node-2");
        assert!(node == before[&key] || before[&key] == "node-2");
    }
    // An attempt elsewhere goes where the key goes once its endpoint is gone.
    assert!(hub.ready(&id("node-2"), generation(1)));
    for key in (0..100).filter(|key| before[key] == "node-2") {
        let tried = [id("node-2")];
        let again = Wanted {
            exclude: &tried,
            ..with_key(key)
        };
        assert_ne!(pick(&mut hub, &again).unwrap(), "node-2");
    }
    assert_eq!(nodes_of_keys(&mut hub, 100), before);
}

#[test]
fn a_key_leaves_its_endpoint_only_when_a_crowd_is_there() {
    let mut hub = hub_with(Strategy::ConsistentHash, 4);
    let home = pick(&mut hub, &with_key(7)).unwrap();
    let now = Instant::now();
    let begin = |hub: &mut Hub| {
        let pick = hub.pick(&with_key(7), 0, now).unwrap();
        (pick.endpoint.node.as_str().to_owned(), pick)
    };
    let mut calls = Vec::new();
    for _ in 0..CROWD {
        let (node, call) = begin(&mut hub);
        assert_eq!(node, home);
        calls.push(call);
    }
    let mut nodes: BTreeMap<String, u64> = BTreeMap::new();
    for _ in 0..3 * CROWD {
        let (node, call) = begin(&mut hub);
        *nodes.entry(node).or_default() += 1;
        calls.push(call);
    }
    // A quarter above the mean at most, and nobody is idle beside a crowd.
    assert_eq!(nodes.len(), 4, "{nodes:?}");
    let most = hub.candidates(&INTERNAL, now).into_iter();
    let most = most.map(|candidate| candidate.in_flight).max().unwrap();
    assert!(most <= (4 * CROWD * 5).div_ceil(16), "{most}");
    drop(calls);
    assert_eq!(pick(&mut hub, &with_key(7)).unwrap(), home);
}

#[test]
fn no_endpoint_has_a_quarter_more_keys_than_its_share() {
    for count in [2, 3, 5, 10, 30, 100] {
        let mut hub = hub_with(Strategy::ConsistentHash, count);
        let keys = 2_000 * u64::try_from(count).unwrap();
        let mut shares: BTreeMap<String, u64> = BTreeMap::new();
        for node in nodes_of_keys(&mut hub, keys).into_values() {
            *shares.entry(node).or_default() += 1;
        }
        assert_eq!(shares.len(), count);
        let most = shares.values().max().unwrap();
        assert!(*most <= 2_500, "{most} of {keys} keys at one of {count}");
    }
}

#[test]
fn the_least_busy_of_a_few_is_picked_and_equals_take_turns() {
    let mut hub = hub_of(&["a", "b", "c"]);
    hub.set_strategy(Strategy::LeastConnections);
    let mut calls = vec![begin(&mut hub, "a"), begin(&mut hub, "a")];
    calls.push(begin(&mut hub, "b"));
    for expected in ["c", "b", "c"] {
        let call = hub.pick(&INTERNAL, 0, Instant::now()).unwrap();
        assert_eq!(call.endpoint.node, id(expected));
        calls.push(call);
    }
    calls.clear();
    let four = picks(&mut hub, 6);
    let mut nodes: Vec<&str> = four.split(' ').collect();
    nodes[..3].sort_unstable();
    nodes[3..].sort_unstable();
    assert_eq!(nodes, ["a", "b", "c", "a", "b", "c"]);
}

#[test]
fn among_many_the_less_busy_of_two_is_picked() {
    let mut hub = hub_with(Strategy::LeastConnections, FEW + 4);
    let busy: Vec<Pick> = (0..FEW + 3)
        .map(|number| begin(&mut hub, &format!("node-{number}")))
        .collect();
    let mut free = 0;
    for random in 0..1_000_u64 {
        let random = random.wrapping_mul(u64::MAX / 1_000);
        let node = hub.peek(&INTERNAL, random, Instant::now()).unwrap();
        free += usize::from(node.node == id("node-19"));
    }
    // It is one of the two in a tenth of all pairs, and whenever it is, it is picked.
    assert!((70..=130).contains(&free), "{free} of 1,000");
    drop(busy);
}

#[test]
fn an_estimate_rises_at_once_and_decays() {
    let start = Instant::now();
    let mut latency = Latency::default();
    assert_eq!(latency.at(start), None);
    latency.answered(10 * MILLISECOND, start);
    assert_eq!(latency.at(start), Some(10 * MILLISECOND));
    latency.answered(50 * MILLISECOND, start);
    assert_eq!(latency.at(start), Some(50 * MILLISECOND));
    // Quick answers pull it down slowly, time alone does, too.
    latency.answered(10 * MILLISECOND, start + DECAY / 10);
    let after = latency.at(start + DECAY / 10).unwrap();
    assert!(after > 45 * MILLISECOND && after < 47 * MILLISECOND);
    let later = latency.at(start + DECAY / 10 + DECAY).unwrap();
    assert!(later > after / 3 && later < after * 2 / 5);
    assert_eq!(latency.at(start + 100 * DECAY), Some(FLOOR));
    // A clock that goes backwards changes nothing.
    assert_eq!(latency.at(start), Some(after));
}

#[test]
fn a_failure_is_a_slow_answer_and_giving_up_is_no_quick_one() {
    let start = Instant::now();
    let mut latency = Latency::default();
    latency.answered(MILLISECOND, start);
    latency.given_up(MILLISECOND / 2, start);
    assert_eq!(latency.at(start), Some(MILLISECOND));
    latency.given_up(7 * MILLISECOND, start);
    assert_eq!(latency.at(start), Some(7 * MILLISECOND));
    latency.failed(Duration::ZERO, start);
    assert_eq!(latency.at(start), Some(FAILURE));
    latency.failed(3 * FAILURE, start);
    assert_eq!(latency.at(start), Some(3 * FAILURE));
}

#[test]
fn the_quicker_of_two_is_picked_until_it_is_busier() {
    let now = Instant::now();
    let mut hub = hub_of(&["quick", "slow"]);
    hub.set_strategy(Strategy::PeakEwma);
    for (node, latency) in [("quick", MILLISECOND), ("slow", 10 * MILLISECOND)] {
        begin(&mut hub, node).in_flight.answered(latency, now);
    }
    let mut calls = Vec::new();
    for random in 0..9 {
        let call = hub.pick(&INTERNAL, random, now).unwrap();
        assert_eq!(call.endpoint.node, id("quick"));
        calls.push(call);
    }
    // Nine calls there: a tenth would take as long as one at the other, a further one longer.
    calls.push(hub.pick(&INTERNAL, 0, now).unwrap());
    calls.push(hub.pick(&INTERNAL, 0, now).unwrap());
    assert!(calls.iter().any(|call| call.endpoint.node == id("slow")));
    drop(calls);
    let candidates = hub.candidates(&INTERNAL, now);
    let latency = |node: &str| {
        let mut all = candidates.iter();
        all.find(|it| it.endpoint.node == id(node)).unwrap().latency
    };
    assert_eq!(latency("slow"), Some(10 * MILLISECOND));
    // The quick one fails once, and is left alone until that is forgotten.
    begin(&mut hub, "quick").in_flight.failed(MILLISECOND, now);
    assert_eq!(hub.peek(&INTERNAL, 0, now).unwrap().node, id("slow"));
    begin(&mut hub, "slow")
        .in_flight
        .answered(10 * MILLISECOND, now + 6 * DECAY);
    let later = hub.peek(&INTERNAL, 0, now + 6 * DECAY).unwrap();
    assert_eq!(later.node, id("quick"));
}

#[test]
fn a_newcomer_is_neither_flooded_nor_left_out() {
    let now = Instant::now();
    let mut hub = hub_of(&["old"]);
    hub.set_strategy(Strategy::PeakEwma);
    begin(&mut hub, "old").in_flight.answered(MILLISECOND, now);
    let _ = up(&mut hub, endpoint("new"));
    let calls: Vec<Pick> = (0..20)
        .map(|random| hub.pick(&INTERNAL, random, now).unwrap())
        .collect();
    let new = calls.iter().filter(|call| call.endpoint.node == id("new"));
    assert_eq!(new.count(), 10);
}

/// Goes to the endpoint with the greatest weight; a key of 13 asks for an index that there is not.
struct Heaviest;

impl OwnStrategy for Heaviest {
    fn choose(&self, choices: &[Choice<'_>], call: &CallFacts) -> Option<usize> {
        match call.key {
            Some(13) => return Some(choices.len()),
            Some(14) => return None,
            _ => {}
        }
        let names = choices.iter().map(|choice| &choice.endpoint.node);
        assert!(names.is_sorted());
        let weight = |index: &usize| choices[*index].endpoint.offer.weight;
        (0..choices.len()).max_by_key(weight)
    }
}

fn own_strategies() -> Strategies {
    let mut strategies = Strategies::default();
    strategies.add("heaviest", Heaviest).unwrap();
    strategies
}

fn rule_naming(strategy: &'static str) -> Rule {
    let service = ServiceName::new("shop.v1.Orders").unwrap();
    Rule {
        strategy: Some(strategy.into()),
        origin: "orders.proto:12".into(),
        ..Rule::default_for(&service)
    }
}

#[test]
fn a_strategy_of_ones_own_chooses_among_those_that_can_take_the_call() {
    let strategy = own_strategies().of(&rule_naming("heaviest")).unwrap();
    assert_eq!(strategy.to_string(), "heaviest");
    let mut hub = Hub::new(strategy);
    for (node, weight) in [("b", 500), ("a", 20), ("c", 900), ("d", 10)] {
        let mut endpoint = endpoint(node);
        endpoint.offer.weight = weight;
        let _ = up(&mut hub, endpoint);
    }
    assert_eq!(picks(&mut hub, 3), "c c c");
    assert!(hub.failed(&id("c"), generation(1), Instant::now()));
    assert_eq!(picks(&mut hub, 3), "b b b");
    let texts = [13, 14].map(|key| pick(&mut hub, &with_key(key)).unwrap_err().to_string());
    assert_eq!(
        texts[0],
        "strategy `heaviest`, which is this project's own, chose none of 3 endpoints (it \
         answered index 3)"
    );
    assert!(texts[1].ends_with("(it answered `None`)"), "{}", texts[1]);
}

#[test]
fn a_rule_that_names_an_unknown_strategy_is_refused() {
    let strategies = own_strategies();
    assert!(strategies.check(&rule_naming("heaviest")).is_ok());
    let error = strategies.check(&rule_naming("heavist")).unwrap_err();
    assert_eq!(error.path, "load_balancing_custom");
    assert_eq!(
        error.problem.to_string(),
        "`heavist` is not a known strategy of this sidecar; did you mean `heaviest`? (known are heaviest)"
    );
    let error = Strategies::default().check(&rule_naming("heaviest"));
    assert_eq!(
        error.unwrap_err().problem.to_string(),
        "`heaviest` is not a known strategy of this sidecar, which was built with none of its own"
    );
    // Where others offer such a rule, their service is served all the same.
    let (strategy, unknown) = strategies.serving(&rule_naming("lightest"));
    assert_eq!((strategy, unknown.is_some()), (Strategy::PeakEwma, true));
}

#[test]
fn names_of_strategies_are_those_that_rules_can_say_and_each_is_one() {
    let mut strategies = own_strategies();
    for bad in ["", "Heaviest", "two words", "ümlaut", &"x".repeat(1_000)] {
        let error = strategies.add(bad, Heaviest).unwrap_err();
        assert_eq!(error, StrategyNameError::Malformed(bad.to_owned()));
    }
    let error = strategies.add("heaviest", Heaviest).unwrap_err();
    assert_eq!(error.to_string(), "strategy `heaviest` is named twice");
    assert_eq!(strategies.names().collect::<Vec<_>>(), ["heaviest"]);
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: 24,
        failure_persistence: None,
        ..ProptestConfig::default()
    })]

    /// Only the keys of the one who leaves move, and these are a quarter more than its share at
    /// most; whoever comes takes keys from others and moves none between them.
    #[test]
    fn keys_move_as_little_as_they_may(
        names in prop::collection::btree_set("[a-z]{1,8}(-[0-9]{1,3})?", 2..40),
        chosen in any::<prop::sample::Index>(),
        kinds in any::<u64>(),
    ) {
        let names: Vec<String> = names.into_iter().collect();
        let mut hub = Hub::new(Strategy::ConsistentHash);
        for (number, name) in names.iter().enumerate() {
            // Two kinds: rings are kept for each.
            let endpoint = match kinds >> (number % 64) & 1 {
                0 => endpoint(name),
                _ => with_lane(name, sidelane_proto::model::Lane::GENERAL),
            };
            let _ = hub.up(Arc::new(endpoint), Instant::now());
        }
        let keys = 1_000 * u64::try_from(names.len()).unwrap();
        let before = nodes_of_keys(&mut hub, keys);
        let leaver = &names[chosen.index(names.len())];
        prop_assert_eq!(hub.down(&id(leaver), generation(1)), Down::Removed);
        let after = nodes_of_keys(&mut hub, keys);
        let mut moved = 0;
        for (key, node) in &before {
            prop_assert!(node == leaver || after[key] == *node);
            moved += u32::from(node == leaver);
        }
        prop_assert!(moved <= 1_250, "{} of {} keys", moved, keys);
        let _ = hub.up(Arc::new(endpoint(leaver)), Instant::now());
        prop_assert_eq!(nodes_of_keys(&mut hub, keys), before);
    }

    /// Whatever calls of a few keys come and end: past a crowd, nobody is given one more while a
    /// quarter busier than the mean.
    #[test]
    fn no_key_makes_its_endpoint_a_quarter_busier_than_the_mean(
        count in 2..6_usize,
        steps in prop::collection::vec(
            (0..8_u8, 0..3_u64, any::<prop::sample::Index>()),
            1_000..2_500,
        ),
    ) {
        let mut hub = hub_with(Strategy::ConsistentHash, count);
        let (now, endpoints) = (Instant::now(), u64::try_from(count).unwrap());
        let (mut calls, mut crowded): (Vec<Pick>, bool) = (Vec::new(), false);
        for (what, key, which) in steps {
            if what == 0 && !calls.is_empty() {
                calls.swap_remove(which.index(calls.len()));
                continue;
            }
            let all = u64::try_from(calls.len()).unwrap() + 1;
            let pick = hub.pick(&with_key(key), 0, now).unwrap();
            let before = pick.in_flight.count() - 1;
            crowded |= before >= CROWD;
            prop_assert!(
                before < CROWD || before * 4 * endpoints < all * 5,
                "{} of {} at one of {}", before, all, endpoints
            );
            calls.push(pick);
        }
        prop_assert!(crowded, "it was not tried");
    }

    /// Whatever runs where: nobody who can take the call has fewer calls than the one picked.
    #[test]
    fn nobody_is_less_busy_than_the_least_busy(
        running in prop::collection::vec(0..6_usize, 1..FEW),
        random in any::<u64>(),
    ) {
        let mut hub = hub_with(Strategy::LeastConnections, running.len());
        let mut calls = Vec::new();
        for (number, count) in running.iter().enumerate() {
            for _ in 0..*count {
                calls.push(begin(&mut hub, &format!("node-{number}")));
            }
        }
        let picked = hub.pick(&INTERNAL, random, Instant::now()).unwrap();
        let least = running.iter().min().unwrap();
        prop_assert_eq!(picked.in_flight.count(), u64::try_from(*least).unwrap() + 1);
    }

    /// An estimate is never above the slowest answer, and never rises by waiting.
    #[test]
    fn estimates_lie_within_what_was_seen(
        answers in prop::collection::vec((1..5_000_u64, 0..20_000_u64), 1..40),
    ) {
        let mut now = Instant::now();
        let mut latency = Latency::default();
        let mut slowest = FLOOR;
        for (answer, wait) in answers {
            let answer = Duration::from_millis(answer);
            slowest = slowest.max(answer);
            latency.answered(answer, now);
            let expected = latency.at(now).unwrap();
            prop_assert!(expected >= answer && expected <= slowest);
            now += Duration::from_millis(wait);
            prop_assert!(latency.at(now).unwrap() <= expected);
        }
    }
}

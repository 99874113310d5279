//! Any sequence of events: the hub does what the model does, and its rounds are exact.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use proptest::collection::vec;
use proptest::prelude::*;
use proptest::strategy::Strategy as Generator;
use sidelane_proto::model::{
    Addresses, ConnectionClass, Endpoint, Health, Lane, NodeId, PeerAddress,
};

use super::super::{Departure, Hub, Pick, Strategy, Up, Wanted};
use super::model::{Model, Refusal};
use super::{INTERNAL, generation, id, identity, with_lane};

/// Few nodes and generations, so that events meet.
const NODES: [&str; 7] = ["a", "b", "c", "d", "e", "f", "g"];

#[derive(Debug, Clone)]
enum Event {
    Up(Endpoint),
    Down(NodeId, u64),
    Failed(NodeId, u64),
    Ready(NodeId, u64),
    Reconcile(Vec<Endpoint>),
    Strategy(Strategy),
    Pick(Call),
    /// One of the calls in flight ends.
    End(usize),
}

#[derive(Debug, Clone)]
struct Call {
    node: Option<&'static str>,
    class: ConnectionClass,
    lane: Option<Lane>,
    exclude: Vec<NodeId>,
    random: u64,
    key: Option<u64>,
}

impl Call {
    fn wanted(&self) -> Wanted<'_> {
        Wanted {
            node: self.node,
            class: self.class,
            agreement: self
                .lane
                .map(|lane| (ConnectionClass::Internal, lane, false)),
            exclude: &self.exclude,
            key: self.key,
            ..INTERNAL
        }
    }
}

fn any_node() -> impl Generator<Value = NodeId> {
    (0..NODES.len()).prop_map(|index| id(NODES[index]))
}

fn any_endpoint() -> impl Generator<Value = Endpoint> {
    let health = prop_oneof![
        6 => Just(Health::Healthy),
        3 => Just(Health::Suspect),
        1 => Just(Health::Draining),
        1 => Just(Health::Unhealthy),
    ];
    let lane = prop_oneof![
        4 => Just(None),
        3 => Just(Some(Lane::GENERAL)),
        1 => Just(Some(Lane::GOSSIP)),
    ];
    let account = prop_oneof![
        8 => Just(Some("orders")),
        1 => Just(Some("stranger")),
        1 => Just(None),
    ];
    let addresses = prop_oneof![
        5 => Just((true, true)),
        2 => Just((true, false)),
        1 => Just((false, true)),
    ];
    (any_node(), 1..4_u64, health, lane, account, addresses).prop_map(
        |(node, number, health, lane, account, (internal, external))| {
            let mut endpoint = with_lane(node.as_str(), lane.unwrap_or(Lane::GENERAL));
            if lane.is_none() {
                endpoint.offer.rule = None;
            }
            endpoint.generation = generation(number);
            endpoint.offer.health = health;
            endpoint.identity = account.map(identity);
            let address = |it: bool| it.then(|| PeerAddress::new("10.0.0.7:15006").unwrap());
            endpoint.addresses = Addresses {
                internal: address(internal),
                external: address(external),
                own: Vec::new(),
            };
            endpoint
        },
    )
}

fn any_call() -> impl Generator<Value = Call> {
    let node = prop_oneof![
        5 => Just(None),
        1 => (0..NODES.len()).prop_map(|index| Some(NODES[index])),
    ];
    let class = prop_oneof![
        4 => Just(ConnectionClass::Internal),
        1 => Just(ConnectionClass::External),
    ];
    let lane = prop_oneof![
        3 => Just(None),
        3 => Just(Some(Lane::GENERAL)),
        1 => Just(Some(Lane::GOSSIP)),
    ];
    let exclude = prop_oneof![
        4 => vec(any_node(), 0..1),
        1 => vec(any_node(), 1..4),
    ];
    let chance = (any::<u64>(), any::<Option<u64>>());
    (node, class, lane, exclude, chance).prop_map(|(node, class, lane, exclude, (random, key))| {
        Call {
            node,
            class,
            lane,
            exclude,
            random,
            key,
        }
    })
}

fn any_event() -> impl Generator<Value = Event> {
    let strategy = prop_oneof![
        4 => Just(Strategy::RoundRobin),
        1 => Just(Strategy::Random),
        1 => Just(Strategy::LeastConnections),
        1 => Just(Strategy::ConsistentHash),
        1 => Just(Strategy::PeakEwma),
        1 => Just(Strategy::None),
    ];
    prop_oneof![
        12 => any_endpoint().prop_map(Event::Up),
        4 => (any_node(), 1..4_u64).prop_map(|(node, number)| Event::Down(node, number)),
        4 => (any_node(), 1..4_u64).prop_map(|(node, number)| Event::Failed(node, number)),
        4 => (any_node(), 1..4_u64).prop_map(|(node, number)| Event::Ready(node, number)),
        1 => vec(any_endpoint(), 0..8).prop_map(|all| Event::Reconcile(one_each(all))),
        1 => strategy.prop_map(Event::Strategy),
        30 => any_call().prop_map(Event::Pick),
        8 => any::<usize>().prop_map(Event::End),
    ]
}

/// A whole state names each node once.
fn one_each(mut endpoints: Vec<Endpoint>) -> Vec<Endpoint> {
    let mut seen = BTreeSet::new();
    endpoints.retain(|endpoint| seen.insert(endpoint.node.clone()));
    endpoints
}

/// The hub, the model beside it, and the calls in flight with the life that each went to.
struct Both {
    hub: Hub,
    model: Model,
    calls: Vec<(u64, Pick)>,
    now: Instant,
}

impl Both {
    fn apply(&mut self, event: Event) {
        let Self {
            hub, model, now, ..
        } = self;
        match event {
            Event::Up(endpoint) => {
                let outcome = hub.up(Arc::new(endpoint.clone()), *now);
                assert_eq!(outcome, model.up(endpoint));
            }
            Event::Down(node, number) => {
                let number = generation(number);
                let expected = model.down(node.as_str(), number, Departure::Left);
                assert_eq!(hub.down(&node, number), expected);
            }
            Event::Failed(node, number) => {
                let number = generation(number);
                let expected = model.set_closed(node.as_str(), number, true);
                assert_eq!(hub.failed(&node, number, *now), expected);
            }
            Event::Ready(node, number) => {
                let number = generation(number);
                let expected = model.set_closed(node.as_str(), number, false);
                assert_eq!(hub.ready(&node, number), expected);
            }
            Event::Reconcile(state) => {
                let shared: Vec<_> = state.iter().cloned().map(Arc::new).collect();
                let gone = hub.reconcile(&shared, *now).into_iter();
                let mut gone: Vec<_> = gone
                    .map(|gone| (gone.node.as_str().to_owned(), gone.generation))
                    .collect();
                gone.sort_unstable();
                assert_eq!(gone, model.reconcile(&state));
            }
            Event::Strategy(strategy) => {
                hub.set_strategy(strategy);
                model.strategy = strategy;
            }
            Event::Pick(call) => self.pick(&call),
            Event::End(index) if !self.calls.is_empty() => {
                let index = index % self.calls.len();
                self.calls.swap_remove(index);
            }
            Event::End(_) => {}
        }
    }

    fn pick(&mut self, call: &Call) {
        let wanted = call.wanted();
        let expected = self.model.eligible(&wanted);
        let open: BTreeSet<String> = self
            .hub
            .candidates(&wanted, self.now)
            .into_iter()
            .filter(|candidate| candidate.unfit.is_none())
            .map(|candidate| candidate.endpoint.node.as_str().to_owned())
            .collect();
        let peeked = self.hub.peek(&wanted, call.random, self.now);
        let picked = self.hub.pick(&wanted, call.random, self.now);
        match (picked, expected) {
            (Ok(pick), Ok(line)) => {
                let node = pick.endpoint.node.as_str();
                assert!(Arc::ptr_eq(&pick.endpoint, &peeked.unwrap()));
                assert_eq!(open, line.iter().cloned().collect());
                let in_turn = matches!(self.model.strategy, Strategy::RoundRobin | Strategy::None);
                if wanted.node.is_none() && !in_turn {
                    assert!(
                        line.iter().any(|it| it == node),
                        "{node} is not in {line:?}"
                    );
                } else {
                    assert_eq!(node, line[0]);
                }
                if wanted.node.is_none() {
                    self.model.pass(node);
                }
                self.calls.push((self.model.live[node].life, pick));
            }
            (Err(error), Err(refusal)) => {
                assert_eq!(Refusal::from(&error), refusal);
                assert_eq!(error, peeked.unwrap_err());
                assert_eq!(open, BTreeSet::new());
            }
            (picked, expected) => panic!("the hub says {picked:?}, the model {expected:?}"),
        }
    }

    /// What holds after every event.
    fn check(&self) {
        let held: BTreeMap<&str, &Arc<Endpoint>> = self
            .hub
            .iter()
            .map(|endpoint| (endpoint.node.as_str(), endpoint))
            .collect();
        assert_eq!(held.len(), self.hub.len(), "a node is in the hub twice");
        assert_eq!(held.len(), self.model.live.len());
        for (node, live) in &self.model.live {
            assert_eq!(**held[node.as_str()], live.endpoint);
            assert_eq!(self.hub.get(node).map(Arc::as_ref), Some(&live.endpoint));
        }
        let counted: usize = self.hub.rotation.kinds().map(|(_, count)| count).sum();
        assert_eq!(counted, held.len());
        for candidate in self.hub.candidates(&INTERNAL, self.now) {
            let live = &self.model.live[candidate.endpoint.node.as_str()];
            let calls = self.calls.iter().filter(|(life, _)| *life == live.life);
            assert_eq!(usize::try_from(candidate.in_flight), Ok(calls.count()));
            assert_eq!(candidate.closed_since.is_some(), live.closed);
        }
    }
}

fn config() -> ProptestConfig {
    ProptestConfig {
        cases: 400,
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config())]

    #[test]
    fn the_hub_does_what_the_model_does(events in vec(any_event(), 1..150)) {
        let mut both = Both {
            hub: Hub::new(Strategy::RoundRobin),
            model: Model::new(Strategy::RoundRobin),
            calls: Vec::new(),
            now: Instant::now(),
        };
        for event in events {
            both.apply(event);
            both.check();
        }
        both.calls.clear();
        both.check();
    }

    /// Between two picks of an endpoint each other one is picked exactly once, if both were
    /// eligible all that time. This is told from the outcome alone, without the model.
    #[test]
    fn rounds_are_exact_for_whoever_stays_eligible(
        events in vec(any_event(), 1..200),
        settled in vec(any_endpoint(), 3..7),
    ) {
        let mut hub = Hub::new(Strategy::RoundRobin);
        let now = Instant::now();
        let mut history: Vec<(String, BTreeSet<String>)> = Vec::new();
        for endpoint in one_each(settled) {
            prop_assert_eq!(hub.up(Arc::new(endpoint), now), Up::Added);
        }
        for event in events {
            match event {
                Event::Up(endpoint) => {
                    let _ = hub.up(Arc::new(endpoint), now);
                }
                Event::Down(node, number) => {
                    let _ = hub.down(&node, generation(number));
                }
                Event::Failed(node, number) => {
                    hub.failed(&node, generation(number), now);
                }
                Event::Ready(node, number) => {
                    hub.ready(&node, generation(number));
                }
                Event::Reconcile(state) => {
                    let state: Vec<_> = state.into_iter().map(Arc::new).collect();
                    hub.reconcile(&state, now);
                }
                Event::Pick(call) => {
                    let wanted = call.wanted();
                    let candidates = hub.candidates(&wanted, now).into_iter();
                    let open = candidates
                        .filter(|candidate| candidate.unfit.is_none())
                        .map(|candidate| candidate.endpoint.node.as_str().to_owned())
                        .collect();
                    if let Ok(pick) = hub.pick(&wanted, call.random, now)
                        && wanted.node.is_none()
                    {
                        history.push((pick.endpoint.node.as_str().to_owned(), open));
                    }
                }
                Event::Strategy(_) | Event::End(_) => {}
            }
        }
        check_rounds(&history)?;
    }
}

fn check_rounds(history: &[(String, BTreeSet<String>)]) -> Result<(), TestCaseError> {
    for (first, (node, _)) in history.iter().enumerate() {
        let later = &history[first + 1..];
        let Some(length) = later.iter().position(|(picked, _)| picked == node) else {
            continue;
        };
        let window = &history[first..=first + 1 + length];
        let stayed = |other: &str| window.iter().all(|(_, open)| open.contains(other));
        if !stayed(node) {
            continue;
        }
        for other in NODES.iter().filter(|other| *other != node && stayed(other)) {
            let between = later[..length].iter();
            let count = between.filter(|(picked, _)| picked == other).count();
            prop_assert_eq!(count, 1, "{} between two picks of {}", other, node);
        }
    }
    Ok(())
}

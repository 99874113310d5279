//! Merging: what counts, what is ignored, what is refused, and that deltas add up to the whole.

use proptest::prelude::*;

use super::*;

fn holding(endpoints: Vec<Endpoint>) -> Held {
    let mut held = Held::default();
    held.apply(full(10, vec![state(&orders(), endpoints)]))
        .unwrap();
    held
}

fn nodes(held: &Held, service: &ServiceName) -> Vec<(String, u64)> {
    let endpoints = &held.service(service).unwrap().endpoints;
    let pair = |endpoint: &Endpoint| (endpoint.node.to_string(), endpoint.generation.number());
    endpoints.iter().map(pair).collect()
}

#[test]
fn a_change_names_what_is_new_and_nothing_else() {
    let stock = service("shop.v1.Stock");
    let mut held = holding(vec![endpoint(&orders(), "a", 1)]);
    let change = held
        .apply(Update {
            services: vec![state(&stock, vec![])],
            upserts: vec![endpoint(&orders(), "a", 1)],
            ..update(11)
        })
        .unwrap();
    assert_eq!(change.version, version(11));
    assert_eq!(change.services, [Arc::new(state(&stock, vec![]))]);
    assert_eq!(change.dropped, []);
    assert_eq!(held.version(), Some(&version(11)));
}

#[test]
fn a_full_update_drops_what_it_does_not_name() {
    let stock = service("shop.v1.Stock");
    let mut held = holding(vec![endpoint(&orders(), "a", 1)]);
    let change = held.apply(full(11, vec![state(&stock, vec![])])).unwrap();
    assert_eq!(change.dropped, [orders()]);
    assert!(held.service(&orders()).is_none());
    assert!(held.service(&stock).is_some());
}

#[test]
fn a_newer_generation_replaces_an_older_one_is_ignored() {
    let mut held = holding(vec![endpoint(&orders(), "a", 5)]);
    let upsert = |held: &mut Held, counter, generation| {
        let upserts = vec![endpoint(&orders(), "a", generation)];
        held.apply(Update {
            upserts,
            ..update(counter)
        })
        .unwrap()
    };
    assert!(upsert(&mut held, 11, 4).services.is_empty());
    assert_eq!(nodes(&held, &orders()), [("a".to_owned(), 5)]);
    assert_eq!(upsert(&mut held, 12, 6).services.len(), 1);
    assert_eq!(nodes(&held, &orders()), [("a".to_owned(), 6)]);
}

#[test]
fn a_removal_counts_for_its_generation_only_and_the_service_stays_known() {
    let mut held = holding(vec![endpoint(&orders(), "a", 5)]);
    let remove = |held: &mut Held, counter, generation| {
        let removals = vec![removal(&orders(), "a", generation)];
        held.apply(Update {
            removals,
            ..update(counter)
        })
        .unwrap()
    };
    assert!(remove(&mut held, 11, 4).services.is_empty());
    assert!(remove(&mut held, 12, 6).services.is_empty());
    let change = remove(&mut held, 13, 5);
    assert_eq!(change.services, [Arc::new(state(&orders(), vec![]))]);
    assert!(held.service(&orders()).unwrap().ever_seen);
}

#[test]
fn a_late_removal_of_a_replaced_generation_in_one_update_changes_nothing() {
    let mut held = holding(vec![endpoint(&orders(), "a", 5)]);
    held.apply(Update {
        upserts: vec![endpoint(&orders(), "a", 6)],
        removals: vec![removal(&orders(), "a", 5)],
        ..update(11)
    })
    .unwrap();
    assert_eq!(nodes(&held, &orders()), [("a".to_owned(), 6)]);
}

#[test]
fn what_cannot_be_is_refused_with_its_field_and_changes_nothing() {
    let foreign = |update: Update| Update {
        version: Version {
            store: "other".into(),
            counter: 99,
        },
        ..update
    };
    let twice = vec![state(&orders(), vec![]), state(&orders(), vec![])];
    let crowd = (0..=held::ENDPOINTS_LIMIT)
        .map(|number| endpoint(&orders(), &format!("n{number}"), 1))
        .collect();
    let cases = [
        (
            update(9),
            "version.counter contradicts another field: 9 is older than 10, which is held",
        ),
        (
            full(9, vec![]),
            "version.counter contradicts another field: 9 is older than 10, which is held",
        ),
        (
            foreign(update(0)),
            "version.store_id contradicts another field: `other` is not the store of what is \
             held, `store`, and the update is not full",
        ),
        (
            Update {
                services: twice,
                upserts: vec![endpoint(&orders(), "new", 1)],
                ..update(11)
            },
            "services[1].service `shop.v1.Orders` is named twice",
        ),
        (
            Update {
                upserts: vec![endpoint(&orders(), "new", 7)],
                removals: vec![removal(&orders(), "a", 5), removal(&orders(), "new", 7)],
                ..update(11)
            },
            "removals[1].generation contradicts another field: generation 7 of `new` is also in \
             upserts",
        ),
        (
            Update {
                upserts: crowd,
                ..update(11)
            },
            "upserts has 100002 entries, at most 100000 are allowed",
        ),
    ];
    let mut held = holding(vec![endpoint(&orders(), "a", 5)]);
    let before = held.clone();
    for (update, expected) in cases {
        let error = held.apply(update).unwrap_err();
        assert_eq!(error.to_string(), expected);
        assert_eq!(held, before, "{expected}");
    }
    // A foreign store begins anew, also with a smaller counter.
    let mut anew = foreign(full(0, vec![]));
    anew.version.counter = 1;
    held.apply(anew).unwrap();
    assert_eq!(held.version().unwrap().to_string(), "1@other");
}

#[test]
fn a_store_that_lost_versions_begins_anew_with_a_stream_and_never_within_one() {
    let mut held = holding(vec![endpoint(&orders(), "a", 1)]);
    held.resume([]);
    assert!(held.apply(update(8)).is_err());
    held.apply(full(8, vec![])).unwrap();
    assert_eq!(held.version(), Some(&version(8)));
    assert_eq!(held.whole_since(), Some(&version(8)));
    assert_eq!(held.services().len(), 0);
    assert!(held.apply(full(7, vec![])).is_err());
}

#[test]
fn what_is_left_out_does_not_come_in_by_any_door() {
    let stock = service("shop.v1.Stock");
    let mut held = holding(vec![]);
    let change = held
        .apply_taking(
            Update {
                services: vec![state(&stock, vec![endpoint(&stock, "a", 1)])],
                upserts: vec![endpoint(&stock, "b", 1), endpoint(&orders(), "b", 1)],
                removals: vec![removal(&stock, "c", 1)],
                ..update(11)
            },
            |service, _| *service == orders(),
            |_| true,
        )
        .unwrap();
    assert_eq!(change.services.len(), 1);
    assert!(held.service(&stock).is_none());
}

#[test]
fn forgotten_services_are_named_once() {
    let mut held = holding(vec![]);
    let change = held.forget([&orders(), &service("a.B")]).unwrap();
    assert_eq!(change.dropped, [orders()]);
    assert_eq!(held.forget([&orders()]), None);
}

/// What happens in a mesh.
#[derive(Debug, Clone)]
enum Event {
    Up(usize, usize, u64, u32),
    Down(usize, usize),
}

fn any_event() -> impl Strategy<Value = Event> {
    prop_oneof![
        3 => (0..3_usize, 0..4_usize, 1..6_u64, 1..4_u32)
            .prop_map(|(service, node, generation, weight)| Event::Up(service, node, generation, weight)),
        1 => (0..3_usize, 0..4_usize).prop_map(|(service, node)| Event::Down(service, node)),
    ]
}

/// The truth, as control has it.
#[derive(Debug, Clone, Default)]
struct Truth {
    services: BTreeMap<ServiceName, BTreeMap<String, Endpoint>>,
    /// Of each node of each service: control takes nobody in below the highest ever seen.
    highest: BTreeMap<(usize, usize), u64>,
}

impl Truth {
    fn happen(&mut self, event: &Event) {
        match *event {
            Event::Up(index, number, generation, weight) => {
                let service = service(&format!("s.S{index}"));
                let node = format!("n{number}");
                let mut new = endpoint(&service, &node, generation);
                new.offer.weight = weight;
                let highest = self.highest.entry((index, number)).or_default();
                let nodes = self.services.entry(service).or_default();
                if *highest <= generation {
                    *highest = generation;
                    nodes.insert(node, new);
                }
            }
            Event::Down(index, number) => {
                let service = service(&format!("s.S{index}"));
                if let Some(nodes) = self.services.get_mut(&service) {
                    nodes.remove(&format!("n{number}"));
                }
            }
        }
    }

    fn whole(&self, counter: u64) -> Update {
        let states = self.services.iter();
        let states = states.map(|(name, nodes)| state(name, nodes.values().cloned().collect()));
        full(counter, states.collect())
    }

    /// What changed since `before`; services in `restated` come as whole states.
    fn since(&self, before: &Self, counter: u64, restated: usize) -> Update {
        let mut delta = update(counter);
        for (index, (name, nodes)) in self.services.iter().enumerate() {
            let old = before.services.get(name);
            if index == restated || old.is_none() {
                let endpoints = nodes.values().cloned().collect();
                delta.services.push(state(name, endpoints));
                continue;
            }
            let old = old.unwrap();
            let is_new = |(node, new): &(&String, &Endpoint)| old.get(*node) != Some(*new);
            let new = nodes.iter().filter(is_new).map(|(_, new)| new.clone());
            delta.upserts.extend(new);
            let gone = old.iter().filter(|(node, _)| !nodes.contains_key(*node));
            delta.removals.extend(
                gone.map(|(node, endpoint)| removal(name, node, endpoint.generation.number())),
            );
        }
        delta
    }
}

fn spoil(update: &mut Update, how: usize) {
    let stated = state(&orders(), vec![]);
    match how {
        0 => update.version.counter = 0,
        1 => update.version.store = "other".into(),
        2 => update.services.extend([stated.clone(), stated]),
        _ => {
            update.upserts.push(endpoint(&orders(), "x", 3));
            update.removals.push(removal(&orders(), "x", 3));
        }
    }
}

proptest! {
    #[test]
    fn deltas_add_up_to_the_whole_and_what_is_refused_leaves_no_trace(
        steps in prop::collection::vec((prop::collection::vec(any_event(), 0..5), 0..6_usize, 0..4_usize), 1..20)
    ) {
        let mut truth = Truth::default();
        let mut held = Held::default();
        held.apply(truth.whole(1)).unwrap();
        let mut seen: BTreeMap<ServiceName, Arc<ServiceState>> = BTreeMap::new();
        for (counter, (events, restated, how)) in (2..).zip(steps) {
            let before = truth.clone();
            for event in &events {
                truth.happen(event);
            }
            let delta = truth.since(&before, counter, restated);
            let mut bad = delta.clone();
            spoil(&mut bad, how);
            let untouched = held.clone();
            prop_assert!(held.apply(bad).is_err());
            prop_assert_eq!(&held, &untouched);

            let change = held.apply(delta).unwrap();
            for state in change.services {
                seen.insert(state.service.clone(), state);
            }
            let mut whole = Held::default();
            whole.apply(truth.whole(counter)).unwrap();
            prop_assert_eq!(&held, &whole);
            // Whoever follows the changes sees the same as whoever reads everything.
            prop_assert!(held.services().eq(seen.values()));
            // To be told again changes nothing.
            let again = held.apply(truth.whole(counter)).unwrap();
            prop_assert!(again.services.is_empty() && again.dropped.is_empty());
        }
    }
}

//! Whatever happens in whatever order, everybody ends up with the same picture; and whoever
//! follows the deltas has what is in the snapshot.

use std::collections::BTreeMap;

use proptest::prelude::*;
use sidelane_proto::model::{Endpoint, Health, NodeId, ServiceName};

use super::*;
use crate::registry::fixtures::{
    generation, key, network, offer, record, removal, service, upsert,
};
use crate::registry::snapshot::CHANGES_LIMIT;
use crate::registry::{Presence, Stamp};

fn start() -> Snapshot {
    Snapshot::start("store".into(), 1, [])
}

/// Publishes these changes as one version.
fn publish(editor: &mut Editor, current: &Snapshot, changes: &[Change]) -> Snapshot {
    for change in changes {
        editor.take(change.clone());
    }
    let edition = editor.finish(current);
    edition
        .next
        .map_or_else(|| current.clone(), |(next, _)| next)
}

type Picture = BTreeMap<(ServiceName, NodeId), Endpoint>;

fn picture(snapshot: &Snapshot) -> Picture {
    let network = network();
    let services = snapshot.services(&network);
    services
        .flat_map(|(name, view)| {
            let endpoints = view.endpoints();
            endpoints.map(|e| ((name.clone(), e.node.clone()), Endpoint::clone(e)))
        })
        .collect()
}

fn seen(snapshot: &Snapshot) -> Vec<ServiceName> {
    let network = network();
    let mut names: Vec<_> = snapshot
        .services(&network)
        .map(|(name, _)| name.clone())
        .collect();
    names.sort();
    names
}

/// Follows a service as a sidecar does: upserts of an older generation and removals of another one
/// than is held change nothing.
fn follow(held: &mut Picture, snapshot: &Snapshot, name: &ServiceName, since: u64) {
    let Some(delta) = snapshot.delta(&network(), name, since) else {
        held.retain(|(service, _), _| service != name);
        let whole = picture(snapshot);
        held.extend(
            whole
                .into_iter()
                .filter(|((service, _), _)| service == name),
        );
        return;
    };
    for removal in delta.removals {
        let key = (name.clone(), removal.node);
        if held
            .get(&key)
            .is_some_and(|endpoint| endpoint.generation == removal.generation)
        {
            held.remove(&key);
        }
    }
    for endpoint in delta.upserts {
        let key = (name.clone(), endpoint.node.clone());
        if held
            .get(&key)
            .is_none_or(|known| known.generation <= endpoint.generation)
        {
            held.insert(key, Endpoint::clone(&endpoint));
        }
    }
}

const SERVICES: [&str; 3] = ["a.A", "b.B", "c.C"];

prop_compose! {
    /// Something that one of two sources says of one of four nodes. The revision makes each saying
    /// of a source different from all its others, as the sources do.
    fn any_change(revision: u64)(
        node in 0_u8..4,
        registered: bool,
        number in 1_u64..4,
        services in prop::option::of(prop::sample::subsequence(SERVICES.to_vec(), 0..=3)),
        suspect: bool,
        draining: bool,
    ) -> Change {
        let name = format!("node-{node}");
        let record = services.map(|services| Arc::new(NodeRecord {
            generation: generation(number),
            presence: if suspect { Presence::Suspect } else { Presence::Present },
            draining,
            ..record(&name, &services)
        }));
        Change {
            origin: if registered { Origin::Registration } else { Origin::Fixed },
            key: key(&name),
            stamp: Stamp { generation: generation(number), revision },
            record,
        }
    }
}

fn any_changes() -> impl Strategy<Value = Vec<Change>> {
    (0_usize..40).prop_flat_map(|count| (0..count as u64).map(any_change).collect::<Vec<_>>())
}

proptest! {
    #[test]
    fn any_order_and_any_batches_end_in_the_same_snapshot(
        (changes, shuffled) in any_changes()
            .prop_flat_map(|changes| (Just(changes.clone()), Just(changes).prop_shuffle())),
        batch in 1_usize..10,
    ) {
        let mut one_by_one = start();
        let mut editor = Editor::default();
        for change in changes {
            one_by_one = publish(&mut editor, &one_by_one, &[change]);
        }
        let mut in_batches = start();
        let mut editor = Editor::default();
        for changes in shuffled.chunks(batch) {
            in_batches = publish(&mut editor, &in_batches, changes);
        }
        prop_assert_eq!(picture(&one_by_one), picture(&in_batches));
        prop_assert_eq!(seen(&one_by_one), seen(&in_batches));
    }

    #[test]
    fn deltas_applied_to_a_snapshot_equal_the_later_snapshot(
        changes in any_changes(),
        batch in 1_usize..5,
        looks in prop::collection::vec(any::<bool>(), 40),
    ) {
        let mut current = start();
        let mut editor = Editor::default();
        let (mut held, mut since) = (picture(&current), current.counter());
        for (changes, look) in changes.chunks(batch).zip(looks) {
            current = publish(&mut editor, &current, changes);
            if look {
                for name in SERVICES {
                    follow(&mut held, &current, &service(name), since);
                }
                since = current.counter();
                prop_assert_eq!(&held, &picture(&current));
            }
        }
    }

    #[test]
    fn what_must_survive_adds_up_to_what_registration_said(
        changes in any_changes(),
        batch in 1_usize..10,
    ) {
        let mut current = start();
        let mut editor = Editor::default();
        let mut stored: BTreeMap<NodeKey, Arc<NodeRecord>> = BTreeMap::new();
        let mut highest: BTreeMap<NodeKey, Generation> = BTreeMap::new();
        for changes in changes.chunks(batch) {
            for change in changes {
                editor.take(change.clone());
            }
            let Edition { next, batch } = editor.finish(&current);
            current = next.map_or(current, |(next, _)| next);
            for (key, record) in batch.nodes {
                match record {
                    Some(record) => { stored.insert(key, record); }
                    None => { stored.remove(&key); }
                }
            }
            for (key, generation) in batch.generations {
                let known = highest.entry(key).or_insert(generation);
                *known = generation.max(*known);
            }
        }
        for (origin, record) in editor.merge().nodes() {
            let stored = stored.remove(&record.key);
            match origin {
                Origin::Registration => prop_assert!(stored.unwrap().is_stored_as(record)),
                Origin::Fixed => prop_assert!(stored.is_none()),
            }
            if origin == Origin::Registration {
                prop_assert!(highest[&record.key] >= record.generation);
            }
        }
        prop_assert!(stored.is_empty(), "{:?}", stored);
    }
}

#[test]
fn the_most_trusted_source_is_believed_and_the_next_one_when_it_is_gone() {
    let mut editor = Editor::default();
    let fixed = Change {
        origin: Origin::Fixed,
        ..upsert(
            NodeRecord {
                generation: generation(9),
                ..record("n", &["a.A"])
            },
            1,
        )
    };
    let current = publish(&mut editor, &start(), &[fixed]);
    let current = publish(
        &mut editor,
        &current,
        &[upsert(record("n", &["a.A", "b.B"]), 1)],
    );
    let generations = |snapshot: &Snapshot| -> Vec<u64> {
        let all = picture(snapshot);
        all.values()
            .map(|endpoint| endpoint.generation.number())
            .collect()
    };
    assert_eq!(generations(&current), [1, 1], "registration over fixed");
    let since = current.counter();
    let current = publish(&mut editor, &current, &[removal("n", 1, 2)]);
    assert_eq!(generations(&current), [9]);
    let delta = current.delta(&network(), &service("a.A"), since).unwrap();
    assert_eq!(delta.upserts.len(), 1, "generation 9 replaces generation 1");
}

#[test]
fn an_older_generation_that_is_meant_is_told_as_a_whole_state() {
    let mut editor = Editor::default();
    let newer = NodeRecord {
        generation: generation(9),
        ..record("n", &["a.A"])
    };
    let current = publish(&mut editor, &start(), &[upsert(newer, 1)]);
    let since = current.counter();
    let fixed = Change {
        origin: Origin::Fixed,
        ..upsert(record("n", &["a.A"]), 1)
    };
    let current = publish(&mut editor, &current, &[fixed, removal("n", 9, 2)]);
    assert_eq!(current.delta(&network(), &service("a.A"), since), None);
}

#[test]
fn the_late_removal_of_a_replaced_generation_changes_nothing() {
    let mut editor = Editor::default();
    let newer = NodeRecord {
        generation: generation(2),
        ..record("n", &["a.A"])
    };
    let changes = [upsert(record("n", &["a.A"]), 1), upsert(newer, 2)];
    let current = publish(&mut editor, &start(), &changes);
    let after = publish(&mut editor, &current, &[removal("n", 1, 3)]);
    assert_eq!(after.counter(), current.counter());
    assert_eq!(picture(&after).len(), 1);
}

#[test]
fn what_others_do_not_see_makes_no_version() {
    let mut editor = Editor::default();
    let current = publish(&mut editor, &start(), &[upsert(record("n", &["a.A"]), 1)]);
    let again = publish(&mut editor, &current, &[upsert(record("n", &["a.A"]), 2)]);
    assert_eq!(again.counter(), current.counter());
}

#[test]
fn a_service_that_everybody_left_is_still_known_as_seen() {
    let mut editor = Editor::default();
    let current = publish(&mut editor, &start(), &[upsert(record("n", &["a.A"]), 1)]);
    let current = publish(&mut editor, &current, &[removal("n", 1, 2)]);
    let view = current.service(&network(), &service("a.A")).unwrap();
    assert_eq!(view.endpoints().len(), 0);
    assert!(current.service(&network(), &service("b.B")).is_none());
}

#[test]
fn a_session_too_far_behind_gets_the_whole_state() {
    let mut editor = Editor::default();
    let mut current = publish(&mut editor, &start(), &[upsert(record("n", &["a.A"]), 0)]);
    let since = current.counter();
    for revision in 1..=CHANGES_LIMIT as u64 {
        let mut changed = record("n", &["a.A"]);
        changed.draining = revision % 2 == 1;
        current = publish(&mut editor, &current, &[upsert(changed, revision)]);
    }
    // The change that brought the node is one of them.
    assert_eq!(current.delta(&network(), &service("a.A"), since - 1), None);
    let delta = current.delta(&network(), &service("a.A"), since).unwrap();
    assert_eq!(delta.upserts.len(), 1, "the newest state once, not each");
}

#[test]
fn networks_do_not_see_each_other() {
    let mut editor = Editor::default();
    let other = sidelane_proto::model::Network::new("other").unwrap();
    let mut stranger = record("n", &["a.A"]);
    stranger.key.network = other.clone();
    let current = publish(
        &mut editor,
        &start(),
        &[upsert(record("n", &["b.B"]), 1), upsert(stranger, 1)],
    );
    assert_eq!(seen(&current), [service("b.B")]);
    assert!(current.service(&other, &service("a.A")).is_some());
    assert!(current.service(&other, &service("b.B")).is_none());
}

#[test]
fn draining_hides_every_other_health() {
    let mut node = record("n", &[]);
    let mut unhealthy = offer("a.A");
    unhealthy.health = Health::Unhealthy;
    node.offers = vec![offer("b.B"), unhealthy];
    let healths = |node: &NodeRecord| -> Vec<Health> {
        node.endpoints()
            .map(|endpoint| endpoint.offer.health)
            .collect()
    };
    assert_eq!(healths(&node), [Health::Healthy, Health::Unhealthy]);
    node.presence = Presence::Suspect;
    assert_eq!(healths(&node), [Health::Suspect, Health::Unhealthy]);
    node.draining = true;
    assert_eq!(healths(&node), [Health::Draining, Health::Draining]);
}

#[test]
fn what_registration_says_is_stored_also_if_a_file_said_the_same() {
    let mut editor = Editor::default();
    let fixed = Change {
        origin: Origin::Fixed,
        ..upsert(record("n", &["a.A"]), 1)
    };
    let current = publish(&mut editor, &start(), &[fixed]);
    editor.take(upsert(record("n", &["a.A"]), 1));
    assert_eq!(editor.finish(&current).batch.nodes.len(), 1);
    let mut silent = record("n", &["a.A"]);
    silent.presence = Presence::Suspect;
    editor.take(upsert(silent, 2));
    assert!(
        editor.finish(&current).batch.nodes.is_empty(),
        "presence is not stored"
    );
}

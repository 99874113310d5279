//! Who may be which node: every claim that can be made, and what late words do. Time is an
//! argument.

use std::time::Duration;

use super::*;
use crate::registry::fixtures::{generation, hello, key, offer};

const LEASE: Duration = Duration::from_secs(10);

struct Mesh {
    holders: Holders,
    start: Instant,
}

fn mesh() -> Mesh {
    Mesh {
        holders: Holders::new(Terms::new(LEASE)),
        start: Instant::now(),
    }
}

impl Mesh {
    fn after(&self, ms: u64) -> Instant {
        self.start + Duration::from_millis(ms)
    }

    fn hello(&mut self, ms: u64, stream: u64, hello: NodeHello) -> Result<Admission, Refused> {
        self.holders.hello(self.after(ms), StreamId(stream), hello)
    }

    /// The presence of the only node.
    fn presence(&self) -> Option<Presence> {
        let holder = self.holders.nodes.get(&key("n"))?;
        Some(holder.record.presence)
    }
}

fn generation_of(change: &Change) -> u64 {
    change.stamp.generation.number()
}

#[test]
fn a_claim_is_taken_in_and_renewed_by_words() {
    let mut mesh = mesh();
    let admission = mesh.hello(0, 1, hello("n", 5, "i", &["a.A"])).unwrap();
    assert_eq!(admission.highest, generation(5));
    assert_eq!(admission.step.ended, None);
    assert!(mesh.holders.holds(StreamId(1), &key("n")));
    assert!(mesh.holders.heard(mesh.after(7_000), &key("n")).is_none());
    assert!(mesh.holders.pass(mesh.after(14_000)).is_empty());
    assert_eq!(mesh.presence(), Some(Presence::Present));
}

#[test]
fn an_open_stream_that_is_silent_becomes_suspect_and_ends_with_its_lease() {
    let mut mesh = mesh();
    mesh.hello(0, 1, hello("n", 5, "i", &["a.A"])).unwrap();
    assert_eq!(mesh.holders.next_deadline(), Some(mesh.after(7_500)));
    let steps = mesh.holders.pass(mesh.after(7_500));
    assert_eq!(steps.len(), 1);
    assert_eq!(steps[0].ended, None);
    assert_eq!(mesh.presence(), Some(Presence::Suspect));
    let steps = mesh.holders.pass(mesh.after(10_000));
    assert_eq!(steps.len(), 1);
    assert!(steps[0].change.record.is_none());
    assert_eq!(steps[0].ended, Some((StreamId(1), ClaimEnd::LeaseEnded)));
    assert_eq!(mesh.holders.next_deadline(), None);
    assert_eq!(mesh.holders.endpoints, 0);
}

#[test]
fn nobody_is_let_go_because_control_stood_still() {
    let mut mesh = mesh();
    mesh.hello(0, 1, hello("n", 5, "i", &["a.A"])).unwrap();
    mesh.holders.begin_anew(mesh.after(12_000));
    assert!(mesh.holders.pass(mesh.after(12_000)).is_empty());
    assert_eq!(mesh.holders.next_deadline(), Some(mesh.after(19_500)));
    // The node had given the stream up meanwhile, and comes back by another one.
    let change = mesh.holders.lost(mesh.after(12_001), &key("n")).unwrap();
    assert_eq!(change.record.unwrap().presence, Presence::Suspect);
    mesh.hello(12_002, 2, hello("n", 5, "i", &["a.A"])).unwrap();
    assert_eq!(mesh.presence(), Some(Presence::Present));
}

#[test]
fn a_silent_node_that_speaks_again_is_there_again() {
    let mut mesh = mesh();
    mesh.hello(0, 1, hello("n", 5, "i", &["a.A"])).unwrap();
    mesh.holders.pass(mesh.after(8_000));
    let change = mesh.holders.heard(mesh.after(9_000), &key("n")).unwrap();
    assert_eq!(change.record.unwrap().presence, Presence::Present);
    assert!(mesh.holders.pass(mesh.after(16_000)).is_empty());
}

#[test]
fn a_broken_stream_is_suspect_at_once_and_removed_when_the_lease_since_the_last_word_ends() {
    let mut mesh = mesh();
    mesh.hello(0, 1, hello("n", 5, "i", &["a.A"])).unwrap();
    let change = mesh.holders.lost(mesh.after(3_000), &key("n")).unwrap();
    assert_eq!(change.record.unwrap().presence, Presence::Suspect);
    assert!(mesh.holders.pass(mesh.after(9_999)).is_empty());
    let steps = mesh.holders.pass(mesh.after(10_000));
    assert!(steps[0].change.record.is_none());
    assert_eq!(steps[0].ended, None, "there is no stream to tell");
}

#[test]
fn the_same_process_comes_back_healthy_and_once() {
    let mut mesh = mesh();
    mesh.hello(0, 1, hello("n", 5, "i", &["a.A"])).unwrap();
    mesh.holders.lost(mesh.after(1_000), &key("n"));
    let admission = mesh.hello(2_000, 2, hello("n", 5, "i", &["a.A"])).unwrap();
    assert_eq!(admission.step.ended, None);
    assert_eq!(mesh.presence(), Some(Presence::Present));
    assert_eq!(mesh.holders.nodes.len(), 1);
    assert_eq!(mesh.holders.endpoints, 1);
    assert!(mesh.holders.pass(mesh.after(9_499)).is_empty());
}

#[test]
fn a_second_stream_of_the_same_process_ends_the_first() {
    let mut mesh = mesh();
    mesh.hello(0, 1, hello("n", 5, "i", &["a.A"])).unwrap();
    let admission = mesh.hello(10, 2, hello("n", 5, "i", &["a.A"])).unwrap();
    assert_eq!(admission.step.ended, Some((StreamId(1), ClaimEnd::Resumed)));
    assert!(!mesh.holders.holds(StreamId(1), &key("n")));
    assert!(mesh.holders.holds(StreamId(2), &key("n")));
}

#[test]
fn a_newer_generation_replaces_the_older_and_its_late_words_change_nothing() {
    let mut mesh = mesh();
    mesh.hello(0, 1, hello("n", 5, "old", &["a.A"])).unwrap();
    let admission = mesh.hello(10, 2, hello("n", 6, "new", &["b.B"])).unwrap();
    assert_eq!(
        admission.step.ended,
        Some((StreamId(1), ClaimEnd::Superseded(generation(6))))
    );
    assert_eq!(generation_of(&admission.step.change), 6);
    // The loop asks this before it passes any word on.
    assert!(!mesh.holders.holds(StreamId(1), &key("n")));
    assert_eq!(mesh.presence(), Some(Presence::Present));
}

#[test]
fn an_older_generation_is_refused_with_the_highest_also_after_the_newer_left() {
    let mut mesh = mesh();
    let stale = |refused: Refused| match refused {
        Refused::StaleGeneration { given, highest, .. } => (given.number(), highest.number()),
        other => panic!("{other}"),
    };
    mesh.hello(0, 1, hello("n", 6, "new", &[])).unwrap();
    let refused = mesh.hello(10, 2, hello("n", 5, "old", &[])).unwrap_err();
    assert_eq!(stale(refused), (5, 6));
    mesh.holders.goodbye(&key("n"));
    let refused = mesh.hello(20, 3, hello("n", 5, "old", &[])).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "node `default/n` came with generation 5, but generation 6 was seen already; a process \
         that was just started may raise its generation above that once, an older one has been \
         replaced"
    );
    assert_eq!(stale(refused), (5, 6));
    mesh.hello(30, 4, hello("n", 6, "new", &[])).unwrap();
}

#[test]
fn another_process_with_the_same_generation_is_refused_while_the_first_is_alive() {
    let mut mesh = mesh();
    mesh.hello(0, 1, hello("n", 5, "one", &[])).unwrap();
    let refused = mesh.hello(10, 2, hello("n", 5, "two", &[])).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "node id `default/n` is held by generation 5, instance one with no identity, which is \
         alive; generation 5, instance two with no identity cannot have it: choose another --node, \
         or stop the other one"
    );
    // Suspect is alive.
    mesh.holders.lost(mesh.after(20), &key("n"));
    let refused = mesh.hello(30, 3, hello("n", 5, "two", &[]));
    assert!(matches!(refused, Err(Refused::AlreadyExists { .. })));
    mesh.hello(10_000, 4, hello("n", 5, "two", &[])).unwrap();
}

#[test]
fn another_identity_is_refused_whatever_its_generation() {
    let identity = |text: &str| Some(Identity::new(text).unwrap());
    let orders = "spiffe://example.org/ns/shop/sa/orders";
    let stranger = "spiffe://example.org/ns/shop/sa/stranger";
    for (held, claimed) in [
        (identity(orders), identity(stranger)),
        (identity(orders), None),
        (None, identity(stranger)),
    ] {
        let mut mesh = mesh();
        let with = |number, identity: &Option<Identity>| NodeHello {
            identity: identity.clone(),
            ..hello("n", number, "i", &[])
        };
        mesh.hello(0, 1, with(5, &held)).unwrap();
        for number in [4, 5, 6] {
            let refused = mesh.hello(10, 2, with(number, &claimed));
            assert!(matches!(refused, Err(Refused::AlreadyExists { .. })));
        }
        assert!(mesh.holders.holds(StreamId(1), &key("n")));
        mesh.holders.goodbye(&key("n"));
        mesh.hello(20, 3, with(6, &claimed)).unwrap();
    }
}

#[test]
fn one_name_in_two_networks_is_two_nodes() {
    let mut mesh = mesh();
    mesh.hello(0, 1, hello("n", 5, "one", &[])).unwrap();
    let other = NodeHello {
        network: sidelane_proto::model::Network::new("other").unwrap(),
        ..hello("n", 5, "two", &[])
    };
    mesh.hello(0, 2, other).unwrap();
    assert_eq!(mesh.holders.nodes.len(), 2);
}

#[test]
fn what_was_there_before_a_restart_is_suspect_for_one_whole_lease() {
    let mut mesh = mesh();
    let record = record_of(key("n"), hello("n", 5, "i", &["a.A"]));
    mesh.holders
        .restore_generations([(key("n"), generation(5)), (key("left"), generation(9))]);
    let change = mesh.holders.restore(mesh.start, &record);
    assert_eq!(change.record.unwrap().presence, Presence::Suspect);
    assert!(mesh.holders.pass(mesh.after(9_999)).is_empty());
    assert_eq!(mesh.holders.pass(mesh.after(10_000)).len(), 1);
    assert!(mesh.hello(0, 1, hello("left", 8, "i", &[])).is_err());
}

#[test]
fn a_node_that_came_back_after_a_restart_is_not_removed_by_its_old_lease() {
    let mut mesh = mesh();
    let record = record_of(key("n"), hello("n", 5, "i", &["a.A"]));
    mesh.holders.restore(mesh.start, &record);
    mesh.hello(1_000, 1, hello("n", 5, "i", &["a.A"])).unwrap();
    mesh.holders.heard(mesh.after(8_000), &key("n"));
    assert!(mesh.holders.pass(mesh.after(11_000)).is_empty());
    assert_eq!(mesh.presence(), Some(Presence::Present));
}

#[test]
fn changed_offers_and_draining_make_changes_with_growing_revisions() {
    let mut mesh = mesh();
    let admission = mesh.hello(0, 1, hello("n", 5, "i", &["a.A"])).unwrap();
    let first = admission.step.change.stamp.revision;
    let now = mesh.after(10);
    let offers = mesh.holders.offers(now, &key("n"), vec![offer("b.B")]);
    let offers = offers.unwrap().unwrap();
    assert!(offers.stamp.revision > first);
    let drain = mesh.holders.draining(now, &key("n")).unwrap();
    assert!(drain.record.unwrap().draining);
    let again = mesh.holders.draining(now, &key("n")).unwrap();
    assert!(
        again.stamp.revision > drain.stamp.revision,
        "somebody waits"
    );
    let same = mesh.holders.offers(now, &key("n"), vec![offer("b.B")]);
    assert!(same.unwrap().is_none());
}

#[test]
fn more_endpoints_than_fit_into_an_update_are_refused() {
    let mut mesh = mesh();
    let offers = |from: usize, count: usize| -> Vec<Offer> {
        (from..from + count)
            .map(|n| offer(&format!("s.S{n}")))
            .collect()
    };
    let claim = |node: &str, count: usize| NodeHello {
        offers: offers(0, count),
        ..hello(node, 1, "i", &[])
    };
    for node in 0..ENDPOINTS_LIMIT / 4_096 {
        let node = format!("n-{node}");
        mesh.hello(0, 1, claim(&node, 4_096)).unwrap();
    }
    let refused = mesh.hello(0, 2, claim("late", 1)).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "65537 endpoints are known, and no more than 65536 can be; stop some, then try again"
    );
    let now = mesh.after(0);
    let more = mesh.holders.offers(now, &key("n-0"), offers(0, 4_097));
    assert!(matches!(more, Err(Refused::Full { .. })));
    let others = mesh.holders.offers(now, &key("n-0"), offers(9, 4_096));
    assert!(others.unwrap().is_some(), "as many as before, but others");
}

//! Applying rules over a store that fails or hangs, and when nobody waits for the end.

use std::sync::mpsc;

use super::*;
use crate::registry::fixtures::{network, pushed, service};
use crate::registry::{Changed, Snapshot, Start, Watcher};
use crate::store::{Store, StoreError, WriteBehind};

struct Nobody;

impl Watcher for Nobody {
    fn published(&self, _: &Arc<Snapshot>, _: &Changed) {}
}

/// A store that does at each commit what the test says: `Ok`, or fail. Until then it hangs.
struct Told(mpsc::Receiver<bool>);

impl Store for Told {
    fn commit(&mut self, writes: &Writes) -> Result<(), StoreError> {
        if writes.rules.is_empty() || self.0.recv().unwrap_or(true) {
            return Ok(());
        }
        Err(StoreError::Write {
            path: "control.redb".into(),
            reason: "No space left on device".to_owned(),
        })
    }
}

/// The way to apply, the registry, the store's orders, and what keeps the store open.
fn start() -> (Rules, Registry, mpsc::Sender<bool>, WriteBehind) {
    let (orders, ordered) = mpsc::channel();
    let (store, journal) = WriteBehind::start(Box::new(Told(ordered)), 1).unwrap();
    let start = Start {
        snapshot: Snapshot::start("store".into(), 1, []),
        watcher: Arc::new(Nobody),
        journal,
    };
    let (registry, _) = start.spawn();
    let rules = Rules::new(registry.clone(), store.ahead(), Validations::default());
    (rules, registry, orders, store)
}

fn proposal(name: &str) -> Proposal {
    Proposal {
        network: network(),
        rules: vec![pushed(name, 1)],
        remove: Vec::new(),
        dry_run: false,
    }
}

fn has(registry: &Registry, name: &str) -> bool {
    let snapshot = registry.snapshot();
    snapshot.rules().get(&network(), &service(name)).is_some()
}

#[tokio::test]
async fn what_cannot_be_kept_is_not_applied() {
    let (rules, registry, orders, _store) = start();
    orders.send(false).unwrap();
    let error = rules.apply(proposal("a.A")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "nothing was applied: the store control.redb cannot be written: No space left on device"
    );
    assert!(!has(&registry, "a.A"));
    assert_eq!(registry.snapshot().counter(), 1);
    // Once for the rule, and once for its version.
    orders.send(true).unwrap();
    orders.send(true).unwrap();
    let applied = rules.apply(proposal("a.A")).await.unwrap();
    assert_eq!(applied.version, 2);
    assert_eq!(applied.changes, [(service("a.A"), Change::Added)]);
    assert!(has(&registry, "a.A"));
}

#[tokio::test(start_paused = true)]
async fn a_store_that_hangs_is_not_waited_for_for_ever() {
    let (rules, registry, orders, _store) = start();
    let began = tokio::time::Instant::now();
    let error = rules.apply(proposal("a.A")).await.unwrap_err();
    assert_eq!(error, NotApplied::Unknown);
    assert!(began.elapsed() >= STORE_LIMIT);
    assert!(!has(&registry, "a.A"), "nothing was pushed");
    drop(orders);
}

#[tokio::test]
async fn what_has_begun_is_ended_also_if_nobody_waits() {
    let (rules, registry, orders, _store) = start();
    let asking = tokio::spawn({
        let rules = rules.clone();
        async move { rules.apply(proposal("a.A")).await }
    });
    while rules.0.room.available_permits() == PROPOSALS_LIMIT {
        tokio::task::yield_now().await;
    }
    asking.abort();
    assert!(asking.await.unwrap_err().is_cancelled());
    for _ in 0..4 {
        orders.send(true).unwrap();
    }
    // It waits for its turn behind the one that nobody waits for.
    rules.apply(proposal("b.B")).await.unwrap();
    assert!(has(&registry, "a.A") && has(&registry, "b.B"));
}

#[tokio::test]
async fn more_at_once_than_there_is_room_for_are_told_to_come_again() {
    let (rules, registry, orders, _store) = start();
    let mut asking = tokio::task::JoinSet::new();
    for number in 0..PROPOSALS_LIMIT {
        let rules = rules.clone();
        asking.spawn(async move { rules.apply(proposal(&format!("a.S{number}"))).await });
    }
    while rules.0.room.available_permits() > 0 {
        tokio::task::yield_now().await;
    }
    let error = rules.apply(proposal("a.Late")).await.unwrap_err();
    assert_eq!(
        error.to_string(),
        "8 others apply rules at this moment; try again"
    );
    // From here on the store takes everything.
    drop(orders);
    for applied in asking.join_all().await {
        applied.unwrap();
    }
    assert_eq!(registry.snapshot().rules().count(), PROPOSALS_LIMIT);
    rules.apply(proposal("a.Late")).await.unwrap();
}

#[tokio::test]
async fn a_dry_run_writes_nothing() {
    let (rules, registry, _orders, _store) = start();
    let tried = Proposal {
        dry_run: true,
        ..proposal("a.A")
    };
    let outcome = rules.apply(tried).await.unwrap();
    assert_eq!(outcome.version, 1);
    assert_eq!(outcome.changes, [(service("a.A"), Change::Added)]);
    assert!(!has(&registry, "a.A"));
}

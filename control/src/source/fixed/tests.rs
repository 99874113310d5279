//! The source over a real file: what an edit brings, and what a broken one does not take away.

use super::*;
use crate::registry::{Batch, Changed, Journal, Snapshot, Start, Watcher};

struct Nobody;

impl Watcher for Nobody {
    fn published(&self, _: &Arc<Snapshot>, _: &Changed) {}
}

impl Journal for Nobody {
    fn record(&mut self, batch: Batch) {
        assert!(batch.nodes.is_empty(), "what a file says is not stored");
    }
}

fn registry() -> Registry {
    let start = Start {
        snapshot: Snapshot::start("store".into(), 1, []),
        watcher: Arc::new(Nobody),
        journal: Box::new(Nobody),
    };
    start.spawn().0
}

fn node(name: &str, port: u16) -> String {
    format!("  - node: {name}\n    internal: 10.0.0.7:{port}\n    services: [{{service: a.A}}]\n")
}

/// Name, address and generation of each node.
async fn known(registry: &Registry) -> Vec<(String, String, u64)> {
    let nodes = registry.nodes().await.unwrap();
    let brief = |(origin, record): (Origin, Arc<NodeRecord>)| {
        assert_eq!(origin, Origin::Fixed);
        let address = record.addresses.internal.as_ref().unwrap().to_string();
        let generation = record.generation.number();
        (record.key.node.to_string(), address, generation)
    };
    nodes.into_iter().map(brief).collect()
}

#[tokio::test]
async fn an_edit_changes_what_it_names_and_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fixed.yaml");
    std::fs::write(&path, format!("nodes:\n{}{}", node("m", 1), node("n", 1))).unwrap();
    let registry = registry();
    let mut fixed = Fixed::start(path.clone(), registry.clone()).await.unwrap();
    let before = known(&registry).await;
    assert_eq!(before.len(), 2);

    std::fs::write(&path, format!("nodes:\n{}{}", node("n", 2), node("o", 1))).unwrap();
    fixed.look().await.unwrap();
    let after = known(&registry).await;
    let names: Vec<&str> = after.iter().map(|(name, ..)| name.as_str()).collect();
    assert_eq!(names, ["n", "o"]);
    assert_eq!(after[0].1, "10.0.0.7:2");
    assert!(after[0].2 > before[1].2, "its old channels must be closed");
    assert_eq!(fixed.status().reloads(), 1);

    std::fs::write(&path, format!("nodes:\n{}{}", node("m", 1), node("o", 1))).unwrap();
    fixed.look().await.unwrap();
    let back = known(&registry).await;
    assert_eq!(back[0].0, "m");
    assert!(
        back[0].2 > before[0].2,
        "what comes back is newer than what left"
    );
    assert_eq!(back[1], after[1], "o has not changed");
}

#[tokio::test]
async fn a_broken_edit_changes_nothing_and_is_named_until_it_is_mended() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fixed.yaml");
    let good = format!("nodes:\n{}", node("n", 1));
    std::fs::write(&path, &good).unwrap();
    let registry = registry();
    let mut fixed = Fixed::start(path.clone(), registry.clone()).await.unwrap();
    let status = fixed.status();
    let before = known(&registry).await;

    std::fs::write(&path, "nodes:\n  - noed: n\n").unwrap();
    fixed.look().await.unwrap();
    fixed.look().await.unwrap();
    assert_eq!(known(&registry).await, before);
    assert!(
        status
            .failure()
            .unwrap()
            .contains("line 2: `noed` is not a key here")
    );
    assert_eq!(
        status.failures(),
        1,
        "one edit, however often it is looked at"
    );

    std::fs::remove_file(&path).unwrap();
    fixed.look().await.unwrap();
    assert_eq!(known(&registry).await, before);
    assert!(
        status
            .failure()
            .unwrap()
            .starts_with("cannot read the fixed file")
    );
    assert_eq!(status.failures(), 2);

    std::fs::write(&path, &good).unwrap();
    fixed.look().await.unwrap();
    assert_eq!(status.failure(), None);
    assert_eq!(known(&registry).await, before);
}

#[tokio::test]
async fn a_file_that_is_wrong_at_the_start_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("fixed.yaml");
    let error = Fixed::start(path.clone(), registry()).await.unwrap_err();
    assert!(matches!(error, FileError::Unreadable { .. }), "{error}");
    std::fs::write(&path, "nodes: 5").unwrap();
    let error = Fixed::start(path.clone(), registry()).await.unwrap_err();
    assert!(matches!(error, FileError::Wrong { line: 1, .. }), "{error}");
    std::fs::write(&path, "nodes: []").unwrap();
    Fixed::start(path, registry()).await.unwrap();
}

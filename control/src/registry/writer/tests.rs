//! The loop, with a paused clock: what is published when.

use std::sync::Mutex;

use super::*;
use crate::registry::fixtures::{record, upsert};

#[derive(Default)]
struct Seen(Mutex<Vec<(u64, usize)>>);

impl Watcher for Seen {
    fn published(&self, snapshot: &Arc<Snapshot>, changed: &Changed) {
        let seen = (snapshot.counter(), changed.services.len());
        self.0.lock().unwrap().push(seen);
    }
}

struct Kept(Arc<Mutex<Vec<u64>>>);

impl Journal for Kept {
    fn record(&mut self, batch: Batch) {
        self.0.lock().unwrap().push(batch.version);
    }
}

fn start() -> (Registry, Arc<Seen>, Arc<Mutex<Vec<u64>>>) {
    let (seen, kept) = (Arc::new(Seen::default()), Arc::default());
    let start = Start {
        snapshot: Snapshot::start("store".into(), 1, []),
        watcher: Arc::clone(&seen) as Arc<dyn Watcher>,
        journal: Box::new(Kept(Arc::clone(&kept))),
    };
    let (registry, _) = start.spawn();
    (registry, seen, kept)
}

#[tokio::test(start_paused = true)]
async fn the_first_change_goes_out_at_once_and_the_next_ones_together() {
    let (registry, seen, kept) = start();
    let began = Instant::now();
    let change = |node: &str| upsert(record(node, &["a.A"]), 1);
    let (published, first) = oneshot::channel();
    registry
        .apply(change("n-0"), Some(published))
        .await
        .unwrap();
    assert_eq!(first.await, Ok(2));
    assert_eq!(began.elapsed(), Duration::ZERO);

    let mut waiting = Vec::new();
    for node in ["n-1", "n-2", "n-3"] {
        let (published, publication) = oneshot::channel();
        registry.apply(change(node), Some(published)).await.unwrap();
        waiting.push(publication);
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    for publication in waiting {
        assert_eq!(publication.await, Ok(3));
    }
    // tokio's timer counts whole milliseconds, and rounds up.
    assert!(began.elapsed() <= COALESCE + Duration::from_millis(1));
    assert_eq!(*seen.0.lock().unwrap(), [(2, 1), (3, 1)]);
    assert_eq!(*kept.lock().unwrap(), [2, 3]);
    assert_eq!(registry.snapshot().counter(), 3);
    assert_eq!(registry.nodes().await.unwrap().len(), 4);
}

#[tokio::test(start_paused = true)]
async fn it_ends_with_its_last_handle() {
    let start = Start {
        snapshot: Snapshot::start("store".into(), 1, []),
        watcher: Arc::new(Seen::default()),
        journal: Box::new(Kept(Arc::default())),
    };
    let (registry, writer) = start.spawn();
    drop(registry);
    writer.await.unwrap();
}

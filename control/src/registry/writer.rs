//! The single writer: takes what sources say, merges it, and publishes the result. Changes that
//! arrive close together become one version. It hands each version to its watcher and its journal,
//! neither of which may hold it up.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use sidelane_proto::model::{Generation, Network, ServiceName};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::merge::Merge;
use super::record::{Change, NodeKey, NodeRecord, Origin};
use super::snapshot::Snapshot;

/// Two versions are at least so far apart. The first change after a quiet time is published at
/// once; those that follow within this time go out together.
pub const COALESCE: Duration = Duration::from_millis(10);
/// Changes that wait for the writer. A source that finds it full waits, and with it only the
/// streams that it serves.
const QUEUE_LIMIT: usize = 1024;
/// Changes in one version at most, so that a flood cannot keep the first of it waiting.
const BATCH_LIMIT: usize = 16_384;

/// Is told of each version, in the writer's own task: it must not wait.
pub trait Watcher: Send + Sync {
    /// A snapshot was published; these services differ from the one before.
    fn published(&self, snapshot: &Arc<Snapshot>, changed: &[(Network, ServiceName)]);
}

/// Keeps what must survive a restart. It must not wait: a slow disk is its own matter.
pub trait Journal: Send {
    /// A version was published.
    fn record(&mut self, batch: Batch);
}

/// What one version brought that must survive a restart.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The version's counter.
    pub version: u64,
    /// Registered nodes as they are now; `None`: gone.
    pub nodes: Vec<(NodeKey, Option<Arc<NodeRecord>>)>,
    /// The highest generation of each of these nodes.
    pub generations: Vec<(NodeKey, Generation)>,
    /// Services that were never seen before.
    pub services: Vec<(Network, ServiceName)>,
}

/// The registry has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the registry has ended")]
pub struct Closed;

/// The registry, as its sources and readers know it.
#[derive(Debug, Clone)]
pub struct Registry {
    messages: mpsc::Sender<Message>,
    current: Arc<ArcSwap<Snapshot>>,
}

#[derive(Debug)]
enum Message {
    Change(Change, Option<oneshot::Sender<u64>>),
    Nodes(oneshot::Sender<Vec<(Origin, Arc<NodeRecord>)>>),
}

/// A registry that is not running yet.
pub struct Start {
    /// The picture to start with.
    pub snapshot: Snapshot,
    /// Who is told of each version.
    pub watcher: Arc<dyn Watcher>,
    /// Who keeps what must survive.
    pub journal: Box<dyn Journal>,
}

impl std::fmt::Debug for Start {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter
            .debug_struct("Start")
            .field("version", &self.snapshot.counter())
            .finish_non_exhaustive()
    }
}

impl Start {
    /// Starts the writer. It ends when every handle is dropped.
    #[must_use]
    pub fn spawn(self) -> (Registry, tokio::task::JoinHandle<()>) {
        let (messages, receiver) = mpsc::channel(QUEUE_LIMIT);
        let current = Arc::new(ArcSwap::from_pointee(self.snapshot));
        let registry = Registry {
            messages,
            current: Arc::clone(&current),
        };
        let writer = Writer {
            merge: Merge::default(),
            current,
            watcher: self.watcher,
            journal: self.journal,
            pending: Pending::default(),
        };
        (registry, tokio::spawn(writer.run(receiver)))
    }
}

impl Registry {
    /// The newest picture.
    #[must_use]
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Says something. Where `published` is given, it gets the counter of the first version that
    /// has the change in it.
    ///
    /// # Errors
    /// The registry has ended.
    pub async fn apply(
        &self,
        change: Change,
        published: Option<oneshot::Sender<u64>>,
    ) -> Result<(), Closed> {
        let message = Message::Change(change, published);
        self.messages.send(message).await.map_err(|_| Closed)
    }

    /// All nodes, each with the source that is believed, in the order of networks and ids.
    ///
    /// # Errors
    /// The registry has ended.
    pub async fn nodes(&self) -> Result<Vec<(Origin, Arc<NodeRecord>)>, Closed> {
        let (reply, nodes) = oneshot::channel();
        let sent = self.messages.send(Message::Nodes(reply)).await;
        sent.map_err(|_| Closed)?;
        let mut nodes = nodes.await.map_err(|_| Closed)?;
        nodes.sort_by(|(_, one), (_, two)| one.key.cmp(&two.key));
        Ok(nodes)
    }
}

struct Writer {
    merge: Merge,
    current: Arc<ArcSwap<Snapshot>>,
    watcher: Arc<dyn Watcher>,
    journal: Box<dyn Journal>,
    pending: Pending,
}

/// What the next version will bring.
#[derive(Default)]
struct Pending {
    changes: usize,
    /// Each touched node as the current snapshot has it.
    before: HashMap<NodeKey, Option<Arc<NodeRecord>>>,
    registered: HashMap<NodeKey, Option<Arc<NodeRecord>>>,
    generations: HashMap<NodeKey, Generation>,
    seen: Vec<(Network, ServiceName)>,
    waiting: Vec<oneshot::Sender<u64>>,
}

impl Writer {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut published: Option<Instant> = None;
        while let Some(message) = messages.recv().await {
            self.take(message);
            if self.pending.changes == 0 {
                continue;
            }
            let due = published.map_or_else(Instant::now, |last| last + COALESCE);
            self.collect(&mut messages, due).await;
            self.publish();
            published = Some(Instant::now());
        }
    }

    /// Takes what arrives until `due`, and what waits already.
    async fn collect(&mut self, messages: &mut mpsc::Receiver<Message>, due: Instant) {
        while self.pending.changes < BATCH_LIMIT {
            let waiting = messages.try_recv();
            let message = match waiting {
                Ok(message) => message,
                Err(mpsc::error::TryRecvError::Disconnected) => return,
                Err(mpsc::error::TryRecvError::Empty) if Instant::now() >= due => return,
                Err(mpsc::error::TryRecvError::Empty) => {
                    match tokio::time::timeout_at(due, messages.recv()).await {
                        Ok(Some(message)) => message,
                        Ok(None) | Err(_) => return,
                    }
                }
            };
            self.take(message);
        }
    }

    fn take(&mut self, message: Message) {
        match message {
            Message::Change(change, published) => {
                self.change(change);
                self.pending.waiting.extend(published);
            }
            Message::Nodes(reply) => {
                let nodes = self.merge.nodes();
                let listed = nodes.map(|(origin, record)| (origin, Arc::clone(record)));
                // Whoever asked has gone: nobody needs the answer.
                let _ = reply.send(listed.collect());
            }
        }
    }

    fn change(&mut self, change: Change) {
        self.pending.changes += 1;
        // Also of a saying that loses: whether a service was ever seen must not depend on the
        // order in which sayings arrive.
        if let Some(record) = &change.record {
            let offered = record.offers.iter();
            let seen = offered.map(|offer| (record.key.network.clone(), offer.service.clone()));
            self.pending.seen.extend(seen);
        }
        let key = change.key.clone();
        let before = self.merge.node(&key).cloned();
        let (origin, stamp, record) = (change.origin, change.stamp, change.record.clone());
        if !self.merge.apply(change) {
            return;
        }
        let stored_already = match (&before, &record) {
            (Some(before), Some(record)) => before.is_stored_as(record),
            _ => false,
        };
        self.pending.before.entry(key.clone()).or_insert(before);
        if origin == Origin::Registration && !stored_already {
            let highest = self.pending.generations.entry(key.clone());
            let highest = highest.or_insert(stamp.generation);
            *highest = stamp.generation.max(*highest);
            self.pending.registered.insert(key, record);
        }
    }

    fn publish(&mut self) {
        let pending = std::mem::take(&mut self.pending);
        let current = self.current.load_full();
        let mut draft = current.draft();
        for (key, before) in &pending.before {
            let after = self.merge.node(key);
            draft.node(before.as_deref(), after.map(|record| &**record));
        }
        let mut unseen = Vec::new();
        for (network, service) in pending.seen {
            if current.service(&network, &service).is_none() {
                draft.seen(&network, &service);
                unseen.push((network, service));
            }
        }
        let version = match draft.finish() {
            Some((next, changed)) => {
                let next = Arc::new(next);
                self.current.store(Arc::clone(&next));
                self.watcher.published(&next, &changed);
                next.counter()
            }
            None => current.counter(),
        };
        unseen.sort_unstable();
        unseen.dedup();
        self.journal.record(Batch {
            version,
            nodes: pending.registered.into_iter().collect(),
            generations: pending.generations.into_iter().collect(),
            services: unseen,
        });
        for waiting in pending.waiting {
            // Whoever waited has gone: nobody needs the answer.
            let _ = waiting.send(version);
        }
    }
}

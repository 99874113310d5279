//! The single writer: takes what sources say, merges it, and publishes the result. Changes that
//! arrive close together become one version. It hands each version to its watcher and its journal,
//! neither of which may hold it up.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use sidelane_proto::model::{Network, PushedRule, ServiceName};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::edition::{Batch, Changed, Editor};
use super::record::{Change, NodeRecord, Origin};
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
    /// A snapshot was published; this differs from the one before.
    fn published(&self, snapshot: &Arc<Snapshot>, changed: &Changed);
}

/// Keeps what must survive a restart. It must not wait: a slow disk is its own matter.
pub trait Journal: Send {
    /// A version was published.
    fn record(&mut self, batch: Batch);
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

/// Of each service the rule that it has from now on, or `None`.
pub type RuleChanges = Vec<(ServiceName, Option<Arc<PushedRule>>)>;

#[derive(Debug)]
enum Message {
    Change(Change, Option<oneshot::Sender<u64>>),
    Rules(Network, RuleChanges, oneshot::Sender<u64>),
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
            editor: Editor::default(),
            waiting: Vec::new(),
            current,
            watcher: self.watcher,
            journal: self.journal,
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

    /// Applies rules to a network. Returns the counter of the first version that has them.
    ///
    /// # Errors
    /// The registry has ended.
    pub async fn apply_rules(&self, network: Network, rules: RuleChanges) -> Result<u64, Closed> {
        let (published, version) = oneshot::channel();
        let message = Message::Rules(network, rules, published);
        self.messages.send(message).await.map_err(|_| Closed)?;
        version.await.map_err(|_| Closed)
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
    editor: Editor,
    /// To be told of the next version.
    waiting: Vec<oneshot::Sender<u64>>,
    current: Arc<ArcSwap<Snapshot>>,
    watcher: Arc<dyn Watcher>,
    journal: Box<dyn Journal>,
}

impl Writer {
    async fn run(mut self, mut messages: mpsc::Receiver<Message>) {
        let mut published: Option<Instant> = None;
        while let Some(message) = messages.recv().await {
            self.take(message);
            if self.editor.changes() == 0 {
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
        while self.editor.changes() < BATCH_LIMIT {
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
                self.editor.take(change);
                self.waiting.extend(published);
            }
            Message::Rules(network, rules, published) => {
                self.editor.apply(&network, rules);
                self.waiting.push(published);
            }
            Message::Nodes(reply) => {
                let nodes = self.editor.merge().nodes();
                let listed = nodes.map(|(origin, record)| (origin, Arc::clone(record)));
                // Whoever asked has gone: nobody needs the answer.
                let _ = reply.send(listed.collect());
            }
        }
    }

    fn publish(&mut self) {
        let current = self.current.load_full();
        let edition = self.editor.finish(&current);
        if let Some((next, changed)) = edition.next {
            let next = Arc::new(next);
            self.current.store(Arc::clone(&next));
            self.watcher.published(&next, &changed);
        }
        let version = edition.batch.version;
        self.journal.record(edition.batch);
        for waiting in self.waiting.drain(..) {
            // Whoever waited has gone: nobody needs the answer.
            let _ = waiting.send(version);
        }
    }
}

#[cfg(test)]
mod tests;

//! The fixed source: nodes that a file names, for sidecars that do not reach control. The file is read every second; what changed in it is emitted. An edit that
//! cannot be read changes nothing: what was known stays, and the status says what is wrong.

mod file;

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, SystemTime};

use sidelane_proto::model::Generation;
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;

use crate::drain::Draining;
use crate::registry::{Change, Closed, NodeKey, NodeRecord, Origin, Registry, Stamp};

pub use file::{DEFAULT_NETWORK, EXAMPLE, FileError, parse};

/// Between two looks at the file. It is read whole each time: edits within one tick of a file
/// system's clock, and files put in place with an old date, are seen, too.
pub const POLL: Duration = Duration::from_secs(1);

/// How the file is doing.
#[derive(Debug, Default)]
pub struct FixedStatus {
    failure: Mutex<Option<String>>,
    failures: AtomicU64,
    reloads: AtomicU64,
}

impl FixedStatus {
    /// What is wrong with the file as it is now.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        let failure = self.failure.lock();
        failure.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Edits that could not be taken in.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Edits that were taken in.
    #[must_use]
    pub fn reloads(&self) -> u64 {
        self.reloads.load(Ordering::Relaxed)
    }

    fn set(&self, failure: Option<String>) {
        let mut known = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        if failure.is_some() && *known != failure {
            self.failures.fetch_add(1, Ordering::Relaxed);
        }
        *known = failure;
    }
}

/// The fixed source, with its file read once.
#[derive(Debug)]
pub struct Fixed {
    path: PathBuf,
    text: String,
    nodes: HashMap<NodeKey, NodeRecord>,
    /// Of all nodes that were ever in the file: what comes back is newer than what left.
    highest: Option<Generation>,
    revision: u64,
    status: Arc<FixedStatus>,
    registry: Registry,
}

impl Fixed {
    /// Reads the file and emits its nodes. Returns when they are published. At the start somebody
    /// is there to mend it, so a file that cannot be read is refused.
    ///
    /// # Errors
    /// What is wrong with the file, and in which line.
    pub async fn start(path: PathBuf, registry: Registry) -> Result<Self, FileError> {
        let mut fixed = Self {
            path,
            text: String::new(),
            nodes: HashMap::new(),
            highest: None,
            revision: 0,
            status: Arc::default(),
            registry,
        };
        let (text, modified) = read(&fixed.path).await?;
        let nodes = parse(&fixed.path, &text)?;
        fixed.text = text;
        let (published, publication) = tokio::sync::oneshot::channel();
        if fixed.emit(nodes, modified, Some(published)).await.is_ok() {
            // Dropped unanswered where the file names no node.
            let _ = publication.await;
        }
        Ok(fixed)
    }

    /// How the file is doing.
    #[must_use]
    pub fn status(&self) -> Arc<FixedStatus> {
        Arc::clone(&self.status)
    }

    /// Watches the file until the end.
    #[must_use]
    pub fn spawn(mut self, mut draining: Draining) -> JoinHandle<()> {
        tokio::spawn(async move {
            let mut ticks = tokio::time::interval(POLL);
            ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
            loop {
                tokio::select! {
                    () = draining.begun() => return,
                    _ = ticks.tick() => if self.look().await == Err(Closed) {
                        return;
                    },
                }
            }
        })
    }

    /// Looks at the file once.
    async fn look(&mut self) -> Result<(), Closed> {
        let (text, modified) = match read(&self.path).await {
            Ok(read) => read,
            Err(error) => {
                self.failed(&error);
                return Ok(());
            }
        };
        if text == self.text {
            if self.status.failure().is_some() {
                tracing::info!(path = %self.path.display(), "the fixed file is as it was again");
                self.status.set(None);
            }
            return Ok(());
        }
        match parse(&self.path, &text) {
            Ok(nodes) => {
                tracing::info!(path = %self.path.display(), nodes = nodes.len(), "fixed file read");
                self.text = text;
                self.status.set(None);
                self.status.reloads.fetch_add(1, Ordering::Relaxed);
                self.emit(nodes, modified, None).await
            }
            Err(error) => {
                self.failed(&error);
                Ok(())
            }
        }
    }

    fn failed(&self, error: &FileError) {
        let text = error.to_string();
        if self.status.failure().as_ref() != Some(&text) {
            tracing::error!(%error, "the fixed file cannot be taken in; what was known stays");
        }
        self.status.set(Some(text));
    }

    /// Emits what differs from what was known. A node that changed gets a newer generation, so
    /// that its channels to the old addresses are closed.
    async fn emit(
        &mut self,
        nodes: Vec<NodeRecord>,
        modified: SystemTime,
        published: Option<tokio::sync::oneshot::Sender<u64>>,
    ) -> Result<(), Closed> {
        self.revision += 1;
        let newest = Generation::next(self.highest, unix_seconds(modified));
        self.highest = Some(newest);
        let mut changes = Vec::new();
        let mut now = HashMap::with_capacity(nodes.len());
        for mut record in nodes {
            let known = self.nodes.remove(&record.key);
            if let Some(known) = &known {
                record.generation = known.generation;
            }
            if known.as_ref() != Some(&record) {
                record.generation = newest;
                changes.push(self.change(&record, true));
            }
            now.insert(record.key.clone(), record);
        }
        for gone in std::mem::replace(&mut self.nodes, now).values() {
            changes.push(self.change(gone, false));
        }
        let mut published = published;
        while let Some(change) = changes.pop() {
            let published = published.take_if(|_| changes.is_empty());
            self.registry.apply(change, published).await?;
        }
        Ok(())
    }

    fn change(&self, record: &NodeRecord, there: bool) -> Change {
        Change {
            origin: Origin::Fixed,
            key: record.key.clone(),
            stamp: Stamp {
                generation: record.generation,
                revision: self.revision,
            },
            record: there.then(|| Arc::new(record.clone())),
        }
    }
}

/// The file's text, and when it was changed.
async fn read(path: &Path) -> Result<(String, SystemTime), FileError> {
    let owned = path.to_owned();
    let reading = tokio::task::spawn_blocking(move || {
        let text = sidelane_process::settings::read_file(&owned)?;
        let modified = std::fs::metadata(&owned)?.modified()?;
        Ok((text, modified))
    });
    let read = reading
        .await
        .unwrap_or_else(|error| Err(std::io::Error::other(error)));
    read.map_err(|reason| FileError::Unreadable {
        path: path.to_owned(),
        reason,
    })
}

/// Seconds, where a sidecar counts its own generation from milliseconds: what a file says of a node
/// is older than what the node says of itself, whenever it was written.
fn unix_seconds(time: SystemTime) -> u64 {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

#[cfg(test)]
mod tests;

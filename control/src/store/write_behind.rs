//! The way to the store: the registry's writes are put on top of those that wait, and one thread
//! makes them durable. The registry never waits for the disk; what waits is bounded by the
//! number of keys, not of writes. A write that fails is tried again, and said in the status. What
//! must be durable before it is published goes the same way, and its writer waits; if it fails, it
//! is not tried again.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::sync::oneshot;

use super::{Store, StoreError, Writes};
use crate::registry::{Batch, Journal};

/// The pause after a failed write: a full disk rarely has room again sooner.
pub const RETRY: Duration = Duration::from_secs(1);
/// Entries of one kind that wait to be written. It is reached only if the store fails for long
/// while many nodes come and go; then what is least missed after a restart is forgotten.
pub const PENDING_LIMIT: usize = 65_536;
/// Versions that are set aside in the store before they are published: after a crash counting goes
/// on behind them, so that a version never means two things. At one version each 10 ms they last
/// 2.7 hours, and more are set aside when half are gone.
pub(super) const RESERVE: u64 = 1_000_000;

/// How the store is doing.
#[derive(Debug, Default)]
pub struct StoreStatus {
    failure: Mutex<Option<String>>,
    failures: AtomicU64,
    forgotten: AtomicU64,
}

impl StoreStatus {
    /// What the last write said, if it failed.
    #[must_use]
    pub fn failure(&self) -> Option<String> {
        unpoisoned(self.failure.lock()).clone()
    }

    /// Writes that failed.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Entries that were forgotten because too many waited.
    #[must_use]
    pub fn forgotten(&self) -> u64 {
        self.forgotten.load(Ordering::Relaxed)
    }

    fn succeeded(&self) {
        if unpoisoned(self.failure.lock()).take().is_some() {
            tracing::info!("the store can be written again");
        }
    }

    fn failed(&self, error: &StoreError) {
        self.failures.fetch_add(1, Ordering::Relaxed);
        let before = unpoisoned(self.failure.lock()).replace(error.to_string());
        if before.is_none() {
            tracing::error!(%error, "control goes on without its store, and tries again");
        }
    }
}

/// Writes what the registry publishes, in a thread of its own.
#[derive(Debug)]
pub struct WriteBehind {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// The registry's end.
#[derive(Debug)]
struct Writer {
    shared: Arc<Shared>,
    reserved: u64,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
    status: Arc<StoreStatus>,
}

/// The way for what must be durable before anybody hears of it.
#[derive(Debug, Clone)]
pub struct Ahead(Arc<Shared>);

/// Writes, and who waits for them.
#[derive(Debug)]
struct Urgent {
    writes: Writes,
    written: oneshot::Sender<Result<(), String>>,
}

#[derive(Debug, Default)]
struct State {
    waiting: Writes,
    /// On top of `waiting`, one after the other.
    urgent: Vec<Urgent>,
    /// The last version that was published.
    version: u64,
    stop: bool,
}

impl WriteBehind {
    /// Starts the thread. `version` is the one with which the store was loaded.
    ///
    /// # Errors
    /// The operating system gives no thread.
    pub fn start(store: Box<dyn Store>, version: u64) -> std::io::Result<(Self, Box<dyn Journal>)> {
        let shared = Arc::new(Shared {
            state: Mutex::new(State {
                version,
                ..State::default()
            }),
            wake: Condvar::new(),
            status: Arc::default(),
        });
        let writer = Writer {
            shared: Arc::clone(&shared),
            reserved: version + RESERVE,
        };
        let for_thread = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("store".to_owned())
            .spawn(move || for_thread.run(store))?;
        let behind = Self {
            shared,
            thread: Some(thread),
        };
        Ok((behind, Box::new(writer)))
    }

    /// How the store is doing.
    #[must_use]
    pub fn status(&self) -> Arc<StoreStatus> {
        Arc::clone(&self.shared.status)
    }

    /// For what must be durable first.
    #[must_use]
    pub fn ahead(&self) -> Ahead {
        Ahead(Arc::clone(&self.shared))
    }

    /// Writes what waits, once, gives the versions back that were set aside and not used, and
    /// closes the store. Blocks. False: something could not be written.
    pub fn stop(mut self) -> bool {
        self.shared.stop();
        let ended = self
            .thread
            .take()
            .is_none_or(|thread| thread.join().is_ok());
        ended && unpoisoned(self.shared.state.lock()).waiting.is_empty()
    }
}

impl Drop for WriteBehind {
    fn drop(&mut self) {
        self.shared.stop();
    }
}

impl Ahead {
    /// Makes these durable, on top of everything that was published.
    ///
    /// # Errors
    /// What the store said; then nothing of it is kept, nor written later.
    pub async fn commit(&self, writes: Writes) -> Result<(), String> {
        let closed = || "the store is closing".to_owned();
        let outcome = self.0.begin(writes).ok_or_else(closed)?;
        outcome.await.unwrap_or_else(|_| Err(closed()))
    }
}

impl Journal for Writer {
    fn record(&mut self, batch: Batch) {
        let mut writes = Writes {
            counter: None,
            nodes: batch.nodes.into_iter().collect(),
            generations: batch.generations.into_iter().collect(),
            services: batch
                .services
                .into_iter()
                .map(|service| (service, batch.version))
                .collect(),
            rules_floor: (!batch.rules.is_empty()).then_some(batch.rules_floor),
            rules: batch
                .rules
                .into_iter()
                .map(|rule| {
                    let key = (rule.network, rule.service);
                    (key, (rule.version, rule.rule))
                })
                .collect(),
            authority: HashMap::new(),
        };
        if batch.version + RESERVE / 2 > self.reserved {
            self.reserved = batch.version + RESERVE;
            writes.counter = Some(self.reserved);
        }
        let mut state = unpoisoned(self.shared.state.lock());
        state.version = batch.version;
        if writes.is_empty() {
            return;
        }
        state.waiting.merge(writes);
        let forgotten = forget_least_missed(&mut state.waiting);
        self.shared
            .status
            .forgotten
            .fetch_add(forgotten, Ordering::Relaxed);
        drop(state);
        self.shared.wake.notify_one();
    }
}

impl Shared {
    fn stop(&self) {
        unpoisoned(self.state.lock()).stop = true;
        self.wake.notify_one();
    }

    /// `None`: it is too late.
    fn begin(&self, writes: Writes) -> Option<oneshot::Receiver<Result<(), String>>> {
        let (written, outcome) = oneshot::channel();
        let mut state = unpoisoned(self.state.lock());
        if state.stop {
            return None;
        }
        state.urgent.push(Urgent { writes, written });
        drop(state);
        self.wake.notify_one();
        Some(outcome)
    }

    fn run(&self, mut store: Box<dyn Store>) {
        loop {
            let (writes, urgent, last) = self.next();
            match self.write(&mut *store, &writes) {
                Ok(()) => {
                    // In the order in which they came, each on its own: one that cannot be written
                    // must not take another with it.
                    for Urgent { writes, written } in urgent {
                        let done = self.write(&mut *store, &writes);
                        // Whoever waited has gone: it is written all the same.
                        let _ = written.send(done);
                    }
                }
                Err(reason) => {
                    self.put_back(writes);
                    for Urgent { written, .. } in urgent {
                        let _ = written.send(Err(reason.clone()));
                    }
                }
            }
            if last {
                return;
            }
            if self.status.failure().is_some() {
                self.pause();
            }
        }
    }

    fn write(&self, store: &mut dyn Store, writes: &Writes) -> Result<(), String> {
        if writes.is_empty() {
            return Ok(());
        }
        match store.commit(writes) {
            Ok(()) => {
                self.status.succeeded();
                Ok(())
            }
            Err(error) => {
                self.status.failed(&error);
                Err(error.to_string())
            }
        }
    }

    /// Waits for something to write. True: it is the last.
    fn next(&self) -> (Writes, Vec<Urgent>, bool) {
        let state = unpoisoned(self.state.lock());
        let idle =
            |state: &mut State| state.waiting.is_empty() && state.urgent.is_empty() && !state.stop;
        let mut state = unpoisoned(self.wake.wait_while(state, idle));
        let mut writes = std::mem::take(&mut state.waiting);
        if state.stop {
            writes.counter = Some(state.version);
        }
        (writes, std::mem::take(&mut state.urgent), state.stop)
    }

    fn put_back(&self, mut writes: Writes) {
        let mut state = unpoisoned(self.state.lock());
        writes.merge(std::mem::take(&mut state.waiting));
        state.waiting = writes;
    }

    fn pause(&self) {
        let state = unpoisoned(self.state.lock());
        let running = |state: &mut State| !state.stop;
        // Whether it was woken or the time is over: the next write tells how it stands.
        drop(self.wake.wait_timeout_while(state, RETRY, running));
    }
}

/// Nodes that left come back as suspect for one lease; generations and services of a time when the
/// disk was full are not known after a restart. Nodes that are there are never forgotten.
fn forget_least_missed(waiting: &mut Writes) -> u64 {
    let before = waiting.nodes.len() + waiting.generations.len() + waiting.services.len();
    if waiting.nodes.len() > PENDING_LIMIT {
        waiting.nodes.retain(|_, record| record.is_some());
    }
    if waiting.generations.len() > PENDING_LIMIT {
        waiting.generations.clear();
    }
    if waiting.services.len() > PENDING_LIMIT {
        waiting.services.clear();
    }
    let after = waiting.nodes.len() + waiting.generations.len() + waiting.services.len();
    (before - after) as u64
}

/// A panic elsewhere does not make what is under the lock wrong: it is replaced whole, never half.
fn unpoisoned<T>(locked: Result<T, PoisonError<T>>) -> T {
    locked.unwrap_or_else(PoisonError::into_inner)
}

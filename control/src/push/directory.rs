//! The open sessions, and an index of who wants to know of which service: so that a change wakes
//! its subscribers and nobody else. It is the registry's watcher, and runs in the writer's task:
//! it only sets wake-ups and never waits.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sidelane_proto::model::{Generation, Network, ServiceName, Subscription};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ack::{Progress, RefusedUpdate};
use crate::claim::StreamId;
use crate::registry::{NodeKey, Registry, Snapshot, Watcher};

/// Between two looks at all sessions, while somebody waits for them: a thousand sessions
/// acknowledge one change within milliseconds, and each of them would mean a look.
const RECHECK: Duration = Duration::from_millis(10);

/// The open sessions.
#[derive(Debug, Default)]
pub struct Directory {
    index: Mutex<Index>,
    /// Notified when a session has answered or ended, and at each version.
    progressed: Notify,
}

#[derive(Debug, Default)]
struct Index {
    sessions: HashMap<StreamId, Arc<Session>>,
    by_service: HashMap<Network, HashMap<ServiceName, Subscribers>>,
    all: HashMap<Network, Subscribers>,
}

type Subscribers = HashMap<StreamId, Arc<Session>>;

/// One session, as others see it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) stream: StreamId,
    pub(super) key: NodeKey,
    pub(super) generation: Generation,
    /// There may be something to tell.
    pub(super) wake: Notify,
    progress: Mutex<Progress>,
}

/// A session in the directory, for as long as this lives.
#[derive(Debug)]
pub(super) struct Entry {
    directory: Arc<Directory>,
    pub(super) session: Arc<Session>,
}

/// A session that has not acknowledged a version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Laggard {
    /// Whose it is.
    pub key: NodeKey,
    /// What it acknowledged last.
    pub acknowledged: u64,
    /// What it refused, if that is why.
    pub refused: Option<RefusedUpdate>,
}

/// An open session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The node's generation.
    pub generation: Generation,
    /// The newest version of which it has everything that it wants to know.
    pub acknowledged: u64,
    /// What it refused last.
    pub refused: Option<RefusedUpdate>,
}

impl Directory {
    /// How many sessions are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.index().sessions.len()
    }

    /// The open sessions by node. Where a node has two for a moment, the newer one counts.
    #[must_use]
    pub fn sessions(&self, snapshot: &Snapshot) -> HashMap<NodeKey, Listed> {
        let mut sessions = self.open();
        sessions.sort_by_key(|session| session.stream);
        let listed = |session: Arc<Session>| {
            let progress = session.progress();
            let listed = Listed {
                generation: session.generation,
                acknowledged: match progress.has(snapshot.counter(), snapshot) {
                    true => snapshot.counter(),
                    false => progress.acknowledged(),
                },
                refused: progress.refused().cloned(),
            };
            (session.key.clone(), listed)
        };
        sessions.into_iter().map(listed).collect()
    }

    /// Waits until every session has acknowledged a version, as far as it wants to know of it.
    /// Returns those that have not when the wait is over; `None` if the version itself was not
    /// there yet.
    pub async fn wait(
        &self,
        registry: &Registry,
        version: u64,
        until: Instant,
    ) -> Option<Vec<Laggard>> {
        self.wait_for(registry, version, until, |_| true).await
    }

    /// As [`Directory::wait`], for the sessions that want to know of any of these services, this
    /// node's own one excepted.
    pub(super) async fn wait_for_subscribers(
        &self,
        registry: &Registry,
        version: u64,
        until: Instant,
        key: &NodeKey,
        services: &[ServiceName],
    ) -> Vec<Laggard> {
        let concerned = |session: &Session| {
            session.key != *key && session.key.network == key.network && {
                let progress = session.progress();
                services.iter().any(|service| progress.wants(service))
            }
        };
        let waited = self.wait_for(registry, version, until, concerned).await;
        waited.unwrap_or_default()
    }

    /// A session opens.
    pub(super) fn enter(
        self: &Arc<Self>,
        stream: StreamId,
        key: NodeKey,
        generation: Generation,
        progress: Progress,
    ) -> Entry {
        let services: Vec<ServiceName> = progress.services().cloned().collect();
        let all = progress.wants_all();
        let session = Arc::new(Session {
            stream,
            key,
            generation,
            wake: Notify::new(),
            progress: Mutex::new(progress),
        });
        let mut index = self.index();
        index.sessions.insert(stream, Arc::clone(&session));
        index.subscribe(&session, services, all);
        drop(index);
        Entry {
            directory: Arc::clone(self),
            session,
        }
    }

    async fn wait_for(
        &self,
        registry: &Registry,
        version: u64,
        until: Instant,
        concerned: impl Fn(&Session) -> bool,
    ) -> Option<Vec<Laggard>> {
        loop {
            let mut progressed = std::pin::pin!(self.progressed.notified());
            // From here on a notification is not missed, whatever happens during the look.
            progressed.as_mut().enable();
            let looked = Instant::now();
            let snapshot = registry.snapshot();
            let behind = (snapshot.counter() >= version)
                .then(|| self.behind(version, &snapshot, &concerned));
            if looked >= until || behind.as_ref().is_some_and(Vec::is_empty) {
                return behind;
            }
            if tokio::time::timeout_at(until, progressed).await.is_ok() {
                tokio::time::sleep_until(until.min(looked + RECHECK)).await;
            }
        }
    }

    fn behind(
        &self,
        version: u64,
        snapshot: &Snapshot,
        concerned: impl Fn(&Session) -> bool,
    ) -> Vec<Laggard> {
        let mut behind = Vec::new();
        for session in self.open() {
            if !concerned(&session) {
                continue;
            }
            let progress = session.progress();
            if !progress.has(version, snapshot) {
                behind.push(Laggard {
                    key: session.key.clone(),
                    acknowledged: progress.acknowledged(),
                    refused: progress.refused().cloned(),
                });
            }
        }
        behind.sort_by(|one, two| one.key.cmp(&two.key));
        behind
    }

    /// A copy, so that nothing is worked out under the lock that the writer needs.
    fn open(&self) -> Vec<Arc<Session>> {
        self.index().sessions.values().cloned().collect()
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher for Directory {
    fn published(&self, _: &Arc<Snapshot>, changed: &[(Network, ServiceName)]) {
        let index = self.index();
        for (network, service) in changed {
            let named = index.by_service.get(network);
            let named = named.and_then(|services| services.get(service));
            let sessions = named.into_iter().chain(index.all.get(network));
            for session in sessions.flat_map(HashMap::values) {
                session.wake.notify_one();
            }
        }
        drop(index);
        self.progressed.notify_waiters();
    }
}

impl Index {
    fn subscribe(
        &mut self,
        session: &Arc<Session>,
        services: impl IntoIterator<Item = ServiceName>,
        all: bool,
    ) {
        let network = &session.key.network;
        let by_service = self.by_service.entry(network.clone()).or_default();
        for service in services {
            let subscribers = by_service.entry(service).or_default();
            subscribers.insert(session.stream, Arc::clone(session));
        }
        if all {
            let subscribers = self.all.entry(network.clone()).or_default();
            subscribers.insert(session.stream, Arc::clone(session));
        }
    }

    fn unsubscribe<'a>(
        &mut self,
        session: &Session,
        services: impl IntoIterator<Item = &'a ServiceName>,
    ) {
        let Some(by_service) = self.by_service.get_mut(&session.key.network) else {
            return;
        };
        for service in services {
            if let Some(subscribers) = by_service.get_mut(service) {
                subscribers.remove(&session.stream);
                if subscribers.is_empty() {
                    by_service.remove(service);
                }
            }
        }
        if by_service.is_empty() {
            self.by_service.remove(&session.key.network);
        }
    }
}

impl Session {
    pub(super) fn progress(&self) -> MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Entry {
    /// The session wants to know more, or no more. It is in the index before anything is read for
    /// it, so that a change in between is not missed.
    pub(super) fn subscribe(&self, subscription: &Subscription, registry: &Registry) {
        let mut index = self.directory.index();
        index.unsubscribe(&self.session, &subscription.remove);
        index.subscribe(
            &self.session,
            subscription.add.iter().cloned(),
            subscription.all,
        );
        drop(index);
        let snapshot = registry.snapshot();
        self.session.progress().subscribe(subscription, &snapshot);
    }

    /// The session has answered: whoever waits for that should look again.
    pub(super) fn answered(&self) {
        self.directory.progressed.notify_waiters();
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let services: Vec<ServiceName> = self.session.progress().services().cloned().collect();
        let mut index = self.directory.index();
        index.sessions.remove(&self.session.stream);
        index.unsubscribe(&self.session, &services);
        let network = &self.session.key.network;
        if let Some(all) = index.all.get_mut(network) {
            all.remove(&self.session.stream);
            if all.is_empty() {
                index.all.remove(network);
            }
        }
        drop(index);
        self.directory.progressed.notify_waiters();
    }
}

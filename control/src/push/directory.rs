//! The open sessions, and an index of who wants to know of which service and who offers it: so that
//! a change wakes those whom it concerns and nobody else. It is the registry's watcher, and runs in the writer's task:
//! it only sets wake-ups and never waits.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use sidelane_proto::model::{Generation, Network, ServiceName, Subscription};
use tokio::sync::Notify;
use tokio::time::Instant;

use super::ack::{Progress, RefusedRule, RefusedUpdate};
use crate::ca::Heard;
use crate::claim::StreamId;
use crate::registry::{Changed, NodeKey, Registry, Snapshot, Watcher};

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
    by_service: ByService,
    /// Who offers a service is told its rule.
    by_offer: ByService,
    all: HashMap<Network, Subscribers>,
}

type Subscribers = HashMap<StreamId, Arc<Session>>;
type ByService = HashMap<Network, HashMap<ServiceName, Subscribers>>;

/// One session, as others see it.
#[derive(Debug)]
pub(super) struct Session {
    pub(super) stream: StreamId,
    pub(super) key: NodeKey,
    pub(super) generation: Generation,
    /// There may be something to tell.
    pub(super) wake: Notify,
    progress: Mutex<Progress>,
    /// The revision of trust that it acknowledged.
    pub(super) trust: AtomicU64,
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
    /// Rules that it does not follow: the newest few, and how many there are.
    pub refused_rules: (Vec<RefusedRule>, usize),
}

impl Directory {
    /// How many sessions are open.
    #[must_use]
    pub fn count(&self) -> usize {
        self.index().sessions.len()
    }

    /// Who has acknowledged this revision of trust.
    #[must_use]
    pub fn trust(&self, revision: u64) -> Heard {
        let mut heard = Heard {
            all: true,
            nodes: HashSet::new(),
        };
        for session in self.index().sessions.values() {
            if session.trust.load(Ordering::Relaxed) >= revision {
                heard.nodes.insert(session.key.node.clone());
            } else {
                heard.all = false;
            }
        }
        heard
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
                refused_rules: progress.refused_rules(),
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
        self.wait_for(registry, version, until, || self.open())
            .await
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
        let concerned = || {
            let mut subscribers = self.subscribers(&key.network, services);
            subscribers.retain(|session| session.key != *key);
            subscribers
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
        let offered: Vec<ServiceName> = progress.offered().cloned().collect();
        let all = progress.wants_all();
        let session = Arc::new(Session {
            stream,
            key,
            generation,
            wake: Notify::new(),
            progress: Mutex::new(progress),
            trust: AtomicU64::new(0),
        });
        let mut index = self.index();
        index.sessions.insert(stream, Arc::clone(&session));
        index.subscribe(&session, services, all);
        enter(&mut index.by_offer, &session, offered);
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
        concerned: impl Fn() -> Vec<Arc<Session>>,
    ) -> Option<Vec<Laggard>> {
        loop {
            let mut progressed = std::pin::pin!(self.progressed.notified());
            // From here on a notification is not missed, whatever happens during the look.
            progressed.as_mut().enable();
            let looked = Instant::now();
            let snapshot = registry.snapshot();
            let behind =
                (snapshot.counter() >= version).then(|| behind(version, &snapshot, concerned()));
            if looked >= until || behind.as_ref().is_some_and(Vec::is_empty) {
                return behind;
            }
            if tokio::time::timeout_at(until, progressed).await.is_ok() {
                tokio::time::sleep_until(until.min(looked + RECHECK)).await;
            }
        }
    }

    /// A copy, so that nothing is worked out under the lock that the writer needs.
    fn open(&self) -> Vec<Arc<Session>> {
        self.index().sessions.values().cloned().collect()
    }

    /// Who wants to know of any of these services.
    fn subscribers(&self, network: &Network, services: &[ServiceName]) -> Vec<Arc<Session>> {
        let index = self.index();
        let named = services
            .iter()
            .filter_map(|service| of(&index.by_service, network, service));
        let mut found = Subscribers::new();
        for sessions in named.chain(index.all.get(network)) {
            found.extend(
                sessions
                    .iter()
                    .map(|(id, session)| (*id, Arc::clone(session))),
            );
        }
        found.into_values().collect()
    }

    fn index(&self) -> MutexGuard<'_, Index> {
        self.index.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Watcher for Directory {
    fn published(&self, _: &Arc<Snapshot>, changed: &Changed) {
        let index = self.index();
        let wake = |sessions: Option<&Subscribers>| {
            for session in sessions.into_iter().flat_map(HashMap::values) {
                session.wake.notify_one();
            }
        };
        let ruled = changed.rules.iter();
        for (network, service) in changed.services.iter().chain(ruled.clone()) {
            wake(of(&index.by_service, network, service));
        }
        for (network, service) in ruled.clone() {
            wake(of(&index.by_offer, network, service));
        }
        let networks = changed.services.iter().chain(ruled);
        let networks: HashSet<&Network> = networks.map(|(network, _)| network).collect();
        for network in networks {
            wake(index.all.get(network));
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
        enter(&mut self.by_service, session, services);
        if all {
            let network = &session.key.network;
            let subscribers = self.all.entry(network.clone()).or_default();
            subscribers.insert(session.stream, Arc::clone(session));
        }
    }
}

fn enter(
    index: &mut ByService,
    session: &Arc<Session>,
    services: impl IntoIterator<Item = ServiceName>,
) {
    let by_service = index.entry(session.key.network.clone()).or_default();
    for service in services {
        let sessions = by_service.entry(service).or_default();
        sessions.insert(session.stream, Arc::clone(session));
    }
    if by_service.is_empty() {
        index.remove(&session.key.network);
    }
}

fn leave<'a>(
    index: &mut ByService,
    session: &Session,
    services: impl IntoIterator<Item = &'a ServiceName>,
) {
    let Some(by_service) = index.get_mut(&session.key.network) else {
        return;
    };
    for service in services {
        if let Some(sessions) = by_service.get_mut(service) {
            sessions.remove(&session.stream);
            if sessions.is_empty() {
                by_service.remove(service);
            }
        }
    }
    if by_service.is_empty() {
        index.remove(&session.key.network);
    }
}

fn behind(version: u64, snapshot: &Snapshot, sessions: Vec<Arc<Session>>) -> Vec<Laggard> {
    let mut behind = Vec::new();
    for session in sessions {
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

fn of<'a>(
    index: &'a ByService,
    network: &Network,
    service: &ServiceName,
) -> Option<&'a Subscribers> {
    index.get(network)?.get(service)
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
        leave(&mut index.by_service, &self.session, &subscription.remove);
        index.subscribe(
            &self.session,
            subscription.add.iter().cloned(),
            subscription.all,
        );
        drop(index);
        let snapshot = registry.snapshot();
        self.session.progress().subscribe(subscription, &snapshot);
    }

    /// The node offers these services from now on. It is in the index first, as above.
    pub(super) fn offer(&self, services: &[ServiceName]) {
        let before: Vec<ServiceName> = self.session.progress().offered().cloned().collect();
        let mut index = self.directory.index();
        leave(&mut index.by_offer, &self.session, &before);
        enter(&mut index.by_offer, &self.session, services.iter().cloned());
        drop(index);
        self.session.progress().offer(services);
    }

    /// The session has answered: whoever waits for that should look again.
    pub(super) fn answered(&self) {
        self.directory.progressed.notify_waiters();
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let progress = self.session.progress();
        let services: Vec<ServiceName> = progress.services().cloned().collect();
        let offered: Vec<ServiceName> = progress.offered().cloned().collect();
        drop(progress);
        let mut index = self.directory.index();
        index.sessions.remove(&self.session.stream);
        leave(&mut index.by_service, &self.session, &services);
        leave(&mut index.by_offer, &self.session, &offered);
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

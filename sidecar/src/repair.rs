//! Repairs ghosts: a node whose link turned out closed is taken out of the hubs of that class and lane at once, dialled
//! again with backoff, and put back when a link stands. It ends when control says that the node is
//! gone. At most one repair runs for a key.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, Weak};
use std::time::{Duration, Instant};

use sidelane_proto::model::{Generation, NodeId};
use tokio::task::JoinSet;
use tracing::{debug, info};

use crate::mesh::Mesh;
use crate::pool::{Address, CloseCause, ConnectError, Key, Observer, Pool, PoolError, To};

/// Between two dials, where the pool does not say how long to wait.
const PAUSE: Duration = Duration::from_millis(250);

/// Watches links and repairs them.
#[derive(Debug)]
pub struct Repair {
    mesh: Arc<Mesh>,
    pool: OnceLock<Weak<Pool>>,
    under_way: Mutex<HashSet<Key>>,
    tasks: Mutex<JoinSet<()>>,
    this: Weak<Self>,
}

impl Repair {
    /// For the nodes of this mesh.
    #[must_use]
    pub fn new(mesh: Arc<Mesh>) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            mesh,
            pool: OnceLock::new(),
            under_way: Mutex::default(),
            tasks: Mutex::default(),
            this: this.clone(),
        })
    }

    /// The pool to dial with: it is made after its observer.
    pub fn dial_with(&self, pool: &Arc<Pool>) {
        let _ = self.pool.set(Arc::downgrade(pool));
    }

    /// The node behind this key cannot be reached.
    pub fn lost(&self, key: &Key, why: &dyn std::fmt::Display) {
        let To::Peer { node, generation } = &key.to else {
            return;
        };
        if !self.mesh.has(node, *generation) {
            return;
        }
        if self
            .mesh
            .failed(node, *generation, (key.class, key.lane), Instant::now())
        {
            info!(%node, %generation, class = %key.class, lane = %key.lane, %why, "a link is gone");
        }
        let Some(this) = self.this.upgrade() else {
            return;
        };
        let ghost = (node.clone(), *generation);
        if !lock(&self.under_way).insert(key.clone()) {
            return;
        }
        let (key, since) = (key.clone(), Instant::now());
        let mut tasks = lock(&self.tasks);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            this.run(&key, &ghost, since).await;
            lock(&this.under_way).remove(&key);
        });
    }

    /// The node answers in a newer generation than control told of: it started anew while control
    /// was away. Hubs learn of it; links to the old one end.
    pub fn replaced(&self, node: &NodeId, old: Generation, new: Generation) {
        info!(%node, %old, %new, "a node has started anew");
        self.mesh.replaced(node, old, new, Instant::now());
        if let Some(pool) = self.pool.get().and_then(Weak::upgrade) {
            pool.retire(node, old);
        }
    }

    /// Dials until a link stands that was opened after the loss. One that stood before may be to
    /// a peer that hangs: by it, the node would be back in its hubs while nobody answers.
    async fn run(&self, key: &Key, (node, generation): &(NodeId, Generation), since: Instant) {
        loop {
            let Some(address) = self.address(key, node, *generation) else {
                debug!(%node, %generation, "gone for good, no longer dialled");
                return;
            };
            let Some(pool) = self.pool.get().and_then(Weak::upgrade) else {
                return;
            };
            match pool.reach(key, &address, since).await {
                Ok(_) => {
                    self.mesh.ready(node, *generation, (key.class, key.lane));
                    info!(%node, %generation, "reached again");
                    return;
                }
                // Too many wait for the same dial, or the link that stands is full.
                Err(PoolError::LaneFull { .. }) => {
                    drop(pool);
                    tokio::time::sleep(PAUSE).await;
                }
                Err(PoolError::Closed | PoolError::TooManyDestinations) => return,
                Err(PoolError::Connect { error, again }) => {
                    if let ConnectError::Newer { found, .. } = &*error {
                        return self.replaced(node, *generation, *found);
                    }
                    drop(pool);
                    tokio::time::sleep(again.unwrap_or(PAUSE)).await;
                }
            }
        }
    }

    /// Where the node listens, as long as this generation of it is meant by anybody.
    fn address(&self, key: &Key, node: &NodeId, generation: Generation) -> Option<Address> {
        self.mesh.view().targets().find_map(|target| {
            let hub = target.hub();
            let endpoint = hub.get(node.as_str())?;
            let same = endpoint.generation == generation;
            let address = endpoint.addresses.of(key.class).filter(|_| same)?;
            Some(Address::Peer(address.clone(), endpoint.identity.clone()))
        })
    }
}

impl Observer for Repair {
    fn closed(&self, key: &Key, cause: &CloseCause) {
        self.lost(key, cause);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

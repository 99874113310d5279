//! The connections to peers and local services, keyed by (node, generation, class, lane). It
//! dials when a call needs a connection, once for all who wait for the same one, and gives each
//! call a seat on a link. It knows no hub: what became of a link is told to an [`Observer`].

mod backoff;
mod connect;
mod key;
mod link;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::convert::Infallible;
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::client::SendRequest;
use sidelane_identity::Refusal;
use sidelane_identity::verify::Leaf;
use sidelane_proto::model::{Generation, NodeId};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout_at;
use tracing::{debug, info};

use backoff::Backoff;
use connect::Agreed;
pub use connect::{ConnectError, PEER_PROTOCOL};
pub use key::{Address, Key, To};
pub use link::{CloseCause, Link, Seat, Sent};

use crate::hash::QuickState;
use crate::identity::Own;
use crate::lane::settings;
use crate::line::{InLine, Line};
use crate::onward::Onward;
use crate::telemetry::{Counted, Dial, LaneCounters, Metrics, Side};
use crate::trust::{DISTRUSTED_LIMIT, Trust};

/// Idle and old links are looked for this often.
const SWEEP: Duration = Duration::from_secs(1);
/// Between two times that a peer is asked for a newer certificate.
const PROVE_AGAIN: Duration = Duration::from_millis(250);
/// A key without links is forgotten after this long.
const FORGET: Duration = Duration::from_secs(60);

/// Destinations outside the mesh that are known at once. Callers name them, so their number has a
/// bound; one without connections is forgotten a minute after it was last called.
pub const DESTINATIONS_LIMIT: usize = 1024;

/// Why a call gets no seat. It was not sent.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PoolError {
    /// Every connection that the lane may have is full.
    #[error(
        "{key}: all {connections} connections have {limit} calls each; try again later, or give \
         the service its own lane"
    )]
    LaneFull {
        /// For whom.
        key: String,
        /// Connections open.
        connections: usize,
        /// Calls on each.
        limit: u32,
    },
    /// The dial failed, now or a moment ago.
    #[error("{error}{}", again.map_or(String::new(), |wait| format!(" (next dial in {} ms)", wait.as_millis())))]
    Connect {
        /// What happened.
        error: Arc<ConnectError>,
        /// When it is tried again, where it was not just tried.
        again: Option<Duration>,
    },
    /// Calls go to too many destinations outside the mesh.
    #[error(
        "calls go to {DESTINATIONS_LIMIT} destinations outside the mesh already, which is the most; \
         one that is not called is forgotten after a minute or two"
    )]
    TooManyDestinations,
    /// The pool is closing.
    #[error("this sidecar is stopping")]
    Closed,
}

/// Is told when a link ended that nobody had retired.
pub trait Observer: Send + Sync + 'static {
    /// The link to `key` is gone.
    fn closed(&self, key: &Key, cause: &CloseCause);
}

type Dialled = Option<Result<(), Arc<ConnectError>>>;

#[derive(Debug)]
struct Slot {
    links: Vec<Arc<Link>>,
    dialing: Option<watch::Receiver<Dialled>>,
    waiting: usize,
    backoff: Backoff,
    blocked: Option<(Instant, Arc<ConnectError>)>,
    persistent: bool,
    touched: Instant,
    /// Calls that wait for room while all links are full.
    line: Arc<Line<Seat>>,
    /// Of the lane; `None` towards local services.
    counters: Option<Arc<LaneCounters>>,
}

/// All connections of a sidecar.
pub struct Pool {
    own: Own,
    observer: Arc<dyn Observer>,
    onward: Arc<Onward>,
    metrics: Arc<Metrics>,
    trust: Trust,
    max_age: Duration,
    slots: Mutex<HashMap<Key, Slot, QuickState>>,
    tasks: Mutex<JoinSet<()>>,
    this: Weak<Self>,
}

impl Pool {
    /// An empty pool that dials as `own`, and whatever is outside the mesh by `onward`. Its
    /// connections come of age after `max_age`, give or take a tenth.
    #[must_use]
    pub fn new(
        own: Own,
        observer: Arc<dyn Observer>,
        onward: Arc<Onward>,
        metrics: Arc<Metrics>,
        trust: Trust,
        max_age: Duration,
    ) -> Arc<Self> {
        Arc::new_cyclic(|this| Self {
            own,
            observer,
            onward,
            metrics,
            trust,
            max_age,
            slots: Mutex::default(),
            tasks: Mutex::default(),
            this: this.clone(),
        })
    }

    /// A seat for one call, on a connection that stands or is dialled now. Where all are full,
    /// `may_wait` is asked whether the call waits its turn, for as long as its lane says.
    ///
    /// # Errors
    /// There is no room in the lane, or no connection. The call was not sent.
    pub async fn seat(
        &self,
        key: &Key,
        address: &Address,
        persistent: bool,
        may_wait: impl FnOnce() -> bool,
    ) -> Result<Seat, PoolError> {
        let found = match self.seat_now(key, address, persistent).await {
            Err(full @ PoolError::LaneFull { .. }) if may_wait() => {
                // In a box: a call that finds room is no larger for it.
                let in_line = Box::pin(self.seat_in_line(key, address, persistent));
                in_line.await.unwrap_or(Err(full))
            }
            found => found,
        };
        if let Err(PoolError::LaneFull { .. }) = &found {
            let counters = self.counters(key);
            counters.iter().for_each(|counters| counters.full());
        }
        found
    }

    async fn seat_now(
        &self,
        key: &Key,
        address: &Address,
        persistent: bool,
    ) -> Result<Seat, PoolError> {
        self.found_or_dialled(key, address, persistent, |slot| {
            // Whoever came before goes first.
            if !slot.line.is_empty() {
                return None;
            }
            let open = slot.links.iter().filter(|link| link.is_open());
            open.min_by_key(|link| link.in_flight())
                .and_then(Link::seat)
        })
        .await
    }

    /// Waits for a seat; `None` where the line, too, is full, or the wait was too long.
    async fn seat_in_line(
        &self,
        key: &Key,
        address: &Address,
        persistent: bool,
    ) -> Option<Result<Seat, PoolError>> {
        let until = Instant::now() + settings(key.lane).longest_wait;
        loop {
            let (in_line, _waiting) = self.join_line(key)?;
            match timeout_at(until.into(), in_line).await {
                Ok(Some(seat)) => return Some(Ok(seat)),
                Err(_) => return None,
                // The links are others now.
                Ok(None) => {}
            }
            match self.seat_now(key, address, persistent).await {
                Err(PoolError::LaneFull { .. }) => {}
                found => return Some(found),
            }
        }
    }

    fn join_line(&self, key: &Key) -> Option<(InLine<Seat>, Option<Counted>)> {
        let slots = self.slots();
        let slot = slots.get(key)?;
        let in_line = slot.line.join(settings(key.lane).queue)?;
        let waiting = slot.counters.as_ref().map(LaneCounters::waiting);
        // Room may have come free before the line was joined.
        slot.links.iter().for_each(Link::serve_line);
        Some((in_line, waiting))
    }

    /// Reaches a peer anew: by a link that was opened after `since`, or one that is dialled now.
    /// A link that stood before proves nothing: its peer may hang.
    ///
    /// # Errors
    /// As [`Pool::seat`].
    pub async fn reach(
        &self,
        key: &Key,
        address: &Address,
        since: Instant,
    ) -> Result<(), PoolError> {
        self.found_or_dialled(key, address, false, |slot| {
            let mut links = slot.links.iter();
            let newer = links.any(|link| link.is_open() && link.opened >= since);
            newer.then_some(())
        })
        .await
    }

    /// What is looked for in a slot's links, now or once a link was dialled for it.
    async fn found_or_dialled<Wanted>(
        &self,
        key: &Key,
        address: &Address,
        persistent: bool,
        look: impl Fn(&Slot) -> Option<Wanted>,
    ) -> Result<Wanted, PoolError> {
        loop {
            let found = self.find_or_dial(key, address, persistent, &look)?;
            let (mut dialled, _waiting) = match found {
                Found::Standing(wanted) => return Ok(wanted),
                Found::Dialing(dialled, waiting) => (dialled, waiting),
            };
            // In a box: a call that finds a link is no larger for it.
            let result = Box::pin(dialled.wait_for(Option::is_some)).await;
            let result = result.map_err(|_| PoolError::Closed)?;
            if let Some(Err(error)) = &*result {
                return Err(PoolError::Connect {
                    error: Arc::clone(error),
                    again: None,
                });
            }
        }
    }

    /// Closes every link to this generation of this node, once its calls are over.
    pub fn retire(&self, node: &NodeId, generation: Generation) {
        let mut slots = self.slots();
        slots.retain(|key, slot| {
            let To::Peer {
                node: peer,
                generation: of,
            } = &key.to
            else {
                return true;
            };
            if peer != node || *of != generation {
                return true;
            }
            slot.links.iter().for_each(|link| link.retire());
            false
        });
    }

    /// All links that stand.
    #[must_use]
    pub fn links(&self) -> Vec<Arc<Link>> {
        self.slots()
            .values()
            .flat_map(|slot| slot.links.iter().cloned())
            .collect()
    }

    /// Looks after idle and old links; runs for as long as the pool lives.
    pub async fn sweep(self: Arc<Self>) {
        let mut ticks = tokio::time::interval(SWEEP);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            ticks.tick().await;
            self.sweep_at(Instant::now());
        }
    }

    /// Retires all links and ends every task, those that hang too.
    pub async fn close(&self) {
        for (_, slot) in self.slots().drain() {
            slot.links.iter().for_each(|link| link.retire());
        }
        let mut tasks = std::mem::take(&mut *self.tasks());
        // A link that was retired says goodbye with a GOAWAY; one that hangs is cut off.
        let orderly = async { while tasks.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(Duration::from_millis(500), orderly).await;
    }

    fn find_or_dial<Wanted>(
        &self,
        key: &Key,
        address: &Address,
        persistent: bool,
        look: impl Fn(&Slot) -> Option<Wanted>,
    ) -> Result<Found<Wanted>, PoolError> {
        let mut slots = self.slots();
        if let To::Destination(_) = key.to
            && !slots.contains_key(key)
        {
            let outside = |known: &&Key| matches!(known.to, To::Destination(_));
            if slots.keys().filter(outside).count() >= DESTINATIONS_LIMIT {
                return Err(PoolError::TooManyDestinations);
            }
        }
        let slot = match slots.get_mut(key) {
            Some(slot) => slot,
            None => slots
                .entry(key.clone())
                .or_insert_with(|| Slot::new(self.counters(key))),
        };
        slot.persistent |= persistent;
        if let Some(wanted) = look(slot) {
            return Ok(Found::Standing(wanted));
        }
        slot.links.retain(|link| link.is_open());
        slot.touched = Instant::now();
        let lane = settings(key.lane);
        let full = || PoolError::LaneFull {
            key: key.to_string(),
            connections: lane.max_connections,
            limit: lane.max_streams,
        };
        if slot.dialing.is_none() {
            if let Some((until, error)) = &slot.blocked
                && let Some(left) = until.checked_duration_since(slot.touched)
            {
                let error = Arc::clone(error);
                return Err(PoolError::Connect {
                    error,
                    again: Some(left),
                });
            }
            if slot.links.len() >= lane.max_connections {
                return Err(full());
            }
            let line = Arc::clone(&slot.line);
            slot.dialing = Some(self.dial(key.clone(), address.clone(), line));
        }
        if slot.waiting >= lane.max_waiting {
            return Err(full());
        }
        let Some(dialled) = slot.dialing.clone() else {
            return Err(PoolError::Closed);
        };
        slot.waiting += 1;
        let waiting = Waiting {
            pool: self.this.clone(),
            key: key.clone(),
            _counted: slot.counters.as_ref().map(LaneCounters::waiting),
        };
        Ok(Found::Dialing(dialled, waiting))
    }

    /// Starts a dial that outlives the call that asked for it: others may wait for it too.
    fn dial(&self, key: Key, address: Address, line: Arc<Line<Seat>>) -> watch::Receiver<Dialled> {
        let (sender, receiver) = watch::channel(None);
        let pool = self.this.clone();
        let own = self.own.clone();
        let onward = Arc::clone(&self.onward);
        let (trust, metrics) = (self.trust.clone(), Arc::clone(&self.metrics));
        let max_age = self.max_age;
        let counters = self.counters(&key);
        let mut tasks = self.tasks();
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            let report = |result: Result<Arc<Link>, ConnectError>| {
                if let Some(pool) = pool.upgrade() {
                    sender.send_replace(Some(pool.dialled(&key, result.map_err(Arc::new))));
                }
            };
            let lane = settings(key.lane);
            let opened = connect::open(&key, &address, &lane, &onward, (counters.clone(), &trust, &metrics.trust));
            let opened = opened.await;
            let opened = match opened {
                Ok(opened) => opened,
                Err(error) => return report(Err(error)),
            };
            let _open = opened.open;
            // The connection is driven while the Hello is said, and afterwards to its end.
            let pings = matches!(key.to, To::Peer { .. }).then_some(settings(key.lane));
            let mut drive = pin!(link::drive(opened.driver, pings.as_ref()));
            let greeted = tokio::select! {
                biased;
                greeted = greet(&own, &key, &address, &opened.sender) => greeted,
                cause = &mut drive => Err(ConnectError::Ended { address: address.to_string(), cause }),
            };
            let mut agreed = match greeted {
                Ok(agreed) => agreed,
                Err(error) => return report(Err(error)),
            };
            agreed.limit = agreed.limit.min(settings(key.lane).max_streams);
            let ends = (opened.local, opened.remote);
            let (begins, ends_by_age) = lifetime(max_age);
            let proved_until = trust.until(opened.proved.as_ref(), begins);
            let lifetime = (begins, proved_until.map_or(ends_by_age, |at| at.min(ends_by_age)));
            let link = Arc::new(Link::new(
                key.clone(),
                opened.sender,
                ends,
                agreed,
                (counters.clone(), line),
                opened.proved,
                lifetime,
            ));
            let _standing = counters.as_ref().map(LaneCounters::connection);
            report(Ok(Arc::clone(&link)));
            let cause = match &link.proved {
                None => drive.await,
                Some(leaf) => tokio::select! {
                    cause = &mut drive => cause,
                    refusal = distrusted(&trust, leaf, &link) => CloseCause::Distrusted(refusal),
                    never = proved_anew(&pool, &trust, (leaf, &link), &address) => match never {},
                },
            };
            if let Some(pool) = pool.upgrade() {
                pool.closed(&link, &cause);
            }
        });
        receiver
    }

    fn dialled(
        &self,
        key: &Key,
        result: Result<Arc<Link>, Arc<ConnectError>>,
    ) -> Result<(), Arc<ConnectError>> {
        let whom = match &key.to {
            To::Peer { .. } => Dial::Peer,
            To::Local(_) => Dial::Local,
            To::Destination(_) => Dial::Destination,
        };
        self.metrics.dialled(whom, result.is_ok());
        let mut slots = self.slots();
        let Some(slot) = slots.get_mut(key) else {
            // Nobody means this peer any more.
            return result.map(|link| link.retire());
        };
        slot.dialing = None;
        match result {
            Ok(link) => {
                slot.backoff.succeeded();
                slot.blocked = None;
                link.serve_line();
                slot.links.push(link);
                Ok(())
            }
            Err(error) => {
                let wait = slot.backoff.failed(fastrand::u64(..));
                slot.blocked = Some((Instant::now() + wait, Arc::clone(&error)));
                Err(error)
            }
        }
    }

    fn counters(&self, key: &Key) -> Option<Arc<LaneCounters>> {
        let peer = matches!(key.to, To::Peer { .. });
        peer.then(|| self.metrics.lane(key.class, key.lane, Side::Dialled))
    }

    fn sweep_at(&self, now: Instant) {
        let mut slots = self.slots();
        slots.retain(|key, slot| {
            let idle = settings(key.lane).idle;
            for link in &slot.links {
                let over = link.idle_since().is_some_and(|since| now >= since + idle);
                if now >= link.expires || (over && !slot.persistent) {
                    link.retire();
                }
            }
            slot.links.retain(|link| link.is_open());
            let forgotten = now.saturating_duration_since(slot.touched) > FORGET;
            !(slot.links.is_empty() && slot.dialing.is_none() && slot.waiting == 0 && forgotten)
        });
    }

    fn closed(&self, link: &Arc<Link>, cause: &CloseCause) {
        let expected = link.retired();
        link.mark_closed();
        if let Some(slot) = self.slots().get_mut(&link.key) {
            slot.links.retain(|known| !Arc::ptr_eq(known, link));
        }
        if !expected {
            self.observer.closed(&link.key, cause);
        }
    }

    fn slots(&self) -> MutexGuard<'_, HashMap<Key, Slot, QuickState>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tasks(&self) -> MutexGuard<'_, JoinSet<()>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Slot {
    fn new(counters: Option<Arc<LaneCounters>>) -> Self {
        Self {
            links: Vec::new(),
            dialing: None,
            waiting: 0,
            backoff: Backoff::default(),
            blocked: None,
            persistent: false,
            touched: Instant::now(),
            line: Arc::default(),
            counters,
        }
    }
}

enum Found<Wanted> {
    Standing(Wanted),
    Dialing(watch::Receiver<Dialled>, Waiting),
}

/// Counts a call that waits for a dial, so that their number has a bound.
struct Waiting {
    pool: Weak<Pool>,
    key: Key,
    _counted: Option<Counted>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        let Some(pool) = self.pool.upgrade() else {
            return;
        };
        if let Some(slot) = pool.slots().get_mut(&self.key) {
            slot.waiting = slot.waiting.saturating_sub(1);
        }
    }
}

/// The Hello, towards peers.
async fn greet(
    own: &Own,
    key: &Key,
    address: &Address,
    sender: &SendRequest<Bytes>,
) -> Result<Agreed, ConnectError> {
    match &key.to {
        To::Peer { node, generation } => {
            let meant = (node, *generation);
            connect::hello(own, key, meant, address, sender.clone()).await
        }
        To::Local(_) | To::Destination(_) => Ok(Agreed {
            limit: settings(key.lane).max_streams,
            kinship: None,
            unmarked: false,
        }),
    }
}

/// Has both ends show their certificates again, on another link, whenever those they have shown wear
/// out while calls are open on this one. It takes no new calls by then, but one call may last for
/// days.
async fn proved_anew(
    pool: &Weak<Pool>,
    trust: &Trust,
    (leaf, link): (&Leaf, &Link),
    address: &Address,
) -> Infallible {
    loop {
        trust.wears_out(leaf).await;
        if link.in_flight() > 0
            && let Some(pool) = pool.upgrade()
            && let Err(error) = pool.reach(&link.key, address, Instant::now()).await
        {
            debug!(to = %link.key, %error, "who has calls here was not asked for a newer certificate");
        }
        tokio::time::sleep(PROVE_AGAIN).await;
    }
}

/// Waits until the other end is not believed any more, lets its calls finish, and says so when they
/// had the time for it.
async fn distrusted(trust: &Trust, leaf: &Leaf, link: &Link) -> Refusal {
    let refusal = trust.distrusted(leaf).await;
    info!(to = %link.key, %refusal, "a link ends, its peer is not believed any more");
    link.retire();
    tokio::time::sleep(DISTRUSTED_LIMIT).await;
    refusal
}

/// From now, for as long as connections last, give or take a tenth.
fn lifetime(max_age: Duration) -> (Instant, Instant) {
    let now = Instant::now();
    let tenth = max_age / 10;
    (
        now,
        now + max_age - tenth + tenth.mul_f64(2.0 * fastrand::f64()),
    )
}

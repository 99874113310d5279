//! Taps: somebody looks at calls as they end, and a tap is what is told of them to one who looks. While
//! nobody does, a call meets one load of an atomic. What is kept of a call is bounded, and so is what
//! waits to be told; what finds no room is counted and told as so many, and no call ever waits. Bodies
//! are never looked at.

mod filter;
mod headers;
mod line;
mod pieces;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use http::HeaderMap;
use tokio::sync::mpsc;
use tonic::Code;

use super::guard::{Outcome, Traffic};
use super::metrics::{heading, line as sample};
use super::target::{Direction, TargetCounters, TargetKey, add};
use super::trace::Context;
use crate::call::User;
use crate::reason::Reason;

pub use filter::{BadFilter, Ended, Filter, NAMES, Seen, VALUES_LIMIT};
use headers::{Captured, cut};
pub use headers::{ENTRY_COST, HEADERS_LIMIT, REDACTED, Redaction, VALUE_LIMIT};

/// Taps at once.
pub const TAPS_LIMIT: usize = 8;
/// Of these, so many by readers elsewhere, whom nobody has asked who they are: the other places are for
/// those on the machine itself.
pub const FAR_TAPS_LIMIT: usize = 4;
/// Calls that wait to be told to one tap. A call takes at most about 8 KiB.
pub const QUEUE: usize = 256;
/// Calls that all taps together are told of in a second, each its share: to write one down takes longer
/// than to forward it.
pub const RATE: u64 = 1_000;
/// Calls that are followed at once, for all taps together.
pub const FOLLOWED_LIMIT: usize = 4_096;
/// Bytes of a path, or of a failure's text, that are kept.
pub const TEXT_LIMIT: usize = 512;

/// All taps of a sidecar.
#[derive(Debug, Clone, Default)]
pub struct Taps(Arc<Hub>);

#[derive(Debug, Default)]
struct Hub {
    /// So many are open. It is all that a call looks at while it is none.
    open: AtomicUsize,
    taps: ArcSwap<Vec<Arc<Tap>>>,
    followed: Mutex<FollowedCalls>,
    told: AtomicU64,
    dropped: AtomicU64,
}

/// The calls that are followed now, so that a tap which closes lets go of them at once, however long they
/// live.
#[derive(Debug, Default)]
struct FollowedCalls {
    next: u64,
    calls: HashMap<u64, Arc<Call>>,
}

/// What somebody wants to see.
#[derive(Debug, Clone, Default)]
pub struct Wish {
    /// Which calls.
    pub filter: Filter,
    /// Their headers, too.
    pub headers: bool,
    /// But not the values of these.
    pub redaction: Redaction,
    /// So many calls, and then no more.
    pub limit: Option<u64>,
    /// For so long.
    pub longest: Option<Duration>,
    /// Its reader is on this machine.
    pub near: bool,
}

/// There are as many taps as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooManyTaps {
    /// Of all readers.
    #[error("{TAPS_LIMIT} taps are open here, and there are never more: end one of them first")]
    All,
    /// Of those elsewhere.
    #[error(
        "{FAR_TAPS_LIMIT} taps of readers elsewhere are open here, and there are never more: end one of \
         them first, or tap from this sidecar's own machine"
    )]
    Far,
}

#[derive(Debug)]
struct Tap {
    wish: Wish,
    opened: Instant,
    queue: mpsc::Sender<Arc<Record>>,
    /// Not told since they came too fast for it, or for its reader.
    too_fast: AtomicU64,
    /// Not told since too many others were followed when they began.
    too_many: AtomicU64,
    /// The second since it was opened, and how many calls it was told of in it.
    pace: Mutex<(u64, u64)>,
}

/// An open tap, at its reader's end. It closes when this is dropped.
#[derive(Debug)]
pub struct Listening {
    hub: Arc<Hub>,
    tap: Arc<Tap>,
    records: mpsc::Receiver<Arc<Record>>,
}

/// Who calls, as far as that is known when a call comes.
#[derive(Debug, Clone, Copy)]
pub enum Who<'a> {
    /// The app beside this sidecar.
    App,
    /// Somebody outside the mesh.
    User(User),
    /// Another node, and whose certificate it has shown.
    Peer(&'a str, Option<&'a str>),
}

/// A call that somebody looks at, for as long as it lives.
#[derive(Debug)]
pub struct Followed {
    hub: Arc<Hub>,
    number: u64,
    call: Arc<Call>,
}

#[derive(Debug)]
struct Call {
    caller: Caller,
    /// `None` once it has ended, or none of those who looked does so any more.
    kept: Mutex<Option<Kept>>,
}

/// What is kept of a call for those who look.
#[derive(Debug)]
struct Kept {
    taps: Vec<Arc<Tap>>,
    path: String,
    request: Option<Captured>,
    told: Told,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Caller {
    App,
    User,
    Peer,
}

/// What is heard of a call while it goes on.
#[derive(Debug, Default)]
struct Told {
    attempts: u32,
    user: Option<String>,
    peer: Option<String>,
    identity: Option<String>,
    response: Option<Captured>,
    trailers: Option<Captured>,
    failure: Option<(Code, String)>,
}

/// A call that has ended.
#[derive(Debug)]
struct Record {
    path: String,
    /// `None` where it was refused before it was known what it is for.
    counters: Option<Arc<TargetCounters>>,
    direction: Direction,
    caller: Caller,
    at: SystemTime,
    took: Duration,
    outcome: Outcome,
    traffic: Traffic,
    context: Option<Context>,
    request: Option<Captured>,
    told: Told,
}

impl Taps {
    /// Does anybody look?
    #[inline]
    #[must_use]
    pub fn is_open(&self) -> bool {
        self.0.open.load(Ordering::Relaxed) > 0
    }

    /// Begins to look.
    ///
    /// # Errors
    /// So many do already.
    pub fn open(&self, wish: Wish) -> Result<Listening, TooManyTaps> {
        let (queue, records) = mpsc::channel(QUEUE);
        let tap = Arc::new(Tap {
            wish,
            opened: Instant::now(),
            queue,
            too_fast: AtomicU64::default(),
            too_many: AtomicU64::default(),
            pace: Mutex::default(),
        });
        let mut placed = Ok(());
        self.0.taps.rcu(|taps| {
            let mut taps = Vec::clone(taps);
            let far = taps.iter().filter(|tap| !tap.wish.near).count();
            placed = if taps.len() >= TAPS_LIMIT {
                Err(TooManyTaps::All)
            } else if !tap.wish.near && far >= FAR_TAPS_LIMIT {
                Err(TooManyTaps::Far)
            } else {
                Ok(())
            };
            if placed.is_ok() {
                taps.push(Arc::clone(&tap));
            }
            taps
        });
        placed?;
        self.0.open.fetch_add(1, Ordering::Relaxed);
        Ok(Listening {
            hub: Arc::clone(&self.0),
            tap,
            records,
        })
    }

    /// Begins to follow a call, where somebody looks and it may be one that is meant.
    #[inline]
    #[must_use]
    pub fn follow(
        &self,
        counters: &TargetCounters,
        (path, headers): (&str, &HeaderMap),
        who: Who<'_>,
    ) -> Option<Box<Followed>> {
        if !self.is_open() {
            return None;
        }
        self.0.follow(&counters.key, (path, headers), who)
    }

    /// A call was refused before it was known what it is for.
    pub fn refused(
        &self,
        direction: Direction,
        (path, headers): (&str, &HeaderMap),
        who: Who<'_>,
        (arrived, reason): (Instant, Reason),
        (code, text): (Code, &str),
    ) {
        if !self.is_open() {
            return;
        }
        let seen = Seen {
            direction,
            path,
            way: None,
        };
        let Some(followed) = self.0.begin(seen, headers, who) else {
            return;
        };
        followed.failed(code, text);
        let ended = (Outcome::Failed(reason), arrived.elapsed());
        followed.end(None, direction, ended, Traffic::default(), None);
    }

    /// Calls that are followed now.
    #[cfg(test)]
    fn followed(&self) -> usize {
        self.0.followed().calls.len()
    }

    /// What became of calls, as Prometheus text.
    pub(super) fn render(&self, text: &mut String) {
        let hub = &self.0;
        for (name, kind, help, value) in [
            (
                "sidelane_taps",
                "gauge",
                "Taps that are open.",
                hub.open.load(Ordering::Relaxed) as u64,
            ),
            (
                "sidelane_tap_calls_total",
                "counter",
                "Calls that readers of taps were told of.",
                hub.told.load(Ordering::Relaxed),
            ),
            (
                "sidelane_tap_dropped_total",
                "counter",
                "Calls that taps were not told of, since they came too fast or too many were open.",
                hub.dropped.load(Ordering::Relaxed),
            ),
        ] {
            heading(text, name, kind, help);
            sample(text, name, "", value);
        }
    }
}

impl Hub {
    #[cold]
    fn follow(
        self: &Arc<Self>,
        key: &TargetKey,
        (path, headers): (&str, &HeaderMap),
        who: Who<'_>,
    ) -> Option<Box<Followed>> {
        let seen = Seen {
            direction: key.direction,
            path,
            way: Some((key.class.name(), key.lane.name())),
        };
        self.begin(seen, headers, who).map(Box::new)
    }

    fn begin(
        self: &Arc<Self>,
        seen: Seen<'_>,
        headers: &HeaderMap,
        who: Who<'_>,
    ) -> Option<Followed> {
        let taps = self.taps.load();
        let meant = taps.iter().filter(|tap| tap.wish.filter.may_fit(&seen));
        let taps: Vec<_> = meant.cloned().collect();
        if taps.is_empty() {
            return None;
        }
        let caller = match who {
            Who::App => Caller::App,
            Who::User(_) => Caller::User,
            Who::Peer(..) => Caller::Peer,
        };
        let call = Arc::new(Call {
            caller,
            kept: Mutex::default(),
        });
        let mut followed = self.followed();
        if followed.calls.len() >= FOLLOWED_LIMIT {
            drop(followed);
            for tap in &taps {
                add(&tap.too_many);
                add(&self.dropped);
            }
            return None;
        }
        // One that closes now sees this call when it lets go of what it followed; one that has closed
        // has done so.
        if taps.iter().all(|tap| tap.is_closed()) {
            return None;
        }
        let number = followed.next;
        followed.next += 1;
        followed.calls.insert(number, Arc::clone(&call));
        drop(followed);
        let mut told = Told::default();
        match who {
            Who::App => {}
            Who::User(user) => told.user = Some(user.to_string()),
            Who::Peer(node, identity) => {
                told.peer = Some(node.to_owned());
                told.identity = identity.map(str::to_owned);
            }
        }
        let headers = taps
            .iter()
            .any(|tap| tap.wish.headers)
            .then(|| Captured::of(headers));
        let kept = Kept {
            taps,
            path: cut(seen.path, TEXT_LIMIT),
            request: headers,
            told,
        };
        *call.kept() = Some(kept);
        let followed = Followed {
            hub: Arc::clone(self),
            number,
            call,
        };
        // Its taps may have closed before there was something to let go of.
        followed.call.let_go().then_some(followed)
    }

    fn followed(&self) -> MutexGuard<'_, FollowedCalls> {
        self.followed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A tap has closed: what was kept for it alone is kept no more.
    fn let_go(&self) {
        let mut followed = self.followed();
        followed.calls.retain(|_, call| call.let_go());
        if followed.calls.is_empty() {
            followed.calls.shrink_to_fit();
        }
    }
}

impl Call {
    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps nothing for taps that have closed; is any left?
    fn let_go(&self) -> bool {
        let mut kept = self.kept();
        // Somebody is just about to fill it in, and looks again afterwards.
        let Some(some) = kept.as_mut() else {
            return true;
        };
        some.taps.retain(|tap| !tap.is_closed());
        if !some.taps.iter().any(|tap| tap.wish.headers) {
            (some.request, some.told.response, some.told.trailers) = (None, None, None);
        }
        let left = !some.taps.is_empty();
        if !left {
            *kept = None;
        }
        left
    }
}

impl Followed {
    /// An attempt was sent there.
    pub fn sent(&self, peer: &str, identity: Option<&str>) {
        if let Some(kept) = &mut *self.call.kept() {
            kept.told.attempts += 1;
        }
        self.answers(peer, identity);
    }

    /// The one there is at the other end: who was asked last, or has answered first.
    pub fn answers(&self, peer: &str, identity: Option<&str>) {
        // Of a call that a peer makes, that is the other end.
        if self.call.caller == Caller::Peer {
            return;
        }
        if let Some(kept) = &mut *self.call.kept() {
            kept.told.peer = Some(peer.to_owned());
            kept.told.identity = identity.map(str::to_owned);
        }
    }

    /// The answer begins with these headers.
    pub fn answered(&self, headers: &HeaderMap) {
        self.captured(headers, |told| &mut told.response);
    }

    /// The answer ends with these.
    pub fn trailed(&self, trailers: &HeaderMap) {
        self.captured(trailers, |told| &mut told.trailers);
    }

    fn captured(&self, headers: &HeaderMap, place: fn(&mut Told) -> &mut Option<Captured>) {
        if let Some(kept) = &mut *self.call.kept()
            && kept.request.is_some()
        {
            *place(&mut kept.told) = Some(Captured::of(headers));
        }
    }

    /// The mesh fails it.
    pub fn failed(&self, code: Code, text: &str) {
        if let Some(kept) = &mut *self.call.kept() {
            kept.told.failure = Some((code, cut(text, TEXT_LIMIT)));
        }
    }

    /// The call has ended: whoever means it is told.
    pub(super) fn ended(
        self,
        counters: &Arc<TargetCounters>,
        ended: (Outcome, Duration),
        traffic: Traffic,
        context: Option<Context>,
    ) {
        let direction = counters.key.direction;
        self.end(
            Some(Arc::clone(counters)),
            direction,
            ended,
            traffic,
            context,
        );
    }

    fn end(
        &self,
        counters: Option<Arc<TargetCounters>>,
        direction: Direction,
        (outcome, took): (Outcome, Duration),
        traffic: Traffic,
        context: Option<Context>,
    ) {
        let Some(kept) = self.call.kept().take() else {
            return;
        };
        let record = Arc::new(Record {
            path: kept.path,
            counters,
            direction,
            caller: self.call.caller,
            at: SystemTime::now(),
            took,
            outcome,
            traffic,
            context,
            request: kept.request,
            told: kept.told,
        });
        let open = self.hub.open.load(Ordering::Relaxed);
        for tap in &kept.taps {
            if tap.is_closed() || !tap.wish.filter.fits(&record.as_ended()) {
                continue;
            }
            let full = |sent| matches!(sent, Err(mpsc::error::TrySendError::Full(_)));
            if !tap.is_in_time(open) || full(tap.queue.try_send(Arc::clone(&record))) {
                add(&tap.too_fast);
                add(&self.hub.dropped);
            }
        }
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.hub.followed().calls.remove(&self.number);
    }
}

impl Record {
    fn as_ended(&self) -> Ended<'_> {
        Ended {
            status: self.status(),
            reason: match self.outcome {
                Outcome::Failed(reason) => Some(reason),
                Outcome::Answered(_) | Outcome::Cancelled => None,
            },
            peer: self.told.peer.as_deref(),
            user: self.told.user.as_deref(),
            identity: self.told.identity.as_deref(),
            took: self.took,
        }
    }

    /// The gRPC status that its caller got; one that it did not wait for is CANCELLED.
    fn status(&self) -> u16 {
        let number = |code: Code| u16::try_from(i32::from(code)).unwrap_or(2);
        match (self.outcome, &self.told.failure) {
            (Outcome::Answered(status), _) => status,
            (Outcome::Failed(_), Some((code, _))) => number(*code),
            (Outcome::Failed(reason), None) => number(reason.code()),
            (Outcome::Cancelled, _) => number(Code::Cancelled),
        }
    }
}

impl Tap {
    /// May it be told of another call in this second, as one of so many?
    fn is_in_time(&self, taps: usize) -> bool {
        let share = RATE / u64::try_from(taps).unwrap_or(u64::MAX).max(1);
        let second = self.opened.elapsed().as_secs();
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        if pace.0 != second {
            *pace = (second, 0);
        }
        pace.1 += 1;
        pace.1 <= share
    }

    /// Its reader is gone.
    fn is_closed(&self) -> bool {
        self.queue.is_closed()
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.records.close();
        self.hub.taps.rcu(|taps| {
            let others = taps.iter().filter(|it| !Arc::ptr_eq(it, &self.tap));
            others.cloned().collect::<Vec<_>>()
        });
        self.hub.open.fetch_sub(1, Ordering::Relaxed);
        self.hub.let_go();
    }
}

#[cfg(test)]
mod tests;

//! Taps: somebody looks at calls as they end, and a tap is what is told of them to one who looks. While
//! nobody does, a call meets one load of an atomic. What is kept of a call is bounded, and so is what
//! waits to be told; what finds no room is counted and told as so many, and no call ever waits. Bodies
//! are never looked at.

mod filter;
mod headers;
mod line;
mod pieces;

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use arc_swap::ArcSwap;
use http::HeaderMap;
use tokio::sync::mpsc;
use tonic::Code;

use super::guard::{Outcome, Traffic};
use super::metrics::{heading, line as sample};
use super::target::{Direction, TargetCounters, TargetKey, add};
use super::trace::Context;
use crate::reason::Reason;

pub use filter::{BadFilter, Ended, Filter, NAMES, Seen, VALUES_LIMIT};
use headers::{Captured, cut};
pub use headers::{HEADERS_LIMIT, REDACTED, Redaction, VALUE_LIMIT};

/// Taps at once.
pub const TAPS_LIMIT: usize = 8;
/// Calls that wait to be told to one tap. A call takes at most about 8 KiB.
pub const QUEUE: usize = 256;
/// Calls that one tap is told of in a second: to write one down takes longer than to forward it.
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
    followed: AtomicUsize,
    told: AtomicU64,
    dropped: AtomicU64,
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
}

/// There are as many taps as there may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{TAPS_LIMIT} taps are open here, and there are never more: end one of them first")]
pub struct TooManyTaps;

#[derive(Debug)]
struct Tap {
    wish: Wish,
    opened: Instant,
    queue: mpsc::Sender<Arc<Record>>,
    /// Not told since they found no room.
    dropped: AtomicU64,
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
    /// Somebody outside the mesh, of this address.
    User(&'a str),
    /// Another node, and whose certificate it has shown.
    Peer(&'a str, Option<&'a str>),
}

/// A call that somebody looks at, for as long as it lives.
#[derive(Debug)]
pub struct Followed {
    hub: Arc<Hub>,
    taps: Vec<Arc<Tap>>,
    path: String,
    caller: Caller,
    request: Option<Captured>,
    told: Mutex<Told>,
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
            dropped: AtomicU64::default(),
            pace: Mutex::default(),
        });
        let mut placed = false;
        self.0.taps.rcu(|taps| {
            let mut taps = Vec::clone(taps);
            placed = taps.len() < TAPS_LIMIT;
            if placed {
                taps.push(Arc::clone(&tap));
            }
            taps
        });
        if !placed {
            return Err(TooManyTaps);
        }
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
        let Some(mut followed) = self.0.begin(seen, headers, who) else {
            return;
        };
        followed.failed(code, text);
        let ended = (Outcome::Failed(reason), arrived.elapsed());
        followed.end(None, direction, ended, Traffic::default(), None);
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
                "Calls that taps were told of.",
                hub.told.load(Ordering::Relaxed),
            ),
            (
                "sidelane_tap_dropped_total",
                "counter",
                "Calls that taps were not told of, since there was no room or they came too fast.",
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
        if self.followed.fetch_add(1, Ordering::Relaxed) >= FOLLOWED_LIMIT {
            self.followed.fetch_sub(1, Ordering::Relaxed);
            for tap in &taps {
                self.drop_one(tap);
            }
            return None;
        }
        let mut told = Told::default();
        let caller = match who {
            Who::App => Caller::App,
            Who::User(address) => {
                told.user = Some(address.to_owned());
                Caller::User
            }
            Who::Peer(node, identity) => {
                told.peer = Some(node.to_owned());
                told.identity = identity.map(str::to_owned);
                Caller::Peer
            }
        };
        let headers = taps
            .iter()
            .any(|tap| tap.wish.headers)
            .then(|| Captured::of(headers));
        Some(Followed {
            hub: Arc::clone(self),
            taps,
            path: cut(seen.path, TEXT_LIMIT),
            caller,
            request: headers,
            told: Mutex::new(told),
        })
    }

    fn drop_one(&self, tap: &Tap) {
        add(&tap.dropped);
        add(&self.dropped);
    }
}

impl Followed {
    /// An attempt was sent there.
    pub fn sent(&self, peer: &str, identity: Option<&str>) {
        let mut told = self.told();
        told.attempts += 1;
        // Of a call that a peer makes, that is the other end.
        if self.caller != Caller::Peer {
            told.peer = Some(peer.to_owned());
            told.identity = identity.map(str::to_owned);
        }
    }

    /// The answer begins with these headers.
    pub fn answered(&self, headers: &HeaderMap) {
        if self.request.is_some() {
            self.told().response = Some(Captured::of(headers));
        }
    }

    /// The answer ends with these.
    pub fn trailed(&self, trailers: &HeaderMap) {
        if self.request.is_some() {
            self.told().trailers = Some(Captured::of(trailers));
        }
    }

    /// The mesh fails it.
    pub fn failed(&self, code: Code, text: &str) {
        self.told().failure = Some((code, cut(text, TEXT_LIMIT)));
    }

    /// The call has ended: whoever means it is told.
    pub(super) fn ended(
        mut self,
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
        &mut self,
        counters: Option<Arc<TargetCounters>>,
        direction: Direction,
        (outcome, took): (Outcome, Duration),
        traffic: Traffic,
        context: Option<Context>,
    ) {
        let record = Arc::new(Record {
            path: std::mem::take(&mut self.path),
            counters,
            direction,
            caller: self.caller,
            at: SystemTime::now(),
            took,
            outcome,
            traffic,
            context,
            request: self.request.take(),
            told: std::mem::take(&mut *self.told()),
        });
        for tap in &self.taps {
            if !tap.wish.filter.fits(&record.as_ended()) {
                continue;
            }
            if tap.is_in_time() && tap.queue.try_send(Arc::clone(&record)).is_ok() {
                add(&self.hub.told);
            } else {
                self.hub.drop_one(tap);
            }
        }
    }

    fn told(&self) -> std::sync::MutexGuard<'_, Told> {
        self.told.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Followed {
    fn drop(&mut self) {
        self.hub.followed.fetch_sub(1, Ordering::Relaxed);
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
    /// May it be told of another call in this second?
    fn is_in_time(&self) -> bool {
        let second = self.opened.elapsed().as_secs();
        let mut pace = self.pace.lock().unwrap_or_else(PoisonError::into_inner);
        if pace.0 != second {
            *pace = (second, 0);
        }
        pace.1 += 1;
        pace.1 <= RATE
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.hub.taps.rcu(|taps| {
            let others = taps.iter().filter(|it| !Arc::ptr_eq(it, &self.tap));
            others.cloned().collect::<Vec<_>>()
        });
        self.hub.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests;

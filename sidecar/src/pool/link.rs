//! One connection, from HTTP/2 up. It is open, then takes no new calls (retired: too old, idle,
//! its peer replaced, or going away), then closed. The pool counts its calls, because h2 would
//! queue any number of them.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::SendStream;
use h2::client::{ResponseFuture, SendRequest};
use http::Request;
use sidelane_identity::Refusal;
use sidelane_identity::verify::Leaf;

use super::connect::{Agreed, Driver};
use super::key::Key;
use crate::http2;
use crate::kin::Kinship;
use crate::lane::LaneSettings;
use crate::line::Line;
use crate::telemetry::{Counted, LaneCounters};

/// One connection.
#[derive(Debug)]
pub struct Link {
    /// Whom it reaches.
    pub key: Key,
    /// This end, where it is TCP.
    pub local: Option<SocketAddr>,
    /// The other end, where it is TCP.
    pub remote: Option<SocketAddr>,
    /// Calls that may be open at once.
    pub limit: u32,
    /// Was the peer compiled with the same rules? `None` towards local services.
    pub kinship: Option<Kinship>,
    /// Does the peer take a call without `traceparent` as one that is not recorded?
    pub unmarked: bool,
    /// Counts in its lane. `None` towards local services.
    pub counters: Option<Arc<LaneCounters>>,
    /// What the other end has proved; `None` in the clear.
    pub proved: Option<Leaf>,
    /// When it was opened.
    pub opened: Instant,
    /// It takes no new calls after this.
    pub(super) expires: Instant,
    /// `None` once it takes no new calls: with the last handle gone, h2 ends the connection in
    /// good order.
    sender: Mutex<Option<SendRequest<Bytes>>>,
    in_flight: AtomicU32,
    /// Those who wait for a seat on this link, or on another one of its key.
    line: Arc<Line<Seat>>,
    calls: AtomicU64,
    /// A call with a `traceparent` went there.
    marked: AtomicBool,
    last_used: Mutex<Instant>,
    closed: AtomicBool,
}

/// A place on a link for one call. Given back when it is dropped.
#[derive(Debug)]
pub struct Seat {
    link: Arc<Link>,
    _call: Option<Counted>,
}

/// Both halves of a call that was sent.
pub type Sent = (ResponseFuture, SendStream<Bytes>);

/// Why a connection ended by itself.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseCause {
    /// The other side closed it.
    #[error("the other side closed it")]
    Ended,
    /// The transport broke.
    #[error("{0}")]
    Broken(String),
    /// A PING was not answered.
    #[error("no answer to a PING within {} ms", .0.as_millis())]
    Silent(Duration),
    /// The other side's certificate ended or was revoked, and its calls were not over in time.
    #[error("the other side is not believed any more: {0}")]
    Distrusted(Refusal),
}

impl Link {
    pub(super) fn new(
        key: Key,
        sender: SendRequest<Bytes>,
        (local, remote): (Option<SocketAddr>, Option<SocketAddr>),
        agreed: Agreed,
        (counters, line): (Option<Arc<LaneCounters>>, Arc<Line<Seat>>),
        proved: Option<Leaf>,
        (opened, expires): (Instant, Instant),
    ) -> Self {
        Self {
            key,
            local,
            remote,
            limit: agreed.limit,
            kinship: agreed.kinship,
            unmarked: agreed.unmarked,
            counters,
            proved,
            opened,
            expires,
            sender: Mutex::new(Some(sender)),
            in_flight: AtomicU32::new(0),
            line,
            calls: AtomicU64::new(0),
            marked: AtomicBool::new(false),
            last_used: Mutex::new(opened),
            closed: AtomicBool::new(false),
        }
    }

    /// Calls open on it now.
    #[must_use]
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Ordering::Relaxed)
    }

    /// Calls since it was opened.
    #[must_use]
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Is this call the first that goes there with a `traceparent`? True once.
    pub fn is_first_marked(&self) -> bool {
        !self.marked.load(Ordering::Relaxed) && !self.marked.swap(true, Ordering::Relaxed)
    }

    /// Can another call be sent on it?
    #[must_use]
    pub fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Relaxed) && self.sender().is_some()
    }

    /// Lets calls in flight finish, takes no new ones, and then closes.
    pub fn retire(&self) {
        self.sender().take();
        // Whoever waits for a seat here finds one elsewhere, or dials.
        self.line.dismiss();
    }

    pub(super) fn retired(&self) -> bool {
        self.sender().is_none()
    }

    pub(super) fn mark_closed(&self) {
        self.closed.store(true, Ordering::Relaxed);
        self.retire();
    }

    /// Takes a place, if one is free.
    pub(super) fn seat(self: &Arc<Self>) -> Option<Seat> {
        // What the other side's SETTINGS allow now may be less than was agreed: an app that takes
        // fewer calls at once would make h2 hold back the rest, without an end.
        let allowed = self
            .sender()
            .as_ref()
            .map(SendRequest::current_max_send_streams)?;
        let allowed = u32::try_from(allowed).unwrap_or(u32::MAX).min(self.limit);
        if self.closed.load(Ordering::Relaxed) {
            return None;
        }
        let one_more = |in_flight| (in_flight < allowed).then_some(in_flight + 1);
        let (set, get) = (Ordering::SeqCst, Ordering::SeqCst);
        self.in_flight.fetch_update(set, get, one_more).ok()?;
        self.calls.fetch_add(1, Ordering::Relaxed);
        Some(Seat {
            link: Arc::clone(self),
            _call: self.counters.as_ref().map(LaneCounters::call),
        })
    }

    /// Gives the places that are free to those who wait, the first first.
    pub(super) fn serve_line(self: &Arc<Self>) {
        while !self.line.is_empty() {
            let Some(seat) = self.seat() else {
                return;
            };
            // Nobody waits any more: it is free again.
            drop(self.line.give(seat));
        }
    }

    pub(super) fn idle_since(&self) -> Option<Instant> {
        let last = *self
            .last_used
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        (self.in_flight() == 0).then_some(last)
    }

    fn sender(&self) -> std::sync::MutexGuard<'_, Option<SendRequest<Bytes>>> {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Seat {
    /// The link it is on.
    #[must_use]
    pub fn link(&self) -> &Link {
        &self.link
    }

    /// Sends a request's head. Nothing of the call has left if this fails.
    ///
    /// # Errors
    /// The connection takes no new calls: it is going away, or broken.
    pub fn send(&self, request: Request<()>, end: bool) -> Result<Sent, h2::Error> {
        let mut held = self.link.sender();
        let Some(sender) = held.as_mut() else {
            return Err(h2::Reason::REFUSED_STREAM.into());
        };
        // A fresh handle does not wait for an earlier stream that h2 still holds back for a place
        // that we counted as free already: the bound is our own count.
        let sent = sender.clone().send_request(request, end);
        if sent
            .as_ref()
            .is_err_and(|error| error.is_go_away() || error.is_io())
        {
            held.take();
        }
        sent
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        if self.link.in_flight.fetch_sub(1, Ordering::SeqCst) == 1 {
            let mut last = self
                .link
                .last_used
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            *last = Instant::now();
        }
        // All that a line costs where nobody waits.
        if !self.link.line.is_empty() {
            self.link.serve_line();
        }
    }
}

/// Drives a connection to its end, with a PING from time to time where `settings` are given (not
/// towards local apps: those that are idle answer `too_many_pings`).
pub(super) async fn drive(mut driver: Driver, settings: Option<&LaneSettings>) -> CloseCause {
    let Some(settings) = settings else {
        return ended(driver.await);
    };
    // Taken once, on a connection that nobody else drives: always there.
    let Some(mut pings) = driver.ping_pong() else {
        return ended(driver.await);
    };
    tokio::select! {
        result = &mut driver => ended(result),
        waited = http2::silent(&mut pings, settings) => CloseCause::Silent(waited),
    }
}

fn ended(result: Result<(), h2::Error>) -> CloseCause {
    match result {
        Ok(()) => CloseCause::Ended,
        Err(error) => CloseCause::Broken(error.to_string()),
    }
}

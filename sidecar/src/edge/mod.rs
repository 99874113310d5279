//! The edge of the mesh: what users who come by the external listener are allowed, and the TLS that
//! they meet. Sidecars trust each other as far as their certificates go; a user is somebody, so all
//! that can be asked for here has a bound. Lies below the listeners and the stages, which ask it.

pub mod calm;
pub mod descriptors;
pub mod doors;
pub mod files;
pub mod leaving;
pub mod room;
pub mod tls;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::lane::{HEADER_LIST_LIMIT, LaneSettings, settings};
use crate::patience::{CROWD, IN_A_CROWD, Patience};
use crate::telemetry::EdgeCounters;
use crate::telemetry::trace::Context;
use crate::trust::HANDSHAKE_LIMIT;
use calm::Budget;
use doors::Doors;
use room::{CALL_BYTES, PART_OF_ADDRESS, Room, Stay};
use sidelane_proto::model::Lane;
use tls::Shown;

/// From the end of a user's handshake to its first request.
pub const FIRST_REQUEST_LIMIT: Duration = Duration::from_secs(10);
/// Streams that a user reset before they were looked at (CVE-2023-44487). All that arrives in one
/// turn is read before the first of it is looked at, so honest callers reach some hundreds.
pub const PENDING_RESETS: usize = 1_000;
/// Streams that we reset for an error of a user's, over a connection's life (CVE-2025-8671): an
/// honest client makes none, and h2's own bound is the same.
pub const ERROR_RESETS: usize = 1_024;
/// How long a connection that was told to go may take once nothing is open on it.
pub const LEAVE_LIMIT: Duration = Duration::from_secs(2);
/// What one stream of a user may send before it is read, in bytes.
pub const STREAM_WINDOW: u32 = 256 * 1024;
/// And all of a connection's: sixteen streams that stand still do not stall the others.
const CONNECTION_WINDOW: u32 = 16 * STREAM_WINDOW;
/// Bytes of one answer that are taken before the socket takes them. All streams of a connection,
/// none of which is read, so hold 32 MiB at most.
pub const SEND_BUFFER: usize = 32 * 1024;
/// A PING that is not answered for so long ends the connection; sooner, where they are sent more often
/// than this.
pub const PING_LIMIT: Duration = Duration::from_secs(20);
/// What is not there for users is refused so long after it was asked for, whatever it is that keeps it
/// from them: how long an answer takes must not say what there is.
pub const NOWHERE_AFTER: Duration = Duration::from_millis(500);
/// How long of that is waited for control's first word about a name that nobody has heard of.
pub const FIRST_WORD: Duration = Duration::from_millis(400);
/// Names that users ask for and nobody here has heard of are asked of control so often a second, and
/// so many at once. A subscription nobody uses lasts ten minutes, so users' are at most 6,100 of the
/// 16,384 that there may be.
const ASKS_EACH_SECOND: f64 = 10.0;
const ASKS_AT_ONCE: f64 = 100.0;

/// What is allowed to users, as far as an operator may say so.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Calls open at once on one connection.
    pub streams: u32,
    /// The largest message of a request, in bytes, as it travels.
    pub message: u32,
    /// Connections at once.
    pub connections: usize,
    /// Connections at once from one address.
    pub per_address: usize,
    /// Connections accepted in a second; from one address a quarter of it.
    pub accept_rate: u32,
    /// A connection without calls is told to go after this long.
    pub idle: Duration,
    /// An answer of which nothing is taken for so long is broken off. What a user does not take fills
    /// the windows between sidecars and apps, and others need them.
    pub stall: Duration,
    /// A call of which nothing moves for so long, neither way, ends.
    pub quiet: Duration,
    /// The longest that any call may take, streams too, whatever it asks for.
    pub deadline: Duration,
    /// A connection is asked for a sign of life so often.
    pub keepalive: Duration,
    /// Calls open at once from one address.
    pub calls_of_address: u32,
    /// Bytes that are held for the calls of all users; for those of one address a quarter of what others
    /// leave.
    pub memory: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            streams: 1_024,
            message: 4 * 1024 * 1024,
            connections: 4_096,
            per_address: 512,
            accept_rate: 1_000,
            idle: Duration::from_secs(5 * 60),
            stall: Duration::from_secs(30),
            quiet: Duration::from_secs(5 * 60),
            deadline: Duration::from_secs(60 * 60),
            keepalive: Duration::from_secs(60),
            calls_of_address: 1_024,
            memory: 512 * 1024 * 1024,
        }
    }
}

/// The edge, one for the whole sidecar.
pub struct Edge {
    /// What is allowed.
    pub limits: Limits,
    /// Who is let in.
    pub doors: Doors,
    /// Whose calls are let in, and how much is held for them.
    pub room: Room,
    /// With those who do not take their answers.
    pub patience: Patience,
    /// What users meet; `None`: they come in the clear, in trust mode `disabled` alone.
    pub tls: Option<Shown>,
    asks: Mutex<Asks>,
}

/// A user's call, and what is allowed to it.
#[derive(Clone, Copy)]
pub struct Guest<'a> {
    /// The edge by which it came.
    pub edge: &'a Edge,
    /// Its place.
    pub stay: &'a Stay,
    /// The trace that it says it belongs to; it begins one of its own.
    pub trace: Option<Context>,
    /// Where it is counted what found no room.
    pub counters: &'a EdgeCounters,
}

struct Asks {
    left: f64,
    at: Option<Instant>,
}

impl Edge {
    /// With these bounds and this certificate.
    #[must_use]
    pub fn new(limits: Limits, tls: Option<Shown>) -> Self {
        Self {
            doors: Doors::new(&limits),
            room: Room::new(&limits),
            patience: Patience::of(limits.stall),
            limits,
            tls,
            asks: Mutex::new(Asks {
                left: ASKS_AT_ONCE,
                at: None,
            }),
        }
    }

    /// May control be asked of a name that a user brought?
    #[must_use]
    pub fn asks(&self, now: Instant) -> bool {
        let mut asks = self.asks.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = asks.at.map(|at| now.saturating_duration_since(at));
        let passed = passed.unwrap_or_default().as_secs_f64();
        asks.left = (asks.left + passed * ASKS_EACH_SECOND).min(ASKS_AT_ONCE);
        asks.at = Some(now);
        let may = asks.left >= 1.0;
        if may {
            asks.left -= 1.0;
        }
        may
    }

    /// The settings of a user's connection.
    #[must_use]
    pub fn settings(&self) -> LaneSettings {
        LaneSettings {
            stream_window: STREAM_WINDOW,
            connection_window: CONNECTION_WINDOW,
            max_streams: self.limits.streams,
            send_buffer: SEND_BUFFER,
            ping_every: self.limits.keepalive,
            ping_timeout: self.limits.keepalive.min(PING_LIMIT),
            ..settings(Lane::INGRESS_DATA)
        }
    }

    /// For `/config`.
    #[must_use]
    pub fn describe(&self) -> Value {
        let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        let limits = &self.limits;
        let budget = Budget::USERS;
        json!({
            "tls": self.tls.as_ref().map(Shown::describe),
            "connections": limits.connections,
            "connections_per_address": limits.per_address,
            "peers_before_full_doors": doors::WAITING,
            "accepted_per_second": limits.accept_rate,
            "accepted_per_second_and_address": doors::of_one_address(limits.accept_rate),
            "handshake_ms": milliseconds(HANDSHAKE_LIMIT),
            "first_request_ms": milliseconds(FIRST_REQUEST_LIMIT),
            "nowhere_after_ms": milliseconds(NOWHERE_AFTER),
            "idle_ms": milliseconds(limits.idle),
            "stall_ms": milliseconds(limits.stall),
            "stall_in_a_crowd_ms": milliseconds(limits.stall.min(IN_A_CROWD)),
            "stalls_without_a_crowd": CROWD,
            "call_quiet_ms": milliseconds(limits.quiet),
            "call_deadline_ms": milliseconds(limits.deadline),
            "keepalive_ms": milliseconds(limits.keepalive),
            "keepalive_answer_ms": milliseconds(limits.keepalive.min(PING_LIMIT)),
            "calls_per_address": limits.calls_of_address,
            "memory_bytes": limits.memory,
            "memory_bytes_per_address": limits.memory as usize / PART_OF_ADDRESS,
            "memory_bytes_of_a_call": CALL_BYTES,
            "concurrent_streams": limits.streams,
            "message_bytes": limits.message,
            "header_list_bytes": HEADER_LIST_LIMIT,
            "stream_window": STREAM_WINDOW,
            "connection_window": CONNECTION_WINDOW,
            "send_buffer": SEND_BUFFER,
            "pending_resets": PENDING_RESETS,
            "error_resets": ERROR_RESETS,
            "resets": budget.resets.describe(),
            "window_updates": budget.windows.describe(),
            "other_frames_without_content": budget.talk.describe(),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_users_bring_are_asked_for_so_often() {
        let edge = Edge::new(Limits::default(), None);
        let start = Instant::now();
        let asked = |now| (0..1_000).take_while(|_| edge.asks(now)).count();
        assert_eq!(asked(start), 100);
        assert_eq!(asked(start + Duration::from_millis(500)), 5);
        assert_eq!(asked(start + Duration::from_secs(600)), 100);
    }
}

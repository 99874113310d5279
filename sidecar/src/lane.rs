//! What each lane promises, as numbers. Dialler and acceptor of a link take the same row, so that
//! both directions keep the promise. Stages receive these settings; nobody else knows them.

use std::time::Duration;

use sidelane_proto::model::{Lane, LaneBounds};

/// The HTTP/2 and socket settings of one lane.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneSettings {
    /// Bytes that one stream may send before it is read.
    pub stream_window: u32,
    /// Bytes that all streams of a connection may send before they are read. At least four stream
    /// windows, and 48 where many streams share it: 32 readers that stand still must not stall the
    /// others, and neither must a dozen more.
    pub connection_window: u32,
    /// Calls open at once on one connection.
    pub max_streams: u32,
    /// Connections to one peer.
    pub max_connections: usize,
    /// Calls that wait for a connection to one peer while it is being dialled.
    pub max_waiting: usize,
    /// Calls that wait for room while all connections to one peer are full.
    pub queue: usize,
    /// The longest that one of them waits. Short: whoever waits longer does better elsewhere, or
    /// later.
    pub longest_wait: Duration,
    /// The largest DATA frame, in bytes. Small frames let other streams in between.
    pub frame_size: u32,
    /// Bytes of one stream that are taken from its sender before the socket takes them.
    pub send_buffer: usize,
    /// A PING is sent this often.
    pub ping_every: Duration,
    /// The connection is given up when a PING is not answered for so long.
    pub ping_timeout: Duration,
    /// A connection without calls closes after this long, unless its rule is persistent.
    pub idle: Duration,
    /// Differentiated services code point (RFC 2474) of every packet, in both directions.
    pub dscp: u8,
    /// `SO_PRIORITY` of the socket, at most 6: more needs rights.
    pub priority: u32,
    /// `TCP_NOTSENT_LOWAT`, in bytes: how much the kernel holds that it has not sent yet. This bounds
    /// the send buffer: what was sent and is not acknowledged is the network's, and the kernel goes
    /// on to make room for it (`SO_SNDBUF` would stop that, and with it throughput over a long way).
    pub unsent: u32,
    /// Bytes that one connection reads, or writes, before others on the thread have their turn.
    pub turn: usize,
}

/// The largest list of headers that is taken, in bytes (as RFC 9113 §6.5.2 counts).
pub const HEADER_LIST_LIMIT: u32 = 64 * 1024;
/// The same between two sidecars: what the mesh adds on the way (a deadline, for one) must not
/// break a call that its caller's own sidecar took.
pub const PEER_HEADER_LIST_LIMIT: u32 = HEADER_LIST_LIMIT + 4 * 1024;
/// Streams that a local app reset before they were looked at. The default of 20 ends connections of
/// callers that merely cancel often; apps and peers are trusted further.
pub const APP_PENDING_RESETS: usize = 20_000;
/// The same of a peer. One turn of reading brings no more of calls as sidecars make them, of which
/// each has some 64 bytes with its reset.
pub const PENDING_RESETS: usize = 8_192;
/// Streams that we reset for an error of the other side, over a connection's life.
pub const ERROR_RESETS: usize = 100_000;
/// Streams that we reset and still remember, so that late frames of theirs harm nobody.
pub const REMEMBERED_RESETS: usize = 4_096;
/// How long a reset stream is remembered.
pub const REMEMBER_RESETS: Duration = Duration::from_secs(2);
/// Connections older than this, give or take a tenth, take no new calls: load follows scaling,
/// and counters that h2 keeps over a connection's life start anew. `--link-max-age` says otherwise.
pub const MAX_AGE: Duration = Duration::from_secs(30 * 60);

const KIB: u32 = 1024;
const MIB: u32 = 1024 * KIB;

const GENERAL: LaneSettings = LaneSettings {
    stream_window: 512 * KIB,
    connection_window: 24 * MIB,
    max_streams: 1024,
    max_connections: 4,
    max_waiting: 4096,
    queue: 256,
    longest_wait: Duration::from_millis(100),
    frame_size: 32 * KIB,
    send_buffer: 256 * 1024,
    ping_every: Duration::from_secs(5),
    ping_timeout: Duration::from_secs(3),
    idle: Duration::from_secs(60),
    dscp: 0,
    priority: 0,
    unsent: MIB,
    turn: 512 * 1024,
};

/// Heartbeats: small, few, first in every queue, and a lost peer is noticed soon.
const GOSSIP: LaneSettings = LaneSettings {
    stream_window: 64 * KIB,
    connection_window: 3 * MIB,
    max_streams: 256,
    max_connections: 1,
    max_waiting: 64,
    queue: 8,
    longest_wait: Duration::from_millis(20),
    frame_size: 16 * KIB,
    send_buffer: 64 * 1024,
    ping_every: Duration::from_secs(2),
    ping_timeout: Duration::from_secs(2),
    idle: Duration::from_secs(60),
    dscp: 46,
    priority: 6,
    unsent: 16 * KIB,
    turn: 64 * 1024,
};

/// Bulk: windows of a bandwidth-delay product, few streams, last in every queue, and little in
/// the kernel's, so that what was sent last is not what arrives last.
const BIFROST_DATA: LaneSettings = LaneSettings {
    stream_window: 16 * MIB,
    connection_window: 64 * MIB,
    max_streams: 64,
    max_connections: 2,
    max_waiting: 128,
    queue: 32,
    longest_wait: Duration::from_millis(250),
    frame_size: 64 * KIB,
    send_buffer: 1024 * 1024,
    ping_every: Duration::from_secs(5),
    ping_timeout: Duration::from_secs(3),
    idle: Duration::from_secs(60),
    dscp: 8,
    priority: 2,
    unsent: 128 * KIB,
    turn: 64 * 1024,
};

const INGRESS_DATA: LaneSettings = LaneSettings {
    stream_window: 256 * KIB,
    connection_window: 12 * MIB,
    max_streams: 2048,
    max_connections: 4,
    max_waiting: 2048,
    queue: 256,
    longest_wait: Duration::from_millis(100),
    frame_size: 16 * KIB,
    send_buffer: 128 * 1024,
    ping_every: Duration::from_secs(5),
    ping_timeout: Duration::from_secs(3),
    idle: Duration::from_secs(60),
    dscp: 18,
    priority: 0,
    unsent: 128 * KIB,
    turn: 64 * 1024,
};

/// The settings of a lane.
#[must_use]
pub fn settings(lane: Lane) -> LaneSettings {
    match lane.bounds() {
        Some(bounds) => of_bounds(bounds),
        None if lane == Lane::GOSSIP => GOSSIP,
        None if lane == Lane::BIFROST_DATA => BIFROST_DATA,
        None if lane == Lane::INGRESS_DATA => INGRESS_DATA,
        None => GENERAL,
    }
}

/// A project's lane: its bounds are its own, all else is General's.
fn of_bounds(bounds: &LaneBounds) -> LaneSettings {
    LaneSettings {
        stream_window: bounds.window,
        connection_window: bounds.connection_window,
        max_streams: bounds.max_streams,
        max_connections: bounds.max_connections as usize,
        max_waiting: bounds.max_waiting as usize,
        // What may wait for a dial may wait for room, as far as General goes.
        queue: GENERAL.queue.min(bounds.max_waiting as usize),
        dscp: bounds.dscp,
        priority: bounds.priority.into(),
        ..GENERAL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_lane_keeps_the_rules_for_lanes() {
        for lane in Lane::BUILT_IN {
            let lane = settings(lane);
            assert!(lane.connection_window >= 4 * lane.stream_window, "{lane:?}");
            let many = lane.max_streams > 64;
            assert!(
                !many || lane.connection_window >= 48 * lane.stream_window,
                "{lane:?}"
            );
            assert!(lane.priority <= 6, "{lane:?}");
            assert!(lane.dscp < 64, "{lane:?}");
            assert!(
                (16 * KIB..=16 * MIB - 1).contains(&lane.frame_size),
                "{lane:?}"
            );
            // A frame that waits behind more than this is as good as in another lane's queue.
            assert!((1..=MIB).contains(&lane.unsent), "{lane:?}");
            assert!((64 * 1024..=512 * 1024).contains(&lane.turn), "{lane:?}");
            // Who waits holds a request in memory, and its caller in suspense.
            assert!((1..=256).contains(&lane.queue), "{lane:?}");
            let wait = lane.longest_wait.as_millis();
            assert!((10..=250).contains(&wait), "{lane:?}");
        }
    }

    #[test]
    fn a_lane_of_a_projects_own_has_bounds_too() {
        let settings = of_bounds(&LaneBounds {
            window: 64 * KIB,
            connection_window: MIB,
            max_streams: 8,
            max_connections: 1,
            max_waiting: 4,
            dscp: 34,
            priority: 5,
        });
        assert_eq!((settings.dscp, settings.priority), (34, 5));
        assert_eq!((settings.max_streams, settings.max_waiting), (8, 4));
        assert_eq!(settings.queue, 4);
        assert_eq!(settings.unsent, GENERAL.unsent);
        assert_eq!(settings.turn, GENERAL.turn);
    }
}

//! What a sidecar says of its lanes in `/config`, and what lanes promise, for tests that compare
//! both with the wire. The figures themselves may be tuned; the promises stay.

use serde_json::Value;
use sidelane_proto::model::{ConnectionClass, Lane};

use crate::frames::Opening;
use crate::services;

/// A service in each lane, a method of it, its class and its lane.
pub const CALLS: [(&str, &str, ConnectionClass, Lane); 4] = [
    (
        services::ECHO,
        "Unary",
        ConnectionClass::Internal,
        Lane::GENERAL,
    ),
    (
        services::BEAT,
        "Ping",
        ConnectionClass::Internal,
        Lane::GOSSIP,
    ),
    (
        services::BULK,
        "Pull",
        ConnectionClass::Internal,
        Lane::BIFROST_DATA,
    ),
    (
        services::FRONT,
        "Visit",
        ConnectionClass::External,
        Lane::INGRESS_DATA,
    ),
];

/// What one bulk stream may at least send before it is read: a bandwidth-delay product.
const BULK_WINDOW: u32 = 16 << 20;

/// One lane's settings, as far as they can be seen from outside.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LaneFacts {
    /// Bytes that one stream may send before it is read.
    pub stream_window: u32,
    /// Bytes that a connection may send before they are read.
    pub connection_window: u32,
    /// Calls at once on one connection.
    pub max_streams: u32,
    /// The largest frame.
    pub frame_size: u32,
    /// The code point of every packet.
    pub dscp: u8,
    /// The socket's priority.
    pub priority: u32,
}

impl LaneFacts {
    /// What this `/config` says of the lane.
    ///
    /// # Panics
    /// If it says nothing.
    #[must_use]
    pub fn of(config: &Value, lane: Lane) -> Self {
        let lanes = config["lanes"].as_array().into_iter().flatten();
        let mut named = lanes.filter(|facts| facts["lane"] == lane.name());
        let facts = named.next().unwrap_or(&Value::Null);
        let number = |name: &str| {
            let number = facts[name].as_u64();
            number.unwrap_or_else(|| panic!("/config has no {name} of lane {lane}: {config}"))
        };
        let small = |name: &str| u32::try_from(number(name)).expect("a number of 32 bits");
        Self {
            stream_window: small("stream_window"),
            connection_window: small("connection_window"),
            max_streams: small("max_streams"),
            frame_size: small("frame_size"),
            dscp: u8::try_from(number("dscp")).expect("a code point has 6 bits"),
            priority: small("priority"),
        }
    }
}

/// What lanes promise of their windows: no two have the same, a few slow streams never fill their
/// connection, heartbeats have the smallest, and bulk a bandwidth-delay product.
///
/// # Panics
/// If one does not hold.
pub fn assert_each_lane_has_its_own(openings: &[(Lane, Opening)]) {
    let window = |opening: &Opening| opening.initial_window_size.unwrap_or_default();
    let mut windows: Vec<(u32, Lane)> = openings
        .iter()
        .map(|(lane, opening)| (window(opening), *lane))
        .collect();
    windows.sort_unstable();
    let lanes: Vec<Lane> = windows.iter().map(|(_, lane)| *lane).collect();
    let expected = [
        Lane::GOSSIP,
        Lane::INGRESS_DATA,
        Lane::GENERAL,
        Lane::BIFROST_DATA,
    ];
    assert_eq!(lanes, expected, "{windows:?}");
    assert!(
        windows.windows(2).all(|pair| pair[0].0 < pair[1].0),
        "two lanes have one window: {windows:?}"
    );
    assert!(windows[3].0 >= BULK_WINDOW, "{windows:?}");
    for (lane, opening) in openings {
        let whole = opening.connection_window;
        assert!(whole >= 4 * window(opening), "{lane}: {opening:?}");
    }
}

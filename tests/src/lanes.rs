//! What a sidecar says of its lanes in `/config`, for tests that compare it with the wire.

use serde_json::Value;
use sidelane_proto::model::Lane;

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

//! HTTP/2 as bytes (RFC 9113 §4, §6): what a library would not show, such as the settings with
//! which a connection begins. It parses what was sent and checks nothing else.

use std::collections::BTreeMap;
use std::io;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt};

/// How the dialling side begins (RFC 9113 §3.4).
pub const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// An empty SETTINGS frame: all defaults.
pub const EMPTY_SETTINGS: &[u8; 9] = &[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0];
/// The frame types that tests look for.
pub const HEADERS: u8 = 1;
/// SETTINGS.
pub const SETTINGS: u8 = 4;
/// GOAWAY.
pub const GOAWAY: u8 = 7;
/// `WINDOW_UPDATE`.
pub const WINDOW_UPDATE: u8 = 8;
/// The acknowledgement of a SETTINGS or PING frame.
const ACK: u8 = 1;
/// What a connection may send before the first `WINDOW_UPDATE` (RFC 9113 §6.9.2).
const DEFAULT_WINDOW: u32 = 65_535;

/// One frame.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// Its type.
    pub kind: u8,
    /// Its flags.
    pub flags: u8,
    /// Its stream; 0 for the connection.
    pub stream: u32,
    /// What it carries.
    pub payload: Bytes,
}

/// How one side opens a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Opening {
    /// `SETTINGS_ENABLE_PUSH`, where it was sent.
    pub enable_push: Option<u32>,
    /// `SETTINGS_MAX_CONCURRENT_STREAMS`, where it was sent.
    pub max_concurrent_streams: Option<u32>,
    /// `SETTINGS_INITIAL_WINDOW_SIZE`, where it was sent.
    pub initial_window_size: Option<u32>,
    /// `SETTINGS_MAX_FRAME_SIZE`, where it was sent.
    pub max_frame_size: Option<u32>,
    /// `SETTINGS_MAX_HEADER_LIST_SIZE`, where it was sent.
    pub max_header_list_size: Option<u32>,
    /// What the whole connection may send before anything is read, in bytes.
    pub connection_window: u32,
}

impl Frame {
    /// Reads the next frame.
    ///
    /// # Errors
    /// The connection ended before it, or within it.
    pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut head = [0; 9];
        from.read_exact(&mut head).await?;
        let [high, middle, low, kind, flags, stream @ ..] = head;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        let mut payload = vec![0; length];
        from.read_exact(&mut payload).await?;
        Ok(Self {
            kind,
            flags,
            stream: u32::from_be_bytes(stream) & 0x7FFF_FFFF,
            payload: payload.into(),
        })
    }

    /// It goes first, and both sides send one.
    #[must_use]
    pub fn is_settings(&self) -> bool {
        self.kind == SETTINGS && self.flags & ACK == 0
    }

    /// The bytes of a GOAWAY without a text.
    #[must_use]
    pub fn goaway(last_stream: u32, error: u32) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, GOAWAY, 0, 0, 0, 0, 0];
        bytes.extend(last_stream.to_be_bytes());
        bytes.extend(error.to_be_bytes());
        bytes
    }
}

impl Opening {
    /// Reads how the other side opens the connection, up to its first `WINDOW_UPDATE`.
    ///
    /// # Errors
    /// The connection ended before that.
    pub async fn read(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Self> {
        let mut opening = Self::default();
        let mut settled = false;
        loop {
            let mut frame = Frame::read(from).await?;
            if frame.is_settings() {
                opening.settings(frame.payload);
                settled = true;
            } else if settled && frame.kind == WINDOW_UPDATE && frame.stream == 0 {
                opening.connection_window = DEFAULT_WINDOW + frame.payload.get_u32();
                return Ok(opening);
            }
        }
    }

    fn settings(&mut self, mut payload: Bytes) {
        let mut given = BTreeMap::new();
        while payload.remaining() >= 6 {
            let id = payload.get_u16();
            given.insert(id, payload.get_u32());
        }
        let get = |id: u16| given.get(&id).copied();
        self.enable_push = get(2);
        self.max_concurrent_streams = get(3);
        self.initial_window_size = get(4);
        self.max_frame_size = get(5);
        self.max_header_list_size = get(6);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_opening_is_read_from_its_bytes() {
        let mut bytes = vec![0, 0, 12, SETTINGS, 0, 0, 0, 0, 0];
        bytes.extend([0, 4, 0, 1, 0, 0]);
        bytes.extend([0, 3, 0, 0, 0, 64]);
        bytes.extend([0, 0, 0, SETTINGS, ACK, 0, 0, 0, 0]);
        bytes.extend([0, 0, 4, WINDOW_UPDATE, 0, 0, 0, 0, 0, 0, 7, 0, 1]);
        let opening = Opening::read(&mut bytes.as_slice()).await.unwrap();
        let expected = Opening {
            initial_window_size: Some(65_536),
            max_concurrent_streams: Some(64),
            connection_window: 8 * 65_536,
            ..Opening::default()
        };
        assert_eq!(opening, expected);
    }

    #[tokio::test]
    async fn a_goaway_is_written_as_it_is_read() {
        let bytes = Frame::goaway(5, 2);
        let frame = Frame::read(&mut bytes.as_slice()).await.unwrap();
        assert_eq!((frame.kind, frame.stream), (GOAWAY, 0));
        assert_eq!(&frame.payload[..], [0, 0, 0, 5, 0, 0, 0, 2]);
        assert!(!frame.is_settings());
    }
}

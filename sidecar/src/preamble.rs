//! The first 8 bytes of a link between sidecars: `SLN1`, the lane's id as a big-endian u16, the
//! class, and 0. HTTP/2 sends its SETTINGS before any call, so the acceptor must know the lane
//! before that. A connection that begins with HTTP/2's own preface is taken as lane General.

use sidelane_proto::model::{ConnectionClass, Lane};

/// Bytes of a preamble.
pub const LENGTH: usize = 8;
/// How a preamble begins.
pub const MAGIC: [u8; 4] = *b"SLN1";
/// How an HTTP/2 connection begins (RFC 9113 §3.4), as far as it takes to tell it apart.
pub const HTTP2: [u8; 4] = *b"PRI ";

/// What a preamble says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preamble {
    /// The class of every call on the link.
    pub class: ConnectionClass,
    /// The lane of every call on the link.
    pub lane: Lane,
}

/// Why a preamble is none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PreambleError {
    /// Neither `SLN1` nor `PRI `.
    #[error("it begins with {0:?}, neither a Sidelane preamble nor HTTP/2")]
    Foreign([u8; 4]),
    /// A lane that is not known here.
    #[error("it asks for lane {0}, which is not known here")]
    Lane(u16),
    /// A class that does not exist.
    #[error("it asks for class {0}, which does not exist")]
    Class(u8),
    /// A pair that the matrix does not have.
    #[error("it asks for {0} in lane {1}, which do not go together")]
    Pair(ConnectionClass, Lane),
    /// The last byte is for later versions.
    #[error("its last byte is {0}, only 0 is known here")]
    Reserved(u8),
}

/// The preamble of a link.
#[must_use]
pub fn write(class: ConnectionClass, lane: Lane) -> [u8; LENGTH] {
    let [high, low] = lane.id().to_be_bytes();
    let [s, l, n, one] = MAGIC;
    [s, l, n, one, high, low, class.number(), 0]
}

/// Reads a preamble.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn read(bytes: [u8; LENGTH]) -> Result<Preamble, PreambleError> {
    let [s, l, n, one, high, low, class, reserved] = bytes;
    if [s, l, n, one] != MAGIC {
        return Err(PreambleError::Foreign([s, l, n, one]));
    }
    let id = u16::from_be_bytes([high, low]);
    let lane = Lane::from_id(id).ok_or(PreambleError::Lane(id))?;
    let class = ConnectionClass::from_number(class).ok_or(PreambleError::Class(class))?;
    if !class.allows(lane) {
        return Err(PreambleError::Pair(class, lane));
    }
    if reserved != 0 {
        return Err(PreambleError::Reserved(reserved));
    }
    Ok(Preamble { class, lane })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_for_every_legal_pair() {
        for class in ConnectionClass::BUILT_IN {
            for lane in Lane::BUILT_IN {
                let read = read(write(class, lane));
                if class.allows(lane) {
                    assert_eq!(read, Ok(Preamble { class, lane }));
                } else {
                    assert_eq!(read, Err(PreambleError::Pair(class, lane)));
                }
            }
        }
    }

    #[test]
    fn every_other_beginning_is_named() {
        let good = write(ConnectionClass::Internal, Lane::GOSSIP);
        assert_eq!(&good, b"SLN1\x00\x01\x01\x00");
        assert_eq!(read(*b"PRI * HT"), Err(PreambleError::Foreign(HTTP2)));
        assert_eq!(read(*b"SLN1\x00\x63\x01\x00"), Err(PreambleError::Lane(99)));
        assert_eq!(read(*b"SLN1\x00\x01\x09\x00"), Err(PreambleError::Class(9)));
        assert_eq!(
            read(*b"SLN1\x00\x01\x01\x07"),
            Err(PreambleError::Reserved(7))
        );
    }
}

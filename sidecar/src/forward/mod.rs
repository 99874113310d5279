//! Moves one call's frames, both ways, as they are: data, trailers, ends and resets. It decodes
//! nothing and holds at most what the windows allow, apart from the first 64 KiB of a request,
//! which are kept until the answer's headers come, so that an attempt that was never looked at
//! can be made again. It works on h2's streams themselves: an answer that was cut off cannot look
//! whole, trailers-only answers stay what they are, and a call is one task.

mod clock;
mod download;
mod error;
mod exchange;
mod guest;
mod messages;
mod replay;
mod runner;
mod upload;

pub use clock::Clock;
pub use download::Taker;
pub use error::ForwardError;
pub use exchange::{Answer, End, stream_answer};
pub use messages::TooLarge;
pub use replay::Replay;
pub use runner::{Heard, Runner, race};
pub use upload::{REPLAY_LIMIT, Upload};

/// Frames that one call moves before others on the thread get their turn.
const FRAMES_A_POLL: usize = 64;

/// Follows the messages of a request that comes in these pieces.
///
/// # Errors
/// One is too large.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
pub fn follow(limit: u32, pieces: &[&[u8]]) -> Result<(), TooLarge> {
    let mut messages = messages::Messages::up_to(limit);
    pieces.iter().try_for_each(|piece| messages.read(piece))
}

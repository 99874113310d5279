//! Moves one call's frames, both ways, as they are: data, trailers, ends and resets. It decodes
//! nothing and holds at most what the windows allow, apart from the first 64 KiB of a request,
//! which are kept until the answer's headers come, so that an attempt that was never looked at
//! can be made again. It works on h2's streams themselves: an answer that was cut off cannot look
//! whole, trailers-only answers stay what they are, and a call is one task.

mod download;
mod error;
mod exchange;
mod messages;
mod race;
mod replay;
mod upload;

pub use error::ForwardError;
pub use exchange::{Answer, Clock, End, await_answer, stream_answer};
pub use messages::TooLarge;
pub use race::{Heard, Runner, race};
pub use replay::Replay;
pub use upload::{REPLAY_LIMIT, Upload};

/// Frames that one call moves before others on the thread get their turn.
const FRAMES_A_POLL: usize = 64;

//! May a failed attempt be made again, elsewhere? Only where the call cannot have been processed
//! (gRFC A6): it never left, the peer refused it before delivery, or the connection's end says
//! that it was not looked at. Retries of idempotent methods that may have run are not built yet.

use std::time::Instant;

/// Attempts of one call, the first included.
pub const MOST_ATTEMPTS: u32 = 3;

/// What is known of an attempt that failed.
#[derive(Debug, Clone, Copy)]
pub struct Attempt {
    /// Its number, from 1.
    pub number: u32,
    /// The callee cannot have seen the call.
    pub unprocessed: bool,
    /// The whole request can be sent once more.
    pub replayable: bool,
}

/// Shall it be made again?
#[must_use]
pub fn again(attempt: Attempt, deadline: Option<Instant>, now: Instant) -> bool {
    attempt.unprocessed
        && attempt.replayable
        && attempt.number < MOST_ATTEMPTS
        && deadline.is_none_or(|deadline| deadline > now)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_cannot_have_run_is_made_again_and_in_time() {
        let now = Instant::now();
        let good = Attempt {
            number: 1,
            unprocessed: true,
            replayable: true,
        };
        assert!(again(good, None, now));
        assert!(!again(
            Attempt {
                unprocessed: false,
                ..good
            },
            None,
            now
        ));
        assert!(!again(
            Attempt {
                replayable: false,
                ..good
            },
            None,
            now
        ));
        assert!(!again(
            Attempt {
                number: MOST_ATTEMPTS,
                ..good
            },
            None,
            now
        ));
        assert!(!again(good, Some(now), now));
    }
}

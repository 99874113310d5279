//! May a failed attempt be made again? Where the call cannot have been processed (gRFC A6), it
//! goes elsewhere at once: it never left, the peer refused it before delivery, or the connection's
//! end says that it was not looked at. What may have run is made again only where its rule says
//! that this does no harm, after a pause (gRFC A6, "Exponential Backoff" and "Pushback").

use std::time::{Duration, Instant};

use sidelane_proto::model::Retry;

use crate::retries::Withheld;

/// Attempts of one call, the first included, unless its rule allows more.
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

/// What the callee said of another attempt, in `grpc-retry-pushback-ms`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pushback {
    /// Nothing.
    Silent,
    /// Not before this long.
    After(Duration),
    /// Not at all: the value is negative, or no number.
    Never,
}

/// Shall it be made again, elsewhere and at once? `retry` is the rule's word on the method.
#[must_use]
pub fn again(
    attempt: Attempt,
    retry: Option<Retry>,
    deadline: Option<Instant>,
    now: Instant,
) -> bool {
    let most = retry.map_or(MOST_ATTEMPTS, |retry| retry.attempts.max(MOST_ATTEMPTS));
    attempt.unprocessed
        && attempt.replayable
        && attempt.number < most
        && deadline.is_none_or(|deadline| deadline > now)
}

/// The longest pause that a server may ask for. A call is not held open for more than that: a stream
/// need have no deadline.
pub const LONGEST_PUSHBACK: Duration = Duration::from_secs(60);

/// After which pause a call that may have run is made again. `random` is any number from 0 to 1. A
/// pause that would last until the deadline is not worth making.
///
/// # Errors
/// It is not; with the reason, unless its rule has it so.
pub fn repeat(
    attempt: Attempt,
    retry: Option<Retry>,
    pushback: Pushback,
    deadline: Option<Instant>,
    now: Instant,
    random: f64,
) -> Result<Duration, Option<Withheld>> {
    let retry = retry.filter(|retry| attempt.number < retry.attempts && attempt.replayable);
    let retry = retry.ok_or(None)?;
    let doubled = retry
        .pause
        .saturating_mul(1 << (attempt.number - 1).min(16));
    let pause = match pushback {
        Pushback::Silent => doubled.min(retry.max_pause).mul_f64(random.clamp(0.0, 1.0)),
        Pushback::After(pause) if pause <= LONGEST_PUSHBACK => pause,
        Pushback::After(_) | Pushback::Never => return Err(Some(Withheld::Pushback)),
    };
    let in_time = |deadline: Instant| deadline.saturating_duration_since(now) > pause;
    if deadline.is_none_or(in_time) {
        Ok(pause)
    } else {
        Err(Some(Withheld::Deadline))
    }
}

/// Reads a `grpc-retry-pushback-ms`.
#[must_use]
pub fn pushback(value: Option<&[u8]>) -> Pushback {
    let Some(value) = value else {
        return Pushback::Silent;
    };
    let text = std::str::from_utf8(value).unwrap_or_default();
    match text.parse() {
        Ok(milliseconds) => Pushback::After(Duration::from_millis(milliseconds)),
        Err(_) => Pushback::Never,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: Attempt = Attempt {
        number: 1,
        unprocessed: true,
        replayable: true,
    };
    const FIVE: Option<Retry> = Some(Retry {
        attempts: 5,
        ..Retry::DEFAULT
    });

    fn number(number: u32) -> Attempt {
        Attempt { number, ..GOOD }
    }

    #[test]
    fn only_what_cannot_have_run_is_made_again_at_once_and_in_time() {
        let now = Instant::now();
        assert!(again(GOOD, None, None, now));
        let processed = Attempt {
            unprocessed: false,
            ..GOOD
        };
        assert!(!again(processed, FIVE, None, now));
        let lost = Attempt {
            replayable: false,
            ..GOOD
        };
        assert!(!again(lost, None, None, now));
        assert!(!again(number(MOST_ATTEMPTS), None, None, now));
        assert!(again(number(MOST_ATTEMPTS), FIVE, None, now));
        assert!(!again(number(5), FIVE, None, now));
        assert!(!again(GOOD, None, Some(now), now));
    }

    #[test]
    fn what_may_have_run_is_repeated_as_often_as_its_rule_says() {
        let now = Instant::now();
        let repeated = |attempt, retry| repeat(attempt, retry, Pushback::Silent, None, now, 1.0);
        assert_eq!(repeated(GOOD, None), Err(None));
        let pauses = |retry| -> Vec<_> {
            (1..=5)
                .map_while(|it| repeated(number(it), retry).ok())
                .map(|pause| pause.as_millis())
                .collect()
        };
        assert_eq!(pauses(FIVE), [25, 50, 100, 200]);
        let slower = Retry {
            attempts: 5,
            pause: Duration::from_millis(40),
            max_pause: Duration::from_millis(100),
            ..Retry::DEFAULT
        };
        assert_eq!(pauses(Some(slower)), [40, 80, 100, 100]);
        let lost = Attempt {
            replayable: false,
            ..GOOD
        };
        assert_eq!(repeated(lost, FIVE), Err(None));
        let half = repeat(GOOD, FIVE, Pushback::Silent, None, now, 0.5);
        assert_eq!(half, Ok(Retry::DEFAULT.pause / 2));
    }

    #[test]
    fn the_callees_word_counts_and_so_does_the_deadline() {
        let now = Instant::now();
        let second = Duration::from_secs(1);
        let asked = |text: &str| {
            let pushback = pushback(Some(text.as_bytes()));
            repeat(GOOD, FIVE, pushback, Some(now + second), now, 1.0)
        };
        assert_eq!(asked("0"), Ok(Duration::ZERO));
        assert_eq!(asked("999"), Ok(Duration::from_millis(999)));
        assert_eq!(asked("1000"), Err(Some(Withheld::Deadline)));
        for refused in ["-1", "soon", ""] {
            assert_eq!(asked(refused), Err(Some(Withheld::Pushback)), "{refused}");
        }
        assert_eq!(pushback(None), Pushback::Silent);
        // Not even where there is all the time in the world.
        let asked = |milliseconds| {
            let pushback = Pushback::After(Duration::from_millis(milliseconds));
            repeat(GOOD, FIVE, pushback, None, now, 1.0)
        };
        assert_eq!(asked(60_000), Ok(LONGEST_PUSHBACK));
        assert_eq!(asked(60_001), Err(Some(Withheld::Pushback)));
    }
}

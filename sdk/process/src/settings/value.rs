//! Readers of single values: durations, choices, booleans. Each error says what fits; the flag,
//! the value and its origin are put in front by [`super::Item::parse`].

use std::time::Duration;

use super::nearest::nearest;

/// The longest duration that a setting may have: 30 days. Nothing here waits longer, and far
/// above it the arithmetic of clocks overflows.
pub const DURATION_LIMIT: Duration = Duration::from_secs(30 * 24 * 60 * 60);

/// A text that is no duration.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadDuration {
    /// No number, or no unit that is known.
    #[error("not a duration; write a whole number and a unit: 500ms, 30s, 5m or 1h")]
    Malformed,
    /// Only a number.
    #[error("has no unit; write {0}s for seconds or {0}ms for milliseconds")]
    NoUnit(String),
    /// More than [`DURATION_LIMIT`].
    #[error("too long; the most is 720h")]
    TooLong,
}

/// Reads `500ms`, `30s`, `5m` or `1h`.
///
/// # Errors
/// Anything else, a missing unit, more than [`DURATION_LIMIT`].
pub fn duration(text: &str) -> Result<Duration, BadDuration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    if number.is_empty() {
        return Err(BadDuration::Malformed);
    }
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        "" => return Err(BadDuration::NoUnit(number.to_owned())),
        _ => return Err(BadDuration::Malformed),
    };
    number
        .parse::<u64>()
        .ok()
        .and_then(|number| number.checked_mul(milliseconds))
        .map(Duration::from_millis)
        .filter(|duration| *duration <= DURATION_LIMIT)
        .ok_or(BadDuration::TooLong)
}

/// A text that is none of the allowed words.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be one of {allowed}; the nearest is {nearest}")]
pub struct UnknownChoice {
    /// The allowed words, separated by commas.
    pub allowed: String,
    /// The most similar one.
    pub nearest: String,
}

/// Reads one of several words, each with its meaning.
///
/// # Errors
/// None of them; the error names all of them and the nearest.
pub fn choice<T: Copy>(text: &str, choices: &[(&str, T)]) -> Result<T, UnknownChoice> {
    let words = || choices.iter().map(|(word, _)| *word);
    choices
        .iter()
        .find(|(word, _)| *word == text)
        .map(|(_, meaning)| *meaning)
        .ok_or_else(|| UnknownChoice {
            allowed: words().collect::<Vec<_>>().join(", "),
            nearest: nearest(text, words()).unwrap_or_default().to_owned(),
        })
}

/// A text that is neither `true` nor `false`.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be true or false")]
pub struct BadBoolean;

/// Reads `true` or `false`.
///
/// # Errors
/// Anything else.
pub fn boolean(text: &str) -> Result<bool, BadBoolean> {
    text.parse().map_err(|_| BadBoolean)
}

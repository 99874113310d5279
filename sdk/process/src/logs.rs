//! The process's log: to stderr, as text for people at a terminal and as JSON lines for
//! programs. Set up once, before anything that logs; it never writes to stdout, which belongs to
//! what a command prints.

use std::io::{self, IsTerminal};
use std::str::FromStr;

use tracing::level_filters::{LevelFilter, STATIC_MAX_LEVEL};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{Layer, Registry, fmt};

use crate::settings::nearest;

const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];

/// A log that cannot be set up.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LogError {
    /// A level that is none.
    #[error(
        "{given:?} is not a log level; the levels are off, error, warn, info, debug, trace; the nearest is {nearest}"
    )]
    UnknownLevel {
        /// As it was written.
        given: String,
        /// The most similar one.
        nearest: &'static str,
    },
    /// A level that this program was built without.
    #[error(
        "this program was built without the log level {given:?}: the most is {most}; a build in \
         profile dev has all of them"
    )]
    LeftOut {
        /// As it was written.
        given: String,
        /// The most that it can log.
        most: LevelFilter,
    },
    /// A directive for no target.
    #[error("{0:?} has no target before the `=`; write sidelane_sidecar=debug, or only debug")]
    NoTarget(String),
    /// Two levels without target, or two for the same target.
    #[error("{0} has two levels; give it one")]
    Twice(String),
    /// This process has a log already.
    #[error("the log is set up already")]
    Already,
}

/// What is logged: a level for everything, and levels for targets, which begin with a crate's name.
#[derive(Debug, Clone, PartialEq)]
pub struct Levels(Targets);

/// The target of the record of refusals. It is no matter of how much one wants to read of a program's
/// doings: it is written at every level, `off` too, unless it is named.
pub const AUDIT: &str = "sidelane::audit";

/// Reads `info`, or `info,sidelane_sidecar=debug`. Without a level for everything, only the named
/// targets are logged, and [`AUDIT`].
impl FromStr for Levels {
    type Err = LogError;

    fn from_str(text: &str) -> Result<Self, LogError> {
        let mut targets = Targets::new();
        let mut seen = Vec::new();
        for directive in text.split(',').map(str::trim) {
            let (target, word) = match directive.split_once('=') {
                Some((target, word)) => (target.trim(), word.trim()),
                None => ("", directive),
            };
            if target.is_empty() && directive.contains('=') {
                return Err(LogError::NoTarget(directive.to_owned()));
            }
            if seen.contains(&target) {
                let whom = if target.is_empty() {
                    "everything"
                } else {
                    target
                };
                return Err(LogError::Twice(whom.to_owned()));
            }
            seen.push(target);
            let level = level(word, STATIC_MAX_LEVEL)?;
            targets = match target {
                "" => targets.with_default(level),
                target => targets.with_target(target, level),
            };
        }
        if !seen.contains(&AUDIT) {
            targets = targets.with_target(AUDIT, LevelFilter::WARN);
        }
        Ok(Self(targets))
    }
}

/// Reads a level of a program that has levels up to `most` and no others.
fn level(word: &str, most: LevelFilter) -> Result<LevelFilter, LogError> {
    let known = LEVELS.iter().find(|level| level.eq_ignore_ascii_case(word));
    let level = known.and_then(|level| level.parse().ok());
    let level = level.ok_or_else(|| LogError::UnknownLevel {
        given: word.to_owned(),
        nearest: nearest(word, LEVELS).unwrap_or_default(),
    })?;
    if level > most {
        let given = word.to_owned();
        return Err(LogError::LeftOut { given, most });
    }
    Ok(level)
}

/// Sets up the log of this process, with levels as [`Levels`] reads them.
///
/// # Errors
/// An unknown level; a second call.
pub fn init(levels: &str) -> Result<(), LogError> {
    let Levels(targets) = levels.parse()?;
    let layer: Box<dyn Layer<Registry> + Send + Sync> = if io::stderr().is_terminal() {
        fmt::layer().with_writer(io::stderr).boxed()
    } else {
        fmt::layer()
            .with_writer(io::stderr)
            .json()
            .flatten_event(true)
            .boxed()
    };
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(targets));
    tracing::subscriber::set_global_default(subscriber).map_err(|_| LogError::Already)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tracing::Level;

    #[test]
    fn refusals_are_recorded_at_every_level_unless_their_record_is_named() {
        let recorded = |text: &str| {
            let Levels(targets) = text.parse().unwrap();
            targets.would_enable(AUDIT, &Level::WARN)
        };
        for text in [
            "info",
            "error",
            "off",
            "sidelane_sidecar=debug",
            "error,sidelane=off",
        ] {
            assert!(recorded(text), "{text}");
        }
        assert!(!recorded("info,sidelane::audit=off"));
        assert!(!recorded("sidelane::audit=error"));
    }

    #[test]
    fn levels_go_by_target() {
        let Levels(targets) = "info, sidelane_sidecar=debug".parse().unwrap();
        assert!(targets.would_enable("hyper", &Level::INFO));
        assert!(!targets.would_enable("hyper", &Level::DEBUG));
        assert!(targets.would_enable("sidelane_sidecar::pool", &Level::DEBUG));
        let Levels(targets) = "OFF".parse().unwrap();
        assert!(!targets.would_enable("sidelane_sidecar", &Level::ERROR));
    }

    #[test]
    fn a_level_that_was_left_out_is_refused_instead_of_saying_nothing() {
        let error = level("trace", LevelFilter::DEBUG).unwrap_err().to_string();
        assert_eq!(
            error,
            "this program was built without the log level \"trace\": the most is debug; a build in \
             profile dev has all of them"
        );
        assert_eq!(level("debug", LevelFilter::DEBUG), Ok(LevelFilter::DEBUG));
    }

    #[test]
    fn wrong_levels_are_named() {
        let cases = [
            (
                "inof",
                "\"inof\" is not a log level; the levels are off, error, warn, info, debug, trace; the nearest is info",
            ),
            (
                "info,a=degub",
                "\"degub\" is not a log level; the levels are off, error, warn, info, debug, trace; the nearest is debug",
            ),
            (
                "=info",
                "\"=info\" has no target before the `=`; write sidelane_sidecar=debug, or only debug",
            ),
            ("info,debug", "everything has two levels; give it one"),
            ("a=info,a=debug", "a has two levels; give it one"),
        ];
        for (text, message) in cases {
            assert_eq!(
                text.parse::<Levels>().unwrap_err().to_string(),
                message,
                "for {text:?}"
            );
        }
        assert!("".parse::<Levels>().is_err());
        assert!("info,".parse::<Levels>().is_err());
    }
}

//! How a message from the wire can be wrong. One shape for all of them, so that a refusal can be
//! sent back, logged and shown with the exact field that is to blame.

use std::fmt;

/// A field of a wire message that cannot be taken in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldError {
    /// The field's path, such as `upserts[3].addresses.internal`.
    pub path: String,
    /// What is wrong with it.
    pub problem: Problem,
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// The field must be there.
    #[error("is missing")]
    Missing,
    /// The text is too long to be true.
    #[error("has {length} bytes, at most {limit} are allowed")]
    TooLong {
        /// Bytes given.
        length: usize,
        /// Bytes allowed.
        limit: usize,
    },
    /// The list is too long to be true.
    #[error("has {count} entries, at most {limit} are allowed")]
    TooMany {
        /// Entries given.
        count: usize,
        /// Entries allowed.
        limit: usize,
    },
    /// The text does not have the form that is asked for.
    #[error("`{given}` is not {wanted}")]
    Malformed {
        /// The text given.
        given: String,
        /// What it should have been, with its article: "a host and port".
        wanted: &'static str,
    },
    /// A number without a meaning.
    #[error("{given} is not a known {what}")]
    Unknown {
        /// The number or name given.
        given: String,
        /// What it should have named.
        what: &'static str,
    },
    /// A name without a meaning, and what it may have been meant to be.
    #[error("`{given}` is not a known {what}{} ({})", did_you_mean(.nearest.as_deref()), list(.known))]
    UnknownName {
        /// The name given.
        given: String,
        /// What it should have named.
        what: &'static str,
        /// The most similar one, if there is one that is similar.
        nearest: Option<String>,
        /// All that there are.
        known: String,
    },
    /// A class and a lane that do not go together.
    #[error("{class} and lane `{lane}` do not go together; {class} allows {legal}")]
    IllegalPair {
        /// The class given.
        class: &'static str,
        /// The lane given.
        lane: String,
        /// The lanes that the class allows.
        legal: String,
    },
    /// The same thing is named twice.
    #[error("`{given}` is named twice")]
    Duplicate {
        /// What is named twice.
        given: String,
    },
    /// A figure that is too small or too large; the text says what is allowed.
    #[error("is out of bounds: {0}")]
    OutOfBounds(String),
    /// What the rest of the rule, or another one, makes senseless or dangerous; the text says why
    /// and what to try.
    #[error("{0}")]
    Refused(String),
    /// Two fields contradict each other.
    #[error("contradicts another field: {0}")]
    Contradiction(String),
}

impl fmt::Display for FieldError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.path, self.problem)
    }
}

impl std::error::Error for FieldError {}

impl Problem {
    /// A name that is none of those known.
    #[must_use]
    pub fn unknown_name<'a>(
        given: &str,
        what: &'static str,
        known: impl IntoIterator<Item = &'a str>,
    ) -> Self {
        let known: Vec<&str> = known.into_iter().collect();
        Self::UnknownName {
            given: given.to_owned(),
            what,
            nearest: nearest(given, known.iter().copied()).map(str::to_owned),
            known: known.join(", "),
        }
    }
}

/// The most similar of several names, if one is similar enough to be meant.
pub fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let given = given.to_ascii_lowercase();
    let scored = known.into_iter().map(|name| {
        let score = strsim::jaro_winkler(&given, &name.to_ascii_lowercase());
        (score, name)
    });
    let best = scored.max_by(|one, other| one.0.total_cmp(&other.0))?;
    (best.0 >= 0.75).then_some(best.1)
}

fn did_you_mean(nearest: Option<&str>) -> String {
    nearest.map_or_else(String::new, |name| format!("; did you mean `{name}`?"))
}

fn list(names: &str) -> String {
    match names {
        "" => "none is known".to_owned(),
        names => format!("known are {names}"),
    }
}

impl FieldError {
    /// An error of the field `path`.
    pub fn new(path: impl Into<String>, problem: Problem) -> Self {
        Self {
            path: path.into(),
            problem,
        }
    }

    /// The same error, seen from the message that holds this one under `prefix`.
    #[must_use]
    pub fn within(self, prefix: impl fmt::Display) -> Self {
        Self {
            path: format!("{prefix}.{}", self.path),
            problem: self.problem,
        }
    }
}

//! Everything that can be wrong with settings, one type per cause. A message says what was given
//! and where, what is known, and what to write instead.

use std::path::PathBuf;

use super::resolved::Origin;
use super::table::Flag;

/// Settings that a program cannot start with.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The command line does not follow the table.
    #[error(transparent)]
    Usage(#[from] UsageError),
    /// The file cannot be read, or does not follow the table.
    #[error(transparent)]
    File(#[from] FileError),
    /// A value cannot be used.
    #[error(transparent)]
    Invalid(#[from] InvalidSetting),
    /// A value that must be given is not.
    #[error(transparent)]
    Missing(#[from] MissingSetting),
}

/// A command line that does not follow the table of flags.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum UsageError {
    /// No such flag.
    #[error("unknown flag {given}; the nearest known flag is --{nearest} (--help lists all)")]
    UnknownFlag {
        /// As it was written, without its value.
        given: String,
        /// The most similar name of the table.
        nearest: String,
    },
    /// A flag that takes one value, twice.
    #[error("--{name} is given twice, as {first:?} and {second:?}; give it once{advice}")]
    Repeated {
        /// The flag.
        name: &'static str,
        /// Its value at first.
        first: String,
        /// Its value later.
        second: String,
        /// What to do, for lists.
        advice: &'static str,
    },
    /// A flag without the value that it needs.
    #[error("--{name} needs a value: --{name} {value}{found}")]
    MissingValue {
        /// The flag.
        name: &'static str,
        /// What a value looks like.
        value: &'static str,
        /// What stands in the value's place.
        found: String,
    },
    /// An argument that is no flag and no flag's value.
    #[error("unexpected argument {given:?}: {advice}")]
    Unexpected {
        /// As it was written.
        given: String,
        /// What to do.
        advice: String,
    },
    /// An argument or variable in no known encoding.
    #[error("{what} is not valid UTF-8: {lossy:?}")]
    NotUtf8 {
        /// Which one: `an argument`, or the variable's name.
        what: String,
        /// It, with replacement characters.
        lossy: String,
    },
}

/// A settings file that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It could not be read at all.
    #[error("cannot read {} (named by --config, {origin}): {reason}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Who named it.
        origin: Origin,
        /// What the operating system said, and what to do.
        reason: String,
    },
    /// It was read, and does not follow YAML or the table of flags.
    #[error("{}:{line}: {problem}", path.display())]
    Wrong {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong there.
        problem: FileProblem,
    },
}

/// What is wrong at a line of a settings file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum FileProblem {
    /// The YAML parser gave up.
    #[error("not valid YAML: {reason} (column {column})")]
    Syntax {
        /// The parser's words.
        reason: String,
        /// From 1.
        column: usize,
    },
    /// YAML that settings have no use for: anchors, tags, several documents.
    #[error("{what} cannot be used in settings; write the values out")]
    Unsupported {
        /// What was found.
        what: &'static str,
    },
    /// The file is no map of settings.
    #[error("expected `key: value` lines, found {found}")]
    NotAMap {
        /// What was found.
        found: &'static str,
    },
    /// No such key.
    #[error("unknown key `{key}`; the nearest known key is `{nearest}`")]
    UnknownKey {
        /// As it was written.
        key: String,
        /// The most similar name of the table.
        nearest: String,
    },
    /// The same key twice.
    #[error("the key `{key}` is here a second time, after line {first}; keep one of them")]
    DuplicateKey {
        /// The key.
        key: String,
        /// The line of its first time.
        first: usize,
    },
    /// A key with nothing behind it.
    #[error("`{key}` has no value; write one, or remove the line")]
    NoValue {
        /// The key.
        key: String,
    },
    /// A value of the wrong shape.
    #[error("`{key}` must be {expected}, found {found}")]
    Shape {
        /// The key.
        key: String,
        /// What fits.
        expected: &'static str,
        /// What was found.
        found: &'static str,
    },
    /// A file that names another one.
    #[error("`config` cannot be set in the file that it names; give it as a flag or variable")]
    Nested,
}

/// A value that cannot be used: which flag, which value, from where, and why.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("--{flag} {text:?} ({origin}): {reason}")]
pub struct InvalidSetting {
    /// The flag's name, without dashes.
    pub flag: &'static str,
    /// The value.
    pub text: String,
    /// Where it came from.
    pub origin: Origin,
    /// What is wrong with it, and what to write instead.
    pub reason: String,
}

/// A value that no layer gives, and that has no default.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "--{flag} is required: give --{flag} {value}, or set {variable}, or `{flag}` in the file named by --config"
)]
pub struct MissingSetting {
    /// The flag's name, without dashes.
    pub flag: &'static str,
    /// What a value looks like.
    pub value: &'static str,
    /// The flag's variable.
    pub variable: String,
}

impl MissingSetting {
    pub(super) fn of(flag: &Flag) -> Self {
        Self {
            flag: flag.name,
            value: flag.value,
            variable: flag.variable(),
        }
    }
}

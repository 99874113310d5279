//! Layered settings, driven by one table of flags per program: flag beats variable beats file
//! beats default. Read once, at the start, before anything else of a program runs. Pure: arguments,
//! environment and files come in from outside, so that a test needs no process of its own.
//!
//! - Every flag `--name` has a variable, `SIDELANE_NAME` (dashes become underscores), and a key,
//!   `name`, in the YAML file that `--config` names. An empty variable counts as not set.
//! - A layer replaces the ones below it whole: lists are not merged.
//! - Lists are comma-separated; the file may also hold a YAML list.
//! - A [`Kind::Pairs`] flag repeats; in its variable, pairs are separated by `;` or line breaks;
//!   in the file they are a list of `NAME=VALUE`, or a map.
//! - Paths are relative to the working directory, also those in the file.

mod arguments;
mod common;
mod environment;
mod error;
mod file;
mod help;
mod nearest;
mod resolve;
mod resolved;
mod table;
pub mod value;
mod yaml;

#[cfg(test)]
mod tests;

pub use common::{CONFIG, LOG, Listener, TRUST, Trust, apart, log, open_to_others, trust};
pub use environment::Environment;
pub use error::{
    FileError, FileProblem, InvalidSetting, MissingSetting, SettingsError, UsageError,
};
pub use file::{FILE_LIMIT, read_file};
pub use nearest::nearest;
pub use resolve::{Loaded, Start, load};
pub use resolved::{Item, Origin, Settings};
pub use table::{Flag, Kind, Program};

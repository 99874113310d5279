//! Who may import whom: reads the sources of all crates and holds them to the rules of
//! ARCHITECTURE.md. What it finds are paths, so it sees `use` lines and paths in the midst of code
//! alike; comments, texts and code for unit tests do not count.

mod lexer;
mod paths;
mod rules;

use std::collections::BTreeSet;
use std::fmt;
use std::path::Path;

pub use rules::{Exception, check};

/// One file of the workspace.
#[derive(Debug, Clone)]
pub struct Source {
    /// From the workspace's root, with `/`.
    pub path: String,
    /// What is in it.
    pub text: String,
}

/// The rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum RuleName {
    /// Sidecar and control do not import each other, and nobody imports the tests.
    Crates,
    /// A stage imports no sibling stage, nor `stack`, `app` or `config`: not directly, and not by
    /// way of a module in between.
    Stages,
    /// `classify`, `policy` and `balance` know of no sockets, no transport, no pool, no wire types,
    /// and ask no clock.
    Pure,
    /// Wire types stay where the wire is.
    Wire,
    /// Sources, registry and push of the control plane know of each other only what they must.
    Control,
    /// `telemetry` imports no stage.
    Telemetry,
    /// No file has more than 800 lines.
    Length,
    /// There is no `unsafe`.
    Unsafe,
}

/// Something that a rule forbids.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Violation {
    /// Which rule.
    pub rule: RuleName,
    /// In which file.
    pub path: String,
    /// In which line, from 1.
    pub line: usize,
    /// What is there, and what it may not be.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            rule,
            path,
            line,
            what,
        } = self;
        write!(formatter, "{path}:{line}: {what} ({rule:?})")
    }
}

/// All Rust files and manifests of the workspace at `root`.
///
/// # Panics
/// If a folder cannot be read.
#[must_use]
pub fn workspace(root: &Path) -> Vec<Source> {
    let mut sources = Vec::new();
    for folder in ["proto", "sdk", "sidecar", "control", "tests"] {
        read(root, folder, &mut sources);
    }
    sources.sort_by(|one, other| one.path.cmp(&other.path));
    sources
}

fn read(root: &Path, folder: &str, sources: &mut Vec<Source>) {
    let full = root.join(folder);
    let entries = std::fs::read_dir(&full)
        .unwrap_or_else(|error| panic!("{} cannot be read: {error}", full.display()));
    for entry in entries {
        let entry = entry.expect("a folder can be listed");
        let name = entry.file_name().to_string_lossy().into_owned();
        let path = format!("{folder}/{name}");
        if entry.path().is_dir() {
            if name != "target" && !name.starts_with('.') {
                read(root, &path, sources);
            }
        } else if Path::new(&name).extension().is_some_and(|it| it == "rs") || name == "Cargo.toml"
        {
            let text = std::fs::read_to_string(entry.path())
                .unwrap_or_else(|error| panic!("{path} cannot be read: {error}"));
            sources.push(Source { path, text });
        }
    }
}

/// Checks, and takes off what is excepted.
///
/// # Panics
/// If an exception excepts nothing: then it must go.
#[must_use]
pub fn check_with(sources: &[Source], exceptions: &[Exception]) -> Vec<Violation> {
    let mut used = BTreeSet::new();
    let mut violations = check(sources);
    violations.retain(|violation| {
        let excepting = exceptions
            .iter()
            .position(|exception| exception.covers(violation));
        used.extend(excepting);
        excepting.is_none()
    });
    for (index, exception) in exceptions.iter().enumerate() {
        assert!(
            used.contains(&index),
            "{exception:?} excepts nothing, so it must go"
        );
    }
    violations
}

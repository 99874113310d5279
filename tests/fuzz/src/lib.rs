//! What must hold of everything that reads what comes from outside, whatever comes: bytes in, and an
//! assertion fails where a reader is wrong. libFuzzer looks for such bytes (`libfuzzer/`), and
//! `cargo test` replays those that it has found to be worth keeping (`corpus/`).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is how a property is found broken"
)]

mod certificates;
mod descriptors;
mod frames;
mod headers;
mod links;
mod names;
mod paths;
mod rules;
mod snapshots;
mod tunnels;
mod yaml;

/// One reader, or several of one kind.
#[derive(Debug, Clone, Copy)]
pub struct Target {
    /// As its corpus and its program are called.
    pub name: &'static str,
    /// Panics where something does not hold.
    pub run: fn(&[u8]),
    /// Real messages to begin with.
    pub seeds: fn() -> Vec<Vec<u8>>,
}

/// All of them.
pub const TARGETS: [Target; 11] = [
    certificates::TARGET,
    descriptors::TARGET,
    frames::TARGET,
    headers::TARGET,
    links::TARGET,
    names::TARGET,
    paths::TARGET,
    rules::TARGET,
    snapshots::TARGET,
    tunnels::TARGET,
    yaml::TARGET,
];

/// Runs the target of this name.
///
/// # Panics
/// If there is none, or where something does not hold.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a target of this name").run)(data);
}

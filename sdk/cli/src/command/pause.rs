//! `sidelane pause`: nothing, until it is told to end. In containers it holds the network of an app and
//! of the sidecar beside it, so that either may start again and meet the other: a network that one of
//! them held would be another one then.

use std::ffi::OsString;
use std::process::ExitCode;

use sidelane_process::settings::Program;
use sidelane_process::signals::Signals;

use super::arguments::{self, Usage};
use super::{Failure, block_on};

/// The command as people see it.
pub(super) const USAGE: Usage = Usage {
    program: Program {
        name: "sidelane pause",
        version: env!("CARGO_PKG_VERSION"),
        about: "Does nothing until it is ended: holds a network for an app and its sidecar",
        flags: &[],
    },
    operand: None,
};

/// Runs the command. SIGTERM and Ctrl-C are its good end: as the first process of a container it would
/// not be ended by what it does not take.
pub(super) fn run(given: Vec<OsString>) -> Result<ExitCode, Failure> {
    if arguments::read(&USAGE, given)?.is_none() {
        return Ok(ExitCode::SUCCESS);
    }
    block_on(async {
        let mut signals = Signals::install().map_err(|source| Failure::System {
            what: "wait for signals",
            source,
        })?;
        signals.next().await;
        Ok(ExitCode::SUCCESS)
    })?
}

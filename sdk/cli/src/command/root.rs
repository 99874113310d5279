//! `sidelane root rotate`: a new root of trust. The old one goes on signing until every sidecar has
//! the new one, and is trusted until its last certificate has ended, so that no call fails for it.

use std::ffi::OsString;
use std::process::ExitCode;

use sidelane_process::settings::Program;

use super::arguments::{self, CONTROL, Usage};
use super::{Failure, block_on, control, output};

/// The command as people see it.
pub(super) const USAGE: Usage = Usage {
    program: Program {
        name: "sidelane root",
        version: env!("CARGO_PKG_VERSION"),
        about: "Replaces control's root of trust: sidelane root rotate",
        flags: &[CONTROL],
    },
    operand: Some("rotate"),
};

/// Runs the command.
pub(super) fn run(given: Vec<OsString>) -> Result<ExitCode, Failure> {
    let Some(arguments) = arguments::read(&USAGE, given)? else {
        return Ok(ExitCode::SUCCESS);
    };
    if arguments.operand.as_deref() != Some("rotate") {
        return Err(Failure::NoOperand {
            operand: "what to do with the root",
            example: "sidelane root rotate",
        });
    }
    let addresses = control::addresses(&arguments.settings)?;
    let rotated = block_on(async move {
        let mut control = control::connect(&addresses).await?;
        control.rotate_root().await
    })??;
    output::text(&format!(
        "a new root {} is on its way; it signs when every connected sidecar has it\n",
        rotated.fingerprint
    ))?;
    Ok(ExitCode::SUCCESS)
}

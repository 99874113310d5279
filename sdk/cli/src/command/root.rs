//! `sidelane root show`: the roots, for who is to know control by them. `sidelane root rotate`: a new
//! root of trust. The old one goes on signing until every sidecar has the new one, and is trusted until
//! its last certificate has ended, so that no call fails for it.

use std::ffi::OsString;
use std::process::ExitCode;

use sidelane_identity::certificates_to_pem;
use sidelane_process::settings::Program;

use super::arguments::{self, CONTROL, Usage};
use super::{Failure, block_on, control, output};

/// The command as people see it.
pub(super) const USAGE: Usage = Usage {
    program: Program {
        name: "sidelane root",
        version: env!("CARGO_PKG_VERSION"),
        about: "Shows control's roots of trust (PEM), or replaces them: sidelane root show, sidelane root rotate",
        flags: &[CONTROL],
    },
    operand: Some("show|rotate"),
};

/// Runs the command.
pub(super) fn run(given: Vec<OsString>) -> Result<ExitCode, Failure> {
    let Some(arguments) = arguments::read(&USAGE, given)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let addresses = control::addresses(&arguments.settings)?;
    match arguments.operand.as_deref() {
        Some("show") => show(addresses),
        Some("rotate") => rotate(addresses),
        _ => Err(Failure::NoOperand {
            operand: "what to do with the root",
            example: "sidelane root show",
        }),
    }
}

fn show(addresses: Vec<String>) -> Result<ExitCode, Failure> {
    let listed = block_on(async move {
        let mut control = control::connect(&addresses).await?;
        control.roots().await
    })??;
    let roots = listed.roots.iter().map(Vec::as_slice);
    output::text(&certificates_to_pem(roots))?;
    Ok(ExitCode::SUCCESS)
}

fn rotate(addresses: Vec<String>) -> Result<ExitCode, Failure> {
    let rotated = block_on(async move {
        let mut control = control::connect(&addresses).await?;
        control.rotate_root().await
    })??;
    output::text(&format!(
        "a new root {} is on its way; it signs when every sidecar that holds a certificate has it\n",
        rotated.fingerprint
    ))?;
    Ok(ExitCode::SUCCESS)
}

//! `sidelane root show`: the roots, for who is to know control by them. `sidelane root rotate`: a new
//! root of trust. The old one goes on signing until every sidecar has the new one, and is trusted until
//! its last certificate has ended, so that no call fails for it.

use std::ffi::OsString;
use std::process::ExitCode;

use serde_json::{Value, json};
use sidelane_identity::certificates_to_pem;
use sidelane_process::settings::Program;

use super::arguments::{self, CONTROL, Format, OUTPUT, Usage};
use super::{Failure, block_on, control, output};

/// The command as people see it.
pub(super) const USAGE: Usage = Usage {
    program: Program {
        name: "sidelane root",
        version: env!("CARGO_PKG_VERSION"),
        about: "Shows control's roots of trust (PEM), or replaces them: sidelane root show, sidelane root rotate",
        flags: &[CONTROL, OUTPUT],
    },
    operand: Some("show|rotate"),
};

/// Runs the command.
pub(super) fn run(given: Vec<OsString>) -> Result<ExitCode, Failure> {
    let Some(arguments) = arguments::read(&USAGE, given)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let format = arguments.format()?;
    let addresses = control::addresses(&arguments.settings)?;
    match arguments.operand.as_deref() {
        Some("show") => show(addresses, format),
        Some("rotate") => rotate(addresses, format),
        _ => Err(Failure::NoOperand {
            operand: "what to do with the root",
            example: "sidelane root show",
        }),
    }
}

fn show(addresses: Vec<String>, format: Format) -> Result<ExitCode, Failure> {
    let listed = block_on(async move {
        let mut control = control::connect(&addresses).await?;
        control.roots().await
    })??;
    let roots = listed.roots.iter().map(Vec::as_slice);
    match format {
        Format::Table => output::text(&certificates_to_pem(roots))?,
        Format::Json => {
            let told = roots.map(|root| json!({ "pem": certificates_to_pem([root]) }));
            output::json(&json!({ "roots": told.collect::<Vec<Value>>() }))?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn rotate(addresses: Vec<String>, format: Format) -> Result<ExitCode, Failure> {
    let rotated = block_on(async move {
        let mut control = control::connect(&addresses).await?;
        control.rotate_root().await
    })??;
    if format == Format::Json {
        output::json(&json!({
            "fingerprint": rotated.fingerprint, "revision": rotated.revision,
        }))?;
        return Ok(ExitCode::SUCCESS);
    }
    output::text(&format!(
        "a new root {} is on its way; it signs when every sidecar that holds a certificate has it\n",
        rotated.fingerprint
    ))?;
    Ok(ExitCode::SUCCESS)
}

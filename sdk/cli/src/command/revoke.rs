//! `sidelane revoke`: who is believed no longer. Every sidecar is told at once; the ways back are
//! `--undo`, and a new certificate.

use std::ffi::OsString;
use std::process::ExitCode;

use serde_json::json;
use sidelane_process::settings::{Flag, Program};
use sidelane_proto::wire::admin::v1::{RevokeRequest, revoke_request::Subject};

use super::arguments::{self, CONTROL, Format, OUTPUT, Usage, plain};
use super::{Failure, block_on, control, output};

const NODE: Flag = Flag::single("node", "NAME", "All certificates of this node");
const IDENTITY: Flag = Flag::single("identity", "SPIFFE-ID", "All certificates of this identity");
const SERIAL: Flag = Flag::single("serial", "NUMBER", "This certificate, by its number in hex");
const UNDO: Flag = Flag::switch("undo", "Take it back");

/// The command as people see it.
pub(super) const USAGE: Usage = Usage {
    program: Program {
        name: "sidelane revoke",
        version: env!("CARGO_PKG_VERSION"),
        about: "Has a node, an identity or a certificate believed no longer",
        flags: &[NODE, IDENTITY, SERIAL, UNDO, CONTROL, OUTPUT],
    },
    operand: None,
};

/// Runs the command.
pub(super) fn run(given: Vec<OsString>) -> Result<ExitCode, Failure> {
    let Some(arguments) = arguments::read(&USAGE, given)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let format = arguments.format()?;
    let settings = &arguments.settings;
    let node = settings.optional(&NODE, plain)?.map(Subject::NodeId);
    let identity = settings.optional(&IDENTITY, plain)?.map(Subject::Identity);
    let serial = settings.optional(&SERIAL, plain)?.map(Subject::Serial);
    let subject = match (node, identity, serial) {
        (Some(one), None, None) | (None, Some(one), None) | (None, None, Some(one)) => one,
        (None, None, None) => {
            return Err(Failure::NoOperand {
                operand: "whom to revoke",
                example: "--node orders-1, --identity spiffe://… or --serial …",
            });
        }
        _ => {
            return Err(Failure::OfNoUse {
                flag: "serial",
                why: "one call revokes one: a node, an identity or a certificate",
            });
        }
    };
    let undo = settings.switch(&UNDO)?;
    let (kind, whom) = match &subject {
        Subject::NodeId(node) => ("node_id", node.clone()),
        Subject::Identity(identity) => ("identity", identity.clone()),
        Subject::Serial(serial) => ("serial", serial.clone()),
    };
    let addresses = control::addresses(settings)?;
    let revoked = block_on(async move {
        let mut control = control::connect(&addresses).await?;
        let subject = Some(subject);
        control.revoke(RevokeRequest { subject, undo }).await
    })??;
    if format == Format::Json {
        output::json(&json!({ kind: whom, "revoked": !undo, "revision": revoked.revision }))?;
        return Ok(ExitCode::SUCCESS);
    }
    let done = if undo { "taken back" } else { "revoked" };
    output::text(&format!(
        "{done}; trust has revision {} now\n",
        revoked.revision
    ))?;
    Ok(ExitCode::SUCCESS)
}

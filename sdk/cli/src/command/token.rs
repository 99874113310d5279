//! `sidelane token`: the right of one node to its first certificate. It is printed on stdout, alone,
//! so that it can go into a file; whose it is and until when goes to stderr.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use sidelane_process::settings::{Flag, Program, value};
use sidelane_proto::wire::admin::v1::IssueTokenRequest;

use super::arguments::{self, CONTROL, Usage, plain};
use super::{Failure, block_on, control, output};

const NODE: Flag = Flag::single("node", "NAME", "The node that may join with it");
const IDENTITY: Flag = Flag::single(
    "identity",
    "SPIFFE-ID",
    "Who it is then [spiffe://TRUST-DOMAIN/ns/default/sa/NAME]",
);
const TTL: Flag = Flag::single("ttl", "DURATION", "How long the token is good").or("1h");

/// The command as people see it.
pub(super) const USAGE: Usage = Usage {
    program: Program {
        name: "sidelane token",
        version: env!("CARGO_PKG_VERSION"),
        about: "Makes a one-time token with which a node joins",
        flags: &[NODE, IDENTITY, TTL, CONTROL],
    },
    operand: None,
};

/// Runs the command.
pub(super) fn run(given: Vec<OsString>) -> Result<ExitCode, Failure> {
    let Some(arguments) = arguments::read(&USAGE, given)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let settings = &arguments.settings;
    let ttl: Duration = settings.value(&TTL, value::duration)?;
    let request = IssueTokenRequest {
        node_id: settings.value(&NODE, plain)?,
        identity: settings.optional(&IDENTITY, plain)?.unwrap_or_default(),
        ttl_seconds: ttl.as_secs(),
    };
    let node = request.node_id.clone();
    let addresses = control::addresses(settings)?;
    let issued = block_on(async move {
        let mut control = control::connect(&addresses).await?;
        control.issue_token(request).await
    })??;
    output::error(&format!(
        "sidelane token: node {node} becomes {}; good once, for {} s",
        issued.identity,
        ttl.as_secs()
    ));
    output::text(&format!("{}\n", issued.token))?;
    Ok(ExitCode::SUCCESS)
}

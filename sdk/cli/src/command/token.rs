//! `sidelane token`: the right of one node to its first certificate. It is printed on stdout, alone,
//! so that it can go into a file; whose it is and until when goes to stderr. With `--into` it goes into
//! files of a folder by itself, where there is no shell, as in a container from nothing. In the JSON form
//! all that is known of a token is beside it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use sidelane_process::runtime::RuntimeFolder;
use sidelane_process::settings::{Flag, Program, value};
use sidelane_proto::wire::admin::v1::{IssueTokenRequest, IssueTokenResponse};

use super::arguments::{self, CONTROL, Format, OUTPUT, Usage, plain};
use super::{Failure, block_on, control, output};

const NODE: Flag = Flag::list(
    "node",
    "NAME,…",
    "The node that may join with it; several have a token each, and need --into",
);
const INTO: Flag = Flag::single(
    "into",
    "FOLDER",
    "Writes FOLDER/NAME.token instead, mode 600; the folder is this user's alone, and made if absent",
);
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
        flags: &[NODE, IDENTITY, TTL, INTO, CONTROL, OUTPUT],
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
    let ttl: Duration = settings.value(&TTL, value::duration)?;
    let identity = settings.optional(&IDENTITY, plain)?.unwrap_or_default();
    let nodes = settings.list(&NODE, plain)?;
    let into = settings.optional(&INTO, str::parse::<PathBuf>)?;
    if nodes.is_empty() {
        return Err(Failure::NoOperand {
            operand: "whose token it is, --node,",
            example: "sidelane token --node orders-1",
        });
    }
    if nodes.len() > 1 && into.is_none() {
        return Err(Failure::NoOperand {
            operand: "where several tokens go, --into,",
            example: "sidelane token --node orders-1,orders-2 --into ./tokens",
        });
    }
    let into = into.map(RuntimeFolder::at);
    let addresses = control::addresses(settings)?;
    let mut made = Vec::new();
    let ended = block_on(async {
        let mut control = control::connect(&addresses).await?;
        for node in nodes {
            let request = IssueTokenRequest {
                node_id: node.clone(),
                identity: identity.clone(),
                ttl_seconds: ttl.as_secs(),
            };
            let issued = control.issue_token(request).await?;
            if format == Format::Table {
                output::error(&format!(
                    "sidelane token: node {node} becomes {}; good once, for {} s",
                    issued.identity,
                    ttl.as_secs()
                ));
            }
            let line = format!("{}\n", issued.token);
            let file = match &into {
                None => None,
                Some(folder) => {
                    let name = format!("{node}.token");
                    folder.write(&name, line.as_bytes())?;
                    Some(folder.path(&name))
                }
            };
            if format == Format::Json {
                made.push(told(&node, &issued, file.as_deref()));
            } else if file.is_none() {
                output::text(&line)?;
            }
        }
        Ok::<_, Failure>(())
    });
    // Those that were made before another could not be are of use.
    if format == Format::Json && !made.is_empty() {
        output::json(&json!({ "tokens": made }))?;
    }
    ended?.map(|()| ExitCode::SUCCESS)
}

/// A token for programs. What is in a file is not shown, too.
fn told(node: &str, issued: &IssueTokenResponse, file: Option<&Path>) -> Value {
    let mut told = json!({
        "node_id": node, "identity": issued.identity, "expires_unix_s": issued.expires,
    });
    match file {
        Some(file) => told["file"] = file.display().to_string().into(),
        None => told["token"] = issued.token.as_str().into(),
    }
    told
}

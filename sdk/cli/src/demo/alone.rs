//! `sidelane demo app`: one app of the shop as a program of its own, for a mesh that somebody builds
//! out of containers or hosts. It serves the shop's services, or calls them steadily by the sidecar
//! beside it, and sends its own spans where it is told to. `deploy/` starts the shop with it.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::ExitCode;

use sidelane_process::address;
use sidelane_process::settings::{Flag, Program};
use sidelane_process::signals::Signals;
use sidelane_sidecar::telemetry::trace::collector_url;

use super::spans::Spans;
use super::{DemoError, LISTEN, NODE, app, checkout};
use crate::command::arguments::{self, Usage, plain};
use crate::command::{Failure, block_on};

const CALLS: Flag = Flag::single(
    "calls",
    "NUMBER",
    "Visits the shop so often a second, each over three services, by $SIDELANE_TARGET",
);
const OTLP: Flag = Flag::single(
    "otlp",
    "URL",
    "A collector for its own spans, which join its sidecar's; if absent, it has none",
);

/// The command as people see it.
const USAGE: Usage = Usage {
    program: Program {
        name: "sidelane demo app",
        version: env!("CARGO_PKG_VERSION"),
        about: "Runs one app of the demo's shop: it serves its services (--listen), or calls them (--calls)",
        flags: &[NODE, LISTEN, CALLS, OTLP],
    },
    operand: None,
};

enum Task {
    /// So many times a second.
    Call(u32),
    Serve(SocketAddr),
}

/// Runs the app until SIGTERM.
pub(super) fn run(given: Vec<OsString>) -> Result<ExitCode, Failure> {
    let Some(arguments) = arguments::read(&USAGE, given)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let settings = &arguments.settings;
    let node = settings.value(&NODE, plain)?;
    let otlp = settings.optional(&OTLP, collector_url)?;
    let calls = settings.optional(&CALLS, checkout::rate)?;
    let listen = settings.optional(&LISTEN, address::listen_tcp)?;
    let task = match (calls, listen) {
        (Some(rate), None) => Task::Call(rate),
        (None, Some(address)) => Task::Serve(address),
        (Some(_), Some(_)) => {
            let flag = LISTEN.name;
            let why = "an app with --calls serves nothing";
            return Err(Failure::OfNoUse { flag, why });
        }
        (None, None) => {
            return Err(Failure::NoOperand {
                operand: "what the app does, --listen or --calls,",
                example: "sidelane demo app --node orders-1 --listen 127.0.0.1:50051",
            });
        }
    };
    block_on(async move {
        let spans = Spans::begin(&node, otlp)?;
        let ended = match task {
            Task::Call(rate) => {
                let signals = Signals::install().map_err(DemoError::Signals)?;
                checkout::run(rate, signals).await.map_err(DemoError::from)
            }
            Task::Serve(address) => app::serve(&node, address).await.map_err(DemoError::from),
        };
        spans.end().await;
        ended
    })??;
    Ok(ExitCode::SUCCESS)
}

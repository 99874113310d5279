//! The `sidelane` command with the predefined rules, and nothing else: a project that wants its own
//! rules in `sidelane sidecar` writes this file with its own table.

use std::process::ExitCode;

use sidelane::routing::RouteTable;

fn main() -> ExitCode {
    sidelane_cli::run(
        std::env::args_os().skip(1).collect(),
        RouteTable::PREDEFINED,
    )
}

//! The `sidelane-sidecar` program, with the predefined rules.

use std::process::ExitCode;

use sidelane::routing::RouteTable;

fn main() -> ExitCode {
    sidelane_sidecar::main(RouteTable::PREDEFINED)
}

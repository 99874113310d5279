//! Sidelane's own command, which knows nothing of this project: what the tests put beside it.

use std::process::ExitCode;

use sidelane::routing::RouteTable;

fn main() -> ExitCode {
    sidelane_cli::run(
        std::env::args_os().skip(1).collect(),
        RouteTable::PREDEFINED,
    )
}

//! The `sidelane` command with rules that name every strategy, one of the project's own among
//! them. `sidecar` has it built in; `sidecar-without` has not.

use std::ffi::OsString;
use std::process::ExitCode;

use sidelane_sidecar::Builder;
use sidelane_tests::process::end_with_test;
use sidelane_tests::strategies::{LAST, Last, ROUTES};

fn main() -> ExitCode {
    end_with_test();
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let rest = || arguments.iter().skip(1).cloned().collect();
    match arguments.first().and_then(|first| first.to_str()) {
        Some("sidecar") => Builder::new(ROUTES).strategy(LAST, Last).run(rest()),
        Some("sidecar-without") => Builder::new(ROUTES).run(rest()),
        _ => sidelane_cli::run(arguments, ROUTES),
    }
}

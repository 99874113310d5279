//! The `sidelane-sidecar` program, with the rules that were found in `SIDELANE_PROTOS` when it was
//! compiled.

use std::process::ExitCode;

fn main() -> ExitCode {
    sidelane_sidecar::main(sidelane_sidecar::STOCK)
}

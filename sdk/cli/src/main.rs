//! The `sidelane` command with the rules that were found in `SIDELANE_PROTOS` when it was compiled: a
//! project that wants its own rules in `sidelane sidecar` names its folders there, or writes this
//! file with its own table.

use std::process::ExitCode;

fn main() -> ExitCode {
    sidelane_cli::run(
        std::env::args_os().skip(1).collect(),
        sidelane_sidecar::STOCK,
    )
}

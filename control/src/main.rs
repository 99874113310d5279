//! The `sidelane-control` program.

use std::process::ExitCode;

fn main() -> ExitCode {
    sidelane_control::run(std::env::args_os().skip(1))
}

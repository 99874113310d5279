//! The `sidelane` command without a rule for any test service, and with a demand of its own on
//! rules that are pushed: see `sidelane_tests::unruled`.

use std::process::ExitCode;

use sidelane_tests::{process, unruled};

fn main() -> ExitCode {
    process::end_with_test();
    unruled::run(std::env::args_os().skip(1).collect())
}

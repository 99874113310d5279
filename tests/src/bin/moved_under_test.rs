//! The `sidelane` command, built from protos in which one service is in another lane: see
//! `sidelane_tests::moved`.

use std::process::ExitCode;

use sidelane_tests::{moved, process};

fn main() -> ExitCode {
    process::end_with_test();
    moved::run(std::env::args_os().skip(1).collect())
}

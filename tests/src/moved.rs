//! A program that was built from protos in which the lane of Echo is another: what a node is when
//! one side was built anew and the other was not.

use std::ffi::OsString;
use std::process::ExitCode;

pub use generated::{DESCRIPTORS, ROUTES};

mod generated {
    include!(concat!(env!("OUT_DIR"), "/moved/protos.rs"));
}

/// Runs the `sidelane` command with these rules.
#[must_use]
pub fn run(arguments: Vec<OsString>) -> ExitCode {
    sidelane_cli::run(arguments, ROUTES)
}

/// Where the program is. To be used in integration tests, as [`cluster!`](crate::cluster!).
#[macro_export]
macro_rules! moved {
    () => {
        env!("CARGO_BIN_EXE_moved-under-test")
    };
}

//! A program that no rule of a test service was compiled into, so that what is offered or pushed
//! holds, or the default. As a sidecar it brings a validation of its own.

use std::ffi::OsString;
use std::process::ExitCode;

use sidelane::routing::RouteTable;
use sidelane_proto::model::error::Problem;
use sidelane_proto::model::{FieldError, Rule, Validation};

/// Nothing of ours is called `Forbidden`.
#[derive(Debug)]
struct Names;

impl Validation for Names {
    fn name(&self) -> &'static str {
        "names"
    }

    fn check(&self, rule: &Rule) -> Result<(), FieldError> {
        if !rule.service.ends_with(".Forbidden") {
            return Ok(());
        }
        let problem = Problem::Refused("is not to be called".to_owned());
        Err(FieldError::new("service", problem))
    }
}

/// Runs the program with these arguments.
#[must_use]
pub fn run(mut arguments: Vec<OsString>) -> ExitCode {
    if arguments.first().is_some_and(|first| first == "sidecar") {
        arguments.remove(0);
        let sidecar = sidelane_sidecar::Builder::new(RouteTable::PREDEFINED);
        return sidecar.validation(Names).run(arguments);
    }
    sidelane_cli::run(arguments, RouteTable::PREDEFINED)
}

/// Where the program is. To be used in integration tests, as [`cluster!`](crate::cluster!).
#[macro_export]
macro_rules! unruled {
    () => {
        env!("CARGO_BIN_EXE_unruled-under-test")
    };
}

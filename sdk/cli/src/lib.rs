//! The `sidelane` command: one binary that is the control plane, the sidecar, the tool that asks
//! them what they know, and a demo of all three. It stands outside every call's way and must never
//! know more than the other programs tell: what it prints comes from the control plane's gRPC port
//! or from a sidecar's admin port.
//!
//! ```no_run
//! use sidelane::routing::{ConnectionClass, Lane, RouteTable, Rule, rule};
//!
//! static RULES: &[Rule] = &[rule(
//!     "my.v1.Service",
//!     ConnectionClass::Internal,
//!     Lane::GENERAL,
//!     &[],
//!     "main.rs",
//! )];
//!
//! fn main() -> std::process::ExitCode {
//!     // The same command, with one's own rules compiled into `sidelane sidecar`.
//!     sidelane_cli::run(std::env::args_os().skip(1).collect(), RouteTable::new(RULES))
//! }
//! ```

mod command;
mod demo;
mod programs;
mod shop;

use std::ffi::OsString;
use std::process::ExitCode;

use sidelane::routing::RouteTable;

/// What `sidelane apply` would send control of a YAML file with this text; `None` where it would refuse
/// the file.
#[cfg(feature = "fuzzing")]
#[doc(hidden)]
#[must_use]
pub fn read_yaml(text: &str) -> Option<Vec<sidelane_proto::wire::routing::v1::PushedRule>> {
    command::read_yaml(text)
}

/// Runs the command that `args` names (without the program's own name) to its end. `routes` are
/// the rules that `sidelane sidecar` is compiled with.
///
/// Exit codes: 0 done; 1 the answer is no (a call would be refused, a wait was in vain, somebody
/// could not be reached); 2 the command line is wrong; 130 and 143 ended by Ctrl-C and SIGTERM.
#[must_use]
pub fn run(args: Vec<OsString>, routes: RouteTable) -> ExitCode {
    command::run(args, routes)
}

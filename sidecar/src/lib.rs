//! Sidelane's data plane: the sidecar that stands beside each service, takes its calls, and
//! forwards each to the sidecar beside the callee, in its lane. The files are in the order in
//! which a call meets them; `stack` says it in one place.
//!
//! A project that wants its own rules compiled in writes a program of its own:
//!
//! ```no_run
//! use sidelane::routing::RouteTable;
//!
//! fn main() -> std::process::ExitCode {
//!     sidelane_sidecar::main(RouteTable::PREDEFINED)
//! }
//! ```

pub mod accept;
pub mod admin;
pub mod admission;
mod admit;
pub mod app;
mod audit;
pub mod authorization;
pub mod balance;
pub mod builder;
pub mod call;
pub mod classify;
pub mod config;
pub mod deliver;
mod details;
pub mod dial;
pub mod discover;
pub mod drain;
pub mod edge;
pub mod embedded;
pub mod ending;
pub mod explain;
pub mod forward;
mod hash;
pub mod health;
mod hedged;
mod host;
pub mod http2;
pub mod identity;
pub mod idle;
mod incoming;
pub mod kin;
pub mod lane;
pub mod line;
pub mod local;
pub mod mesh;
pub mod onward;
pub mod origin;
mod outside;
pub mod own;
pub mod parts;
mod passthrough;
pub mod patience;
pub mod pipe;
mod place;
pub mod policy;
pub mod pool;
pub mod preamble;
mod present;
pub mod reason;
mod refused;
pub mod repair;
pub mod respond;
pub mod retries;
pub mod rules;
pub mod socket;
pub mod stack;
mod stock;
pub mod telemetry;
pub mod trust;
pub mod turns;
pub mod vouched;
pub mod way;

use std::ffi::OsString;
use std::process::ExitCode;

use sidelane::routing::RouteTable;

pub use builder::Builder;
pub use dial::SOCKET_MARK;
pub use embedded::Mesh;
pub use stock::STOCK;

/// Runs a sidecar with these rules and this process's arguments.
#[must_use]
pub fn main(routes: RouteTable) -> ExitCode {
    Builder::new(routes).main()
}

/// Runs a sidecar with these rules and arguments, the program's name left out. Returns when it
/// was told to end; 1 if it could not start, 2 if an argument was wrong.
#[must_use]
pub fn run(arguments: Vec<OsString>, routes: RouteTable) -> ExitCode {
    Builder::new(routes).run(arguments)
}

//! The two programs that this command also is. Their arguments pass through untouched: what they
//! mean, and what is wrong with them, is theirs to say.

use std::ffi::OsString;
use std::process::ExitCode;

use sidelane::routing::RouteTable;

/// The control plane, the same program as the binary `sidelane-control`.
pub(crate) fn control(args: Vec<OsString>) -> ExitCode {
    sidelane_control::run(args)
}

/// A sidecar that is compiled with `routes`, the same program as the binary `sidelane-sidecar`.
pub(crate) fn sidecar(args: Vec<OsString>, routes: RouteTable) -> ExitCode {
    sidelane_sidecar::run(args, routes)
}

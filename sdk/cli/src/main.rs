//! The `sidelane` command with the rules that were found in `SIDELANE_PROTOS` when it was compiled: a
//! project that wants its own rules in `sidelane sidecar` names its folders there, or writes this
//! file with its own table.

use std::process::ExitCode;

// A call makes about twenty small allocations, most of them in HTTP/2.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sidelane_cli::run(
        std::env::args_os().skip(1).collect(),
        sidelane_sidecar::STOCK,
    )
}

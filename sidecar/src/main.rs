//! The `sidelane-sidecar` program, with the rules that were found in `SIDELANE_PROTOS` when it was
//! compiled.

use std::process::ExitCode;

// A call makes about twenty small allocations, most of them in HTTP/2.
#[cfg(feature = "mimalloc")]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sidelane_sidecar::main(sidelane_sidecar::STOCK)
}

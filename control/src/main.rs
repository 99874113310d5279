//! The `sidelane-control` program.

use std::process::ExitCode;

// Many small allocations, made and freed on one thread.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() -> ExitCode {
    sidelane_control::run(std::env::args_os().skip(1))
}

//! The project's own `sidelane`: its sidecar and its control plane know the lane, the strategy and
//! the demand of this project; all other commands are Sidelane's.

use std::process::ExitCode;

use telemetry::ROUTES;
use telemetry::demand::TimeLimits;
use telemetry::strategy::Primary;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    match arguments.split_first() {
        Some((command, flags)) if command == "sidecar" => sidelane_sidecar::Builder::new(ROUTES)
            .strategy("primary", Primary)
            .validation(TimeLimits)
            .run(flags.to_vec()),
        Some((command, flags)) if command == "control" => sidelane_control::Builder::new()
            .validation(TimeLimits)
            .run(flags.to_vec()),
        _ => sidelane_cli::run(arguments, ROUTES),
    }
}

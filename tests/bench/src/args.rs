//! The command line: which benchmark, and by itself the one of calls. Each benchmark has a module
//! of its name with its `Args` and `run(Args) -> Result<ExitCode>`, and one line in [`Command`].

use clap::{Parser, Subcommand};
use std::net::SocketAddr;
use std::path::PathBuf;

use crate::{calls, control, lanes};

/// Sidelane's benchmarks. Without a subcommand: `calls`, with all of its options.
///
/// Linux only: costs come from /proc. For figures to keep, build this and `sidelane` with
/// `--profile dist`.
#[derive(Debug, Parser)]
#[command(version, args_conflicts_with_subcommands = true)]
pub(crate) struct CommandLine {
    #[command(flatten)]
    pub(crate) calls: calls::Args,
    #[command(subcommand)]
    pub(crate) command: Option<Command>,
}

/// The benchmarks, and the processes that they start of themselves.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Compares gRPC calls: direct, through bare hyper proxies, Envoys and Sidelane sidecars, in the
    /// clear and in mTLS.
    ///
    /// All run at once as separate single-threaded processes on 127.0.0.1 and are measured in
    /// turn, so that a machine that drifts drifts for all of them. Exit code 1 if a call failed.
    Calls(calls::Args),
    /// Measures small calls alone and beside bulk that fills the way.
    ///
    /// In lanes of their own, on two connections without marks, and on one connection: over a slow
    /// link between two network namespaces (which needs root and iproute2), and on 127.0.0.1, where
    /// the processor is what is short. Exit code 1 if a call failed.
    Lanes(lanes::Args),
    /// A process of `lanes`.
    #[command(hide = true)]
    LanesPart {
        /// Which.
        #[command(subcommand)]
        part: lanes::Part,
    },
    /// The control plane against simulated sidecars: how long changes take, what they cost, memory.
    ///
    /// Each sidecar offers services and calls others; a change is timed from what one sidecar says
    /// until each subscriber has read it. Exit code 1 if an aim is missed.
    Control(control::Args),
    /// The echo server.
    #[command(hide = true)]
    Echo,
    /// A bare proxy.
    #[command(hide = true)]
    Bare {
        /// Where every call goes.
        #[arg(long)]
        upstream: SocketAddr,
        /// Takes TLS, by the callee's certificate in this folder.
        #[arg(long)]
        accept_tls: Option<PathBuf>,
        /// Dials TLS, by the caller's certificate in this folder.
        #[arg(long)]
        dial_tls: Option<PathBuf>,
    },
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definition_is_sound() {
        CommandLine::command().debug_assert();
    }

    #[test]
    fn calls_are_what_is_measured_unless_told() {
        let implied = CommandLine::try_parse_from(["sidelane-bench", "--rounds", "7"]).unwrap();
        assert!(implied.command.is_none() && implied.calls.rounds() == 7);
        let named =
            CommandLine::try_parse_from(["sidelane-bench", "calls", "--rounds", "7"]).unwrap();
        let Some(Command::Calls(calls)) = named.command else {
            panic!("{named:?}");
        };
        assert_eq!(calls.rounds(), 7);
    }

    #[test]
    fn options_of_calls_are_not_those_of_another() {
        let error = CommandLine::try_parse_from(["sidelane-bench", "--json", "echo"]).unwrap_err();
        assert_eq!(error.exit_code(), 2, "{error}");
    }
}

//! What the command line of `calls` says, and what it means where it says nothing.

use anyhow::{Context as _, Result, bail};
use std::path::{Path, PathBuf};

use crate::http2::CONCURRENT_STREAMS;
use crate::message::LONGEST_PAYLOAD;
use crate::pair::Kind;

/// Calls in a round of small payloads: some seconds, long beside the clock's and the kernel's
/// grain.
const CALLS: u64 = 60_000;

/// Calls in a round of large payloads, which take ten times as long each.
const LARGE_CALLS: u64 = 6_000;

/// The payload from which on it is a large one, in bytes: it no longer fits one HTTP/2 frame.
const LARGE: u32 = 16 * 1024;

/// One comparison.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Calls in each round and pair, with `--in-flight` at once [default: 60000; 6000 from
    /// payloads of 16 KiB on]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) calls: Option<u64>,
    /// Calls in each round and pair with one at a time
    #[arg(long, default_value_t = 2_000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) single_calls: u64,
    /// Connections of the caller
    #[arg(long, default_value_t = 2, value_parser = clap::value_parser!(u32).range(1..=64))]
    pub(crate) connections: u32,
    /// Calls in flight at once, over all connections
    #[arg(long, default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=i64::from(CONCURRENT_STREAMS)))]
    pub(crate) in_flight: u32,
    /// Bytes of payload, each way
    #[arg(long, default_value_t = 128,
          value_parser = clap::value_parser!(u32).range(0..=i64::from(LONGEST_PAYLOAD)))]
    pub(crate) payload: u32,
    /// Rounds; figures are the medians of them
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Which pairs to measure
    #[arg(long, value_delimiter = ',', default_values = ["direct", "bare", "sidelane"])]
    pub(crate) only: Vec<Kind>,
    /// Print JSON with all rounds instead of the table
    #[arg(long)]
    pub(crate) json: bool,
    /// The `sidelane` program [default: variable SIDELANE, else `sidelane` beside this program]
    #[arg(long, value_name = "PATH")]
    pub(crate) sidelane: Option<PathBuf>,
}

impl Args {
    /// Calls in each round and pair.
    pub(crate) fn calls(&self) -> u64 {
        self.calls.unwrap_or(if self.payload < LARGE {
            CALLS
        } else {
            LARGE_CALLS
        })
    }

    /// The pairs to measure, each once, in the order of [`Kind`].
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        let mut kinds = self.only.clone();
        kinds.sort_unstable();
        kinds.dedup();
        kinds
    }

    /// Where the `sidelane` program is; an error if nothing is there.
    pub(crate) fn sidelane(&self) -> Result<PathBuf> {
        let variable = std::env::var_os("SIDELANE").map(PathBuf::from);
        let named = self.sidelane.clone().or(variable);
        let path = match named {
            Some(path) => path,
            None => beside(&std::env::current_exe().context("cannot tell where this program is")?),
        };
        if !path.is_file() {
            bail!(
                "no sidelane program at {}: build it (`cargo build --release --bin sidelane`), \
                 name it by --sidelane PATH or the variable SIDELANE, or leave its pair out \
                 (--only direct,bare)",
                path.display()
            );
        }
        Ok(path)
    }
}

fn beside(program: &Path) -> PathBuf {
    program.with_file_name("sidelane")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn run(arguments: &[&str]) -> Result<Args, clap::Error> {
        let program = std::iter::once(&"sidelane-bench");
        crate::args::CommandLine::try_parse_from(program.chain(arguments)).map(|args| args.calls)
    }

    #[test]
    fn defaults_are_those_of_the_method() {
        let run = run(&[]).unwrap();
        assert_eq!(
            (run.calls(), run.connections, run.in_flight),
            (60_000, 2, 64)
        );
        assert_eq!((run.payload, run.rounds), (128, 5));
        assert_eq!(run.kinds(), [Kind::Direct, Kind::Bare, Kind::Sidelane]);
    }

    #[test]
    fn large_payloads_make_fewer_calls_unless_told() {
        assert_eq!(run(&["--payload", "65536"]).unwrap().calls(), 6_000);
        assert_eq!(
            run(&["--payload", "65536", "--calls", "7"])
                .unwrap()
                .calls(),
            7
        );
    }

    #[test]
    fn only_takes_a_list_and_ignores_order_and_repetition() {
        let kinds = run(&["--only", "bare,direct", "--only", "bare"])
            .unwrap()
            .kinds();
        assert_eq!(kinds, [Kind::Direct, Kind::Bare]);
    }

    #[test]
    fn what_is_not_known_or_out_of_range_is_refused() {
        for wrong in [
            ["--call", "7"],
            ["--only", "envoy"],
            ["--calls", "0"],
            ["--in-flight", "1025"],
            ["--payload", "4194304"],
        ] {
            let error = run(&wrong).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong:?}: {error}");
        }
    }

    #[test]
    fn a_missing_sidelane_is_named_with_the_ways_out() {
        let run = run(&["--sidelane", "/nowhere/sidelane"]).unwrap();
        let text = run.sidelane().unwrap_err().to_string();
        assert!(
            text.contains("/nowhere/sidelane") && text.contains("--only direct,bare"),
            "{text}"
        );
    }

    #[test]
    fn by_default_sidelane_stands_beside() {
        assert_eq!(
            beside(Path::new("/a/sidelane-bench")),
            Path::new("/a/sidelane")
        );
    }
}

//! What the command line of `calls` says, and what it means where it says nothing.

use anyhow::{Context as _, Result, bail};
use std::path::PathBuf;
use std::time::Duration;

use crate::http2::CONCURRENT_STREAMS;
use crate::message::LONGEST_PAYLOAD;
use crate::pair::{Kind, Programs};

/// Calls in a round of small payloads: some seconds, long beside the clock's and the kernel's
/// grain.
const CALLS: u64 = 60_000;

/// Calls in a round of large payloads, which take ten times as long each.
const LARGE_CALLS: u64 = 6_000;

/// The payload from which on it is a large one, in bytes: it no longer fits one HTTP/2 frame.
const LARGE: u32 = 16 * 1024;

/// Calls in a round with one at a time.
const SINGLE_CALLS: u64 = 2_000;

/// Calls in a round of 64 KiB, beside those of `--payload`: more than a second of them. In a fifth
/// of a second the same pair differed by a fifth from round to round.
const LARGE_CALLS_BESIDE: u64 = 20_000;

/// Messages in a round of streams, each way.
const STREAM_MESSAGES: u64 = 200_000;

/// New connections in a round: half a second of them.
const HANDSHAKES: u64 = 500;

/// The most: each leaves a port of the load generator's behind for a minute.
const MOST_HANDSHAKES: u64 = 5_000;

/// How long calls are made at each fixed rate.
const OPEN_SECONDS: f64 = 3.0;

/// Rounds: the fewest of which the median forgets two bad ones.
const ROUNDS: u32 = 5;

/// One comparison.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Calls in each round and pair, with `--in-flight` at once [default: 60000; 6000 from
    /// payloads of 16 KiB on]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    calls: Option<u64>,
    /// Calls in each round and pair with one at a time [default: 2000]
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    single_calls: Option<u64>,
    /// Fixed rates of the open loop, in calls a second; one of 70 % of what each pair has just
    /// shown it can do is made besides
    #[arg(long, value_delimiter = ',', default_values_t = [500, 2_000],
          value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub(crate) rates: Vec<u32>,
    /// Seconds at each rate; 0 leaves the open loop out [default: 3]
    #[arg(long)]
    open_seconds: Option<f64>,
    /// Calls of 64 KiB in each round and pair; 0 leaves them out [default: 20000]
    #[arg(long)]
    large_calls: Option<u64>,
    /// Messages in each round and pair of server streams, and of streams both ways; 0 leaves them
    /// out [default: 200000]
    #[arg(long)]
    stream_messages: Option<u64>,
    /// New connections in each round and pair in mTLS, each with one call, to the callee's proxy; 0
    /// leaves them out, 5000 at most [default: 500]
    #[arg(long, value_parser = clap::value_parser!(u64).range(0..=MOST_HANDSHAKES))]
    handshakes: Option<u64>,
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
    /// Rounds; figures are the medians of them [default: 5]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=1000))]
    rounds: Option<u32>,
    /// A tenth of everything that is not said, in two rounds: for a look, not for figures to keep
    #[arg(long)]
    quick: bool,
    /// Which pairs to measure [default: all, envoy where there is one]
    #[arg(long, value_delimiter = ',')]
    only: Vec<Kind>,
    /// Print JSON with all rounds instead of the tables
    #[arg(long)]
    pub(crate) json: bool,
    /// The `sidelane` program [default: variable SIDELANE, else `sidelane` beside this program]
    #[arg(long, value_name = "PATH")]
    sidelane: Option<PathBuf>,
    /// The program of the sidecars [default: `sidelane-sidecar` beside this program where there is
    /// one, which is the smaller one; else, or where `--sidelane` or SIDELANE is given, `sidelane
    /// sidecar`]
    #[arg(long, value_name = "PATH")]
    sidecar: Option<PathBuf>,
    /// The `envoy` program [default: variable ENVOY, else `envoy` of the PATH]
    #[arg(long, value_name = "PATH")]
    envoy: Option<PathBuf>,
}

impl Args {
    /// Calls in each round and pair.
    pub(crate) fn calls(&self) -> u64 {
        let usual = if self.payload < LARGE {
            CALLS
        } else {
            LARGE_CALLS
        };
        self.calls.unwrap_or(self.shortened(usual))
    }

    /// Calls in each round and pair with one at a time.
    pub(crate) fn single_calls(&self) -> u64 {
        self.single_calls.unwrap_or(self.shortened(SINGLE_CALLS))
    }

    /// Calls of 64 KiB in each round and pair; 0 for none.
    pub(crate) fn large_calls(&self) -> u64 {
        self.large_calls
            .unwrap_or(self.shortened(LARGE_CALLS_BESIDE))
    }

    /// Messages of each kind of stream in each round and pair; 0 for none.
    pub(crate) fn stream_messages(&self) -> u64 {
        self.stream_messages
            .unwrap_or(self.shortened(STREAM_MESSAGES))
    }

    /// New connections in each round and pair in mTLS; 0 for none.
    pub(crate) fn handshakes(&self) -> u64 {
        self.handshakes.unwrap_or(self.shortened(HANDSHAKES))
    }

    /// Rounds.
    pub(crate) fn rounds(&self) -> u32 {
        self.rounds.unwrap_or(if self.quick { 2 } else { ROUNDS })
    }

    /// How long calls are made at each rate; `None` without an open loop.
    ///
    /// # Errors
    /// It is no time.
    pub(crate) fn open_time(&self) -> Result<Option<Duration>> {
        let seconds = self.open_seconds.unwrap_or(if self.quick {
            OPEN_SECONDS / 10.0
        } else {
            OPEN_SECONDS
        });
        let time = Duration::try_from_secs_f64(seconds)
            .with_context(|| format!("--open-seconds {seconds} is no time"))?;
        Ok((!time.is_zero()).then_some(time))
    }

    fn shortened(&self, usual: u64) -> u64 {
        if self.quick { usual / 10 } else { usual }
    }

    /// The pairs to measure, each once, in the order of [`Kind`], and the programs that they need.
    ///
    /// # Errors
    /// One of them is not there.
    pub(crate) fn pairs(&self) -> Result<(Vec<Kind>, Programs)> {
        let mut kinds = self.only.clone();
        if kinds.is_empty() {
            kinds = vec![Kind::Direct, Kind::Bare, Kind::Sidelane, Kind::Policies];
            kinds.extend([Kind::BareTls, Kind::SidelaneTls]);
            // Never needed; but one that was named must be there.
            if self.named_envoy().is_some() || on_path("envoy").is_some() {
                kinds.extend([Kind::Envoy, Kind::EnvoyTls]);
            }
        }
        kinds.sort_unstable();
        kinds.dedup();
        let mut programs = Programs::default();
        if kinds.iter().any(|kind| kind.is_sidelane()) {
            programs.sidelane = Some(self.sidelane()?);
            programs.sidecar = self.sidecar()?;
        }
        if kinds.iter().any(|kind| kind.is_envoy()) {
            programs.envoy = Some(self.envoy()?);
        }
        Ok((kinds, programs))
    }

    fn named_envoy(&self) -> Option<PathBuf> {
        let variable = std::env::var_os("ENVOY").map(PathBuf::from);
        self.envoy.clone().or(variable)
    }

    fn envoy(&self) -> Result<PathBuf> {
        let Some(named) = self.named_envoy() else {
            return on_path("envoy").context(
                "no envoy on the PATH: name it by --envoy PATH or the variable ENVOY, or leave \
                 its pair out",
            );
        };
        if !named.is_file() {
            bail!(
                "no envoy program at {}: name another by --envoy PATH or the variable ENVOY, or \
                 leave its pair out (--only direct,bare,sidelane)",
                named.display()
            );
        }
        Ok(named)
    }

    fn named_sidelane(&self) -> Option<PathBuf> {
        let variable = std::env::var_os("SIDELANE").map(PathBuf::from);
        self.sidelane.clone().or(variable)
    }

    /// Where the program of the sidecars is, if it is one of its own.
    fn sidecar(&self) -> Result<Option<PathBuf>> {
        if let Some(path) = &self.sidecar {
            if !path.is_file() {
                bail!(
                    "no sidecar program at {}: build it (`cargo build --release -p \
                     sidelane-sidecar`), or leave --sidecar out",
                    path.display()
                );
            }
            return Ok(Some(path.clone()));
        }
        if self.named_sidelane().is_some() {
            return Ok(None);
        }
        Ok(Some(beside("sidelane-sidecar")?).filter(|path| path.is_file()))
    }

    /// Where the `sidelane` program is; an error if nothing is there.
    fn sidelane(&self) -> Result<PathBuf> {
        let path = match self.named_sidelane() {
            Some(path) => path,
            None => beside("sidelane")?,
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

fn on_path(program: &str) -> Option<PathBuf> {
    let folders = std::env::var_os("PATH")?;
    let mut programs = std::env::split_paths(&folders).map(|folder| folder.join(program));
    programs.find(|path| path.is_file())
}

fn beside(program: &str) -> Result<PathBuf> {
    let own = std::env::current_exe().context("cannot tell where this program is")?;
    Ok(own.with_file_name(program))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

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
        assert_eq!(
            (run.payload, run.rounds(), run.single_calls()),
            (128, 5, 2_000)
        );
        assert_eq!(
            (run.large_calls(), run.stream_messages()),
            (20_000, 200_000)
        );
        assert_eq!(run.handshakes(), 500);
        assert_eq!(run.rates, [500, 2_000]);
        assert_eq!(run.open_time().unwrap(), Some(Duration::from_secs(3)));
    }

    #[test]
    fn quick_shortens_what_is_not_said() {
        let run = run(&["--quick", "--large-calls", "77"]).unwrap();
        assert_eq!(
            (run.calls(), run.rounds(), run.single_calls()),
            (6_000, 2, 200)
        );
        assert_eq!((run.large_calls(), run.stream_messages()), (77, 20_000));
        assert_eq!(run.handshakes(), 50);
        assert_eq!(run.open_time().unwrap(), Some(Duration::from_millis(300)));
    }

    #[test]
    fn an_open_loop_of_no_time_is_left_out_and_less_is_refused() {
        let time = |text| run(&["--open-seconds", text]).unwrap().open_time();
        assert_eq!(time("0").unwrap(), None);
        let error = run(&["--open-seconds=-1"])
            .unwrap()
            .open_time()
            .unwrap_err();
        assert_eq!(error.to_string(), "--open-seconds -1 is no time");
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
        let run = run(&["--only", "bare,direct", "--only", "bare"]).unwrap();
        let (kinds, programs) = run.pairs().unwrap();
        assert_eq!(kinds, [Kind::Direct, Kind::Bare]);
        assert!(programs.sidelane.is_none() && programs.envoy.is_none());
    }

    #[test]
    fn pairs_in_mtls_have_names_of_their_own() {
        let run = run(&["--only", "bare-tls,bare"]).unwrap();
        let (kinds, programs) = run.pairs().unwrap();
        assert_eq!(kinds, [Kind::Bare, Kind::BareTls]);
        assert!(programs.sidelane.is_none() && programs.envoy.is_none());
        for (pair, program) in [("sidelane-tls", "--sidelane"), ("envoy-tls", "--envoy")] {
            let missing = super::tests::run(&["--only", pair, program, "/nowhere/it"]);
            let text = missing.unwrap().pairs().unwrap_err().to_string();
            assert!(text.contains("/nowhere/it"), "{text}");
        }
    }

    #[test]
    fn what_is_not_known_or_out_of_range_is_refused() {
        for wrong in [
            ["--call", "7"],
            ["--only", "nginx"],
            ["--calls", "0"],
            ["--rates", "0"],
            ["--handshakes", "5001"],
            ["--in-flight", "1025"],
            ["--payload", "4194304"],
        ] {
            let error = run(&wrong).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{wrong:?}: {error}");
        }
    }

    #[test]
    fn a_missing_program_is_named_with_the_ways_out() {
        let missing = run(&["--only", "sidelane", "--sidelane", "/nowhere/sidelane"]);
        let text = missing.unwrap().pairs().unwrap_err().to_string();
        assert!(
            text.contains("/nowhere/sidelane") && text.contains("--only direct,bare"),
            "{text}"
        );
        let missing = run(&["--only", "envoy", "--envoy", "/nowhere/envoy"]);
        let text = missing.unwrap().pairs().unwrap_err().to_string();
        assert!(
            text.contains("/nowhere/envoy") && text.contains("--only direct,bare,sidelane"),
            "{text}"
        );
    }

    #[test]
    fn by_default_sidelane_stands_beside() {
        let own = std::env::current_exe().unwrap();
        let path = beside("sidelane").unwrap();
        assert_eq!(path.parent(), own.parent());
        assert_eq!(path.file_name().unwrap(), "sidelane");
    }

    #[test]
    fn sidecars_are_the_sidelane_that_was_named_or_a_program_of_their_own() {
        let here = std::env::current_exe().unwrap();
        let here = here.to_str().unwrap();
        let of = |arguments: &[&str]| run(arguments).unwrap().pairs();
        let (_, programs) = of(&["--only", "sidelane", "--sidelane", here]).unwrap();
        assert_eq!(programs.sidelane.as_deref(), Some(Path::new(here)));
        assert_eq!(programs.sidecar, None);
        let both = ["--only", "sidelane", "--sidelane", here, "--sidecar", here];
        assert_eq!(
            of(&both).unwrap().1.sidecar.as_deref(),
            Some(Path::new(here))
        );
        let gone = [
            "--only",
            "sidelane",
            "--sidelane",
            here,
            "--sidecar",
            "/nowhere/it",
        ];
        let text = of(&gone).unwrap_err().to_string();
        assert!(
            text.contains("/nowhere/it") && text.contains("sidelane-sidecar"),
            "{text}"
        );
    }
}

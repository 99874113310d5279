//! `sidelane-bench lanes`: what small calls pay for bulk that travels beside them, in lanes of their
//! own, on connections without marks, and on one connection. Measured over a slow link between two
//! network namespaces, where the queue before the link decides, and on loopback, where the
//! processor does. Idle and loaded are measured in turn, so that a machine that drifts does so for
//! both.

mod app;
mod ground;
mod load;
mod mesh;
mod report;

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;
use tokio::time::sleep;

use crate::interrupt::interrupted;
use crate::parent;
use ground::Ground;
use mesh::Mesh;
use report::{Report, Round};

/// Until bulk has filled every queue on its way.
const WARM_UP: Duration = Duration::from_millis(800);

/// How the lanes are measured.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Args {
    /// Rounds; every figure is the median of its rounds
    #[arg(long, default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rounds: u32,
    /// Seconds of each measurement
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u32).range(1..=600))]
    pub(crate) seconds: u32,
    /// Small calls a second
    #[arg(long, default_value_t = 500, value_parser = clap::value_parser!(u32).range(1..=1000))]
    pub(crate) rate: u32,
    /// Bulk calls in flight at once, 1 MiB each
    #[arg(long, default_value_t = 8, value_parser = clap::value_parser!(u32).range(1..=60))]
    pub(crate) bulk: u32,
    /// What the link carries each way, as `tc` takes it
    #[arg(long, default_value = "200mbit")]
    pub(crate) link: String,
    /// Where to measure
    #[arg(long, value_delimiter = ',', default_values = ["link", "loopback"])]
    pub(crate) places: Vec<Place>,
    /// Which ways to measure
    #[arg(long, value_delimiter = ',', default_values = ["lanes", "unmarked", "shared"])]
    pub(crate) ways: Vec<Way>,
    /// Which ways bulk goes
    #[arg(long, value_delimiter = ',', default_values = ["one-way", "both-ways"])]
    pub(crate) flows: Vec<Flow>,
    /// Print JSON with all rounds instead of the table
    #[arg(long)]
    pub(crate) json: bool,
    /// The `sidelane` program [default: variable SIDELANE, else `sidelane` beside this program]
    #[arg(long, value_name = "PATH")]
    pub(crate) sidelane: Option<PathBuf>,
}

/// Where it is measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Place {
    /// Two network namespaces and a slow link between them; needs root.
    Link,
    /// 127.0.0.1, where the processor is what is short.
    Loopback,
}

/// How small calls and bulk travel.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Way {
    /// Small calls in lane gossip, bulk in lane `bifrost_data`.
    Lanes,
    /// In two lanes of the same settings but without marks and priorities.
    Unmarked,
    /// Both in lane general: on one connection.
    Shared,
}

/// Which ways bulk goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Flow {
    /// To the callee alone, as a log does that is copied.
    OneWay,
    /// Back again, too: small calls meet it on both of their ways.
    BothWays,
}

impl Flow {
    /// As it stands behind the flag.
    fn name(self) -> &'static str {
        match self {
            Self::OneWay => "one-way",
            Self::BothWays => "both-ways",
        }
    }

    /// The app's method.
    fn method(self) -> &'static str {
        match self {
            Self::OneWay => "Take",
            Self::BothWays => "Call",
        }
    }
}

/// The benchmark's own processes.
#[derive(Debug, Clone, clap::Subcommand)]
pub(crate) enum Part {
    /// Answers every call with what it brought.
    App,
    /// Makes calls: so many a second, or so many at once until its input ends.
    Load(load::Load),
}

impl Way {
    /// The services for small calls and for bulk.
    fn services(self) -> [String; 2] {
        let name = match self {
            Self::Lanes => "lanes",
            Self::Unmarked => "unmarked",
            Self::Shared => "shared",
        };
        ["Beat", "Bulk"].map(|service| format!("sidelane.bench.{name}.v1.{service}"))
    }
}

/// Measures, tells, and leaves nothing behind.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let interrupted = interrupted()?;
    // Processes and namespaces end with what is dropped here.
    let report = tokio::select! {
        report = measure(&args) => report?,
        code = interrupted => {
            eprintln!("sidelane-bench: interrupted; its processes have been ended");
            return Ok(ExitCode::from(code));
        }
    };
    let text = if args.json {
        serde_json::to_string_pretty(&report).context("cannot write JSON")? + "\n"
    } else {
        report.table()
    };
    let mut output = std::io::stdout().lock();
    output
        .write_all(text.as_bytes())
        .and_then(|()| output.flush())
        .context("cannot write")?;
    Ok(if report.failed() == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// One of the benchmark's own processes.
pub(crate) async fn part(part: Part) -> Result<ExitCode> {
    match part {
        Part::App => {
            let listener = parent::listen().await.context("cannot listen")?;
            tokio::select! {
                failed = app::serve(listener) => failed.context("cannot accept connections")?,
                gone = parent::gone() => gone.context("standard input must be a pipe of the benchmark")?,
            }
        }
        Part::Load(load) => {
            let told = load::run(&load).await?;
            println!("{}", serde_json::to_string(&told).context("cannot write")?);
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn measure(args: &Args) -> Result<Report> {
    let program = program(args)?;
    let mut report = Report::new(args);
    for place in &args.places {
        let ground = match place {
            Place::Link => Ground::link(&args.link)?,
            Place::Loopback => Ground::Loopback,
        };
        let mesh = Mesh::start(&program, ground).await?;
        for round in 1..=args.rounds {
            for way in &args.ways {
                for flow in &args.flows {
                    let figures = one_round(args, &mesh, *way, *flow).await?;
                    let line = figures.line();
                    eprintln!("round {round}, {place:?}, {way:?}, {}: {line}", flow.name());
                    report.add((*place, *way, *flow), figures);
                }
            }
        }
    }
    Ok(report)
}

/// Small calls alone, and then beside bulk.
async fn one_round(args: &Args, mesh: &Mesh, way: Way, flow: Flow) -> Result<Round> {
    let [beat, bulk] = way.services();
    let small = || mesh.small(&beat, args.rate, args.seconds);
    let idle = small().await?;
    let bulk = mesh.bulk(&bulk, flow, args.bulk)?;
    sleep(WARM_UP).await;
    let loaded = small().await?;
    let bulk = bulk.told().await?;
    Ok(Round { idle, loaded, bulk })
}

fn program(args: &Args) -> Result<PathBuf> {
    let named = args.sidelane.clone();
    let named = named.or_else(|| std::env::var_os("SIDELANE").map(PathBuf::from));
    let path = match named {
        Some(path) => path,
        None => std::env::current_exe()
            .context("cannot tell where this program is")?
            .with_file_name("sidelane"),
    };
    if !path.is_file() {
        bail!(
            "no sidelane program at {}: build it (`cargo build --release --bin sidelane`), or name \
             it by --sidelane PATH or the variable SIDELANE",
            path.display()
        );
    }
    Ok(path)
}

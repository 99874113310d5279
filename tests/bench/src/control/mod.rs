//! `sidelane-bench control`: the control plane at size. The program itself in a process of its own,
//! and simulated sidecars as tasks of this one, which speak the real protocol on real connections.
//! Each mesh goes through the same measurements in the same order, with nothing left of the one
//! before.

mod crowd;
mod layout;
mod plane;
mod report;
mod sidecar;
mod watch;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::accounting::ProcessorTime;
use crate::interrupt;
use crate::statistics::number;
use crowd::Crowd;
use layout::Layout;
use plane::Plane;
use report::{Cost, Mesh, Report, Restart};
use watch::Reached;

/// How long control is watched while nothing changes: two heartbeats of everybody.
const IDLE: Duration = Duration::from_secs(6);
/// Between what is measured and what came before it.
const REST: Duration = Duration::from_millis(1_500);
/// For each subscriber of a change to all, before the next.
const ROOM: Duration = Duration::from_micros(200);
/// Sessions that only listen, at most: with those of a mesh of 3,000 they stay below the
/// connections that control takes.
const LISTENERS_LIMIT: usize = 1_000;
/// Files that are open beside the connections.
const OTHER_FILES: u64 = 64;

/// What is measured.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// Sidecars of the mesh that aims are held against
    #[arg(long, default_value_t = 1_000, value_parser = at_least_two)]
    pub(crate) sidecars: usize,
    /// Services in it
    #[arg(long, default_value_t = 500, value_parser = at_least_two)]
    pub(crate) services: usize,
    /// Endpoints in it, over all sidecars
    #[arg(long, default_value_t = 10_000, value_parser = at_least_two)]
    pub(crate) endpoints: usize,
    /// Sidecars of further meshes in the same proportions, to compare with
    #[arg(long, value_delimiter = ',', default_values = ["100", "3000"], value_parser = at_least_two)]
    pub(crate) beside: Vec<usize>,
    /// No further meshes
    #[arg(long, conflicts_with = "beside")]
    pub(crate) alone: bool,
    /// Changes of each kind
    #[arg(long, default_value_t = 200, value_parser = at_least_two)]
    pub(crate) changes: usize,
    /// Between two changes, in milliseconds
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..))]
    pub(crate) pause_ms: u64,
    /// How long control is away after its crash, in milliseconds: the longer, the longer sidecars
    /// pause before they try again
    #[arg(long, default_value_t = 500)]
    pub(crate) away_ms: u64,
    /// Exit code 0 also where an aim is missed
    #[arg(long)]
    pub(crate) report_only: bool,
    /// Print JSON instead of the table
    #[arg(long)]
    pub(crate) json: bool,
    /// The `sidelane-control` program [default: variable
    /// `SIDELANE_CONTROL_PROGRAM`, else `sidelane-control` beside this program]
    #[arg(long, value_name = "PATH")]
    pub(crate) program: Option<PathBuf>,
}

fn at_least_two(text: &str) -> Result<usize, String> {
    match text.parse() {
        Ok(count) if count >= 2 => Ok(count),
        Ok(count) => Err(format!("{count} is too few: 2 at least")),
        Err(_) => Err("not a number".to_owned()),
    }
}

impl Args {
    /// The meshes, the one that aims are held against first.
    fn layouts(&self) -> Result<Vec<Layout>> {
        let offers = self.endpoints / self.sidecars;
        if !self.endpoints.is_multiple_of(self.sidecars) || offers == 0 {
            bail!(
                "{} endpoints are no whole number for each of {} sidecars",
                self.endpoints,
                self.sidecars
            );
        }
        let beside = if self.alone { &[][..] } else { &self.beside };
        let layouts = std::iter::once(&self.sidecars).chain(beside);
        layouts
            .map(|&sidecars| {
                let services = self.services * sidecars / self.sidecars;
                if services < 2 * offers {
                    bail!(
                        "{sidecars} sidecars have {services} services then, and each offers \
                         {offers} and calls {offers} others: that takes {} at least",
                        2 * offers
                    );
                }
                Ok(Layout {
                    sidecars,
                    services,
                    offers,
                    calls: offers,
                })
            })
            .collect()
    }

    fn program(&self) -> Result<PathBuf> {
        let variable = std::env::var_os("SIDELANE_CONTROL_PROGRAM").map(PathBuf::from);
        let path = match self.program.clone().or(variable) {
            Some(path) => path,
            None => std::env::current_exe()
                .context("cannot tell where this program is")?
                .with_file_name("sidelane-control"),
        };
        if !path.is_file() {
            bail!(
                "no control plane at {}: build it (`cargo build --release -p sidelane-control`), or \
                 name it by --program PATH or the variable SIDELANE_CONTROL_PROGRAM",
                path.display()
            );
        }
        Ok(path)
    }
}

/// Runs all of it.
pub(crate) async fn run(args: Args) -> Result<ExitCode> {
    let layouts = args.layouts()?;
    let program = args.program()?;
    let largest = layouts.iter().map(|layout| layout.sidecars).max();
    room_for_files(largest.unwrap_or_default())?;
    let interrupted = interrupt::interrupted()?;
    let measured = async {
        let mut meshes = Vec::new();
        for layout in layouts {
            eprintln!("sidelane-bench: {} sidecars ...", layout.sidecars);
            meshes.push(Box::pin(measure(&args, layout, &program)).await?);
        }
        anyhow::Ok(meshes)
    };
    // Control is killed when what holds it is dropped, also here.
    let report = tokio::select! {
        meshes = measured => Report::new(meshes?),
        code = interrupted => {
            eprintln!("sidelane-bench: interrupted; control has been ended");
            return Ok(ExitCode::from(code));
        }
    };
    if args.json {
        let text = serde_json::to_string_pretty(&report).context("cannot write JSON")?;
        println!("{text}");
    } else {
        print!("{}", report.render());
    }
    Ok(match report.missed.is_empty() || args.report_only {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    })
}

/// Each simulated sidecar is a connection of this process, and of control's.
fn room_for_files(sidecars: usize) -> Result<()> {
    let needed = (sidecars + sidecars.min(LISTENERS_LIMIT)) as u64 + OTHER_FILES;
    let limit = sidelane_process::files::raise_limit().context("cannot read the limit of files")?;
    if limit < needed {
        bail!(
            "{sidecars} sidecars take {needed} open files, and this process may have {limit}: raise \
             the hard limit (`ulimit -Hn`, or LimitNOFILE= of the service), or ask for fewer"
        );
    }
    Ok(())
}

async fn measure(args: &Args, layout: Layout, program: &std::path::Path) -> Result<Mesh> {
    let pause = Duration::from_millis(args.pause_ms);
    let mut plane = Plane::start(program).await?;
    let empty = plane.size()?;
    let mut crowd = Crowd::new(layout, plane.listen);
    let joined = crowd.join().await?;
    let join_pushed = crowd.watch.pushed();
    tokio::time::sleep(REST).await;
    let full = plane.size()?;

    let listeners = layout.sidecars.min(LISTENERS_LIMIT);
    crowd.listen(listeners).await?;
    tokio::time::sleep(REST).await;
    let listening = plane.size()?;
    crowd.dismiss_listeners().await?;
    tokio::time::sleep(REST).await;

    let idle = idle(&plane).await?;
    let paced = crowd.paced(args.changes, pause).await?;
    let before = Start::of(&plane)?;
    let few = crowd.weights(args.changes, pause, false).await?;
    let few = before.cost(&plane, few, idle)?;
    let before = Start::of(&plane)?;
    // Far enough apart that each is read by all before the next: otherwise the newest is all they
    // read, and the changes between are for nobody.
    let pause = pause.max(ROOM * u32::try_from(layout.sidecars)?);
    let all = crowd
        .weights(args.changes.div_ceil(10), pause, true)
        .await?;
    let all = before.cost(&plane, all, idle)?;
    let before = crowd.watch.pushed();
    let burst = crowd.burst().await?;
    let burst_pushed = crowd.watch.pushed().since(before);
    tokio::time::sleep(REST).await;
    let busy = plane.size()?;

    let restart = restart(&mut plane, &crowd, Duration::from_millis(args.away_ms)).await?;
    let each = |kib: u64, count: usize| {
        number(kib.saturating_sub(empty.resident_kib)) / number(count as u64)
    };
    let session_kib = number(listening.resident_kib.saturating_sub(full.resident_kib));
    Ok(Mesh {
        sidecars: layout.sidecars,
        services: layout.services,
        endpoints: layout.endpoints(),
        join_seconds: joined.as_secs_f64(),
        join_pushed,
        empty_kib: empty.resident_kib,
        full_kib: full.resident_kib,
        sidecar_kib: each(full.resident_kib, layout.sidecars),
        session_kib: session_kib / number(listeners as u64),
        busy_sidecar_kib: each(busy.resident_kib, layout.sidecars),
        idle_processors: idle,
        paced,
        few,
        all,
        burst,
        burst_pushed,
        restart,
    })
}

/// The share of one processor that control uses while nothing changes.
async fn idle(plane: &Plane) -> Result<f64> {
    let before = plane.processor_time()?;
    let began = Instant::now();
    tokio::time::sleep(IDLE).await;
    let used = plane.processor_time()?.since(&before);
    Ok(used.as_secs_f64() / began.elapsed().as_secs_f64())
}

struct Start {
    processor_time: ProcessorTime,
    began: Instant,
}

impl Start {
    fn of(plane: &Plane) -> Result<Self> {
        Ok(Self {
            processor_time: plane.processor_time()?,
            began: Instant::now(),
        })
    }

    fn cost(self, plane: &Plane, reached: Reached, idle: f64) -> Result<Cost> {
        let used = plane.processor_time()?.since(&self.processor_time);
        let idle = idle * self.began.elapsed().as_secs_f64();
        let microseconds = (used.as_secs_f64() - idle).max(0.0) * 1e6;
        let each = |count: usize| microseconds / number(count.max(1) as u64);
        Ok(Cost {
            cpu_us_per_change: each(reached.changes),
            cpu_us_per_subscriber: each(reached.expected),
            reached,
        })
    }
}

async fn restart(plane: &mut Plane, crowd: &Crowd, away: Duration) -> Result<Restart> {
    let before = crowd.watch.pushed();
    plane.kill().await?;
    tokio::time::sleep(away).await;
    let began = Instant::now();
    let listening = plane.again().await?;
    let resync = crowd.settled(began).await?;
    Ok(Restart {
        listening_seconds: listening.as_secs_f64(),
        resync_seconds: resync.as_secs_f64(),
        pushed: crowd.watch.pushed().since(before),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(flatten)]
        args: Args,
    }

    fn args(words: &[&str]) -> Args {
        let program = std::iter::once(&"bench");
        Line::try_parse_from(program.chain(words)).unwrap().args
    }

    #[test]
    fn meshes_have_the_same_proportions() {
        let layouts = args(&[]).layouts().unwrap();
        let sizes: Vec<_> = layouts
            .iter()
            .map(|layout| (layout.sidecars, layout.services, layout.endpoints()))
            .collect();
        assert_eq!(
            sizes,
            [
                (1_000, 500, 10_000),
                (100, 50, 1_000),
                (3_000, 1_500, 30_000)
            ]
        );
        assert_eq!(args(&["--alone"]).layouts().unwrap().len(), 1);
    }

    #[test]
    fn proportions_that_cannot_be_are_named() {
        let text = |words: &[&str]| args(words).layouts().unwrap_err().to_string();
        assert!(text(&["--endpoints", "1001"]).contains("no whole number"));
        assert!(text(&["--beside", "10"]).contains("10 sidecars have 5 services"));
    }

    #[test]
    fn a_missing_program_is_named_with_the_ways_out() {
        let error = args(&["--program", "/nowhere/control"]).program();
        let text = error.unwrap_err().to_string();
        assert!(
            text.contains("/nowhere/control") && text.contains("--program"),
            "{text}"
        );
    }
}

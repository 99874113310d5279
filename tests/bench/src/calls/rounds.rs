//! The measurement itself: the pairs in turn, round after round, beginning with another pair in
//! each. It reads the operating system's accounts before and after the loaded part of a round;
//! connections are opened and warmed before the first reading.

use anyhow::{Context as _, Result};
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;

use super::args::Args;
use super::report::{Figures, Machine, Memory, PairReport, ProcessReport, Report, Round, Settings};
use crate::accounting::{ProcessorTime, Size};
use crate::load::{self, Load};
use crate::message::{self, EchoCall};
use crate::pair::{Kind, Pair, Part};
use crate::statistics::{median, microseconds, number};

/// Calls for each one in flight before a reading: connections, windows and allocators have
/// settled after a few.
const WARM_UP: u64 = 8;

/// Runs the benchmark. The pairs are the caller's, who stops them however this ends.
pub(crate) async fn run(settings: &Args, pairs: &mut Vec<Pair>) -> Result<Report> {
    let mut courses = start(settings, pairs).await?;
    for round in 0..settings.rounds {
        for turn in 0..courses.len() {
            let index = (turn + round as usize) % courses.len();
            let (pair, course) = (&mut pairs[index], &mut courses[index]);
            let title = format!(
                "round {} of {}: {}",
                round + 1,
                settings.rounds,
                pair.kind.name()
            );
            let result = course.round(pair, settings).await;
            // A process that has ended is why everything else failed, so it is told first.
            let result = pair
                .must_live()
                .and(result)
                .with_context(|| title.clone())?;
            let (speed, failed) = (result.figures.calls_per_second, result.failed);
            eprintln!("{title:24} {speed:9.0} calls/s, {failed} failed");
            course.rounds.push(result);
        }
    }
    let courses = courses.into_iter().zip(pairs);
    let reports = courses
        .map(|(course, pair)| course.report(pair))
        .collect::<Result<_>>()?;
    Ok(Report::new(
        Settings::of(settings),
        Machine::here(),
        reports,
    ))
}

/// Starts all pairs, so that each is there, idle, while another is measured.
async fn start(settings: &Args, pairs: &mut Vec<Pair>) -> Result<Vec<Course>> {
    let kinds = settings.kinds();
    let wanted = kinds.contains(&Kind::Sidelane);
    let sidelane = if wanted {
        Some(settings.sidelane()?)
    } else {
        None
    };
    let frame = message::frame(settings.payload);
    let mut courses = Vec::new();
    for kind in kinds {
        eprintln!("starting {}", kind.name());
        pairs.push(Pair::new(kind));
        let pair = pairs.last_mut().context("no pair")?;
        let course = Course::start(pair, sidelane.as_deref(), &frame).await;
        courses.push(course.with_context(|| format!("cannot start {}", kind.name()))?);
    }
    Ok(courses)
}

/// What has been gathered of one pair.
struct Course {
    target: SocketAddr,
    call: Arc<EchoCall>,
    rounds: Vec<Round>,
    /// Microseconds for a call: one row a round, one column a process, the last is this one.
    costs: Vec<Vec<f64>>,
    memory: Vec<Memory>,
}

impl Course {
    async fn start(pair: &mut Pair, sidelane: Option<&Path>, frame: &bytes::Bytes) -> Result<Self> {
        let target = pair.start(sidelane).await?;
        let call = Arc::new(EchoCall::new(target, frame.clone())?);
        pair.first_call(&call, target).await?;
        let idle = sizes(pair)?.into_iter().map(|size| size.resident_kib);
        let memory = idle
            .map(|idle_kib| Memory {
                idle_kib,
                ..Memory::default()
            })
            .collect();
        Ok(Self {
            target,
            call,
            rounds: Vec::new(),
            costs: Vec::new(),
            memory,
        })
    }

    async fn round(&mut self, pair: &Pair, settings: &Args) -> Result<Round> {
        let senders = load::connect(self.target, settings.connections).await?;
        let in_flight = settings.in_flight;
        let warm_up = Load {
            in_flight,
            calls: WARM_UP * u64::from(in_flight),
        };
        let warm = load::run(&senders, &self.call, warm_up)
            .await
            .context("warming up")?;

        let before = processor_times(pair)?;
        let calls = settings.calls();
        let busy = load::run(&senders, &self.call, Load { in_flight, calls }).await?;
        let after = processor_times(pair)?;
        self.remember(&sizes(pair)?);

        let one_by_one = Load {
            in_flight: 1,
            calls: settings.single_calls,
        };
        let single = load::run(&senders, &self.call, one_by_one).await?;

        let used = after
            .iter()
            .zip(&before)
            .map(|(after, before)| after.since(before));
        let calls = number(busy.answered + busy.failed);
        let costs: Vec<f64> = used
            .map(|used| microseconds(u64::try_from(used.as_nanos()).unwrap_or(u64::MAX)) / calls)
            .collect();
        let proxies = pair.members.iter().zip(&costs);
        let proxies = proxies.filter(|(member, _)| member.part == Part::Proxy);
        let figures = Figures {
            calls_per_second: busy.calls_per_second(),
            // Not `sum`: that of no proxies would be -0.
            proxies_cpu_us_per_call: proxies.fold(0.0, |sum, (_, cost)| sum + cost),
            loaded: busy.latency,
            single: single.latency,
        };
        self.costs.push(costs);
        Ok(Round {
            figures,
            answered: warm.answered + busy.answered + single.answered,
            failed: warm.failed + busy.failed + single.failed,
            first_failure: warm
                .first_failure
                .or(busy.first_failure)
                .or(single.first_failure),
        })
    }

    fn remember(&mut self, sizes: &[Size]) {
        for (memory, size) in self.memory.iter_mut().zip(sizes) {
            memory.loaded_kib = memory.loaded_kib.max(size.resident_kib);
            memory.peak_kib = size.peak_kib;
        }
    }

    fn report(self, pair: &Pair) -> Result<PairReport> {
        let names = pair
            .members
            .iter()
            .map(|member| (member.process.name, Some(member.part)));
        let names = names.chain([("load generator", None)]);
        let rows = names.zip(sizes(pair)?).zip(self.memory).enumerate();
        let processes = rows.map(|(column, (((name, part), size), memory))| {
            let costs = self
                .costs
                .iter()
                .filter_map(|round| round.get(column).copied());
            ProcessReport {
                name,
                part,
                threads: size.threads,
                cpu_us_per_call: median(costs).unwrap_or_default(),
                memory,
            }
        });
        let processes = processes.collect();
        PairReport::new(pair.kind, self.rounds, processes).context("no rounds")
    }
}

/// Of the pair's processes, and last of this one, which is the load generator.
fn processor_times(pair: &Pair) -> Result<Vec<ProcessorTime>> {
    let mut times = pair.processor_times()?;
    times.push(ProcessorTime::of(std::process::id())?);
    Ok(times)
}

/// In the same order.
fn sizes(pair: &Pair) -> Result<Vec<Size>> {
    let mut sizes = pair.sizes()?;
    sizes.push(Size::of(std::process::id())?);
    Ok(sizes)
}

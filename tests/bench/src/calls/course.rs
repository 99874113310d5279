//! The course of one pair through the rounds: what it is made to do, and what is read meanwhile.
//! It reads the operating system's accounts before and after a load; connections are opened and
//! warmed before the first reading.

use anyhow::{Context as _, Result};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use super::args::Args;
use super::phases::{Bulk, BulkRound, HandshakeRound, Handshakes, Open, Throughput};
use super::report::{Figures, Memory, PairReport, ProcessReport, Round};
use crate::accounting::{ProcessorTime, Size};
use crate::call::Sender;
use crate::handshakes::{self, Dialler};
use crate::load::{self, Load, Outcome};
use crate::message::{self, EchoCall, Shape};
use crate::pair::{Pair, Part, Programs};
use crate::statistics::{median, microseconds, number};

/// Calls for each one in flight before a reading, where there are so many at all: connections,
/// windows and allocators have settled after a few.
const WARM_UP: u64 = 8;

/// Of what a pair has just shown that it can do: busy, and not yet a queue that only grows.
const PART_OF_CAPACITY: f64 = 0.7;

/// Bytes of payload of a large call, each way: several HTTP/2 frames.
const LARGE_PAYLOAD: u32 = 64 * 1024;

/// Long enough that a stream's beginning and end do not count.
const MESSAGES_A_STREAM: u32 = 1_000;

/// Streams at once, over all connections.
const STREAMS_AT_ONCE: u32 = 16;

/// What has been gathered of one pair.
pub(crate) struct Course {
    target: SocketAddr,
    call: Arc<EchoCall>,
    /// Rounds of calls, pushed by who runs them.
    pub(crate) rounds: Vec<Round>,
    /// Rounds in bulk, likewise.
    pub(crate) bulk_rounds: Vec<BulkRound>,
    /// Rounds of new connections, likewise.
    pub(crate) handshake_rounds: Vec<HandshakeRound>,
    /// Microseconds for a call: one row a round, one column a process, the last is this one.
    costs: Vec<Vec<f64>>,
    memory: Vec<Memory>,
}

impl Course {
    /// Starts the pair, and reads its memory once it has answered a call.
    pub(crate) async fn start(
        pair: &mut Pair,
        programs: &Programs,
        frame: &bytes::Bytes,
    ) -> Result<Self> {
        let target = pair.start(programs).await?;
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
            bulk_rounds: Vec::new(),
            handshake_rounds: Vec::new(),
            costs: Vec::new(),
            memory,
        })
    }

    /// One round of calls: as many as go through, and one by one.
    pub(crate) async fn round(&mut self, pair: &Pair, args: &Args) -> Result<Round> {
        let senders = load::connect(self.target, args.connections).await?;
        let mut tally = Tally::default();
        let (in_flight, calls) = (args.in_flight, args.calls());
        let call = Arc::clone(&self.call);
        let load = Load { in_flight, calls };
        let warm_up = WARM_UP * u64::from(in_flight);
        let (busy, costs) = metered(pair, &senders, &call, load, warm_up, &mut tally).await?;
        self.remember(&sizes(pair)?);
        let one_by_one = Load {
            in_flight: 1,
            calls: args.single_calls(),
        };
        let single = load::run(&senders, &call, one_by_one).await?;
        tally.add(&single);
        let figures = Figures {
            calls_per_second: busy.calls_per_second(),
            proxies_cpu_us_per_call: of_proxies(pair, &costs),
            loaded: busy.latency,
            single: single.latency,
        };
        self.costs.push(costs);
        Ok(Round {
            figures,
            open: Vec::new(),
            answered: tally.answered,
            failed: tally.failed,
            first_failure: tally.first_failure,
        })
    }

    /// Adds the open loop to a round that is over: at the fixed rates, and at a part of what the pair
    /// could do in that round.
    pub(crate) async fn at_rates(
        &mut self,
        round: usize,
        args: &Args,
        time: Duration,
    ) -> Result<()> {
        let senders = load::connect(self.target, args.connections).await?;
        let round = self.rounds.get_mut(round).context("no such round")?;
        let capacity = round.figures.calls_per_second * PART_OF_CAPACITY;
        let fixed = args.rates.iter().map(|&rate| (f64::from(rate), true));
        for (rate, fixed) in fixed.chain([(capacity, false)]) {
            let outcome = crate::open::run(&senders, &self.call, rate, time).await;
            let outcome = outcome.with_context(|| format!("at {rate:.0} calls/s"))?;
            round.answered += outcome.answered;
            round.failed += outcome.failed;
            round.first_failure = round.first_failure.take().or(outcome.first_failure);
            round.open.push(Open {
                rate,
                fixed,
                latency: outcome.latency,
            });
        }
        Ok(())
    }

    /// One round in bulk: calls of 64 KiB, server streams, streams both ways.
    pub(crate) async fn bulk(&mut self, pair: &Pair, args: &Args) -> Result<BulkRound> {
        let senders = load::connect(self.target, args.connections).await?;
        let mut tally = Tally::default();
        let mut figures = Bulk::default();
        if args.large_calls() > 0 {
            let call = Arc::new(EchoCall::new(self.target, message::frame(LARGE_PAYLOAD))?);
            let load = Load {
                in_flight: args.in_flight,
                calls: args.large_calls(),
            };
            let warm_up = WARM_UP * u64::from(args.in_flight);
            let (outcome, costs) =
                metered(pair, &senders, &call, load, warm_up, &mut tally).await?;
            figures.large = Some(throughput(&outcome, 1, of_proxies(pair, &costs)));
        }
        if args.stream_messages() > 0 {
            let each = u64::from(MESSAGES_A_STREAM).min(args.stream_messages());
            let messages = u32::try_from(each).unwrap_or(MESSAGES_A_STREAM);
            let load = Load {
                in_flight: STREAMS_AT_ONCE,
                calls: args.stream_messages().div_ceil(each),
            };
            for shape in [Shape::Expand(messages), Shape::Chat(messages)] {
                let call = EchoCall::shaped(self.target, self.call.frame().clone(), shape)?;
                let call = Arc::new(call);
                // One for each at once: a stream is a thousand messages.
                let warm_up = u64::from(STREAMS_AT_ONCE);
                let (outcome, costs) =
                    metered(pair, &senders, &call, load, warm_up, &mut tally).await?;
                let through = Some(throughput(&outcome, messages, of_proxies(pair, &costs)));
                match shape {
                    Shape::Chat(_) => figures.chat = through,
                    Shape::Unary | Shape::Expand(_) => figures.expand = through,
                }
            }
        }
        Ok(BulkRound {
            figures,
            answered: tally.answered,
            failed: tally.failed,
            first_failure: tally.first_failure,
        })
    }

    /// One round of new connections to the callee's proxy; `None` for a pair in the clear.
    pub(crate) async fn handshakes(
        &self,
        pair: &Pair,
        args: &Args,
    ) -> Result<Option<HandshakeRound>> {
        let Some(dialler) = Dialler::of(pair, self.call.frame())? else {
            return Ok(None);
        };
        let warm = handshakes::run(&dialler, WARM_UP.min(args.handshakes())).await;
        let mut tally = Tally::default();
        tally.add(&warm.context("warming up")?);
        // Proxies are started from the callee's on.
        let mut members = pair.members.iter();
        let callee = members.find(|member| member.part == Part::Proxy);
        let callee = callee.context("no proxy")?.process.pid;
        let before = ProcessorTime::of(callee)?;
        let outcome = handshakes::run(&dialler, args.handshakes()).await?;
        let used = ProcessorTime::of(callee)?.since(&before).as_nanos();
        tally.add(&outcome);
        let made = number(outcome.answered + outcome.failed);
        Ok(Some(HandshakeRound {
            figures: Handshakes {
                per_second: outcome.calls_per_second(),
                callee_cpu_us: microseconds(u64::try_from(used).unwrap_or(u64::MAX)) / made,
            },
            answered: tally.answered,
            failed: tally.failed,
            first_failure: tally.first_failure,
        }))
    }

    fn remember(&mut self, sizes: &[Size]) {
        for (memory, size) in self.memory.iter_mut().zip(sizes) {
            memory.loaded_kib = memory.loaded_kib.max(size.resident_kib);
            memory.peak_kib = size.peak_kib;
        }
    }

    /// What came of all rounds.
    pub(crate) fn report(self, pair: &Pair) -> Result<PairReport> {
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
        let (bulk, anew) = (self.bulk_rounds, self.handshake_rounds);
        PairReport::new(pair.kind, self.rounds, bulk, anew, processes).context("no rounds")
    }
}

/// Calls of all phases of a round.
#[derive(Default)]
struct Tally {
    answered: u64,
    failed: u64,
    first_failure: Option<String>,
}

impl Tally {
    fn add(&mut self, outcome: &Outcome) {
        self.answered += outcome.answered;
        self.failed += outcome.failed;
        if self.first_failure.is_none() {
            self.first_failure.clone_from(&outcome.first_failure);
        }
    }
}

/// Warms up, makes the calls, and says what one of them cost each process, in microseconds.
async fn metered(
    pair: &Pair,
    senders: &[Sender],
    call: &Arc<EchoCall>,
    load: Load,
    warm_up: u64,
    tally: &mut Tally,
) -> Result<(Outcome, Vec<f64>)> {
    let warm_up = Load {
        calls: warm_up.min(load.calls),
        ..load
    };
    let warm = load::run(senders, call, warm_up).await;
    tally.add(&warm.context("warming up")?);
    let before = processor_times(pair)?;
    let outcome = load::run(senders, call, load).await?;
    let after = processor_times(pair)?;
    tally.add(&outcome);
    let calls = number(outcome.answered + outcome.failed);
    let used = after.iter().zip(&before);
    let costs = used.map(|(after, before)| {
        let used = after.since(before).as_nanos();
        microseconds(u64::try_from(used).unwrap_or(u64::MAX)) / calls
    });
    Ok((outcome, costs.collect()))
}

/// The sum over the pair's proxies.
fn of_proxies(pair: &Pair, costs: &[f64]) -> f64 {
    let proxies = pair.members.iter().zip(costs);
    let proxies = proxies.filter(|(member, _)| member.part == Part::Proxy);
    // Not `sum`: that of no proxies would be -0.
    proxies.fold(0.0, |sum, (_, cost)| sum + cost)
}

fn throughput(outcome: &Outcome, messages: u32, cpu_us_per_call: f64) -> Throughput {
    Throughput {
        per_second: outcome.calls_per_second() * f64::from(messages),
        proxies_cpu_us: cpu_us_per_call / f64::from(messages),
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

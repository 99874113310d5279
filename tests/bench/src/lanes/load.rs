//! The callers, each a process of its own, so that bulk costs small calls nothing on the caller's
//! side. Small calls are an open loop: so many a second, whether the mesh keeps up or not, so that
//! none waits for another's answer. Bulk is a closed loop of so many at once.

use anyhow::{Context as _, Result};
use hdrhistogram::Histogram;
use serde::{Deserialize, Serialize};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};

use super::Flow;
use crate::call::{self, CallError, Sender};
use crate::message::{self, EchoCall};
use crate::parent;
use crate::statistics::{microseconds, number};

/// Beyond what a call may take, in nanoseconds.
const LONGEST: u64 = 60_000_000_000;
/// Finer than the machine repeats itself.
const FIGURES: u8 = 3;
/// Calls before those that are measured: they open links.
const FIRST_CALLS: u32 = 20;
/// Small calls that are open at once at most: on one connection, a second's worth.
const OPEN_LIMIT: usize = 1000;

/// What to call.
#[derive(Debug, Clone, clap::Args)]
pub(crate) struct Load {
    /// The caller's sidecar.
    #[arg(long)]
    target: SocketAddr,
    /// The service.
    #[arg(long)]
    service: String,
    /// Bytes of payload.
    #[arg(long)]
    payload: u32,
    /// Whether it comes back.
    #[arg(long, default_value = "both-ways")]
    flow: Flow,
    /// So many calls a second for so many seconds.
    #[arg(long, requires = "seconds")]
    rate: Option<u32>,
    #[arg(long, default_value_t = 0)]
    seconds: u32,
    /// So many at once until standard input ends.
    #[arg(long, default_value_t = 1)]
    in_flight: u32,
}

/// What came of it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Told {
    /// Calls that were answered as they should be.
    pub(crate) answered: u64,
    /// The others.
    pub(crate) failed: u64,
    /// What the first failure said.
    pub(crate) first_failure: Option<String>,
    /// Half of the calls were faster.
    pub(crate) p50_us: f64,
    /// One of a hundred calls was slower.
    pub(crate) p99_us: f64,
    /// Payload that was answered, in MB a second each way in which it went.
    pub(crate) megabytes_per_second: f64,
}

/// Makes the calls.
pub(super) async fn run(load: &Load) -> Result<Told> {
    let path = format!("/{}/{}", load.service, load.flow.method());
    let call = EchoCall::new(load.target, message::frame(load.payload))
        .context("no target")?
        .at_path(&path)
        .context("no path")?;
    let call = Arc::new(match load.flow {
        Flow::OneWay => call.taken(),
        Flow::BothWays => call,
    });
    let mut senders = crate::load::connect(load.target, 1).await?;
    let mut sender = senders.pop().context("no connection")?;
    let mut tally = Tally::new()?;
    let began = Instant::now();
    match load.rate {
        Some(rate) => {
            for _ in 0..FIRST_CALLS {
                call::make(&mut sender, &call).await?;
            }
            let calls = rate * load.seconds;
            paced(&sender, &call, (rate, calls), &mut tally).await?;
        }
        None => until_told(&sender, &call, load.in_flight, &mut tally).await?,
    }
    let elapsed = began.elapsed();
    Ok(tally.told(load.payload, elapsed))
}

async fn paced(
    sender: &Sender,
    call: &Arc<EchoCall>,
    (rate, calls): (u32, u32),
    tally: &mut Tally,
) -> Result<()> {
    let mut ticks = interval(Duration::from_secs(1) / rate);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut open = JoinSet::new();
    for _ in 0..calls {
        ticks.tick().await;
        // Not from when it was due: this timer is late by up to a millisecond. What the call waits
        // for from here on is counted.
        let begun = Instant::now();
        let (mut sender, call) = (sender.clone(), Arc::clone(call));
        open.spawn(async move {
            let result = call::make(&mut sender, &call).await;
            (result, begun.elapsed())
        });
        while let Some(ended) = open.try_join_next() {
            tally.count(ended.context("a call ended early")?);
        }
        while open.len() >= OPEN_LIMIT {
            let ended = open.join_next().await.context("no call is open")?;
            tally.count(ended.context("a call ended early")?);
        }
    }
    while let Some(ended) = open.join_next().await {
        tally.count(ended.context("a call ended early")?);
    }
    Ok(())
}

async fn until_told(
    sender: &Sender,
    call: &Arc<EchoCall>,
    in_flight: u32,
    tally: &mut Tally,
) -> Result<()> {
    let over = Arc::new(AtomicBool::new(false));
    let mut loops = JoinSet::new();
    for _ in 0..in_flight {
        let (mut sender, call, over) = (sender.clone(), Arc::clone(call), Arc::clone(&over));
        loops.spawn(async move {
            let mut ended = Vec::new();
            while !over.load(Ordering::Relaxed) {
                let sent = Instant::now();
                let result = call::make(&mut sender, &call).await;
                ended.push((result, sent.elapsed()));
            }
            ended
        });
    }
    parent::gone()
        .await
        .context("standard input must be a pipe of the benchmark")?;
    over.store(true, Ordering::Relaxed);
    while let Some(ended) = loops.join_next().await {
        for ended in ended.context("a load loop ended early")? {
            tally.count(ended);
        }
    }
    Ok(())
}

struct Tally {
    latency: Histogram<u64>,
    failed: u64,
    first_failure: Option<String>,
}

impl Tally {
    fn new() -> Result<Self> {
        Ok(Self {
            latency: Histogram::new_with_bounds(1, LONGEST, FIGURES)?,
            failed: 0,
            first_failure: None,
        })
    }

    fn count(&mut self, (result, took): (Result<(), CallError>, Duration)) {
        match result {
            Ok(()) => {
                let took = u64::try_from(took.as_nanos()).unwrap_or(LONGEST);
                self.latency.saturating_record(took);
            }
            Err(error) => {
                self.failed += 1;
                let text = || format!("{:#}", anyhow::Error::from(error));
                self.first_failure.get_or_insert_with(text);
            }
        }
    }

    fn told(self, payload: u32, elapsed: Duration) -> Told {
        let answered = self.latency.len();
        let bytes = number(answered) * f64::from(payload);
        Told {
            answered,
            failed: self.failed,
            first_failure: self.first_failure,
            p50_us: microseconds(self.latency.value_at_quantile(0.50)),
            p99_us: microseconds(self.latency.value_at_quantile(0.99)),
            megabytes_per_second: bytes / 1e6 / elapsed.as_secs_f64(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn paced_calls_are_all_made_and_told() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let target = listener.local_addr().unwrap();
        tokio::spawn(super::super::app::serve(listener));
        let load = Load {
            target,
            service: "sidelane.bench.lanes.v1.Beat".to_owned(),
            payload: 128,
            flow: Flow::BothWays,
            rate: Some(500),
            seconds: 1,
            in_flight: 1,
        };
        let told = run(&load).await.unwrap();
        assert_eq!((told.answered, told.failed), (500, 0), "{told:?}");
        assert!(told.p99_us >= told.p50_us && told.p50_us > 0.0);
        let taken = Load {
            flow: Flow::OneWay,
            ..load.clone()
        };
        let told = run(&taken).await.unwrap();
        assert_eq!((told.answered, told.failed), (500, 0), "{told:?}");
        let wrong = Load {
            service: "grpc.health.v1.Health".to_owned(),
            ..load
        };
        let error = run(&wrong).await.unwrap_err();
        assert!(error.to_string().contains("grpc-status 12"), "{error}");
    }
}

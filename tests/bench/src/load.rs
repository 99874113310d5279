//! The load generator: a closed loop of so many calls in flight over so many connections, until
//! so many calls have been made. Each answer is verified, each failure counted; a way on which
//! nothing comes back ends the benchmark rather than hang it.

use anyhow::{Context as _, Result, bail};
use hdrhistogram::Histogram;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use tokio::task::JoinSet;

use crate::call::{self, CallError, Sender};
use crate::http2;
use crate::message::EchoCall;
use crate::statistics::{self, Latency};

/// Longer than any answer takes on loopback; after so long without a single one, none will come.
const STALLED: Duration = Duration::from_secs(10);

/// A minute in nanoseconds: beyond [`STALLED`], so no measured time is cut off.
const LONGEST: u64 = 60_000_000_000;

/// Three significant figures: finer than the machine repeats itself.
const FIGURES: u8 = 3;

/// How much to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Load {
    /// Calls at once, over all connections.
    pub(crate) in_flight: u32,
    /// Calls in all.
    pub(crate) calls: u64,
}

/// What came of it.
#[derive(Clone, Debug)]
pub(crate) struct Outcome {
    /// Calls that were answered as they should be.
    pub(crate) answered: u64,
    /// The others.
    pub(crate) failed: u64,
    /// What the first failure said.
    pub(crate) first_failure: Option<String>,
    /// From the first call to the last answer.
    pub(crate) elapsed: Duration,
    /// Of the answered calls.
    pub(crate) latency: Latency,
}

impl Outcome {
    /// Answered calls a second.
    pub(crate) fn calls_per_second(&self) -> f64 {
        statistics::number(self.answered) / self.elapsed.as_secs_f64()
    }
}

/// Opens `count` connections to `target`.
pub(crate) async fn connect(target: SocketAddr, count: u32) -> Result<Vec<Sender>> {
    let mut senders = Vec::new();
    for _ in 0..count {
        let sender = http2::connect(target).await;
        senders.push(sender.with_context(|| format!("cannot connect to {target}"))?);
    }
    Ok(senders)
}

/// Makes the calls, spread evenly over the connections.
pub(crate) async fn run(senders: &[Sender], call: &Arc<EchoCall>, load: Load) -> Result<Outcome> {
    let shared = Shared::new(load.calls)?;
    let start = Instant::now();
    let mut loops = JoinSet::new();
    for (sender, _) in senders.iter().cycle().zip(0..load.in_flight) {
        loops.spawn(call_until_done(
            sender.clone(),
            call.clone(),
            shared.clone(),
        ));
    }
    join_unless_stalled(&mut loops, &shared, load.calls).await?;
    shared.outcome(load.calls, start.elapsed())
}

/// What the calls of one run have in common.
pub(crate) struct Shared {
    left: AtomicU64,
    // All loops run on one thread: the lock is never contended.
    tally: Mutex<Tally>,
}

impl Shared {
    /// Whether there is another call to make; counts it.
    pub(crate) fn take(&self) -> bool {
        let less = |left: u64| left.checked_sub(1);
        self.left
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, less)
            .is_ok()
    }

    /// For this many calls.
    pub(crate) fn new(calls: u64) -> Result<Arc<Self>> {
        Ok(Arc::new(Self {
            left: AtomicU64::new(calls),
            tally: Mutex::new(Tally::new().context("cannot make a histogram")?),
        }))
    }

    /// Counts one call.
    pub(crate) fn count(&self, result: Result<(), CallError>, took: Duration) {
        let mut tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.count(result, took);
    }

    /// What came of it; an error if nothing did.
    pub(crate) fn outcome(&self, calls: u64, elapsed: Duration) -> Result<Outcome> {
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        let (answered, failed) = (tally.latency.len(), tally.failed);
        if answered == 0 {
            let reason = tally.first_failure.as_deref();
            let reason = reason.unwrap_or("no connection, or no calls");
            bail!("not one of {calls} calls was answered; the first said: {reason}");
        }
        Ok(Outcome {
            answered,
            failed,
            first_failure: tally.first_failure.clone(),
            elapsed,
            latency: Latency::of(&tally.latency),
        })
    }

    fn done(&self) -> u64 {
        let tally = self.tally.lock().unwrap_or_else(PoisonError::into_inner);
        tally.latency.len() + tally.failed
    }
}

struct Tally {
    latency: Histogram<u64>,
    failed: u64,
    first_failure: Option<String>,
}

impl Tally {
    fn new() -> Result<Self, hdrhistogram::CreationError> {
        let latency = Histogram::new_with_bounds(1, LONGEST, FIGURES)?;
        Ok(Self {
            latency,
            failed: 0,
            first_failure: None,
        })
    }

    fn count(&mut self, result: Result<(), CallError>, took: Duration) {
        match result {
            Ok(()) => {
                self.latency
                    .saturating_record(u64::try_from(took.as_nanos()).unwrap_or(LONGEST));
            }
            Err(error) => {
                self.failed += 1;
                self.first_failure
                    .get_or_insert_with(|| format!("{:#}", anyhow::Error::from(error)));
            }
        }
    }
}

async fn call_until_done(mut sender: Sender, call: Arc<EchoCall>, shared: Arc<Shared>) {
    while shared.take() {
        let sent = Instant::now();
        let result = call::make(&mut sender, &call).await;
        let took = sent.elapsed();
        shared.count(result, took);
    }
}

/// One timer for all calls: one for each would be a cost of the load generator's own.
pub(crate) async fn join_unless_stalled(
    loops: &mut JoinSet<()>,
    shared: &Shared,
    calls: u64,
) -> Result<()> {
    let mut done = 0;
    loop {
        let all_joined = async {
            while let Some(ended) = loops.join_next().await {
                ended.context("a load loop ended early")?;
            }
            Ok(())
        };
        if let Ok(joined) = tokio::time::timeout(STALLED, all_joined).await {
            return joined;
        }
        let now = shared.done();
        if now == done {
            bail!("{now} of {calls} calls ended, then none for {STALLED:?}");
        }
        done = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proxy::{self, Ends};
    use crate::tls::Certificates;
    use crate::{echo, message};
    use tokio::net::TcpListener;

    async fn listener() -> (TcpListener, SocketAddr) {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        (listener, address)
    }

    async fn run_against(target: SocketAddr, payload: u32, load: Load) -> Result<Outcome> {
        let call = Arc::new(EchoCall::new(target, message::frame(payload)).unwrap());
        let mut senders = connect(target, 2).await?;
        call::compare(&mut senders[0], &call).await?;
        run(&senders, &call, load).await
    }

    #[tokio::test]
    async fn every_call_through_two_bare_proxies_is_answered() {
        let (callee, callee_address) = listener().await;
        let (caller, caller_address) = listener().await;
        let (server, server_address) = listener().await;
        tokio::spawn(echo::serve(server));
        tokio::spawn(proxy::serve(callee, server_address, Ends::default()));
        tokio::spawn(proxy::serve(caller, callee_address, Ends::default()));
        for payload in [0, 128, 100_000] {
            let load = Load {
                in_flight: 16,
                calls: 200,
            };
            let outcome = run_against(caller_address, payload, load).await.unwrap();
            assert_eq!((outcome.answered, outcome.failed), (200, 0), "{outcome:?}");
            assert!(outcome.latency.p50_us > 0.0 && outcome.calls_per_second() > 0.0);
        }
    }

    #[tokio::test]
    async fn two_bare_proxies_in_mtls_carry_every_call_and_one_in_the_clear_none() {
        let folder = tempfile::tempdir().unwrap();
        Certificates::make(folder.path()).unwrap();
        let accepts = Ends::new(Some(folder.path()), None).unwrap();
        let dials = Ends::new(None, Some(folder.path())).unwrap();
        let (callee, callee_address) = listener().await;
        let (caller, caller_address) = listener().await;
        let (clear, clear_address) = listener().await;
        let (server, server_address) = listener().await;
        tokio::spawn(echo::serve(server));
        tokio::spawn(proxy::serve(callee, server_address, accepts));
        tokio::spawn(proxy::serve(caller, callee_address, dials));
        tokio::spawn(proxy::serve(clear, callee_address, Ends::default()));
        let load = Load {
            in_flight: 8,
            calls: 100,
        };
        for payload in [128, 100_000] {
            let outcome = run_against(caller_address, payload, load).await.unwrap();
            assert_eq!((outcome.answered, outcome.failed), (100, 0), "{outcome:?}");
        }
        let refused = run_against(clear_address, 128, load).await;
        assert!(refused.is_err(), "{refused:?}");
    }

    #[tokio::test]
    async fn a_method_that_is_not_the_echo_is_refused() {
        let (server, address) = listener().await;
        tokio::spawn(echo::serve(server));
        let mut sender = connect(address, 1).await.unwrap().remove(0);
        let call = EchoCall::new(address, message::frame(1)).unwrap();
        let mut request = call.request();
        *request.uri_mut() = format!("http://{address}/grpc.health.v1.Health/Check")
            .parse()
            .unwrap();
        let answer = sender.send_request(request).await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], "12");
    }

    #[tokio::test]
    async fn a_way_that_leads_nowhere_is_an_error_with_its_reason() {
        let (dead, dead_address) = listener().await;
        drop(dead);
        let (proxy, address) = listener().await;
        tokio::spawn(proxy::serve(proxy, dead_address, Ends::default()));
        let error = run_against(
            address,
            1,
            Load {
                in_flight: 4,
                calls: 8,
            },
        )
        .await
        .unwrap_err();
        assert!(
            error.to_string().contains("the call broke off"),
            "{error:#}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn silence_ends_the_run() {
        // Connects, and never answers: the listener is held but nobody accepts from it.
        let (_held, address) = listener().await;
        let call = Arc::new(EchoCall::new(address, message::frame(1)).unwrap());
        let senders = connect(address, 1).await.unwrap();
        let error = run(
            &senders,
            &call,
            Load {
                in_flight: 2,
                calls: 9,
            },
        )
        .await
        .unwrap_err();
        assert_eq!(error.to_string(), "0 of 9 calls ended, then none for 10s");
    }
}

//! Counts what became of every call. A call is recorded exactly once, when it ends, in the phase
//! in which it ends; one that never ends is found in the report as unfinished.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hdrhistogram::Histogram;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::check::{Answered, Fault};
use crate::demo::message::{Counted, Failed, Kind, News, Phase, Progress, Report, now};

/// The longest time that a histogram can tell apart, in microseconds: a minute, as long as the
/// whole demo may take.
const LONGEST: u64 = 60_000_000;
/// Digits of a time that are kept.
const DIGITS: u8 = 3;

/// Counts calls.
pub(super) struct Recorder {
    counts: Mutex<Counts>,
    open: watch::Sender<u64>,
    news: mpsc::Sender<News>,
}

#[derive(Default)]
struct Counts {
    phases: Vec<Recorded>,
    held_back: u64,
}

/// One phase as it is counted.
struct Recorded {
    name: String,
    kinds: BTreeMap<Kind, Tally>,
    nodes: BTreeMap<String, BTreeMap<String, u64>>,
}

#[derive(Default)]
struct Tally {
    calls: u64,
    failed: u64,
    bytes: u64,
    times: Option<Histogram<u64>>,
}

/// A call that has begun.
pub(super) struct Begun {
    recorder: Arc<Recorder>,
    kind: Kind,
    began: u64,
}

impl Recorder {
    pub(super) fn new(news: mpsc::Sender<News>) -> Self {
        Self {
            counts: Mutex::new(Counts::default()),
            open: watch::Sender::new(0),
            news,
        }
    }

    /// Calls that end from now on belong to a new phase.
    pub(super) fn begin(&self, name: String) {
        self.counts().phases.push(Recorded::new(name));
    }

    /// A call begins.
    pub(super) fn begun(self: &Arc<Self>, kind: Kind) -> Begun {
        self.open.send_modify(|open| *open += 1);
        Begun {
            recorder: Arc::clone(self),
            kind,
            began: now(),
        }
    }

    /// A call was not made.
    pub(super) fn held_back(&self) {
        self.counts().held_back += 1;
    }

    pub(super) fn progress(&self) -> Progress {
        let counts = self.counts();
        let through_mesh = || {
            let kinds = counts.phases.iter().flat_map(|phase| &phase.kinds);
            kinds
                .filter(|(kind, _)| **kind != Kind::Direct)
                .map(|(_, tally)| tally)
        };
        let newest = counts.phases.last();
        Progress {
            phase: newest.map(|phase| phase.name.clone()).unwrap_or_default(),
            calls: through_mesh().map(|tally| tally.calls).sum(),
            failed: through_mesh().map(|tally| tally.failed).sum(),
            nodes: newest.map(Recorded::by_node).unwrap_or_default(),
        }
    }

    /// The report, when no call is open any more, or after `limit`.
    pub(super) async fn report_when_idle(&self, limit: Duration) -> Report {
        let mut open = self.open.subscribe();
        // Calls that are still open after the wait are in the report.
        let _ = timeout(limit, open.wait_for(|open| *open == 0)).await;
        self.report()
    }

    /// The report as it would be now.
    pub(super) fn report(&self) -> Report {
        let counts = self.counts();
        Report {
            phases: counts.phases.iter().map(Recorded::report).collect(),
            unfinished: *self.open.borrow(),
            held_back: counts.held_back,
        }
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        // Counting cannot panic half-way, so what a poisoned lock guards is whole.
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Begun {
    /// The call has ended, after `took`.
    pub(super) fn ended(self, outcome: Result<Answered, Fault>, took: Duration) {
        let Self {
            recorder,
            kind,
            began,
        } = self;
        let ended = now();
        let failed = {
            let mut counts = recorder.counts();
            let Some(phase) = counts.phases.last_mut() else {
                return; // Calls are made in phases only.
            };
            phase
                .count(kind, outcome, took)
                .map(|fault| (fault, phase.name.clone()))
        };
        if let Some((fault, phase)) = failed {
            // Where the reader is slow the failure is in the report's counts all the same.
            let _ = recorder.news.try_send(News::Failed(Failed {
                kind,
                phase,
                began,
                ended,
                node: fault.node,
                status: fault.status,
                reason: fault.reason,
                processed: fault.processed,
                message: fault.message,
            }));
        }
        recorder.open.send_modify(|open| *open -= 1);
    }
}

impl Recorded {
    fn new(name: String) -> Self {
        Self {
            name,
            kinds: BTreeMap::new(),
            nodes: BTreeMap::new(),
        }
    }

    /// Counts a call, and gives back what was wrong with it.
    fn count(
        &mut self,
        kind: Kind,
        outcome: Result<Answered, Fault>,
        took: Duration,
    ) -> Option<Fault> {
        let tally = self.kinds.entry(kind).or_default();
        tally.calls += 1;
        let answered = match outcome {
            Ok(answered) => answered,
            Err(fault) => {
                tally.failed += 1;
                return Some(fault);
            }
        };
        tally.bytes += answered.bytes;
        tally.record(took);
        if kind != Kind::Direct {
            let lanes = self.nodes.entry(answered.node).or_default();
            *lanes.entry(answered.lane).or_default() += 1;
        }
        None
    }

    fn by_node(&self) -> BTreeMap<String, u64> {
        let nodes = self.nodes.iter();
        nodes
            .map(|(node, lanes)| (node.clone(), lanes.values().sum()))
            .collect()
    }

    fn report(&self) -> Phase {
        Phase {
            name: self.name.clone(),
            kinds: self
                .kinds
                .iter()
                .map(|(kind, tally)| tally.report(*kind))
                .collect(),
            nodes: self.nodes.clone(),
        }
    }
}

impl Tally {
    fn record(&mut self, took: Duration) {
        if self.times.is_none() {
            self.times = Histogram::new_with_bounds(1, LONGEST, DIGITS).ok();
        }
        if let Some(times) = &mut self.times {
            times.saturating_record(u64::try_from(took.as_micros()).unwrap_or(u64::MAX));
        }
    }

    fn report(&self, kind: Kind) -> Counted {
        let at = |quantile| {
            let times = self.times.as_ref();
            times.map_or(0, |times| times.value_at_quantile(quantile))
        };
        Counted {
            kind,
            calls: self.calls,
            failed: self.failed,
            p50: at(0.5),
            p99: at(0.99),
            bytes: self.bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answered(node: &str, lane: &str) -> Result<Answered, Fault> {
        Ok(Answered {
            node: node.to_owned(),
            lane: lane.to_owned(),
            bytes: 10,
        })
    }

    fn fault() -> Result<Answered, Fault> {
        Err(Fault {
            node: None,
            status: "Unavailable".to_owned(),
            reason: Some("PEER_RESET".to_owned()),
            processed: Some("maybe".to_owned()),
            message: "gone".to_owned(),
        })
    }

    #[tokio::test]
    async fn every_call_is_counted_once_in_the_phase_in_which_it_ends() {
        let (news, mut written) = mpsc::channel(8);
        let recorder = Arc::new(Recorder::new(news));
        recorder.begin("calm".to_owned());
        let early = recorder.begun(Kind::Unary);
        let late = recorder.begun(Kind::Unary);
        let direct = recorder.begun(Kind::Direct);
        early.ended(answered("orders-1", "general"), Duration::from_millis(2));
        direct.ended(answered("orders-1", ""), Duration::from_millis(1));
        recorder.begin("storm".to_owned());
        late.ended(fault(), Duration::from_millis(3));
        recorder.held_back();

        let progress = recorder.progress();
        assert_eq!(
            (progress.phase.as_str(), progress.calls, progress.failed),
            ("storm", 2, 1)
        );
        let report = recorder.report_when_idle(Duration::from_secs(60)).await;
        assert_eq!((report.unfinished, report.held_back), (0, 1));
        let [calm, storm] = report.phases.as_slice() else {
            panic!("two phases")
        };
        let kinds: Vec<_> = calm
            .kinds
            .iter()
            .map(|counted| (counted.kind, counted.calls))
            .collect();
        assert_eq!(kinds, [(Kind::Direct, 1), (Kind::Unary, 1)]);
        assert_eq!(calm.nodes["orders-1"]["general"], 1);
        assert!((1_990..2_010).contains(&calm.kinds[1].p50));
        assert_eq!((storm.kinds[0].calls, storm.kinds[0].failed), (1, 1));

        let Some(News::Failed(failed)) = written.recv().await else {
            panic!("a failure")
        };
        assert_eq!(
            (failed.phase.as_str(), failed.status.as_str()),
            ("storm", "Unavailable")
        );
        assert!(failed.began <= failed.ended);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_never_ends_is_in_the_report() {
        let (news, _written) = mpsc::channel(8);
        let recorder = Arc::new(Recorder::new(news));
        recorder.begin("calm".to_owned());
        let _hanging = recorder.begun(Kind::Bulk);
        let report = recorder.report_when_idle(Duration::from_secs(60)).await;
        assert_eq!(report.unfinished, 1);
    }
}

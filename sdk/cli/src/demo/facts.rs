//! What a demo has shown, and whether that is what a mesh owes. Pure: it is made from counts.

use std::collections::BTreeMap;
use std::time::Duration;

use super::message::{Counted, Failed, Kind, Phase, Report};
use super::traces::Hop;
use super::verdict::{Killed, Verdict};

/// The phase in which calls are timed.
pub(super) const CALM: &str = "calm";

/// The lanes that must have carried calls.
const LANES: [&str; 3] = ["general", "gossip", "bifrost_data"];
/// The nodes that must have answered while all was calm.
const ANSWERING: [&str; 5] = [
    "orders-1",
    "orders-2",
    "orders-3",
    "inventory-1",
    "inventory-2",
];

/// One step of the script.
pub(super) struct Step {
    /// For people.
    pub(super) what: String,
    /// The phase that it was.
    pub(super) phase: String,
    /// How long it took.
    pub(super) took: Duration,
}

/// A step with what was counted in it.
pub(super) struct Outcome {
    pub(super) what: String,
    pub(super) took: Duration,
    /// Calls through the mesh that ended.
    pub(super) calls: u64,
    /// Those of them that failed.
    pub(super) failed: u64,
    /// Those of them that were open on the node that was killed.
    pub(super) in_flight: u64,
    /// 99 of 100 unary calls took at most so many microseconds.
    pub(super) p99: u64,
}

impl Outcome {
    /// Failures that nothing explains.
    pub(super) fn unexpected(&self) -> u64 {
        self.failed.saturating_sub(self.in_flight)
    }
}

/// What a demo has shown.
pub(super) struct Facts {
    /// While all was calm.
    pub(super) calm: Phase,
    /// Each step, in order.
    pub(super) outcomes: Vec<Outcome>,
    /// Failures, told apart.
    pub(super) verdict: Verdict,
    /// The node that was killed.
    pub(super) killed: Killed,
    /// Calls that were not made, because too many were open.
    pub(super) held_back: u64,
    /// What did not hold, a sentence each.
    pub(super) complaints: Vec<String>,
    /// One call as the sidecars recorded it; empty where another collector has them.
    pub(super) trace: Vec<Hop>,
}

impl Facts {
    /// The same, with one call as the sidecars recorded it.
    pub(super) fn with_trace(self, trace: Vec<Hop>) -> Self {
        Self { trace, ..self }
    }

    /// Weighs what was counted.
    pub(super) fn new(
        report: &Report,
        failed: &[Failed],
        killed: Killed,
        steps: Vec<Step>,
    ) -> Self {
        let verdict = Verdict::of(failed, Some(&killed));
        let outcomes: Vec<_> = steps
            .into_iter()
            .map(|step| outcome(step, report, &verdict))
            .collect();
        let calm = calm(report);
        let mut complaints = Vec::new();
        complain_of_failures(&outcomes, &calm, &mut complaints);
        complain_of_silence(&outcomes, &calm, &mut complaints);
        if report.unfinished > 0 {
            let unfinished = report.unfinished;
            complaints.push(format!("{unfinished} calls were begun and never ended"));
        }
        Self {
            calm,
            outcomes,
            verdict,
            killed,
            held_back: report.held_back,
            complaints,
            trace: Vec::new(),
        }
    }

    /// Is it what a mesh owes?
    pub(super) fn held(&self) -> bool {
        self.complaints.is_empty()
    }

    /// Calls through the mesh in all steps: all, and failed.
    pub(super) fn totals(&self) -> (u64, u64) {
        let calls = self.outcomes.iter().map(|outcome| outcome.calls).sum();
        let failed = self.outcomes.iter().map(|outcome| outcome.failed).sum();
        (calls, failed)
    }
}

/// What was counted while all was calm.
pub(super) fn calm(report: &Report) -> Phase {
    let calm = report.phases.iter().find(|phase| phase.name == CALM);
    calm.cloned().unwrap_or_default()
}

fn outcome(step: Step, report: &Report, verdict: &Verdict) -> Outcome {
    let phase = report.phases.iter().find(|phase| phase.name == step.phase);
    let through_mesh = || {
        let kinds = phase.map_or(&[][..], |phase| phase.kinds.as_slice());
        kinds.iter().filter(|counted| counted.kind != Kind::Direct)
    };
    let unary = through_mesh().find(|counted| counted.kind == Kind::Unary);
    let in_flight = verdict
        .in_flight
        .iter()
        .filter(|failed| failed.phase == step.phase);
    Outcome {
        calls: through_mesh().map(|counted| counted.calls).sum(),
        failed: through_mesh().map(|counted| counted.failed).sum(),
        in_flight: in_flight.map(|_| 1).sum(),
        p99: unary.map_or(0, |counted| counted.p99),
        what: step.what,
        took: step.took,
    }
}

fn complain_of_failures(outcomes: &[Outcome], calm: &Phase, complaints: &mut Vec<String>) {
    for outcome in outcomes.iter().filter(|outcome| outcome.unexpected() > 0) {
        let (number, what) = (outcome.unexpected(), &outcome.what);
        complaints.push(format!(
            "{number} calls failed that should not have: {what}"
        ));
    }
    let direct = |counted: &&Counted| counted.kind == Kind::Direct && counted.failed > 0;
    if let Some(direct) = calm.kinds.iter().find(direct) {
        let failed = direct.failed;
        complaints.push(format!(
            "{failed} calls past the mesh failed, so there is nothing to compare with"
        ));
    }
}

/// A demo in which nothing was called has shown nothing.
fn complain_of_silence(outcomes: &[Outcome], calm: &Phase, complaints: &mut Vec<String>) {
    for outcome in outcomes {
        if outcome.calls == outcome.failed {
            complaints.push(format!("no call was answered: {}", outcome.what));
        }
    }
    for kind in Kind::ALL {
        let counted = calm.kinds.iter().find(|counted| counted.kind == kind);
        if counted.is_none_or(|counted| counted.calls == counted.failed) {
            let label = kind.label();
            complaints.push(format!(
                "no call of this kind was answered in calm: {label}"
            ));
        }
    }
    for node in ANSWERING {
        if !calm.nodes.contains_key(node) {
            complaints.push(format!("{node} answered no call in calm"));
        }
    }
    let lanes = by_lane(calm);
    for lane in LANES {
        if !lanes.contains_key(lane) {
            complaints.push(format!("no call travelled in lane {lane} in calm"));
        }
    }
}

/// Answered calls by lane.
pub(super) fn by_lane(phase: &Phase) -> BTreeMap<&str, u64> {
    let mut lanes = BTreeMap::new();
    for (lane, calls) in phase.nodes.values().flatten() {
        *lanes.entry(lane.as_str()).or_default() += calls;
    }
    lanes
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// A demo as it should be: one call was open on the node that was killed.
    pub(in crate::demo) fn good() -> Facts {
        Facts::new(&report(), &[in_flight()], killed(), steps())
    }

    fn killed() -> Killed {
        Killed {
            node: "orders-2".to_owned(),
            at: 1_000,
            gone: 2_000,
        }
    }

    fn in_flight() -> Failed {
        Failed {
            kind: Kind::Unary,
            phase: "node killed".to_owned(),
            began: 900,
            ended: 1_500,
            node: None,
            status: "Unavailable".to_owned(),
            reason: Some("PEER_RESET".to_owned()),
            processed: Some("maybe".to_owned()),
            message: "the connection to orders-2 broke".to_owned(),
        }
    }

    fn steps() -> Vec<Step> {
        let step = |what: &str, phase: &str| Step {
            what: what.to_owned(),
            phase: phase.to_owned(),
            took: Duration::from_secs(3),
        };
        vec![step("calm", CALM), step("orders-2 killed", "node killed")]
    }

    fn counted(kind: Kind, failed: u64) -> Counted {
        Counted {
            kind,
            calls: 10,
            failed,
            p50: 500,
            p99: 1_500,
            bytes: 1 << 20,
        }
    }

    fn report() -> Report {
        let lanes = |names: &[&str]| -> BTreeMap<String, u64> {
            names.iter().map(|lane| ((*lane).to_owned(), 5)).collect()
        };
        let nodes = ANSWERING.map(|node| {
            let orders = node.starts_with("orders");
            let names = if orders { &LANES[..] } else { &LANES[..1] };
            (node.to_owned(), lanes(names))
        });
        Report {
            phases: vec![
                Phase {
                    name: CALM.to_owned(),
                    kinds: Kind::ALL.map(|kind| counted(kind, 0)).into(),
                    nodes: nodes.into(),
                },
                Phase {
                    name: "node killed".to_owned(),
                    kinds: vec![counted(Kind::Unary, 1)],
                    nodes: BTreeMap::new(),
                },
            ],
            unfinished: 0,
            held_back: 0,
        }
    }

    #[test]
    fn a_good_run_holds() {
        let facts = good();
        assert_eq!(facts.complaints, Vec::<String>::new());
        assert!(facts.held());
        assert_eq!(facts.totals(), (70, 1));
        assert_eq!(
            by_lane(&facts.calm),
            BTreeMap::from([("bifrost_data", 15), ("general", 25), ("gossip", 15)])
        );
    }

    #[test]
    fn a_failure_that_nothing_explains_is_a_complaint_even_without_its_words() {
        let facts = Facts::new(&report(), &[], killed(), steps());
        assert_eq!(
            facts.complaints,
            ["1 calls failed that should not have: orders-2 killed"]
        );
    }

    #[test]
    fn what_hangs_or_never_answers_is_a_complaint() {
        let mut silent = report();
        silent.unfinished = 2;
        silent.phases[0].nodes.remove("orders-3");
        silent.phases[0]
            .kinds
            .retain(|counted| counted.kind != Kind::Bulk);
        for lanes in silent.phases[0].nodes.values_mut() {
            lanes.remove("gossip");
        }
        let facts = Facts::new(&silent, &[in_flight()], killed(), steps());
        assert_eq!(
            facts.complaints,
            [
                "no call of this kind was answered in calm: bulk stream",
                "orders-3 answered no call in calm",
                "no call travelled in lane gossip in calm",
                "2 calls were begun and never ended",
            ]
        );
        let nothing = Facts::new(&Report::default(), &[], killed(), steps());
        assert!(
            nothing
                .complaints
                .contains(&"no call was answered: calm".to_owned())
        );
    }

    #[test]
    fn a_broken_comparison_is_a_complaint() {
        let mut broken = report();
        broken.phases[0].kinds[0].failed = 3;
        let facts = Facts::new(&broken, &[in_flight()], killed(), steps());
        assert_eq!(
            facts.complaints,
            ["3 calls past the mesh failed, so there is nothing to compare with"]
        );
    }
}

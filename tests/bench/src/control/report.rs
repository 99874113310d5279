//! What was measured of each mesh, what is aimed at, and what of that was missed. Field names carry
//! their units and are what other programs rely on.

use std::fmt::Write as _;

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use serde::Serialize;

use super::watch::{Pushed, Reached};
use crate::calls::report::Machine;

/// What control's size is held to (`measure` says how each is measured).
pub(crate) const AIMS: Aims = Aims {
    p99_ms: 100.0,
    session_kib: 40.0,
    resync_seconds: 5.0,
    growth: 2.0,
};

/// Bounds of what is measured.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Aims {
    /// A change reaches its subscribers within this time at p99, in milliseconds.
    pub(crate) p99_ms: f64,
    /// What a session may cost, in KiB of resident memory.
    pub(crate) session_kib: f64,
    /// After a crash, all hold everything again so long after control was started again.
    pub(crate) resync_seconds: f64,
    /// In the largest mesh a change to as many subscribers may cost so many times the processor
    /// time that it costs in the smallest.
    pub(crate) growth: f64,
}

/// One run.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// Where it ran.
    pub(crate) machine: Machine,
    /// What is aimed at.
    pub(crate) aims: Aims,
    /// Each mesh. The first is the one that aims are held against.
    pub(crate) meshes: Vec<Mesh>,
    /// What was missed, in words; empty where all is well.
    pub(crate) missed: Vec<String>,
}

/// One mesh.
#[derive(Debug, Serialize)]
pub(crate) struct Mesh {
    /// Sidecars that offer and call.
    pub(crate) sidecars: usize,
    /// Services.
    pub(crate) services: usize,
    /// Endpoints.
    pub(crate) endpoints: usize,
    /// From the first connection until each held everything, all coming at once, in seconds.
    pub(crate) join_seconds: f64,
    /// What was pushed meanwhile.
    pub(crate) join_pushed: Pushed,
    /// Control's resident memory before anybody came, in KiB.
    pub(crate) empty_kib: u64,
    /// And with everybody.
    pub(crate) full_kib: u64,
    /// What each sidecar has added: its session, its node and its endpoints.
    pub(crate) sidecar_kib: f64,
    /// What each further session has added that only listens, to as much.
    pub(crate) session_kib: f64,
    /// What each sidecar costs after all the changes below.
    pub(crate) busy_sidecar_kib: f64,
    /// Processor time of control while nothing changes, as a share of one processor.
    pub(crate) idle_processors: f64,
    /// Changes of weight, health and presence, one after the other.
    pub(crate) paced: Reached,
    /// Changes of weight to a few subscribers each.
    pub(crate) few: Cost,
    /// Changes of weight to all sidecars each.
    pub(crate) all: Cost,
    /// A change by every sidecar at once.
    pub(crate) burst: Reached,
    /// What was pushed for it.
    pub(crate) burst_pushed: Pushed,
    /// After a SIGKILL.
    pub(crate) restart: Restart,
}

/// What changes of one kind cost.
#[derive(Debug, Serialize)]
pub(crate) struct Cost {
    /// How they arrived.
    pub(crate) reached: Reached,
    /// Processor time of control for each, in microseconds, without what it uses when idle.
    pub(crate) cpu_us_per_change: f64,
    /// The same for each subscriber of each.
    pub(crate) cpu_us_per_subscriber: f64,
}

/// How a mesh came back after control was killed and started again.
#[derive(Debug, Serialize)]
pub(crate) struct Restart {
    /// From its start until it listened.
    pub(crate) listening_seconds: f64,
    /// From its start until every sidecar held everything, all of it healthy.
    pub(crate) resync_seconds: f64,
    /// What was pushed meanwhile.
    pub(crate) pushed: Pushed,
}

impl Report {
    pub(super) fn new(meshes: Vec<Mesh>) -> Self {
        let missed = missed(&meshes, &AIMS);
        Self {
            machine: Machine::here(),
            aims: AIMS,
            meshes,
            missed,
        }
    }

    /// For people.
    pub(super) fn render(&self) -> String {
        let mut header = vec![String::new()];
        header.extend(
            self.meshes
                .iter()
                .map(|m| format!("{} sidecars", m.sidecars)),
        );
        let mut table = Table::new();
        table.load_preset(ASCII_MARKDOWN).set_header(header);
        for (name, figure) in ROWS {
            let mut row = vec![(*name).to_owned()];
            row.extend(self.meshes.iter().map(figure));
            table.add_row(row);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = format!("{table}\n");
        for missed in &self.missed {
            let _ = writeln!(text, "\nMissed: {missed}");
        }
        if !self.machine.optimised {
            text.push_str("\nBuilt without optimisation: these figures say nothing.\n");
        }
        text
    }
}

type Row = (&'static str, fn(&Mesh) -> String);

const ROWS: &[Row] = &[
    ("services / endpoints", |m| {
        format!("{} / {}", m.services, m.endpoints)
    }),
    ("all at once hold everything, s", |m| {
        format!("{:.2}", m.join_seconds)
    }),
    ("KiB a session that listens", |m| {
        format!("{:.1}", m.session_kib)
    }),
    ("KiB a sidecar with its endpoints", |m| {
        format!("{:.1}", m.sidecar_kib)
    }),
    ("and after all changes", |m| {
        format!("{:.1}", m.busy_sidecar_kib)
    }),
    ("CPU % when idle", |m| {
        format!("{:.1}", m.idle_processors * 100.0)
    }),
    ("change -> subscribers, p50 / p99 / max ms", |m| {
        times(&m.paced)
    }),
    ("a change to few: subscribers", |m| subscribers(&m.few)),
    ("CPU us a change", |m| {
        format!("{:.0}", m.few.cpu_us_per_change)
    }),
    ("a change to all: subscribers", |m| subscribers(&m.all)),
    ("CPU us a change ", |m| {
        format!("{:.0}", m.all.cpu_us_per_change)
    }),
    ("CPU us a subscriber of it", |m| {
        format!("{:.1}", m.all.cpu_us_per_subscriber)
    }),
    ("p50 / p99 / max ms", |m| times(&m.all.reached)),
    ("everybody at once, p50 / p99 / max ms", |m| times(&m.burst)),
    ("updates for that / changes seen", |m| {
        format!("{} / {}", m.burst_pushed.updates, m.burst.seen)
    }),
    ("SIGKILL: listens again after s", |m| {
        format!("{:.2}", m.restart.listening_seconds)
    }),
    ("all hold everything after s", |m| {
        format!("{:.2}", m.restart.resync_seconds)
    }),
    ("went on from their version / told all", |m| {
        format!("{} / {}", m.restart.pushed.resumed, m.restart.pushed.whole)
    }),
    ("updates / MiB for that", |m| {
        let mebibytes = crate::statistics::number(m.restart.pushed.bytes) / f64::from(1 << 20);
        format!("{} / {mebibytes:.1}", m.restart.pushed.updates)
    }),
];

fn times(reached: &Reached) -> String {
    format!(
        "{:.1} / {:.1} / {:.1}",
        reached.p50_ms, reached.p99_ms, reached.max_ms
    )
}

fn subscribers(cost: &Cost) -> String {
    format!("{}", cost.reached.expected / cost.reached.changes.max(1))
}

/// What is not as aimed at. Latency, memory and the restart are those of the first mesh; what a
/// change costs is compared between the smallest and the largest.
fn missed(meshes: &[Mesh], aims: &Aims) -> Vec<String> {
    let mut missed = Vec::new();
    for mesh in meshes {
        for (what, reached) in [
            ("paced changes", &mesh.paced),
            ("changes to few", &mesh.few.reached),
            ("changes to all", &mesh.all.reached),
            ("changes at once", &mesh.burst),
        ] {
            if reached.seen != reached.expected {
                missed.push(format!(
                    "{} sidecars, {what}: {} of {} subscribers saw them",
                    mesh.sidecars, reached.seen, reached.expected
                ));
            }
        }
    }
    let Some(first) = meshes.first() else {
        return missed;
    };
    for (what, figure, aim) in [
        (
            "change to subscribers at p99, ms",
            first.paced.p99_ms,
            aims.p99_ms,
        ),
        ("KiB a session", first.session_kib, aims.session_kib),
        (
            "seconds to sync again after a crash",
            first.restart.resync_seconds,
            aims.resync_seconds,
        ),
    ] {
        if figure > aim {
            missed.push(format!("{what}: {figure:.1}, at most {aim} was aimed at"));
        }
    }
    let smallest = meshes
        .iter()
        .min_by_key(|mesh| mesh.sidecars)
        .unwrap_or(first);
    let largest = meshes
        .iter()
        .max_by_key(|mesh| mesh.sidecars)
        .unwrap_or(first);
    let growth = largest.few.cpu_us_per_change / smallest.few.cpu_us_per_change;
    // Without a figure, nothing was shown.
    if growth > aims.growth || !growth.is_finite() {
        missed.push(format!(
            "a change to few costs {growth:.1} times as much with {} sidecars as with {}, at most \
             {} was aimed at",
            largest.sidecars, smallest.sidecars, aims.growth
        ));
    }
    missed
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn reached(p99_ms: f64) -> Reached {
        Reached {
            changes: 2,
            expected: 40,
            seen: 40,
            p50_ms: 1.0,
            p99_ms,
            max_ms: 9.0,
        }
    }

    fn cost(cpu_us_per_change: f64) -> Cost {
        Cost {
            reached: reached(5.0),
            cpu_us_per_change,
            cpu_us_per_subscriber: cpu_us_per_change / 20.0,
        }
    }

    fn mesh(sidecars: usize) -> Mesh {
        Mesh {
            sidecars,
            services: 50,
            endpoints: 1_000,
            join_seconds: 1.0,
            join_pushed: Pushed::default(),
            empty_kib: 10_000,
            full_kib: 50_000,
            sidecar_kib: 40.0,
            session_kib: 30.0,
            busy_sidecar_kib: 45.0,
            idle_processors: 0.01,
            paced: reached(5.0),
            few: cost(500.0),
            all: cost(5_000.0),
            burst: reached(50.0),
            burst_pushed: Pushed::default(),
            restart: Restart {
                listening_seconds: 0.1,
                resync_seconds: 2.0,
                pushed: Pushed::default(),
            },
        }
    }

    #[test]
    fn nothing_is_missed_where_all_is_well() {
        let report = Report::new(vec![mesh(1_000), mesh(100)]);
        assert!(report.missed.is_empty(), "{:?}", report.missed);
        assert!(report.render().contains(" 30.0 |"), "{}", report.render());
    }

    #[test]
    fn each_aim_is_named_when_it_is_missed() {
        let mut large = mesh(1_000);
        large.paced = reached(101.0);
        large.session_kib = 40.1;
        large.restart.resync_seconds = 5.5;
        large.few = cost(1_001.0);
        large.burst.seen = 39;
        let report = Report::new(vec![large, mesh(100)]);
        assert_eq!(report.missed.len(), 5, "{:?}", report.missed);
        for (missed, words) in report.missed.iter().zip([
            "39 of 40",
            "p99, ms: 101.0, at most 100",
            "session: 40.1, at most 40",
            "crash: 5.5, at most 5",
            "2.0 times as much with 1000 sidecars as with 100",
        ]) {
            assert!(missed.contains(words), "{missed}");
            assert!(report.render().contains(missed));
        }
    }

    #[test]
    fn other_meshes_are_held_only_to_being_told_everything() {
        let mut small = mesh(100);
        small.session_kib = 99.0;
        assert!(Report::new(vec![mesh(1_000), small]).missed.is_empty());
    }
}

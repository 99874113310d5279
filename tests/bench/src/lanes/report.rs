//! What was measured, as a table for a person and as JSON with all rounds. Every figure is the median
//! of its rounds, so that neither one quiet round nor one busy one decides.

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use serde::Serialize;
use std::fmt::Write as _;

use super::load::Told;
use super::{Args, Flow, Place, Way};
use crate::statistics::median;

/// All of it.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    rounds: u32,
    rate: u32,
    bulk: u32,
    link: String,
    /// What the kernel sends by, here.
    congestion_control: String,
    /// Built with optimisation.
    optimised: bool,
    rows: Vec<Row>,
}

/// One way beside one kind of bulk at one place.
#[derive(Debug, Serialize)]
struct Row {
    place: Place,
    way: Way,
    flow: Flow,
    median: Figures,
    rounds: Vec<Round>,
}

/// One round.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Round {
    /// Small calls alone.
    pub(super) idle: Told,
    /// Beside bulk.
    pub(super) loaded: Told,
    /// The bulk.
    pub(super) bulk: Told,
}

/// The medians of the rounds.
#[derive(Debug, Default, Serialize)]
struct Figures {
    idle_p50_us: f64,
    idle_p99_us: f64,
    loaded_p50_us: f64,
    loaded_p99_us: f64,
    /// Loaded to idle.
    p50_ratio: f64,
    p99_ratio: f64,
    bulk_megabytes_per_second: f64,
}

impl Round {
    fn ratios(&self) -> [f64; 2] {
        [
            self.loaded.p50_us / self.idle.p50_us,
            self.loaded.p99_us / self.idle.p99_us,
        ]
    }

    /// For whoever watches.
    pub(super) fn line(&self) -> String {
        let [p50, p99] = self.ratios();
        format!(
            "idle p50 {:.0} us, p99 {:.0} us; beside {:.1} MB/s p50 {:.0} us ({p50:.1}x), p99 {:.0} us ({p99:.1}x)",
            self.idle.p50_us,
            self.idle.p99_us,
            self.bulk.megabytes_per_second,
            self.loaded.p50_us,
            self.loaded.p99_us
        )
    }

    fn parts(&self) -> [&Told; 3] {
        [&self.idle, &self.loaded, &self.bulk]
    }
}

impl Report {
    pub(super) fn new(args: &Args) -> Self {
        let control = std::fs::read_to_string("/proc/sys/net/ipv4/tcp_congestion_control");
        Self {
            rounds: args.rounds,
            rate: args.rate,
            bulk: args.bulk,
            link: args.link.clone(),
            congestion_control: control.unwrap_or_default().trim().to_owned(),
            optimised: !cfg!(debug_assertions),
            rows: Vec::new(),
        }
    }

    pub(super) fn add(&mut self, (place, way, flow): (Place, Way, Flow), round: Round) {
        let found = self
            .rows
            .iter_mut()
            .find(|row| (row.place, row.way, row.flow) == (place, way, flow));
        match found {
            Some(row) => row.rounds.push(round),
            None => self.rows.push(Row {
                place,
                way,
                flow,
                median: Figures::default(),
                rounds: vec![round],
            }),
        }
        for row in &mut self.rows {
            row.median = Figures::of(&row.rounds);
        }
    }

    /// Calls that were not answered as they should be.
    pub(super) fn failed(&self) -> u64 {
        self.rows.iter().map(Row::failed).sum()
    }

    /// For a person, ending with a newline.
    pub(super) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_preset(ASCII_MARKDOWN).set_header([
            "place",
            "small calls and bulk",
            "bulk",
            "idle p50 us",
            "p99 us",
            "loaded p50 us",
            "p99 us",
            "p50 ratio",
            "p99 ratio",
            "bulk MB/s",
            "failed",
        ]);
        for row in &self.rows {
            let it = &row.median;
            table.add_row([
                format!("{:?}", row.place).to_lowercase(),
                row.way.shown().to_owned(),
                row.flow.name().to_owned(),
                format!("{:.0}", it.idle_p50_us),
                format!("{:.0}", it.idle_p99_us),
                format!("{:.0}", it.loaded_p50_us),
                format!("{:.0}", it.loaded_p99_us),
                format!("{:.1}x", it.p50_ratio),
                format!("{:.1}x", it.p99_ratio),
                format!("{:.1}", it.bulk_megabytes_per_second),
                row.failed().to_string(),
            ]);
        }
        for column in table.column_iter_mut().skip(3) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        let mut text = format!("{table}\n\n");
        let _ = writeln!(
            text,
            "{} small calls a second beside {} of 1 MiB at once; link {} each way ({}); medians of {} rounds.",
            self.rate, self.bulk, self.link, self.congestion_control, self.rounds
        );
        let all = self.rows.iter().flat_map(|row| &row.rounds);
        if let Some(first) = all
            .flat_map(Round::parts)
            .find_map(|told| told.first_failure.as_ref())
        {
            let _ = writeln!(text, "The first call that failed said: {first}");
        }
        if !self.optimised {
            text.push_str("Built without optimisation: these figures say nothing.\n");
        }
        text
    }
}

impl Row {
    fn failed(&self) -> u64 {
        let all = self.rounds.iter().flat_map(Round::parts);
        all.map(|told| told.failed).sum()
    }
}

impl Way {
    fn shown(self) -> &'static str {
        match self {
            Self::Lanes => "lanes gossip and bifrost_data",
            Self::Unmarked => "two connections without marks",
            Self::Shared => "one connection (both general)",
        }
    }
}

impl Figures {
    fn of(rounds: &[Round]) -> Self {
        let all = |figure: fn(&Round) -> f64| rounds.iter().map(figure);
        let middle = |figure| median(all(figure)).unwrap_or_default();
        let idle = [
            middle(|round| round.idle.p50_us),
            middle(|round| round.idle.p99_us),
        ];
        let loaded = [
            middle(|round| round.loaded.p50_us),
            middle(|round| round.loaded.p99_us),
        ];
        Self {
            idle_p50_us: idle[0],
            idle_p99_us: idle[1],
            loaded_p50_us: loaded[0],
            loaded_p99_us: loaded[1],
            p50_ratio: loaded[0] / idle[0],
            p99_ratio: loaded[1] / idle[1],
            bulk_megabytes_per_second: middle(|round| round.bulk.megabytes_per_second),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    fn told(p50_us: f64, p99_us: f64, failed: u64) -> Told {
        Told {
            answered: 10,
            failed,
            first_failure: (failed > 0).then(|| "nobody".to_owned()),
            p50_us,
            p99_us,
            megabytes_per_second: 22.5,
        }
    }

    #[derive(clap::Parser)]
    struct Only {
        #[command(flatten)]
        args: Args,
    }

    #[test]
    fn a_way_is_one_row_of_medians() {
        let mut report = Report::new(&Only::parse_from(["bench"]).args);
        for (idle, loaded) in [(100.0, 150.0), (200.0, 800.0), (100.0, 130.0)] {
            report.add(
                (Place::Link, Way::Lanes, Flow::OneWay),
                Round {
                    idle: told(idle, 2.0 * idle, 0),
                    loaded: told(loaded, 4.0 * loaded, 0),
                    bulk: told(1.0, 1.0, 0),
                },
            );
        }
        let text = report.table();
        let row = text
            .lines()
            .find(|line| line.starts_with("| link"))
            .unwrap();
        let cells: Vec<&str> = row.split('|').map(str::trim).collect();
        let expected = [
            "one-way", "100", "200", "150", "600", "1.5x", "3.0x", "22.5", "0",
        ];
        assert_eq!(cells[3..12], expected, "{text}");
        assert_eq!(report.failed(), 0);
    }

    #[test]
    fn failures_are_told() {
        let mut report = Report::new(&Only::parse_from(["bench"]).args);
        let round = Round {
            idle: told(1.0, 1.0, 0),
            loaded: told(1.0, 1.0, 2),
            bulk: told(1.0, 1.0, 1),
        };
        report.add((Place::Loopback, Way::Shared, Flow::BothWays), round);
        assert_eq!(report.failed(), 3);
        assert!(
            report
                .table()
                .contains("The first call that failed said: nobody\n")
        );
    }
}

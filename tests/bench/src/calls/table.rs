//! The report for a person: one table of the pairs, one of their processes, and the ratios that
//! decide. Every figure in it is in the JSON too.

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use std::fmt::Write as _;

use super::report::{PairReport, Ratio, Report};

/// The whole report as text, ending with a newline.
pub(crate) fn render(report: &Report) -> String {
    let mut text = format!("{}\n\n{}\n", pairs(report), processes(report));
    if let Some(ratios) = &report.sidelane_to_bare {
        text.push_str("\nSidelane to bare, median of the rounds (lowest to highest):\n");
        for (name, ratio) in [
            ("CPU per call", &ratios.cpu_per_call),
            ("calls a second", &ratios.calls_per_second),
            ("p99 under load", &ratios.loaded_p99),
            ("mean, one call at a time", &ratios.single_mean),
        ] {
            let _ = writeln!(text, "  {name}: {}", times(ratio));
        }
    }
    for pair in &report.pairs {
        let first = pair
            .rounds
            .iter()
            .find_map(|round| round.first_failure.as_deref());
        if let Some(first) = first {
            let (name, failed) = (pair.pair.name(), pair.failed());
            let _ = writeln!(
                text,
                "\n{name}: {failed} calls failed; the first said: {first}"
            );
        }
    }
    if !report.machine.optimised {
        text.push_str("\nBuilt without optimisation: these figures say nothing.\n");
    }
    text
}

fn pairs(report: &Report) -> Table {
    let mut table = table(&[
        "pair",
        "calls/s",
        "p50 us",
        "p99 us",
        "alone: mean us",
        "p50 us",
        "p99 us",
        "CPU us/call, proxies",
        "idle MiB, proxies",
        "loaded",
        "peak",
        "failed",
    ]);
    for pair in &report.pairs {
        let figures = &pair.median;
        let has_proxies = pair.proxies(|memory| memory.idle_kib) > 0;
        let proxies = |text: String| if has_proxies { text } else { "-".to_owned() };
        table.add_row([
            pair.pair.name().to_owned(),
            format!("{:.0}", figures.calls_per_second),
            format!("{:.0}", figures.loaded.p50_us),
            format!("{:.0}", figures.loaded.p99_us),
            format!("{:.0}", figures.single.mean_us),
            format!("{:.0}", figures.single.p50_us),
            format!("{:.0}", figures.single.p99_us),
            proxies(format!("{:.1}", figures.proxies_cpu_us_per_call)),
            proxies(mebibytes(pair.proxies(|memory| memory.idle_kib))),
            proxies(mebibytes(pair.proxies(|memory| memory.loaded_kib))),
            proxies(mebibytes(pair.proxies(|memory| memory.peak_kib))),
            pair.failed().to_string(),
        ]);
    }
    align(table)
}

fn processes(report: &Report) -> Table {
    let mut table = table(&[
        "pair",
        "process",
        "threads",
        "CPU us/call",
        "idle MiB",
        "loaded",
        "peak",
    ]);
    for pair in &report.pairs {
        for row in rows(pair) {
            table.add_row(row);
        }
    }
    let mut table = align(table);
    if let Some(column) = table.column_mut(1) {
        column.set_cell_alignment(CellAlignment::Left);
    }
    table
}

fn rows(pair: &PairReport) -> impl Iterator<Item = [String; 7]> {
    pair.processes.iter().map(|process| {
        [
            pair.pair.name().to_owned(),
            process.name.to_owned(),
            process.threads.to_string(),
            format!("{:.1}", process.cpu_us_per_call),
            mebibytes(process.memory.idle_kib),
            mebibytes(process.memory.loaded_kib),
            mebibytes(process.memory.peak_kib),
        ]
    })
}

/// Markdown, so that it can be pasted where it is talked about.
fn table(header: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_preset(ASCII_MARKDOWN).set_header(header);
    table
}

fn align(mut table: Table) -> Table {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    table
}

fn mebibytes(kib: u64) -> String {
    format!("{:.1}", crate::statistics::number(kib) / 1024.0)
}

fn times(ratio: &Ratio) -> String {
    let Some(median) = ratio.median else {
        return "-".to_owned();
    };
    let lowest = ratio.rounds.iter().copied().fold(f64::INFINITY, f64::min);
    let highest = ratio
        .rounds
        .iter()
        .copied()
        .fold(f64::NEG_INFINITY, f64::max);
    format!("{median:.2}x ({lowest:.2} to {highest:.2})")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::report::tests::report;

    fn cells<'a>(text: &'a str, beginning: &str) -> Vec<&'a str> {
        let line = text
            .lines()
            .find(|line| line.starts_with(beginning))
            .unwrap();
        line.split('|')
            .map(str::trim)
            .filter(|cell| !cell.is_empty())
            .collect()
    }

    #[test]
    fn a_pair_is_one_row() {
        let text = render(&report(0));
        let row = [
            "bare", "50000", "90", "300", "100", "90", "300", "20.0", "6.0", "12.0", "18.0", "0",
        ];
        assert_eq!(cells(&text, "| bare"), row, "{text}");
    }

    #[test]
    fn each_process_is_one_row() {
        let text = render(&report(0));
        let row = [
            "sidelane",
            "caller's proxy",
            "1",
            "5.0",
            "2.0",
            "4.0",
            "6.0",
        ];
        assert_eq!(cells(&text, "| sidelane | caller's proxy"), row, "{text}");
        assert_eq!(text.matches("load generator").count(), 2);
    }

    #[test]
    fn the_ratio_is_told_with_its_spread() {
        let text = render(&report(0));
        assert!(
            text.contains("  CPU per call: 1.20x (1.10 to 1.30)\n"),
            "{text}"
        );
    }

    #[test]
    fn failures_are_told() {
        let mut report = report(2);
        report.pairs[1].rounds[1].first_failure = Some("grpc-status 14: nobody".to_owned());
        let text = render(&report);
        assert!(
            text.contains("sidelane: 2 calls failed; the first said: grpc-status 14: nobody"),
            "{text}"
        );
    }
}

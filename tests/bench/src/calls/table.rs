//! The report for a person: one table of the pairs, one of their processes, and the ratios that
//! decide. Every figure in it is in the JSON too.

use comfy_table::{CellAlignment, Table, presets::ASCII_MARKDOWN};
use std::fmt::Write as _;

use super::aims::Aim;
use super::phases::Bulk;
use super::report::{PairReport, Ratio, Ratios, Report};

/// The whole report as text, ending with a newline.
pub(crate) fn render(report: &Report) -> String {
    let mut text = format!("{}\n\n{}\n", pairs(report), processes(report));
    if report.pairs.iter().any(|pair| !pair.open.is_empty()) {
        text.push_str("\nAt a rate, timed from when each call was due:\n\n");
        let _ = writeln!(text, "{}", open(report));
    }
    if report.pairs.iter().any(|pair| pair.bulk != Bulk::default()) {
        let _ = writeln!(text, "\n{}", bulk(report));
    }
    if report.pairs.iter().any(|pair| pair.handshakes.is_some()) {
        let _ = writeln!(text, "\n{}", handshakes(report));
    }
    for (title, ratios) in [
        ("Sidelane to bare", &report.sidelane_to_bare),
        ("Sidelane to Envoy", &report.sidelane_to_envoy),
        ("Envoy to bare", &report.envoy_to_bare),
        (
            "Sidelane with all policies to none",
            &report.policies_to_sidelane,
        ),
        (
            "Sidelane with all policies to bare",
            &report.policies_to_bare,
        ),
        (
            "Sidelane to bare, in mTLS",
            &report.sidelane_tls_to_bare_tls,
        ),
        (
            "Sidelane to Envoy, in mTLS",
            &report.sidelane_tls_to_envoy_tls,
        ),
        ("Envoy to bare, in mTLS", &report.envoy_tls_to_bare_tls),
        (
            "Sidelane in mTLS to Sidelane in the clear",
            &report.sidelane_tls_to_sidelane,
        ),
    ] {
        if let Some(ratios) = ratios {
            put_ratios(&mut text, title, ratios);
        }
    }
    if !report.aims.is_empty() {
        let _ = writeln!(text, "\n{}", aims(&report.aims));
    }
    for pair in &report.pairs {
        if let Some(first) = pair.first_failure() {
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

fn put_ratios(text: &mut String, title: &str, ratios: &Ratios) {
    let _ = writeln!(text, "\n{title}, median of the rounds (lowest to highest):");
    for (name, ratio) in [
        ("CPU per call", &ratios.cpu_per_call),
        ("calls a second", &ratios.calls_per_second),
        ("p99 under load", &ratios.loaded_p99),
        ("mean, one call at a time", &ratios.single_mean),
        ("64 KiB calls a second", &ratios.large_calls_per_second),
        ("CPU per 64 KiB call", &ratios.large_cpu_per_call),
        (
            "CPU per message, server stream",
            &ratios.expand_cpu_per_message,
        ),
        (
            "CPU per message, stream both ways",
            &ratios.chat_cpu_per_message,
        ),
    ] {
        let _ = writeln!(text, "  {name}: {}", times(ratio));
    }
    if ratios.handshake_cpu.median.is_some() {
        let anew = times(&ratios.handshake_cpu);
        let _ = writeln!(text, "  CPU per new connection, callee's proxy: {anew}");
    }
}

fn open(report: &Report) -> Table {
    let mut table = table(&[
        "pair",
        "calls/s",
        "p50 us",
        "p99 us",
        "added p50 us",
        "added p99 us",
    ]);
    for pair in &report.pairs {
        for open in &pair.open {
            let added = report.added.iter().find(|added| {
                let here = added.pair == pair.pair && open.fixed;
                here && (added.rate - open.rate).abs() < 0.5
            });
            let more = |figure: Option<f64>| {
                figure.map_or_else(|| "-".to_owned(), |figure| format!("{figure:.0}"))
            };
            let note = if open.fixed { "" } else { " (70 %)" };
            table.add_row([
                pair.pair.name().to_owned(),
                format!("{:.0}{note}", open.rate),
                format!("{:.0}", open.latency.p50_us),
                format!("{:.0}", open.latency.p99_us),
                more(added.map(|added| added.p50_us)),
                more(added.map(|added| added.p99_us)),
            ]);
        }
    }
    align(table)
}

fn bulk(report: &Report) -> Table {
    let mut table = table(&[
        "pair",
        "64 KiB calls/s",
        "CPU us/call, proxies",
        "server stream messages/s",
        "CPU us/message",
        "both ways messages/s",
        "CPU us/message",
    ]);
    for pair in &report.pairs {
        let mut row = vec![pair.pair.name().to_owned()];
        for part in [pair.bulk.large, pair.bulk.expand, pair.bulk.chat] {
            match part {
                Some(part) => {
                    row.push(format!("{:.0}", part.per_second));
                    row.push(format!("{:.2}", part.proxies_cpu_us));
                }
                None => row.extend(["-".to_owned(), "-".to_owned()]),
            }
        }
        table.add_row(row);
    }
    align(table)
}

fn handshakes(report: &Report) -> Table {
    let mut table = table(&[
        "pair",
        "new connections/s, in mTLS",
        "CPU us/connection, callee's proxy",
    ]);
    for pair in &report.pairs {
        if let Some(anew) = &pair.handshakes {
            table.add_row([
                pair.pair.name().to_owned(),
                format!("{:.0}", anew.per_second),
                format!("{:.0}", anew.callee_cpu_us),
            ]);
        }
    }
    align(table)
}

fn aims(aims: &[Aim]) -> Table {
    let mut table = table(&["aim", "bound", "measured", "verdict"]);
    for aim in aims {
        let side = if aim.at_most { "at most" } else { "at least" };
        let verdict = match (aim.met, aim.missed_by()) {
            (Some(true), _) => "met".to_owned(),
            (_, Some(percent)) => format!("missed by {percent:.0} %"),
            _ => "not measured".to_owned(),
        };
        let measured = aim.measured;
        table.add_row([
            aim.name.to_owned(),
            format!("{side} {:.2}", aim.bound),
            measured.map_or_else(|| "-".to_owned(), |measured| format!("{measured:.2}")),
            verdict,
        ]);
    }
    align(table)
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
        let after = &text[text.find("process").unwrap()..];
        let after = &after[after.find("| sidelane ").unwrap()..];
        assert_eq!(cells(after, "| sidelane     | caller's"), row, "{text}");
        assert_eq!(text.matches("load generator").count(), 5);
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
    fn rates_bulk_and_aims_have_their_tables() {
        let text = render(&report(0));
        let after = &text[text.find("At a rate").unwrap()..];
        let row = ["bare", "2000", "90", "300", "-", "-"];
        assert_eq!(cells(after, "| bare"), row, "nothing to add to: {text}");
        let after = &text[text.find("64 KiB calls/s").unwrap()..];
        let row = ["bare", "5000", "200.00", "-", "-", "-", "-"];
        assert_eq!(cells(after, "| bare"), row, "{text}");
        let after = &text[text.find("new connections/s").unwrap()..];
        assert_eq!(
            cells(after, "| sidelane-tls"),
            ["sidelane-tls", "385", "1300"],
            "{text}"
        );
        let anew = "  CPU per new connection, callee's proxy: 1.10x (1.00 to 1.30)\n";
        assert_eq!(text.matches(anew).count(), 1, "{text}");
        let row = [
            "CPU per call, to bare",
            "at most 1.15",
            "1.20",
            "missed by 4 %",
        ];
        assert_eq!(cells(&text, "| CPU per call, to bare"), row, "{text}");
        let envoy = cells(&text, "| CPU per call, to Envoy");
        assert_eq!(envoy[2..], ["-", "not measured"], "{text}");
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

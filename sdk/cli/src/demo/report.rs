//! The end of a demo, as tables for people and as JSON for programs.

use std::fmt::Write as _;

use comfy_table::CellAlignment;
use serde_json::{Value, json};

use super::facts::{Facts, Outcome, by_lane};
use super::message::{Counted, Failed, Kind, Phase};
use super::traces;
use super::verdict::alike;
use crate::command::output::{Table, number};

/// Kinds of failures that are shown; more of them say no more.
const SHOWN: usize = 12;

/// For people: what was counted before anything was disturbed.
pub(super) fn calm(calm: &Phase) -> String {
    let mut text = String::from("\nCalls while nothing was disturbed\n");
    text.push_str(&calls(&calm.kinds));
    text.push_str("\nWho answered them, in which lane\n");
    text.push_str(&nodes(calm));
    text.push('\n');
    text
}

/// For people: what the disturbances did, and whether that is as it should be.
pub(super) fn end(facts: &Facts) -> String {
    let mut text = String::from("\nWhat was done under load\n");
    text.push_str(&steps(&facts.outcomes));
    if facts.held_back > 0 {
        let held_back = facts.held_back;
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            "\n{held_back} calls were not made: too many were open"
        );
    }
    if !facts.trace.is_empty() {
        text.push_str("\nOne call, as its sidecars recorded it\n");
        text.push_str(&traces::lines(&facts.trace));
    }
    let killed = &facts.killed.node;
    failures(
        &mut text,
        &format!("Calls in flight on {killed} when it was killed"),
        &facts.verdict.in_flight,
    );
    failures(
        &mut text,
        "Calls that should not have failed",
        &facts.verdict.unexpected,
    );
    let _ = writeln!(text, "\n{}", conclusion(facts));
    text
}

/// For programs. Times are in microseconds.
pub(super) fn json(facts: &Facts) -> Value {
    let (calls, failed) = facts.totals();
    let step = |outcome: &Outcome| {
        json!({
            "what": outcome.what,
            "took_ms": u64::try_from(outcome.took.as_millis()).unwrap_or(u64::MAX),
            "calls": outcome.calls,
            "failed": outcome.failed,
            "in_flight": outcome.in_flight,
            "unexpected": outcome.unexpected(),
            "unary_p99_us": outcome.p99,
        })
    };
    let kind = |counted: &Counted| {
        json!({
            "kind": counted.kind,
            "path": counted.kind.path(),
            "lane": counted.kind.lane(),
            "calls": counted.calls,
            "failed": counted.failed,
            "p50_us": counted.p50,
            "p99_us": counted.p99,
            "bytes": counted.bytes,
        })
    };
    json!({
        "held": facts.held(),
        "complaints": facts.complaints,
        "calls": calls,
        "failed": failed,
        "held_back": facts.held_back,
        "killed": facts.killed.node,
        "calm": {
            "kinds": facts.calm.kinds.iter().map(kind).collect::<Vec<_>>(),
            "nodes": facts.calm.nodes,
            "lanes": by_lane(&facts.calm),
        },
        "steps": facts.outcomes.iter().map(step).collect::<Vec<_>>(),
        "in_flight": facts.verdict.in_flight,
        "unexpected": facts.verdict.unexpected,
        "trace": facts.trace,
    })
}

fn conclusion(facts: &Facts) -> String {
    let (calls, failed) = facts.totals();
    let killed = &facts.killed.node;
    if facts.held() && failed == 0 {
        let calls = number(calls);
        return format!("It held: {calls} calls through the mesh, and not one failed.");
    }
    if facts.held() {
        return format!(
            "It held: {} calls through the mesh, {failed} failed, all of them in flight on \
             {killed} when it was killed.",
            number(calls)
        );
    }
    let mut text = "It did not hold:".to_owned();
    for complaint in &facts.complaints {
        let _ = write!(text, "\n  {complaint}");
    }
    text
}

fn calls(kinds: &[Counted]) -> String {
    let mut table = Table::new(&["call", "lane", "calls", "failed", "p50", "p99", "received"]);
    for column in 2..=6 {
        table.align(column, CellAlignment::Right);
    }
    for counted in kinds {
        let lane = match counted.kind {
            Kind::Direct => "past the mesh",
            kind => kind.lane(),
        };
        table.row([
            counted.kind.label().to_owned(),
            lane.to_owned(),
            number(counted.calls),
            number(counted.failed),
            time(counted.p50),
            time(counted.p99),
            size(counted.bytes),
        ]);
    }
    table.text()
}

fn nodes(calm: &Phase) -> String {
    let lanes: Vec<_> = by_lane(calm).into_iter().collect();
    let mut head = vec!["node"];
    head.extend(lanes.iter().map(|(lane, _)| *lane));
    head.push("all lanes");
    let mut table = Table::new(&head);
    for column in 1..head.len() {
        table.align(column, CellAlignment::Right);
    }
    for (node, counts) in &calm.nodes {
        let in_lane = |lane: &str| counts.get(lane).copied().unwrap_or_default();
        let mut row = vec![node.clone()];
        row.extend(lanes.iter().map(|(lane, _)| number(in_lane(lane))));
        row.push(number(counts.values().sum()));
        table.row(row);
    }
    let mut all = vec!["all nodes".to_owned()];
    all.extend(lanes.iter().map(|(_, calls)| number(*calls)));
    all.push(number(lanes.iter().map(|(_, calls)| calls).sum()));
    table.row(all);
    table.text()
}

fn steps(outcomes: &[Outcome]) -> String {
    let mut table = Table::new(&[
        "step",
        "took",
        "calls",
        "failed",
        "cut by the kill",
        "unexpected",
        "unary p99",
    ]);
    for column in 1..=6 {
        table.align(column, CellAlignment::Right);
    }
    for outcome in outcomes {
        table.row([
            outcome.what.clone(),
            format!("{:.1} s", outcome.took.as_secs_f64()),
            number(outcome.calls),
            number(outcome.failed),
            number(outcome.in_flight),
            number(outcome.unexpected()),
            time(outcome.p99),
        ]);
    }
    table.text()
}

fn failures(text: &mut String, head: &str, failed: &[Failed]) {
    let groups = alike(failed);
    if groups.is_empty() {
        return;
    }
    let _ = writeln!(text, "\n{head}");
    for (count, failed) in groups.iter().take(SHOWN) {
        let reason = failed.reason.as_deref().unwrap_or("not said by the mesh");
        let processed = match failed.processed.as_deref() {
            Some("no") => ", not processed",
            Some(_) => ", may have been processed",
            None => "",
        };
        let _ = writeln!(
            text,
            "  {count} x {} ({}): {}, {reason}{processed}: {}",
            failed.kind.label(),
            failed.phase,
            failed.status,
            failed.message,
        );
    }
    if groups.len() > SHOWN {
        let _ = writeln!(text, "  and {} more kinds", groups.len() - SHOWN);
    }
}

/// Microseconds, for people.
fn time(microseconds: u64) -> String {
    match microseconds {
        0 => "-".to_owned(),
        1..1_000_000 => format!(
            "{}.{:02} ms",
            microseconds / 1_000,
            microseconds % 1_000 / 10
        ),
        _ => format!(
            "{}.{:02} s",
            microseconds / 1_000_000,
            microseconds % 1_000_000 / 10_000
        ),
    }
}

/// Bytes, for people.
fn size(bytes: u64) -> String {
    match bytes {
        0 => "-".to_owned(),
        1..1_048_576 => format!("{} KiB", bytes.div_ceil(1_024)),
        _ => format!("{} MiB", bytes / 1_048_576),
    }
}

#[cfg(test)]
mod tests {
    use super::super::facts::tests::good;
    use super::*;

    #[test]
    fn the_tables_hold_what_was_counted() {
        let text = calm(&good().calm) + &end(&good());
        let lines: Vec<Vec<&str>> = text
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        let has = |words: &str| {
            let words: Vec<_> = words.split_whitespace().collect();
            assert!(lines.contains(&words), "{words:?} is not in\n{text}");
        };
        has("unary, direct past the mesh 10 0 0.50 ms 1.50 ms 1 MiB");
        has("heartbeat gossip 10 0 0.50 ms 1.50 ms 1 MiB");
        has("NODE BIFROST_DATA GENERAL GOSSIP ALL LANES");
        has("orders-1 5 5 5 15");
        has("inventory-1 0 5 0 5");
        has("all nodes 15 25 15 55");
        has("orders-2 killed 3.0 s 10 1 1 0 1.50 ms");
        has(
            "1 x unary (node killed): Unavailable, PEER_RESET, may have been processed: \
             the connection to orders-2 broke",
        );
        assert!(text.ends_with(
            "It held: 70 calls through the mesh, 1 failed, all of them in flight on orders-2 \
             when it was killed.\n"
        ));
    }

    #[test]
    fn programs_get_the_same() {
        let json = json(&good());
        assert_eq!(json["held"], true);
        assert_eq!(json["calm"]["nodes"]["orders-1"]["gossip"], 5);
        assert_eq!(json["calm"]["kinds"][1]["p99_us"], 1_500);
        assert_eq!(json["steps"][1]["in_flight"], 1);
        assert_eq!(json["in_flight"][0]["reason"], "PEER_RESET");
        assert_eq!(json["unexpected"], json!([]));
    }

    #[test]
    fn times_and_sizes_have_the_unit_that_suits_them() {
        assert_eq!(
            [time(0), time(70), time(12_345)],
            ["-", "0.07 ms", "12.34 ms"]
        );
        assert_eq!(time(1_250_000), "1.25 s");
        assert_eq!(
            [size(0), size(1_500), size(3 << 20)],
            ["-", "2 KiB", "3 MiB"]
        );
    }
}

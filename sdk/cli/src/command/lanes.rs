//! `sidelane lanes`: what each lane carries now, and what waits in it, of one sidecar or of several.

use std::ffi::OsString;
use std::process::ExitCode;

use comfy_table::CellAlignment;
use serde_json::{Value, json};
use sidelane_process::settings::Program;

use super::arguments::{self, Format, OUTPUT, Usage};
use super::figures::{self, Figures, SIDECARS};
use super::output::{Table, number};
use super::{Failure, block_on, output};

/// The command as people see it.
pub(super) const USAGE: Usage = Usage {
    program: Program {
        name: "sidelane lanes",
        version: env!("CARGO_PKG_VERSION"),
        about: "Tells what each lane of a sidecar carries, and what waits in it",
        flags: &[SIDECARS, OUTPUT],
    },
    operand: None,
};

/// Which links: their class, lane and side.
const LINKS: [&str; 3] = ["connection", "lane", "side"];
/// A column's name, the figure that is in it, and the labels that this has beside the others.
type Column = (&'static str, &'static str, &'static [Label]);
/// A label and its value.
type Label = (&'static str, &'static str);
/// The columns behind those.
const COLUMNS: [Column; 8] = [
    ("links", "sidelane_lane_connections", &[]),
    ("in_flight", "sidelane_lane_calls_in_flight", &[]),
    ("waiting", "sidelane_lane_calls_waiting", &[]),
    ("full", "sidelane_lane_full_total", &[]),
    ("stalled", "sidelane_lane_streams_stalled", &[]),
    ("stalls", "sidelane_lane_stalls_total", &[]),
    (
        "sent",
        "sidelane_lane_bytes_total",
        &[("direction", "sent")],
    ),
    (
        "received",
        "sidelane_lane_bytes_total",
        &[("direction", "received")],
    ),
];

/// One lane of one sidecar.
struct Row {
    node: String,
    links: Vec<String>,
    figures: Vec<u64>,
}

/// Runs the command.
pub(super) fn run(given: Vec<OsString>) -> Result<ExitCode, Failure> {
    let Some(arguments) = arguments::read(&USAGE, given)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let format = arguments.format()?;
    let bases = figures::bases(&arguments.settings)?;
    let rows = block_on(async move {
        let mut rows = Vec::new();
        for asked in figures::asked(bases).await? {
            rows.extend(of(&asked.node, &asked.figures().await?));
        }
        Ok::<_, Failure>(rows)
    })??;
    match format {
        Format::Json => {
            let lanes: Vec<Value> = rows.iter().map(json).collect();
            output::json(&json!({ "lanes": lanes }))?;
        }
        Format::Table => output::text(&table(&rows))?,
    }
    Ok(ExitCode::SUCCESS)
}

fn of(node: &str, figures: &Figures) -> Vec<Row> {
    let lanes = figures.groups(COLUMNS[0].1, &LINKS).into_iter();
    let rows = lanes.map(|links| {
        let figures = COLUMNS.iter().map(|(_, name, more)| {
            let values = LINKS.iter().copied().zip(links.iter().map(String::as_str));
            let labels: Vec<_> = values.chain(more.iter().copied()).collect();
            whole(figures.sum(name, &labels))
        });
        Row {
            node: node.to_owned(),
            figures: figures.collect(),
            links,
        }
    });
    rows.collect()
}

/// Counts are whole, and far below what a float holds exactly.
#[allow(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts"
)]
fn whole(count: f64) -> u64 {
    count as u64
}

fn json(row: &Row) -> Value {
    let mut object = json!({ "node": row.node });
    for (label, value) in LINKS.iter().zip(&row.links) {
        object[*label] = json!(value);
    }
    for ((column, _, _), figure) in COLUMNS.iter().zip(&row.figures) {
        object[*column] = json!(figure);
    }
    object
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no link to or from another sidecar stands, or has stood\n".to_owned();
    }
    let columns = COLUMNS.iter().map(|(column, _, _)| *column);
    let head: Vec<_> = ["node"].into_iter().chain(LINKS).chain(columns).collect();
    let shown: Vec<String> = head.iter().map(|name| name.replace('_', " ")).collect();
    let mut table = Table::new(&shown.iter().map(String::as_str).collect::<Vec<_>>());
    for column in LINKS.len() + 1..head.len() {
        table.align(column, CellAlignment::Right);
    }
    for row in rows {
        let figures = row.figures.iter().map(|figure| number(*figure));
        let names = [row.node.clone()].into_iter().chain(row.links.clone());
        table.row(names.chain(figures));
    }
    table.text()
}

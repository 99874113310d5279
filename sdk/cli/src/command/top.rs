//! `sidelane top`: which methods are called how often now, how many of the calls fail, and how long
//! they take. Two looks at the figures of each sidecar, and what came between them.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use comfy_table::CellAlignment;
use serde_json::{Value, json};
use sidelane_process::settings::{Flag, Program, value};
use tokio::time::{Instant, sleep};

use super::arguments::{self, Format, OUTPUT, Usage};
use super::figures::{self, Figures, SIDECARS, quantile};
use super::output::Table;
use super::{Failure, block_on, output};

const INTERVAL: Flag = Flag::single(
    "interval",
    "DURATION",
    "The time between the two looks that are compared",
)
.or("2s");

/// The command as people see it.
pub(super) const USAGE: Usage = Usage {
    program: Program {
        name: "sidelane top",
        version: env!("CARGO_PKG_VERSION"),
        about: "Tells which methods are called most, and how their calls fare",
        flags: &[SIDECARS, INTERVAL, OUTPUT],
    },
    operand: None,
};

/// What tells rows apart.
const KEY: [&str; 4] = ["service", "method", "direction", "lane"];
/// How long calls take.
const DURATIONS: &str = "sidelane_request_duration_seconds";

/// One method at one sidecar.
#[derive(Debug, PartialEq)]
struct Row {
    node: String,
    key: Vec<String>,
    /// Calls that came, a second.
    rate: f64,
    /// Of those that ended, the share that was answered with OK.
    ok: Option<f64>,
    /// In seconds.
    p50: Option<f64>,
    /// In seconds.
    p99: Option<f64>,
    open: f64,
}

/// Runs the command.
pub(super) fn run(given: Vec<OsString>) -> Result<ExitCode, Failure> {
    let Some(arguments) = arguments::read(&USAGE, given)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let format = arguments.format()?;
    let bases = figures::bases(&arguments.settings)?;
    let interval = arguments.settings.value(&INTERVAL, value::duration)?;
    let mut rows = block_on(async move {
        let mut looks = Vec::new();
        for asked in figures::asked(bases).await? {
            let first = asked.figures().await?;
            looks.push((asked, Instant::now(), first));
        }
        sleep(interval).await;
        let mut rows = Vec::new();
        for (asked, at, first) in looks {
            let second = asked.figures().await?;
            rows.extend(between(&asked.node, (&first, &second), at.elapsed()));
        }
        Ok::<_, Failure>(rows)
    })??;
    rows.sort_by(|one, other| other.rate.total_cmp(&one.rate));
    match format {
        Format::Json => {
            let methods: Vec<Value> = rows.iter().map(json).collect();
            output::json(&json!({ "methods": methods }))?;
        }
        Format::Table => output::text(&table(&rows))?,
    }
    Ok(ExitCode::SUCCESS)
}

/// What came between two looks, of methods that were called or are being called.
fn between(node: &str, (first, second): (&Figures, &Figures), took: Duration) -> Vec<Row> {
    let groups = second.groups("sidelane_requests_total", &KEY).into_iter();
    let rows = groups.map(|key| {
        let values = key.iter().map(String::as_str);
        let labels: Vec<_> = KEY.iter().copied().zip(values).collect();
        let came = |name: &str, more: &[(&str, &str)]| {
            let labels: Vec<_> = labels.iter().chain(more).copied().collect();
            second.sum(name, &labels) - first.sum(name, &labels)
        };
        let ends = ["responses", "errors", "cancelled"];
        let ended = ends.map(|end| came(&format!("sidelane_{end}_total"), &[]));
        let ended: f64 = ended.iter().sum();
        let ok = came("sidelane_responses_total", &[("status", "0")]);
        let buckets = [first, second].map(|look| look.buckets(DURATIONS, &labels));
        Row {
            node: node.to_owned(),
            rate: came("sidelane_requests_total", &[]) / took.as_secs_f64().max(0.001),
            ok: (ended > 0.0).then_some(ok / ended),
            p50: quantile(0.5, &buckets[0], &buckets[1]),
            p99: quantile(0.99, &buckets[0], &buckets[1]),
            open: second.sum("sidelane_calls_in_flight", &labels),
            key,
        }
    });
    rows.filter(|row| row.rate > 0.0 || row.ok.is_some() || row.open > 0.0)
        .collect()
}

fn json(row: &Row) -> Value {
    let milliseconds = |seconds: Option<f64>| seconds.map(|seconds| seconds * 1_000.0);
    let mut object = json!({
        "node": row.node,
        "calls_a_second": row.rate,
        "ok": row.ok,
        "p50_ms": milliseconds(row.p50),
        "p99_ms": milliseconds(row.p99),
        "in_flight": row.open,
    });
    for (label, value) in KEY.iter().zip(&row.key) {
        object[*label] = json!(value);
    }
    object
}

fn table(rows: &[Row]) -> String {
    if rows.is_empty() {
        return "no call came, and none is open\n".to_owned();
    }
    let head = ["node"].into_iter().chain(KEY);
    let head = head.chain(["calls/s", "ok", "p50", "p99", "in flight"]);
    let mut table = Table::new(&head.collect::<Vec<_>>());
    for column in KEY.len() + 1..KEY.len() + 6 {
        table.align(column, CellAlignment::Right);
    }
    for row in rows {
        let or_dash = |shown: Option<String>| shown.unwrap_or_else(|| "-".to_owned());
        let time =
            |seconds: Option<f64>| or_dash(seconds.map(|it| format!("{:.1} ms", it * 1_000.0)));
        let names = [row.node.clone()].into_iter().chain(row.key.clone());
        table.row(names.chain([
            format!("{:.1}", row.rate),
            or_dash(row.ok.map(|ok| format!("{:.2} %", ok * 100.0))),
            time(row.p50),
            time(row.p99),
            format!("{}", row.open),
        ]));
    }
    table.text()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn look(calls: u32, failed: u32) -> Figures {
        let labels = "service=\"a.A\",method=\"Get\",direction=\"outbound\",lane=\"general\"";
        let ok = calls - failed;
        let idle = labels.replace("Get", "Put");
        Figures::read(&format!(
            "sidelane_requests_total{{{labels}}} {calls}\n\
             sidelane_requests_total{{{idle}}} 9\n\
             sidelane_responses_total{{{labels},status=\"0\"}} {ok}\n\
             sidelane_errors_total{{{labels},reason=\"NO_ENDPOINT\"}} {failed}\n\
             {DURATIONS}_bucket{{{labels},le=\"0.01\"}} {calls}\n\
             {DURATIONS}_bucket{{{labels},le=\"+Inf\"}} {calls}\n"
        ))
    }

    #[test]
    fn rates_are_of_what_came_between_the_looks() {
        let rows = between("n", (&look(100, 0), &look(180, 20)), Duration::from_secs(2));
        // What nobody calls has no row.
        assert_eq!(rows.len(), 1);
        let row = &rows[0];
        assert_eq!((row.rate, row.ok), (40.0, Some(0.75)));
        assert_eq!(row.p50, Some(0.005));
        assert_eq!(json(row)["method"], "Get");
        let shown = table(&rows);
        assert!(shown.contains("40.0  75.00 %  5.0 ms"), "{shown}");
        assert_eq!(table(&[]), "no call came, and none is open\n");
    }
}

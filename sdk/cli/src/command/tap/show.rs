//! How calls are shown: rows of a table that nobody knows the end of, or lines of JSON as they came.

use std::time::Duration;

use serde_json::Value;

use super::super::arguments::Format;
use super::super::{Failure, output};

/// The columns before the last, and how wide they are at least.
const COLUMNS: [(&str, usize); 8] = [
    ("TIME", 12),
    ("NODE", 12),
    ("DIR", 3),
    ("LANE", 12),
    ("PEER", 16),
    ("STATUS", 19),
    ("TOOK", 9),
    ("BYTES", 13),
];

/// What is shown, and how.
pub(super) struct Show {
    format: Format,
    headers: bool,
    /// The head of the table was shown.
    headed: bool,
    /// Calls that sidecars could not tell of.
    dropped: u64,
}

impl Show {
    pub(super) const fn new(format: Format, headers: bool) -> Self {
        Self {
            format,
            headers,
            headed: false,
            dropped: 0,
        }
    }

    /// A line that a sidecar said.
    pub(super) fn line(&mut self, line: &Value) -> Result<(), Failure> {
        if self.format == Format::Json {
            return output::text(&format!("{line}\n"));
        }
        let text = |key: &str| printable(line[key].as_str().unwrap_or_default());
        match line["kind"].as_str() {
            Some("begun") => {
                let headers = text("headers");
                if self.headers && headers != "told" {
                    output::error(&format!("{}: headers are {headers}", text("node")));
                }
                if self.headed {
                    return Ok(());
                }
                self.headed = true;
                let head = COLUMNS.map(|(name, _)| name.to_owned());
                output::text(&row(&head, "CALL"))
            }
            Some("call") => output::text(&call(line, self.headers)),
            Some("dropped") => {
                let calls = line["calls"].as_u64().unwrap_or_default();
                self.dropped += calls;
                output::error(&format!(
                    "{}: {calls} more calls came too fast to be told",
                    text("node")
                ));
                Ok(())
            }
            Some("gone") => {
                let (sidecar, why) = (text("sidecar"), text("why"));
                output::error(&format!("{sidecar} tells nothing any more: {why}"));
                Ok(())
            }
            _ => Ok(()),
        }
    }

    /// It was the last.
    pub(super) fn end(&self, calls: u64, took: Duration) {
        if self.format == Format::Table {
            let dropped = match self.dropped {
                0 => String::new(),
                some => format!(", {} more were not told", output::number(some)),
            };
            let calls = output::number(calls);
            output::error(&format!(
                "{calls} calls in {:.1} s{dropped}",
                took.as_secs_f64()
            ));
        }
    }
}

/// A call as a row, and below it why it failed and its headers.
fn call(line: &Value, headers: bool) -> String {
    let text = |key: &str| printable(line[key].as_str().unwrap_or("-"));
    let number = |key: &str| line[key].as_u64().unwrap_or_default();
    let time = text("time");
    // The day is today.
    let time = time.split_once('T').map_or(time.as_str(), |(_, time)| time);
    let status = line["reason"].as_str().or(line["code"].as_str());
    let direction = match line["direction"].as_str() {
        Some("inbound") => "in",
        _ => "out",
    };
    let peer = line["user"].as_str().or(line["peer"].as_str());
    let cells = [
        time.trim_end_matches('Z').to_owned(),
        text("node"),
        direction.to_owned(),
        text("lane"),
        printable(peer.unwrap_or("-")),
        status.map_or_else(|| number("status").to_string(), printable),
        format!("{:.2}ms", line["duration_ms"].as_f64().unwrap_or_default()),
        format!("{}>{}", number("request_bytes"), number("response_bytes")),
    ];
    let mut shown = row(&cells, &text("path"));
    if let Some(message) = line["message"].as_str() {
        shown.push_str(&format!("    {}\n", printable(message)));
    }
    let sets = line["headers"].as_object().filter(|_| headers);
    for (set, pairs) in sets.into_iter().flatten() {
        for pair in pairs.as_array().into_iter().flatten() {
            let [name, value] =
                [&pair[0], &pair[1]].map(|it| printable(it.as_str().unwrap_or_default()));
            shown.push_str(&format!("    {set} {name}: {value}\n"));
        }
    }
    if headers && line["headers_cut"] == true {
        shown.push_str("    there are more headers than a tap tells\n");
    }
    shown
}

fn row(cells: &[String; 8], last: &str) -> String {
    let mut row = String::new();
    for ((_, width), cell) in COLUMNS.iter().zip(cells) {
        row.push_str(&format!("{cell:<width$} "));
    }
    row.push_str(last);
    row.push('\n');
    row
}

/// What others have said, without anything that a terminal would obey.
fn printable(text: &str) -> String {
    let each = text.chars().map(|it| match it.is_control() {
        true => char::REPLACEMENT_CHARACTER,
        false => it,
    });
    each.collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn failed() -> Value {
        json!({
            "kind": "call", "node": "cart-1", "time": "2026-05-04T10:20:30.400Z",
            "direction": "outbound", "lane": "general", "user": null, "peer": "orders-1",
            "path": "/shop.v1.Orders/Get", "status": 14, "code": "UNAVAILABLE",
            "reason": "NO_ENDPOINT", "message": "nobody\u{1b}[2J", "duration_ms": 1.5,
            "request_bytes": 7, "response_bytes": 0,
            "headers": { "request": [["x-note", "a\r\nb"]], "response": [], "trailers": [] },
            "headers_cut": true,
        })
    }

    #[test]
    fn a_call_is_a_row_with_what_is_below_it() {
        let shown = call(&failed(), true);
        let lines: Vec<_> = shown.lines().collect();
        let cells: Vec<_> = lines[0].split_whitespace().collect();
        assert_eq!(
            cells,
            [
                "10:20:30.400",
                "cart-1",
                "out",
                "general",
                "orders-1",
                "NO_ENDPOINT",
                "1.50ms",
                "7>0",
                "/shop.v1.Orders/Get"
            ]
        );
        assert_eq!(
            lines[1..],
            [
                "    nobody\u{fffd}[2J",
                "    request x-note: a\u{fffd}\u{fffd}b",
                "    there are more headers than a tap tells"
            ]
        );
        assert_eq!(call(&failed(), false).lines().count(), 2);
    }

    #[test]
    fn a_call_of_a_user_without_a_known_status_is_shown() {
        let mut line = failed();
        for (key, value) in [
            ("user", json!("192.0.2.7")),
            ("reason", Value::Null),
            ("code", Value::Null),
            ("status", json!(17)),
            ("lane", Value::Null),
        ] {
            line[key] = value;
        }
        let shown = call(&line, false);
        assert!(
            shown.contains("192.0.2.7") && shown.contains(" 17 "),
            "{shown}"
        );
    }
}

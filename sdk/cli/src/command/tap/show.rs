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
            return output::text(&format!("{}\n", escaped(&line.to_string())));
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
                let why = match line["why"].as_str() {
                    Some("too many open calls") => "began beside too many others to be followed",
                    _ => "came too fast to be told",
                };
                output::error(&format!("{}: {calls} more calls {why}", text("node")));
                Ok(())
            }
            // That it has told as many as it was to is seen.
            Some("ended") if line["why"] == "time" => {
                output::error(&format!("{}: the time of this tap is over", text("node")));
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
    let each = text.chars().map(|it| match is_obeyed(it) {
        true => char::REPLACEMENT_CHARACTER,
        false => it,
    });
    each.collect()
}

/// JSON, in which the same is written as escapes, which mean the same to who reads it.
fn escaped(json: &str) -> String {
    let mut escaped = String::with_capacity(json.len());
    for it in json.chars() {
        match is_obeyed(it) {
            true => {
                let mut units = [0; 2];
                for unit in it.encode_utf16(&mut units) {
                    escaped.push_str(&format!("\\u{unit:04x}"));
                }
            }
            false => escaped.push(it),
        }
    }
    escaped
}

/// Would a terminal do something else than show it? Controls, C1's among them, and what turns the
/// direction of text around, or hides between other letters.
fn is_obeyed(it: char) -> bool {
    it.is_control()
        || matches!(it,
            '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}'
            | '\u{e0000}'..='\u{e007f}')
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
    fn nothing_that_a_terminal_obeys_gets_there() {
        let text = "a\u{202e}b\u{9b}2Jc\u{7f}d\u{2066}e\u{e0041}f\u{200b}ä→g";
        assert_eq!(
            printable(text),
            "a\u{fffd}b\u{fffd}2Jc\u{fffd}d\u{fffd}e\u{fffd}f\u{fffd}ä→g"
        );
        let line = json!({ "kind": "call", "message": text });
        let shown = escaped(&line.to_string());
        assert!(
            shown.contains(r"a\u202eb\u009b2Jc\u007fd\u2066e\udb40\udc41f\u200bä→g"),
            "{shown}"
        );
        assert!(!shown.chars().any(is_obeyed), "{shown}");
        assert_eq!(serde_json::from_str::<Value>(&shown).unwrap(), line);
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

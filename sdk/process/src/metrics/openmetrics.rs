//! Prometheus text as `OpenMetrics` 1.0 writes it: a counter is named without the `_total` of its
//! samples, units are said, and the end is marked, so that half a page is not taken for a whole one.

use std::fmt::Write;

/// Units that end a name.
const UNITS: [&str; 2] = ["seconds", "bytes"];

/// The same figures in `OpenMetrics`' own format. `text` is Prometheus text in which each family has a
/// HELP and then a TYPE line, as this project's pages do, and names of counters end in `_total`.
#[must_use]
pub fn from_text(text: &str) -> String {
    let mut open = String::with_capacity(text.len() + 16);
    let mut help = None;
    for line in text.lines() {
        if let Some(said) = line.strip_prefix("# HELP ") {
            help = said.split_once(' ');
        } else if let Some((name, kind)) = line
            .strip_prefix("# TYPE ")
            .and_then(|said| said.split_once(' '))
        {
            let help = help.take().filter(|(of, _)| *of == name);
            family(&mut open, (name, kind), help.map(|(_, help)| help));
        } else if !line.is_empty() && !line.starts_with('#') {
            open.push_str(line);
            open.push('\n');
        }
    }
    open.push_str("# EOF\n");
    open
}

fn family(open: &mut String, (name, kind): (&str, &str), help: Option<&str>) {
    let name = match kind {
        "counter" => name.strip_suffix("_total").unwrap_or(name),
        _ => name,
    };
    // Writing into a String cannot fail.
    let _ = writeln!(open, "# TYPE {name} {kind}");
    let unit = name.rsplit_once('_').map(|(_, unit)| unit);
    if let Some(unit) = unit.filter(|unit| UNITS.contains(unit)) {
        let _ = writeln!(open, "# UNIT {name} {unit}");
    }
    if let Some(help) = help {
        let _ = writeln!(open, "# HELP {name} {}", help.replace('"', "\\\""));
    }
}

/// The text without exemplars, of which the older format knows nothing.
pub(super) fn without_exemplars(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    for line in text.lines() {
        let sample = match line.rsplit_once(" # {") {
            Some((sample, _)) if is_bucket(sample) => sample,
            _ => line,
        };
        plain.push_str(sample);
        plain.push('\n');
    }
    plain
}

/// Only buckets have exemplars here; other lines may have any text among their labels.
fn is_bucket(line: &str) -> bool {
    let name = line.split_once('{').map(|(name, _)| name);
    name.is_some_and(|name| name.ends_with("_bucket") && !name.starts_with('#'))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
# HELP calls_total Calls of \"all\" kinds.
# TYPE calls_total counter
calls_total{lane=\"general\"} 3
# HELP open Open now.
# TYPE open gauge
open{text=\"a # {b\"} 1
# HELP took_seconds How long.
# TYPE took_seconds histogram
took_seconds_bucket{le=\"0.5\"} 1 # {trace_id=\"abc\"} 0.25 1.000
took_seconds_bucket{le=\"+Inf\"} 1
took_seconds_sum 0.25
took_seconds_count 1
";

    #[test]
    fn openmetrics_names_families_and_units_and_marks_the_end() {
        assert_eq!(
            from_text(TEXT),
            "\
# TYPE calls counter
# HELP calls Calls of \\\"all\\\" kinds.
calls_total{lane=\"general\"} 3
# TYPE open gauge
# HELP open Open now.
open{text=\"a # {b\"} 1
# TYPE took_seconds histogram
# UNIT took_seconds seconds
# HELP took_seconds How long.
took_seconds_bucket{le=\"0.5\"} 1 # {trace_id=\"abc\"} 0.25 1.000
took_seconds_bucket{le=\"+Inf\"} 1
took_seconds_sum 0.25
took_seconds_count 1
# EOF
"
        );
    }

    #[test]
    fn plain_text_has_no_exemplars() {
        let plain = without_exemplars(TEXT);
        assert_eq!(plain, TEXT.replace(" # {trace_id=\"abc\"} 0.25 1.000", ""));
    }
}

//! The figures of calls as Prometheus text: how many, how they ended, how long they took, and what
//! they carried. All by the same labels, so that any two of them can be divided.

use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::UNIX_EPOCH;

use super::histogram::{Exemplar, Histogram, Unit};
use super::metrics::{heading, line};
use super::target::TargetCounters;
use crate::reason::Reason;

/// What a line takes beside the labels of its method, at most: its name, a bound, a value.
const LINE: usize = 128;
/// What an exemplar takes, at most. Buckets of durations have some.
const EXEMPLAR: usize = 128;

/// What was counted of these, in their order.
pub(super) fn render(text: &mut String, targets: &[Arc<TargetCounters>]) {
    type Read = fn(&TargetCounters) -> &AtomicU64;
    type Taken = fn(&TargetCounters) -> &Histogram;
    let plain: [(&str, &str, &str, Read); 4] = [
        (
            "sidelane_requests_total",
            "counter",
            "Calls taken in.",
            |target| &target.requests,
        ),
        (
            "sidelane_calls_in_flight",
            "gauge",
            "Calls open now.",
            |target| &target.in_flight,
        ),
        (
            "sidelane_attempts_total",
            "counter",
            "Attempts sent.",
            |target| &target.attempts,
        ),
        (
            "sidelane_cancelled_total",
            "counter",
            "Calls whose caller left.",
            |target| &target.cancelled,
        ),
    ];
    for (name, kind, help, read) in plain {
        heading(text, name, kind, help);
        for target in targets {
            let value = read(target).load(Ordering::Relaxed);
            line(text, name, &target.labels, value);
        }
    }
    render_ends(text, targets);
    let histograms: [(&str, &str, Unit, Taken); 3] = [
        (
            "sidelane_request_duration_seconds",
            "From a call's headers to its end.",
            Unit::Seconds,
            |target| &target.durations,
        ),
        (
            "sidelane_request_size_bytes",
            "Bytes of a call's request: all its messages, with their prefixes.",
            Unit::Bytes,
            |target| &target.request_sizes,
        ),
        (
            "sidelane_response_size_bytes",
            "Bytes of a call's answer: all its messages, with their prefixes.",
            Unit::Bytes,
            |target| &target.response_sizes,
        ),
    ];
    for (name, help, unit, read) in histograms {
        heading(text, name, "histogram", help);
        // A histogram of nothing is many lines that say so.
        for target in targets.iter().filter(|target| target.was_called()) {
            render_histogram(text, name, &target.labels, (read(target), unit));
        }
    }
}

fn render_ends(text: &mut String, targets: &[Arc<TargetCounters>]) {
    let name = "sidelane_responses_total";
    heading(text, name, "counter", "Calls answered, by gRPC status.");
    for target in targets {
        for (status, count) in target.responses.iter().enumerate() {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                let status = match status {
                    17 => "other".to_owned(),
                    known => known.to_string(),
                };
                let labels = format!("{},status=\"{status}\"", target.labels);
                line(text, name, &labels, count);
            }
        }
    }
    let name = "sidelane_errors_total";
    let help = "Calls that the mesh failed, by reason.";
    heading(text, name, "counter", help);
    for target in targets {
        for (reason, count) in Reason::ALL.iter().zip(&target.errors) {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                let labels = format!("{},reason=\"{}\"", target.labels, reason.name());
                line(text, name, &labels, count);
            }
        }
    }
}

fn render_histogram(
    text: &mut String,
    name: &str,
    labels: &str,
    (histogram, unit): (&Histogram, Unit),
) {
    let mut all = 0;
    for (bucket, (bound, count)) in histogram.cumulated().enumerate() {
        let bound = bound.map_or_else(|| "+Inf".to_owned(), |bound| unit.bound(bound));
        // Writing into a String cannot fail.
        let _ = write!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {count}");
        if let Some(Exemplar { value, of, at }) = histogram.exemplar(bucket) {
            let (trace, span) = (hex(&of.trace), hex(&of.span));
            let at = at.duration_since(UNIX_EPOCH).unwrap_or_default();
            let (value, at) = (unit.show(value), at.as_secs_f64());
            let ids = format!("trace_id=\"{trace}\",span_id=\"{span}\"");
            let _ = write!(text, " # {{{ids}}} {value} {at:.3}");
        }
        text.push('\n');
        all = count;
    }
    let sum = unit.show(histogram.sum());
    let _ = writeln!(
        text,
        "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {all}"
    );
}

fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How many of these, from the first on, fit into so many bytes of a page, by what their lines take at
/// most.
pub(super) fn fitting(targets: &[Arc<TargetCounters>], limit: usize) -> usize {
    let mut room = limit;
    let fits = |target: &&Arc<TargetCounters>| {
        let line = target.labels.len() + LINE;
        let told = |counts: &[AtomicU64]| {
            let above = counts.iter().filter(|it| it.load(Ordering::Relaxed) > 0);
            above.count()
        };
        let mut lines = 4 + told(&target.responses) + told(&target.errors);
        let mut exemplars = 0;
        if target.was_called() {
            let histograms = [
                &target.durations,
                &target.request_sizes,
                &target.response_sizes,
            ];
            let series = histograms.map(|it| it.cumulated().count() + 2);
            lines += series.iter().sum::<usize>();
            exemplars = series[0];
        }
        match room.checked_sub(line * lines + EXEMPLAR * exemplars) {
            None => false,
            Some(left) => {
                room = left;
                true
            }
        }
    };
    targets.iter().take_while(fits).count()
}

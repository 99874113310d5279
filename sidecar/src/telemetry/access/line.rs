//! One call as a line of JSON.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::Record;
use crate::telemetry::guard::Outcome;

/// Adds the line of a call.
pub(super) fn append(batch: &mut Vec<u8>, record: &Record) {
    let key = &record.counters.key;
    let (end, status, reason) = match record.outcome {
        Outcome::Answered(status) => ("answered", Some(status), None),
        Outcome::Failed(reason) => ("failed", None, Some(reason.name())),
        Outcome::Cancelled => ("cancelled", None, None),
    };
    let traffic = &record.traffic;
    let line = json!({
        "time": written(record.ended),
        "direction": key.direction.name(),
        "service": key.service.as_str(),
        "method": &*key.method,
        "path": record.path,
        "connection": key.class.name(),
        "lane": key.lane.name(),
        "peer": record.peer,
        "end": end,
        "status": status,
        "reason": reason,
        "duration_ms": milliseconds(record.took),
        "request_bytes": traffic.request.bytes,
        "request_messages": traffic.request.messages,
        "response_bytes": traffic.response.bytes,
        "response_messages": traffic.response.messages,
        "trace_id": record.context.map(|it| hex(&it.trace)),
        "span_id": record.context.map(|it| hex(&it.span)),
    });
    batch.extend_from_slice(line.to_string().as_bytes());
    batch.push(b'\n');
}

/// An id as it is written.
pub(in crate::telemetry) fn hex(id: &[u8]) -> String {
    id.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// To a microsecond.
pub(in crate::telemetry) fn milliseconds(took: Duration) -> f64 {
    (took.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}

/// As RFC 3339 has it, in UTC and to a millisecond.
pub(in crate::telemetry) fn written(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days are counted from March of year 0, so that a leap day is the last of its year: then the
    // lengths of months follow one line (proleptic Gregorian calendar, eras of 400 years).
    let day = days + 719_468;
    let (era, of_era) = (day / 146_097, day % 146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let day = of_year - (153 * month + 2) / 5 + 1;
    let (month, later) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    let year = era * 400 + year + later;
    let (hour, minute, second) = (second / 3_600, second / 60 % 60, second % 60);
    let millisecond = since.subsec_millis();
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millisecond:03}Z")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_the_calendar_has_them() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_399, "2000-02-28T23:59:59.000Z"),
            (951_782_400, "2000-02-29T00:00:00.000Z"),
            (951_868_800, "2000-03-01T00:00:00.000Z"),
            (1_704_067_199, "2023-12-31T23:59:59.000Z"),
            (4_107_542_400, "2100-03-01T00:00:00.000Z"),
        ] {
            assert_eq!(written(UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
        let late = UNIX_EPOCH + Duration::from_millis(1_500);
        assert_eq!(written(late), "1970-01-01T00:00:01.500Z");
    }
}

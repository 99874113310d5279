//! One call as a line of JSON, as a tap tells it: the names are those of the access log, where both
//! tell the same.

use serde_json::{Value, json};
use tonic::Code;

use super::filter::parts;
use super::headers::Redaction;
use super::{Caller, Record};
use crate::telemetry::access::{hex, milliseconds, written};
use crate::telemetry::guard::Outcome;
use crate::telemetry::trace::name_of;

/// The call, with its headers where `redaction` is what is hidden of them.
pub(super) fn call(node: &str, record: &Record, redaction: Option<&Redaction>) -> Value {
    let key = record.counters.as_ref().map(|counters| &counters.key);
    let (end, reason) = match record.outcome {
        Outcome::Answered(_) => ("answered", None),
        Outcome::Failed(reason) => ("failed", Some(reason.name())),
        Outcome::Cancelled => ("cancelled", None),
    };
    let caller = match record.caller {
        Caller::App => "app",
        Caller::User => "user",
        Caller::Peer => "peer",
    };
    let (service, method) = parts(&record.path);
    let status = record.status();
    let code = (status <= 16).then(|| name_of(Code::from_i32(status.into())));
    let (told, traffic) = (&record.told, &record.traffic);
    let mut line = json!({
        "kind": "call",
        "node": node,
        "time": written(record.at),
        "direction": record.direction.name(),
        "service": service,
        "method": method,
        "path": record.path,
        "connection": key.map(|key| key.class.name()),
        "lane": key.map(|key| key.lane.name()),
        "caller": caller,
        "user": told.user,
        "peer": told.peer,
        "identity": told.identity,
        "attempts": told.attempts,
        "end": end,
        "status": status,
        "code": code,
        "reason": reason,
        "message": told.failure.as_ref().map(|(_, text)| text),
        "duration_ms": milliseconds(record.took),
        "request_bytes": traffic.request.bytes,
        "request_messages": traffic.request.messages,
        "response_bytes": traffic.response.bytes,
        "response_messages": traffic.response.messages,
        "trace_id": record.context.map(|it| hex(&it.trace)),
        "span_id": record.context.map(|it| hex(&it.span)),
    });
    if let Some(redaction) = redaction {
        let sets = [&record.request, &told.response, &told.trailers];
        let names = ["request", "response", "trailers"];
        let shown = names.into_iter().zip(sets).map(|(name, captured)| {
            let shown = captured.as_ref().map(|it| it.json(redaction));
            // None came, or none were seen: there is no saying that there were none.
            (name.to_owned(), json!(shown))
        });
        line["headers"] = Value::Object(shown.collect());
        let mut cut = sets.into_iter().flatten();
        line["headers_cut"] = json!(cut.any(super::headers::Captured::is_cut));
    }
    line
}

/// What a tap begins with.
pub(super) fn begun(node: &str, headers: &str) -> Value {
    let build = env!("CARGO_PKG_VERSION");
    json!({ "kind": "begun", "node": node, "version": build, "headers": headers })
}

/// Calls were not told since the last time that this was said.
pub(super) fn dropped(node: &str, why: &str, calls: u64) -> Value {
    json!({ "kind": "dropped", "node": node, "why": why, "calls": calls })
}

/// What a tap ends with.
pub(super) fn ended(node: &str, why: &str, (calls, dropped): (u64, u64)) -> Value {
    json!({ "kind": "ended", "node": node, "why": why, "calls": calls, "dropped": dropped })
}

//! The span of one call on one side of it, from its headers to its trailers, with the names and
//! attributes of OpenTelemetry's conventions for RPC.

use http::{HeaderMap, HeaderValue};
use tracing::{Span, field};

/// On which side of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

/// A call that goes on. Dropped before its status is known, it was given up.
#[derive(Debug)]
pub(crate) struct Open {
    pub(crate) span: Span,
    side: Side,
    ended: bool,
}

const STATUS: &str = "grpc-status";
const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];
const CANCELLED: usize = 1;
const UNKNOWN: usize = 2;
/// The statuses by which a callee says that it has failed, and not that the call was wrong: UNKNOWN,
/// `DEADLINE_EXCEEDED`, UNIMPLEMENTED, INTERNAL, UNAVAILABLE and `DATA_LOSS`.
const CALLEES: [usize; 6] = [UNKNOWN, 4, 12, 13, 14, 15];

impl Open {
    /// Of a call of this path; below the span that is entered now.
    pub(crate) fn new(side: Side, path: &str) -> Self {
        let method = path.trim_start_matches('/');
        let kind = match side {
            Side::Client => "client",
            Side::Server => "server",
        };
        let span = tracing::info_span!(
            "rpc",
            otel.name = method,
            otel.kind = kind,
            otel.status_code = field::Empty,
            otel.status_description = field::Empty,
            rpc.system.name = "grpc",
            rpc.method = method,
            rpc.response.status_code = field::Empty,
            "error.type" = field::Empty,
        );
        Self {
            span,
            side,
            ended: false,
        }
    }

    /// These headers or trailers say how it ended, if they do.
    pub(crate) fn heard(&mut self, headers: &HeaderMap) {
        if let Some(value) = headers.get(STATUS) {
            self.end(status(value));
        }
    }

    /// It broke, with these words.
    pub(crate) fn broke(&mut self, error: &dyn std::fmt::Display) {
        self.span
            .record("otel.status_description", error.to_string());
        self.end(NAMES.len());
    }

    fn end(&mut self, status: usize) {
        if std::mem::replace(&mut self.ended, true) {
            return;
        }
        let failed = match self.side {
            Side::Client => status != 0,
            Side::Server => CALLEES.contains(&status) || status >= NAMES.len(),
        };
        let name = NAMES.get(status).copied();
        if let Some(name) = name {
            self.span.record("rpc.response.status_code", name);
        }
        if failed {
            self.span.record("error.type", name.unwrap_or("_OTHER"));
            self.span.record("otel.status_code", "ERROR");
        }
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.end(CANCELLED);
    }
}

fn status(value: &HeaderValue) -> usize {
    let status = value.to_str().ok().and_then(|text| text.parse().ok());
    status
        .filter(|status| *status < NAMES.len())
        .unwrap_or(UNKNOWN)
}

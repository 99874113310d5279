//! The head of a call: its path in the first line, then a header a line. What goes on has nothing of
//! the mesh's own in it, and of a user's nothing of what proxies say; time limits are passed on no
//! longer than they were; what users hear of failures says nothing twice.

use std::time::{Duration, Instant};

use http::header::{CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use http::request::Parts;
use sidelane_proto::model::CallPath;
use sidelane_sidecar::call::{
    Call, Caller, FORWARDED, FORWARDED_PREFIXES, TIMEOUT_HEADER, User, strip_mesh_headers,
    write_timeout,
};
use sidelane_sidecar::reason::Reason;
use sidelane_sidecar::respond::{Failure, peer_refusal, users};
use sidelane_sidecar::telemetry::trace::{Context, strip};
use tonic::Status;

use crate::Target;
use crate::paths::INDEX;

pub(crate) const TARGET: Target = Target {
    name: "headers",
    run,
    seeds,
};

/// Text of a failure, in bytes: a header list has 64 KiB.
const LONGEST: usize = 4096;

fn run(data: &[u8]) {
    let mut lines = data.split(|byte| *byte == b'\n');
    let path = lines.next().unwrap_or_default();
    let headers = headers(lines);
    answers(headers.clone());
    if let Ok(text) = std::str::from_utf8(&data[..data.len().min(LONGEST)]) {
        tells(text);
    }
    let Ok(mut request) = http::Request::post(path).body(()) else {
        return;
    };
    *request.headers_mut() = headers;
    let (parts, ()) = request.into_parts();
    traces(parts.headers.clone());
    for caller in [Caller::Local, Caller::User(User::at([10, 0, 0, 7].into()))] {
        reads(parts.clone(), caller);
    }
}

/// A trace's context is written as it was read, and nothing of it is left of what a user says.
fn traces(mut headers: HeaderMap) {
    for value in headers.get_all("traceparent") {
        if let Some(context) = Context::parse(value.as_bytes()) {
            assert_eq!(Context::parse(context.header().as_bytes()), Some(context));
        }
    }
    let first = headers.get("traceparent").map(HeaderValue::as_bytes);
    let first = first.and_then(Context::parse);
    let stripped = strip(&mut headers);
    assert!(stripped.is_none() || stripped == first);
    for name in ["traceparent", "tracestate", "baggage"] {
        assert!(!headers.contains_key(name));
    }
}

fn headers<'a>(lines: impl Iterator<Item = &'a [u8]>) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    for line in lines.take(64) {
        let mut words = line.splitn(2, |byte| *byte == b':');
        let (name, value) = (words.next().unwrap_or_default(), words.next());
        let name = HeaderName::from_bytes(name);
        let value = HeaderValue::from_bytes(value.unwrap_or_default());
        if let (Ok(name), Ok(value)) = (name, value) {
            headers.append(name, value);
        }
    }
    headers
}

fn reads(mut parts: Parts, caller: Caller) {
    let outside = matches!(caller, Caller::User(_));
    let before = parts.headers.clone();
    let now = Instant::now();
    let read = Call::read(&mut parts, caller, now, |path| INDEX.find(path));
    let Ok((call, _)) = read else { return };
    let path = parts.uri.path();
    assert_eq!(CallPath::parse(path), Ok(call.path(&parts)));
    let others = |name: &HeaderName| {
        let dashed = name.as_str().replace('_', "-");
        let claims = FORWARDED.contains(&&*dashed)
            || FORWARDED_PREFIXES.iter().any(|it| dashed.starts_with(it));
        !(dashed.starts_with("sidelane-") || outside && claims)
    };
    assert!(parts.headers.keys().all(others), "{:?}", parts.headers);
    let mut kept = HeaderMap::new();
    for (name, value) in before.iter().filter(|(name, _)| others(name)) {
        kept.append(name, value.clone());
    }
    assert_eq!(parts.headers, kept, "the others stay");
    if outside {
        assert!(call.node.is_none() && call.lane.is_none() && call.rule.is_none());
    }
    if let Some(deadline) = call.deadline {
        passes_on(deadline - now);
    }
}

/// What is left is passed on: no more, and less by a hundredth at most.
fn passes_on(left: Duration) {
    let mut headers = HeaderMap::new();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TIMEOUT_HEADER, write_timeout(left));
    let mut request = http::Request::post("/a.b/Get").body(()).expect("a request");
    *request.headers_mut() = headers;
    let (mut parts, ()) = request.into_parts();
    let now = Instant::now();
    let read = Call::read(&mut parts, Caller::Local, now, |path| INDEX.find(path));
    let (call, _) = read.expect("what was written");
    let next = call.deadline.map(|deadline| deadline - now);
    let least = Duration::from_micros(1);
    let next = next.expect("a limit");
    assert!(next <= left.max(least), "{left:?} became {next:?}");
    let much = left.min(Duration::from_secs(99_999_999));
    let lost = much.saturating_sub(next);
    assert!(
        lost <= much / 100 || much < 100 * least,
        "{left:?} became {next:?}"
    );
}

fn answers(mut headers: HeaderMap) {
    let _ = peer_refusal(&headers);
    users::tell(&mut headers, "/a.b/Get");
    let once = headers.clone();
    users::tell(&mut headers, "/a.b/Get");
    assert_eq!(headers, once, "said twice");
    let shown = |name: &HeaderName| {
        let name = name.as_str();
        name == "sidelane-error" || !name.starts_with("sidelane-")
    };
    assert!(once.keys().all(shown), "{once:?}");
    strip_mesh_headers(&mut headers);
    let stripped = headers.clone();
    strip_mesh_headers(&mut headers);
    assert_eq!(headers, stripped);
}

/// A text, whatever is in it, is read as it was written.
fn tells(text: &str) {
    let trailers = Failure::refused(Reason::NoEndpoint, text).into_trailers();
    let status = Status::from_header_map(&trailers).expect("a status");
    assert_eq!(status.message(), text);
    assert_eq!(status.code(), Reason::NoEndpoint.code());
    assert!(peer_refusal(&trailers).is_some());
}

fn seeds() -> Vec<Vec<u8>> {
    [
        "/shop.v1.Orders/Get\ngrpc-timeout:5S\nsidelane-lane:gossip\nsidelane-node:orders-1\nsidelane-hash:abc\ntraceparent:00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        "/shop.v1.Orders/Watch\nsidelane-rule:Internal/gossip/secure=false/persistent=false\ngrpc-previous-rpc-attempts:1",
        "/a.b/Get\nx-forwarded-for:1.2.3.4\nforwarded:for=1\nx_real_ip:1\nl5d-client-id:x\nsidelane_lane:x",
        "/Plain/Get?x=1\ngrpc-timeout:99999999H",
        "/a.b/Get\ngrpc-timeout:1n",
        "http://orders/shop.v1.Log/Write\ngrpc-timeout:100m\nbaggage:a=b",
        "/a.b/Get\ngrpc-status:14\nsidelane-error:NO_ENDPOINT\ngrpc-message:caf%C3%A9%20\ngrpc-retry-pushback-ms:40\ngrpc-status-details-bin:CAES",
        "caf\u{e9} 100% \u{7f}\u{0}",
    ]
    .map(|text| text.as_bytes().to_vec())
    .to_vec()
}

//! Taps beside counters, without a call on any wire.

use std::future::poll_fn;

use http::{HeaderName, HeaderValue};
use serde_json::Value;
use sidelane_proto::model::{ConnectionClass, Lane, ServiceName};

use super::pieces::Pieces;
use super::*;
use crate::telemetry::{CallGuard, Metrics};

/// Longer than anything here takes.
const LIMIT: Duration = Duration::from_secs(30);

struct Calls {
    metrics: Metrics,
    counters: Arc<TargetCounters>,
}

impl Calls {
    fn new() -> Self {
        let metrics = Metrics::default();
        let name = ServiceName::new("shop.v1.Orders").unwrap();
        let way = (ConnectionClass::Internal, Lane::GENERAL);
        let counters = metrics.counters(&name, Direction::Inbound, way);
        Self { metrics, counters }
    }

    fn tap(&self, wish: Wish) -> Listening {
        self.metrics.taps.open(wish).unwrap()
    }

    fn begin(&self, path: &str, headers: &[(&str, &str)]) -> CallGuard {
        let pairs = headers.iter().map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_str(value).unwrap())
        });
        let headers: HeaderMap = pairs.collect();
        let who = Who::Peer("cart-1", Some("spiffe://mesh.example/ns/shop/sa/cart"));
        let taps = &self.metrics.taps;
        let followed = taps.follow(&self.counters, (path, &headers), who);
        let guard = self.metrics.call(&self.counters, Instant::now());
        guard.followed_by(followed)
    }

    fn call(&self, path: &str, outcome: Outcome) {
        self.begin(path, &[]).ended(outcome);
    }

    fn figure(&self, name: &str) -> u64 {
        let text = self.metrics.render();
        let lines = text.lines().filter_map(|line| line.split_once(' '));
        let mut values = lines.filter(|(of, _)| *of == name);
        values.next().unwrap().1.parse().unwrap()
    }
}

const OK: Outcome = Outcome::Answered(0);
const GET: &str = "/shop.v1.Orders/Get";

fn wish(filters: &[(&str, &str)]) -> Wish {
    Wish {
        filter: Filter::read(filters.iter().copied()).unwrap(),
        ..Wish::default()
    }
}

/// All lines, up to the tap's own end; those that say nothing are left out.
async fn lines(mut pieces: Pieces) -> Vec<Value> {
    let mut text = Vec::new();
    let reading = async {
        while let Some(piece) = poll_fn(|context| pieces.poll_next(context)).await {
            text.extend_from_slice(&piece);
        }
    };
    tokio::time::timeout(LIMIT, reading).await.unwrap();
    let text = String::from_utf8(text).unwrap();
    let lines = text.lines().filter(|line| !line.is_empty());
    lines
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

fn kinds(lines: &[Value]) -> Vec<&str> {
    lines
        .iter()
        .map(|line| line["kind"].as_str().unwrap())
        .collect()
}

#[tokio::test]
async fn a_tap_is_told_of_calls_as_they_end() {
    let calls = Calls::new();
    // Nobody looks yet.
    assert!(calls.begin(GET, &[]).followed().is_none());
    let listening = calls.tap(Wish {
        limit: Some(3),
        ..wish(&[("service", "shop.*")])
    });
    calls.call(GET, OK);
    calls.call("/other.Service/Get", OK);
    let guard = calls.begin("/shop.v1.Orders/Put", &[]);
    let followed = guard.followed().unwrap();
    followed.sent("orders-1", None);
    followed.failed(Code::Unavailable, "nobody can take it");
    guard.ended(Outcome::Failed(Reason::FaultInjected));
    drop(guard);
    drop(calls.begin(GET, &[]));
    // One more than were asked for.
    calls.call(GET, OK);
    let lines = lines(listening.pieces("orders-1", None)).await;
    assert_eq!(kinds(&lines), ["begun", "call", "call", "call", "ended"]);
    let of = |key: &str| {
        let calls = &lines[1..4];
        calls
            .iter()
            .map(|line| line[key].to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(of("method"), ["\"Get\"", "\"Put\"", "\"Get\""]);
    let ends = ["answered", "failed", "cancelled"].map(|it| format!("{it:?}"));
    assert_eq!(of("end"), ends);
    assert_eq!(of("status"), ["0", "14", "1"]);
    assert_eq!(of("code"), ["\"OK\"", "\"UNAVAILABLE\"", "\"CANCELLED\""]);
    assert_eq!(of("reason"), ["null", "\"FAULT_INJECTED\"", "null"]);
    assert_eq!(of("message"), ["null", "\"nobody can take it\"", "null"]);
    assert_eq!(of("attempts"), ["0", "1", "0"]);
    for (key, value) in [
        ("node", "orders-1"),
        ("service", "shop.v1.Orders"),
        ("direction", "inbound"),
        ("connection", "Internal"),
        ("lane", "general"),
        ("caller", "peer"),
        ("peer", "cart-1"),
        ("identity", "spiffe://mesh.example/ns/shop/sa/cart"),
    ] {
        assert_eq!(lines[1][key], value, "{key}");
    }
    assert_eq!(lines[1].get("headers"), None, "nobody asked for them");
    assert_eq!(lines[4]["why"], "limit");
    assert_eq!(
        (&lines[4]["calls"], &lines[4]["dropped"]),
        (&3.into(), &0.into())
    );
    // It was closed with its reader.
    assert!(!calls.metrics.taps.is_open());
    assert!(calls.begin(GET, &[]).followed().is_none());
    // The fourth was never told.
    assert_eq!(calls.figure("sidelane_tap_calls_total"), 3);
    assert_eq!(calls.figure("sidelane_tap_dropped_total"), 0);
    assert_eq!(calls.metrics.taps.followed(), 0);
}

#[tokio::test]
async fn refused_calls_are_told_too() {
    let calls = Calls::new();
    let listening = calls.tap(Wish {
        limit: Some(1),
        headers: true,
        ..wish(&[("status", "UNKNOWN_SERVICE")])
    });
    let mut headers = HeaderMap::new();
    headers.insert("cookie", HeaderValue::from_static("s3cret"));
    for reason in [Reason::NotGrpc, Reason::UnknownService] {
        calls.metrics.taps.refused(
            Direction::Outbound,
            ("/no.Such/Thing", &headers),
            Who::App,
            (Instant::now(), reason),
            (reason.code(), "no rule names it"),
        );
    }
    let lines = lines(listening.pieces("cart-1", None)).await;
    let line = &lines[1];
    assert_eq!(
        (&line["service"], &line["lane"]),
        (&"no.Such".into(), &Value::Null)
    );
    assert_eq!(
        (&line["reason"], &line["status"]),
        (&"UNKNOWN_SERVICE".into(), &12.into())
    );
    assert_eq!(line["message"], "no rule names it");
    assert_eq!(
        line["headers"]["request"],
        serde_json::json!([["cookie", REDACTED]])
    );
}

#[tokio::test]
async fn headers_are_told_where_asked_for_and_secrets_never() {
    let calls = Calls::new();
    let limit = Some(1);
    let headers = calls.tap(Wish {
        headers: true,
        limit,
        ..Wish::default()
    });
    let hiding = calls.tap(Wish {
        headers: true,
        limit,
        redaction: Redaction::of(["X-Note".to_owned()]),
        ..Wish::default()
    });
    let without = calls.tap(Wish {
        limit,
        ..Wish::default()
    });
    let guard = calls.begin(GET, &[("x-note", "visible"), ("authorization", "s3cret")]);
    let mut answer = HeaderMap::new();
    answer.insert("x-served-by", HeaderValue::from_static("one"));
    answer.insert("set-cookie", HeaderValue::from_static("s3cret"));
    guard.followed().unwrap().answered(&answer);
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    trailers.insert("x-session-token", HeaderValue::from_static("s3cret"));
    guard.followed().unwrap().trailed(&trailers);
    guard.ended(OK);
    drop(guard);
    let headers = lines(headers.pieces("n", None)).await;
    let hiding = lines(hiding.pieces("n", None)).await;
    let without = lines(without.pieces("n", Some("kept back"))).await;
    assert_eq!(
        headers[1]["headers"],
        serde_json::json!({
            "request": [["x-note", "visible"], ["authorization", REDACTED]],
            "response": [["x-served-by", "one"], ["set-cookie", REDACTED]],
            "trailers": [["grpc-status", "0"], ["x-session-token", REDACTED]],
        })
    );
    assert_eq!(headers[1]["headers_cut"], false);
    assert_eq!(
        hiding[1]["headers"]["request"][0],
        serde_json::json!(["x-note", REDACTED])
    );
    assert_eq!(without[1].get("headers"), None);
    let said = [&headers[0], &without[0]].map(|line| line["headers"].clone());
    assert_eq!(said, ["told", "kept back"]);
}

#[tokio::test]
async fn who_reads_slowly_loses_calls_and_is_told_how_many() {
    let calls = Calls::new();
    let listening = calls.tap(Wish {
        limit: Some(QUEUE as u64),
        ..Wish::default()
    });
    for _ in 0..QUEUE + 7 {
        calls.call(GET, OK);
    }
    assert_eq!(calls.figure("sidelane_tap_dropped_total"), 7);
    assert_eq!(
        calls.figure("sidelane_tap_calls_total"),
        0,
        "nothing was read"
    );
    let lines = lines(listening.pieces("n", None)).await;
    assert_eq!(calls.figure("sidelane_tap_calls_total"), QUEUE as u64);
    let dropped: u64 = lines
        .iter()
        .filter(|line| line["kind"] == "dropped" && line["why"] == "too fast")
        .map(|line| line["calls"].as_u64().unwrap())
        .sum();
    assert_eq!(dropped, 7);
    assert_eq!(
        kinds(&lines).iter().filter(|kind| **kind == "call").count(),
        QUEUE
    );
    assert_eq!(lines.last().unwrap()["dropped"], 7);
}

#[tokio::test]
async fn calls_that_come_too_fast_are_counted() {
    let calls = Calls::new();
    let mut listening = calls.tap(Wish::default());
    let many = RATE * 20;
    let began = Instant::now();
    let mut told = 0;
    for _ in 0..many {
        calls.call(GET, OK);
        told += u64::from(listening.records.try_recv().is_ok());
    }
    // A second may have begun just before the first call, and one just before the last.
    let most = RATE * (began.elapsed().as_secs() + 2);
    assert!(
        told >= RATE && told <= most,
        "{told} in {:?}",
        began.elapsed()
    );
    assert_eq!(calls.figure("sidelane_tap_dropped_total"), many - told);
}

#[tokio::test]
async fn taps_share_what_is_told_in_a_second() {
    let calls = Calls::new();
    let mut open: Vec<_> = (0..4).map(|_| calls.tap(near())).collect();
    let mut told = [0; 4];
    let began = Instant::now();
    for _ in 0..RATE * 5 {
        calls.call(GET, OK);
        for (told, listening) in told.iter_mut().zip(&mut open) {
            *told += u64::from(listening.records.try_recv().is_ok());
        }
    }
    let share = RATE / 4;
    let most = share * (began.elapsed().as_secs() + 2);
    assert!(
        told.iter().all(|told| (share..=most).contains(told)),
        "{told:?} in {:?}",
        began.elapsed()
    );
}

fn near() -> Wish {
    Wish {
        near: true,
        ..Wish::default()
    }
}

#[tokio::test]
async fn there_are_only_so_many_taps() {
    let calls = Calls::new();
    let refused = |wish| calls.metrics.taps.open(wish).unwrap_err();
    let mut open: Vec<_> = (0..FAR_TAPS_LIMIT)
        .map(|_| calls.tap(Wish::default()))
        .collect();
    // Whoever is elsewhere leaves places to those who are here.
    assert_eq!(refused(Wish::default()), TooManyTaps::Far);
    open.extend((FAR_TAPS_LIMIT..TAPS_LIMIT).map(|_| calls.tap(near())));
    assert_eq!(refused(near()), TooManyTaps::All);
    assert_eq!(refused(Wish::default()), TooManyTaps::All);
    assert_eq!(calls.figure("sidelane_taps"), TAPS_LIMIT as u64);
    open.pop();
    assert_eq!(refused(Wish::default()), TooManyTaps::Far);
    open.push(calls.tap(near()));
    assert_eq!(refused(near()), TooManyTaps::All);
    drop(open);
    assert_eq!(calls.figure("sidelane_taps"), 0);
    // And who is here may have all of them.
    let open: Vec<_> = (0..TAPS_LIMIT).map(|_| calls.tap(near())).collect();
    drop(open);
}

#[tokio::test]
async fn only_so_many_calls_are_followed() {
    let calls = Calls::new();
    let listening = calls.tap(Wish {
        limit: Some(1),
        ..Wish::default()
    });
    let mut open: Vec<_> = (0..FOLLOWED_LIMIT).map(|_| calls.begin(GET, &[])).collect();
    assert!(open.iter().all(|guard| guard.followed().is_some()));
    assert!(calls.begin(GET, &[]).followed().is_none());
    assert_eq!(calls.figure("sidelane_tap_dropped_total"), 1);
    open.pop();
    assert!(calls.begin(GET, &[]).followed().is_some());
    let lines = lines(listening.pieces("n", None)).await;
    // It is said why, and that is not how fast they came.
    let dropped: Vec<_> = lines.iter().filter(|it| it["kind"] == "dropped").collect();
    assert_eq!(dropped.len(), 1, "{lines:?}");
    assert_eq!(dropped[0]["why"], "too many open calls");
    assert_eq!(dropped[0]["calls"], 1);
}

#[tokio::test]
async fn what_a_tap_follows_ends_with_it() {
    let calls = Calls::new();
    let with_headers = || Wish {
        headers: true,
        ..Wish::default()
    };
    let first = calls.tap(with_headers());
    let long: Vec<_> = (0..FOLLOWED_LIMIT)
        .map(|_| calls.begin(GET, &[("x-note", "kept")]))
        .collect();
    assert_eq!(calls.metrics.taps.followed(), FOLLOWED_LIMIT);
    let is_kept = |guard: &CallGuard| guard.followed().unwrap().call.kept().is_some();
    assert!(long.iter().all(is_kept));
    drop(first);
    assert_eq!(calls.metrics.taps.followed(), 0);
    assert!(!long.iter().any(is_kept));
    // What happens to them then is nobody's business, and the next tap has all places.
    long[0].followed().unwrap().sent("orders-1", None);
    let second = calls.tap(Wish::default());
    let guard = calls.begin(GET, &[]);
    assert_eq!(calls.metrics.taps.followed(), 1);
    drop((long, guard));
    assert_eq!(calls.figure("sidelane_tap_dropped_total"), 0);
    assert_eq!(calls.metrics.taps.followed(), 0);
    // Of two, the other one goes on, without what it has not asked for.
    let third = calls.tap(with_headers());
    let guard = calls.begin(GET, &[("x-note", "kept")]);
    let headers = || {
        let kept = guard.followed().unwrap().call.kept();
        kept.as_ref().map(|kept| kept.request.is_some())
    };
    assert_eq!(headers(), Some(true));
    drop(third);
    assert_eq!((headers(), calls.metrics.taps.followed()), (Some(false), 1));
    drop(second);
    assert_eq!((headers(), calls.metrics.taps.followed()), (None, 0));
}

#[tokio::test]
async fn the_peer_is_the_one_that_answers() {
    let calls = Calls::new();
    let limit = Some(1);
    let listening = calls.tap(Wish {
        limit,
        ..Wish::default()
    });
    let taps = &calls.metrics.taps;
    let followed = taps.follow(&calls.counters, (GET, &HeaderMap::new()), Who::App);
    let guard = calls.metrics.call(&calls.counters, Instant::now());
    let guard = guard.followed_by(followed);
    let followed = guard.followed().unwrap();
    followed.sent("orders-1", Some("spiffe://mesh.example/one"));
    followed.sent("orders-2", Some("spiffe://mesh.example/two"));
    followed.answers("orders-1", Some("spiffe://mesh.example/one"));
    guard.ended(OK);
    drop(guard);
    let lines = lines(listening.pieces("n", None)).await;
    let line = &lines[1];
    assert_eq!(
        (&line["peer"], &line["identity"], &line["attempts"]),
        (
            &"orders-1".into(),
            &"spiffe://mesh.example/one".into(),
            &2.into()
        )
    );
}

#[tokio::test(start_paused = true)]
async fn a_tap_ends_in_its_time_however_many_calls_wait() {
    let calls = Calls::new();
    let listening = calls.tap(Wish {
        longest: Some(pieces::QUIET),
        ..Wish::default()
    });
    let pieces = listening.pieces("n", None);
    calls.call(GET, OK);
    tokio::time::advance(pieces::QUIET).await;
    let lines = lines(pieces).await;
    assert_eq!(kinds(&lines), ["begun", "ended"]);
    assert_eq!(lines[1]["why"], "time");
}

#[tokio::test(start_paused = true)]
async fn a_tap_ends_in_its_time_and_says_something_until_then() {
    let calls = Calls::new();
    let listening = calls.tap(Wish {
        longest: Some(pieces::QUIET * 5 / 2),
        ..Wish::default()
    });
    let mut pieces = listening.pieces("n", None);
    let mut said = Vec::new();
    while let Some(piece) = poll_fn(|context| pieces.poll_next(context)).await {
        said.push(String::from_utf8(piece.to_vec()).unwrap());
    }
    // One line each, which is empty for who reads JSON and for who looks at it.
    let empty = |piece: &&String| piece.trim().is_empty() && piece.matches('\n').count() == 1;
    let empty: Vec<_> = said.iter().filter(empty).collect();
    assert_eq!(empty.len(), 2, "{said:?}");
    assert!(
        empty
            .iter()
            .all(|piece| piece.as_bytes() == pieces::NOTHING)
    );
    assert!(
        said.last().unwrap().contains("\"why\":\"time\""),
        "{said:?}"
    );
}

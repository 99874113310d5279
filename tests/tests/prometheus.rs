//! A real Prometheus that scrapes a mesh: what its queries answer is what the callers know of their
//! own calls. Counts match exactly, so do shares of errors; quantiles are in the bucket in which they
//! are for the caller, or beside it.
#![allow(
    clippy::unwrap_used,
    clippy::float_cmp,
    clippy::cast_precision_loss,
    reason = "a panic is a failed test, and counts are small whole numbers"
)]

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use prost::Message;
use sidelane_proto::wire::routing::v1 as wire;
use sidelane_tests::applied::{applied, tuning, with};
use sidelane_tests::client::RawClient;
use sidelane_tests::prometheus::{self, Prometheus};
use sidelane_tests::wire::v1::{Behaviour, PingRequest, UnaryRequest};
use sidelane_tests::{Cluster, Upstream, cluster, services};

const UNARY: &str = "/sidelane.test.v1.Echo/Unary";
/// The app has no such method.
const MISSING: &str = "/sidelane.test.v1.Echo/Missing";
/// Its rule limits it.
const PING: &str = "/sidelane.test.v1.Beat/Ping";
/// Nobody serves it.
const PULL: &str = "/sidelane.test.v1.Bulk/Pull";
/// What nobody has a rule for.
const UNKNOWN: &str = "/made.up.Service/Call";
/// For a mesh to stand.
const LIMIT: Duration = Duration::from_secs(30);

/// What a caller knows of its calls.
struct Caller {
    client: RawClient,
    /// How many ended so, by path, status and the mesh's reason.
    ended: BTreeMap<(&'static str, i32, String), u64>,
    /// How long those of `UNARY` took, in seconds, and when they ended.
    took: Vec<(f64, Instant)>,
}

impl Caller {
    async fn call(&mut self, path: &'static str, message: &impl Message) -> i32 {
        let began = Instant::now();
        let answer = self.client.unary(path, &[], message).await.unwrap();
        if path == UNARY {
            let took = began.elapsed().as_secs_f64();
            self.took.push((took, Instant::now()));
        }
        let status = i32::from(answer.grpc_status().unwrap().code());
        let reason = answer.headers.get("sidelane-error");
        let reason = reason.map_or("", |it| it.to_str().unwrap()).to_owned();
        *self.ended.entry((path, status, reason)).or_default() += 1;
        status
    }

    /// Calls of this path that ended so.
    fn count(&self, path: &str, fits: impl Fn(i32, &str) -> bool) -> f64 {
        let of_path = self.ended.iter().filter(|((of, ..), _)| *of == path);
        let fits = of_path.filter(|((_, status, reason), _)| fits(*status, reason));
        fits.map(|(_, count)| *count as f64).sum()
    }

    /// How long so great a share of the calls took at most.
    fn quantile(&self, share: f64) -> f64 {
        let mut took: Vec<_> = self.took.iter().map(|(took, _)| *took).collect();
        took.sort_by(f64::total_cmp);
        let mut place = 0;
        while ((place + 1) as f64) < share * took.len() as f64 {
            place += 1;
        }
        took[place]
    }
}

fn answered_with(status: i32, delay_ms: u32) -> UnaryRequest {
    UnaryRequest {
        behaviour: Some(Behaviour {
            status,
            delay_ms,
            ..Behaviour::default()
        }),
        ..UnaryRequest::default()
    }
}

async fn mesh(upstream: &Upstream) -> (Cluster, Caller) {
    let mesh = cluster!()
        .control()
        .node("callee")
        .serving(services::ECHO, upstream)
        .serving(services::BEAT, upstream)
        .node("caller");
    let mesh = mesh.start().await;
    let client = RawClient::connect(mesh.node("caller").outbound()).await;
    let mut caller = Caller {
        client: client.unwrap(),
        ended: BTreeMap::new(),
        took: Vec::new(),
    };
    // Every call is counted, those as well by which it is seen that the mesh stands.
    let began = Instant::now();
    while caller.call(UNARY, &UnaryRequest::default()).await != 0
        || caller.call(PING, &PingRequest::default()).await != 0
    {
        assert!(began.elapsed() < LIMIT, "{:?}", caller.ended);
    }
    (mesh, caller)
}

/// Calls of every kind.
async fn load(caller: &mut Caller) {
    for number in 0..120 {
        let delay = match number % 10 {
            0..6 => 0,
            6..9 => 35,
            _ => 170,
        };
        assert_eq!(caller.call(UNARY, &answered_with(0, delay)).await, 0);
    }
    for _ in 0..25 {
        assert_eq!(caller.call(UNARY, &answered_with(9, 0)).await, 9);
    }
    for _ in 0..11 {
        assert_eq!(caller.call(MISSING, &UnaryRequest::default()).await, 12);
    }
    for _ in 0..40 {
        caller.call(PING, &PingRequest::default()).await;
    }
    for _ in 0..7 {
        assert_ne!(caller.call(PULL, &UnaryRequest::default()).await, 0);
    }
    for _ in 0..3 {
        assert_eq!(caller.call(UNKNOWN, &UnaryRequest::default()).await, 12);
    }
}

#[tokio::test]
#[ignore = "needs a Prometheus: SIDELANE_TEST_PROMETHEUS"]
async fn what_prometheus_answers_is_what_callers_know_of_their_calls() {
    let upstream = Upstream::named("echo").start().await;
    let (mesh, mut caller) = mesh(&upstream).await;
    let nodes: Vec<_> = mesh.nodes().iter().collect();
    let limited = with(tuning(services::BEAT), |rule| {
        rule.limits = vec![wire::Limit {
            requests_per_second: 1,
            burst: 5,
            ..wire::Limit::default()
        }];
    });
    applied(mesh.control(), &nodes, limited).await;
    let targets = [
        ("control", mesh.control().admin()),
        ("caller", mesh.node("caller").admin()),
        ("callee", mesh.node("callee").admin()),
    ];
    let prometheus = Prometheus::scraping(&targets).await;
    load(&mut caller).await;
    let pings = caller.count(PING, |_, _| true);
    let limited = caller.count(PING, |_, reason| reason == "RATE_LIMITED");
    let lonely = caller.count(PULL, |_, reason| reason == "NO_ENDPOINT");
    assert!(
        limited > 0.0 && limited < pings && lonely == 7.0,
        "{:?}",
        caller.ended
    );

    let delivered = pings - caller.count(PING, |_, reason| !["", "RATE_LIMITED"].contains(&reason));
    // It reads the last of them within a second or two, on each side: these were the last.
    for (last, count) in [
        (
            "requests_total{node=\"callee\",direction=\"inbound\",method=\"Ping\"",
            delivered,
        ),
        (
            "requests_total{node=\"caller\",direction=\"outbound\",method=\"Pull\"",
            7.0,
        ),
        (
            "refused_total{node=\"caller\",reason=\"UNKNOWN_SERVICE\"",
            3.0,
        ),
    ] {
        let query = format!("sum(sidelane_{last}}})");
        let is = |found: &[prometheus::Series]| found.iter().any(|(_, value)| *value == count);
        prometheus.until(&query, is).await;
    }
    let outbound =
        |service: &str| format!("node=\"caller\",direction=\"outbound\",service=\"{service}\"");
    let inbound =
        |service: &str| format!("node=\"callee\",direction=\"inbound\",service=\"{service}\"");
    let value = async |query: String| prometheus.value(&query).await;
    let all = |_: i32, _: &str| true;
    // What the callee's app has said, not the mesh.
    let reached = |_: i32, reason: &str| reason.is_empty();

    for (path, service, method) in [
        (UNARY, services::ECHO, "Unary"),
        (MISSING, services::ECHO, "other"),
        (PING, services::BEAT, "Ping"),
        (PULL, services::BULK, "Pull"),
    ] {
        let labels = format!("{},method=\"{method}\"", outbound(service));
        let counted = value(format!("sum(sidelane_requests_total{{{labels}}})")).await;
        assert_eq!(counted, caller.count(path, all), "{path}");
        let counted = value(format!(
            "sum(sidelane_request_duration_seconds_count{{{labels}}})"
        ));
        assert_eq!(counted.await, caller.count(path, all), "{path}");
        for status in 0..=16 {
            let query = format!("sum(sidelane_responses_total{{{labels},status=\"{status}\"}})");
            // What a peer's sidecar refuses is an answer, too.
            let answered = caller.count(path, |of, reason| {
                of == status && (reason.is_empty() || reason == "RATE_LIMITED")
            });
            assert_eq!(value(query).await, answered, "{path} {status}");
        }
        for reason in ["NO_ENDPOINT", "CONNECT_FAILED", "DEADLINE"] {
            let query = format!("sum(sidelane_errors_total{{{labels},reason=\"{reason}\"}})");
            let failed = caller.count(path, |_, of| of == reason);
            assert_eq!(value(query).await, failed, "{path} {reason}");
        }
    }
    for path in [UNARY, MISSING] {
        let method = if path == UNARY { "Unary" } else { "other" };
        let labels = format!("{},method=\"{method}\"", inbound(services::ECHO));
        let counted = value(format!("sum(sidelane_requests_total{{{labels}}})")).await;
        assert_eq!(counted, caller.count(path, reached), "{path}");
    }

    // The share of errors, by reason.
    let labels = inbound(services::BEAT);
    let shares = format!(
        "sum by (reason) (sidelane_errors_total{{{labels}}}) \
         / ignoring(reason) group_left sum(sidelane_requests_total{{{labels}}})"
    );
    let shares = prometheus.query(&shares).await.unwrap();
    let share = limited / delivered;
    assert!(
        shares.len() == 1
            && shares[0].0["reason"] == "RATE_LIMITED"
            && (shares[0].1 - share).abs() < 1e-9,
        "{shares:?} {share}"
    );

    quantiles(&prometheus, &caller, &outbound(services::ECHO)).await;
    rates(&prometheus, &mut caller, &outbound(services::ECHO)).await;

    // Control tells of the mesh.
    let sessions = value("sum(sidelane_control_sessions{node=\"control\"})".to_owned()).await;
    assert_eq!(sessions, 2.0);
    for (_, admin) in targets {
        let page = sidelane_tests::admin::get_as(admin, "/metrics", "text/plain");
        prometheus::check(&page.await.unwrap().body).await;
    }
}

/// Its quantiles are in the bucket in which the caller's are, or in the one below: a caller waits for
/// its sidecar, too.
async fn quantiles(prometheus: &Prometheus, caller: &Caller, labels: &str) {
    let buckets = format!(
        "sum by (le) (sidelane_request_duration_seconds_bucket{{{labels},method=\"Unary\"}})"
    );
    let found = prometheus.query(&buckets).await.unwrap();
    let mut bounds: Vec<f64> = found
        .iter()
        .map(|(labels, _)| labels["le"].parse().unwrap())
        .collect();
    bounds.sort_by(f64::total_cmp);
    let bucket = |took: f64| bounds.iter().position(|bound| took <= *bound).unwrap();
    for share in [0.3, 0.5, 0.75, 0.95] {
        let query = format!("histogram_quantile({share}, {buckets})");
        let answered = prometheus.value(&query).await;
        let known = caller.quantile(share);
        let (at, expected) = (bucket(answered), bucket(known));
        assert!(
            at == expected || at + 1 == expected,
            "{share}: {answered} s, and {known} s for the caller, of {bounds:?}"
        );
    }
}

/// How many calls a second there were in the last ten, while they go on.
async fn rates(prometheus: &Prometheus, caller: &mut Caller, labels: &str) {
    const WINDOW: Duration = Duration::from_secs(10);
    let query = format!("sum(rate(sidelane_requests_total{{{labels},method=\"Unary\"}}[10s]))");
    let began = Instant::now();
    while began.elapsed() < WINDOW + Duration::from_secs(2) {
        caller.call(UNARY, &answered_with(0, 20)).await;
    }
    let answered = prometheus.value(&query).await;
    let calls = caller.took.iter().filter(|(_, at)| at.elapsed() < WINDOW);
    let known = calls.count() as f64 / WINDOW.as_secs_f64();
    // It has seen moments a second apart, and a busy machine is not even.
    assert!(
        answered > known / 2.0 && answered < known * 2.0,
        "{answered} a second, and {known} for the caller"
    );
}

//! A real Prometheus that scrapes a mesh: what its queries answer is what the callers know of their
//! own calls. Counts, and what follows from them (rates, shares of errors), match exactly; quantiles are
//! in the bucket in which they are for the caller, or beside it.
//!
//! Queries are asked as of moments at which it has read a page, over windows that begin and end at such
//! moments. So `rate` and `increase` have nothing to extrapolate, and a busy machine, which reads a page
//! late or not at all, changes nothing of what they have to answer.
#![allow(
    clippy::unwrap_used,
    clippy::float_cmp,
    clippy::cast_precision_loss,
    reason = "a panic is a failed test, and counts are small whole numbers"
)]

use std::time::{Duration, Instant};

use prost::Message;
use sidelane_proto::wire::routing::v1 as wire;
use sidelane_tests::applied::{applied, tuning, with};
use sidelane_tests::client::RawClient;
use sidelane_tests::prometheus::{self, Prometheus, Scrape, unix_ms};
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
/// For a mesh to stand, and for pages to be read.
const LIMIT: Duration = Duration::from_secs(60);
/// Pages of each sidecar that are read while calls go on steadily.
const PAGES: usize = 8;
/// A page that is read tells what was so at most as long after its moment as reading it took, and this.
const LATER_MS: i64 = 100;

/// A call, as its caller knows it.
#[derive(Debug)]
struct Made {
    path: &'static str,
    status: i32,
    /// The mesh's reason; empty where the app has answered.
    reason: String,
    /// How long the app was asked to take, and how long all of it took, in seconds.
    asked: f64,
    took: f64,
    /// When it began and ended, in milliseconds since 1970.
    time: (i64, i64),
}

/// Who makes calls, one after the other, and what it has made.
struct Caller {
    client: RawClient,
    made: Vec<Made>,
}

impl Caller {
    async fn call(&mut self, path: &'static str, message: &impl Message) -> i32 {
        self.call_for(path, message, 0).await
    }

    async fn unary(&mut self, status: i32, delay_ms: u32) -> i32 {
        let behaviour = Some(Behaviour {
            status,
            delay_ms,
            ..Behaviour::default()
        });
        let request = UnaryRequest {
            behaviour,
            ..UnaryRequest::default()
        };
        self.call_for(UNARY, &request, delay_ms).await
    }

    async fn call_for(&mut self, path: &'static str, message: &impl Message, ms: u32) -> i32 {
        let (began, clock) = (unix_ms(), Instant::now());
        let answer = self.client.unary(path, &[], message).await.unwrap();
        let took = clock.elapsed().as_secs_f64();
        let status = i32::from(answer.grpc_status().unwrap().code());
        let reason = answer.headers.get("sidelane-error");
        self.made.push(Made {
            path,
            status,
            reason: reason.map_or("", |it| it.to_str().unwrap()).to_owned(),
            asked: f64::from(ms) / 1_000.0,
            took,
            time: (began, unix_ms()),
        });
        status
    }
}

fn count(made: &[Made], fits: impl Fn(&Made) -> bool) -> f64 {
    made.iter().filter(|call| fits(call)).count() as f64
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
        made: Vec::new(),
    };
    // Every call is counted, those as well by which it is seen that the mesh stands.
    let began = Instant::now();
    while caller.unary(0, 0).await != 0 || caller.call(PING, &PingRequest::default()).await != 0 {
        assert!(began.elapsed() < LIMIT, "{:?}", caller.made);
    }
    (mesh, caller)
}

/// Steady calls, until some pages of each sidecar were read meanwhile, and then some of every kind.
async fn load(caller: &mut Caller, prometheus: &Prometheus) {
    let began = (unix_ms(), Instant::now());
    for node in ["caller", "callee"] {
        let since = |scrape: &&Scrape| scrape.at > began.0;
        while prometheus.scrapes(node).await.iter().filter(since).count() < PAGES {
            assert!(began.1.elapsed() < LIMIT, "{node} is hardly ever read");
            for _ in 0..10 {
                assert_eq!(caller.unary(0, 15).await, 0);
            }
        }
    }
    for number in 0..120 {
        let delay = match number % 10 {
            0..6 => 6,
            6..9 => 35,
            _ => 170,
        };
        assert_eq!(caller.unary(0, delay).await, 0);
    }
    for _ in 0..25 {
        assert_eq!(caller.unary(9, 6).await, 9);
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

/// All calls that were made, and those of the load.
type Calls<'a> = (&'a [Made], &'a [Made]);

/// A node's figures between two moments at which its page was read.
struct Window<'a> {
    prometheus: &'a Prometheus,
    node: &'static str,
    from: i64,
    to: i64,
}

impl Window<'_> {
    fn seconds(&self) -> f64 {
        (self.to - self.from) as f64 / 1_000.0
    }

    /// Its value of a query at the end.
    async fn value(&self, query: &str) -> f64 {
        self.prometheus.value_at(query, self.to).await
    }

    /// Asks for what this selects so many times a second, as people do. A millisecond more, since where
    /// windows are open at their beginning, the page there would be outside.
    async fn rate(&self, selector: &str) -> f64 {
        let window = self.to - self.from + 1;
        self.value(&format!("sum(rate({selector}[{window}ms]))"))
            .await
    }

    /// What this selects was counted for each of these calls: ever, in the window, and so often a second.
    async fn holds(&self, selector: &str, calls: Calls<'_>, fits: impl Fn(&Made) -> bool) {
        let ever = self.value(&format!("sum({selector})")).await;
        assert_eq!(ever, count(calls.0, &fits), "{selector}");
        let counted = count(calls.1, &fits);
        let known = counted / self.seconds();
        // Series that are not there yet have counted nothing. That is what `rate` cannot know.
        let since = format!(
            "(sum({selector}) or vector(0)) - (sum({selector} @ {}.{:03}) or vector(0))",
            self.from / 1_000,
            self.from % 1_000
        );
        assert_eq!(self.value(&since).await, counted, "{selector}");
        let rate = format!("({since}) / {}", self.seconds());
        let answered = self.value(&rate).await;
        assert!(close(answered, known), "{selector}: {answered} of {known}");
        let there = format!("count({selector})");
        let before = self.prometheus.value_at(&there, self.from).await;
        if before > 0.0 && before == self.value(&there).await {
            let answered = self.rate(selector).await;
            assert!(close(answered, known), "{selector}: {answered} of {known}");
        }
    }
}

/// But for the one millisecond of windows that last for seconds.
fn close(answered: f64, known: f64) -> bool {
    (answered - known).abs() <= known * 1e-3
}

/// The next page that is read once all calls have ended and are counted. Where a page tells that none is
/// open, it may have told the rest a moment before, but the one after that has not.
async fn settled(prometheus: &Prometheus, node: &'static str) -> i64 {
    let open = format!("sum(sidelane_calls_in_flight{{node=\"{node}\"}})");
    let began = Instant::now();
    loop {
        let scrape = prometheus.next_scrape(node).await;
        if prometheus.value_at(&open, scrape.at).await == 0.0 {
            return prometheus.next_scrape(node).await.at;
        }
        assert!(began.elapsed() < LIMIT, "{node} has calls for ever");
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
    let both = || async {
        tokio::join!(
            settled(&prometheus, "caller"),
            settled(&prometheus, "callee")
        )
    };
    let before = both().await;
    let earlier = caller.made.len();
    load(&mut caller, &prometheus).await;
    let after = both().await;
    let window = |node, from, to| Window {
        prometheus: &prometheus,
        node,
        from,
        to,
    };
    let outbound = window("caller", before.0, after.0);
    let inbound = window("callee", before.1, after.1);

    let calls = (&caller.made[..], &caller.made[earlier..]);
    let lonely = |call: &Made| call.path == PULL && call.reason == "NO_ENDPOINT";
    assert_eq!(count(calls.1, lonely), 7.0, "{:?}", calls.1);
    left(&outbound, calls).await;
    arrived(&inbound, calls).await;
    quantiles(&outbound, calls.1).await;
    for window in [&outbound, &inbound] {
        meanwhile(window, calls.1).await;
    }

    // Control tells of the mesh.
    let control = prometheus.next_scrape("control").await.at;
    let sessions = "sum(sidelane_control_sessions{node=\"control\"})";
    assert_eq!(prometheus.value_at(sessions, control).await, 2.0);
    for (_, admin) in targets {
        let page = sidelane_tests::admin::get_as(admin, "/metrics", "text/plain");
        prometheus::check(&page.await.unwrap().body).await;
    }
}

/// What the caller's sidecar tells of calls.
async fn left(window: &Window<'_>, calls: Calls<'_>) {
    for (path, service, method) in [
        (UNARY, services::ECHO, "Unary"),
        (MISSING, services::ECHO, "other"),
        (PING, services::BEAT, "Ping"),
        (PULL, services::BULK, "Pull"),
    ] {
        let labels = format!(
            "node=\"caller\",direction=\"outbound\",service=\"{service}\",method=\"{method}\""
        );
        for name in ["requests_total", "request_duration_seconds_count"] {
            let selector = format!("sidelane_{name}{{{labels}}}");
            window.holds(&selector, calls, |it| it.path == path).await;
        }
        for status in 0..=16 {
            let selector = format!("sidelane_responses_total{{{labels},status=\"{status}\"}}");
            // What a peer's sidecar refuses is an answer, too.
            let answered = |it: &Made| {
                let by_mesh = !["", "RATE_LIMITED"].contains(&&*it.reason);
                it.path == path && it.status == status && !by_mesh
            };
            window.holds(&selector, calls, answered).await;
        }
        for reason in ["NO_ENDPOINT", "CONNECT_FAILED", "DEADLINE"] {
            let selector = format!("sidelane_errors_total{{{labels},reason=\"{reason}\"}}");
            let failed = |it: &Made| it.path == path && it.reason == reason;
            window.holds(&selector, calls, failed).await;
        }
    }
    let refused = "sidelane_refused_total{node=\"caller\",reason=\"UNKNOWN_SERVICE\"}";
    window.holds(refused, calls, |it| it.path == UNKNOWN).await;
}

/// What the callee's sidecar tells of them, and the share of errors, by reason.
async fn arrived(window: &Window<'_>, calls: Calls<'_>) {
    let labels =
        |service: &str| format!("node=\"callee\",direction=\"inbound\",service=\"{service}\"");
    for (path, service, method) in [
        (UNARY, services::ECHO, "Unary"),
        (MISSING, services::ECHO, "other"),
        (PING, services::BEAT, "Ping"),
    ] {
        let labels = labels(service);
        let selector = format!("sidelane_requests_total{{{labels},method=\"{method}\"}}");
        window.holds(&selector, calls, |it| reached(it, path)).await;
    }
    let labels = labels(services::BEAT);
    let limited = |it: &Made| it.path == PING && it.reason == "RATE_LIMITED";
    let selector = format!("sidelane_errors_total{{{labels},reason=\"RATE_LIMITED\"}}");
    window.holds(&selector, calls, limited).await;

    let shares = format!(
        "sum by (reason) (sidelane_errors_total{{{labels}}}) \
         / ignoring(reason) group_left sum(sidelane_requests_total{{{labels}}})"
    );
    let shares = window.prometheus.query_at(&shares, window.to).await;
    let pings = count(calls.0, |it| reached(it, PING));
    let limited = count(calls.0, limited);
    assert!(limited > 0.0 && limited < pings, "{:?}", calls.0);
    assert!(
        shares.len() == 1
            && shares[0].0["reason"] == "RATE_LIMITED"
            && (shares[0].1 - limited / pings).abs() < 1e-9,
        "{shares:?}, {limited} of {pings}"
    );
}

/// It has come to the callee's sidecar: what failed otherwise, has failed before.
fn reached(call: &Made, path: &str) -> bool {
    call.path == path && ["", "RATE_LIMITED"].contains(&&*call.reason)
}

/// The quantiles of the window are in the bucket in which the caller's are, or in the one below, since a
/// caller waits for its sidecar, too; and not below the bucket of what the app was asked to take.
async fn quantiles(window: &Window<'_>, made: &[Made]) {
    let length = window.to - window.from + 1;
    let buckets = format!(
        "sum by (le) (rate(sidelane_request_duration_seconds_bucket{{\
         node=\"caller\",direction=\"outbound\",method=\"Unary\"}}[{length}ms]))"
    );
    let found = window.prometheus.query_at(&buckets, window.to).await;
    let bound = |series: &prometheus::Series| series.0["le"].parse().unwrap();
    let mut bounds: Vec<f64> = found.iter().map(bound).collect();
    bounds.sort_by(f64::total_cmp);
    let bucket = |took: f64| bounds.iter().position(|bound| took <= *bound).unwrap();
    let unary = || made.iter().filter(|call| call.path == UNARY);
    let [mut took, mut asked] = [
        unary().map(|call| call.took).collect::<Vec<_>>(),
        unary().map(|call| call.asked).collect(),
    ];
    for share in [0.1, 0.5, 0.9, 0.99] {
        let query = format!("histogram_quantile({share}, {buckets})");
        let answered = window.value(&query).await;
        let [known, least] = [&mut took, &mut asked].map(|all| quantile(all, share));
        let [at, above, below] = [answered, known, least].map(bucket);
        println!("{share}: {answered} s, {known} s for the caller, at least {least} s");
        assert!(
            (at == above || at + 1 == above) && at >= below,
            "{share}: {answered} s, and {known} s for the caller, of {bounds:?}"
        );
    }
}

/// How long so great a share of the calls took at most.
fn quantile(took: &mut [f64], share: f64) -> f64 {
    took.sort_by(f64::total_cmp);
    let mut place = 0;
    while ((place + 1) as f64) < share * took.len() as f64 {
        place += 1;
    }
    took[place]
}

/// Between any two pages that were read while calls were made, there were as many a second as the caller
/// has made in that time. Which call was the last before a page was read is known but for those
/// that were made while it was.
async fn meanwhile(window: &Window<'_>, made: &[Made]) {
    let unary: Vec<_> = made.iter().filter(|call| call.path == UNARY).collect();
    let (first, last) = (unary[0].time.0, unary[unary.len() - 1].time.1);
    let pages = window.prometheus.scrapes(window.node).await;
    let within = |page: &Scrape| page.at > first && page.at < last;
    let pages: Vec<_> = pages.into_iter().filter(within).collect();
    assert!(pages.len() >= PAGES, "{pages:?}");
    // Calls that a page tells of: at least, and at most.
    let told = |page: &Scrape| {
        let latest = page.at + i64::try_from(page.took.as_millis()).unwrap() + LATER_MS;
        let ended = unary.iter().filter(|call| call.time.1 < page.at).count();
        let begun = unary.iter().filter(|call| call.time.0 <= latest).count();
        (ended as f64, begun as f64)
    };
    let direction = match window.node {
        "caller" => "outbound",
        _ => "inbound",
    };
    let selector = format!(
        "sidelane_requests_total{{node=\"{}\",direction=\"{direction}\",method=\"Unary\"}}",
        window.node
    );
    for (place, from) in pages.iter().enumerate() {
        for to in &pages[place + 1..] {
            let between = Window {
                from: from.at,
                to: to.at,
                ..*window
            };
            let calls = between.rate(&selector).await * between.seconds();
            let least = told(to).0 - told(from).1;
            let most = told(to).1 - told(from).0;
            assert!(
                calls >= least * 0.999 && calls <= most * 1.001,
                "{calls} between {from:?} and {to:?}, and {least} to {most} for the caller"
            );
        }
    }
    let (from, to) = (&pages[0], &pages[pages.len() - 1]);
    println!(
        "{} of {} at {from:?} and {:?} at {to:?}",
        window.node,
        told(from).0,
        told(to)
    );
}

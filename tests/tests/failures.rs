//! Endpoints that fail, seen at the servers: how often a call is sent again, when, and to whom.
//! The servers answer frame by frame, so that they refuse, push back and recover as a test says.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use h2::Reason;
use http::StatusCode;
use sidelane_proto::model::Lane;
use sidelane_proto::wire::routing::v1 as wire;
use sidelane_tests::admin::Answer;
use sidelane_tests::applied::{applied, idempotent, retry, rule, unary, with};
use sidelane_tests::ask::ECHO_UNARY;
use sidelane_tests::client::{RawClient, mesh_reason};
use sidelane_tests::cluster::Node;
use sidelane_tests::upstream::raw::RawRequest;
use sidelane_tests::wire::v1::UnaryRequest;
use sidelane_tests::{Cluster, RawUpstream, cluster, services, unruled};
use tokio::time::{interval, sleep, timeout};
use tonic::{Code, Status};

const LIMIT: Duration = Duration::from_secs(10);

/// How a server answers.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Way {
    /// With a message.
    Well,
    /// UNAVAILABLE, as a whole answer of a head.
    Unavailable,
    /// The same, and the next attempt is to come after this many milliseconds.
    Pushback(&'static str),
    /// `REFUSED_STREAM`.
    Refuse,
    /// `NOT_FOUND`: an answer like any other.
    NotFound,
    /// A message first, then UNAVAILABLE.
    Begun,
    /// Not before the test names another way.
    Held,
}

/// A server whose way of answering a test changes, and which counts.
struct Server {
    upstream: RawUpstream,
    way: Arc<Mutex<Way>>,
    arrivals: Arc<Mutex<Vec<Instant>>>,
}

impl Server {
    async fn start(way: Way) -> Self {
        let way = Arc::new(Mutex::new(way));
        let arrivals = Arc::<Mutex<Vec<Instant>>>::default();
        let (how, noted) = (Arc::clone(&way), Arc::clone(&arrivals));
        let upstream = RawUpstream::start(move |request: RawRequest| {
            // The sidecar asks for the app's health on the same port.
            if request.head.uri().path() == ECHO_UNARY {
                noted.lock().unwrap().push(Instant::now());
            }
            answer(request, Arc::clone(&how))
        });
        Self {
            upstream: upstream.await,
            way,
            arrivals,
        }
    }

    fn now(&self, way: Way) {
        *self.way.lock().unwrap() = way;
    }

    fn arrivals(&self) -> Vec<Instant> {
        self.arrivals.lock().unwrap().clone()
    }

    fn count(&self) -> usize {
        self.arrivals.lock().unwrap().len()
    }
}

async fn answer(mut request: RawRequest, how: Arc<Mutex<Way>>) {
    if request.head.uri().path() != ECHO_UNARY {
        let unimplemented = [("grpc-status", "12")];
        request
            .answer
            .only_headers(StatusCode::OK, &unimplemented, None);
        return;
    }
    let mut way = *how.lock().unwrap();
    while way == Way::Held {
        tokio::select! {
            () = sleep(Duration::from_millis(1)) => {}
            _ = request.answer.caller_resets() => return,
        }
        way = *how.lock().unwrap();
    }
    let status = match way {
        Way::Well | Way::Begun => {
            let status = if way == Way::Well { "0" } else { "14" };
            let mut body = request.answer.begin(StatusCode::OK, &[]);
            body.message(b"");
            body.trailers(&[("grpc-status", status)], None);
            return;
        }
        Way::Refuse => return request.answer.reset(Reason::REFUSED_STREAM),
        Way::Unavailable => vec![("grpc-status", "14")],
        Way::Pushback(time) => vec![("grpc-status", "14"), ("grpc-retry-pushback-ms", time)],
        Way::NotFound => vec![("grpc-status", "5")],
        Way::Held => unreachable!("it waited for another"),
    };
    request.read_all().await;
    request.answer.only_headers(StatusCode::OK, &status, None);
}

/// A caller, and a node for each server; no rule was compiled into any of them.
struct Mesh {
    cluster: Cluster,
    servers: Vec<Server>,
    client: RawClient,
}

async fn mesh(ways: &[Way]) -> Mesh {
    let mut servers = Vec::new();
    let mut building = cluster!().control();
    for (way, name) in ways.iter().zip(["a", "b", "c"]) {
        let server = Server::start(*way).await;
        building = building
            .node(name)
            .running(unruled!())
            .serving(services::ECHO, &server.upstream);
        servers.push(server);
    }
    let building = building.node("caller").running(unruled!());
    let cluster = building.launch().await;
    cluster.control().ready().await;
    for node in cluster.nodes() {
        node.ready().await;
    }
    let caller = cluster.node("caller");
    let explain = format!("/explain?path=/{}/Unary", services::ECHO);
    caller
        .answers(&explain, |answer| eligible(answer) == ways.len())
        .await;
    let client = RawClient::connect(caller.outbound()).await.unwrap();
    Mesh {
        cluster,
        servers,
        client,
    }
}

fn candidates(answer: &Answer) -> Vec<serde_json::Value> {
    let answer: serde_json::Value = serde_json::from_str(&answer.body).unwrap_or_default();
    answer["candidates"].as_array().cloned().unwrap_or_default()
}

fn eligible(answer: &Answer) -> usize {
    let candidates = candidates(answer);
    candidates
        .iter()
        .filter(|it| it["eligible"] == true)
        .count()
}

/// Round robin, so that the next endpoint is known, and no breaker unless a test says so.
fn echo(change: impl FnOnce(&mut wire::Rule)) -> wire::PushedRule {
    with(rule(services::ECHO, Lane::GENERAL), |rule| {
        rule.load_balancing = wire::LoadBalancing::RoundRobin.into();
        rule.breaker = Some(wire::Breaker {
            off: true,
            ..wire::Breaker::default()
        });
        rule.outlier = Some(wire::Outlier {
            off: true,
            ..wire::Outlier::default()
        });
        change(rule);
    })
}

async fn call(client: RawClient) -> Status {
    let request = UnaryRequest::default();
    let called = client.unary(ECHO_UNARY, &[], &request);
    let answer = timeout(LIMIT, called).await.expect("an answer in time");
    answer.unwrap().grpc_status().unwrap()
}

impl Mesh {
    fn caller(&self) -> &Node {
        self.cluster.node("caller")
    }

    async fn apply(&self, change: impl FnOnce(&mut wire::Rule)) {
        applied(self.cluster.control(), &[self.caller()], echo(change)).await;
    }

    async fn call(&self) -> Status {
        call(self.client.clone()).await
    }

    /// Attempts that reached the servers.
    fn attempts(&self) -> usize {
        self.servers.iter().map(Server::count).sum()
    }

    /// Calls once; how many attempts that made, and the status.
    async fn attempts_of_a_call(&self) -> (usize, Code) {
        let before = self.attempts();
        let status = self.call().await;
        (self.attempts() - before, status.code())
    }

    /// 1,000 calls a second for so long, whatever comes of them; how many, and for how long.
    async fn storm(&self, time: Duration) -> (u64, Duration) {
        let (begun, calls) = (Instant::now(), Arc::new(AtomicU64::new(0)));
        let mut due = interval(Duration::from_millis(1));
        let mut tasks = tokio::task::JoinSet::new();
        while begun.elapsed() < time {
            due.tick().await;
            let (client, calls) = (self.client.clone(), Arc::clone(&calls));
            tasks.spawn(async move {
                call(client).await;
                calls.fetch_add(1, Ordering::Relaxed);
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.unwrap();
        }
        (calls.load(Ordering::Relaxed), begun.elapsed())
    }
}

/// The bound of all attempts together: 1.2 times the calls and ten a second, and what two quiet
/// seconds before may have left.
fn bound(calls: f64, time: Duration) -> f64 {
    calls * 1.2 + 10.0 * (time.as_secs_f64() + 2.0)
}

#[tokio::test]
async fn endpoints_that_all_fail_or_refuse_get_no_storm_of_retries() {
    for way in [Way::Unavailable, Way::Refuse] {
        let mesh = mesh(&[way, way]).await;
        mesh.apply(|rule| {
            rule.methods = vec![idempotent("Unary")];
            rule.retry = retry(5, &[]);
        })
        .await;
        let (calls, time) = mesh.storm(Duration::from_secs(3)).await;
        assert!(calls > 300, "{calls} calls in {time:?}");
        #[allow(clippy::cast_precision_loss, reason = "few calls")]
        let (calls, attempts) = (calls as f64, mesh.attempts() as f64);
        println!("{attempts} attempts of {calls} calls in {time:?}");
        let most = bound(calls, time);
        assert!(attempts <= most, "{attempts} attempts of {calls} calls");
        // And it is used, for what else would it be there.
        assert!(attempts > calls * 1.1, "{attempts} attempts of {calls}");
        let metrics = mesh.caller().metrics().await;
        let of = |name, label| metrics.sum(name, &[("service", services::ECHO), label]);
        let kind = if way == Way::Refuse {
            "refused"
        } else {
            "repeat"
        };
        // None was made without being counted.
        let counted = of("sidelane_retries_total", ("kind", kind));
        assert!(counted + 0.5 > attempts - calls, "{counted}");
        assert!(counted <= most - calls, "{counted}");
        assert!(of("sidelane_retries_withheld_total", ("why", "budget")) > 0.5);
    }
}

#[tokio::test]
async fn a_budget_of_its_rules_own_is_kept() {
    let mesh = mesh(&[Way::Unavailable]).await;
    mesh.apply(|rule| {
        rule.methods = vec![idempotent("Unary")];
        rule.retry = retry(2, &[]).map(|retry| wire::Retry {
            budget_percent: Some(0),
            budget_per_second: Some(1),
            pause: "1ms".to_owned(),
            ..retry
        });
    })
    .await;
    let (calls, time) = mesh.storm(Duration::from_secs(2)).await;
    let further = (mesh.attempts() as u64).saturating_sub(calls);
    // The budget was made with the default's first second.
    let most = 11 + time.as_secs() + 1;
    assert!(further <= most, "{further} further attempts in {time:?}");
}

#[tokio::test]
async fn pushback_is_obeyed_to_within_20_ms() {
    let mesh = mesh(&[Way::Pushback("200")]).await;
    mesh.apply(|rule| {
        rule.methods = vec![idempotent("Unary")];
        rule.retry = retry(2, &[]);
    })
    .await;
    // The best of a few: the machine may be busy.
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let (attempts, code) = mesh.attempts_of_a_call().await;
        assert_eq!((attempts, code), (2, Code::Unavailable));
        let arrivals = mesh.servers[0].arrivals();
        let [.., first, second] = arrivals.as_slice() else {
            panic!("two attempts");
        };
        let pause = *second - *first;
        assert!(pause >= Duration::from_millis(199), "too soon: {pause:?}");
        best = best.min(pause);
    }
    println!("the best of five pauses of 200 ms: {best:?}");
    assert!(best <= Duration::from_millis(220), "{best:?}");
    // A server that wants none gets none.
    mesh.servers[0].now(Way::Pushback("-1"));
    assert_eq!(mesh.attempts_of_a_call().await.0, 1);
    let metrics = mesh.caller().metrics().await;
    let labels = [("service", services::ECHO), ("why", "pushback")];
    let withheld = metrics.sum("sidelane_retries_withheld_total", &labels);
    assert!((withheld - 1.0).abs() < 0.5, "{withheld}");
}

#[tokio::test]
async fn errors_amid_traffic_are_tried_again_and_what_has_begun_is_not() {
    let mesh = mesh(&[Way::Unavailable, Way::Well]).await;
    mesh.apply(|rule| {
        rule.methods = vec![idempotent("Unary")];
        rule.retry = retry(3, &[]);
    })
    .await;
    // One in two meets the server that fails, and is well answered by the other.
    for _ in 0..10 {
        assert_eq!(mesh.call().await.code(), Code::Ok);
    }
    assert!(mesh.servers[0].count() >= 4);
    mesh.servers[1].now(Way::Unavailable);
    assert_eq!(mesh.attempts_of_a_call().await, (3, Code::Unavailable));
    mesh.servers[0].now(Way::Begun);
    mesh.servers[1].now(Way::Begun);
    assert_eq!(mesh.attempts_of_a_call().await, (1, Code::Unavailable));
}

#[tokio::test]
async fn what_may_not_run_twice_goes_elsewhere_only_if_it_was_not_looked_at() {
    let mesh = mesh(&[Way::Well, Way::Well]).await;
    mesh.apply(|rule| rule.methods = vec![unary("Unary")]).await;
    let both = |way| {
        for server in &mesh.servers {
            server.now(way);
        }
    };
    for way in [Way::Unavailable, Way::Pushback("1"), Way::Begun] {
        both(way);
        assert_eq!(mesh.attempts_of_a_call().await, (1, Code::Unavailable));
    }
    both(Way::NotFound);
    assert_eq!(mesh.attempts_of_a_call().await, (1, Code::NotFound));
    // Each refuses once.
    both(Way::Refuse);
    assert_eq!(mesh.attempts_of_a_call().await, (2, Code::Unavailable));
    mesh.servers[0].now(Way::Well);
    for _ in 0..10 {
        assert_eq!(mesh.call().await.code(), Code::Ok);
    }
}

#[tokio::test]
async fn a_breaker_opens_probes_once_and_closes_again() {
    let mesh = mesh(&[Way::Unavailable, Way::Well]).await;
    mesh.apply(|rule| {
        rule.methods = vec![unary("Unary")];
        rule.breaker = Some(wire::Breaker {
            open: "2s".to_owned(),
            max_open: "20s".to_owned(),
            ..wire::Breaker::default()
        });
    })
    .await;
    let explain = format!("/{}/Unary", services::ECHO);
    // Round robin: five of ten calls fail, and then none does.
    let mut failed = 0;
    for _ in 0..30 {
        failed += usize::from(mesh.call().await.code() == Code::Unavailable);
    }
    assert_eq!(failed, 5);
    assert_eq!(mesh.servers[0].count(), 5);
    let shown = candidates(&mesh.caller().explain(&explain).await);
    let open = shown.iter().find(|it| it["node_id"] == "a").unwrap();
    assert_eq!(open["eligible"], false);
    let reason = open["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("its breaker is open for another "),
        "{reason}"
    );
    assert!(reason.ends_with(" s: 5 failures in a row"), "{reason}");

    // Not before the time, less a fifth of it; then one call, and while that is under way all
    // others go elsewhere, however many there are at once.
    mesh.servers[0].now(Way::Held);
    let opened = *mesh.servers[0].arrivals().last().unwrap();
    let mut calls = tokio::task::JoinSet::new();
    while mesh.servers[0].count() == 5 {
        for _ in 0..10 {
            calls.spawn(call(mesh.client.clone()));
        }
        sleep(Duration::from_millis(10)).await;
        assert!(opened.elapsed() < LIMIT, "no probe");
    }
    let waited = mesh.servers[0].arrivals()[5] - opened;
    assert!(waited >= Duration::from_millis(1_600), "{waited:?}");
    for _ in 0..20 {
        assert_eq!(mesh.call().await.code(), Code::Ok);
    }
    mesh.servers[0].now(Way::Unavailable);
    let answers = calls.join_all().await;
    let failed = answers.iter().filter(|it| it.code() != Code::Ok).count();
    assert_eq!((failed, mesh.servers[0].count()), (1, 6));
    // It failed: the breaker is open for another while.
    for _ in 0..20 {
        assert_eq!(mesh.call().await.code(), Code::Ok);
    }
    assert_eq!(mesh.servers[0].count(), 6);

    // It is well again: two probes, and it takes its turns.
    mesh.servers[0].now(Way::Well);
    let second = Instant::now();
    while mesh.servers[0].count() < 8 {
        assert_eq!(mesh.call().await.code(), Code::Ok);
        assert!(second.elapsed() < LIMIT, "not taken back");
    }
    let before = mesh.servers[0].count();
    for _ in 0..20 {
        assert_eq!(mesh.call().await.code(), Code::Ok);
    }
    assert_eq!(mesh.servers[0].count() - before, 10);
    let metrics = mesh.caller().metrics().await;
    for (to, expected) in [("open", 2.0), ("half_open", 2.0), ("closed", 1.0)] {
        let labels = [("service", services::ECHO), ("to", to)];
        let changes = metrics.sum("sidelane_breaker_changes_total", &labels);
        assert!((changes - expected).abs() < 0.5, "{to}: {changes}");
    }
}

#[tokio::test]
async fn by_default_an_open_breaker_steers_and_never_shuts_a_service() {
    // A service of which no rule says anything.
    let mesh = mesh(&[Way::Held, Way::Unavailable]).await;
    // Calls with too little time: six at each.
    let hasty = [("grpc-timeout", "20m")];
    let request = UnaryRequest::default();
    for _ in 0..12 {
        let answer = mesh.client.unary(ECHO_UNARY, &hasty, &request).await;
        assert_ne!(answer.unwrap().grpc_status().unwrap().code(), Code::Ok);
    }
    let path = format!("/{}/Unary", services::ECHO);
    let metrics = mesh.caller().metrics().await;
    let labels = [("service", services::ECHO)];
    let opened = metrics.sum("sidelane_breaker_changes_total", &labels);
    assert!(opened > 0.5, "none has opened");
    // Whoever has the time is answered, whichever is open.
    for server in &mesh.servers {
        server.now(Way::Well);
    }
    for _ in 0..20 {
        assert_eq!(mesh.attempts_of_a_call().await, (1, Code::Ok));
    }
    // One that fails alone is left alone.
    mesh.servers[0].now(Way::Unavailable);
    let begun = Instant::now();
    loop {
        for _ in 0..10 {
            mesh.call().await;
        }
        let shown = candidates(&mesh.caller().explain(&path).await);
        let failing = shown.iter().find(|it| it["node_id"] == "a").unwrap();
        if failing["eligible"] == false {
            let reason = failing["reason"].as_str().unwrap();
            assert!(reason.ends_with("; others are preferred"), "{reason}");
            break;
        }
        assert!(begun.elapsed() < LIMIT, "{shown:?}");
    }
    let before = mesh.servers[0].count();
    for _ in 0..20 {
        assert_eq!(mesh.call().await.code(), Code::Ok);
    }
    assert!(mesh.servers[0].count() <= before + 1, "not left alone");
    let explained = mesh.caller().explain(&path).await.body;
    assert!(
        explained.contains("steers, and refuses only where a rule says"),
        "{explained}"
    );
}

#[tokio::test]
async fn when_every_breaker_of_a_rules_own_is_open_the_call_says_so_and_nobody_is_asked() {
    let mesh = mesh(&[Way::NotFound]).await;
    mesh.apply(|rule| {
        rule.methods = vec![unary("Unary")];
        rule.breaker = Some(wire::Breaker::default());
    })
    .await;
    // An app's own answers are no failures, whatever they say.
    for _ in 0..10 {
        assert_eq!(mesh.call().await.code(), Code::NotFound);
    }
    mesh.servers[0].now(Way::Unavailable);
    for _ in 0..5 {
        assert_eq!(mesh_reason(&mesh.call().await), None);
    }
    let status = mesh.call().await;
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(mesh_reason(&status).as_deref(), Some("BREAKER_OPEN"));
    let text = status.message();
    assert!(text.contains("5 failures in a row"), "{text}");
    assert_eq!(mesh.servers[0].count(), 15);
    let metrics = mesh.caller().metrics().await;
    let labels = [("service", services::ECHO), ("reason", "BREAKER_OPEN")];
    assert!(metrics.sum("sidelane_errors_total", &labels) > 0.5);
    // A node that is named is asked all the same.
    let named = [("sidelane-node", "a")];
    let request = UnaryRequest::default();
    let answer = mesh.client.unary(ECHO_UNARY, &named, &request).await;
    let status = answer.unwrap().grpc_status().unwrap();
    assert_eq!(mesh_reason(&status), None, "{status:?}");
    assert_eq!(mesh.servers[0].count(), 16);
}

#[tokio::test]
async fn an_endpoint_that_fails_more_often_than_the_others_is_left_alone() {
    let mesh = mesh(&[Way::Well, Way::Well, Way::Well]).await;
    mesh.apply(|rule| {
        rule.methods = vec![unary("Unary")];
        rule.outlier = Some(wire::Outlier::default());
    })
    .await;
    // Two of its answers in three are well: neither a run nor a share that would open its breaker,
    // which is off besides.
    let began = Instant::now();
    loop {
        for way in [Way::Well, Way::Unavailable, Way::Well] {
            mesh.servers[0].now(way);
            for _ in 0..3 {
                mesh.call().await;
            }
        }
        sleep(Duration::from_millis(5)).await;
        let metrics = mesh.caller().metrics().await;
        let labels = [("service", services::ECHO)];
        let open = metrics.sum("sidelane_breakers_open", &labels);
        if open > 0.5 {
            break;
        }
        assert!(began.elapsed() < LIMIT, "it is not found out");
    }
    let before = mesh.servers[0].count();
    for _ in 0..30 {
        mesh.call().await;
    }
    assert_eq!(mesh.servers[0].count(), before);
    let explain = format!("/{}/Unary", services::ECHO);
    let shown = candidates(&mesh.caller().explain(&explain).await);
    let open = shown.iter().find(|it| it["node_id"] == "a").unwrap();
    let reason = open["reason"].as_str().unwrap();
    assert!(reason.ends_with("far fewer than elsewhere"), "{reason}");
}

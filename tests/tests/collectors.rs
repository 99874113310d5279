//! Collectors that are away, slow, silent, or take only some of what they are sent: no call is the worse
//! for it, what waits has a bound, and every span is counted as what became of it.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use sidelane_tests::admin::{Answer, Metrics};
use sidelane_tests::ask::{ECHO_UNARY, ask_over, until_answered};
use sidelane_tests::client::RawClient;
use sidelane_tests::cluster::Node;
use sidelane_tests::collector::{Collector, Takes, pair};
use sidelane_tests::{Cluster, Upstream, cluster};
use tonic::Code;

/// In which a sidecar that ends does.
const ENDS: Duration = Duration::from_secs(20);
/// Spans that wait at most, and that are sent at once at most, as the sidecar has it.
const QUEUE: f64 = 4_096.0;
const BATCH: f64 = 512.0;
/// What spans may add to a sidecar's memory: 16 MiB that wait, what is being sent in three forms, and what
/// an allocator keeps.
const MEMORY: u64 = 48 << 20;
const EXPORTED: &str = "sidelane_spans_exported_total";
const FAILED: &str = "sidelane_spans_failed_total";
const DROPPED: &str = "sidelane_spans_dropped_total";
const QUEUED: &str = "sidelane_spans_queued";

/// An address where nobody listens.
fn nobody() -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap()
}

async fn mesh(upstream: &Upstream, collector: &str) -> Cluster {
    pair(cluster!(), upstream, collector, &["--sampling 1"]).await
}

/// Makes calls, all of which are answered well.
async fn call(node: &Node, times: usize) {
    let client = RawClient::connect(node.outbound()).await.unwrap();
    for _ in 0..times {
        let answer = ask_over(&client, ECHO_UNARY, &[]).await;
        assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
    }
}

async fn counted(node: &Node, name: &str) -> f64 {
    node.metrics().await.sum(name, &[])
}

/// Waits until so many are counted.
async fn until(node: &Node, name: &str, count: f64) {
    let enough = |answer: &Answer| Metrics::parse(&answer.body).sum(name, &[]) >= count;
    node.answers("/metrics", enough).await;
}

#[tokio::test]
async fn a_collector_that_is_away_refuses_or_does_not_answer_fails_no_call() {
    let gone = nobody();
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream, &format!("http://{gone}")).await;
    let caller = mesh.node("caller");
    call(caller, 50).await;
    until(caller, FAILED, 1.0).await;
    let collector = Collector::at(gone).await;
    call(caller, 50).await;
    collector.until(|spans| !spans.is_empty()).await;
    until(caller, EXPORTED, 1.0).await;
    collector.now(Takes::Nothing);
    let failed = counted(caller, FAILED).await;
    call(caller, 50).await;
    until(caller, FAILED, failed + 50.0).await;
    // It hangs: what waits has a bound, and what is more is counted.
    collector.now(Takes::Forever);
    let begun = Instant::now();
    loop {
        call(caller, 500).await;
        let queued = counted(caller, QUEUED).await;
        assert!(queued <= QUEUE, "{queued}");
        if counted(caller, DROPPED).await > 0.0 {
            break;
        }
        assert!(begun.elapsed() < Duration::from_secs(60), "{queued} wait");
    }
    // Nor does it keep a sidecar from ending.
    caller.stop(ENDS).await;
}

#[tokio::test]
async fn what_a_collector_takes_only_in_part_is_counted_so() {
    let collector = Collector::start().await;
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream, &collector.url()).await;
    let caller = mesh.node("caller");
    until_answered(caller).await;
    until(caller, EXPORTED, 1.0).await;
    collector.now(Takes::ButOne);
    call(caller, 20).await;
    // One of each request, however many those are.
    until(caller, FAILED, 1.0).await;
    let begun = Instant::now();
    loop {
        let metrics = caller.metrics().await;
        let [exported, failed] = [EXPORTED, FAILED].map(|name| metrics.sum(name, &[]));
        if exported + failed >= 21.0 {
            assert!(exported > failed, "{exported} and {failed}");
            break;
        }
        assert!(begun.elapsed() < ENDS, "{exported} and {failed}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(counted(caller, DROPPED).await, 0.0);
    let said = "were rejected: one too many";
    assert!(caller.log().contains(said), "{}", caller.end_of_log());
}

#[tokio::test]
async fn spans_that_wait_take_so_much_memory_and_no_more() {
    let collector = Collector::start().await;
    collector.now(Takes::Forever);
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream, &collector.url()).await;
    let caller = mesh.node("caller");
    until_answered(caller).await;
    // What such calls take without spans that wait is there by then.
    call(caller, 50).await;
    let before = caller.forget_peak();
    let begun = Instant::now();
    while counted(caller, DROPPED).await == 0.0 {
        call(caller, 500).await;
        assert!(begun.elapsed() < Duration::from_secs(120));
    }
    call(caller, 1_000).await;
    let metrics = caller.metrics().await;
    let [queued, dropped] = [QUEUED, DROPPED].map(|name| metrics.sum(name, &[]));
    assert!(queued <= QUEUE && dropped >= 1_000.0, "{queued}, {dropped}");
    let grown = caller.peak_memory().saturating_sub(before);
    println!("{queued} wait, {dropped} dropped, {grown} bytes more");
    assert!(grown <= MEMORY, "{grown} bytes more");
}

#[tokio::test]
async fn the_environment_has_no_say_in_where_spans_go_and_what_goes_with_them() {
    let upstream = Upstream::named("callee").start().await;
    let mut mesh = mesh(&upstream, &format!("http://{}", nobody())).await;
    let collector = Collector::start().await;
    let elsewhere = format!("http://{}", nobody());
    let variables = [
        ("OTEL_EXPORTER_OTLP_ENDPOINT", &*elsewhere),
        ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", &*elsewhere),
        ("OTEL_EXPORTER_OTLP_HEADERS", "x-own=secret"),
        ("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip"),
        ("OTEL_EXPORTER_OTLP_TIMEOUT", "1"),
        ("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json"),
        ("OTEL_SERVICE_NAME", "own"),
        ("OTEL_RESOURCE_ATTRIBUTES", "x.own=1"),
        ("OTEL_TRACES_SAMPLER", "always_off"),
        ("OTEL_SDK_DISABLED", "true"),
    ];
    let flags = ["--otlp", &*collector.url(), "--sampling", "1"];
    let node = mesh.add("other", &flags, &variables).await;
    node.ready().await;
    until_answered(node).await;
    let spans = collector.until(|spans| !spans.is_empty()).await;
    let span = &spans[0];
    assert_eq!(span.resource["service.name"], "other", "not its node");
    assert!(!span.resource.contains_key("x.own"), "{span:#?}");
    let headers = collector.headers();
    assert!(!headers.contains_key("x-own"), "{headers:?}");
    let agent = headers.get("user-agent").unwrap().to_str().unwrap();
    assert!(agent.starts_with("sidelane-sidecar/"), "{agent}");
}

/// Calls of each batch, and batches of each mesh. Meshes take turns call by call, so that whatever else the
/// machine does falls on all of them alike. With so few calls, the p99 of a batch is what its second
/// slowest took, and the median over the batches is moved by no pause of a busy machine.
const CALLS: usize = 200;
const ROUNDS: usize = 15;
const TRIES: usize = 4;

#[tokio::test]
#[ignore = "compares times, which a busy machine makes"]
async fn a_collector_that_is_away_slow_silent_or_refuses_slows_no_call() {
    let upstream = Upstream::named("callee").start().await;
    let mut meshes = Vec::new();
    for takes in [
        Some(Takes::All),
        Some(Takes::Slowly(Duration::from_secs(2))),
        Some(Takes::Forever),
        Some(Takes::Nothing),
        None,
    ] {
        let collector = Collector::start().await;
        if let Some(takes) = takes {
            collector.now(takes);
        }
        let url = match takes {
            Some(_) => collector.url(),
            None => format!("http://{}", nobody()),
        };
        let mesh = mesh(&upstream, &url).await;
        let client = RawClient::connect(mesh.node("caller").outbound()).await;
        let name = takes.map_or("away".to_owned(), |takes| format!("{takes:?}"));
        meshes.push((name, client.unwrap(), mesh, collector));
    }
    // The first calls dial.
    for (_, client, ..) in &meshes {
        timed(client).await;
    }
    for attempt in 1..=TRIES {
        let mut all = vec![Vec::new(); meshes.len()];
        for _ in 0..ROUNDS {
            let mut times = vec![Vec::with_capacity(CALLS); meshes.len()];
            for call in 0..CALLS {
                // Each of them comes first as often as the others.
                for place in 0..meshes.len() {
                    let place = (place + call) % meshes.len();
                    times[place].push(timed(&meshes[place].1).await);
                }
            }
            for (mut times, each) in times.into_iter().zip(&mut all) {
                times.sort_unstable();
                each.push(times[CALLS * 99 / 100]);
            }
        }
        let medians = all.into_iter().map(|mut each| {
            each.sort_unstable();
            each[ROUNDS / 2]
        });
        let medians: Vec<Duration> = medians.collect();
        let mut slow = Vec::new();
        for ((name, ..), median) in meshes.iter().zip(&medians) {
            let ratio = median.as_secs_f64() / medians[0].as_secs_f64();
            println!("try {attempt}: {name}: p99 {median:?}, {ratio:.2} of a good collector's");
            if ratio > 1.25 {
                slow.push(name);
            }
        }
        if slow.is_empty() {
            break;
        }
        assert!(attempt < TRIES, "in each of {TRIES} tries: {slow:?}");
    }
    // What was measured is what it was meant to be.
    for (name, _, mesh, _) in &meshes {
        let metrics = mesh.node("caller").metrics().await;
        let of = |name| metrics.sum(name, &[]);
        let (exported, failed) = (of(EXPORTED), of(FAILED));
        let missing = of(DROPPED) + of(QUEUED);
        match &**name {
            "All" => assert!(exported > 0.0 && failed == 0.0, "{exported}, {failed}"),
            "away" | "Nothing" => assert!(exported == 0.0 && failed > 0.0, "{name}"),
            "Forever" => assert!(exported == 0.0 && missing > BATCH, "{name}: {missing}"),
            _ => assert!(exported > 0.0, "{name}"),
        }
    }
}

async fn timed(client: &RawClient) -> Duration {
    let begun = Instant::now();
    let answer = ask_over(client, ECHO_UNARY, &[]).await;
    let took = begun.elapsed();
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
    took
}

//! The figures of calls, as they are read at `/metrics`: what was sent is what was counted, by the
//! methods that rules name, and nobody makes a series by what they call.
#![allow(
    clippy::unwrap_used,
    clippy::float_cmp,
    reason = "a panic is a failed test, and figures are whole numbers"
)]

use prost::Message;
use std::collections::{BTreeMap, BTreeSet};

use sidelane_tests::admin::{Answer, get_as};
use sidelane_tests::ask::until_answered;
use sidelane_tests::client::{RawClient, framed};
use sidelane_tests::cluster::Node;
use sidelane_tests::collector::Collector;
use sidelane_tests::languages::python;
use sidelane_tests::openmetrics::{self, Family};
use sidelane_tests::run::Run;
use sidelane_tests::wire::v1::UnaryRequest;
use sidelane_tests::{Cluster, Upstream, cluster, services};

/// Names that nobody's rule has, in the test of them.
const MADE_UP: usize = 4_000;
/// Of them, until the first look.
const FIRST: usize = 1_000;

async fn mesh(upstream: &Upstream, flags: &[(&str, &str)]) -> Cluster {
    let mut mesh = cluster!().control().node("caller");
    for (flag, value) in flags {
        mesh = mesh.with(flag, value);
    }
    let mesh = mesh.node("callee").serving(services::ECHO, upstream);
    let mesh = mesh.start().await;
    until_answered(mesh.node("caller")).await;
    mesh
}

fn request(bytes: usize) -> UnaryRequest {
    UnaryRequest {
        payload: vec![b'x'; bytes].into(),
        ..UnaryRequest::default()
    }
}

async fn client(node: &Node) -> RawClient {
    RawClient::connect(node.outbound()).await.unwrap()
}

async fn series(node: &Node) -> Vec<String> {
    let text = node.get("/metrics").await.body;
    let samples = text.lines().filter(|line| !line.starts_with('#'));
    samples
        .filter_map(|line| Some(line.rsplit_once(' ')?.0.to_owned()))
        .collect()
}

#[tokio::test]
async fn calls_are_counted_by_the_methods_of_their_rule_with_what_they_carried() {
    let upstream = Upstream::named("echo").start().await;
    let mesh = mesh(&upstream, &[]).await;
    let (caller, callee) = (mesh.node("caller"), mesh.node("callee"));
    let before = (caller.metrics().await, callee.metrics().await);
    let client = client(caller).await;
    let sizes = [0, 40, 41, 3_000, 100_000];
    let mut bytes = 0;
    for size in sizes {
        let message = request(size);
        bytes += framed(&message.encode_to_vec()).len();
        let answer = client.unary("/sidelane.test.v1.Echo/Unary", &[], &message);
        answer.await.unwrap().grpc_status().unwrap();
    }
    let one = request(1);
    let nothing = client.unary("/sidelane.test.v1.Echo/Nothing", &[], &one);
    assert_eq!(
        nothing.await.unwrap().grpc_status().unwrap().code(),
        tonic::Code::Unimplemented
    );
    for (node, direction, before) in [
        (caller, "outbound", &before.0),
        (callee, "inbound", &before.1),
    ] {
        let after = node.metrics().await;
        let of = |name: &str, method: &str, more: &[(&str, &str)]| {
            let service = [
                ("service", services::ECHO),
                ("method", method),
                ("direction", direction),
            ];
            let labels: Vec<_> = service.iter().chain(more).copied().collect();
            after.sum(name, &labels) - before.sum(name, &labels)
        };
        let name = node.name();
        let calls = 5.0;
        assert_eq!(of("sidelane_requests_total", "Unary", &[]), calls, "{name}");
        assert_eq!(of("sidelane_requests_total", "other", &[]), 1.0, "{name}");
        let ok = of("sidelane_responses_total", "Unary", &[("status", "0")]);
        assert_eq!(ok, calls, "{name}");
        let unimplemented = of("sidelane_responses_total", "other", &[("status", "12")]);
        assert_eq!(unimplemented, 1.0, "{name}");
        for histogram in [
            "sidelane_request_duration_seconds",
            "sidelane_request_size_bytes",
            "sidelane_response_size_bytes",
        ] {
            let count = of(&format!("{histogram}_count"), "Unary", &[]);
            assert_eq!(count, calls, "{name} {histogram}");
            let all = of(&format!("{histogram}_bucket"), "Unary", &[("le", "+Inf")]);
            assert_eq!(all, calls, "{name} {histogram}");
        }
        let sizes = "sidelane_request_size_bytes";
        assert_eq!(
            of(&format!("{sizes}_sum"), "Unary", &[]),
            bytes as f64,
            "{name}"
        );
        let up_to = |bound| of(&format!("{sizes}_bucket"), "Unary", &[("le", bound)]);
        let buckets = ["64.0", "256.0", "4096.0", "262144.0"].map(up_to);
        assert_eq!(buckets, [3.0, 3.0, 4.0, 5.0], "{name}");
    }
}

#[tokio::test]
async fn histograms_have_the_bounds_that_were_asked_for() {
    let upstream = Upstream::named("echo").start().await;
    let flags = [
        ("--duration-buckets", "0.25,30"),
        ("--size-buckets", "100,1KiB"),
    ];
    let mesh = mesh(&upstream, &flags).await;
    let series = series(mesh.node("caller")).await;
    let bounds = |name: &str| {
        let labels = format!("{{service=\"{}\",method=\"Unary\"", services::ECHO);
        let start = format!("{name}_bucket{labels}");
        let of_it = series.iter().filter(|it| it.starts_with(&start));
        let bounds = of_it.map(|it| it.split("le=\"").nth(1).unwrap().trim_end_matches("\"}"));
        bounds.map(str::to_owned).collect::<Vec<_>>()
    };
    let seconds = bounds("sidelane_request_duration_seconds");
    assert_eq!(seconds, ["0.25", "30.0", "+Inf"]);
    assert_eq!(
        bounds("sidelane_request_size_bytes"),
        ["100.0", "1024.0", "+Inf"]
    );
    assert_eq!(
        bounds("sidelane_response_size_bytes"),
        ["100.0", "1024.0", "+Inf"]
    );
}

#[tokio::test]
async fn names_and_headers_that_callers_make_up_are_no_series() {
    let upstream = Upstream::named("echo").start().await;
    let mesh = mesh(&upstream, &[]).await;
    let (caller, callee) = (mesh.node("caller"), mesh.node("callee"));
    let client = client(caller).await;
    let call = async |number: usize| {
        let (path, key) = match number % 2 {
            0 => (
                format!("/sidelane.test.v1.Echo/Made{number}"),
                "sidelane-hash",
            ),
            _ => (format!("/made.up.S{number}/Up"), "x-made-up"),
        };
        let header = format!("value-{number}");
        let answer = client
            .unary(&path, &[(key, &header)], &request(1))
            .await
            .unwrap();
        assert_eq!(
            answer.grpc_status().unwrap().code(),
            tonic::Code::Unimplemented
        );
    };
    for number in 0..FIRST {
        call(number).await;
    }
    let before = [series(caller).await, series(callee).await];
    for number in FIRST..MADE_UP {
        call(number).await;
    }
    // A figure that is shown only once it is above nothing may have come since, of whatever else
    // went on; what was made up is in none of them.
    for (node, before) in [caller, callee].into_iter().zip(before) {
        let after = series(node).await;
        let named = after
            .iter()
            .find(|it| it.contains("Made") || it.contains("made.up"));
        assert_eq!(named, None);
        assert!(
            after.len() < before.len() + 50,
            "{} {}",
            before.len(),
            after.len()
        );
    }
    let other = [("service", services::ECHO), ("method", "other")];
    let counted = caller
        .metrics()
        .await
        .sum("sidelane_requests_total", &other);
    assert_eq!(counted, (MADE_UP / 2) as f64);
}

/// What Prometheus says that it takes.
const PROMETHEUS: &str = "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,\
                          application/openmetrics-text;version=0.0.1;q=0.4,\
                          text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,\
                          text/plain;version=0.0.4;q=0.2,*/*;q=0.1";
/// All figures, for people.
const TABLE: &str = include_str!("../../deploy/METRICS.md");

/// Control and two sidecars that have done something, and the pages of all three in `OpenMetrics`.
async fn pages() -> (Cluster, Vec<Answer>) {
    let upstream = Upstream::named("echo").start().await;
    let mesh = mesh(&upstream, &[]).await;
    let admins = [
        mesh.control().admin(),
        mesh.node("caller").admin(),
        mesh.node("callee").admin(),
    ];
    let mut pages = Vec::new();
    for admin in admins {
        pages.push(get_as(admin, "/metrics", PROMETHEUS).await.unwrap());
    }
    (mesh, pages)
}

#[tokio::test]
async fn who_prefers_openmetrics_gets_it_to_the_letter() {
    let (mesh, pages) = pages().await;
    for page in pages {
        let kind = "application/openmetrics-text; version=1.0.0; charset=utf-8";
        assert_eq!(page.content_type, kind);
        let families = openmetrics::read(&page.body).unwrap();
        assert!(
            families
                .values()
                .map(|family| family.samples)
                .sum::<usize>()
                > 30
        );
        assert!(families.contains_key("process_resident_memory_bytes"));
    }
    let plain = mesh.node("caller").get("/metrics").await;
    assert_eq!(
        plain.content_type,
        "text/plain; version=0.0.4; charset=utf-8"
    );
    assert!(!plain.body.contains("# EOF") && plain.body.contains("sidelane_dials_total{"));
}

#[tokio::test]
async fn buckets_name_a_trace_of_a_call_that_is_recorded() {
    const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
    let collector = Collector::start().await;
    let upstream = Upstream::named("echo").start().await;
    let flags = [("--otlp", collector.url()), ("--sampling", "0".to_owned())];
    let flags: Vec<_> = flags
        .iter()
        .map(|(flag, value)| (*flag, value.as_str()))
        .collect();
    let mesh = mesh(&upstream, &flags).await;
    let caller = mesh.node("caller");
    let exemplars = async || {
        let page = get_as(caller.admin(), "/metrics", PROMETHEUS)
            .await
            .unwrap();
        let families = openmetrics::read(&page.body).unwrap();
        families["sidelane_request_duration_seconds"]
            .exemplars
            .clone()
    };
    // Calls so far were not recorded.
    assert_eq!(exemplars().await, [""; 0]);
    let parent = format!("00-{TRACE}-00f067aa0ba902b7-01");
    let client = client(caller).await;
    let one = request(1);
    let path = "/sidelane.test.v1.Echo/Unary";
    let answer = client.unary(path, &[("traceparent", &parent)], &one).await;
    answer.unwrap().grpc_status().unwrap();
    let spans = collector.trace(TRACE, 1).await;
    let expected = format!("trace_id=\"{TRACE}\",span_id=\"{}\"", spans[0].id);
    assert_eq!(exemplars().await, [expected]);
    let plain = caller.get("/metrics").await.body;
    assert!(!plain.contains("trace_id"));
}

#[tokio::test]
async fn the_table_of_figures_is_what_is_told() {
    let (_mesh, pages) = pages().await;
    let mut told = BTreeMap::new();
    for page in pages {
        for (name, family) in openmetrics::read(&page.body).unwrap() {
            let end = if family.kind == "counter" {
                "_total"
            } else {
                ""
            };
            let known: &mut Family = told.entry(format!("{name}{end}")).or_default();
            known.labels.extend(family.labels);
            (known.kind, known.help) = (family.kind, family.help);
        }
    }
    let rows = TABLE.lines().filter(|line| line.starts_with("| `"));
    let rows = rows.map(|row| {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").map(str::trim).collect();
        let name = cells[0].trim_matches('`').to_owned();
        let labels: BTreeSet<_> = cells[2]
            .split(", ")
            .filter(|it| !it.is_empty())
            .map(str::to_owned)
            .collect();
        (name, (cells[1].to_owned(), labels, cells[3].to_owned()))
    });
    let rows: BTreeMap<_, _> = rows.collect();
    let mut wrong = Vec::new();
    for (name, family) in &told {
        let known = rows.get(name);
        let fits = known.is_some_and(|(kind, labels, help)| {
            let same = (kind, help) == (&family.kind, &family.help);
            same && family.labels.is_subset(labels)
        });
        if !fits {
            let labels: Vec<_> = family.labels.iter().map(String::as_str).collect();
            let (kind, labels, help) = (&family.kind, labels.join(", "), &family.help);
            wrong.push(format!("| `{name}` | {kind} | {labels} | {help} |"));
        }
    }
    let wrong = wrong.join("\n");
    assert_eq!(
        wrong, "",
        "deploy/METRICS.md has none of this, or something else"
    );
    let untold: Vec<_> = rows
        .keys()
        .filter(|name| !told.contains_key(*name))
        .collect();
    assert_eq!(untold, SELDOM, "in deploy/METRICS.md, and on no page");
}

/// Those that are only there where something is set up that these pages are not.
const SELDOM: [&str; 14] = [
    "sidelane_certificate_expires_seconds",
    "sidelane_certificate_renewal_failures_total",
    "sidelane_certificate_renewals_total",
    "sidelane_certificate_source_info",
    "sidelane_concurrency_in_flight",
    "sidelane_concurrency_limit",
    "sidelane_concurrency_refused_total",
    "sidelane_concurrency_samples_total",
    "sidelane_concurrency_waiting",
    "sidelane_control_fixed_failures_total",
    "sidelane_control_fixed_healthy",
    "sidelane_control_fixed_reloads_total",
    "sidelane_faults_delayed_total",
    "sidelane_limit_beyond_shares_total",
];

#[tokio::test]
async fn dials_peers_and_the_process_are_counted() {
    let upstream = Upstream::named("echo").start().await;
    let mesh = mesh(&upstream, &[]).await;
    let dials = async |node: &str, to: &str, result: &str| {
        let labels = [("to", to), ("result", result)];
        mesh.node(node)
            .metrics()
            .await
            .sum("sidelane_dials_total", &labels)
    };
    assert!(dials("caller", "peer", "stands").await >= 1.0);
    // In the clear nobody has an identity.
    let by = [
        ("peer", "caller"),
        ("connection", "Internal"),
        ("lane", "general"),
    ];
    let callee = mesh.node("callee").metrics().await;
    let calls = callee.sum("sidelane_requests_total", &[("direction", "inbound")]);
    assert_eq!(callee.sum("sidelane_peer_requests_total", &by), calls);
    assert!(dials("callee", "local", "stands").await >= 1.0);
    assert_eq!(dials("caller", "destination", "failed").await, 0.0);
    let caller = mesh.node("caller");
    let before = caller.metrics().await;
    let clients = [
        client(caller).await,
        client(caller).await,
        client(caller).await,
    ];
    for client in &clients {
        let answer = client
            .unary("/sidelane.test.v1.Echo/Unary", &[], &request(1))
            .await;
        answer.unwrap().grpc_status().unwrap();
    }
    let after = caller.metrics().await;
    let grew = |name: &str| after.sum(name, &[]) - before.sum(name, &[]);
    assert!(
        grew("process_open_fds") >= 3.0,
        "{}",
        grew("process_open_fds")
    );
    assert!(grew("sidelane_runtime_tasks") >= 3.0);
    assert!(after.sum("process_start_time_seconds", &[]) > 1_700_000_000.0);
}

/// By the parsers of Prometheus' own library.
#[tokio::test]
#[ignore = "needs another language: SIDELANE_TEST_PYTHON"]
async fn prometheus_own_library_reads_the_pages() {
    let (mesh, open) = pages().await;
    let mut all: Vec<_> = open
        .into_iter()
        .map(|page| ("openmetrics", page.body))
        .collect();
    for admin in [mesh.control().admin(), mesh.node("caller").admin()] {
        all.push((
            "text",
            get_as(admin, "/metrics", "text/plain").await.unwrap().body,
        ));
    }
    for (format, page) in all {
        let said = python::metrics(format, &page).await;
        let families = said.split(' ').next().unwrap().parse::<usize>().unwrap();
        assert!(families > 20, "{said}");
    }
}

/// What a command says, as JSON and for people.
async fn said(command: &[&str]) -> (serde_json::Value, String) {
    let program = env!("CARGO_BIN_EXE_sidelane-under-test");
    let json = Run::of(program)
        .with(command.iter().copied())
        .with(["-o", "json"])
        .to_its_end()
        .await;
    assert_eq!(json.code, Some(0), "{json:?}");
    let table = Run::of(program)
        .with(command.iter().copied())
        .to_its_end()
        .await;
    (serde_json::from_str(&json.stdout).unwrap(), table.stdout)
}

#[tokio::test]
async fn lanes_and_methods_are_shown_as_they_are_counted() {
    let upstream = Upstream::named("echo").start().await;
    let mesh = mesh(&upstream, &[]).await;
    let [caller, callee] = ["caller", "callee"].map(|name| mesh.node(name).admin().to_string());
    let both = format!("{caller},{callee}");
    let client = client(mesh.node("caller")).await;
    let load = tokio::spawn(async move {
        let one = request(1);
        loop {
            for path in [
                "/sidelane.test.v1.Echo/Unary",
                "/sidelane.test.v1.Echo/Missing",
            ] {
                client
                    .unary(path, &[], &one)
                    .await
                    .unwrap()
                    .grpc_status()
                    .unwrap();
            }
        }
    });
    let top = ["top", "--sidecar", &both, "--interval", "700ms"];
    let (methods, table) = said(&top).await;
    let row = |node: &str, method: &str| {
        let rows = methods["methods"].as_array().unwrap();
        let is = |row: &&serde_json::Value| row["node"] == node && row["method"] == method;
        rows.iter()
            .find(is)
            .unwrap_or_else(|| panic!("{node} {method} in {methods:#}"))
            .clone()
    };
    for node in ["caller", "callee"] {
        let (unary, other) = (row(node, "Unary"), row(node, "other"));
        assert_eq!(
            (&unary["ok"], &other["ok"]),
            (&1.0.into(), &0.0.into()),
            "{node}"
        );
        // One after the other, so as often.
        let rates = [&unary, &other].map(|row| row["calls_a_second"].as_f64().unwrap());
        assert!(
            rates[0] > 0.0 && (rates[0] - rates[1]).abs() < 5.0,
            "{rates:?}"
        );
        let [p50, p99] = ["p50_ms", "p99_ms"].map(|it| unary[it].as_f64().unwrap());
        assert!(0.0 < p50 && p50 <= p99, "{unary:#}");
    }
    assert!(
        table.contains("CALLS/S") && table.contains("100.00 %"),
        "{table}"
    );
    load.abort();
    let (routes, table) = said(&["routes", "--sidecar", &both]).await;
    let routes = routes["routes"].as_array().unwrap();
    for node in ["caller", "callee"] {
        let is = |it: &&serde_json::Value| it["node"] == node && it["service"] == services::ECHO;
        let echo = routes.iter().find(is).unwrap();
        assert_eq!(
            (&echo["lane"], &echo["class"]),
            (&"general".into(), &"Internal".into())
        );
        assert_eq!(echo["strategy"], "ROUND_ROBIN", "{echo:#}");
    }
    assert!(
        table.contains("ORIGIN") && table.contains(services::ECHO),
        "{table}"
    );
    let control = mesh.control().listen().to_string();
    let run = Run::of(env!("CARGO_BIN_EXE_sidelane-under-test"));
    let ended = run
        .with([
            "version",
            "--sidecar",
            &both,
            "--control",
            &control,
            "-o",
            "json",
        ])
        .variable("XDG_RUNTIME_DIR", &mesh.folder().display().to_string())
        .to_its_end()
        .await;
    let versions: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
    let own = env!("CARGO_PKG_VERSION");
    assert_eq!(
        (&versions["version"], &versions["control"]),
        (&own.into(), &own.into())
    );
    for (at, node) in ["caller", "callee"].into_iter().enumerate() {
        let sidecar = &versions["sidecars"][at];
        assert_eq!(
            (&sidecar["node"], &sidecar["version"]),
            (&node.into(), &own.into())
        );
    }
    let (lanes, table) = said(&["lanes", "--sidecar", &both]).await;
    let lanes = lanes["lanes"].as_array().unwrap();
    let of = |node: &str, side: &str| {
        let is = |row: &&serde_json::Value| {
            row["node"] == node && row["side"] == side && row["lane"] == "general"
        };
        lanes
            .iter()
            .find(is)
            .unwrap_or_else(|| panic!("{node} {side} in {lanes:#?}"))
    };
    let (sends, takes) = (of("caller", "dialled"), of("callee", "accepted"));
    assert_eq!((&sends["links"], &takes["links"]), (&1.into(), &1.into()));
    assert!(sends["sent"].as_u64().unwrap() > 1_000 && takes["received"].as_u64().unwrap() > 1_000);
    assert!(
        table.contains("IN FLIGHT") && table.contains("general"),
        "{table}"
    );
}

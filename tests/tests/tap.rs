//! Taps of real sidecars: who looks sees the calls that it means, as they end; what proves who
//! somebody is stays hidden; and no call is worse off for being looked at.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use sidelane_process::fetch::{self, Lines};
use sidelane_tests::admin::{Answer, Metrics};
use sidelane_tests::ask::until_answered;
use sidelane_tests::client::RawClient;
use sidelane_tests::cluster::Node;
use sidelane_tests::run::Ended;
use sidelane_tests::wire::v1::{Behaviour, UnaryRequest};
use sidelane_tests::{Cluster, Upstream, cluster, services};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};

const UNARY: &str = "/sidelane.test.v1.Echo/Unary";
/// The app has no such method.
const MISSING: &str = "/sidelane.test.v1.Echo/Missing";
/// Nobody in the mesh has such a service.
const UNKNOWN: &str = "/made.up.Service/Call";
/// How long the slow ones of the calls take, at least.
const SLOW: Duration = Duration::from_millis(60);
/// Longer than anything takes.
const LIMIT: Duration = Duration::from_secs(30);
/// Taps that one sidecar has at most.
const TAPS: usize = 8;

async fn mesh(upstream: &Upstream) -> Cluster {
    let mesh = cluster!()
        .control()
        .node("callee")
        .serving(services::ECHO, upstream)
        .node("caller");
    let mesh = mesh.start().await;
    until_answered(mesh.node("caller")).await;
    mesh
}

fn request(delay: Duration) -> UnaryRequest {
    let behaviour = Behaviour {
        delay_ms: u32::try_from(delay.as_millis()).unwrap(),
        echo_metadata: true,
        ..Behaviour::default()
    };
    UnaryRequest {
        behaviour: Some(behaviour),
        ..UnaryRequest::default()
    }
}

/// Calls of every kind, one after the other, for as long as this is held.
fn load(outbound: SocketAddr) -> Load {
    Load(tokio::spawn(async move {
        let client = RawClient::connect(outbound).await.unwrap();
        for number in 0_u64.. {
            let (path, delay) = match number % 4 {
                0 => (UNARY, Duration::ZERO),
                1 => (MISSING, Duration::ZERO),
                2 => (UNKNOWN, Duration::ZERO),
                _ => (UNARY, SLOW),
            };
            let headers = [
                ("x-test-note", "visible"),
                ("authorization", "Bearer s3cret"),
                ("x-test-token", "s3cret"),
            ];
            let answer = client.unary(path, &headers, &request(delay)).await;
            answer.unwrap().grpc_status().unwrap();
        }
    }))
}

struct Load(JoinHandle<()>);

impl Drop for Load {
    fn drop(&mut self) {
        self.0.abort();
    }
}

fn admin(node: &Node) -> String {
    format!("http://{}", node.admin())
}

/// What `sidelane tap` says of some calls at these nodes, with these flags.
async fn tapped(nodes: &[&Node], flags: &[&str]) -> Ended {
    let admins: Vec<_> = nodes.iter().map(|node| admin(node)).collect();
    let admins = admins.join(",");
    sidelane_tests::run::Run::of(env!("CARGO_BIN_EXE_sidelane-under-test"))
        .with(["tap", "--sidecar", &admins])
        .with(flags.iter().copied())
        .to_its_end()
        .await
}

fn lines(text: &str) -> Vec<Value> {
    text.lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect()
}

/// The calls that it told of.
async fn calls(nodes: &[&Node], flags: &[&str]) -> Vec<Value> {
    let json = ["--output", "json"]
        .into_iter()
        .chain(flags.iter().copied());
    let ended = tapped(nodes, &json.collect::<Vec<_>>()).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stdout.contains("s3cret"), "{}", ended.stdout);
    let mut lines = lines(&ended.stdout);
    lines.retain(|line| line["kind"] == "call");
    lines
}

type Fits = fn(&Value) -> bool;

#[tokio::test]
async fn each_filter_shows_what_it_means_and_nothing_else() {
    let upstream = Upstream::named("echo").start().await;
    let mesh = mesh(&upstream).await;
    let (caller, callee) = (mesh.node("caller"), mesh.node("callee"));
    let _load = load(caller.outbound());
    // Among the others are calls that each of these leaves out.
    let filters: [(&[&str], Fits); 12] = [
        (&["--service", "made.up.Service"], |it| {
            it["path"] == UNKNOWN
        }),
        (&["--service", "sidelane.*"], |it| {
            it["service"] == services::ECHO
        }),
        (&["--method", "Missing"], |it| it["path"] == MISSING),
        (&["--path", UNARY], |it| it["path"] == UNARY),
        (&["--direction", "inbound"], |it| {
            it["direction"] == "inbound"
        }),
        (&["--direction=outbound", "--status=OK"], |it| {
            it["direction"] == "outbound" && it["status"] == 0
        }),
        // What is refused has no lane.
        (&["--lane", "general"], |it| it["lane"] == "general"),
        (&["--connection", "Internal", "--status", "error"], |it| {
            it["path"] == MISSING
        }),
        (&["--status", "UNKNOWN_SERVICE"], |it| {
            it["reason"] == "UNKNOWN_SERVICE"
        }),
        (&["--status", "12"], |it| it["code"] == "UNIMPLEMENTED"),
        (&["--peer", "caller"], |it| {
            it["peer"] == "caller" && it["node"] == "callee"
        }),
        (&["--above", "50ms"], |it| {
            it["duration_ms"].as_f64().unwrap() > 50.0
        }),
    ];
    for (filter, fits) in filters {
        let some: Vec<_> = filter.iter().copied().chain(["--limit", "5"]).collect();
        let calls = calls(&[caller, callee], &some).await;
        assert_eq!(calls.len(), 5, "{filter:?}");
        let other = calls.iter().find(|call| !fits(call));
        assert_eq!(other, None, "{filter:?}");
    }
    // All of them together, and a time without a call that fits.
    let none = ["--method", "Missing", "--status", "OK", "--for", "1s"];
    assert_eq!(calls(&[caller, callee], &none).await, [Value::Null; 0]);
    let all = calls(&[caller, callee], &["--limit", "40"]).await;
    for node in ["caller", "callee"] {
        assert!(all.iter().any(|call| call["node"] == node), "{node}");
    }
}

#[tokio::test]
async fn a_call_is_told_from_both_sides() {
    let upstream = Upstream::named("echo").start().await;
    let mesh = mesh(&upstream).await;
    let (caller, callee) = (mesh.node("caller"), mesh.node("callee"));
    let _load = load(caller.outbound());
    let flags = ["--path", UNARY, "--limit", "1"];
    let sent = calls(&[caller], &flags).await.remove(0);
    let taken = calls(&[callee], &flags).await.remove(0);
    for (key, at_caller, at_callee) in [
        ("node", "caller", "callee"),
        ("direction", "outbound", "inbound"),
        ("caller", "app", "peer"),
        ("peer", "callee", "caller"),
        ("service", services::ECHO, services::ECHO),
        ("method", "Unary", "Unary"),
        ("end", "answered", "answered"),
        ("code", "OK", "OK"),
    ] {
        assert_eq!(
            (&sent[key], &taken[key]),
            (&at_caller.into(), &at_callee.into()),
            "{key}"
        );
    }
    for call in [&sent, &taken] {
        assert_eq!(
            (&call["attempts"], &call["request_messages"]),
            (&1.into(), &1.into())
        );
        assert!(call["duration_ms"].as_f64().unwrap() > 0.0, "{call}");
    }
    let refused = calls(&[caller], &["--path", UNKNOWN, "--limit", "1"]).await;
    let refused = &refused[0];
    assert_eq!(
        (&refused["end"], &refused["status"]),
        (&"failed".into(), &12.into())
    );
    assert!(
        refused["message"]
            .as_str()
            .unwrap()
            .contains("made.up.Service"),
        "{refused}"
    );
    // For people.
    let table = tapped(&[caller], &["--limit", "8", "--headers"]).await;
    let said = &table.stdout;
    assert!(
        said.starts_with("TIME ") && said.contains("UNKNOWN_SERVICE"),
        "{said}"
    );
    assert!(
        said.contains(UNARY) && said.contains("request x-test-note: visible"),
        "{said}"
    );
    assert!(table.stderr.starts_with("8 calls in "), "{}", table.stderr);
    assert!(!said.contains("s3cret"), "{said}");
}

#[tokio::test]
async fn headers_are_told_without_what_proves_who_somebody_is() {
    let upstream = Upstream::named("echo").start().await;
    let mesh = mesh(&upstream).await;
    let caller = mesh.node("caller");
    let _load = load(caller.outbound());
    let of = |call: &Value, set: &str, name: &str| {
        let pairs = call["headers"][set].as_array().unwrap();
        let found = pairs.iter().find(|pair| pair[0] == name);
        found.map(|pair| pair[1].as_str().unwrap().to_owned())
    };
    let flags = ["--path", UNARY, "--limit", "1"];
    let call = calls(&[caller], &flags).await.remove(0);
    // The app sends back what it was sent.
    for set in ["request", "response", "trailers"] {
        let told = ["x-test-note", "x-test-token"].map(|name| of(&call, set, name));
        let expected = ["visible", "[redacted]"].map(|it| Some(it.to_owned()));
        assert_eq!(told, expected, "{set}");
    }
    let authorization = of(&call, "request", "authorization");
    assert_eq!(authorization.as_deref(), Some("[redacted]"));
    assert_eq!(of(&call, "trailers", "grpc-status").as_deref(), Some("0"));
    let hidden: Vec<_> = flags
        .into_iter()
        .chain(["--redact", "x-other,X-Test-No*"])
        .collect();
    let call = calls(&[caller], &hidden).await.remove(0);
    assert_eq!(
        of(&call, "request", "x-test-note").as_deref(),
        Some("[redacted]")
    );
}

async fn open(node: &Node, query: &str) -> Lines {
    let url = format!("{}/tap?{query}", admin(node));
    fetch::lines(&url, LIMIT).await.unwrap().unwrap()
}

async fn next(lines: &mut Lines) -> Option<Value> {
    loop {
        let line = timeout(LIMIT, lines.next()).await.unwrap().unwrap()?;
        if !line.trim().is_empty() {
            return Some(serde_json::from_str(&line).unwrap());
        }
    }
}

async fn figure(node: &Node, name: &str) -> f64 {
    node.metrics().await.sum(name, &[])
}

#[tokio::test]
async fn so_many_may_look_and_no_more() {
    let upstream = Upstream::named("echo").start().await;
    let mesh = mesh(&upstream).await;
    let caller = mesh.node("caller");
    let mut open_taps = Vec::new();
    for _ in 0..TAPS {
        open_taps.push(open(caller, "").await);
    }
    let refused = tapped(&[caller], &["--limit", "1"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused
            .stderr
            .contains("8 taps are open here, and there are never more"),
        "{refused:?}"
    );
    assert_eq!(figure(caller, "sidelane_taps").await, 8.0);
    // Who leaves makes room, and its place is taken.
    open_taps.pop();
    caller
        .answers("/metrics", |page| {
            Metrics::parse(&page.body).sum("sidelane_taps", &[]) < 8.0
        })
        .await;
    open_taps.push(open(caller, "").await);
    let client = RawClient::connect(caller.outbound()).await.unwrap();
    let answer = client.unary(UNARY, &[], &request(Duration::ZERO)).await;
    assert_eq!(
        answer.unwrap().grpc_status().unwrap().code(),
        tonic::Code::Ok
    );
    for lines in &mut open_taps {
        assert_eq!(next(lines).await.unwrap()["kind"], "begun");
        assert_eq!(next(lines).await.unwrap()["path"], UNARY);
    }
}

#[tokio::test]
async fn who_reads_nothing_holds_no_call_up_and_is_told_what_it_missed() {
    let upstream = Upstream::named("echo").start().await;
    let mesh = mesh(&upstream).await;
    let caller = mesh.node("caller");
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    // Less room in the kernel is filled sooner.
    socket.set_recv_buffer_size(16 * 1024).unwrap();
    let mut stream = socket.connect(caller.admin()).await.unwrap();
    let asked = "GET /tap?headers=true HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(asked.as_bytes()).await.unwrap();
    caller
        .answers("/metrics", |page| {
            Metrics::parse(&page.body).sum("sidelane_taps", &[]) > 0.0
        })
        .await;
    let client = RawClient::connect(caller.outbound()).await.unwrap();
    let long = "x".repeat(250);
    let names = ["x-a", "x-b", "x-c", "x-d", "x-e", "x-f", "x-g"];
    let headers = names.map(|name| (name, long.as_str()));
    let began = Instant::now();
    let mut sent = 0;
    while figure(caller, "sidelane_tap_dropped_total").await == 0.0 {
        assert!(
            began.elapsed() < 4 * LIMIT,
            "nothing was dropped of {sent} calls"
        );
        for _ in 0..100 {
            let answer = client
                .unary(UNARY, &headers, &request(Duration::ZERO))
                .await;
            assert_eq!(
                answer.unwrap().grpc_status().unwrap().code(),
                tonic::Code::Ok
            );
            sent += 1;
            // Slower than taps are told of calls: it is the reader that is too slow.
            sleep(Duration::from_millis(2)).await;
        }
    }
    // Once it reads, all that it is told and all that it is not are the calls that were made.
    let (mut told, mut dropped) = (0, 0);
    let reading = async {
        let mut lines = BufReader::new(&mut stream).lines();
        while told + dropped < sent {
            let line = lines.next_line().await.unwrap().unwrap();
            // Between them are the sizes of pieces, and what is not of the body at all.
            let Ok(Value::Object(line)) = serde_json::from_str(&line) else {
                continue;
            };
            match line["kind"].as_str() {
                Some("call") => told += 1,
                Some("dropped") => {
                    assert_eq!(
                        (&line["node"], &line["why"]),
                        (&"caller".into(), &"too fast".into())
                    );
                    dropped += line["calls"].as_u64().unwrap();
                }
                _ => {}
            }
        }
    };
    timeout(LIMIT, reading).await.unwrap();
    assert_eq!(told + dropped, sent);
    assert!(dropped > 0);
    let figures = ["sidelane_tap_calls_total", "sidelane_tap_dropped_total"];
    for (name, expected) in figures.into_iter().zip([told, dropped]) {
        assert_eq!(figure(caller, name).await, expected as f64, "{name}");
    }
}

#[tokio::test]
async fn a_sidecar_that_goes_away_ends_its_part_and_no_more() {
    let upstream = Upstream::named("echo").start().await;
    let mesh = mesh(&upstream).await;
    let (caller, callee) = (mesh.node("caller"), mesh.node("callee"));
    let _load = load(caller.outbound());
    let admins = format!("{},{}", admin(caller), admin(callee));
    let mut both = tokio::process::Command::new(env!("CARGO_BIN_EXE_sidelane-under-test"))
        .args(["tap", "--sidecar", &admins, "-o", "json"])
        .stdout(std::process::Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut said = BufReader::new(both.stdout.take().unwrap()).lines();
    let mut until = async |wanted: fn(&Value) -> bool| {
        let reading = async {
            loop {
                let line = said.next_line().await.unwrap().unwrap();
                let line: Value = serde_json::from_str(&line).unwrap();
                if wanted(&line) {
                    break line;
                }
            }
        };
        timeout(LIMIT, reading).await.unwrap()
    };
    until(|line| line["kind"] == "call" && line["node"] == "callee").await;
    let none = [callee];
    let alone = tapped(&none, &["-o", "json", "--status=NO_ENDPOINT"]);
    let killed = async {
        // It has begun when there are two.
        let two = |page: &Answer| Metrics::parse(&page.body).sum("sidelane_taps", &[]) >= 2.0;
        callee.answers("/metrics", two).await;
        callee.kill().await;
    };
    let (alone, ()) = tokio::join!(alone, killed);
    let gone = until(|line| line["kind"] == "gone").await;
    assert_eq!(gone["sidecar"], admin(callee));
    // The other one goes on to tell of its calls, which have nobody to go to.
    let failed = until(|line| line["kind"] == "call" && line["code"] == "UNAVAILABLE").await;
    assert_eq!(failed["node"], "caller");
    // There is nobody left to wait for.
    assert_eq!(alone.code, Some(1), "{alone:?}");
    assert!(
        alone
            .stderr
            .contains("no sidecar is left that tells of its calls"),
        "{alone:?}"
    );
}

#[tokio::test]
async fn a_sidecar_that_ends_ends_its_taps() {
    let upstream = Upstream::named("echo").start().await;
    let mesh = mesh(&upstream).await;
    let callee = mesh.node("callee");
    let mut lines = open(callee, "").await;
    assert_eq!(next(&mut lines).await.unwrap()["kind"], "begun");
    let stopped = callee.stop(LIMIT);
    let read = async {
        while let Some(line) = next(&mut lines).await {
            assert_eq!(line["kind"], "call", "{line}");
        }
    };
    tokio::join!(stopped, read);
}

#[tokio::test]
async fn what_is_asked_wrongly_is_told() {
    let upstream = Upstream::named("echo").start().await;
    let mesh = mesh(&upstream).await;
    let caller = mesh.node("caller");
    for (flags, code, told) in [
        (
            ["--status", "bad"],
            1,
            "status=bad: it is `error`, a gRPC status such as UNAVAILABLE",
        ),
        (
            ["--direction", "up"],
            1,
            "direction=up: it is inbound or outbound",
        ),
        (["--limit", "0"], 2, "it is a number of calls, from 1"),
        (["--above", "soon"], 2, "--above"),
    ] {
        let ended = tapped(&[caller], &flags).await;
        assert_eq!(ended.code, Some(code), "{ended:?}");
        assert!(ended.stderr.contains(told), "{ended:?}");
    }
    let page = caller.get("/tap?servce=x").await;
    assert_eq!(page.status, 400);
    assert!(
        page.body.contains("the nearest that can is `service`"),
        "{}",
        page.body
    );
    let control = format!("http://{}", mesh.control().admin());
    let ended = sidelane_tests::run::Run::of(env!("CARGO_BIN_EXE_sidelane-under-test"))
        .with(["tap", "--sidecar", &control])
        .to_its_end()
        .await;
    assert!(ended.stderr.contains("it has no page /tap"), "{ended:?}");
}

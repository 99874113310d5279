//! Sidecars that are linked into a program, this one: among sidecars that are processes, beside
//! each other, and alone, where calls from one part of the program to another encode nothing.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

mod embedded_taps;

use std::net::SocketAddr;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Buf, BufMut};
use prost::encoding::{DecodeContext, WireType};
use prost::{DecodeError, Message};
use serde_json::Value;
use sidelane::define_service_routing;
use sidelane::routing::{BifrostData, General, Gossip, Internal, MethodRule, ServiceRouting};
use sidelane_process::fetch;
use sidelane_process::settings::{Environment, Start};
use sidelane_sidecar::Mesh;
use sidelane_sidecar::config::Config;
use sidelane_sidecar::embedded::{EmbedError, Embedded};
use sidelane_tests::admin::{self, Metrics};
use sidelane_tests::collector::Collector;
use sidelane_tests::ports::free_port;
use sidelane_tests::refusal::Refusal;
use sidelane_tests::routes::ROUTES;
use sidelane_tests::wire::v1::beat_client::BeatClient;
use sidelane_tests::wire::v1::beat_server::{Beat, BeatServer};
use sidelane_tests::wire::v1::echo_client::EchoClient;
use sidelane_tests::wire::v1::guarded_server::{Guarded, GuardedServer};
use sidelane_tests::wire::v1::vault_server::{Vault, VaultServer};
use sidelane_tests::wire::v1::{
    GuardedRequest, GuardedResponse, GuardedServiceRouting, OpenRequest, OpenResponse, PingRequest,
    PingResponse, UnaryRequest,
};
use sidelane_tests::{Upstream, cluster, mesh_view, services};
use tokio::sync::Notify;
use tonic::{Code, Request, Response, Status};

const SOON: Duration = Duration::from_secs(20);
const PING: &str = "/sidelane.test.v1.Beat/Ping";
const OPEN: &str = "/sidelane.test.v1.Vault/Open";

define_service_routing!(
    BeatRouting,
    service = "sidelane.test.v1.Beat",
    category = Gossip,
    connection = Internal,
    swimlane = Gossip,
    secure = false,
    persistent = false,
    load_balancing = Random,
    methods = [MethodRule::unary("Ping")],
);
define_service_routing!(
    VaultRouting,
    service = "sidelane.test.v1.Vault",
    category = Worker,
    connection = Internal,
    swimlane = General,
    secure = true,
    persistent = false,
    load_balancing = Random,
);
// Not what the mesh is compiled with.
define_service_routing!(
    OtherBeatRouting,
    service = "sidelane.test.v1.Beat",
    category = Bifrost,
    connection = Internal,
    swimlane = BifrostData,
    secure = false,
    persistent = false,
    load_balancing = Random,
);

/// `Beat` of this process. It answers with the metadata it got, and can be held.
#[derive(Clone, Default)]
struct Here {
    seen: Arc<Mutex<Vec<String>>>,
    held: Arc<Notify>,
    arrived: Arc<Notify>,
}

#[tonic::async_trait]
impl Beat for Here {
    async fn ping(&self, request: Request<PingRequest>) -> Result<Response<PingResponse>, Status> {
        let metadata = request.metadata();
        let said = |name| {
            metadata
                .get(name)
                .map_or("-", |value| value.to_str().unwrap())
        };
        let seen = format!("{} {}", said("sidelane-source-node"), said("sidelane-lane"));
        self.seen.lock().unwrap().push(seen);
        let payload = request.into_inner().payload;
        if payload == "wait" {
            self.arrived.notify_one();
            self.held.notified().await;
        }
        let node = "here".to_owned();
        Ok(Response::new(PingResponse { payload, node }))
    }
}

#[tonic::async_trait]
impl Vault for Here {
    async fn open(&self, _: Request<OpenRequest>) -> Result<Response<OpenResponse>, Status> {
        panic!("a secure service was called in the clear")
    }
}

fn ping(payload: &'static str) -> PingRequest {
    let payload = payload.into();
    PingRequest { payload }
}

/// A node of this name, on ports of its own, with its data there.
fn linked(name: &str, control: &dyn ToString, data: &std::path::Path) -> Embedded {
    Mesh::embedded(ROUTES)
        .setting("node", name)
        .setting("trust", "disabled")
        .setting("control", control.to_string())
        .setting("internal", "127.0.0.1:0")
        .setting("admin", "127.0.0.1:0")
        .setting("data", data.join(name).to_str().unwrap())
}

fn admin_of(mesh: &Mesh) -> SocketAddr {
    mesh.bound("admin").unwrap().parse().unwrap()
}

async fn page(mesh: &Mesh, path: &str) -> String {
    admin::get(admin_of(mesh), path).await.unwrap().body
}

async fn metrics(mesh: &Mesh) -> Metrics {
    Metrics::parse(&page(mesh, "/metrics").await)
}

/// The threads of this process that have this name.
fn threads(name: &str) -> usize {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("comm")).ok());
    names.filter(|found| found.trim_end() == name).count()
}

/// Waits until it is so.
async fn until(what: &str, so: impl AsyncFn() -> bool) {
    let begun = Instant::now();
    while !so().await {
        assert!(begun.elapsed() < SOON, "not so after {SOON:?}: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Waits until a call there could go to this node.
async fn eligible(admin: SocketAddr, service: &str, node: &str) {
    until(&format!("{node} takes calls of {service}"), async || {
        let question = format!("/explain?path=/{service}/Any");
        let answer = admin::get(admin, &question).await.unwrap().body;
        let answer: Value = serde_json::from_str(&answer).unwrap();
        let candidates = answer["candidates"].as_array().cloned().unwrap_or_default();
        candidates
            .iter()
            .any(|candidate| candidate["node_id"] == node && candidate["eligible"] == true)
    })
    .await;
}

#[tokio::test]
async fn a_linked_sidecar_calls_processes_and_is_called_by_them_in_the_rules_lanes() {
    let upstream = Upstream::named("far").start().await;
    let cluster = cluster!()
        .control()
        .node("process")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let folder = tempfile::tempdir().unwrap();
    let here = Here::default();
    let mesh = linked("linked", &cluster.control().listen(), folder.path())
        .serve(BeatServer::new(here.clone()))
        .start()
        .await
        .unwrap();
    mesh.ready().await.unwrap();
    let process = cluster.node("process");

    eligible(admin_of(&mesh), services::ECHO, "process").await;
    let mut echo = EchoClient::new(mesh.channel());
    let answer = echo
        .unary(UnaryRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(answer.node, "far");
    for line in ["sidelane-source-node: linked", "sidelane-lane: general"] {
        assert!(
            answer.metadata.iter().any(|found| found == line),
            "{answer:?}"
        );
    }

    eligible(process.admin(), services::BEAT, "linked").await;
    let mut beat = BeatClient::new(process.channel().await);
    let answer = beat.ping(ping("over there")).await.unwrap().into_inner();
    assert_eq!(
        (&*answer.payload, &*answer.node),
        (&b"over there"[..], "here")
    );
    assert_eq!(*here.seen.lock().unwrap(), ["process gossip"]);

    // A link for each lane, and none for what stays in the process.
    let config: Value = serde_json::from_str(&page(&mesh, "/config").await).unwrap();
    let bound = &config["bound"]["outbound"];
    assert_eq!(*bound, serde_json::json!(["this process"]), "{config:#}");
    assert_eq!(
        config["settings"]["outbound"]["value"],
        serde_json::json!([])
    );
    let direction = [("direction", "inbound"), ("service", services::BEAT)];
    assert_eq!(
        metrics(&mesh)
            .await
            .sum("sidelane_requests_total", &direction),
        1.0
    );
    mesh.shutdown().await;
}

#[tokio::test]
async fn two_linked_sidecars_in_one_process_work_and_apps_call_where_they_are_told() {
    let cluster = cluster!().control().start().await;
    let control = cluster.control().listen();
    let folder = tempfile::tempdir().unwrap();
    let here = Here::default();
    let outbound = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let one = linked("one", &control, folder.path())
        .setting("outbound", outbound.to_string())
        .start()
        .await
        .unwrap();
    let two = linked("two", &control, folder.path())
        .serve(BeatServer::new(here.clone()))
        .start()
        .await
        .unwrap();
    eligible(admin_of(&one), services::BEAT, "two").await;
    BeatClient::new(one.channel())
        .ping(ping("by pipe"))
        .await
        .unwrap();
    let typed = one.call::<BeatRouting, PingRequest, PingResponse>("Ping", ping("typed"));
    assert_eq!(typed.await.unwrap().into_inner().node, "here");
    let channel = sidelane_tests::client::channel(outbound).await.unwrap();
    BeatClient::new(channel)
        .ping(ping("by socket"))
        .await
        .unwrap();
    BeatClient::new(two.channel())
        .ping(ping("at home"))
        .await
        .unwrap();
    let seen = ["one gossip", "one gossip", "one gossip", "two gossip"];
    assert_eq!(*here.seen.lock().unwrap(), seen);
    tokio::join!(one.shutdown(), two.shutdown());
}

/// A message that counts how often it is encoded.
#[derive(Debug, Default, PartialEq)]
struct Counted(PingRequest);

static ENCODED: AtomicUsize = AtomicUsize::new(0);

impl Message for Counted {
    fn encode_raw(&self, buffer: &mut impl BufMut) {
        ENCODED.fetch_add(1, Ordering::Relaxed);
        self.0.encode_raw(buffer);
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buffer: &mut impl Buf,
        context: DecodeContext,
    ) -> Result<(), DecodeError> {
        self.0.merge_field(tag, wire_type, buffer, context)
    }

    fn encoded_len(&self) -> usize {
        self.0.encoded_len()
    }

    fn clear(&mut self) {
        self.0.clear();
    }
}

type Seen = Arc<Mutex<Vec<String>>>;

/// A mesh without control, whose `Beat.Ping` takes counted messages as they are.
async fn alone(name: &str, folder: &std::path::Path) -> (Mesh, Here, Seen) {
    let nobody = format!("127.0.0.1:{}", free_port());
    let here = Here::default();
    let seen = Seen::default();
    let direct = Arc::clone(&seen);
    let mesh = linked(name, &nobody, folder)
        .serve(BeatServer::new(here.clone()))
        .serve(VaultServer::new(here.clone()))
        .local(PING, move |request: Request<Counted>| {
            let direct = Arc::clone(&direct);
            async move {
                let metadata = request.metadata();
                let said = |name| {
                    metadata
                        .get(name)
                        .map_or("-", |value| value.to_str().unwrap())
                };
                let line = format!("{} {}", said("sidelane-source-node"), said("sidelane-lane"));
                direct.lock().unwrap().push(line);
                match &*request.get_ref().0.payload {
                    b"wait" => std::future::pending().await,
                    b"panic" => panic!("as it was asked to"),
                    b"refuse" => {
                        let mut status = Status::not_found("as it was asked to");
                        let forged = "NO_ENDPOINT".parse().unwrap();
                        status.metadata_mut().insert("sidelane-error", forged);
                        Err(status)
                    }
                    b"told" => {
                        let mut answer = Response::new(request.into_inner());
                        for (name, value) in
                            [("x-test-answer", "visible"), ("set-cookie", "s3cret")]
                        {
                            answer.metadata_mut().insert(name, value.parse().unwrap());
                        }
                        Ok(answer)
                    }
                    _ => Ok(Response::new(request.into_inner())),
                }
            }
        })
        .local(OPEN, |_: Request<OpenRequest>| async {
            panic!("a secure service was called in the clear");
            #[expect(unreachable_code, reason = "says what it would answer")]
            Ok(Response::new(OpenResponse::default()))
        })
        .start()
        .await
        .unwrap();
    (mesh, here, seen)
}

async fn call(mesh: &Mesh, request: Request<Counted>) -> Result<Counted, Status> {
    let answer = mesh.call::<BeatRouting, Counted, Counted>("Ping", request);
    answer.await.map(Response::into_inner)
}

fn counted(payload: &'static str) -> Request<Counted> {
    Request::new(Counted(ping(payload)))
}

#[tokio::test]
async fn a_call_within_the_process_encodes_nothing_and_is_counted_as_every_other() {
    let folder = tempfile::tempdir().unwrap();
    let (mesh, here, seen) = alone("alone", folder.path()).await;
    let answer = call(&mesh, counted("as it is")).await.unwrap();
    assert_eq!(answer, Counted(ping("as it is")));
    let mut named = counted("named");
    named
        .metadata_mut()
        .insert("sidelane-node", "alone".parse().unwrap());
    call(&mesh, named).await.unwrap();
    let refused = call(&mesh, counted("refuse")).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert!(
        refused.metadata().get("sidelane-error").is_none(),
        "{refused:?}"
    );
    assert_eq!(ENCODED.load(Ordering::Relaxed), 0);
    assert_eq!(*seen.lock().unwrap(), ["alone gossip"; 3]);
    assert!(here.seen.lock().unwrap().is_empty());

    // Other types are no handler's: encoded once, and answered by the service.
    let encoded = mesh.call::<BeatRouting, Counted, PingResponse>("Ping", counted("encoded"));
    assert_eq!(encoded.await.unwrap().into_inner().node, "here");
    assert_eq!(ENCODED.load(Ordering::Relaxed), 1);
    assert_eq!(*here.seen.lock().unwrap(), ["alone gossip"]);

    let metrics = metrics(&mesh).await;
    let outbound = [
        ("service", services::BEAT),
        ("direction", "outbound"),
        ("lane", "gossip"),
    ];
    let sum = |name, more: &[(&str, &str)]| metrics.sum(name, &[&outbound, more].concat());
    assert_eq!(sum("sidelane_requests_total", &[]), 4.0);
    assert_eq!(sum("sidelane_attempts_total", &[]), 4.0);
    assert_eq!(sum("sidelane_responses_total", &[("status", "0")]), 3.0);
    assert_eq!(sum("sidelane_responses_total", &[("status", "5")]), 1.0);
    assert_eq!(sum("sidelane_request_duration_seconds_count", &[]), 4.0);
    assert_eq!(sum("sidelane_calls_in_flight", &[]), 0.0);
    mesh.shutdown().await;
    let after = Refusal::of_status(&call(&mesh, counted("late")).await.unwrap_err());
    assert_eq!(after.reason, "CONNECT_FAILED");
}

#[tokio::test]
async fn what_the_rule_forbids_is_refused_within_the_process_too() {
    let folder = tempfile::tempdir().unwrap();
    let (mesh, _here, seen) = alone("strict", folder.path()).await;
    let of = |status: Result<Counted, Status>| Refusal::of_status(&status.unwrap_err());

    let open = mesh.call::<VaultRouting, _, OpenResponse>("Open", OpenRequest::default());
    let secure = Refusal::of_status(&open.await.unwrap_err());
    assert_eq!((&*secure.reason, &*secure.processed), ("NOT_SECURE", "no"));

    let mut astray = counted("astray");
    astray
        .metadata_mut()
        .insert("sidelane-lane", "general".parse().unwrap());
    let lane = of(call(&mesh, astray).await);
    assert_eq!(lane.reason, "LANE_REFUSED");
    assert!(lane.text.contains("allows gossip"), "{}", lane.text);

    let other = mesh.call::<OtherBeatRouting, Counted, Counted>("Ping", counted("other"));
    let other = of(other.await.map(Response::into_inner));
    assert_eq!(other.reason, "RULES_MISMATCH");
    for part in ["lane bifrost_data", "lane gossip"] {
        assert!(other.text.contains(part), "{}", other.text);
    }
    assert!(seen.lock().unwrap().is_empty());

    let mut short = counted("wait");
    // So long that it has come to its handler by then, on a busy machine, too.
    short.set_timeout(Duration::from_millis(500));
    let late = of(call(&mesh, short).await);
    assert_eq!((&*late.reason, &*late.processed), ("DEADLINE", "maybe"));
    let panicked = of(call(&mesh, counted("panic")).await);
    assert_eq!(
        (&*panicked.reason, &*panicked.processed),
        ("PEER_RESET", "maybe")
    );
    // Dropped, as a caller does that does not wait any more.
    let dropped = tokio::time::timeout(Duration::from_millis(30), call(&mesh, counted("wait")));
    dropped.await.unwrap_err();

    let metrics = metrics(&mesh).await;
    let sum = |name, label| metrics.sum(name, &[("service", services::BEAT), label]);
    assert_eq!(sum("sidelane_errors_total", ("reason", "DEADLINE")), 1.0);
    assert_eq!(sum("sidelane_errors_total", ("reason", "PEER_RESET")), 1.0);
    assert_eq!(
        sum("sidelane_cancelled_total", ("direction", "outbound")),
        1.0
    );
    for reason in ["NOT_SECURE", "LANE_REFUSED", "RULES_MISMATCH"] {
        let refused = metrics.sum("sidelane_refused_total", &[("reason", reason)]);
        assert_eq!(refused, 1.0, "{reason}");
    }
    mesh.shutdown().await;
}

#[tokio::test]
async fn its_end_lets_calls_finish_tells_control_and_leaves_nothing() {
    let cluster = cluster!().control().start().await;
    let control = cluster.control().listen();
    let folder = tempfile::tempdir().unwrap();
    let tasks = || {
        tokio::runtime::Handle::current()
            .metrics()
            .num_alive_tasks()
    };
    let before = tasks();
    let here = Here::default();
    let started = linked("leaver", &control, folder.path())
        .serve(BeatServer::new(here.clone()))
        .start();
    let mesh = started.await.unwrap();
    mesh.ready().await.unwrap();
    mesh_view::says(control, "leaver", SOON, |nodes| nodes.len() == 1).await;
    // One, and those of its own that read and write its folder.
    assert!(threads("sidelane-leaver") >= 1);

    let mut client = BeatClient::new(mesh.channel());
    let waiting = tokio::spawn(async move { client.ping(ping("wait")).await });
    here.arrived.notified().await;
    let ending = tokio::spawn({
        let mesh = mesh.clone();
        async move { mesh.shutdown().await }
    });
    // Control was told before the call was over, and the end waits for the call.
    mesh_view::says(control, "leaver", SOON, |nodes| {
        let offers = sidelane_proto::wire::control::v1::Health::Draining as i32;
        nodes.iter().all(|node| node.health == offers)
    })
    .await;
    assert!(!ending.is_finished());
    here.held.notify_one();
    let answer = waiting.await.unwrap().unwrap().into_inner();
    assert_eq!(answer.node, "here");
    ending.await.unwrap();
    // Goodbye, and not a lease that has run out: control knows at once.
    mesh_view::says(control, "leaver", Duration::from_secs(1), <[_]>::is_empty).await;
    assert_eq!(threads("sidelane-leaver"), 0);
    let status = BeatClient::new(mesh.channel()).ping(ping("late")).await;
    assert_eq!(status.unwrap_err().code(), Code::Unavailable);
    drop(mesh);
    until("no task is left", async || tasks() == before).await;

    // Its folder is free, and its next life is another one; dropped, it ends by itself.
    let again = linked("leaver", &control, folder.path())
        .start()
        .await
        .unwrap();
    again.ready().await.unwrap();
    drop(again);
    until("no thread is left", async || {
        threads("sidelane-leaver") == 0
    })
    .await;
}

/// What the process says about the same settings.
fn the_processs_error(flag: &str) -> String {
    let nothing = Environment::default();
    let read = |_: &std::path::Path| Ok(String::new());
    match Config::load([flag.to_owned()], &nothing, read) {
        Err(error) => error.to_string(),
        Ok(Start::Run(_) | Start::Print(_)) => panic!("the process takes {flag}"),
    }
}

#[tokio::test]
async fn wrong_settings_get_the_flags_errors_and_nothing_runs() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = "127.0.0.1:9";
    let mesh = || linked("wrong", &nobody, folder.path());
    let error = async |embedded: Embedded| embedded.start().await.unwrap_err().to_string();
    for (name, value) in [
        ("grace", "soon"),
        ("contrl", "127.0.0.1:15010"),
        ("external", "orders:1"),
        ("locality", "here"),
        ("require-rules", "perhaps"),
        ("otlp", "127.0.0.1:4317"),
    ] {
        let expected = the_processs_error(&format!("--{name}={value}"));
        assert_eq!(error(mesh().setting(name, value)).await, expected);
    }
    let log = error(mesh().setting("log", "debug")).await;
    assert!(
        log.starts_with("--log \"debug\" (command line): a program that has"),
        "{log}"
    );
    let nameless = error(Mesh::embedded(ROUTES).setting("control", nobody)).await;
    assert!(nameless.starts_with("--node is required: "), "{nameless}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let plain = || {
        Mesh::embedded(ROUTES)
            .setting("node", "wrong")
            .setting("trust", "disabled")
            .setting("control", nobody)
    };
    let plain = || plain().setting("data", folder.path().join("x").to_str().unwrap());
    let refused = plain()
        .setting("internal", "127.0.0.1:0")
        .setting("admin", &taken);
    let refused = error(refused).await;
    assert!(
        refused.contains(&taken) && refused.contains("--admin"),
        "{refused}"
    );

    let here = Here::default();
    let beat = || BeatServer::new(here.clone());
    let twice = mesh()
        .serve(beat())
        .serve(beat())
        .start()
        .await
        .unwrap_err();
    assert!(matches!(twice, EmbedError::Service { .. }), "{twice}");
    let serve = format!("{}=127.0.0.1:9", services::BEAT);
    let both = error(mesh().serve(beat()).setting("serve", serve)).await;
    assert!(
        both.contains("--serve says at 127.0.0.1:9; keep one"),
        "{both}"
    );
    let handler = |_: Request<Counted>| async { Ok(Response::new(Counted::default())) };
    let cases = [
        (
            mesh().local(PING, handler),
            "is not served by this program; add `.serve(…)`",
        ),
        (
            mesh()
                .serve(beat())
                .local(PING, handler)
                .local(PING, handler),
            "it is given twice",
        ),
        (
            mesh().local("Ping", handler),
            "the handler of `Ping` cannot be used: ",
        ),
    ];
    for (case, part) in cases {
        let text = error(case).await;
        assert!(text.contains(part), "{text}");
    }
    let streaming = format!("/{}/Pull", services::BULK);
    let bulk = mesh().local(&streaming, handler);
    assert!(error(bulk).await.contains("is not served by this program"));
    until("nothing of them runs", async || {
        threads("sidelane-wrong") == 0
    })
    .await;
}

#[test]
fn the_rules_of_this_file_are_what_the_mesh_is_compiled_with() {
    for rule in [BeatRouting::RULE, VaultRouting::RULE] {
        let compiled = ROUTES.rules().find(|known| known.service == rule.service);
        assert_eq!(compiled.unwrap().agreement(), rule.agreement());
    }
}

#[tonic::async_trait]
impl Guarded for Here {
    async fn read(&self, _: Request<GuardedRequest>) -> Result<Response<GuardedResponse>, Status> {
        panic!("who is not known has read")
    }

    async fn write(&self, _: Request<GuardedRequest>) -> Result<Response<GuardedResponse>, Status> {
        panic!("who is not known has written")
    }

    async fn status(
        &self,
        _: Request<GuardedRequest>,
    ) -> Result<Response<GuardedResponse>, Status> {
        Ok(Response::new(GuardedResponse::default()))
    }
}

#[tokio::test]
async fn who_may_call_is_asked_within_the_process_too() {
    let folder = tempfile::tempdir().unwrap();
    let nobody = format!("127.0.0.1:{}", free_port());
    let path = |method| format!("/sidelane.test.v1.Guarded/{method}");
    let answered = Arc::new(AtomicUsize::new(0));
    let counts = Arc::clone(&answered);
    let mesh = linked("guarded", &nobody, folder.path())
        .serve(GuardedServer::new(Here::default()))
        .local(&path("Read"), |_: Request<GuardedRequest>| async {
            panic!("who is not known has read");
            #[expect(unreachable_code, reason = "says what it would answer")]
            Ok(Response::new(GuardedResponse::default()))
        })
        .local(&path("Status"), move |_: Request<GuardedRequest>| {
            counts.fetch_add(1, Ordering::Relaxed);
            async { Ok(Response::new(GuardedResponse::default())) }
        })
        .start()
        .await
        .unwrap();
    // Trust is disabled: nobody has an identity. By the handler, and by the bytes of the app.
    for method in ["Read", "Write"] {
        let call = mesh
            .call::<GuardedServiceRouting, _, GuardedResponse>(method, GuardedRequest::default());
        let refusal = Refusal::of_status(&call.await.unwrap_err());
        assert_eq!(refusal.reason, "NOT_AUTHORIZED");
        assert_eq!(
            (refusal.code, &*refusal.processed),
            (Code::PermissionDenied, "no")
        );
    }
    let call = mesh.call::<GuardedServiceRouting, GuardedRequest, GuardedResponse>(
        "Status",
        GuardedRequest::default(),
    );
    call.await.unwrap();
    assert_eq!(answered.load(Ordering::Relaxed), 1);
    let denied = [("service", "sidelane.test.v1.Guarded")];
    let denied = metrics(&mesh)
        .await
        .sum("sidelane_authorization_denied_total", &denied);
    assert_eq!(denied, 2.0);
    mesh.shutdown().await;
}

#[tokio::test]
async fn a_linked_sidecar_sends_the_spans_of_its_programs_calls() {
    let collector = Collector::start().await;
    let upstream = Upstream::named("far").start().await;
    let cluster = cluster!().control().node("process");
    let cluster = cluster.serving(services::ECHO, &upstream).start().await;
    let folder = tempfile::tempdir().unwrap();
    let mesh = linked("linked", &cluster.control().listen(), folder.path())
        .setting("otlp", collector.url())
        .setting("sampling", "1")
        .start()
        .await
        .unwrap();
    mesh.ready().await.unwrap();
    eligible(admin_of(&mesh), services::ECHO, "process").await;
    let mut echo = EchoClient::new(mesh.channel());
    echo.unary(UnaryRequest::default()).await.unwrap();
    let settings: Value = serde_json::from_str(&page(&mesh, "/config").await).unwrap();
    assert_eq!(settings["settings"]["otlp"]["value"], collector.url());
    // Its end sends what it has.
    mesh.shutdown().await;
    let spans = collector.spans();
    assert_eq!(spans.len(), 1, "{spans:#?}");
    assert_eq!(spans[0].node(), Some("linked"));
    assert_eq!(spans[0].attribute("sidelane.node"), "process");
}

#[tokio::test]
async fn a_call_within_the_process_has_a_span_whose_child_its_handler_is() {
    let collector = Collector::start().await;
    let folder = tempfile::tempdir().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&seen);
    let nobody = format!("127.0.0.1:{}", free_port());
    let mesh = linked("direct", &nobody, folder.path())
        .setting("otlp", collector.url())
        .setting("sampling", "1")
        .serve(BeatServer::new(Here::default()))
        .local(PING, move |request: Request<PingRequest>| {
            let parent = request.metadata().get("traceparent");
            let parent = parent.map(|it| it.to_str().unwrap().to_owned());
            noted.lock().unwrap().push(parent.unwrap_or_default());
            async move {
                match &*request.get_ref().payload {
                    b"panic" => panic!("as it was asked to"),
                    _ => Ok(Response::new(PingResponse::default())),
                }
            }
        })
        .start()
        .await
        .unwrap();
    let call = async |payload: &'static str| {
        let request = Request::new(ping(payload));
        let answer = mesh.call::<BeatRouting, PingRequest, PingResponse>("Ping", request);
        answer.await.map(drop)
    };
    call("well").await.unwrap();
    call("panic").await.unwrap_err();
    let other = Request::new(ping("other"));
    let other = mesh.call::<OtherBeatRouting, PingRequest, PingResponse>("Ping", other);
    other.await.unwrap_err();
    mesh.shutdown().await;
    let spans = collector.spans();
    let [well, broken, refused] = &spans[..] else {
        panic!("{spans:#?}");
    };
    let seen = seen.lock().unwrap();
    for (span, parent) in [well, broken].into_iter().zip(&*seen) {
        assert_eq!((&*span.name, span.kind), (&PING[1..], 3));
        assert!(
            parent.contains(&span.trace) && parent.contains(&span.id),
            "{parent}"
        );
        assert_eq!(span.attribute("sidelane.attempts"), "1");
        assert_eq!(span.attribute("sidelane.request.messages"), "1");
    }
    assert_eq!(well.attribute("rpc.response.status_code"), "OK");
    assert_eq!(well.attribute("sidelane.response.messages"), "1");
    assert_eq!(broken.attribute("sidelane.error"), "PEER_RESET");
    assert_eq!(broken.attribute("sidelane.response.messages"), "0");
    let said = broken.failure.as_ref().unwrap();
    assert!(said.contains("its handler panicked"), "{said}");
    assert_eq!(refused.attribute("sidelane.error"), "RULES_MISMATCH");
}

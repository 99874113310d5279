//! Who may call what, decided at the callee's sidecar by the identity that the caller's has proved:
//! the app never hears of a call that may not come in, its caller is told why and no more, and the
//! record of it is whole.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::time::{Duration, Instant};

use serde_json::Value;
use sidelane_proto::model::Lane;
use sidelane_proto::wire::routing::v1 as wire;
use sidelane_tests::applied::{applied, apply, idempotent, retry, rule, tuning, with};
use sidelane_tests::ask::{ECHO_UNARY, ask, ask_over, until_answered};
use sidelane_tests::certificates::{Authority, LONG};
use sidelane_tests::client::{RawAnswer, RawClient};
use sidelane_tests::cluster::Node;
use sidelane_tests::refusal::Refusal;
use sidelane_tests::users::{Form, Front, told};
use sidelane_tests::wire::v1::echo_client::EchoClient;
use sidelane_tests::wire::v1::{ChatRequest, Moment};
use sidelane_tests::{Cluster, Upstream, cluster, services, unruled};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Code;

const GUARDED: &str = "sidelane.test.v1.Guarded";
/// What a change of a rule takes until calls go by it, at most.
const SECOND: Duration = Duration::from_secs(1);
/// Lines of the record that are written at once, and then each second.
const LINES: (usize, usize) = (100, 10);

/// A caller, one that nobody names, and a callee, all of whom have certificates.
async fn mesh(authority: &Authority, upstream: &Upstream) -> Cluster {
    cluster!()
        .control()
        .node("caller")
        .strict(&authority.issue("caller", LONG))
        .node("stranger")
        .strict(&authority.issue("stranger", LONG))
        .node("callee")
        .strict(&authority.issue("callee", LONG))
        .serving(services::ECHO, upstream)
        .serving(GUARDED, upstream)
        .start()
        .await
}

fn entry(change: impl FnOnce(&mut wire::Allow)) -> wire::Allow {
    let mut entry = wire::Allow::default();
    change(&mut entry);
    entry
}

fn account(name: &str) -> wire::Allow {
    entry(|allow| allow.identity = Authority::id(name))
}

/// A rule of Echo that lets these in.
fn allowing(allow: Vec<wire::Allow>) -> wire::PushedRule {
    let dry_run = false;
    with(tuning(services::ECHO), |rule| {
        rule.authorization = Some(wire::Authorization { allow, dry_run });
    })
}

async fn hold(mesh: &Cluster, pushed: wire::PushedRule) {
    applied(mesh.control(), &[mesh.node("callee")], pushed).await;
}

async fn echo(node: &Node) -> RawAnswer {
    ask(node, ECHO_UNARY, &[]).await
}

async fn code(node: &Node, path: &str) -> Code {
    ask(node, path, &[]).await.grpc_status().unwrap().code()
}

async fn counted(node: &Node, name: &str, service: &str) -> f64 {
    let metrics = node.metrics().await;
    metrics.sum(name, &[("service", service)])
}

async fn denied(node: &Node) -> f64 {
    counted(node, "sidelane_authorization_denied_total", services::ECHO).await
}

/// The lines of the record.
fn record(node: &Node) -> Vec<Value> {
    let log = node.log();
    let lines = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    lines
        .filter(|line| line["target"] == "sidelane::audit")
        .collect()
}

fn executed(upstream: &Upstream) -> usize {
    upstream.ledger().count("", Moment::Arrived)
}

#[tokio::test]
async fn who_is_not_named_is_refused_before_the_app_and_told_why() {
    let authority = Authority::new();
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&authority, &upstream).await;
    let (caller, stranger, callee) = (
        mesh.node("caller"),
        mesh.node("stranger"),
        mesh.node("callee"),
    );
    // No rule says who may: everybody.
    assert_eq!(code(stranger, ECHO_UNARY).await, Code::Ok);
    hold(&mesh, allowing(vec![account("nobody"), account("caller")])).await;
    let before = executed(&upstream);
    assert_eq!(code(caller, ECHO_UNARY).await, Code::Ok);
    let refusal = Refusal::of(&echo(stranger).await);
    let version = callee.config().await["services"]
        .as_array()
        .unwrap()
        .iter()
        .find(|it| it["service"] == services::ECHO)
        .unwrap()["pushed"]["version"]
        .clone();
    let origin = format!("pushed rule, version {version}, rules.yaml:3");
    let text = format!(
        "sidelane.test.v1.Echo/Unary: `{}` may not call it, by {origin}; ask whoever writes that \
         rule, or see `sidelane explain --as` at the sidecar of the callee",
        Authority::id("stranger")
    );
    assert_eq!(
        refusal,
        Refusal::new("NOT_AUTHORIZED", Code::PermissionDenied, text)
    );
    assert_eq!(executed(&upstream), before + 1, "the app heard of it");
    assert_eq!(denied(callee).await, 1.0);
    let failed = [
        ("service", services::ECHO),
        ("direction", "inbound"),
        ("reason", "NOT_AUTHORIZED"),
    ];
    let metrics = callee.metrics().await;
    assert_eq!(metrics.sum("sidelane_errors_total", &failed), 1.0);
    let expected = serde_json::json!({
        "verdict": "denied",
        "identity": Authority::id("stranger"),
        "node": "stranger",
        "service": services::ECHO,
        "method": "Unary",
        "class": "Internal",
        "lane": "general",
        "rule": origin,
        "dry_run": false,
        "omitted": 0,
        "level": "WARN",
        "target": "sidelane::audit",
        "message": "a call that its rule does not allow",
    });
    let mut lines = record(callee);
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines[0].as_object_mut().unwrap().remove("timestamp");
    assert_eq!(lines[0], expected);
}

#[tokio::test]
async fn each_operator_holds_between_real_sidecars() {
    let authority = Authority::new();
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&authority, &upstream).await;
    let caller = mesh.node("caller");
    let said = |change: fn(&mut wire::Allow)| entry(change);
    let cases: [(wire::Allow, bool); 14] = [
        (said(|it| it.anyone = true), true),
        (account("caller"), true),
        (account("call"), false),
        (said(|it| it.namespace = "test".to_owned()), true),
        (said(|it| it.namespace = "tes".to_owned()), false),
        (said(|it| it.trust_domain = "mesh.example".to_owned()), true),
        (
            said(|it| it.trust_domain = "other.example".to_owned()),
            false,
        ),
        (
            said(|it| it.prefix = "spiffe://mesh.example/ns/test/sa/call".to_owned()),
            true,
        ),
        (
            said(|it| it.prefix = "spiffe://mesh.example/ns/test/sa/stra".to_owned()),
            false,
        ),
        (
            said(|it| it.connection = wire::Connection::Internal.into()),
            true,
        ),
        (
            said(|it| it.connection = wire::Connection::External.into()),
            false,
        ),
        (said(|it| it.lane = "general".to_owned()), true),
        (said(|it| it.lane = "gossip".to_owned()), false),
        (
            said(|it| {
                it.namespace = "test".to_owned();
                it.lane = "gossip".to_owned();
            }),
            false,
        ),
    ];
    for (allow, comes_in) in cases {
        hold(&mesh, allowing(vec![allow.clone()])).await;
        let wanted = if comes_in {
            Code::Ok
        } else {
            Code::PermissionDenied
        };
        assert_eq!(code(caller, ECHO_UNARY).await, wanted, "{allow:?}");
        // One that fits is enough.
        hold(&mesh, allowing(vec![allow.clone(), account("caller")])).await;
        assert_eq!(code(caller, ECHO_UNARY).await, Code::Ok, "{allow:?}");
    }
}

#[tokio::test]
async fn what_is_compiled_in_holds_for_each_method() {
    let authority = Authority::new();
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&authority, &upstream).await;
    let path = |method: &str| format!("/{GUARDED}/{method}");
    // The app does not have it, and says so: it was reached.
    let reached = Code::Unimplemented;
    let refused = Code::PermissionDenied;
    for (node, method, wanted) in [
        ("caller", "Read", reached),
        ("caller", "Unheard", reached),
        ("caller", "Write", refused),
        ("caller", "Status", reached),
        ("stranger", "Read", refused),
        ("stranger", "Unheard", refused),
        ("stranger", "Write", refused),
        ("stranger", "Status", reached),
    ] {
        let answer = ask(mesh.node(node), &path(method), &[]).await;
        let status = answer.grpc_status().unwrap();
        assert_eq!(status.code(), wanted, "{node} {method}: {status:?}");
        if wanted == refused {
            let text = Refusal::of(&answer).text;
            assert!(text.contains("compiled"), "{text}");
            assert!(text.contains("guarded.proto:"), "{text}");
            assert!(!text.contains("batch-") && !text.contains("ops"), "{text}");
        }
    }
    // What is applied replaces the service's list, and leaves those of methods.
    let pushed = with(tuning(GUARDED), |rule| {
        rule.authorization = Some(wire::Authorization {
            allow: vec![account("stranger")],
            dry_run: false,
        });
    });
    hold(&mesh, pushed).await;
    for (node, method, wanted) in [
        ("caller", "Read", refused),
        ("stranger", "Read", reached),
        ("stranger", "Write", refused),
        ("caller", "Status", reached),
    ] {
        let found = code(mesh.node(node), &path(method)).await;
        assert_eq!(found, wanted, "{node} {method}");
    }
}

#[tokio::test]
async fn a_dry_run_changes_nothing_but_counts() {
    let authority = Authority::new();
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&authority, &upstream).await;
    let callee = mesh.node("callee");
    let pushed = with(allowing(vec![account("caller")]), |rule| {
        rule.authorization.as_mut().unwrap().dry_run = true;
    });
    hold(&mesh, pushed).await;
    for node in ["caller", "stranger", "stranger"] {
        assert_eq!(code(mesh.node(node), ECHO_UNARY).await, Code::Ok);
    }
    let would = "sidelane_authorization_would_deny_total";
    assert_eq!(counted(callee, would, services::ECHO).await, 2.0);
    assert_eq!(denied(callee).await, 0.0);
    let lines = record(callee);
    assert_eq!(lines.len(), 2, "{lines:?}");
    for line in lines {
        assert_eq!(line["verdict"], "would be denied");
        assert_eq!(line["dry_run"], true);
        assert_eq!(line["identity"], Authority::id("stranger"));
    }
}

#[tokio::test]
async fn a_change_holds_on_links_that_stand_within_a_second() {
    let authority = Authority::new();
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&authority, &upstream).await;
    let (caller, callee) = (mesh.node("caller"), mesh.node("callee"));
    hold(&mesh, allowing(vec![account("caller")])).await;
    let client = RawClient::connect(caller.outbound()).await.unwrap();
    let calls = async || {
        let answer = ask_over(&client, ECHO_UNARY, &[]).await;
        answer.grpc_status().unwrap().code()
    };
    assert_eq!(calls().await, Code::Ok);
    // A conversation that was let in goes on to its end.
    let (say, said) = mpsc::channel(1);
    let mut chat = EchoClient::new(caller.channel().await);
    say.send(ChatRequest::default()).await.unwrap();
    let answers = chat.chat(ReceiverStream::new(said)).await;
    let mut answers = answers.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    let links = async || {
        let links = callee.metrics().await;
        links.sum("sidelane_tls_links_total", &[("side", "accepted")])
    };
    let before = links().await;
    for (allow, wanted) in [
        (account("stranger"), Code::PermissionDenied),
        (account("caller"), Code::Ok),
        (account("stranger"), Code::PermissionDenied),
    ] {
        apply(mesh.control(), vec![allowing(vec![allow])], &[]).await;
        let told = Instant::now();
        while calls().await != wanted {
            assert!(told.elapsed() < 10 * SECOND, "{wanted:?} never holds");
        }
        assert!(
            told.elapsed() < SECOND,
            "{wanted:?} after {:?}",
            told.elapsed()
        );
        assert_eq!(calls().await, wanted);
    }
    say.send(ChatRequest::default()).await.unwrap();
    answers.message().await.unwrap().unwrap();
    drop(say);
    assert!(answers.message().await.unwrap().is_none());
    assert_eq!(links().await, before, "links were made anew");
    // Taken back, it is everybody's again.
    apply(mesh.control(), Vec::new(), &[services::ECHO]).await;
    let told = Instant::now();
    while calls().await != Code::Ok {
        assert!(told.elapsed() < 10 * SECOND, "the rule never goes");
    }
}

#[tokio::test]
async fn what_is_refused_is_asked_of_nobody_else() {
    let authority = Authority::new();
    let upstreams = [
        Upstream::named("one").start().await,
        Upstream::named("two").start().await,
    ];
    let mesh = cluster!()
        .control()
        .node("one")
        .running(unruled!())
        .strict(&authority.issue("one", LONG))
        .serving(services::ECHO, &upstreams[0])
        .node("two")
        .running(unruled!())
        .strict(&authority.issue("two", LONG))
        .serving(services::ECHO, &upstreams[1])
        .node("stranger")
        .running(unruled!())
        .strict(&authority.issue("stranger", LONG))
        .launch()
        .await;
    mesh.control().ready().await;
    for node in mesh.nodes() {
        node.ready().await;
    }
    until_answered(mesh.node("stranger")).await;
    let before = upstreams.each_ref().map(executed);
    // Its rule has it made again after just that status.
    let pushed = with(rule(services::ECHO, Lane::GENERAL), |rule| {
        rule.authorization = Some(wire::Authorization {
            allow: vec![account("caller")],
            dry_run: false,
        });
        rule.methods = vec![idempotent("Unary")];
        rule.retry = retry(3, &["PERMISSION_DENIED", "UNAVAILABLE"]);
    });
    let nodes: Vec<&Node> = mesh.nodes().iter().collect();
    applied(mesh.control(), &nodes, pushed).await;
    let callees = ["one", "two"].map(|name| mesh.node(name));
    for _ in 0..10 {
        assert_eq!(
            code(mesh.node("stranger"), ECHO_UNARY).await,
            Code::PermissionDenied
        );
    }
    let counts = [denied(callees[0]).await, denied(callees[1]).await];
    assert_eq!(counts.iter().sum::<f64>(), 10.0, "{counts:?}");
    assert_eq!(upstreams.each_ref().map(executed), before);
}

#[tokio::test]
async fn who_calls_from_beside_the_callee_is_the_callees_own_identity() {
    let authority = Authority::new();
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&authority, &upstream).await;
    let callee = mesh.node("callee");
    hold(&mesh, allowing(vec![account("caller")])).await;
    let before = executed(&upstream);
    let refusal = Refusal::of(&echo(callee).await);
    assert_eq!(refusal.reason, "NOT_AUTHORIZED");
    assert!(
        refusal.text.contains(&Authority::id("callee")),
        "{refusal:?}"
    );
    assert_eq!(executed(&upstream), before);
    assert_eq!(record(callee).last().unwrap()["node"], "callee");
    hold(&mesh, allowing(vec![account("callee")])).await;
    assert_eq!(code(callee, ECHO_UNARY).await, Code::Ok);
}

#[tokio::test]
async fn who_is_not_known_fits_only_what_asks_for_nobody() {
    let authority = Authority::new();
    let upstream = Upstream::named("callee").start().await;
    let mesh = cluster!()
        .control()
        .node("old")
        .node("new")
        .strict(&authority.issue("new", LONG))
        .node("callee")
        .permissive(&authority.issue("callee", LONG))
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let (old, new) = (mesh.node("old"), mesh.node("new"));
    let domain = entry(|it| it.trust_domain = "mesh.example".to_owned());
    hold(&mesh, allowing(vec![domain])).await;
    assert_eq!(code(new, ECHO_UNARY).await, Code::Ok);
    let refusal = Refusal::of(&echo(old).await);
    assert!(
        refusal
            .text
            .contains("a caller whose identity is not known may not"),
        "{refusal:?}"
    );
    assert_eq!(record(mesh.node("callee"))[0]["identity"], "unknown");
    let general = entry(|it| it.lane = "general".to_owned());
    hold(&mesh, allowing(vec![general])).await;
    assert_eq!(code(old, ECHO_UNARY).await, Code::Ok);
}

#[tokio::test]
async fn users_are_not_who_lets_them_in() {
    let authority = Authority::new();
    let front = Front::new(Form::Pkcs8);
    let upstream = Upstream::named("edge").start().await;
    let mesh = front.before(cluster!().control().node("edge"));
    let mesh = mesh
        .strict(&authority.issue("edge", LONG))
        .serving(services::FRONT, &upstream)
        .start()
        .await;
    let edge = mesh.node("edge");
    let visit = "/sidelane.test.v1.Front/Visit";
    let by = |allow: wire::Allow| {
        with(tuning(services::FRONT), |rule| {
            let (allow, dry_run) = (vec![allow], false);
            rule.authorization = Some(wire::Authorization { allow, dry_run });
        })
    };
    applied(mesh.control(), &[edge], by(account("edge"))).await;
    // The app beside it is the sidecar's own; a user who comes by its listener is not.
    assert_eq!(code(edge, visit).await, Code::Ok);
    let user = front.raw(edge.external()).await.unwrap();
    let refusal = told(&ask_over(&user, visit, &[]).await);
    // Its address is all that is known of it.
    let lines = record(edge);
    assert_eq!(lines.last().unwrap()["address"], "127.0.0.1", "{lines:?}");
    let text = format!("{visit}: not authorized");
    assert_eq!(refusal, (Code::PermissionDenied, text));
    assert_eq!(record(edge)[0]["identity"], "unknown");
    let external = entry(|it| it.connection = wire::Connection::External.into());
    applied(mesh.control(), &[edge], by(external)).await;
    let answer = ask_over(&user, visit, &[]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
}

#[tokio::test]
async fn behind_the_edge_users_are_its_sidecar_and_of_class_external() {
    let authority = Authority::new();
    let front = Front::new(Form::Pkcs8);
    let upstream = Upstream::named("callee").start().await;
    let mesh = front.before(cluster!().control().node("edge"));
    let mesh = mesh
        .strict(&authority.issue("edge", LONG))
        .node("callee")
        .strict(&authority.issue("callee", LONG))
        .serving(services::FRONT, &upstream)
        .start()
        .await;
    let (edge, callee) = (mesh.node("edge"), mesh.node("callee"));
    let visit = "/sidelane.test.v1.Front/Visit";
    let user = front.raw(edge.external()).await.unwrap();
    let cases = [
        (account("edge"), Code::Ok),
        (account("another"), Code::PermissionDenied),
    ];
    for (mut allow, wanted) in cases {
        allow.connection = wire::Connection::External.into();
        let rule = with(tuning(services::FRONT), |rule| {
            let (allow, dry_run) = (vec![allow], false);
            rule.authorization = Some(wire::Authorization { allow, dry_run });
        });
        applied(mesh.control(), &[edge, callee], rule).await;
        let answer = ask_over(&user, visit, &[]).await;
        assert_eq!(answer.grpc_status().unwrap().code(), wanted, "{answer:?}");
    }
    let noted = &record(callee)[0];
    assert_eq!(noted["identity"], Authority::id("edge"));
    assert_eq!(noted["class"], "External");
}

#[tokio::test]
async fn a_flood_of_refusals_is_counted_and_noted_up_to_the_bound() {
    let authority = Authority::new();
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&authority, &upstream).await;
    let (stranger, callee) = (mesh.node("stranger"), mesh.node("callee"));
    hold(&mesh, allowing(vec![account("caller")])).await;
    let client = RawClient::connect(stranger.outbound()).await.unwrap();
    let begun = Instant::now();
    for _ in 0..1_000 {
        let answer = ask_over(&client, ECHO_UNARY, &[]).await;
        assert_eq!(answer.grpc_status().unwrap().code(), Code::PermissionDenied);
    }
    let seconds = usize::try_from(begun.elapsed().as_secs()).unwrap() + 1;
    let lines = record(callee).len();
    let most = LINES.0 + LINES.1 * seconds;
    assert!(
        (LINES.0..=most).contains(&lines),
        "{lines} lines in {seconds} s"
    );
    assert_eq!(denied(callee).await, 1_000.0);
    let omitted = callee
        .metrics()
        .await
        .sum("sidelane_audit_omitted_total", &[]);
    #[allow(clippy::cast_precision_loss, reason = "a thousand at most")]
    let noted = lines as f64;
    assert_eq!(omitted + noted, 1_000.0);
}

/// What a sidecar says of a call by somebody.
async fn explained(node: &Node, path: &str, identity: &str) -> Value {
    let page = format!("/explain?path={path}&as={identity}");
    serde_json::from_str(&node.get(&page).await.body).unwrap()
}

#[tokio::test]
async fn explain_tells_the_verdict_and_whose_word_it_is() {
    let authority = Authority::new();
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&authority, &upstream).await;
    let callee = mesh.node("callee");
    let namespace = entry(|it| it.namespace = "other".to_owned());
    hold(&mesh, allowing(vec![namespace, account("caller")])).await;
    let answer = explained(callee, ECHO_UNARY, &Authority::id("caller")).await;
    let authorized = &answer["authorized"];
    assert_eq!(authorized["verdict"], "allowed", "{answer:#}");
    assert_eq!(authorized["identity"], Authority::id("caller"));
    let by = format!("identity {}", Authority::id("caller"));
    assert_eq!(authorized["by"], by);
    let from = authorized["from"].as_str().unwrap();
    assert!(from.starts_with("pushed rule, version "), "{from}");
    assert!(from.ends_with("rules.yaml:3"), "{from}");
    assert_eq!(answer["error"], "");
    let steps = answer["steps"].to_string();
    assert!(
        steps.contains("fits entry 2 of the service's list"),
        "{steps}"
    );

    let answer = explained(callee, ECHO_UNARY, &Authority::id("stranger")).await;
    assert_eq!(answer["authorized"]["verdict"], "denied", "{answer:#}");
    assert_eq!(answer["error"], "NOT_AUTHORIZED");
    // The caller would hear the same.
    let refusal = Refusal::of(&echo(mesh.node("stranger")).await);
    assert_eq!(answer["message"], refusal.text);
    assert_eq!(denied(callee).await, 1.0, "questions are no calls");

    // Compiled in: the method's own list, and where it is written.
    let status = format!("/{GUARDED}/Status");
    let answer = explained(callee, &status, &Authority::id("stranger")).await;
    assert_eq!(answer["authorized"]["by"], "anyone", "{answer:#}");
    let from = answer["authorized"]["from"].as_str().unwrap();
    assert!(from.contains("guarded.proto:"), "{from}");
    let steps = answer["steps"].to_string();
    assert!(steps.contains("of the method's list"), "{steps}");

    for nobody in ["caller", "spiffe://", "spiffe://mesh.example/a//b"] {
        let answer = explained(callee, ECHO_UNARY, nobody).await;
        let message = answer["message"].as_str().unwrap();
        assert!(
            message.starts_with("nobody can call as that: "),
            "{message}"
        );
        assert_eq!(answer["error"], "NOT_AUTHORIZED");
    }

    // And to people.
    let admin = format!("http://{}", callee.admin());
    let as_stranger = Authority::id("stranger");
    let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_sidelane-under-test"));
    command.args([
        "explain",
        ECHO_UNARY,
        "--sidecar",
        &admin,
        "--as",
        &as_stranger,
    ]);
    let output = command.output().await.unwrap();
    assert_eq!(output.status.code(), Some(1));
    let text = String::from_utf8(output.stdout).unwrap();
    let caller = format!("caller      {as_stranger}: denied, no entry fits (pushed rule, version");
    assert!(text.contains(&caller), "{text}");
    assert!(text.contains("refused     NOT_AUTHORIZED: "), "{text}");
}

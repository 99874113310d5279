//! A mesh whose certificates control signs: how sidecars come to the first one, how they are renewed,
//! revoked and put under another root while calls go on, and that nothing secret is seen anywhere.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is a failed test"
)]

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sidelane_identity::token::JoinFile;
use sidelane_process::runtime::{RuntimeFolder, join_name};
use sidelane_tests::ask::{ask, until_answered};
use sidelane_tests::cluster::Node;
use sidelane_tests::load::{Load, Plan};
use sidelane_tests::run::{Ended, Run};
use sidelane_tests::wire::v1::UnaryResponse;
use sidelane_tests::{Cluster, Upstream, cluster, exclusive, services};
use tonic::Code;

const PROGRAM: &str = env!("CARGO_BIN_EXE_sidelane-under-test");
/// From a change to what it does, at most.
const SOON: Duration = Duration::from_secs(5);
const ECHO: &str = "/sidelane.test.v1.Echo/Unary";
/// The shortest life that leaves time for two renewals in a test.
const SHORT: &str = "3s";

async fn code(node: &Node, path: &str) -> Code {
    ask(node, path, &[]).await.grpc_status().unwrap().code()
}

fn runtime(mesh: &Cluster) -> RuntimeFolder {
    RuntimeFolder::at(mesh.folder().join("sidelane"))
}

fn join_text(mesh: &Cluster) -> String {
    let read = runtime(mesh).read(&join_name(mesh.control().listen()));
    String::from_utf8(read.unwrap().expect("control has left its join file")).unwrap()
}

/// A command of control's own user.
async fn command(mesh: &Cluster, arguments: &[&str]) -> Ended {
    let control = mesh.control().listen().to_string();
    let folder = mesh.folder().display().to_string();
    Run::of(PROGRAM)
        .with(arguments.iter().copied())
        .with(["--control", &control])
        .variable("XDG_RUNTIME_DIR", &folder)
        .to_its_end()
        .await
}

async fn done(mesh: &Cluster, arguments: &[&str]) -> String {
    let ended = command(mesh, arguments).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    ended.stdout
}

/// A token for this node, in a file for its owner alone.
async fn token(mesh: &Cluster, node: &str, ttl: &str) -> (PathBuf, String) {
    let text = done(mesh, &["token", "--node", node, "--ttl", ttl]).await;
    let path = mesh.folder().join(format!("{node}.token"));
    std::fs::write(&path, &text).unwrap();
    permit(&path, 0o600);
    (path, text.trim().to_owned())
}

fn permit(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

/// A folder in which no control has left anything: as on another machine.
fn elsewhere(mesh: &Cluster) -> String {
    let folder = mesh.folder().join("elsewhere");
    std::fs::create_dir_all(&folder).unwrap();
    folder.display().to_string()
}

async fn metric(node: &Node, name: &str) -> f64 {
    node.metrics().await.sum(name, &[])
}

/// Everything that a node, or control, says to others.
async fn said(mesh: &Cluster) -> Vec<String> {
    let mut said = vec![
        mesh.control().log(),
        mesh.control().get("/metrics").await.body,
    ];
    for node in mesh.nodes() {
        said.push(node.log());
        for page in ["/config", "/metrics", "/readyz"] {
            if node.ended().await.is_none() {
                said.push(node.get(page).await.body);
            }
        }
    }
    said
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[tokio::test]
async fn nobody_says_anything_of_trust_and_all_links_prove_who_is_there() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = cluster!()
        .enrolled()
        .control()
        .with("--log", "debug")
        .node("caller")
        .with("--log", "debug")
        .switched_on("--keep-identity")
        .node("callee")
        .with("--log", "debug")
        .serving(services::ECHO, &upstream)
        .serving(services::VAULT, &upstream)
        .start()
        .await;
    let (caller, callee) = (mesh.node("caller"), mesh.node("callee"));
    let answer = ask(caller, ECHO, &[]).await;
    let told = answer.message::<UnaryResponse>().unwrap().metadata;
    let account = "spiffe://sidelane.internal/ns/default/sa/caller";
    let wanted = format!("sidelane-source-identity: {account}");
    assert!(told.contains(&wanted), "{told:?}");
    assert_eq!(
        code(caller, "/sidelane.test.v1.Vault/Open").await,
        Code::Ok,
        "what is secure may go"
    );
    let config = caller.config().await;
    assert_eq!(config["certificate"]["identity"], account);
    assert_eq!(config["certificate"]["roots"], 1);
    let metrics = callee.metrics().await;
    let accepted = [("side", "accepted")];
    assert!(metrics.sum("sidelane_tls_links_total", &accepted) >= 1.0);
    assert_eq!(
        metrics.sum("sidelane_plaintext_links_total", &accepted),
        0.0
    );
    let control = mesh.control().get("/metrics").await.body;
    assert!(control.contains("connections_plain_total 0\n"), "{control}");

    // What must never be seen, in all the forms that it has.
    let join = join_text(&mesh);
    let parsed = JoinFile::parse(&join).unwrap_or_else(|error| panic!("{error}"));
    let kept = mesh.folder().join("caller.data/identity.pem");
    assert_eq!(
        std::fs::metadata(&kept).unwrap().permissions().mode() & 0o777,
        0o600
    );
    let kept = std::fs::read_to_string(kept).unwrap();
    let key = kept.lines().nth(2).unwrap().to_owned();
    assert!(kept.contains("PRIVATE KEY") && key.len() == 64, "{key}");
    let secrets = [
        join.trim().to_owned(),
        hex(&*parsed.secret),
        key,
        "PRIVATE KEY".to_owned(),
    ];
    for text in said(&mesh).await {
        for secret in &secrets {
            assert!(!text.contains(secret.as_str()), "{secret} is in {text}");
        }
    }
}

#[tokio::test]
async fn a_token_is_good_once_for_one_node_and_each_misuse_says_why() {
    let upstream = Upstream::named("callee").start().await;
    let mut mesh = cluster!()
        .enrolled()
        .control()
        .node("callee")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let elsewhere = elsewhere(&mesh);
    let far = [("XDG_RUNTIME_DIR", elsewhere.as_str())];
    let (file, first) = token(&mesh, "caller", "1h").await;
    let path = file.display().to_string();

    // Others may read it.
    permit(&file, 0o644);
    let open = mesh.add("open", &["--token-file", &path], &far).await;
    assert!(!open.exited(SOON).await.success());
    let mends = format!("chmod 600 {path}");
    assert!(open.log().contains(&mends), "{}", open.log());
    permit(&file, 0o600);

    // It is another node's.
    let other = mesh.add("other", &["--token-file", &path], &far).await;
    assert!(!other.exited(SOON).await.success());
    let log = other.log();
    assert!(log.contains("TOKEN_OF_ANOTHER_NODE"), "{log}");
    assert!(log.contains("sidelane token --node other"), "{log}");

    // It is right.
    let caller = mesh.add("caller", &["--token-file", &path], &far).await;
    caller.ready().await;
    assert_eq!(until_answered(caller).await, "callee");

    // It was used.
    caller.stop(4 * SOON).await;
    caller.start_again().await;
    assert!(!caller.exited(SOON).await.success());
    assert!(caller.log().contains("TOKEN_USED"), "{}", caller.log());

    // It has ended.
    let (file, second) = token(&mesh, "late", "1s").await;
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let path = file.display().to_string();
    let late = mesh.add("late", &["--token-file", &path], &far).await;
    assert!(!late.exited(SOON).await.success());
    assert!(late.log().contains("TOKEN_EXPIRED"), "{}", late.log());

    // By the variable, and for an identity that was asked for.
    let shop = "spiffe://sidelane.internal/ns/shop/sa/front";
    let arguments = ["token", "--node", "front", "--identity", shop];
    let third = done(&mesh, &arguments).await.trim().to_owned();
    let variables = [far[0], ("SIDELANE_TOKEN", third.as_str())];
    let front = mesh.add("front", &["--log", "debug"], &variables).await;
    front.ready().await;
    assert_eq!(front.config().await["certificate"]["identity"], shop);
    assert_eq!(until_answered(front).await, "callee");

    for text in said(&mesh).await {
        for secret in [&first, &second, &third] {
            assert!(!text.contains(secret.as_str()), "a token is in {text}");
        }
    }
}

#[tokio::test]
async fn without_a_proof_a_sidecar_says_where_it_looked_and_waits_for_control() {
    let mut mesh = cluster!().enrolled().control().start().await;
    let elsewhere = elsewhere(&mesh);
    let far = [("XDG_RUNTIME_DIR", elsewhere.as_str())];
    let lost = mesh.add("lost", &[], &far).await;
    let answer = lost
        .answers("/readyz", |answer| {
            answer.status == 503 && answer.body.contains("nothing proves")
        })
        .await;
    for part in [
        "--token-file",
        "SIDELANE_TOKEN",
        "elsewhere/sidelane/control-",
        "sidelane token --node lost",
    ] {
        assert!(answer.body.contains(part), "{part}: {}", answer.body);
    }
    assert_eq!(lost.get("/livez").await.status, 200);
    let refused = tokio::net::TcpStream::connect(lost.outbound()).await;
    assert!(refused.is_err(), "nobody is kept waiting there");
    // Told to end, it ends.
    lost.stop(SOON).await;
}

#[tokio::test]
async fn a_kept_certificate_outlives_a_restart_without_control_and_without_a_token() {
    let upstream = Upstream::named("callee").start().await;
    let mut mesh = cluster!()
        .enrolled()
        .control()
        .node("callee")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let elsewhere = elsewhere(&mesh);
    let far = [("XDG_RUNTIME_DIR", elsewhere.as_str())];
    let (file, _) = token(&mesh, "caller", "1h").await;
    let path = file.display().to_string();
    let flags = ["--token-file", &path, "--keep-identity"];
    let caller = mesh.add("caller", &flags, &far).await;
    caller.ready().await;
    assert_eq!(until_answered(caller).await, "callee");
    let before = caller.config().await["certificate"]["serial"].clone();
    mesh.control().kill().await;
    let caller = mesh.node("caller");
    caller.restart(4 * SOON).await;
    assert_eq!(caller.config().await["certificate"]["serial"], before);
    assert_eq!(until_answered(caller).await, "callee");
}

/// Calls go on for so long while every certificate is replaced every two seconds.
async fn renewed_under_load(rate: u32, time: Duration) {
    let _turn = exclusive().await;
    let upstream = Upstream::named("callee").start().await;
    let mesh = cluster!()
        .enrolled()
        .control()
        .with("--leaf-life", SHORT)
        .node("caller")
        .node("callee")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let renewed = "sidelane_certificate_renewals_total";
    let before = [
        metric(mesh.node("caller"), renewed).await,
        metric(mesh.node("callee"), renewed).await,
    ];
    let plan = Plan {
        rate,
        ..Plan::THOUSAND
    };
    let load = Load::start(mesh.node("caller").outbound(), plan).await;
    tokio::time::sleep(time).await;
    load.stop().await.nothing_failed();
    for (node, before) in mesh.nodes().iter().zip(before) {
        let renewals = metric(node, renewed).await - before;
        // A certificate of three seconds is renewed after two at the latest.
        let least = (time.as_secs_f64() / 2.0 - 1.0).floor();
        assert!(renewals >= least, "{renewals} renewals, {least} at least");
        assert_eq!(node.log().matches("NODE_REPLACED").count(), 0);
    }
}

#[tokio::test]
async fn certificates_are_renewed_and_no_call_fails() {
    renewed_under_load(1_000, Duration::from_secs(8)).await;
}

#[tokio::test]
#[ignore = "takes more than a minute, and a machine that is not busy"]
async fn certificates_are_renewed_for_a_minute_and_no_call_fails() {
    renewed_under_load(1_000, Duration::from_secs(60)).await;
}

#[tokio::test]
async fn a_new_root_takes_over_and_no_call_fails() {
    let _turn = exclusive().await;
    let upstream = Upstream::named("callee").start().await;
    let mesh = cluster!()
        .enrolled()
        .control()
        .with("--leaf-life", "4s")
        .node("caller")
        .node("callee")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let plan = Plan {
        rate: 500,
        ..Plan::THOUSAND
    };
    let load = Load::start(mesh.node("caller").outbound(), plan).await;
    let signing = || {
        let join = JoinFile::parse(&join_text(&mesh));
        hex(&join
            .unwrap_or_else(|error| panic!("{error}"))
            .authority
            .root)
    };
    let old = signing();
    let said = done(&mesh, &["root", "rotate"]).await;
    let begun = Instant::now();
    while signing() == old {
        assert!(
            begun.elapsed() < SOON,
            "the new root does not sign: {}",
            mesh.control().end_of_log()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(said.contains(&signing()), "{said}");
    for node in mesh.nodes() {
        assert_eq!(node.config().await["certificate"]["roots"], 2);
    }
    // Longer than anything lives that the old one signed.
    tokio::time::sleep(Duration::from_secs(6)).await;
    load.stop().await.nothing_failed();
    // A node that comes now knows control by the new root alone.
    mesh.node("caller").restart(4 * SOON).await;
    assert_eq!(until_answered(mesh.node("caller")).await, "callee");
}

#[tokio::test]
async fn who_is_revoked_is_cut_off_and_nobody_else_is() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = cluster!()
        .enrolled()
        .control()
        .node("good")
        .node("stolen")
        .node("callee")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let [good, stolen, callee] = ["good", "stolen", "callee"].map(|name| mesh.node(name));
    assert_eq!(until_answered(stolen).await, "callee");
    assert_eq!(until_answered(good).await, "callee");
    done(&mesh, &["revoke", "--node", "stolen"]).await;
    let begun = Instant::now();
    while code(stolen, ECHO).await == Code::Ok {
        assert!(begun.elapsed() < SOON, "{}", callee.end_of_log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // Its old link is gone, and no new one is taken.
    let refused = [("side", "accepted"), ("reason", "revoked")];
    while callee
        .metrics()
        .await
        .sum("sidelane_tls_refused_total", &refused)
        < 1.0
    {
        assert!(begun.elapsed() < SOON, "{}", callee.end_of_log());
        let _ = code(stolen, ECHO).await;
    }
    assert_ne!(code(stolen, ECHO).await, Code::Ok);
    assert_eq!(code(good, ECHO).await, Code::Ok);
    stolen
        .answers("/config", |answer| {
            answer.body.contains("was revoked") || answer.body.contains("CertificateUnknown")
        })
        .await;
    let undone = done(&mesh, &["revoke", "--node", "stolen", "--undo"]).await;
    assert!(undone.starts_with("taken back"), "{undone}");
    let again = command(&mesh, &["revoke", "--node", "stolen", "--undo"]).await;
    assert!(
        again.code == Some(1) && again.stderr.contains("is not revoked"),
        "{again:?}"
    );
}

#[tokio::test]
async fn control_away_past_the_end_fails_calls_closed_and_back_all_is_well_again() {
    let _turn = exclusive().await;
    let upstream = Upstream::named("callee").start().await;
    let mut mesh = cluster!()
        .enrolled()
        .control()
        .with("--leaf-life", SHORT)
        .start()
        .await;
    // By tokens, which are used up: nothing but the certificates leads back.
    let elsewhere = elsewhere(&mesh);
    let far = [("XDG_RUNTIME_DIR", elsewhere.as_str())];
    let serve = format!("{}={}", services::ECHO, upstream.address());
    for (name, flags) in [("callee", vec!["--serve", &serve]), ("caller", vec![])] {
        let (file, _) = token(&mesh, name, "1h").await;
        let path = file.display().to_string();
        let flags = [&flags[..], &["--token-file", &path]].concat();
        mesh.add(name, &flags, &far).await.ready().await;
    }
    let caller = mesh.node("caller");
    assert_eq!(until_answered(caller).await, "callee");
    mesh.control().kill().await;
    let away = Instant::now();
    let ended = |body: &str| body.contains("the certificate ended");
    for node in mesh.nodes() {
        node.answers("/readyz", |answer| {
            answer.status == 503 && ended(&answer.body)
        })
        .await;
    }
    // What was on its way when they ended has two seconds.
    while code(caller, ECHO).await == Code::Ok {
        assert!(away.elapsed() < 4 * SOON, "{}", caller.end_of_log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let refused = ask(caller, ECHO, &[]).await.grpc_status().unwrap();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    mesh.control().start_again().await;
    mesh.control().ready().await;
    assert_eq!(until_answered(caller).await, "callee");
    for node in mesh.nodes() {
        node.ready().await;
    }
}

#[tokio::test]
async fn without_a_grace_another_proof_leads_back() {
    let _turn = exclusive().await;
    let mut mesh = cluster!()
        .enrolled()
        .control()
        .with("--leaf-life", SHORT)
        .with("--renewal-grace", "0s")
        .start()
        .await;
    let elsewhere = elsewhere(&mesh);
    let far = [("XDG_RUNTIME_DIR", elsewhere.as_str())];
    let shop = "spiffe://sidelane.internal/ns/shop/sa/near";
    // Control's own user may be whoever is asked for.
    let flags = ["--identity", shop];
    mesh.add("near", &flags, &[]).await.ready().await;
    let (file, _) = token(&mesh, "far", "1h").await;
    let path = file.display().to_string();
    let flags = ["--token-file", path.as_str()];
    mesh.add("far", &flags, &far).await.ready().await;
    mesh.control().kill().await;
    // A handshake knows the time to the second, so that much is needed beyond the end.
    let ended =
        |body: &str| body.contains("the certificate ended") && !body.contains("ended 0 s ago");
    for node in mesh.nodes() {
        node.answers("/readyz", |answer| ended(&answer.body)).await;
    }
    mesh.control().start_again().await;
    mesh.control().ready().await;
    // The join file is there again.
    let near = mesh.node("near");
    near.ready().await;
    assert_eq!(near.config().await["certificate"]["identity"], shop);
    // The token is used up, and the certificate is good for nothing.
    let lost = mesh.node("far");
    let begun = Instant::now();
    while !lost.log().contains("TOKEN_USED") {
        assert!(begun.elapsed() < 2 * SOON, "{}", lost.end_of_log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(ended(&lost.get("/readyz").await.body));
    // Another one in its place is found.
    token(&mesh, "far", "1h").await;
    lost.ready().await;
}

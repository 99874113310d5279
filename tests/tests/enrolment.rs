//! A mesh whose certificates control signs: how sidecars come to the first one, how they are renewed,
//! revoked and put under another root while calls go on, and that nothing secret is seen anywhere.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is a failed test"
)]

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use serde_json::Value;
use sidelane_identity::token::JoinFile;
use sidelane_process::runtime::{RuntimeFolder, join_name};
use sidelane_tests::admin::{Answer, Metrics};
use sidelane_tests::ask::{ask, until_answered};
use sidelane_tests::client::mesh_reason;
use sidelane_tests::cluster::Node;
use sidelane_tests::load::{Load, Plan};
use sidelane_tests::wire::v1::echo_client::EchoClient;
use sidelane_tests::wire::v1::{ChatRequest, UnaryResponse};
use sidelane_tests::{Cluster, Upstream, cluster, exclusive, services};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Notify, mpsc};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status};

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

fn permit(path: &Path, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
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
    let elsewhere = mesh.elsewhere();
    let far = [("XDG_RUNTIME_DIR", elsewhere.as_str())];
    let (file, first) = mesh.token("caller", "1h").await;
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
    let (file, second) = mesh.token("late", "1s").await;
    tokio::time::sleep(Duration::from_millis(2_100)).await;
    let path = file.display().to_string();
    let late = mesh.add("late", &["--token-file", &path], &far).await;
    assert!(!late.exited(SOON).await.success());
    assert!(late.log().contains("TOKEN_EXPIRED"), "{}", late.log());

    // By the variable, and for an identity that was asked for.
    let shop = "spiffe://sidelane.internal/ns/shop/sa/front";
    let arguments = ["token", "--node", "front", "--identity", shop];
    let third = mesh.done(&arguments).await.trim().to_owned();
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
    let elsewhere = mesh.elsewhere();
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
    let elsewhere = mesh.elsewhere();
    let far = [("XDG_RUNTIME_DIR", elsewhere.as_str())];
    let (file, _) = mesh.token("caller", "1h").await;
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

#[tokio::test]
async fn what_is_kept_follows_a_change_of_roots() {
    let mesh = cluster!()
        .enrolled()
        .control()
        .node("caller")
        .switched_on("--keep-identity")
        .start()
        .await;
    let kept = mesh.folder().join("caller.data/identity.pem");
    let roots = || {
        let text = std::fs::read_to_string(&kept).unwrap();
        let (own, roots) = text.split_once("# roots").unwrap();
        (own.to_owned(), roots.matches("BEGIN CERTIFICATE").count())
    };
    let (before, one) = roots();
    assert_eq!(one, 1);
    mesh.done(&["root", "rotate"]).await;
    let begun = Instant::now();
    while roots().1 != 2 {
        let log = mesh.node("caller").end_of_log();
        assert!(begun.elapsed() < SOON, "{log}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(roots().0, before, "key and certificate are the same");
}

#[tokio::test]
async fn a_control_that_has_lost_its_root_is_joined_anew_at_once() {
    let mesh = cluster!()
        .enrolled()
        .control()
        .node("near")
        .node("kept")
        .switched_on("--keep-identity")
        .start()
        .await;
    let serial = async |name| mesh.node(name).config().await["certificate"]["serial"].clone();
    let before = [serial("near").await, serial("kept").await];
    mesh.node("kept").stop(4 * SOON).await;
    mesh.control().kill().await;
    std::fs::remove_dir_all(mesh.folder().join("control.data")).unwrap();
    mesh.control().start_again().await;
    mesh.control().ready().await;
    // What it has kept holds for an hour, and is of no use here.
    mesh.node("kept").start_again().await;
    for (name, before) in ["near", "kept"].into_iter().zip(before) {
        let other = |answer: &Answer| {
            let config: Value = serde_json::from_str(&answer.body).unwrap_or_default();
            let serial = &config["certificate"]["serial"];
            serial.is_string() && *serial != before
        };
        mesh.node(name).answers("/config", other).await;
        mesh.node(name).ready().await;
    }
}

/// Talks for so long in one stream, and says how often it was answered. Calls on its link are over
/// before, and the certificates with which that was opened, too.
async fn conversation(caller: &Node, time: Duration) -> Result<u32, Status> {
    let (send, requests) = mpsc::channel(1);
    let mut client = EchoClient::new(caller.channel().await);
    let (begun, mut turns) = (Instant::now(), 0);
    let _ = send.send(ChatRequest::default()).await;
    let answers = client.chat(ReceiverStream::new(requests)).await?;
    let mut answers = answers.into_inner();
    while answers.message().await?.is_some() {
        turns += 1;
        if begun.elapsed() > time {
            break;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let _ = send.send(ChatRequest::default()).await;
    }
    drop(send);
    while answers.message().await?.is_some() {}
    if begun.elapsed() < time {
        return Err(Status::unavailable(format!(
            "over after {:?}",
            begun.elapsed()
        )));
    }
    Ok(turns)
}

/// Calls go on for so long, and a stream, while every certificate is replaced every two seconds.
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
    let turns = conversation(mesh.node("caller"), time).await.unwrap();
    assert!(turns > 10, "{turns} turns in {time:?}");
    let report = load.stop().await;
    report.nothing_failed();
    report.pace_was_kept();
    let log = mesh.control().log();
    assert_eq!(log.matches("its lease runs").count(), 0, "{log}");
    for (node, before) in mesh.nodes().iter().zip(before) {
        let renewals = metric(node, renewed).await - before;
        // A certificate of three seconds is renewed after two at the latest.
        let least = (time.as_secs_f64() / 2.0 - 1.0).floor();
        assert!(renewals >= least, "{renewals} renewals, {least} at least");
        assert_eq!(node.log().matches("NODE_REPLACED").count(), 0);
        // A session ends with its certificate: the next one was open before.
        let log = node.log();
        let welcomes = log.matches("welcomed by control").count();
        assert!(welcomes >= 2, "{welcomes} streams");
        assert_eq!(log.matches("without control").count(), 0, "{log}");
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

/// A new root takes over while calls go on, to the end of the old one, and one sidecar is away from before
/// it until after.
async fn rotated_under_load(rate: u32) {
    let _turn = exclusive().await;
    let upstream = Upstream::named("callee").start().await;
    let mut mesh = cluster!()
        .enrolled()
        .control()
        .with("--leaf-life", "4s")
        .node("caller")
        .node("callee")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    // By a token, which is used up: nothing but its certificate of the old root leads back.
    let elsewhere = mesh.elsewhere();
    let far = [("XDG_RUNTIME_DIR", elsewhere.as_str())];
    let (file, _) = mesh.token("away", "1h").await;
    let path = file.display().to_string();
    let flags = ["--token-file", &path, "--keep-identity"];
    let away = mesh.add("away", &flags, &far).await;
    away.ready().await;
    away.stop(4 * SOON).await;
    let plan = Plan {
        rate,
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
    let said = mesh.done(&["root", "rotate"]).await;
    let begun = Instant::now();
    while signing() == old {
        assert!(
            begun.elapsed() < 3 * SOON,
            "the new root does not sign: {}",
            mesh.control().end_of_log()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert!(said.contains(&signing()), "{said}");
    for name in ["caller", "callee"] {
        assert_eq!(mesh.node(name).config().await["certificate"]["roots"], 2);
    }
    // Longer than anything lives that the old one signed.
    tokio::time::sleep(Duration::from_secs(6)).await;
    let away = mesh.node("away");
    away.start_again().await;
    away.ready().await;
    assert_eq!(until_answered(away).await, "callee");
    // Nobody has a certificate of the old one any more, and nobody is to believe one.
    for node in mesh.nodes() {
        let alone = |answer: &Answer| {
            let config: Value = serde_json::from_str(&answer.body).unwrap();
            config["certificate"]["roots"] == 1
        };
        node.answers("/config", alone).await;
        assert_eq!(until_answered(node).await, "callee");
    }
    let shown = mesh.done(&["root", "show"]).await;
    assert_eq!(shown.matches("BEGIN CERTIFICATE").count(), 1, "{shown}");
    // One more life without it: every certificate is renewed, and every link opened anew.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let report = load.stop().await;
    report.nothing_failed();
    report.pace_was_kept();
    // A node that comes now knows control by the new root alone.
    mesh.node("caller").restart(4 * SOON).await;
    assert_eq!(until_answered(mesh.node("caller")).await, "callee");
}

#[tokio::test]
async fn a_new_root_takes_over_and_no_call_fails() {
    rotated_under_load(300).await;
}

#[tokio::test]
#[ignore = "a thousand calls a second, on a machine that is not busy"]
async fn a_new_root_takes_over_under_a_thousand_calls_a_second() {
    rotated_under_load(1_000).await;
}

#[tokio::test]
async fn a_token_whose_answer_was_lost_is_good_still() {
    let mut mesh = cluster!().enrolled().control().start().await;
    let control = mesh.control().listen();
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let between = listener.local_addr().unwrap();
    let cut = Arc::new(Notify::new());
    let cutting = Arc::clone(&cut);
    let proxy = tokio::spawn(async move {
        let (near, _) = listener.accept().await.unwrap();
        let far = TcpStream::connect(control).await.unwrap();
        tokio::select! {
            () = one_way(near, far) => {}
            () = cutting.notified() => {}
        }
        loop {
            let (mut near, _) = listener.accept().await.unwrap();
            let mut far = TcpStream::connect(control).await.unwrap();
            tokio::spawn(async move {
                let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    let elsewhere = mesh.elsewhere();
    let far = [("XDG_RUNTIME_DIR", elsewhere.as_str())];
    let (file, _) = mesh.token("lost", "1h").await;
    let path = file.display().to_string();
    let between = between.to_string();
    let flags = ["--token-file", &path, "--control", &between];
    mesh.add("lost", &flags, &far).await;
    let signed = |log: &str| {
        let lines = log.lines();
        lines
            .filter(|line| line.contains("\"signed\"") && line.contains("\"lost\""))
            .count()
    };
    let begun = Instant::now();
    while signed(&mesh.control().log()) == 0 {
        assert!(begun.elapsed() < SOON, "{}", mesh.control().end_of_log());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    cut.notify_one();
    let lost = mesh.node("lost");
    lost.ready().await;
    assert!(signed(&mesh.control().log()) >= 2, "it asked again");
    assert!(!lost.log().contains("TOKEN_USED"), "{}", lost.log());
    proxy.abort();
}

/// Lets everything through to control, and nothing back once the request is on its way.
async fn one_way(near: TcpStream, far: TcpStream) {
    // More than what ends the handshake and opens HTTP/2, less than what a request has beside it.
    const ASKED: usize = 300;
    let ((mut asks, mut hears), (mut answers, mut told)) = (near.into_split(), far.into_split());
    let (shaken, sent) = (AtomicBool::new(false), AtomicUsize::new(0));
    let up = async {
        let mut bytes = [0; 4_096];
        while let Ok(count @ 1..) = asks.read(&mut bytes).await {
            if shaken.load(Ordering::SeqCst) {
                sent.fetch_add(count, Ordering::SeqCst);
            }
            if told.write_all(&bytes[..count]).await.is_err() {
                break;
            }
        }
    };
    let down = async {
        let mut bytes = [0; 4_096];
        while let Ok(count @ 1..) = answers.read(&mut bytes).await {
            shaken.store(true, Ordering::SeqCst);
            if sent.load(Ordering::SeqCst) < ASKED
                && hears.write_all(&bytes[..count]).await.is_err()
            {
                break;
            }
        }
    };
    tokio::join!(up, down);
}

#[tokio::test]
async fn what_ended_while_it_was_revoked_is_of_no_use_after_undo() {
    let mut mesh = cluster!()
        .enrolled()
        .control()
        .with("--leaf-life", SHORT)
        .start()
        .await;
    let elsewhere = mesh.elsewhere();
    let far = [("XDG_RUNTIME_DIR", elsewhere.as_str())];
    let (file, _) = mesh.token("stolen", "1h").await;
    let path = file.display().to_string();
    let flags = ["--token-file", &path];
    mesh.add("stolen", &flags, &far).await.ready().await;
    mesh.done(&["revoke", "--node", "stolen"]).await;
    let stolen = mesh.node("stolen");
    stolen
        .answers("/readyz", |answer| {
            answer.body.contains("the certificate ended")
        })
        .await;
    mesh.done(&["revoke", "--node", "stolen", "--undo"]).await;
    // Control renews for a day what has ended, and not this.
    let begun = Instant::now();
    while !stolen.log().contains("REVOKED_BEFORE") {
        assert!(begun.elapsed() < 4 * SOON, "{}", stolen.end_of_log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(stolen.get("/readyz").await.status, 503);
    mesh.token("stolen", "1h").await;
    stolen.ready().await;
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
    let revoked = async {
        let open = |answer: &Answer| {
            let labels = [("lane", "general"), ("side", "accepted")];
            let metrics = Metrics::parse(&answer.body);
            metrics.sum("sidelane_lane_calls_in_flight", &labels) == 1.0
        };
        callee.answers("/metrics", open).await;
        mesh.done(&["revoke", "--node", "stolen"]).await;
        Instant::now()
    };
    // What is open ends, too.
    let (talk, begun) = tokio::join!(conversation(stolen, 12 * SOON), revoked);
    let ended = talk.unwrap_err();
    assert!(begun.elapsed() < SOON, "{ended:?}");
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
    let undone = mesh.done(&["revoke", "--node", "stolen", "--undo"]).await;
    assert!(undone.starts_with("taken back"), "{undone}");
    let again = mesh
        .command(&["revoke", "--node", "stolen", "--undo"])
        .await;
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
        .with("--leaf-life", "8s")
        .start()
        .await;
    // By tokens, which are used up: nothing but the certificates leads back.
    let elsewhere = mesh.elsewhere();
    let far = [("XDG_RUNTIME_DIR", elsewhere.as_str())];
    let serve = format!("{}={}", services::ECHO, upstream.address());
    for (name, flags) in [("callee", vec!["--serve", &serve]), ("caller", vec![])] {
        let (file, _) = mesh.token(name, "1h").await;
        let path = file.display().to_string();
        let flags = [&flags[..], &["--token-file", &path]].concat();
        mesh.add(name, &flags, &far).await.ready().await;
    }
    let caller = mesh.node("caller");
    assert_eq!(until_answered(caller).await, "callee");
    mesh.control().kill().await;
    let away = Instant::now();
    // Two thirds of their life come and go, and calls go on.
    let mut until = u64::MAX;
    for node in mesh.nodes() {
        let ends = node.config().await["certificate"]["until"].as_u64();
        until = until.min(ends.unwrap());
    }
    let until = std::time::UNIX_EPOCH + Duration::from_secs(until);
    let mut calls = 0;
    while std::time::SystemTime::now() + Duration::from_secs(1) < until {
        let status = ask(caller, ECHO, &[]).await.grpc_status().unwrap();
        assert_eq!(status.code(), Code::Ok, "{status:?}");
        calls += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(calls > 20, "{calls}");
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
    // The hub says that nobody can be reached, and the call that why is here.
    let refused = ask(caller, ECHO, &[]).await.grpc_status().unwrap();
    assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
    assert_eq!(mesh_reason(&refused).as_deref(), Some("CONNECT_FAILED"));
    let why = "this sidecar's own certificate ended";
    assert!(refused.message().contains(why), "{refused:?}");
    let why = format!("control at {} cannot be reached", mesh.control().listen());
    let told = caller.get("/readyz").await.body;
    assert!(told.contains(&why), "{told}");
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
    let elsewhere = mesh.elsewhere();
    let far = [("XDG_RUNTIME_DIR", elsewhere.as_str())];
    let shop = "spiffe://sidelane.internal/ns/shop/sa/near";
    // Control's own user may be whoever is asked for.
    let flags = ["--identity", shop];
    mesh.add("near", &flags, &[]).await.ready().await;
    let (file, _) = mesh.token("far", "1h").await;
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
    mesh.token("far", "1h").await;
    lost.ready().await;
}

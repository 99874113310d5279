//! Links between sidecars that prove who is at their ends: calls of all kinds, who is refused and
//! why, and certificates that change, end, or were never there.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::time::{Duration, Instant};

use sidelane_identity::tls;
use sidelane_identity::verify::Expected;
use sidelane_proto::model::{ConnectionClass, Lane};
use sidelane_tests::ask::ask;
use sidelane_tests::cases::{Ground, Way, run_all};
use sidelane_tests::certificates::{Authority, LONG};
use sidelane_tests::cluster::Node;
use sidelane_tests::languages::Language;
use sidelane_tests::link::{self, preamble};
use sidelane_tests::load::{Load, Plan};
use sidelane_tests::wire::v1::UnaryResponse;
use sidelane_tests::{Cluster, Upstream, cluster, exclusive, services};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tonic::Code;

/// From a change to what it does, at most.
const SOON: Duration = Duration::from_secs(5);
const ECHO: &str = "/sidelane.test.v1.Echo/Unary";

async fn links(node: &Node, side: &str) -> (f64, f64) {
    let metrics = node.metrics().await;
    let labels = [("side", side)];
    (
        metrics.sum("sidelane_tls_links_total", &labels),
        metrics.sum("sidelane_plaintext_links_total", &labels),
    )
}

async fn refused(node: &Node, side: &str, reason: &str) -> f64 {
    let labels = [("side", side), ("reason", reason)];
    let metrics = node.metrics().await;
    metrics.sum("sidelane_tls_refused_total", &labels)
}

/// Waits for a refusal to be counted.
async fn until_refused(node: &Node, side: &str, reason: &str) {
    let begun = Instant::now();
    while refused(node, side, reason).await == 0.0 {
        assert!(
            begun.elapsed() < 2 * SOON,
            "no `{reason}` at {}: {}",
            node.name(),
            node.end_of_log()
        );
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn code(node: &Node, path: &str) -> Code {
    ask(node, path, &[]).await.grpc_status().unwrap().code()
}

/// Two nodes that are strict, and a service behind one.
async fn strict(authority: &Authority, upstream: &Upstream) -> Cluster {
    cluster!()
        .control()
        .node("caller")
        .strict(&authority.issue("caller", LONG))
        .node("callee")
        .strict(&authority.issue("callee", LONG))
        .serving(services::ECHO, upstream)
        .serving(services::VAULT, upstream)
        .start()
        .await
}

#[tokio::test]
async fn calls_of_all_kinds_go_over_mutual_tls_and_no_key_is_seen() {
    let authority = Authority::new();
    let certificates = ["caller", "callee"].map(|name| authority.issue(name, LONG));
    let upstream = Upstream::named("echo").start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .strict(&certificates[0])
        .with("--log", "debug")
        .node("callee")
        .strict(&certificates[1])
        .with("--log", "debug")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let ground = Ground {
        target: mesh.node("caller").outbound(),
        server: upstream.address(),
        way: Way::Mesh {
            caller: "caller".to_owned(),
        },
        server_kind: Language::Rust,
    };
    run_all(&ground).await;
    let (dialled, accepted) = (
        links(mesh.node("caller"), "dialled").await,
        links(mesh.node("callee"), "accepted").await,
    );
    assert!(
        dialled.0 >= 1.0 && accepted.0 >= 1.0,
        "{dialled:?} {accepted:?}"
    );
    assert_eq!((dialled.1, accepted.1), (0.0, 0.0), "links in the clear");
    for (node, certificate) in mesh.nodes().iter().zip(&certificates) {
        let secret = certificate.secret();
        let seen = [
            node.log(),
            node.get("/config").await.body,
            node.get("/metrics").await.body,
        ];
        assert!(seen.iter().all(|text| !text.contains(&secret)));
        assert!(seen.iter().all(|text| !text.contains("PRIVATE KEY")));
    }
}

#[tokio::test]
async fn the_app_is_told_who_calls_and_what_is_secure_may_go() {
    let authority = Authority::new();
    let upstream = Upstream::named("callee").start().await;
    let mesh = strict(&authority, &upstream).await;
    let made_up = [("sidelane-source-identity", "spiffe://mesh.example/admin")];
    let answer = ask(mesh.node("caller"), ECHO, &made_up).await;
    let told = answer.message::<UnaryResponse>().unwrap().metadata;
    let about: Vec<&String> = told
        .iter()
        .filter(|line| line.starts_with("sidelane-source-identity"))
        .collect();
    let wanted = format!("sidelane-source-identity: {}", Authority::id("caller"));
    assert_eq!(about, [&wanted]);
    let config = mesh.node("caller").config().await;
    assert_eq!(config["links"][0]["identity"], Authority::id("callee"));
    let vault = "/sidelane.test.v1.Vault/Open";
    assert_eq!(code(mesh.node("caller"), vault).await, Code::Ok);
}

#[tokio::test]
async fn strangers_are_refused_by_their_reason() {
    let (authority, other) = (Authority::new(), Authority::new());
    let upstream = Upstream::named("callee").start().await;
    let mesh = strict(&authority, &upstream).await;
    let callee = mesh.node("callee");
    assert_eq!(code(mesh.node("caller"), ECHO).await, Code::Ok);
    let before = links(callee, "accepted").await;

    // In the clear: a whole link, and HTTP/2 from its first byte.
    let (class, lane) = (ConnectionClass::Internal, Lane::GENERAL);
    link::greeted(callee, class, lane).await.unwrap_err();
    until_refused(callee, "accepted", "not_tls").await;

    // Whose certificate another root signed.
    let (_kept, stranger) = other.issue("caller", LONG).source();
    let config = tls::client(stranger, Expected::Any).unwrap();
    let stream = TcpStream::connect(callee.internal()).await.unwrap();
    let stream = TlsConnector::from(config)
        .connect(tls::name(), stream)
        .await;
    assert!(
        stream.is_err(),
        "a client believed a server of another root"
    );

    // The same, by a client that believes anybody: the server must be the one to refuse.
    let (_believes, source) = authority.issue("judge", LONG).source();
    let shows = other.issue("caller", LONG);
    let mut config = tokio_rustls::rustls::ClientConfig::clone(
        &tls::client(source.clone(), Expected::Any).unwrap(),
    );
    let (_shown, shown) = shows.source();
    config.client_auth_cert_resolver = tls::client(shown, Expected::Any)
        .unwrap()
        .client_auth_cert_resolver
        .clone();
    cut_off(callee, config.clone()).await;
    until_refused(callee, "accepted", "unknown_root").await;

    // Without a certificate.
    let (empty, nothing) = tokio::sync::watch::channel(None);
    config.client_auth_cert_resolver = tls::client(nothing, Expected::Any)
        .unwrap()
        .client_auth_cert_resolver
        .clone();
    cut_off(callee, config).await;
    until_refused(callee, "accepted", "no_certificate").await;
    drop(empty);

    // Who says nothing.
    let silent = TcpStream::connect(callee.internal()).await.unwrap();
    until_refused(callee, "accepted", "too_slow").await;
    drop(silent);

    assert_eq!(
        links(callee, "accepted").await,
        before,
        "a stranger got through"
    );
    let log = callee.log();
    assert!(
        log.contains("unknown_root") && log.contains("no_certificate"),
        "{log}"
    );
    assert_eq!(code(mesh.node("caller"), ECHO).await, Code::Ok);
}

/// Dials, and is closed instead of being greeted.
async fn cut_off(callee: &Node, config: tokio_rustls::rustls::ClientConfig) {
    let stream = TcpStream::connect(callee.internal()).await.unwrap();
    let connector = TlsConnector::from(std::sync::Arc::new(config));
    // In TLS 1.3 a client is through before the server has looked at its certificate.
    let Ok(mut stream) = connector.connect(tls::name(), stream).await else {
        return;
    };
    let _ = stream
        .write_all(&preamble(ConnectionClass::Internal, Lane::GENERAL))
        .await;
    let mut answer = Vec::new();
    let read = tokio::time::timeout(SOON, stream.read_to_end(&mut answer)).await;
    assert!(read.unwrap().is_err() || answer.is_empty(), "{answer:?}");
}

#[tokio::test]
async fn who_answers_in_anothers_place_gets_no_call() {
    let authority = Authority::new();
    let upstream = Upstream::named("callee").start().await;
    let mesh = strict(&authority, &upstream).await;
    let (caller, callee) = (mesh.node("caller"), mesh.node("callee"));
    assert_eq!(code(caller, ECHO).await, Code::Ok);
    callee.kill().await;
    // Of the same mesh, at the same address, and yet not the one that control named.
    let (_kept, source) = authority.issue("impostor", LONG).source();
    let server = tls::server(source, tls::Clients::Certified).unwrap();
    let listener = TcpListener::bind(callee.internal()).await.unwrap();
    let impostor = tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let accepted = TlsAcceptor::from(server.clone()).accept(stream).await;
            assert!(accepted.is_err(), "the caller went on with an impostor");
        }
    });
    let _ = code(caller, ECHO).await;
    until_refused(caller, "dialled", "not_the_expected_identity").await;
    assert!(!impostor.is_finished());
    impostor.abort();
}

#[tokio::test]
async fn permissive_takes_both_and_counts_them() {
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
    let callee = mesh.node("callee");
    assert_eq!(code(mesh.node("old"), ECHO).await, Code::Ok);
    assert_eq!(links(callee, "accepted").await, (0.0, 1.0));
    assert_eq!(code(mesh.node("new"), ECHO).await, Code::Ok);
    assert_eq!(links(callee, "accepted").await, (1.0, 1.0));
    assert_eq!(links(mesh.node("new"), "dialled").await, (1.0, 0.0));
}

#[tokio::test]
async fn certificates_change_every_second_and_no_call_fails() {
    let _turn = exclusive().await;
    let authority = Authority::new();
    let life = Duration::from_secs(6);
    let certificates = ["caller", "callee"].map(|name| authority.issue(name, life));
    let upstream = Upstream::named("callee").start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .strict(&certificates[0])
        .node("callee")
        .strict(&certificates[1])
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let plan = Plan {
        rate: 200,
        longest_ms: 50,
    };
    let load = Load::start(mesh.node("caller").outbound(), plan).await;
    for _ in 0..15 {
        tokio::time::sleep(Duration::from_secs(1)).await;
        for certificate in &certificates {
            authority.renew(certificate, life);
        }
    }
    let report = load.stop().await;
    report.nothing_failed();
    report.pace_was_kept();
    // Longer than any of the certificates lived, so links were replaced on the way.
    let (tls, plain) = links(mesh.node("callee"), "accepted").await;
    assert!(
        tls >= 3.0 && plain == 0.0,
        "{tls} links, {plain} in the clear"
    );
}

#[tokio::test]
async fn a_link_ends_when_its_certificate_does() {
    let authority = Authority::new();
    let life = Duration::from_secs(12);
    let begun = Instant::now();
    let short = authority.issue("caller", life);
    let upstream = Upstream::named("callee").start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .strict(&short)
        .node("callee")
        .strict(&authority.issue("callee", LONG))
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let caller = mesh.node("caller");
    assert_eq!(code(caller, ECHO).await, Code::Ok);
    assert_eq!(caller.config().await["links"].as_array().unwrap().len(), 1);
    // Nobody renews it.
    tokio::time::sleep((life + SOON).saturating_sub(begun.elapsed())).await;
    assert_eq!(caller.config().await["links"].as_array().unwrap().len(), 0);
    assert_eq!(code(caller, ECHO).await, Code::Unavailable);
    until_refused(mesh.node("callee"), "accepted", "expired").await;
    // Renewed, it is believed again.
    authority.renew(&short, LONG);
    let renewed = Instant::now();
    while code(caller, ECHO).await != Code::Ok {
        assert!(renewed.elapsed() < 2 * SOON, "{}", caller.end_of_log());
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

//! The negative matrix against real ports: certificates and handshakes that a sidecar's internal
//! listener and control's gRPC port must not take, each with the reason that is counted and logged.
#![allow(clippy::unwrap_used, reason = "a panic is a failed test")]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, ExtendedKeyUsagePurpose, IsCa, KeyPair,
    KeyUsagePurpose, SanType,
};
use sidelane_identity::tls;
use sidelane_tests::admin::Metrics;
use sidelane_tests::ask::{ask, until_answered};
use sidelane_tests::certificates::{Authority, LONG};
use sidelane_tests::cluster::Member;
use sidelane_tests::run::Run;
use sidelane_tests::stranger::{Stranger, turned_away, usual};
use sidelane_tests::{Upstream, cluster, services};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::rustls::ClientConfig;
use tonic::Code;

const ECHO: &str = "/sidelane.test.v1.Echo/Unary";
const SOON: Duration = Duration::from_secs(10);
const DAY: Duration = Duration::from_secs(86_400);

/// Where a sidecar counts its refusals.
const SIDECARS: &str = "sidelane_tls_refused_total";

/// A port of the mesh, and where its refusals are counted.
struct Port<'a> {
    member: &'a Member,
    address: SocketAddr,
    metric: &'static str,
}

impl Port<'_> {
    async fn count(&self, reason: &str) -> f64 {
        let body = self.member.get("/metrics").await.body;
        Metrics::parse(&body).sum(self.metric, &[("reason", reason)])
    }

    async fn until(&self, reason: &str, before: f64) {
        let begun = Instant::now();
        while self.count(reason).await <= before {
            let log = self.member.end_of_log();
            assert!(begun.elapsed() < SOON, "no `{reason}` is counted: {log}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        // A sidecar writes no line of who goes away in the middle: health checks of TCP do.
        let silent = reason == "ended" && self.metric == SIDECARS;
        let (log, field) = (self.member.log(), format!("\"reason\":\"{reason}\""));
        assert_ne!(log.contains(&field), silent, "`{reason}`: {log}");
    }

    async fn refuses(&self, what: &str, stranger: &Stranger, reason: &str) {
        println!("{what}: {reason}");
        let before = self.count(reason).await;
        stranger.is_turned_away(self.address).await;
        self.until(reason, before).await;
    }
}

/// Each stranger, and why it is turned away.
fn strangers(authority: &Authority) -> Vec<(&'static str, Stranger, &'static str)> {
    let id = Authority::id("stranger");
    let spoiled = |spoil: &dyn Fn(&mut CertificateParams)| {
        let mut params = usual(&id);
        spoil(&mut params);
        Stranger::signed(authority, &params)
    };
    let uri = |text: &str| SanType::URI(text.try_into().unwrap());
    let key = KeyPair::generate().unwrap();
    let own = authority.sign(&usual(&id), &key);
    let shows = |chain: Vec<Vec<u8>>| Stranger::showing(chain, &key.serialize_der());
    let other = Authority::new();
    let between = |ca: IsCa| {
        // A certificate between the workload's and the root.
        let mut params = usual(&id);
        params.is_ca = ca;
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        params.subject_alt_names.clear();
        params.extended_key_usages.clear();
        let signer = KeyPair::generate().unwrap();
        let signed = authority.sign(&params, &signer);
        let issuer = rcgen::Issuer::from_params(&params, &signer);
        let leaf = usual(&id).signed_by(&key, &issuer).unwrap();
        shows(vec![leaf.der().to_vec(), signed])
    };
    let critical = || {
        let mut extension =
            CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99_999, 1], vec![5, 0]);
        extension.set_criticality(true);
        extension
    };
    vec![
        (
            "ended",
            spoiled(&|it| it.not_after = (SystemTime::now() - Duration::from_secs(60)).into()),
            "expired",
        ),
        (
            "not begun",
            spoiled(&|it| {
                it.not_before = (SystemTime::now() + DAY).into();
                it.not_after = (SystemTime::now() + 2 * DAY).into();
            }),
            "not_yet_valid",
        ),
        (
            "another root",
            Stranger::signed(&other, &usual(&id)),
            "unknown_root",
        ),
        (
            "another trust domain",
            spoiled(&|it| it.subject_alt_names = vec![uri("spiffe://other.example/a")]),
            "wrong_trust_domain",
        ),
        (
            "no name",
            spoiled(&|it| it.subject_alt_names.clear()),
            "no_uri_san",
        ),
        (
            "a DNS name alone",
            spoiled(&|it| {
                it.subject_alt_names = vec![SanType::DnsName("a.example".try_into().unwrap())];
            }),
            "no_uri_san",
        ),
        (
            "two names",
            spoiled(&|it| it.subject_alt_names.push(uri("spiffe://mesh.example/b"))),
            "two_uri_sans",
        ),
        (
            "no SPIFFE id",
            spoiled(&|it| it.subject_alt_names = vec![uri("https://mesh.example/a")]),
            "spiffe_id",
        ),
        (
            "a whole trust domain",
            spoiled(&|it| it.subject_alt_names = vec![uri("spiffe://mesh.example")]),
            "no_workload",
        ),
        (
            "an authority",
            spoiled(&|it| it.is_ca = IsCa::Ca(BasicConstraints::Unconstrained)),
            "ca_leaf",
        ),
        (
            "no key usage",
            spoiled(&|it| it.key_usages.clear()),
            "key_usage",
        ),
        (
            "a key usage that signs",
            spoiled(&|it| it.key_usages.push(KeyUsagePurpose::KeyCertSign)),
            "key_usage",
        ),
        (
            "for servers alone",
            spoiled(&|it| it.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth]),
            "extended_key_usage",
        ),
        (
            "an extension that nobody knows",
            spoiled(&|it| it.custom_extensions = vec![critical()]),
            "critical_extension",
        ),
        (
            "signed by a workload",
            between(IsCa::ExplicitNoCa),
            "intermediate",
        ),
        (
            "a long chain",
            shows(vec![own.clone(); 5]),
            "chain_too_long",
        ),
        (
            "no certificate at all",
            shows(vec![b"certificate".to_vec()]),
            "malformed",
        ),
        (
            "TLS 1.2 alone",
            shows(vec![own.clone()]).old(),
            "tls_version",
        ),
        ("HTTP/1.1", shows(vec![own]).speaking(b"http/1.1"), "alpn"),
    ]
}

/// Who speaks no TLS, or does not go on with it.
async fn silent_ones(port: &Port<'_>) {
    let before = port.count("not_tls").await;
    let mut stream = TcpStream::connect(port.address).await.unwrap();
    stream
        .write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        .await
        .unwrap();
    let mut answer = Vec::new();
    let _ = tokio::time::timeout(SOON, stream.read_to_end(&mut answer))
        .await
        .unwrap();
    assert!(answer.is_empty() || answer[0] == 0x15, "{answer:?}");
    port.until("not_tls", before).await;
    let before = port.count("ended").await;
    let mut stream = TcpStream::connect(port.address).await.unwrap();
    stream.write_all(&[0x16, 3, 1]).await.unwrap();
    drop(stream);
    port.until("ended", before).await;
    let before = port.count("too_slow").await;
    let mut stream = TcpStream::connect(port.address).await.unwrap();
    stream.write_all(&[0x16, 3, 1]).await.unwrap();
    port.until("too_slow", before).await;
}

#[tokio::test]
async fn no_stranger_gets_through_and_each_is_counted_and_logged_by_its_reason() {
    let authority = Authority::new();
    let upstream = Upstream::named("callee").start().await;
    let mesh = cluster!()
        .control()
        .node("caller")
        .strict(&authority.issue("caller", LONG))
        .node("callee")
        .strict(&authority.issue("callee", LONG))
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let (caller, callee) = (mesh.node("caller"), mesh.node("callee"));
    let answer = ask(caller, ECHO, &[]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
    let side = [("side", "accepted")];
    let links = callee
        .metrics()
        .await
        .sum("sidelane_tls_links_total", &side);
    let ports = [
        Port {
            member: callee,
            address: callee.internal(),
            metric: SIDECARS,
        },
        Port {
            member: mesh.control(),
            address: mesh.control().listen(),
            metric: "sidelane_control_handshakes_refused_total",
        },
    ];
    for port in &ports {
        for (what, stranger, reason) in strangers(&authority) {
            port.refuses(what, &stranger, reason).await;
        }
        silent_ones(port).await;
        let log = port.member.log();
        assert!(!log.contains("panicked"), "{log}");
    }
    // Control lets who shows nothing come to a certificate; a peer does not.
    ports[0]
        .refuses("nothing", &Stranger::bare(), "no_certificate")
        .await;
    let after = callee
        .metrics()
        .await
        .sum("sidelane_tls_links_total", &side);
    assert_eq!(after, links, "a stranger got through");
    let answer = ask(caller, ECHO, &[]).await;
    assert_eq!(answer.grpc_status().unwrap().code(), Code::Ok);
}

/// A handshake that succeeds; true if a session of before was taken up.
async fn shaken(config: &Arc<ClientConfig>, port: SocketAddr) -> bool {
    let stream = TcpStream::connect(port).await.unwrap();
    let connector = TlsConnector::from(Arc::clone(config));
    let mut stream = connector.connect(tls::name(), stream).await.unwrap();
    // Tickets come behind the handshake, if they come.
    let _ = tokio::time::timeout(Duration::from_millis(300), stream.read_u8()).await;
    let kind = stream.get_ref().1.handshake_kind();
    kind == Some(tokio_rustls::rustls::HandshakeKind::Resumed)
}

#[tokio::test]
async fn who_is_revoked_resumes_nothing() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = cluster!()
        .enrolled()
        .control()
        .node("stolen")
        .switched_on("--keep-identity")
        .node("callee")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    assert_eq!(until_answered(mesh.node("stolen")).await, "callee");
    // Key and certificate of a node, in a thief's hands.
    let kept = mesh.folder().join("stolen.data/identity.pem");
    let kept = std::fs::read(kept).unwrap();
    let own = kept.split(|byte| *byte == b'#').nth(1).unwrap();
    let (chain, key) = sidelane_tests::stranger::from_pem(own);
    let thief = Stranger::showing(chain, &key).config();
    let callee = mesh.node("callee");
    assert!(!shaken(&thief, callee.internal()).await);
    assert!(
        !shaken(&thief, callee.internal()).await,
        "a session was taken up"
    );
    let revoked = Run::of(env!("CARGO_BIN_EXE_sidelane-under-test"))
        .with(["revoke", "--node", "stolen"])
        .with(["--control", &mesh.control().listen().to_string()])
        .variable("XDG_RUNTIME_DIR", &mesh.folder().display().to_string())
        .to_its_end()
        .await;
    assert_eq!(revoked.code, Some(0), "{revoked:?}");
    let port = Port {
        member: callee,
        address: callee.internal(),
        metric: SIDECARS,
    };
    callee
        .answers("/config", |it| !it.body.contains("\"revoked\":0"))
        .await;
    let before = port.count("revoked").await;
    turned_away(thief, callee.internal()).await;
    port.until("revoked", before).await;
}

#[tokio::test]
#[ignore = "needs openssl"]
async fn openssl_without_a_certificate_is_turned_away() {
    let authority = Authority::new();
    let mesh = cluster!()
        .control()
        .node("callee")
        .strict(&authority.issue("callee", LONG))
        .start()
        .await;
    let callee = mesh.node("callee");
    let port = Port {
        member: callee,
        address: callee.internal(),
        metric: SIDECARS,
    };
    let connect = callee.internal().to_string();
    for (flags, reason) in [
        (vec!["-tls1_3", "-alpn", "h2"], "no_certificate"),
        (vec!["-tls1_2", "-alpn", "h2"], "tls_version"),
        (vec!["-tls1_3", "-alpn", "http/1.1"], "alpn"),
    ] {
        let before = port.count(reason).await;
        Run::of("openssl")
            .with(["s_client", "-connect", &connect])
            .with(flags)
            .to_its_end()
            .await;
        port.until(reason, before).await;
    }
    let side = [("side", "accepted")];
    let links = callee.metrics().await;
    let links = links.sum("sidelane_tls_links_total", &side);
    assert_eq!(links, 0.0, "openssl got through");
}

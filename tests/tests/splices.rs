//! What comes through a tunnel (HTTP CONNECT) and is no HTTP/2 is carried on as bytes: both ways,
//! each half to its own end, without filling the sidecar. What is no proper CONNECT is told so.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::io::ErrorKind;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rcgen::{CertifiedKey, generate_simple_self_signed};

use sidelane_tests::cluster::Node;
use sidelane_tests::tunnel::{self, NOWHERE};
use sidelane_tests::{Cluster, RawUpstream, cluster};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::rustls::crypto::aws_lc_rs::default_provider;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, ServerConfig};
use tokio_rustls::{TlsAcceptor, TlsConnector};

/// What takes longer than this has gone wrong.
const LIMIT: Duration = Duration::from_secs(10);
const MIB: u64 = 1024 * 1024;

async fn mesh() -> Cluster {
    cluster!().control().node("caller").start().await
}

/// Reads a whole request, says how long it was, and then the request itself.
async fn echo_at_end(mut stream: TcpStream) {
    let mut all = Vec::new();
    stream.read_to_end(&mut all).await.unwrap();
    let head = format!("{} bytes\n", all.len());
    stream.write_all(head.as_bytes()).await.unwrap();
    stream.write_all(&all).await.unwrap();
}

async fn open(node: &Node, server: &RawUpstream) -> TcpStream {
    let target = server.address().to_string();
    tunnel::open(node.outbound(), &target).await.unwrap()
}

async fn rest(stream: &mut TcpStream) -> Vec<u8> {
    let mut all = Vec::new();
    let read = timeout(LIMIT, stream.read_to_end(&mut all)).await;
    read.expect("the tunnel was not closed").unwrap();
    all
}

/// Waits for the error that a connection ends with.
async fn cut(stream: &mut TcpStream) -> ErrorKind {
    let read = timeout(LIMIT, stream.read_to_end(&mut Vec::new())).await;
    let read = read.expect("the tunnel was not closed");
    read.expect_err("it ended as if it were whole").kind()
}

#[tokio::test]
async fn what_was_cut_off_does_not_look_whole() {
    let mesh = mesh().await;
    let server = RawUpstream::connections(|mut stream| async move {
        stream.read_u8().await.unwrap();
        stream.write_all(b"half").await.unwrap();
        stream.read_u8().await.unwrap();
        SockRef::from(&stream)
            .set_linger(Some(Duration::ZERO))
            .unwrap();
    })
    .await;
    let mut stream = open(mesh.node("caller"), &server).await;
    stream.write_all(b"1").await.unwrap();
    stream.read_exact(&mut [0; 4]).await.unwrap();
    stream.write_all(b"2").await.unwrap();
    assert_eq!(cut(&mut stream).await, ErrorKind::ConnectionReset);
}

#[tokio::test]
async fn bytes_go_both_ways_and_each_half_ends_alone() {
    let mesh = mesh().await;
    let node = mesh.node("caller");
    let server = RawUpstream::connections(echo_at_end).await;
    // TLS, HTTP/1, and what begins like HTTP/2 and is not.
    let beginnings: [&[u8]; 4] = [
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/1.1\r\n\r\n",
        b"PRI * HTTP/1.0\r\n\r\n",
        b"PRI",
    ];
    for beginning in beginnings {
        let mut stream = open(node, &server).await;
        let body = vec![7; 300_000];
        stream.write_all(beginning).await.unwrap();
        stream.write_all(&body).await.unwrap();
        stream.shutdown().await.unwrap();
        let expected = [beginning, &body].concat();
        let head = format!("{} bytes\n", expected.len());
        let answer = rest(&mut stream).await;
        assert_eq!(answer, [head.as_bytes(), &expected].concat());
    }
    // One that says nothing at all has ended its half, too.
    let mut silent = open(node, &server).await;
    silent.shutdown().await.unwrap();
    assert_eq!(rest(&mut silent).await, b"0 bytes\n");
    let metrics = node.metrics().await;
    assert_eq!(metrics.sum("sidelane_splices_total", &[]), 5.0);
    assert_eq!(metrics.sum("sidelane_splices_failed_total", &[]), 0.0);
}

/// A server and its user who trust nobody between them: the certificate is the server's own, and
/// its user knows no other.
fn tls(name: &str) -> (TlsAcceptor, TlsConnector, CertificateDer<'static>) {
    let CertifiedKey { cert, signing_key } =
        generate_simple_self_signed([name.to_owned()]).unwrap();
    let provider = Arc::new(default_provider());
    let key = PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap();
    let server = ServerConfig::builder_with_provider(Arc::clone(&provider));
    let server = server.with_safe_default_protocol_versions().unwrap();
    let server = server.with_no_client_auth();
    let mut server = server
        .with_single_cert(vec![cert.der().clone()], key)
        .unwrap();
    server.alpn_protocols = vec![b"h2".to_vec()];
    let mut roots = RootCertStore::empty();
    roots.add(cert.der().clone()).unwrap();
    let client = ClientConfig::builder_with_provider(provider);
    let client = client.with_safe_default_protocol_versions().unwrap();
    let mut client = client.with_root_certificates(roots).with_no_client_auth();
    client.alpn_protocols = vec![b"h2".to_vec()];
    let (server, client) = (Arc::new(server), Arc::new(client));
    (server.into(), client.into(), cert.der().clone())
}

#[tokio::test]
async fn tls_is_between_the_app_and_its_server_alone() {
    const NAME: &str = "orders.example";
    let mesh = mesh().await;
    let node = mesh.node("caller");
    let (acceptor, connector, certificate) = tls(NAME);
    let server = RawUpstream::connections(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            // A stranger ends the handshake.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            stream.write_all(&all).await.unwrap();
            stream.shutdown().await.unwrap();
        }
    })
    .await;
    let name = ServerName::try_from(NAME).unwrap();
    let stream = open(node, &server).await;
    let mut stream = connector.connect(name, stream).await.unwrap();
    // It is the server that the app shook hands with, and they agreed on what they speak.
    let (_, session) = stream.get_ref();
    assert_eq!(session.peer_certificates(), Some(&[certificate][..]));
    assert_eq!(session.alpn_protocol(), Some(&b"h2"[..]));
    let body: Vec<u8> = (0..1_000_000_u32)
        .map(|at| u8::try_from(at % 251).unwrap())
        .collect();
    stream.write_all(&body).await.unwrap();
    // Ends its half by a word of TLS, which the server hears; so does the server.
    stream.shutdown().await.unwrap();
    let mut answer = Vec::new();
    let read = timeout(LIMIT, stream.read_to_end(&mut answer)).await;
    read.expect("the tunnel was not closed").unwrap();
    assert!(answer == body);

    // Somebody else's server: the app finds out as it would without the mesh.
    let stream = open(node, &server).await;
    let stranger = tls(NAME)
        .1
        .connect(ServerName::try_from(NAME).unwrap(), stream);
    let error = stranger.await.unwrap_err();
    assert!(error.to_string().contains("certificate"), "{error}");
    let metrics = node.metrics().await;
    assert_eq!(metrics.sum("sidelane_splices_total", &[]), 2.0);
}

#[tokio::test]
async fn what_comes_right_behind_the_request_is_not_lost() {
    let mesh = mesh().await;
    let server = RawUpstream::connections(echo_at_end).await;
    let request = format!(
        "CONNECT {} HTTP/1.1\r\nx: y\r\n\r\nat once",
        server.address()
    );
    let asked = tunnel::answered(mesh.node("caller").outbound(), request.as_bytes()).await;
    let (mut stream, answer) = asked.unwrap();
    assert_eq!(answer, tunnel::OPENED);
    stream.write_all(b" and later").await.unwrap();
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, b"17 bytes\nat once and later");
}

#[tokio::test]
async fn a_server_may_speak_first() {
    let mesh = mesh().await;
    let server = RawUpstream::connections(|mut stream| async move {
        stream.write_all(b"220 ready\n").await.unwrap();
        let mut line = [0; 5];
        stream.read_exact(&mut line).await.unwrap();
        stream.write_all(&line).await.unwrap();
    })
    .await;
    let mut stream = open(mesh.node("caller"), &server).await;
    let mut greeting = [0; 10];
    let read = timeout(LIMIT, stream.read_exact(&mut greeting)).await;
    read.expect("nothing came").unwrap();
    assert_eq!(&greeting, b"220 ready\n");
    stream.write_all(b"HELO\n").await.unwrap();
    assert_eq!(rest(&mut stream).await, b"HELO\n");
}

#[tokio::test]
async fn a_tunnel_whose_target_is_not_to_be_had_is_closed_and_the_log_says_why() {
    let mesh = mesh().await;
    let node = mesh.node("caller");
    // Resolvers read the last one as 127.0.0.1: a loop that is found when it is dialled.
    let hidden = format!("127.1:{}", node.admin().port());
    let targets = ["127.0.0.1:1", NOWHERE, &hidden];
    for target in targets {
        let mut stream = tunnel::open(node.outbound(), target).await.unwrap();
        stream.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
        let mut byte = [0];
        let read = timeout(LIMIT, stream.read(&mut byte)).await;
        match read.expect("the tunnel was not closed") {
            Ok(0) => {}
            // Closed with our bytes unread, which the kernel tells by a reset.
            Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
            other => panic!("{target}: {other:?}"),
        }
    }
    let log = node.log();
    let nowhere = format!("the name in {NOWHERE} has no address");
    for why in [
        "127.0.0.1:1 does not answer",
        nowhere.as_str(),
        "that is a listener of this sidecar itself",
    ] {
        assert!(log.contains(why), "the log does not say: {why}\n{log}");
    }
    let metrics = node.metrics().await;
    assert_eq!(metrics.sum("sidelane_splices_failed_total", &[]), 3.0);
}

#[tokio::test]
async fn what_is_no_proper_connect_is_told_so() {
    let mesh = mesh().await;
    let node = mesh.node("caller");
    let long = format!("CONNECT a:1 HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(9000));
    let fits = format!("CONNECT a:1 HTTP/1.1\r\nx: {}\r\n\r\n", "y".repeat(8000));
    let cases = [
        ("CONNECT a HTTP/1.1\r\n\r\n", "400 Bad Request"),
        ("CONNECT a:0 HTTP/1.1\r\n\r\n", "400 Bad Request"),
        ("CONNECT a:65536 HTTP/1.1\r\n\r\n", "400 Bad Request"),
        ("CONNECT ::1:1 HTTP/1.1\r\n\r\n", "400 Bad Request"),
        ("CONNECT a@b:1 HTTP/1.1\r\n\r\n", "400 Bad Request"),
        ("CONNECT \u{1}\u{2} HTTP/1.1\r\n\r\n", "400 Bad Request"),
        ("CONNECT a:1 HTTP/2.0\r\n\r\n", "400 Bad Request"),
        ("CONNECT a:1\r\n\r\n", "400 Bad Request"),
        ("CONNECT a:1 HTTP/1.1\r\nnothing\r\n\r\n", "400 Bad Request"),
        (&long, "431 Request Header Fields Too Large"),
        (&fits, "200 Connection established"),
    ];
    for (request, status) in cases {
        let asked = tunnel::answered(node.outbound(), request.as_bytes()).await;
        let (_, answer) = asked.unwrap();
        let line = format!("HTTP/1.1 {status}\r\n");
        assert!(answer.starts_with(&line), "{request:.60}: {answer}");
    }
    let start = Instant::now();
    let begun = b"CONNECT a:1 HTTP/1.1\r\nhost: ";
    let (mut stream, answer) = tunnel::answered(node.outbound(), begun).await.unwrap();
    assert!(
        answer.starts_with("HTTP/1.1 408 Request Timeout\r\n"),
        "{answer}"
    );
    assert!(start.elapsed() >= Duration::from_secs(5));
    let text = String::from_utf8(rest(&mut stream).await).unwrap();
    assert_eq!(text, "No tunnel: the head took more than 5 s.\n");
    let metrics = node.metrics().await;
    assert_eq!(metrics.sum("sidelane_tunnels_refused_total", &[]), 11.0);
    assert_eq!(metrics.sum("sidelane_tunnels_total", &[]), 1.0);
}

#[tokio::test]
async fn a_tunnel_leads_by_a_unix_socket_as_well() {
    by_unix_socket_to("127.0.0.1:0").await;
}

#[tokio::test]
#[ignore = "needs IPv6 on loopback"]
async fn a_tunnel_leads_to_ipv6_as_well() {
    by_unix_socket_to("[::1]:0").await;
}

async fn by_unix_socket_to(address: &str) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("outbound.sock");
    let socket = format!("unix:{}", path.display());
    let mesh = cluster!()
        .control()
        .node("caller")
        .with("--outbound", &socket)
        .start()
        .await;
    let server = tokio::net::TcpListener::bind(address).await;
    let server = server.expect("this machine has the family");
    let target = server.local_addr().unwrap();
    let serving = tokio::spawn(async move { echo_at_end(server.accept().await.unwrap().0).await });
    let mut stream = tokio::net::UnixStream::connect(&path).await.unwrap();
    let request = format!("CONNECT {target} HTTP/1.1\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = vec![0; tunnel::OPENED.len()];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, tunnel::OPENED.as_bytes());
    stream.write_all(b"hello").await.unwrap();
    stream.shutdown().await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    assert_eq!(answer, "5 bytes\nhello");
    serving.await.unwrap();
    drop(mesh);
}

#[tokio::test]
async fn an_open_splice_goes_on_while_the_sidecar_drains_and_ends_with_its_grace() {
    let mesh = cluster!()
        .control()
        .node("caller")
        .with("--grace", "1500ms")
        .start()
        .await;
    let node = mesh.node("caller");
    let server = RawUpstream::connections(|mut stream| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
    })
    .await;
    let mut stream = open(node, &server).await;
    stream.write_all(b"one").await.unwrap();
    let mut answer = [0; 3];
    stream.read_exact(&mut answer).await.unwrap();
    let start = Instant::now();
    node.terminate();
    node.answers("/readyz", |answer| answer.status != 200).await;
    stream.write_all(b"two").await.unwrap();
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"two");
    // Not as if that had been all.
    assert_eq!(cut(&mut stream).await, ErrorKind::ConnectionReset);
    let took = start.elapsed();
    assert!(took >= Duration::from_millis(1500), "{took:?}");
    let status = node.exited(LIMIT).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn a_drain_does_not_wait_for_a_splice_that_has_ended() {
    let mesh = mesh().await;
    let node = mesh.node("caller");
    let server = RawUpstream::connections(echo_at_end).await;
    let mut stream = open(node, &server).await;
    stream.write_all(b"hello").await.unwrap();
    let start = Instant::now();
    node.terminate();
    stream.shutdown().await.unwrap();
    assert_eq!(rest(&mut stream).await, b"5 bytes\nhello");
    drop(stream);
    // The grace is 30 s.
    let status = node.exited(LIMIT).await;
    assert!(status.success(), "{status} after {:?}", start.elapsed());
}

#[tokio::test]
async fn a_reader_that_stands_still_fills_no_sidecar() {
    let mesh = mesh().await;
    let node = mesh.node("caller");
    let server = RawUpstream::connections(|stream| async move {
        // Reads nothing, for as long as the server lives.
        std::future::pending::<()>().await;
        drop(stream);
    })
    .await;
    let mut streams = Vec::new();
    let idle = node.resident_memory();
    for _ in 0..8 {
        let mut stream = open(node, &server).await;
        let chunk = vec![1; 65536];
        let mut written = 0;
        // Until nothing more is taken: all buffers on the way are full.
        while let Ok(sent) = timeout(Duration::from_millis(500), stream.write(&chunk)).await {
            written += sent.unwrap() as u64;
            assert!(written < 256 * MIB, "somebody takes it all");
        }
        streams.push((stream, written));
    }
    let grown = node.resident_memory().saturating_sub(idle);
    println!("8 splices that stand still: {} KiB", grown / 1024);
    assert!(grown < 4 * MIB, "{} KiB", grown / 1024);
    drop(streams);
}

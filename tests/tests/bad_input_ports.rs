//! What is not meant for a port: other protocols on the outbound one, and other beginnings than a
//! link's on the internal one. Each gets an answer in its own protocol, byte for byte, and the
//! port goes on.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic with a clear message is a failed test"
)]

use std::time::Duration;

use sidelane_tests::ask::who;
use sidelane_tests::cluster::Node;
use sidelane_tests::frames::{EMPTY_SETTINGS, Frame, PREFACE, SETTINGS};
use sidelane_tests::run::Run;
use sidelane_tests::{Cluster, Upstream, cluster, link, services};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A refusal comes at once; longer means that the connection was kept.
const LIMIT: Duration = Duration::from_secs(5);
/// How a TLS client begins: a handshake record of TLS 1.0 with a `ClientHello` of TLS 1.2.
const CLIENT_HELLO: &[u8] = b"\x16\x03\x01\x00\x31\x01\x00\x00\x2d\x03\x03\
    0123456789abcdef0123456789abcdef\x00\x00\x02\x13\x01\x01\x00\x00\x02\x00\x00";

/// All that is answered to these bytes, until the other side closes the connection.
async fn answered(stream: TcpStream, bytes: &[u8]) -> Vec<u8> {
    let mut stream = stream;
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    let read = tokio::time::timeout(LIMIT, stream.read_to_end(&mut answer)).await;
    match read.expect("the connection was not closed") {
        Ok(_) => {}
        // Closed with our bytes unread, which the kernel tells by a reset.
        Err(error) if error.kind() == std::io::ErrorKind::ConnectionReset => {}
        Err(error) => panic!("{error}"),
    }
    answer
}

async fn outbound(node: &Node, bytes: &[u8]) -> Vec<u8> {
    answered(TcpStream::connect(node.outbound()).await.unwrap(), bytes).await
}

fn http1(status: &str, text: &str) -> String {
    format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; charset=utf-8\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{text}",
        text.len()
    )
}

/// SETTINGS, then GOAWAY with `PROTOCOL_ERROR` and this text.
fn goaway(text: &str) -> Vec<u8> {
    let mut bytes = EMPTY_SETTINGS.to_vec();
    let mut frame = Frame::goaway(0, 1);
    frame[2] += u8::try_from(text.len()).unwrap();
    bytes.extend(frame);
    bytes.extend(text.as_bytes());
    bytes
}

async fn mesh(upstream: &Upstream) -> Cluster {
    cluster!()
        .control()
        .node("caller")
        .node("callee")
        .serving(services::ECHO, upstream)
        .start()
        .await
}

#[tokio::test]
async fn other_protocols_on_the_outbound_port_are_answered_in_their_own_words() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let node = mesh.node("caller");

    let wanted = http1(
        "505 HTTP Version Not Supported",
        "This port speaks HTTP/2 with prior knowledge (h2c), as gRPC clients do. Call it with a \
         gRPC client, or with `curl --http2-prior-knowledge`. The admin pages have a port of \
         their own (--admin).\n",
    );
    for request in [
        "GET / HTTP/1.1\r\nhost: sidecar\r\n\r\n",
        "POST /sidelane.test.v1.Echo/Unary HTTP/1.1\r\nhost: sidecar\r\ncontent-length: 0\r\n\r\n",
    ] {
        let answer = outbound(node, request.as_bytes()).await;
        assert_eq!(String::from_utf8(answer).unwrap(), wanted, "{request}");
    }

    let answer = outbound(node, b"GET http://callee/ HTTP/1.1\r\nhost: callee\r\n\r\n").await;
    assert_eq!(
        String::from_utf8(answer).unwrap(),
        http1(
            "501 Not Implemented",
            "This sidecar is a proxy for gRPC, and for whatever goes through a tunnel (CONNECT), \
             not for plain HTTP. Name it in `grpc_proxy` (grpcio, grpc-js) or in `https_proxy`, \
             which ask for a tunnel, and not in `http_proxy`.\n",
        )
    );

    // A fatal alert, `protocol_version` (RFC 8446 §6).
    let alert = [0x15, 3, 3, 0, 2, 2, 70];
    assert_eq!(outbound(node, CLIENT_HELLO).await, alert);

    let garbage = goaway("this port speaks HTTP/2 with prior knowledge (h2c)");
    for bytes in [b"\x00\x01\x02\x03garbage".as_slice(), b"PRI * HTTP/1.0\r\n"] {
        assert_eq!(outbound(node, bytes).await, garbage, "{bytes:?}");
    }

    let metrics = node.metrics().await;
    assert_eq!(metrics.sum("sidelane_not_http2_total", &[]), 6.0);
    assert_eq!(who(node).await.unwrap(), "callee");
}

#[tokio::test]
async fn a_preface_with_something_else_behind_it_ends_the_connection_alone() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let node = mesh.node("caller");
    // A DATA frame on a stream that was never opened: PROTOCOL_ERROR (RFC 9113 §5.1).
    let mut bytes = PREFACE.to_vec();
    bytes.extend(EMPTY_SETTINGS);
    bytes.extend([0, 0, 1, 0, 0, 0, 0, 0, 1, 0]);
    let answer = outbound(node, &bytes).await;
    let mut frames = answer.as_slice();
    assert_eq!(Frame::read(&mut frames).await.unwrap().kind, SETTINGS);
    let last = loop {
        let frame = Frame::read(&mut frames).await.unwrap();
        if frames.is_empty() {
            break frame;
        }
    };
    assert_eq!(last.kind, sidelane_tests::frames::GOAWAY, "{answer:?}");
    assert_eq!(last.payload[4..8], [0, 0, 0, 1], "{answer:?}");
    assert_eq!(who(node).await.unwrap(), "callee");
}

#[tokio::test]
#[ignore = "needs the program openssl"]
async fn a_real_tls_client_is_told_that_the_version_is_wrong() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let address = mesh.node("caller").outbound().to_string();
    let ended = Run::of("openssl")
        .with(["s_client", "-connect", &address])
        .to_its_end()
        .await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("protocol version"), "{ended:?}");
}

#[tokio::test]
async fn other_beginnings_than_a_links_are_refused_on_the_ports_for_peers() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = mesh(&upstream).await;
    let node = mesh.node("callee");
    let refusal = goaway("this port takes links of Sidelane sidecars");
    let cases: [(&[u8], &str); 8] = [
        (
            b"GET / HTTP/1.1\r\n\r\n",
            "it begins with [71, 69, 84, 32], neither a Sidelane preamble nor HTTP/2",
        ),
        (
            CLIENT_HELLO,
            "it begins with [22, 3, 1, 0], neither a Sidelane preamble nor HTTP/2",
        ),
        (
            b"SLN2\0\0\x01\0",
            "it begins with [83, 76, 78, 50], neither a Sidelane preamble nor HTTP/2",
        ),
        (
            b"SLN1\0\x63\x01\0",
            "it asks for lane 99, which is not known here",
        ),
        (
            b"SLN1\0\0\x09\0",
            "it asks for class 9, which does not exist",
        ),
        (
            b"SLN1\0\x03\x01\0",
            "it asks for Internal in lane ingress_data, which do not go together",
        ),
        (
            b"SLN1\0\0\x01\x07",
            "its last byte is 7, only 0 is known here",
        ),
        (
            b"SLN1\0\0\x02\0",
            "it asks for class External, this listener takes class Internal",
        ),
    ];
    for (bytes, why) in cases {
        let stream = link::said(node.internal(), &[]).await.unwrap();
        assert_eq!(answered(stream, bytes).await, refusal, "{why}");
        assert!(node.log().contains(why), "the log does not say: {why}");
    }
    let external = link::said(node.external(), &[]).await.unwrap();
    assert_eq!(answered(external, b"SLN1\0\0\x01\0").await, refusal);
    let why = "it asks for class Internal, this listener takes class External";
    assert!(node.log().contains(why));

    let metrics = node.metrics().await;
    assert_eq!(metrics.sum("sidelane_links_refused_total", &[]), 9.0);
    assert_eq!(who(mesh.node("caller")).await.unwrap(), "callee");
}

//! Who is revoked and does not go: a thief with a node's key and certificate who keeps his sockets,
//! answers nothing, or never stops to talk. New handshakes are refused and what is open is closed within
//! five seconds, whether he calls or is called.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is a failed test"
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response};
use prost::Message;
use sidelane_identity::tls;
use sidelane_proto::model::{ConnectionClass, Lane};
use sidelane_proto::wire::peer::v1::HelloRequest;
use sidelane_tests::admin::{Answer, Metrics};
use sidelane_tests::ask::{ask, until_answered};
use sidelane_tests::client::{RawClient, framed};
use sidelane_tests::cluster::Node;
use sidelane_tests::fake_peer::welcome;
use sidelane_tests::flood::{Attacker, DATA, END_HEADERS, END_STREAM, PRIORITY, call, frame, same};
use sidelane_tests::frames::{EMPTY_SETTINGS, Frame, HEADERS, PREFACE};
use sidelane_tests::link::{HELLO_PATH, hello, preamble};
use sidelane_tests::stranger::{Stranger, from_pem, turned_away};
use sidelane_tests::{Cluster, Upstream, cluster, services};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio_rustls::{TlsAcceptor, TlsConnector};

const CHAT: &str = "/sidelane.test.v1.Echo/Chat";
/// From the revocation to the end of all that its certificate has opened.
const LIMIT: Duration = Duration::from_secs(5);

/// Frames that one who never stops to talk sends at once.
const ROUND: usize = 20_000;

/// The same, of one who never stops to call.
const ROUND_OF_CALLS: u32 = 2_000;

/// A whole call of what nobody serves.
fn unknown(stream: u32) -> Vec<u8> {
    let block = call("/sidelane.test.v1.Nobody/Knows");
    frame(HEADERS, END_HEADERS | END_STREAM, stream, &block)
}

/// Key and certificate of a node, in a thief's hands.
fn loot(mesh: &Cluster, node: &str) -> (Vec<Vec<u8>>, Vec<u8>) {
    let kept = mesh.folder().join(format!("{node}.data/identity.pem"));
    let kept = std::fs::read(kept).unwrap();
    from_pem(kept.split(|byte| *byte == b'#').nth(1).unwrap())
}

/// The thief's connection to a node, in TLS.
async fn dialled(thief: &Stranger, to: SocketAddr) -> TlsStream<TcpStream> {
    let stream = TcpStream::connect(to).await.unwrap();
    let connector = TlsConnector::from(thief.config());
    connector.connect(tls::name(), stream).await.unwrap()
}

/// A Hello as this node says it.
async fn greeting(callee: &Node, node: &str) -> Vec<u8> {
    let hello = HelloRequest {
        node_id: node.to_owned(),
        ..hello(callee, ConnectionClass::Internal, Lane::GENERAL).await
    };
    let mut bytes = frame(HEADERS, END_HEADERS, 1, &call(HELLO_PATH));
    let message = framed(&hello.encode_to_vec());
    bytes.extend(frame(DATA, END_STREAM, 1, &message));
    bytes
}

/// A call that stays open.
fn chat() -> Vec<u8> {
    frame(HEADERS, END_HEADERS, 3, &call(CHAT))
}

/// A link of the thief's with a call on it, by hand: no GOAWAY and no PING is ever answered.
async fn link(thief: &Stranger, callee: &Node, node: &str) -> Attacker {
    let stream = dialled(thief, callee.internal()).await;
    let opening = preamble(ConnectionClass::Internal, Lane::GENERAL);
    let mut link = Attacker::over(stream, &opening, &[]).await.unwrap();
    let hello = greeting(callee, node).await;
    link.send(std::iter::once(hello)).await;
    // Headers and trailers.
    let begun = Instant::now();
    while link.seen().answers < 2 {
        assert!(begun.elapsed() < LIMIT, "no Hello was answered");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    link.send(std::iter::once(chat())).await;
    link
}

/// The same, of one who reads nothing more once it stands.
async fn deaf_link(thief: &Stranger, callee: &Node, node: &str) -> TlsStream<TcpStream> {
    let mut stream = dialled(thief, callee.internal()).await;
    let mut said = preamble(ConnectionClass::Internal, Lane::GENERAL).to_vec();
    said.extend(PREFACE);
    said.extend(EMPTY_SETTINGS);
    said.extend(greeting(callee, node).await);
    stream.write_all(&said).await.unwrap();
    let mut answers = 0;
    while answers < 2 {
        let read = Frame::read(&mut stream).await.unwrap();
        answers += u32::from(read.kind == HEADERS);
    }
    stream.write_all(&chat()).await.unwrap();
    stream
}

async fn in_flight(callee: &Node, calls: f64) {
    let open = |answer: &Answer| {
        let labels = [("lane", "general"), ("side", "accepted")];
        let metrics = Metrics::parse(&answer.body);
        metrics.sum("sidelane_lane_calls_in_flight", &labels) == calls
    };
    callee.answers("/metrics", open).await;
}

async fn refused(node: &Node) {
    let refused = |answer: &Answer| {
        let labels = [("side", "accepted"), ("reason", "revoked")];
        let metrics = Metrics::parse(&answer.body);
        metrics.sum("sidelane_tls_refused_total", &labels) >= 1.0
    };
    node.answers("/metrics", refused).await;
}

/// Waits until the other side closes, and says how long after `since` that was.
async fn closed(mut stream: TlsStream<TcpStream>, since: Instant) -> Duration {
    let mut bytes = [0; 1024];
    let reading = async { while let Ok(1..) = stream.read(&mut bytes).await {} };
    let ended = tokio::time::timeout(2 * LIMIT, reading).await;
    ended.expect("it stays open");
    since.elapsed()
}

#[tokio::test]
async fn a_revoked_caller_who_ignores_all_is_cut_off_within_five_seconds() {
    let upstream = Upstream::named("callee").start().await;
    let mesh = cluster!()
        .enrolled()
        .control()
        .node("quiet")
        .switched_on("--keep-identity")
        .node("loud")
        .switched_on("--keep-identity")
        .node("callee")
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let callee = mesh.node("callee");
    let [quiet, loud] = ["quiet", "loud"].map(|node| {
        let (chain, key) = loot(&mesh, node);
        Stranger::showing(chain, &key)
    });

    // One who answers nothing, one who does not even read, and two who never said all that a link
    // begins with.
    let silent = link(&quiet, callee, "quiet").await;
    let deaf = deaf_link(&quiet, callee, "quiet").await;
    in_flight(callee, 2.0).await;
    let nameless = dialled(&quiet, callee.internal()).await;
    let mut begun = dialled(&quiet, callee.internal()).await;
    let opening = preamble(ConnectionClass::Internal, Lane::GENERAL);
    begun.write_all(&opening).await.unwrap();
    mesh.done(&["revoke", "--node", "quiet"]).await;
    let since = Instant::now();
    let (silent, nameless, begun, ()) = tokio::join!(
        silent.ended(LIMIT),
        closed(nameless, since),
        closed(begun, since),
        tokio::time::sleep(LIMIT)
    );
    assert!(silent.is_some(), "who answers nothing stays");
    assert!(nameless < LIMIT, "who says nothing stayed for {nameless:?}");
    assert!(begun < LIMIT, "who says too little stayed for {begun:?}");
    let left = closed(deaf, Instant::now()).await;
    assert!(left < Duration::from_millis(500), "who reads nothing stays");
    turned_away(quiet.config(), callee.internal()).await;
    refused(callee).await;

    // Two who never stop to talk: HTTP/2 alone could keep the sidecar from ever looking up.
    let mut idle = link(&loud, callee, "loud").await;
    let mut busy = link(&loud, callee, "loud").await;
    in_flight(callee, 2.0).await;
    let talk = frame(PRIORITY, 0, 5, &[0, 0, 0, 0, 16]);
    assert_eq!(idle.send(same(talk.clone(), ROUND)).await, ROUND);
    let (idle, busy, since) = tokio::join!(
        async {
            while idle.send(same(talk.clone(), ROUND)).await == ROUND {}
            Instant::now()
        },
        async {
            let mut next = 5;
            loop {
                let calls = (0..ROUND_OF_CALLS).map(|number| unknown(next + 2 * number));
                if busy.send(calls).await < ROUND_OF_CALLS as usize {
                    break Instant::now();
                }
                next += 2 * ROUND_OF_CALLS;
            }
        },
        async {
            mesh.done(&["revoke", "--node", "loud"]).await;
            Instant::now()
        }
    );
    for (who, ended) in [("talks", idle), ("calls", busy)] {
        let stayed = ended.saturating_duration_since(since);
        assert!(
            stayed < LIMIT,
            "who {who} without end stayed for {stayed:?}"
        );
    }
    turned_away(loud.config(), callee.internal()).await;
}

/// A callee that is none: it shows a certificate, welcomes every link, and never answers a call. Tells
/// how each of its links began and ended.
struct Impostor {
    address: SocketAddr,
    ended: mpsc::UnboundedReceiver<Instant>,
    calls: mpsc::UnboundedReceiver<()>,
}

impl Impostor {
    fn showing((chain, key): (Vec<Vec<u8>>, Vec<u8>), listener: TcpListener) -> Self {
        let chain = chain.into_iter().map(CertificateDer::from).collect();
        let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key));
        let mut config = ServerConfig::builder_with_provider(Arc::clone(tls::provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(chain, key)
            .unwrap();
        config.alpn_protocols = vec![tls::ALPN.to_vec()];
        let acceptor = TlsAcceptor::from(Arc::new(config));
        let address = listener.local_addr().unwrap();
        let (ends, ended) = mpsc::unbounded_channel();
        let (called, calls) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, ends, called) = (acceptor.clone(), ends.clone(), called.clone());
                tokio::spawn(async move {
                    let Ok(mut stream) = acceptor.accept(stream).await else {
                        return;
                    };
                    if stream.read_exact(&mut [0; 8]).await.is_err() {
                        return;
                    }
                    let mut link = h2::server::handshake(stream).await.unwrap();
                    let mut held = Vec::new();
                    while let Some(Ok((request, respond))) = link.accept().await {
                        if request.uri().path() == HELLO_PATH {
                            tokio::spawn(greet(request, respond));
                        } else {
                            held.push((request, respond));
                            let _ = called.send(());
                        }
                    }
                    let _ = ends.send(Instant::now());
                });
            }
        });
        Self {
            address,
            ended,
            calls,
        }
    }
}

async fn greet(
    request: http::Request<h2::RecvStream>,
    mut respond: h2::server::SendResponse<Bytes>,
) {
    let mut body = request.into_body();
    let mut message = Vec::new();
    while let Some(data) = body.data().await {
        message.extend_from_slice(&data.unwrap());
    }
    let hello = HelloRequest::decode(&message[5..]).unwrap();
    let mut response = Response::new(());
    let kind = HeaderValue::from_static("application/grpc");
    response.headers_mut().insert("content-type", kind);
    let mut stream = respond.send_response(response, false).unwrap();
    let answer = framed(&welcome(&hello).encode_to_vec());
    stream.send_data(answer, false).unwrap();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    stream.send_trailers(trailers).unwrap();
}

#[tokio::test]
async fn a_revoked_callee_who_keeps_his_links_is_cut_off_within_five_seconds() {
    let upstream = Upstream::named("stolen").start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    // The node is there, and where it says that it listens a thief does.
    let mesh = cluster!()
        .enrolled()
        .control()
        .node("caller")
        .node("stolen")
        .switched_on("--keep-identity")
        .with("--advertise", &address)
        .serving(services::ECHO, &upstream)
        .start()
        .await;
    let caller = mesh.node("caller");
    assert_eq!(until_answered(mesh.node("stolen")).await, "stolen");
    let mut impostor = Impostor::showing(loot(&mesh, "stolen"), listener);
    assert_eq!(impostor.address.to_string(), address);
    let client = RawClient::connect(caller.outbound()).await.unwrap();
    let mut chat = client.begin(CHAT, &[]).await.unwrap();
    impostor.calls.recv().await.unwrap();
    mesh.done(&["revoke", "--node", "stolen"]).await;
    let since = Instant::now();
    let ended = tokio::time::timeout(2 * LIMIT, impostor.ended.recv()).await;
    let ended = ended.expect("the link stays open").unwrap();
    let stayed = ended.saturating_duration_since(since);
    assert!(stayed < LIMIT, "the link stayed for {stayed:?}");
    // The app is told, and no further link is opened to him.
    let told = tokio::time::timeout(LIMIT, chat.answer_while_open()).await;
    let told = told.unwrap().unwrap().grpc_status().unwrap();
    assert_eq!(told.code(), tonic::Code::Unavailable, "{told:?}");
    for _ in 0..10 {
        let told = ask(caller, CHAT, &[]).await.grpc_status().unwrap();
        assert_ne!(told.code(), tonic::Code::Ok, "{told:?}");
    }
    assert!(impostor.calls.try_recv().is_err(), "a call came through");
}

//! Links as a peer sidecar dials them, by hand: the preamble, HTTP/2, and the Hello. What is sent
//! here may be wrong, which is what it is for.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use sidelane_proto::model::{ConnectionClass, Lane};
use sidelane_proto::wire::control::v1::VersionRange;
use sidelane_proto::wire::peer::v1::{HelloRequest, HelloResponse};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tonic::{Code, Status};

use crate::client::RawClient;
use crate::cluster::Node;

/// The first call on a link.
pub const HELLO_PATH: &str = "/sidelane.peer.v1.Peer/Hello";
/// The node that these links say they come from.
pub const DIALLER: &str = "dialler";

/// The 8 bytes with which a link opens: `SLN1`, the lane as big-endian u16, the class, and 0.
#[must_use]
pub fn preamble(class: ConnectionClass, lane: Lane) -> [u8; 8] {
    let [high, low] = lane.id().to_be_bytes();
    [b'S', b'L', b'N', b'1', high, low, class.number(), 0]
}

/// Where a node takes links of this class.
///
/// # Panics
/// For a class of a project's own: no node of these tests has one.
#[must_use]
pub fn listener(node: &Node, class: ConnectionClass) -> SocketAddr {
    match class {
        ConnectionClass::Internal => node.internal(),
        ConnectionClass::External => node.external(),
        ConnectionClass::Own(own) => panic!("no listener for class {own:?}"),
    }
}

/// A connection that has said these bytes and nothing else.
///
/// # Errors
/// Nobody listens there.
pub async fn said(address: SocketAddr, bytes: &[u8]) -> Result<TcpStream> {
    let stream = TcpStream::connect(address).await;
    let mut stream = stream.with_context(|| format!("nobody listens on {address}"))?;
    stream.set_nodelay(true)?;
    stream.write_all(bytes).await?;
    Ok(stream)
}

/// A link without its Hello.
///
/// # Errors
/// It was refused before HTTP/2.
pub async fn open(node: &Node, class: ConnectionClass, lane: Lane) -> Result<RawClient> {
    let stream = said(listener(node, class), &preamble(class, lane)).await?;
    RawClient::over(stream).await
}

/// A link whose Hello was taken.
///
/// # Errors
/// It was refused.
pub async fn greeted(node: &Node, class: ConnectionClass, lane: Lane) -> Result<RawClient> {
    let link = open(node, class, lane).await?;
    say_hello(&link, &hello(node, class, lane).await).await??;
    Ok(link)
}

/// The Hello that a node takes.
///
/// # Panics
/// If the node does not say which generation it is.
pub async fn hello(node: &Node, class: ConnectionClass, lane: Lane) -> HelloRequest {
    let generation = node.config().await["generation"].as_u64();
    HelloRequest {
        node_id: DIALLER.to_owned(),
        generation: 7,
        expected_node_id: node.name().to_owned(),
        expected_generation: generation.expect("a sidecar has a generation"),
        connection: class.spoken().0,
        class: class.spoken().1.to_owned(),
        lane_id: lane.id().into(),
        lane: lane.name().to_owned(),
        protocol: Some(VersionRange {
            oldest: 1,
            newest: 1,
        }),
        build: "test".to_owned(),
        rules_digest: Vec::new(),
        unmarked_is_unrecorded: false,
    }
}

/// Says Hello, and gives what was answered.
///
/// # Errors
/// The link ended.
pub async fn say_hello(
    link: &RawClient,
    hello: &HelloRequest,
) -> Result<Result<HelloResponse, Status>> {
    let answer = link.unary(HELLO_PATH, &[], hello).await?;
    let status = answer.grpc_status()?;
    if status.code() == Code::Ok {
        return Ok(Ok(answer.message()?));
    }
    Ok(Err(status))
}

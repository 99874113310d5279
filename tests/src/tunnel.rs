//! Tunnels by HTTP CONNECT, as clients open them that know of a proxy and nothing else: by hand, so
//! that a test sees every byte of the answer.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tonic::transport::{Channel, Endpoint};

/// A destination that has no address, and for whose name no resolver is asked: no part of a name has
/// more than 63 bytes.
pub const NOWHERE: &str =
    "nowherenowherenowherenowherenowherenowherenowherenowherenowherenowhere:1";

/// What opens a tunnel.
pub const OPENED: &str = "HTTP/1.1 200 Connection established\r\n\r\n";
/// An answer takes milliseconds, or has gone wrong.
const LIMIT: Duration = Duration::from_secs(10);

/// Opens a tunnel to `target`.
///
/// # Errors
/// Nobody listens there, or the answer is another than [`OPENED`].
pub async fn open(proxy: SocketAddr, target: &str) -> Result<TcpStream> {
    let request = format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n");
    let (stream, answer) = answered(proxy, request.as_bytes()).await?;
    ensure!(answer == OPENED, "{target}: {answer}");
    Ok(stream)
}

/// Sends these bytes, and returns the head of what is answered, up to its blank line.
///
/// # Errors
/// Nobody listens there, or there is no whole head within 10 s.
pub async fn answered(proxy: SocketAddr, request: &[u8]) -> Result<(TcpStream, String)> {
    let mut stream = TcpStream::connect(proxy).await?;
    stream.set_nodelay(true)?;
    stream.write_all(request).await?;
    let mut head = Vec::new();
    let reading = async {
        // Byte by byte: what comes behind it is not for us.
        while !head.ends_with(b"\r\n\r\n") {
            head.push(stream.read_u8().await?);
        }
        Ok::<_, std::io::Error>(())
    };
    let read = tokio::time::timeout(LIMIT, reading).await;
    read.context("no answer")?.context("no whole head")?;
    Ok((stream, String::from_utf8(head)?))
}

/// A tonic channel through a tunnel to `target`: one connection, made now.
///
/// # Errors
/// As [`open`].
pub async fn channel(proxy: SocketAddr, target: &str) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{target}"))?;
    let target = target.to_owned();
    let connector = tower::service_fn(move |_| {
        let target = target.clone();
        async move { open(proxy, &target).await.map(TokioIo::new) }
    });
    let channel = endpoint.connect_with_connector(connector).await;
    channel.with_context(|| format!("no channel through {proxy}"))
}

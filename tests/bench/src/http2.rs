//! The HTTP/2 settings of everything that the benchmark itself runs: load generator, echo server
//! and both bare proxies, and of Envoy as far as it has them. They are those of a reasonable General lane, the same at every hop, so
//! that a ratio compares processes and never settings.

use bytes::Buf;
use http_body::Body;
use hyper::client::conn::http2::SendRequest;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use std::error::Error;
use std::io;
use std::net::SocketAddr;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

/// Sixteen payloads of 64 KiB in one stream before anybody has to wait for a window update.
pub(crate) const STREAM_WINDOW: u32 = 1024 * 1024;

/// Four stream windows, so that a slow stream cannot stall its connection.
pub(crate) const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;

/// More than any `--in-flight`, so that no call waits for a free stream; a bound nevertheless.
pub(crate) const CONCURRENT_STREAMS: u32 = 1024;

/// How the benchmark's servers take HTTP/2 connections.
pub(crate) fn server() -> hyper::server::conn::http2::Builder<TokioExecutor> {
    let mut builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(CONCURRENT_STREAMS)
        .auto_date_header(false);
    builder
}

/// Opens a connection, without TLS and with prior knowledge. Its task ends with its last sender.
pub(crate) async fn connect<B>(address: SocketAddr) -> io::Result<SendRequest<B>>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Buf + Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
{
    over(dial(address).await?).await
}

/// Opens a socket that sends what it is given at once.
pub(crate) async fn dial(address: SocketAddr) -> io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// The same as [`connect`], over what has been opened.
pub(crate) async fn over<B, Stream>(stream: Stream) -> io::Result<SendRequest<B>>
where
    B: Body + Send + Unpin + 'static,
    B::Data: Buf + Send,
    B::Error: Into<Box<dyn Error + Send + Sync>>,
    Stream: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    let (sender, connection) = hyper::client::conn::http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .handshake(TokioIo::new(stream))
        .await
        .map_err(io::Error::other)?;
    // How the connection ends is told by the calls that were on it.
    tokio::spawn(connection);
    Ok(sender)
}

//! The gRPC port: accepts connections and serves HTTP/2 on them, with every limit set by us. It
//! knows nothing of what is called. hyper is used directly, because `tonic::transport::Server`
//! passes some of these limits on as "none" (0.14.9), and has no bound on connections.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tonic::service::Routes;
use tower_service::Service;

use crate::drain::Draining;

/// Connections at once: four times the sidecars that one mesh is built for. Further ones are closed
/// at once, and counted.
pub const CONNECTION_LIMIT: usize = 4_096;
/// Streams at once on a connection. A sidecar needs one; tools some more.
pub const STREAM_LIMIT: u32 = 100;
/// Streams that a client has reset before they were served (CVE-2023-44487). A client that gives
/// up on a call now and then stays far below.
pub const PENDING_RESET_LIMIT: usize = 32;
/// Streams that were reset here for a mistake of the client, over a connection's whole life
/// (h2#856). Streams here live as long as their connection, so there are hardly any.
pub const LOCAL_RESET_LIMIT: usize = 256;
/// The size of a request's headers, in bytes.
pub const HEADER_LIMIT: u32 = 16 * 1024;
/// What a client may send on one stream before it is read, in bytes. A Hello with a hundred offers
/// fits; larger ones take some round trips more.
pub const STREAM_WINDOW: u32 = 64 * 1024;
/// The same for a whole connection: slow streams can fill at most a quarter of it each (h2#573).
pub const CONNECTION_WINDOW: u32 = 4 * STREAM_WINDOW;
/// What waits to be sent on one stream, in bytes, beyond the message that is being written.
pub const SEND_BUFFER: usize = 64 * 1024;
/// The largest frame that is read, in bytes: the protocol's own default and minimum.
pub const FRAME_LIMIT: u32 = 16 * 1024;
/// A silent connection is asked whether it is alive after this time, and closed if it does not
/// answer within the second. Without it a half-open connection lasts for a quarter of an hour.
pub const PING_AFTER: Duration = Duration::from_secs(5);
/// See [`PING_AFTER`].
pub const PING_LIMIT: Duration = Duration::from_secs(3);
/// A connection on which no call has begun after this time is closed: whoever opens one and says
/// nothing, or speaks something else, does not keep it (hyper#4172).
pub const FIRST_CALL_LIMIT: Duration = Duration::from_secs(10);
/// The pause after a failed accept: the usual cause, too many open files, does not pass at once.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Figures of the gRPC port.
#[derive(Debug, Default)]
pub struct ConnectionCounters {
    open: AtomicUsize,
    refused: AtomicU64,
}

impl ConnectionCounters {
    /// Connections that are open.
    #[must_use]
    pub fn open(&self) -> usize {
        self.open.load(Ordering::Relaxed)
    }

    /// Connections that were closed at once, because there were too many.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused.load(Ordering::Relaxed)
    }
}

/// Serves until the end begins and every connection has closed. Whoever cannot wait drops this:
/// then they are cut.
pub async fn serve(
    listener: TcpListener,
    routes: Routes,
    counters: Arc<ConnectionCounters>,
    mut draining: Draining,
) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = draining.begun() => break,
            Some(ended) = connections.join_next() => {
                counters.open.store(connections.len(), Ordering::Relaxed);
                report(ended);
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(_) if connections.len() >= CONNECTION_LIMIT => {
                if counters.refused.fetch_add(1, Ordering::Relaxed) == 0 {
                    tracing::warn!(
                        limit = CONNECTION_LIMIT,
                        "too many connections; more are closed"
                    );
                }
            }
            Ok((stream, peer)) => {
                connections.spawn(connection(stream, peer, routes.clone(), draining.clone()));
                counters.open.store(connections.len(), Ordering::Relaxed);
            }
            Err(error) => {
                tracing::warn!(%error, "the gRPC listener cannot accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
    drop(listener);
    while let Some(ended) = connections.join_next().await {
        counters.open.store(connections.len(), Ordering::Relaxed);
        report(ended);
    }
}

fn report(ended: Result<(), tokio::task::JoinError>) {
    if let Err(error) = ended
        && error.is_panic()
    {
        tracing::error!(%error, "a connection failed");
    }
}

async fn connection(stream: TcpStream, peer: SocketAddr, routes: Routes, mut draining: Draining) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%peer, %error, "connection lost before it began");
        return;
    }
    let called = Arc::new(Notify::new());
    let service = service_fn(|mut request: hyper::Request<hyper::body::Incoming>| {
        called.notify_one();
        request.extensions_mut().insert(peer);
        let answer = routes.clone().call(request);
        async move { Ok::<_, Infallible>(answer.await.unwrap_or_else(|never| match never {})) }
    });
    let connection = builder().serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    let mut first_call = pin!(tokio::time::timeout(FIRST_CALL_LIMIT, called.notified()));
    let mut waiting = true;
    loop {
        tokio::select! {
            ended = connection.as_mut() => {
                if let Err(error) = ended {
                    tracing::debug!(%peer, %error, "connection ended");
                }
                return;
            }
            began = first_call.as_mut(), if waiting => {
                waiting = false;
                if began.is_err() {
                    tracing::debug!(%peer, "connection closed: no call began in time");
                    return;
                }
            }
            () = draining.begun() => break,
        }
    }
    connection.as_mut().graceful_shutdown();
    if let Err(error) = connection.await {
        tracing::debug!(%peer, %error, "connection ended");
    }
}

fn builder() -> http2::Builder<TokioExecutor> {
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        .max_concurrent_streams(STREAM_LIMIT)
        .max_pending_accept_reset_streams(PENDING_RESET_LIMIT)
        .max_local_error_reset_streams(LOCAL_RESET_LIMIT)
        .max_header_list_size(HEADER_LIMIT)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .adaptive_window(false)
        .max_frame_size(FRAME_LIMIT)
        .max_send_buf_size(SEND_BUFFER)
        .keep_alive_interval(PING_AFTER)
        .keep_alive_timeout(PING_LIMIT)
        .auto_date_header(false);
    builder
}

#[cfg(test)]
mod tests;

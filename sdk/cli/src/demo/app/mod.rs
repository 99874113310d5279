//! The shop's servers: plain tonic programs that know nothing of the mesh, except that they tell
//! which node they are and in which lane a call came, so that the demo can count. The sidecar
//! beside them stands between them and every caller.

mod answer;
mod inflight;
mod route;

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tonic::transport::Server;
use tonic::transport::server::TcpIncoming;
use tracing::info;

use inflight::InFlight;

pub(super) use answer::ORDER_BYTES;

/// How long an app that was told to end waits for the calls that are still open. Longer than the
/// demo's longest stream.
const IDLE_LIMIT: Duration = Duration::from_secs(5);
/// Calls that one connection (here: from the sidecar beside it) may have open at once.
const STREAMS_LIMIT: u32 = 1_024;

/// A server of the shop could not run.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AppError {
    /// The address is taken or not of this machine.
    #[error("cannot listen on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the operating system said.
        source: io::Error,
    },
    /// The signal handler could not be set up.
    #[error("cannot wait for SIGTERM: {0}")]
    Signal(io::Error),
    /// The server ended by itself.
    #[error("the server ended: {0}")]
    Server(#[from] tonic::transport::Error),
}

/// Serves all of the shop's services on `address` until SIGTERM, and then until no call is open.
pub(super) async fn serve(node: &str, address: SocketAddr) -> Result<(), AppError> {
    let mut terminate = signal(SignalKind::terminate()).map_err(AppError::Signal)?;
    let not_there = |source| AppError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(not_there)?;
    let address = listener.local_addr().map_err(not_there)?;
    let in_flight = InFlight::default();
    let shop = answer::Shop::new(Arc::from(node), in_flight.clone());
    let ended = async move {
        terminate.recv().await;
        // The sidecar has been drained before, so what is open is all that will ever come.
        in_flight.none_within(IDLE_LIMIT).await;
    };
    info!(%address, "the shop's services are served here");
    Server::builder()
        .max_concurrent_streams(STREAMS_LIMIT)
        // Nothing of a call changes where nobody records spans.
        .layer(sidelane_trace::server())
        .serve_with_incoming_shutdown(
            route::services(shop),
            // Without it an answer's trailers wait for the caller's next packet (Nagle, RFC 896).
            TcpIncoming::from(listener).with_nodelay(Some(true)),
            ended,
        )
        .await?;
    Ok(())
}

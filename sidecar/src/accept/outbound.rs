//! The outbound listeners: where the app beside this sidecar calls, over TCP or a unix socket, or
//! the program that has this sidecar linked in, over pipes.

use std::sync::Arc;
use std::time::Duration;

use sidelane_process::listen::UnixSocket;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::server::{Connected, Handle, PREFACE_LIMIT, Terms, no_limit, serve};
use super::sniff::{Prefixed, Spoken, refuse};
use crate::drain::{Draining, Phase};
use crate::lane::{HEADER_LIST_LIMIT, LaneSettings, settings};
use crate::pipe::Acceptor;
use crate::telemetry::Metrics;
use sidelane_proto::model::Lane;

/// Connections of local apps at once, over all outbound listeners. One app keeps a handful.
pub const CONNECTIONS_LIMIT: usize = 4096;
/// Calls open at once on one connection of a local app, which brings all of its calls on one: to
/// all peers, in all lanes. More than one peer's lane may hold (four links of 1,024 calls), so
/// that a peer that stands still fills its own lane, and not the app's only way to all others.
const CALLS_LIMIT: u32 = 16 * 1024;
/// How long to wait after the system refused a connection, for want of descriptors for example.
pub(super) const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// One outbound listener.
#[derive(Debug)]
pub enum OutboundListener {
    /// On TCP.
    Tcp(TcpListener),
    /// On a unix socket.
    Unix(UnixSocket),
    /// For the program that this sidecar is linked into.
    Pipe(Acceptor),
}

/// What an outbound listener needs.
#[derive(Debug, Clone)]
pub struct Outbound<Calls> {
    /// Takes the calls.
    pub calls: Calls,
    /// Counts connections.
    pub metrics: Arc<Metrics>,
    /// The sidecar's end.
    pub draining: Draining,
    /// Counts the apps' connections: while there are any, the app has not gone.
    pub connections: Arc<tokio::sync::Semaphore>,
}

impl<Calls: Handle> Outbound<Calls> {
    /// Accepts until the drain's outbound phase, and serves until it is forced.
    pub async fn run(self, mut listener: OutboundListener) {
        let mut draining = self.draining.clone();
        let mut connections = JoinSet::new();
        loop {
            while connections.try_join_next().is_some() {}
            let accepted = tokio::select! {
                accepted = self.accept(&mut listener, &mut connections) => accepted,
                () = draining.reached(Phase::Outbound) => break,
            };
            if let Err(error) = accepted {
                warn!(%error, "an outbound connection could not be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
        drop(listener);
        while connections.join_next().await.is_some() {}
    }

    async fn accept(
        &self,
        listener: &mut OutboundListener,
        connections: &mut JoinSet<()>,
    ) -> std::io::Result<()> {
        match listener {
            OutboundListener::Tcp(listener) => {
                let (stream, from) = listener.accept().await?;
                stream.set_nodelay(true)?;
                self.spawn(stream, from.to_string(), connections);
            }
            OutboundListener::Unix(socket) => {
                let (stream, _) = socket.listener.accept().await?;
                self.spawn(stream, "a unix socket".to_owned(), connections);
            }
            OutboundListener::Pipe(acceptor) => match acceptor.accept().await {
                Some(stream) => self.spawn(stream, "this process".to_owned(), connections),
                // Nobody can call any more; whether the sidecar ends is for others to say.
                None => std::future::pending().await,
            },
        }
        Ok(())
    }

    fn spawn<Stream>(&self, stream: Stream, from: String, connections: &mut JoinSet<()>)
    where
        Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Ok(place) = Arc::clone(&self.connections).try_acquire_owned() else {
            warn!(%from, limit = CONNECTIONS_LIMIT, "too many outbound connections, one was closed");
            return;
        };
        self.metrics.connection();
        let this = self.clone();
        connections.spawn(async move {
            this.connection(stream, &from).await;
            drop(place);
        });
    }

    async fn connection<Stream>(self, stream: Stream, from: &str)
    where
        Stream: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let mut stream = Prefixed::new(stream);
        let spoken = match timeout(PREFACE_LIMIT, stream.spoken()).await {
            Ok(Ok(spoken)) => spoken,
            Ok(Err(error)) => return debug!(%from, %error, "an outbound connection broke"),
            Err(_) => return info!(%from, "an outbound connection said nothing, it was closed"),
        };
        match spoken {
            Spoken::Http2 => {}
            Spoken::Nothing => return,
            other => {
                self.metrics.not_http2();
                warn!(%from, spoken = ?other, "not HTTP/2 with prior knowledge, refused");
                let _ = timeout(PREFACE_LIMIT, refuse(&mut stream, other)).await;
                return;
            }
        }
        let settings = LaneSettings {
            max_streams: CALLS_LIMIT,
            ..settings(Lane::GENERAL)
        };
        let terms = Terms {
            settings: &settings,
            headers: HEADER_LIST_LIMIT,
            pings: false,
            draining: self.draining.clone(),
            ends_at: Phase::Outbound,
            limit: no_limit(),
        };
        let calls = self.calls;
        let served = serve(stream, terms, |request, respond| {
            let calls = calls.clone();
            // It ends when its stream does, at the latest with the connection.
            tokio::spawn(async move { calls.handle(Connected::Local, request, respond).await });
        });
        if let Err(error) = served.await {
            debug!(%from, %error, "an outbound connection ended");
        }
    }
}

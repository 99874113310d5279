//! The outbound listeners: where the app beside this sidecar calls, over TCP or a unix socket, or
//! the program that has this sidecar linked in, over pipes. A connection is dialled, or it comes by
//! a tunnel (CONNECT) or a redirect, and then has a destination of its own: calls in it are the
//! mesh's all the same, and what is no HTTP/2 is carried on to there.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use sidelane_process::listen::UnixSocket;
use sidelane_proto::model::PeerAddress;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{debug, info, warn};

use super::connect::{HEAD_LIMIT, HEAD_TIME, NoTunnel, OPENED, target};
use super::origin::original_destination;
use super::server::{Connected, Handle, PREFACE_LIMIT, Resets, Terms, no_limit, serve};
use super::sniff::{Prefixed, Spoken, refuse};
use super::splice::{Cut, SpliceError, splice};
use crate::drain::{Draining, Phase};
use crate::lane::{HEADER_LIST_LIMIT, LaneSettings, settings};
use crate::onward::{Loop, Onward, Origin};
use crate::pipe::Acceptor;
use crate::telemetry::Metrics;
use crate::turns::{Intake, Turns};
use sidelane_proto::model::Lane;

/// Connections of local apps at once, over all outbound listeners. One app keeps a handful.
pub const CONNECTIONS_LIMIT: usize = 4096;
/// Calls open at once on one connection of a local app, which brings all of its calls on one: to
/// all peers, in all lanes. More than one peer's lane may hold (four links of 1,024 calls), so
/// that a peer that stands still fills its own lane, and not the app's only way to all others.
const CALLS_LIMIT: u32 = 16 * 1024;
/// How long a connection with a destination of its own may take to say what it is. A client of
/// gRPC sends its preface at once; whoever waits longer waits for its server to speak.
const FIRST_BYTES: Duration = Duration::from_secs(1);
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
    /// Carries on what is not for the mesh.
    pub onward: Arc<Onward>,
}

/// Who connected, and, where the system redirected the connection, whom it had meant.
#[derive(Debug)]
struct Client {
    text: String,
    address: Option<SocketAddr>,
    redirected: Option<SocketAddr>,
}

impl Client {
    fn within(text: &str) -> Self {
        Self {
            text: text.to_owned(),
            address: None,
            redirected: None,
        }
    }
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
                let from = Client {
                    text: from.to_string(),
                    address: Some(from),
                    redirected: original_destination(&stream),
                };
                self.spawn(stream, from, connections);
            }
            OutboundListener::Unix(socket) => {
                let (stream, _) = socket.listener.accept().await?;
                self.spawn(stream, Client::within("a unix socket"), connections);
            }
            OutboundListener::Pipe(acceptor) => match acceptor.accept().await {
                Some(stream) => self.spawn(stream, Client::within("this process"), connections),
                // Nobody can call any more; whether the sidecar ends is for others to say.
                None => std::future::pending().await,
            },
        }
        Ok(())
    }

    fn spawn<Stream>(&self, stream: Stream, from: Client, connections: &mut JoinSet<()>)
    where
        Stream: AsyncRead + AsyncWrite + Unpin + Cut + Send + 'static,
    {
        let Ok(place) = Arc::clone(&self.connections).try_acquire_owned() else {
            let from = from.text;
            self.metrics.connection_refused();
            warn!(%from, limit = CONNECTIONS_LIMIT, "too many outbound connections, one was closed");
            return;
        };
        self.metrics.connection();
        let this = self.clone();
        connections.spawn(async move {
            let stream = Prefixed::new(stream);
            match from.redirected {
                None => this.dialled(stream, &from.text).await,
                Some(destination) => this.redirected(stream, &from, destination).await,
            }
            drop(place);
        });
    }

    /// A connection that meant this sidecar.
    async fn dialled<Stream>(self, mut stream: Prefixed<Stream>, from: &str)
    where
        Stream: AsyncRead + AsyncWrite + Unpin + Cut + Send,
    {
        let spoken = match timeout(PREFACE_LIMIT, stream.spoken()).await {
            Ok(Ok(spoken)) => spoken,
            Ok(Err(error)) => return debug!(%from, %error, "an outbound connection broke"),
            Err(_) => return info!(%from, "an outbound connection said nothing, it was closed"),
        };
        match spoken {
            Spoken::Http2 => self.calls(stream, from, None).await,
            Spoken::Connect => self.tunnel(stream, from).await,
            Spoken::Nothing => {}
            other => self.refuse(stream, from, other).await,
        }
    }

    async fn refuse<Stream>(self, mut stream: Prefixed<Stream>, from: &str, spoken: Spoken)
    where
        Stream: AsyncRead + AsyncWrite + Unpin + Cut + Send,
    {
        let spoken = match spoken {
            Spoken::Http1 => match timeout(PREFACE_LIMIT, stream.form()).await {
                Ok(Ok(spoken)) => spoken,
                Ok(Err(_)) | Err(_) => spoken,
            },
            other => other,
        };
        self.metrics.not_http2();
        warn!(%from, ?spoken, "not HTTP/2 with prior knowledge, refused");
        let _ = timeout(PREFACE_LIMIT, refuse(&mut stream, spoken)).await;
    }

    /// A connection that asks for a tunnel.
    async fn tunnel<Stream>(self, mut stream: Prefixed<Stream>, from: &str)
    where
        Stream: AsyncRead + AsyncWrite + Unpin + Cut + Send,
    {
        let asked = match timeout(HEAD_TIME, stream.head(HEAD_LIMIT)).await {
            Ok(Ok(Some(head))) => target(&head).and_then(|target| self.leads_on(target)),
            Ok(Ok(None)) => Err(NoTunnel::TooLarge),
            Ok(Err(error)) => return debug!(%from, %error, "an outbound connection broke"),
            Err(_) => Err(NoTunnel::TooSlow),
        };
        let (answer, asked) = match asked {
            Ok(target) => (OPENED.to_vec(), Some(target)),
            Err(error) => {
                self.metrics.tunnel_refused();
                warn!(%from, %error, "a tunnel was refused");
                (error.answer(), None)
            }
        };
        let answered = timeout(PREFACE_LIMIT, stream.write_all(&answer)).await;
        let Some(destination) = asked else {
            let _ = timeout(PREFACE_LIMIT, stream.shutdown()).await;
            return;
        };
        if !matches!(answered, Ok(Ok(()))) {
            return debug!(%from, "a tunnel's answer could not be sent");
        }
        self.metrics.tunnel();
        let origin = |_: &Self| Origin {
            destination,
            looped: None,
        };
        self.carried(stream, from, origin).await;
    }

    /// The target of a tunnel, if it is not this sidecar itself.
    fn leads_on(&self, target: PeerAddress) -> Result<PeerAddress, NoTunnel> {
        if self.onward.names_listener(&target) {
            let looped = Loop::Listener;
            return Err(NoTunnel::Loop { target, looped });
        }
        Ok(target)
    }

    /// A connection that meant another destination.
    async fn redirected<Stream>(self, stream: Prefixed<Stream>, from: &Client, to: SocketAddr)
    where
        Stream: AsyncRead + AsyncWrite + Unpin + Cut + Send,
    {
        // The text of an IP address and a port is the address of a peer, but for port 0.
        let Ok(destination) = PeerAddress::new(&to.to_string()) else {
            let from = &from.text;
            return warn!(%from, %to, "redirected from where nobody can listen, it was closed");
        };
        let origin = |this: &Self| {
            let own = from
                .address
                .is_some_and(|from| this.onward.has_opened(from, to));
            let listener = this.onward.is_listener(to).then_some(Loop::Listener);
            Origin {
                destination,
                looped: own.then_some(Loop::OwnSocket).or(listener),
            }
        };
        self.carried(stream, &from.text, origin).await;
    }

    /// A connection with a destination of its own. `origin` is asked once it has said something.
    async fn carried<Stream>(
        self,
        mut stream: Prefixed<Stream>,
        from: &str,
        origin: impl FnOnce(&Self) -> Origin + Send,
    ) where
        Stream: AsyncRead + AsyncWrite + Unpin + Cut + Send,
    {
        let spoken = match timeout(FIRST_BYTES, stream.spoken()).await {
            Ok(Ok(spoken)) => Some(spoken),
            Ok(Err(error)) => return debug!(%from, %error, "an outbound connection broke"),
            Err(_) => None,
        };
        let origin = origin(&self);
        if spoken == Some(Spoken::Http2) {
            return self.calls(stream, from, Some(Arc::new(origin))).await;
        }
        let to = &origin.destination;
        debug!(%from, %to, ?spoken, "no HTTP/2, carried on as it is");
        let mut draining = self.draining.clone();
        let ended = tokio::select! {
            ended = splice(&mut stream, &origin, &self.onward, || self.metrics.spliced()) => ended,
            // Nothing in it says what would be a good moment.
            () = draining.reached(Phase::Outbound) => return,
        };
        match ended {
            Ok(()) => {}
            Err(SpliceError::Broken(error)) => debug!(%from, %to, %error, "a splice broke"),
            Err(error) => {
                self.metrics.splice_failed();
                warn!(%from, %to, %error, "could not be carried on, it was closed");
            }
        }
    }

    /// A connection of calls.
    async fn calls<Stream>(self, stream: Prefixed<Stream>, from: &str, origin: Option<Arc<Origin>>)
    where
        Stream: AsyncRead + AsyncWrite + Unpin + Send,
    {
        let settings = LaneSettings {
            max_streams: CALLS_LIMIT,
            ..settings(Lane::GENERAL)
        };
        let intake = Arc::new(Intake::default());
        let terms = Terms {
            intake: Arc::clone(&intake),
            distrusted: None,
            settings: &settings,
            headers: HEADER_LIST_LIMIT,
            resets: Resets::APPS,
            leaves: None,
            pings: false,
            draining: self.draining.clone(),
            ends_at: Phase::Outbound,
            limit: no_limit(),
        };
        let stream = Turns::new(stream, settings.turn, None).bringing(intake);
        let served = serve(stream, terms, |request, respond| {
            let connected = Connected::Local(origin.clone());
            // It ends when its stream does, at the latest with the connection.
            tokio::spawn(self.calls.handle(connected, request, respond));
        });
        if let Err(error) = served.await {
            debug!(%from, %error, "an outbound connection ended");
        }
    }
}

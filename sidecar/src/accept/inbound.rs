//! The internal and external listeners: where peer sidecars call. A link says its class and lane
//! before HTTP/2 begins, and who it is in a Hello before its first call. TLS goes between the
//! socket and the preamble.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::Request;
use serde_json::{Value, json};
use sidelane_identity::verify::Leaf;
use sidelane_identity::{Refusal, SpiffeId};
use sidelane_proto::model::{ConnectionClass, Lane};
use sidelane_proto::wire::peer::v1::peer_server::PeerServer;
use tokio::io::AsyncWriteExt;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tonic::Status;
use tracing::{debug, info, warn};

use super::hello::{Greeting, HelloService, Notice, Welcome};
use super::outbound::ACCEPT_PAUSE;
use super::server::{
    Connected, Distrusted, Handle, PREFACE_LIMIT, Resets, ServeError, Terms, ready, serve,
};
use super::sniff::{Prefixed, goaway};
use crate::call::Peer;
use crate::drain::{Draining, Phase};
use crate::edge::Edge;
use crate::edge::doors::WAITING;
use crate::http2;
use crate::lane::{ERROR_RESETS, PEER_HEADER_LIST_LIMIT, PENDING_RESETS, settings};
use crate::preamble::{self, Preamble, PreambleError};
use crate::socket;
use crate::telemetry::{Metrics, PeerCalls, Side, Turned};
use crate::trust::{HANDSHAKE_LIMIT, Trust, Wire};
use crate::turns::{Intake, Turns};
use sidelane_process::seldom::Seldom;
use sidelane_process::strangers::{STRANGERS_LIMIT, Stranger, Strangers};

/// The longest wait for a link's Hello.
const HELLO_LIMIT: Duration = Duration::from_secs(3);
/// The longest wait for a lane to become known, and between two looks.
const LANE_LIMIT: Duration = Duration::from_secs(1);
const LANE_PAUSE: Duration = Duration::from_millis(20);
/// Links at once on one listener. Four lanes to a thousand peers fit.
pub const LINKS_LIMIT: usize = 8192;
/// The path of the Hello.
const HELLO_PATH: &str = "/sidelane.peer.v1.Peer/Hello";

/// What peers are held to on each listener, for `/config`. What their lanes say stands with those.
#[must_use]
pub fn bounds() -> Value {
    let milliseconds = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
    json!({
        "links": LINKS_LIMIT,
        "strangers": STRANGERS_LIMIT,
        "handshake_ms": milliseconds(HANDSHAKE_LIMIT),
        "preface_ms": milliseconds(PREFACE_LIMIT),
        "hello_ms": milliseconds(HELLO_LIMIT),
        "header_list_bytes": PEER_HEADER_LIST_LIMIT,
        "pending_resets": PENDING_RESETS,
        "error_resets": ERROR_RESETS,
    })
}

/// What an inbound listener needs.
#[derive(Clone)]
pub struct Inbound<Calls> {
    /// The class of every call on this listener.
    pub class: ConnectionClass,
    /// Who this sidecar is.
    pub welcome: Welcome,
    /// Takes the calls.
    pub calls: Calls,
    /// What links must prove.
    pub trust: Trust,
    /// Counts connections.
    pub metrics: Arc<Metrics>,
    /// The sidecar's end.
    pub draining: Draining,
    /// What users are allowed, where they come to this listener, too.
    pub edge: Option<Arc<Edge>>,
    /// What is written of those who are refused.
    pub lines: Arc<Seldom>,
    /// Who has not proved anything yet, where no users come.
    pub strangers: Strangers,
}

/// Why a link was refused before its first call.
#[derive(Debug, thiserror::Error)]
enum LinkError {
    #[error("it ended before its preamble")]
    Ended,
    #[error("no preamble within {} s", PREFACE_LIMIT.as_secs())]
    TooSlow,
    #[error("it was silent while others wanted its place")]
    LetGo,
    #[error("{0}")]
    Preamble(#[from] PreambleError),
    #[error("it asks for class {asked}, this listener takes class {own}")]
    Class {
        asked: ConnectionClass,
        own: ConnectionClass,
    },
    #[error("{0}")]
    Socket(#[from] std::io::Error),
}

impl<Calls: Handle> Inbound<Calls> {
    /// Accepts until the drain begins, and serves until it is forced.
    pub async fn run(self, listener: TcpListener) {
        let mut draining = self.draining.clone();
        let mut links = JoinSet::new();
        // Users have places of their own beside those of links, and cannot take these.
        let users = |edge: &Arc<Edge>| edge.limits.connections.saturating_add(WAITING);
        let most = LINKS_LIMIT.saturating_add(self.edge.as_ref().map_or(0, users));
        loop {
            while links.try_join_next().is_some() {}
            let accepted = tokio::select! {
                accepted = listener.accept() => accepted,
                () = draining.reached(Phase::Inbound) => break,
            };
            match accepted {
                Ok((stream, from)) if links.len() < most => {
                    let now = std::time::Instant::now();
                    let Some(edge) = self.edge.clone() else {
                        let Some(stranger) = self.strangers.enter(from.ip(), now) else {
                            self.full(from, STRANGERS_LIMIT);
                            continue;
                        };
                        self.metrics.connection();
                        let this = self.clone();
                        links.spawn(async move { this.link(stream, from, stranger).await });
                        continue;
                    };
                    // Before anything is read: a handshake is what costs most.
                    match edge.doors.enter(from.ip(), now) {
                        Ok(place) => {
                            self.metrics.connection();
                            let this = self.clone();
                            links.spawn(async move {
                                this.enters(edge, (stream, from), place).await;
                            });
                        }
                        Err(why) => match edge.doors.wait(from.ip()) {
                            Some(waiting) => {
                                let this = self.clone();
                                links.spawn(async move {
                                    this.pleads(edge, (stream, from), waiting, why).await;
                                });
                            }
                            None => self.turned(why, from),
                        },
                    }
                }
                Ok((_, from)) => self.full(from, most),
                Err(error) => {
                    warn!(%error, "a link could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
        drop(listener);
        while links.join_next().await.is_some() {}
    }

    async fn link(self, stream: TcpStream, from: SocketAddr, mut stranger: Stranger) {
        let secured = tokio::select! {
            biased;
            secured = self.secured(stream, from) => secured,
            () = stranger.let_go() => return self.full(from, STRANGERS_LIMIT),
        };
        let Some((stream, leaf)) = secured else {
            return;
        };
        // Who has shown no certificate is a stranger up to its Hello.
        let stranger = leaf.is_none().then_some(stranger);
        self.linked(Prefixed::new(stream), leaf, from, stranger)
            .await;
    }

    /// A link that has no place, or none any more.
    fn full(&self, from: SocketAddr, limit: usize) {
        self.metrics.link_refused();
        if let Some(omitted) = self.lines.line("full", std::time::Instant::now()) {
            warn!(%from, limit, omitted, "too many links, one was closed");
        }
    }

    /// A link whose other end has proved what it must.
    pub(super) async fn linked(
        self,
        mut stream: Prefixed<Wire>,
        leaf: Option<Leaf>,
        from: SocketAddr,
        mut stranger: Option<Stranger>,
    ) {
        let mut distrusted = leaf.clone().map(|leaf| self.distrusted(leaf));
        let opened = tokio::select! {
            biased;
            opened = self.open(&mut stream) => opened,
            () = ready(stranger.as_mut().map(Stranger::let_go)) => Err(LinkError::LetGo),
            // Who is not believed any more is not waited for, either.
            _ = ready(distrusted.as_mut()) => return,
        };
        let preamble = match opened {
            Ok(preamble) => preamble,
            // A health check of TCP, or a scanner: not worth a line.
            Err(LinkError::Ended) => return,
            Err(error) => {
                self.metrics.link_refused();
                if let Some(omitted) = self.lines.line("preamble", std::time::Instant::now()) {
                    warn!(%from, %error, omitted, "a link was refused");
                }
                let text = b"this port takes links of Sidelane sidecars";
                let _ = timeout(PREFACE_LIMIT, stream.write_all(&goaway(text))).await;
                return;
            }
        };
        let lane = settings(preamble.lane);
        let greeting = Arc::new(Greeting {
            welcome: self.welcome.clone(),
            preamble,
            identity: leaf.as_ref().map(|leaf| leaf.id.clone()),
            signed_for: leaf.as_ref().and_then(|leaf| leaf.common_name.clone()),
            streams: lane.max_streams,
            peer: OnceLock::new(),
            said: Notify::new(),
            notice: self.notice(from),
        });
        let waiting = Arc::clone(&greeting);
        let intake = Arc::new(Intake::default());
        let terms = Terms {
            intake: Arc::clone(&intake),
            settings: &lane,
            headers: PEER_HEADER_LIST_LIMIT,
            resets: Resets::PEERS,
            leaves: None,
            pings: true,
            draining: self.draining.clone(),
            ends_at: Phase::Inbound,
            limit: async move {
                let said = timeout(HELLO_LIMIT, waiting.said.notified());
                tokio::select! {
                    biased;
                    said = said => if said.is_err() {
                        return ServeError::NoHello(HELLO_LIMIT);
                    },
                    () = ready(stranger.as_mut().map(Stranger::let_go)) => return ServeError::LetGo,
                }
                drop(stranger);
                super::server::no_limit().await
            },
            distrusted,
        };
        let counters = self
            .metrics
            .lane(preamble.class, preamble.lane, Side::Accepted);
        let _standing = counters.connection();
        let calls_of = OnceLock::new();
        let stream = Turns::new(stream, lane.turn, Some(Arc::clone(&counters))).bringing(intake);
        let served = serve(stream, terms, |request, respond| {
            // A call ends when its stream does, at the latest with the connection.
            match greeting.peer.get() {
                Some(peer) if request.uri().path() != HELLO_PATH => {
                    calls_of.get_or_init(|| self.calls_of(peer)).came();
                    let from = Connected::Peer(Arc::clone(peer), Arc::clone(&counters));
                    let answering = self.calls.handle(from, request, respond);
                    let open = counters.call();
                    tokio::spawn(async move {
                        answering.await;
                        drop(open);
                    });
                }
                _ => {
                    tokio::spawn(before_hello(Arc::clone(&greeting), request, respond));
                }
            }
        });
        let ended = served.await;
        if matches!(ended, Err(ServeError::NoHello(_) | ServeError::LetGo)) {
            self.metrics.link_refused();
        }
        if let Err(error) = ended {
            let node = greeting.peer.get().map(|peer| peer.node.to_string());
            debug!(%from, ?node, %error, "a link ended");
        }
    }

    /// By its identity, or by its node where the link is in the clear.
    fn calls_of(&self, peer: &Peer) -> Arc<PeerCalls> {
        let identity = peer.identity.as_ref().map(SpiffeId::as_str);
        let name = identity.unwrap_or(peer.node.as_str());
        self.metrics.peer(name, peer.class, peer.lane)
    }

    /// The link's stream, once its other end has proved what it must.
    async fn secured(&self, stream: TcpStream, from: SocketAddr) -> Option<(Wire, Option<Leaf>)> {
        match self.trust.accept(stream).await {
            Ok((stream, leaf)) => {
                self.proved(leaf.as_ref());
                Some((stream, leaf))
            }
            Err(refusal) => {
                self.unproved(&refusal, from);
                None
            }
        }
    }

    /// A connection that is not let in.
    pub(super) fn turned(&self, why: Turned, from: SocketAddr) {
        self.metrics.edge.turned(why);
        debug!(%from, reason = why.label(), "a connection was turned away");
    }

    /// Counts what a link has proved.
    pub(super) fn proved(&self, leaf: Option<&Leaf>) {
        let proofs = &self.metrics.trust;
        match leaf {
            Some(_) => proofs.proved(Side::Accepted),
            None if self.trust.is_certified() => proofs.plaintext(Side::Accepted),
            None => {}
        }
    }

    /// Counts a link that has not proved what it must.
    pub(super) fn unproved(&self, refusal: &Refusal, from: SocketAddr) {
        refused(&self.metrics, &self.lines, refusal, from);
    }

    /// Who says to be another node than its certificate's is counted and told as one that proves nothing.
    fn notice(&self, from: SocketAddr) -> Notice {
        let (metrics, lines) = (Arc::clone(&self.metrics), Arc::clone(&self.lines));
        Notice(Box::new(move |refusal| {
            refused(&metrics, &lines, refusal, from);
        }))
    }

    fn distrusted(&self, leaf: Leaf) -> Distrusted {
        let trust = self.trust.clone();
        Box::pin(async move {
            let refusal = trust.distrusted(&leaf).await;
            info!(id = %leaf.id, %refusal, "a link ends, its peer is not believed any more");
            refusal
        })
    }

    /// Reads what the link is for, and marks its socket so.
    async fn open(&self, stream: &mut Prefixed<Wire>) -> Result<Preamble, LinkError> {
        let seen = timeout(PREFACE_LIMIT, stream.peek(preamble::LENGTH))
            .await
            .map_err(|_| LinkError::TooSlow)??;
        let bytes: [u8; preamble::LENGTH] = match seen.try_into() {
            Ok(bytes) => bytes,
            Err(_) if seen.is_empty() => return Err(LinkError::Ended),
            Err(_) => {
                let mut begun = [0; 4];
                let shown = seen.len().min(4);
                begun[..shown].copy_from_slice(&seen[..shown]);
                return Err(PreambleError::Foreign(begun).into());
            }
        };
        let preamble = if bytes.starts_with(&preamble::HTTP2) {
            Preamble {
                class: self.class,
                lane: Lane::GENERAL,
            }
        } else {
            stream.consume();
            read_preamble(bytes).await?
        };
        if preamble.class != self.class {
            return Err(LinkError::Class {
                asked: preamble.class,
                own: self.class,
            });
        }
        let socket = stream.stream().socket();
        let v6 = socket.local_addr()?.is_ipv6();
        socket::mark(socket, v6, &settings(preamble.lane))?;
        Ok(preamble)
    }
}

/// Reads a preamble. A lane that is not known here may be in a moment: the pushed rule that brings
/// it reaches the two ends of a link one after the other.
async fn read_preamble(bytes: [u8; preamble::LENGTH]) -> Result<Preamble, PreambleError> {
    let until = Instant::now() + LANE_LIMIT;
    loop {
        match preamble::read(bytes) {
            Err(PreambleError::Lane(_)) if Instant::now() < until => sleep(LANE_PAUSE).await,
            read => return read,
        }
    }
}

/// Counts and tells a link that was refused for who is at its other end.
fn refused(metrics: &Metrics, lines: &Seldom, refusal: &Refusal, from: SocketAddr) {
    metrics.trust.refused(Side::Accepted, refusal);
    // A health check of TCP is not worth a line.
    if *refusal != Refusal::Ended {
        metrics.link_refused();
        let reason = refusal.label();
        if let Some(omitted) = lines.line(reason, std::time::Instant::now()) {
            warn!(%from, reason, error = %refusal, omitted, "a link was refused");
        }
    }
}

/// Answers what comes before the Hello: the Hello itself, and a refusal for everything else.
async fn before_hello(
    greeting: Arc<Greeting>,
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
) {
    let (parts, body) = request.into_parts();
    if parts.uri.path() == HELLO_PATH {
        let service = PeerServer::new(HelloService(greeting));
        if let Err(error) = http2::serve(service, parts, body, respond).await {
            debug!(%error, "a Hello could not be answered");
        }
        return;
    }
    let text = "a link begins with sidelane.peer.v1.Peer/Hello; call through your own sidecar";
    let (head, ()) = Status::failed_precondition(text)
        .into_http::<()>()
        .into_parts();
    let mut response = http::Response::from_parts(head, ());
    *response.version_mut() = http::Version::HTTP_2;
    let _ = respond.send_response(response, true);
}

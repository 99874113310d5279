//! The external listener, to which two kinds come: peer sidecars, by links as on any other, and users,
//! who speak gRPC over TLS and know nothing of a mesh. A peer says so in its handshake and must then
//! prove it; in the clear (trust mode `disabled`) its preamble says so. Whoever is no peer is a user,
//! and stays within the bounds of [`crate::edge`].

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::server::Acceptor;
use sidelane_identity::Refusal;
use sidelane_identity::tls::{self, ALPN, PEER};
use sidelane_identity::verify::Leaf;
use sidelane_proto::model::Lane;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tracing::{debug, info};

use super::inbound::Inbound;
use super::server::{Connected, Handle, Resets, ServeError, Terms, serve};
use super::sniff::{Prefixed, Spoken, goaway, http1};
use super::visit::Visit;
use crate::call::User;
use crate::drain::Phase;
use crate::edge::Edge;
use crate::edge::calm::{Budget, Calm, Noticed};
use crate::edge::doors::{Place, Waiting};
use crate::edge::leaving::Leaving;
use crate::lane::{HEADER_LIST_LIMIT, settings};
use crate::preamble::MAGIC;
use crate::socket;
use crate::telemetry::Turned;
use crate::trust::{HANDSHAKE_LIMIT, HANDSHAKE_RECORD, Wire};
use crate::turns::{Intake, Turns};

/// How long somebody may take to begin as a peer does, and to prove it, where there is room for peers
/// alone.
const PLEA_LIMIT: Duration = Duration::from_secs(2);
/// How long it may take to tell somebody that this port is not what it looks for.
const TURN_AWAY_LIMIT: Duration = Duration::from_secs(1);

/// Who has come, and by what.
enum Came {
    Peer(Prefixed<Wire>, Option<Leaf>),
    User(Prefixed<Wire>),
}

/// Why somebody cannot stay.
enum Unwelcome {
    /// A peer that cannot prove who it is.
    Peer(Refusal),
    /// A user's handshake.
    User(Refusal),
    /// A user, while there is room for peers alone.
    Full,
}

/// For whom there is room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Room {
    All,
    Peers,
}

impl<Calls: Handle> Inbound<Calls> {
    /// A connection to the external listener.
    pub(super) async fn enters(
        self,
        edge: Arc<Edge>,
        (stream, from): (TcpStream, SocketAddr),
        place: Place,
    ) {
        let came = timeout(HANDSHAKE_LIMIT, self.who(&edge, stream, Room::All)).await;
        match came.unwrap_or(Err(Unwelcome::User(Refusal::TooSlow))) {
            Ok(Came::Peer(stream, leaf)) => {
                // Who has proved who it is counts among links alone; who only says so keeps its place
                // among those that come in from outside as well.
                let _place = leaf.is_none().then_some(place);
                self.proved(leaf.as_ref());
                self.linked(stream, leaf, from, None).await;
            }
            Ok(Came::User(stream)) => self.user(&edge, stream, from).await,
            Err(Unwelcome::Peer(refusal)) => self.unproved(&refusal, from),
            Err(Unwelcome::User(refusal)) => {
                let turned = Turned::of_handshake(&refusal);
                self.metrics.edge.turned(turned);
                let reason = turned.label();
                let now = std::time::Instant::now();
                let omitted = turned.line().and_then(|kind| self.lines.line(kind, now));
                match omitted {
                    Some(omitted) => {
                        info!(%from, reason, error = %refusal, omitted, "a user's handshake failed");
                    }
                    None => debug!(%from, reason, error = %refusal, "a user's handshake failed"),
                }
            }
            Err(Unwelcome::Full) => {}
        }
    }

    /// A connection for which the doors are full. Users fill them, and peers must get in all the same:
    /// it has a short time to begin as a peer does, and otherwise goes unserved.
    pub(super) async fn pleads(
        self,
        edge: Arc<Edge>,
        (stream, from): (TcpStream, SocketAddr),
        waiting: Waiting,
        why: Turned,
    ) {
        let came = timeout(PLEA_LIMIT, self.who(&edge, stream, Room::Peers)).await;
        match came {
            Ok(Ok(Came::Peer(stream, leaf))) => {
                self.metrics.connection();
                let _place = leaf.is_none().then_some(waiting);
                self.proved(leaf.as_ref());
                self.linked(stream, leaf, from, None).await;
            }
            Ok(Err(Unwelcome::Peer(refusal))) => self.unproved(&refusal, from),
            Ok(Ok(Came::User(_)) | Err(_)) | Err(_) => self.turned(why, from),
        }
    }

    /// Tells who has come by what is sent first.
    async fn who(&self, edge: &Edge, stream: TcpStream, room: Room) -> Result<Came, Unwelcome> {
        let broke = |error| Unwelcome::User(Refusal::of_io(&error));
        let mut first = [0];
        if stream.peek(&mut first).await.map_err(broke)? == 0 {
            return Err(Unwelcome::User(Refusal::Ended));
        }
        let mesh = self.trust.server();
        let shown = edge.tls.as_ref().map(tls_of);
        if first[0] == HANDSHAKE_RECORD && (mesh.is_some() || shown.is_some()) {
            return self.by_tls(edge, stream, room).await;
        }
        let stream = Prefixed::new(Wire::Plain(stream));
        let shown = (mesh.is_some(), shown.is_some());
        self.in_the_clear(stream, shown, room).await
    }

    /// Who has come without TLS. Where users are shown a certificate and peers have theirs, nobody may:
    /// this port is open to all, and whoever says a preamble in the clear would speak as a peer. A link
    /// in the clear is taken only where the trust mode wants it: in `disabled`, where no link proves
    /// anything, and in `permissive` while no users come by TLS.
    async fn in_the_clear(
        &self,
        mut stream: Prefixed<Wire>,
        (certified, shown): (bool, bool),
        room: Room,
    ) -> Result<Came, Unwelcome> {
        let broke = |error| Unwelcome::User(Refusal::of_io(&error));
        let links = !(self.trust.is_strict() || certified && shown);
        match stream.spoken().await.map_err(broke)? {
            Spoken::Nothing => return Err(Unwelcome::User(Refusal::Ended)),
            Spoken::Http2 if !certified && !shown && room == Room::All => {
                return Ok(Came::User(stream));
            }
            Spoken::Garbage if links => {
                if stream.peek(MAGIC.len()).await.map_err(broke)? == MAGIC {
                    return Ok(Came::Peer(stream, None));
                }
                turn_away(&mut stream, Spoken::Garbage).await;
            }
            _ if room == Room::Peers => return Err(Unwelcome::Full),
            spoken => turn_away(&mut stream, spoken).await,
        }
        Err(if self.trust.is_strict() && !shown {
            Unwelcome::Peer(Refusal::NotTls)
        } else {
            Unwelcome::User(Refusal::NotTls)
        })
    }

    async fn by_tls(&self, edge: &Edge, stream: TcpStream, room: Room) -> Result<Came, Unwelcome> {
        let mesh = self.trust.server();
        let shown = edge.tls.as_ref().map(tls_of);
        let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await;
        let begun = begun.map_err(|error| Unwelcome::User(Refusal::of_io(&error)))?;
        let offers = begun.client_hello();
        let peer = offers
            .alpn()
            .is_some_and(|mut names| names.any(|name| name == PEER));
        if room == Room::Peers && !peer {
            return Err(Unwelcome::Full);
        }
        match (mesh, shown) {
            (Some(mesh), shown) if peer || shown.is_none() => {
                let stream = begun.into_stream(Arc::clone(mesh)).await;
                let stream = stream.map_err(|error| Unwelcome::Peer(Refusal::of_io(&error)))?;
                let leaf = tls::peer(stream.get_ref().1).map_err(Unwelcome::Peer)?;
                let stream = Wire::Tls(Box::new(stream.into()));
                Ok(Came::Peer(Prefixed::new(stream), leaf))
            }
            (_, Some(shown)) => {
                let stream = begun.into_stream(shown).await;
                let stream = stream.map_err(|error| Unwelcome::User(Refusal::of_io(&error)))?;
                let agreed = stream.get_ref().1.alpn_protocol() == Some(ALPN);
                let mut stream = Prefixed::new(Wire::Tls(Box::new(stream.into())));
                if !agreed {
                    // It has named no protocol at all; who speaks HTTP/1.1 is told what is missing.
                    if let Ok(Ok(spoken)) = timeout(TURN_AWAY_LIMIT, stream.spoken()).await {
                        turn_away(&mut stream, spoken).await;
                    }
                    return Err(Unwelcome::User(Refusal::Alpn));
                }
                Ok(Came::User(stream))
            }
            (_, None) => Err(Unwelcome::User(Refusal::NotTls)),
        }
    }

    /// A user's connection of calls.
    async fn user(self, edge: &Edge, mut stream: Prefixed<Wire>, from: SocketAddr) {
        let counters = &self.metrics.edge;
        let visit = Visit::begun();
        let spoken = timeout(crate::edge::FIRST_REQUEST_LIMIT, stream.spoken()).await;
        match spoken {
            Ok(Ok(Spoken::Http2)) => {}
            Ok(Ok(Spoken::Nothing) | Err(_)) => return,
            Ok(Ok(other)) => {
                counters.turned(Turned::NotHttp2);
                turn_away(&mut stream, other).await;
                return;
            }
            Err(_) => return counters.turned(Turned::NoRequest),
        }
        let lane = settings(Lane::INGRESS_DATA);
        let socket = stream.stream().socket();
        let marked = socket
            .local_addr()
            .and_then(|own| socket::mark(socket, own.is_ipv6(), &lane));
        if let Err(error) = marked {
            return debug!(%from, %error, "a user's socket could not be set up");
        }
        let _standing = counters.stands();
        let noticed = Arc::new(Noticed::default());
        let settings = edge.settings();
        let intake = Arc::new(Intake::default());
        let terms = Terms {
            intake: Arc::clone(&intake),
            settings: &settings,
            headers: HEADER_LIST_LIMIT,
            resets: Resets::USERS,
            pings: true,
            draining: self.draining.clone(),
            ends_at: Phase::Inbound,
            limit: {
                let (visit, noticed) = (Arc::clone(&visit), Arc::clone(&noticed));
                async move {
                    tokio::select! {
                        ended = visit.ended() => ended,
                        flood = noticed.flood() => ServeError::Flood(flood),
                    }
                }
            },
            distrusted: None,
            leaves: Some(Box::pin(
                Arc::clone(&visit).over(edge.limits.idle, fastrand::f64()),
            )),
        };
        let user = User::at(from.ip());
        let stream = Turns::new(stream, settings.turn, None).bringing(intake);
        let leaving = Arc::new(Leaving::default());
        let stream = Calm::new(stream, Budget::USERS, noticed, Arc::clone(&leaving));
        let served = serve(stream, terms, |request, respond| {
            leaving.begun(respond.stream_id().as_u32());
            let connected = Connected::User(user, Arc::clone(&leaving));
            let answering = self.calls.handle(connected, request, respond);
            let open = visit.call();
            tokio::spawn(async move {
                answering.await;
                drop(open);
            });
        });
        let served = served.await;
        leaving.over();
        match served {
            Ok(()) => {}
            Err(error) => {
                match &error {
                    ServeError::Flood(_) => {
                        counters.turned(Turned::Flood);
                        if let Some(omitted) = self.lines.line("flood", std::time::Instant::now()) {
                            info!(%from, %error, omitted, "a user's connection was ended");
                        }
                    }
                    ServeError::NoRequest(_) | ServeError::TooSlow => {
                        counters.turned(Turned::NoRequest);
                    }
                    ServeError::Silent(_) => counters.turned(Turned::Silent),
                    ServeError::Http2(error) if error.is_library() => {
                        counters.turned(Turned::Protocol);
                    }
                    _ => {}
                }
                debug!(%from, %error, "a user's connection ended");
            }
        }
    }
}

/// Says in a word, and in the connection's own protocol, what this port speaks, and ends it. Nothing is
/// said of the mesh.
async fn turn_away(stream: &mut Prefixed<Wire>, spoken: Spoken) {
    let answer = match spoken {
        Spoken::Http1 | Spoken::Absolute | Spoken::Connect => http1(
            "505 HTTP Version Not Supported",
            "This port speaks gRPC, which is HTTP/2, and where it has a certificate, over TLS.\n",
        ),
        Spoken::Http2 | Spoken::Garbage => goaway(b"this port speaks gRPC over TLS"),
        Spoken::Tls | Spoken::Nothing => return,
    };
    let said = async {
        stream.write_all(&answer).await?;
        stream.shutdown().await
    };
    // Who does not even take that is left.
    let _ = timeout(TURN_AWAY_LIMIT, said).await;
}

fn tls_of(shown: &crate::edge::tls::Shown) -> Arc<rustls::ServerConfig> {
    Arc::clone(shown.config())
}

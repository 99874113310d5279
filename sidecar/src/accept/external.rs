//! The external listener, to which two kinds come: peer sidecars, by links as on any other, and users,
//! who speak gRPC over TLS and know nothing of a mesh. A peer says so in its handshake and must then
//! prove it; in the clear (trust mode `disabled`) its preamble says so. Whoever is no peer is a user,
//! and stays within the bounds of [`crate::edge`].

use std::net::SocketAddr;
use std::sync::Arc;

use rustls::server::Acceptor;
use sidelane_identity::Refusal;
use sidelane_identity::tls::{self, ALPN, PEER};
use sidelane_identity::verify::Leaf;
use sidelane_proto::model::Lane;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::LazyConfigAcceptor;
use tracing::{debug, info};

use super::inbound::Inbound;
use super::server::{Connected, Handle, Resets, ServeError, Terms, serve};
use super::sniff::{Prefixed, Spoken, refuse};
use super::visit::Visit;
use crate::call::User;
use crate::drain::Phase;
use crate::edge::Edge;
use crate::edge::calm::{Budget, Calm, Noticed};
use crate::edge::doors::Place;
use crate::lane::{HEADER_LIST_LIMIT, settings};
use crate::preamble;
use crate::socket;
use crate::telemetry::Turned;
use crate::trust::{HANDSHAKE_LIMIT, HANDSHAKE_RECORD, Wire};
use crate::turns::Turns;

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
}

impl<Calls: Handle> Inbound<Calls> {
    /// A connection to the external listener.
    pub(super) async fn enters(
        self,
        edge: Arc<Edge>,
        (stream, from): (TcpStream, SocketAddr),
        place: Place,
    ) {
        let came = timeout(HANDSHAKE_LIMIT, self.who(&edge, stream)).await;
        match came.unwrap_or(Err(Unwelcome::User(Refusal::TooSlow))) {
            Ok(Came::Peer(stream, leaf)) => {
                // Who has proved who it is counts among links alone; who only says so keeps its place
                // among those that come in from outside as well.
                let _place = leaf.is_none().then_some(place);
                self.proved(leaf.as_ref());
                self.linked(stream, leaf, from).await;
            }
            Ok(Came::User(stream)) => self.user(&edge, stream, from).await,
            Err(Unwelcome::Peer(refusal)) => self.unproved(&refusal, from),
            Err(Unwelcome::User(refusal)) => {
                self.metrics.edge.turned(Turned::Tls);
                let reason = refusal.label();
                debug!(%from, reason, error = %refusal, "a user's handshake failed");
            }
        }
    }

    /// Tells who has come by what is sent first.
    async fn who(&self, edge: &Edge, stream: TcpStream) -> Result<Came, Unwelcome> {
        let broke = |error| Unwelcome::User(Refusal::of_io(&error));
        let mut first = [0];
        if stream.peek(&mut first).await.map_err(broke)? == 0 {
            return Err(Unwelcome::User(Refusal::Ended));
        }
        let mesh = self.trust.server();
        let shown = edge.tls.as_ref().map(tls_of);
        if first[0] == HANDSHAKE_RECORD && (mesh.is_some() || shown.is_some()) {
            return self.by_tls(edge, stream).await;
        }
        if self.trust.is_strict() {
            return Err(if shown.is_some() {
                Unwelcome::User(Refusal::NotTls)
            } else {
                Unwelcome::Peer(Refusal::NotTls)
            });
        }
        let mut stream = Prefixed::new(Wire::Plain(stream));
        let begun = stream.peek(preamble::HTTP2.len()).await.map_err(broke)?;
        if begun != preamble::HTTP2 {
            return Ok(Came::Peer(stream, None));
        }
        // In the clear a user comes only where everything is.
        if mesh.is_some() || shown.is_some() {
            return Err(Unwelcome::User(Refusal::NotTls));
        }
        Ok(Came::User(stream))
    }

    async fn by_tls(&self, edge: &Edge, stream: TcpStream) -> Result<Came, Unwelcome> {
        let mesh = self.trust.server();
        let shown = edge.tls.as_ref().map(tls_of);
        let begun = LazyConfigAcceptor::new(Acceptor::default(), stream).await;
        let begun = begun.map_err(|error| Unwelcome::User(Refusal::of_io(&error)))?;
        let offers = begun.client_hello();
        let peer = offers
            .alpn()
            .is_some_and(|mut names| names.any(|name| name == PEER));
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
                if stream.get_ref().1.alpn_protocol() != Some(ALPN) {
                    return Err(Unwelcome::User(Refusal::Alpn));
                }
                let stream = Wire::Tls(Box::new(stream.into()));
                Ok(Came::User(Prefixed::new(stream)))
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
                let _ = timeout(HANDSHAKE_LIMIT, refuse(&mut stream, other)).await;
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
        let terms = Terms {
            settings: &settings,
            headers: HEADER_LIST_LIMIT,
            resets: Resets::USERS,
            pings: false,
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
        let stream = Turns::new(stream, settings.turn, None);
        let stream = Calm::new(stream, Budget::USERS, noticed);
        let served = serve(stream, terms, |request, respond| {
            let answering = self.calls.handle(Connected::User(user), request, respond);
            let open = visit.call();
            tokio::spawn(async move {
                answering.await;
                drop(open);
            });
        });
        match served.await {
            Ok(()) => {}
            Err(error) => {
                match &error {
                    ServeError::Flood(_) => {
                        counters.turned(Turned::Flood);
                        info!(%from, %error, "a user's connection was ended");
                    }
                    ServeError::NoRequest(_) | ServeError::TooSlow => {
                        counters.turned(Turned::NoRequest);
                    }
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

fn tls_of(shown: &crate::edge::tls::Shown) -> Arc<rustls::ServerConfig> {
    Arc::clone(shown.config())
}

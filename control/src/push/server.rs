//! The gRPC service: opens a session for each stream and hands it over to a task of its own, so
//! that a sidecar that reads slowly is still listened to.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};

use sidelane_proto::codec::Compact;
use sidelane_proto::model::ProtocolRange;
use sidelane_proto::wire::control::v1::membership_server;
use sidelane_proto::wire::control::v1::{SyncRequest, SyncResponse};
use tokio::sync::{mpsc, watch};
use tonic::codec::Codec;
use tonic::codegen::http;
use tonic::metadata::GRPC_CONTENT_TYPE;
use tonic::server::NamedService;
use tonic::{Status, Streaming};
use tower_service::Service;
use tracing::Instrument;

use super::counters::Counters;
use super::directory::Directory;
use super::responses::Responses;
use super::session;
use crate::ca::Trust;
use crate::claim::{Claims, StreamId};
use crate::drain::Drain;
use crate::peer::Peer;
use crate::registry::{Registry, Terms};

/// The versions of the membership protocol that are spoken here.
pub const PROTOCOL: ProtocolRange = ProtocolRange {
    oldest: 1,
    newest: 1,
};
/// Messages between a session and its connection: an update and a heartbeat. More would only be
/// older news by the time they are sent.
const OUTGOING_LIMIT: usize = 2;

/// The largest message that is read, in bytes. A Hello with all the offers that a node may make, and
/// a rule of a kilobyte in each, fits, and an Ack that refuses all rules that may be applied.
pub const MESSAGE_LIMIT: usize = 24 << 20;

/// The one method.
const SYNC: &str = "Sync";

/// The membership service.
#[derive(Debug)]
pub struct Membership {
    /// What is told.
    pub registry: Registry,
    /// Who decides on claims.
    pub claims: Claims,
    /// The open sessions.
    pub directory: Arc<Directory>,
    /// Figures.
    pub counters: Arc<Counters>,
    /// The end.
    pub drain: Arc<Drain>,
    /// The times of a lease.
    pub terms: Terms,
    /// What sidecars are told of trust; `None` in trust mode `disabled`.
    pub trust: Option<watch::Receiver<Arc<Trust>>>,
    /// Certificates are another authority's, which names identities and no nodes.
    pub certified_elsewhere: bool,
    streams: AtomicU64,
}

impl Membership {
    /// A service without sessions.
    #[must_use]
    pub fn new(
        registry: Registry,
        claims: Claims,
        directory: Arc<Directory>,
        counters: Arc<Counters>,
        drain: Arc<Drain>,
        terms: Terms,
        trust: Option<watch::Receiver<Arc<Trust>>>,
    ) -> Self {
        Self {
            registry,
            claims,
            directory,
            counters,
            drain,
            terms,
            trust,
            certified_elsewhere: false,
            streams: AtomicU64::new(1),
        }
    }

    /// Says whether another authority signs.
    #[must_use]
    pub fn certified_elsewhere(mut self, elsewhere: bool) -> Self {
        self.certified_elsewhere = elsewhere;
        self
    }
}

/// The service, ready to be served.
pub(crate) fn service(membership: Membership) -> Served {
    Served(Arc::new(membership))
}

/// The service as HTTP/2 wants it: shared by all connections. Not the generated one, whose answers
/// go through tonic's encoder (`responses` says why that matters).
#[derive(Debug, Clone)]
pub(crate) struct Served(Arc<Membership>);

impl NamedService for Served {
    const NAME: &'static str = membership_server::SERVICE_NAME;
}

impl Service<http::Request<tonic::body::Body>> for Served {
    type Response = http::Response<tonic::body::Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<tonic::body::Body>) -> Self::Future {
        let method = request.uri().path().rsplit('/').next();
        std::future::ready(Ok(match method {
            Some(SYNC) => self.sync(request),
            _ => Status::unimplemented("Membership has one method, Sync").into_http(),
        }))
    }
}

impl Served {
    fn sync(&self, request: http::Request<tonic::body::Body>) -> http::Response<tonic::body::Body> {
        let stream = StreamId(self.0.streams.fetch_add(1, Ordering::Relaxed));
        let (head, body) = request.into_parts();
        let peer = head.extensions.get::<Peer>().cloned();
        let address = peer.as_ref().map(|peer| peer.address);
        let span = tracing::debug_span!("session", stream = stream.0, peer = ?address);
        let decoder = Compact::<SyncResponse, SyncRequest>::default().decoder();
        let requests = Streaming::new_request(decoder, body, None, Some(MESSAGE_LIMIT));
        let (outgoing, responses) = mpsc::channel(OUTGOING_LIMIT);
        let run = session::run(
            Arc::clone(&self.0),
            stream,
            peer,
            requests,
            outgoing,
            self.0.drain.watch(),
        );
        // Owned by the drain: it is not over while the session's watch lives.
        tokio::spawn(run.instrument(span));
        let body = tonic::body::Body::new(Responses::new(responses));
        let mut answer = http::Response::new(body);
        let headers = answer.headers_mut();
        headers.insert(http::header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
        answer
    }
}

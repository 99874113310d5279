//! The gRPC service: opens a session for each stream and hands it over to a task of its own, so
//! that a sidecar that reads slowly is still listened to.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sidelane_proto::model::ProtocolRange;
use sidelane_proto::model::snapshot::UPDATE_BYTES_LIMIT;
use sidelane_proto::wire::control::v1::membership_server;
use sidelane_proto::wire::control::v1::{SyncRequest, SyncResponse};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::adapters::Map;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::Instrument;

use super::counters::Counters;
use super::directory::Directory;
use super::outgoing::Outgoing;
use super::session;
use crate::claim::{Claims, StreamId};
use crate::drain::Drain;
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
    ) -> Self {
        Self {
            registry,
            claims,
            directory,
            counters,
            drain,
            terms,
            streams: AtomicU64::new(1),
        }
    }
}

/// The service, ready to be served.
pub(crate) fn service(
    membership: Membership,
) -> membership_server::MembershipServer<impl membership_server::Membership> {
    membership_server::MembershipServer::new(Served(Arc::new(membership)))
        .max_decoding_message_size(MESSAGE_LIMIT)
        .max_encoding_message_size(UPDATE_BYTES_LIMIT)
}

/// The service as tonic wants it: shared by all connections.
#[derive(Debug, Clone)]
struct Served(Arc<Membership>);

type IntoResponse = fn(Outgoing) -> Result<SyncResponse, Status>;

#[tonic::async_trait]
impl membership_server::Membership for Served {
    type SyncStream = Map<ReceiverStream<Outgoing>, IntoResponse>;

    async fn sync(
        &self,
        request: Request<Streaming<SyncRequest>>,
    ) -> Result<Response<Self::SyncStream>, Status> {
        let stream = StreamId(self.0.streams.fetch_add(1, Ordering::Relaxed));
        let peer = request.extensions().get::<std::net::SocketAddr>().copied();
        let span = tracing::debug_span!("session", stream = stream.0, peer = ?peer);
        let (outgoing, responses) = mpsc::channel(OUTGOING_LIMIT);
        let draining = self.0.drain.watch();
        let run = session::run(
            Arc::clone(&self.0),
            stream,
            request.into_inner(),
            outgoing,
            draining,
        );
        // Owned by the drain: it is not over while the session's watch lives.
        tokio::spawn(run.instrument(span));
        let into_response: IntoResponse = Outgoing::into_response;
        let responses = ReceiverStream::new(responses).map(into_response);
        Ok(Response::new(responses))
    }
}

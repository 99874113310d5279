//! New connections to the callee's proxy of a pair in mTLS: each is dialled as a peer would, makes a
//! full handshake and one call, and ends. What a proxy pays for who comes anew, where the other loads
//! measure what it pays for who is there.

use anyhow::{Context as _, Result};
use bytes::{BufMut as _, Bytes, BytesMut};
use prost::Message as _;
use rustls::pki_types::ServerName;
use sidelane_proto::model::{ConnectionClass, Lane};
use sidelane_proto::wire::control::v1::VersionRange;
use sidelane_proto::wire::peer::v1::HelloRequest;
use sidelane_sidecar::preamble;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;
use tokio::io::AsyncWriteExt as _;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;

use crate::call::{self, CallError};
use crate::http2;
use crate::load::{Outcome, Shared, join_unless_stalled};
use crate::mesh::node;
use crate::message::EchoCall;
use crate::pair::Pair;
use crate::tls::{self, End};

/// Connections being made at once: enough that neither side waits for the other.
const AT_ONCE: usize = 8;

/// The first call on a link between sidecars.
const HELLO: &str = "/sidelane.peer.v1.Peer/Hello";

/// Dials the callee's proxy of one pair.
pub(crate) struct Dialler {
    target: SocketAddr,
    connector: TlsConnector,
    name: ServerName<'static>,
    /// What a link between sidecars says before its first call.
    opening: Option<([u8; preamble::LENGTH], EchoCall)>,
    call: EchoCall,
}

impl Dialler {
    /// Of this pair; `None` where it is in the clear. Each connection makes one call with `frame`.
    pub(crate) fn of(pair: &Pair, frame: &Bytes) -> Result<Option<Arc<Self>>> {
        let Some((target, certificates)) = &pair.callee else {
            return Ok(None);
        };
        let mut opening = None;
        if pair.kind.is_sidelane() {
            let preamble = preamble::write(ConnectionClass::Internal, Lane::GENERAL);
            let hello = EchoCall::new(*target, framed(&hello()))?.at_path(HELLO)?;
            opening = Some((preamble, hello));
        }
        Ok(Some(Arc::new(Self {
            target: *target,
            connector: certificates.connector(End::Dialler)?,
            name: tls::name(End::Callee)?,
            opening,
            call: EchoCall::new(*target, frame.clone())?,
        })))
    }

    async fn connect(&self) -> Result<call::Sender, CallError> {
        let secured = async {
            let stream = http2::dial(self.target).await?;
            let mut stream = self.connector.connect(self.name.clone(), stream).await?;
            if let Some((preamble, _)) = &self.opening {
                stream.write_all(preamble).await?;
            }
            http2::over(stream).await
        };
        secured
            .await
            .map_err(|error: io::Error| CallError::Connect(error))
    }

    /// One connection from its socket to the answer of its only call.
    async fn visit(&self) -> Result<(), CallError> {
        let mut sender = self.connect().await?;
        if let Some((_, hello)) = &self.opening {
            call::accept(&mut sender, hello).await?;
        }
        call::make(&mut sender, &self.call).await
    }
}

/// Makes so many connections, one after the other in each of [`AT_ONCE`] rows.
pub(crate) async fn run(dialler: &Arc<Dialler>, connections: u64) -> Result<Outcome> {
    let shared = Shared::new(connections)?;
    let start = Instant::now();
    let mut rows = JoinSet::new();
    for _ in 0..AT_ONCE {
        let (dialler, shared) = (Arc::clone(dialler), Arc::clone(&shared));
        rows.spawn(async move {
            while shared.take() {
                let begun = Instant::now();
                let result = dialler.visit().await;
                shared.count(result, begun.elapsed());
            }
        });
    }
    join_unless_stalled(&mut rows, &shared, connections).await?;
    let outcome = shared.outcome(connections, start.elapsed());
    outcome.context("new connections")
}

/// Says that it is a node that nobody has heard of, which a certificate of the mesh is enough for.
fn hello() -> HelloRequest {
    HelloRequest {
        node_id: node(End::Dialler),
        generation: 1,
        expected_node_id: node(End::Callee),
        // Any that is not later than the callee's own.
        expected_generation: 1,
        connection: ConnectionClass::Internal.spoken().0,
        lane_id: Lane::GENERAL.id().into(),
        lane: Lane::GENERAL.name().to_owned(),
        protocol: Some(VersionRange {
            oldest: 1,
            newest: 1,
        }),
        build: env!("CARGO_PKG_VERSION").to_owned(),
        ..HelloRequest::default()
    }
}

fn framed(message: &HelloRequest) -> Bytes {
    let message = message.encode_to_vec();
    let mut frame = BytesMut::with_capacity(message.len() + 5);
    frame.put_u8(0);
    // A few names of a few letters.
    frame.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    frame.extend_from_slice(&message);
    frame.freeze()
}

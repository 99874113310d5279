//! Dials: a socket with its lane's marks, the preamble, HTTP/2 with its lane's settings, and the
//! Hello. Whatever goes wrong on the way has a name. TLS goes between the socket and the preamble:
//! everything above takes any byte stream.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use h2::client::{Connection, SendRequest};
use sidelane_identity::Refusal;
use sidelane_identity::verify::Leaf;
use sidelane_proto::model::{
    ConnectionClass, Generation, Lane, NodeId, PeerAddress, ProtocolRange,
};
use sidelane_proto::wire::peer::v1::peer_client::PeerClient;
use sidelane_proto::wire::peer::v1::{HelloRequest, HelloResponse};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use super::key::{Address, Key, To};
use super::link::CloseCause;
use crate::dial;
use crate::http2::Transport;
use crate::identity::Own;
use crate::kin::Kinship;
use crate::lane::{
    ERROR_RESETS, HEADER_LIST_LIMIT, LaneSettings, REMEMBER_RESETS, REMEMBERED_RESETS,
};
use crate::onward::{Onward, OnwardError, Open};
use crate::preamble;
use crate::socket;
use crate::telemetry::{LaneCounters, Side, TrustCounters};
use crate::trust::{self, Trust, Wire};
use crate::turns::Turns;

/// The longest time for a socket to connect.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// The longest wait for the answer to a Hello.
const HELLO_LIMIT: Duration = Duration::from_secs(3);
/// The versions of the peer protocol that this program speaks.
pub const PEER_PROTOCOL: ProtocolRange = ProtocolRange {
    oldest: 1,
    newest: 1,
};

/// Either kind of byte stream.
pub(super) trait Bidirectional: AsyncRead + AsyncWrite + Unpin + Send {}
impl<Stream: AsyncRead + AsyncWrite + Unpin + Send> Bidirectional for Stream {}

/// The half of a connection that must be driven.
pub(super) type Driver = Connection<Turns<Box<dyn Bidirectional>>, Bytes>;

/// A connection before its Hello.
pub(super) struct Opened {
    pub(super) sender: SendRequest<Bytes>,
    pub(super) driver: Driver,
    pub(super) local: Option<SocketAddr>,
    pub(super) remote: Option<SocketAddr>,
    /// What the other end has proved.
    pub(super) proved: Option<Leaf>,
    /// Where it is TCP: should it be redirected back here, it is known by this.
    pub(super) open: Option<Open>,
}

/// Why there is no connection. The call that asked for it was not sent.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The name has no address.
    #[error("the name in {address} has no address: {source}")]
    Resolve {
        /// What was dialled.
        address: String,
        /// What the resolver said.
        source: io::Error,
    },
    /// The socket was refused.
    #[error("{address} does not answer: {source}")]
    Refused {
        /// What was dialled.
        address: String,
        /// What the system said.
        source: io::Error,
    },
    /// Nothing came back.
    #[error("{address} did not answer within {} ms", limit.as_millis())]
    TooSlow {
        /// What was dialled.
        address: String,
        /// How long was waited.
        limit: Duration,
    },
    /// A destination outside the mesh is not to be had.
    #[error("{0}")]
    Onward(#[from] OnwardError),
    /// The other side speaks no HTTP/2.
    #[error("{address} speaks no HTTP/2: {source}")]
    Http2 {
        /// What was dialled.
        address: String,
        /// What h2 said.
        source: h2::Error,
    },
    /// Who answered cannot prove to be who was meant.
    #[error("{address} is not believed ({}): {refusal}", refusal.label())]
    Distrusted {
        /// What was dialled.
        address: String,
        /// Why not.
        refusal: Refusal,
    },
    /// The peer refused the Hello.
    #[error("{address} refused the link: {text}")]
    Hello {
        /// What was dialled.
        address: String,
        /// What the peer said.
        text: String,
    },
    /// The connection ended before the Hello was answered.
    #[error("{address} ended the connection before it answered: {cause}")]
    Ended {
        /// What was dialled.
        address: String,
        /// How it ended.
        cause: CloseCause,
    },
    /// The node has started anew since control last told of it.
    #[error("{address} has generation {found} by now, {meant} was meant")]
    Newer {
        /// What was dialled.
        address: String,
        /// The generation that was meant.
        meant: Generation,
        /// The generation that answered.
        found: Generation,
    },
    /// Somebody else answered.
    #[error("{address} is not who was meant: wanted {wanted}, found {found}")]
    WrongPeer {
        /// What was dialled.
        address: String,
        /// Who was meant.
        wanted: String,
        /// Who answered.
        found: String,
    },
}

impl ConnectError {
    /// Does it lead back to this sidecar?
    #[must_use]
    pub fn is_loop(&self) -> bool {
        matches!(self, Self::Onward(error) if error.is_loop())
    }
}

/// Connects, up to HTTP/2. `counters` are those of the lane, where it has any here.
pub(super) async fn open(
    key: &Key,
    address: &Address,
    settings: &LaneSettings,
    onward: &Onward,
    (counters, trust, proofs): (Option<Arc<LaneCounters>>, &Trust, &TrustCounters),
) -> Result<Opened, ConnectError> {
    let shown = address.to_string();
    let slow = || ConnectError::TooSlow {
        address: shown.clone(),
        limit: CONNECT_LIMIT,
    };
    let mut opened = None;
    let mut proved = None;
    let (mut stream, local, remote): (Box<dyn Bidirectional>, _, _) = match address {
        Address::Tcp(destination) if matches!(key.to, To::Destination(_)) => {
            let (stream, open) = onward.dial(destination).await?;
            opened = Some(open);
            let (local, remote) = (stream.local_addr().ok(), stream.peer_addr().ok());
            (Box::new(stream), local, remote)
        }
        Address::Tcp(peer) | Address::Peer(peer, _) => {
            let marked = matches!(key.to, To::Peer { .. }).then_some(settings);
            let stream = timeout(CONNECT_LIMIT, dial_tcp(peer, marked))
                .await
                .map_err(|_| slow())??;
            let (local, remote) = (stream.local_addr().ok(), stream.peer_addr().ok());
            opened = local
                .zip(remote)
                .map(|(local, remote)| onward.opened(local, remote));
            let stream = match address {
                Address::Peer(_, identity) => {
                    let secured = trust.connect(stream, identity.as_ref()).await;
                    counted(proofs, trust, &secured);
                    let (stream, leaf) = secured.map_err(|refusal| ConnectError::Distrusted {
                        address: shown.clone(),
                        refusal,
                    })?;
                    proved = leaf;
                    stream
                }
                _ => Wire::Plain(stream),
            };
            (Box::new(stream), local, remote)
        }
        Address::Unix(path) => {
            let stream = timeout(CONNECT_LIMIT, UnixStream::connect(path))
                .await
                .map_err(|_| slow())?
                .map_err(|source| ConnectError::Refused {
                    address: shown.clone(),
                    source,
                })?;
            (Box::new(stream), None, None)
        }
        Address::Pipe(opener) => {
            let stream = timeout(CONNECT_LIMIT, opener.open())
                .await
                .map_err(|_| slow())?
                .map_err(|source| ConnectError::Refused {
                    address: shown.clone(),
                    source,
                })?;
            (Box::new(stream), None, None)
        }
    };
    if let To::Peer { .. } = key.to {
        stream
            .write_all(&preamble::write(key.class, key.lane))
            .await
            .map_err(|source| ConnectError::Refused {
                address: shown.clone(),
                source,
            })?;
    }
    let stream = Turns::new(stream, settings.turn, counters);
    let handshake = timeout(CONNECT_LIMIT, builder(settings).handshake(stream));
    let (sender, driver) =
        handshake
            .await
            .map_err(|_| slow())?
            .map_err(|source| ConnectError::Http2 {
                address: shown.clone(),
                source,
            })?;
    Ok(Opened {
        sender,
        driver,
        local,
        remote,
        proved,
        open: opened,
    })
}

fn counted(proofs: &TrustCounters, trust: &Trust, secured: &Result<trust::Opened, Refusal>) {
    match secured {
        Ok((_, Some(_))) => proofs.proved(Side::Dialled),
        Ok((_, None)) if trust.is_certified() => proofs.plaintext(Side::Dialled),
        Ok(_) => {}
        Err(refusal) => proofs.refused(Side::Dialled, refusal),
    }
}

async fn dial_tcp(
    address: &PeerAddress,
    marked: Option<&LaneSettings>,
) -> Result<TcpStream, ConnectError> {
    let shown = || address.to_string();
    let addresses = tokio::net::lookup_host(address.as_str())
        .await
        .map_err(|source| ConnectError::Resolve {
            address: shown(),
            source,
        })?;
    let mut last = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
    for candidate in addresses {
        match connect_tcp(candidate, marked).await {
            Ok(stream) => return Ok(stream),
            Err(error) => last = error,
        }
    }
    Err(ConnectError::Refused {
        address: shown(),
        source: last,
    })
}

async fn connect_tcp(
    candidate: SocketAddr,
    marked: Option<&LaneSettings>,
) -> io::Result<TcpStream> {
    let socket = dial::socket(candidate)?;
    match marked {
        // Before it connects: the first packet of a heartbeat's link must not wait behind bulk.
        Some(settings) => socket::mark(&socket, candidate.is_ipv6(), settings)?,
        None => socket.set_nodelay(true)?,
    }
    socket.connect(candidate).await
}

fn builder(settings: &LaneSettings) -> h2::client::Builder {
    let mut builder = h2::client::Builder::new();
    builder
        .initial_window_size(settings.stream_window)
        .initial_connection_window_size(settings.connection_window)
        .max_frame_size(settings.frame_size)
        .max_header_list_size(HEADER_LIST_LIMIT)
        .max_send_buffer_size(settings.send_buffer)
        .initial_max_send_streams(settings.max_streams as usize)
        .max_concurrent_reset_streams(REMEMBERED_RESETS)
        .reset_stream_duration(REMEMBER_RESETS)
        .max_local_error_reset_streams(Some(ERROR_RESETS))
        .enable_push(false);
    builder
}

/// What two ends of a link have agreed.
#[derive(Debug, Clone, Copy)]
pub(super) struct Agreed {
    /// Calls that may be open at once.
    pub(super) limit: u32,
    /// Do both have the same rules? `None` towards whoever is no peer.
    pub(super) kinship: Option<Kinship>,
    /// A call without `traceparent` is one that is not recorded.
    pub(super) unmarked: bool,
}

/// Introduces this node and checks who answers.
pub(super) async fn hello(
    own: &Own,
    key: &Key,
    (node, generation): (&NodeId, Generation),
    address: &Address,
    sender: SendRequest<Bytes>,
) -> Result<Agreed, ConnectError> {
    let address = address.to_string();
    let request = HelloRequest {
        node_id: own.node.as_str().to_owned(),
        generation: own.generation(),
        expected_node_id: node.as_str().to_owned(),
        expected_generation: generation.number(),
        connection: key.class.spoken().0,
        class: key.class.spoken().1.to_owned(),
        lane_id: key.lane.id().into(),
        lane: key.lane.name().to_owned(),
        protocol: Some(PEER_PROTOCOL.into()),
        build: env!("CARGO_PKG_VERSION").to_owned(),
        rules_digest: own.rules.to_wire(),
        unmarked_is_unrecorded: own.leaves_unmarked,
    };
    let mut client = PeerClient::new(Transport::new(sender));
    let answer = bounded(HELLO_LIMIT, client.hello(request))
        .await
        .ok_or_else(|| ConnectError::TooSlow {
            address: address.clone(),
            limit: HELLO_LIMIT,
        })?
        .map_err(|status| ConnectError::Hello {
            address: address.clone(),
            text: status.message().to_owned(),
        })?
        .into_inner();
    check(key, (node, generation), address, &answer)?;
    let kinship = own.rules.compare(node, &answer.rules_digest);
    Ok(Agreed {
        limit: answer.max_concurrent_streams.max(1),
        kinship: Some(kinship),
        unmarked: own.leaves_unmarked && answer.unmarked_is_unrecorded,
    })
}

async fn bounded<Answer>(limit: Duration, answer: impl Future<Output = Answer>) -> Option<Answer> {
    timeout(limit, answer).await.ok()
}

fn check(
    key: &Key,
    (node, generation): (&NodeId, Generation),
    address: String,
    answer: &HelloResponse,
) -> Result<(), ConnectError> {
    let describe = |node: &str, generation: u64, class: &str, lane: &str| {
        format!("node {node}, generation {generation}, {class}, lane {lane}")
    };
    let class = ConnectionClass::from_spoken(answer.connection, &answer.class);
    let lane = Lane::from_wire(answer.lane_id, &answer.lane, None).ok();
    let meant =
        answer.node_id == node.as_str() && class == Some(key.class) && lane == Some(key.lane);
    if meant && answer.generation == generation.number() {
        return Ok(());
    }
    if let Some(found) = Generation::new(answer.generation)
        && meant
        && found > generation
    {
        return Err(ConnectError::Newer {
            address,
            meant: generation,
            found,
        });
    }
    let class = class.map_or("unknown class", ConnectionClass::name);
    Err(ConnectError::WrongPeer {
        address,
        wanted: describe(
            node.as_str(),
            generation.number(),
            key.class.name(),
            key.lane.name(),
        ),
        found: describe(&answer.node_id, answer.generation, class, &answer.lane),
    })
}

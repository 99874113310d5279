//! What identifies a connection. A channel belongs to exactly one (node, generation, class, lane),
//! to one local service and lane, or to one destination outside the mesh.

use std::fmt;
use std::path::PathBuf;

use sidelane_proto::model::{ConnectionClass, Generation, Identity, Lane, NodeId, PeerAddress};

use crate::pipe::Opener;

/// Whom a connection reaches, in which class and lane.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Key {
    /// The other end.
    pub to: To,
    /// The class of its calls.
    pub class: ConnectionClass,
    /// The lane of its calls.
    pub lane: Lane,
}

/// The other end of a connection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum To {
    /// A peer sidecar.
    Peer {
        /// The node.
        node: NodeId,
        /// Its generation: another one is another peer.
        generation: Generation,
    },
    /// A service beside this sidecar.
    Local(Address),
    /// Where a call was meant to go that the mesh does not know.
    Destination(PeerAddress),
}

/// Where to dial.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Address {
    /// A host and a port.
    Tcp(PeerAddress),
    /// A peer sidecar's, and the identity that control names for it.
    Peer(PeerAddress, Option<Identity>),
    /// A unix socket.
    Unix(PathBuf),
    /// A service of this very process.
    Pipe(Opener),
}

impl fmt::Display for Address {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) | Self::Peer(address, _) => write!(formatter, "{address}"),
            Self::Unix(path) => write!(formatter, "unix:{}", path.display()),
            Self::Pipe(opener) => write!(formatter, "{opener}"),
        }
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.to {
            To::Peer { node, generation } => write!(formatter, "{node} (generation {generation})")?,
            To::Local(address) => write!(formatter, "the local service at {address}")?,
            To::Destination(address) => return write!(formatter, "the destination {address}"),
        }
        write!(formatter, ", {}, lane {}", self.class, self.lane)
    }
}

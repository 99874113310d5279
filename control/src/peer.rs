//! Who is at the other end of a connection to the gRPC port, as far as the connection proves it.

use std::net::SocketAddr;
use std::time::SystemTime;

use sidelane_identity::verify::Leaf;
use sidelane_proto::model::{Identity, NodeId};

use crate::ca::Serial;

/// The other end.
#[derive(Debug, Clone)]
pub struct Peer {
    /// Its address.
    pub address: SocketAddr,
    /// It is on this machine: a process that reads control's files must be.
    pub here: bool,
    /// It speaks TLS.
    pub secure: bool,
    /// Whose certificate it has shown, if any.
    pub shown: Option<Shown>,
}

/// A certificate that was verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Whose it is.
    pub identity: Identity,
    /// The node that it was signed for; one that another authority signed may name none.
    pub node: Option<NodeId>,
    /// Its number, if it has the form of ours.
    pub serial: Option<Serial>,
    /// Its end. Connections live longer than certificates, and one that has just ended may renew.
    pub until: SystemTime,
}

impl Peer {
    /// The end of a connection between these addresses that proves nothing.
    #[must_use]
    pub fn plain(address: SocketAddr, local: Option<SocketAddr>) -> Self {
        let ip = address.ip().to_canonical();
        let same = local.is_some_and(|local| local.ip().to_canonical() == ip);
        Self {
            address,
            here: ip.is_loopback() || same,
            secure: false,
            shown: None,
        }
    }
}

impl Shown {
    /// What a verified leaf says. `None` where its identity is none that the mesh knows a name for.
    #[must_use]
    pub fn of(leaf: &Leaf, certificate: &[u8]) -> Option<Self> {
        let identity = Identity::new(leaf.id.as_str()).ok()?;
        let serial = leaf.serial.as_bytes().try_into().ok().map(Serial);
        let parsed = x509_parser::parse_x509_certificate(certificate).ok();
        let node = parsed.and_then(|(_, certificate)| {
            let name = certificate.subject().iter_common_name().next()?;
            NodeId::new(name.as_str().ok()?).ok()
        });
        Some(Self {
            identity,
            node,
            serial,
            until: leaf.not_after,
        })
    }

    /// Does it hold still?
    #[must_use]
    pub fn holds(&self, now: SystemTime) -> bool {
        now <= self.until
    }
}

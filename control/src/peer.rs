//! Who is at the other end of a connection to the gRPC port, as far as the connection proves it.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime};

use sidelane_identity::verify::Leaf;
use sidelane_proto::model::{Identity, NodeId};

use crate::ca::{Found, Held, Revoked, Serial, UnixSeconds, signed_at};

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
    /// When it was signed, in seconds since 1970.
    pub signed: UnixSeconds,
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
            signed: signed_at(unix(leaf.not_before), unix(leaf.not_after)),
            until: leaf.not_after,
        })
    }

    /// As what was made at some time.
    #[must_use]
    pub fn held(&self) -> Held {
        Held {
            serial: self.serial,
            made: self.signed,
        }
    }

    /// Who of those that it names was revoked since, if any was.
    #[must_use]
    pub fn revoked(&self, revoked: &Revoked) -> Option<Found> {
        revoked.finds(Some(self.held()), self.node.as_ref(), &self.identity)
    }

    /// Does it hold still?
    #[must_use]
    pub fn holds(&self, now: SystemTime) -> bool {
        now <= self.until
    }

    /// For how long has it ended, in whole seconds, as the handshake counts them?
    #[must_use]
    pub fn ended_for(&self, now: SystemTime) -> Duration {
        Duration::from_secs(unix(now).saturating_sub(unix(self.until)))
    }
}

fn unix(time: SystemTime) -> UnixSeconds {
    let since = time.duration_since(SystemTime::UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

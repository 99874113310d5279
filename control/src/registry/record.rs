//! What a source says of a node, and how sayings are ordered. Sources make these, the merge picks
//! among them, the snapshot is made of the endpoints in them. Nothing here knows the time.

use std::fmt;
use std::sync::Arc;

use sidelane_proto::model::{
    Addresses, Endpoint, Generation, Health, Identity, InstanceId, Locality, Network, NodeId, Offer,
};

/// A node's name in its network. Nodes of different networks have nothing to do with each other.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeKey {
    /// The network.
    pub network: Network,
    /// The name in it.
    pub node: NodeId,
}

impl fmt::Display for NodeKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.network, self.node)
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

/// Who says it, in the order of precedence: where several sources know a node, the first of these
/// is believed, whatever the generations of the others. The order leaves room between the two for
/// Kubernetes and DNS.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// The node itself, over its stream.
    Registration,
    /// A file.
    Fixed,
}

impl Origin {
    /// All, the most trusted first.
    pub const ALL: [Self; 2] = [Self::Registration, Self::Fixed];

    /// The name that people see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Registration => "registration",
            Self::Fixed => "fixed",
        }
    }

    /// Its place in the precedence, from 0.
    pub(super) const fn rank(self) -> usize {
        match self {
            Self::Registration => 0,
            Self::Fixed => 1,
        }
    }
}

/// Orders all that one source says of one node: the newest generation wins, and within it the
/// latest revision. A removal carries a stamp, too, so that an older saying cannot undo it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stamp {
    /// The node's generation.
    pub generation: Generation,
    /// Counted by the source, up.
    pub revision: u64,
}

/// Is a node heard of?
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Presence {
    /// Yes, or its source knows no such thing.
    Present,
    /// No, but its lease runs.
    Suspect,
}

/// A node as one source knows it.
#[derive(Debug, Clone, PartialEq)]
pub struct NodeRecord {
    /// Whose it is.
    pub key: NodeKey,
    /// Its generation.
    pub generation: Generation,
    /// Which process it is; `None` where nobody registered.
    pub instance: Option<InstanceId>,
    /// Its workload identity; `None` in trust mode `disabled`.
    pub identity: Option<Identity>,
    /// Its program's version; empty where unknown.
    pub build: Arc<str>,
    /// SHA-256 over its compiled rules; empty where unknown.
    pub rules_digest: Arc<[u8]>,
    /// Where it stands.
    pub locality: Locality,
    /// What peers dial.
    pub addresses: Addresses,
    /// What it offers, as it says itself.
    pub offers: Vec<Offer>,
    /// It takes no new calls.
    pub draining: bool,
    /// Is it heard of?
    pub presence: Presence,
}

impl NodeRecord {
    /// The health that others are told: draining hides everything else, because no health brings
    /// new calls to a node that is about to leave; a suspect node is at best suspect.
    #[must_use]
    pub fn health_of(&self, offer: &Offer) -> Health {
        match (self.draining, self.presence) {
            (true, _) => Health::Draining,
            (false, Presence::Suspect) => offer.health.max(Health::Suspect),
            (false, Presence::Present) => offer.health,
        }
    }

    /// The worst health of its offers; healthy where it offers nothing and is heard of.
    #[must_use]
    pub fn worst_health(&self) -> Health {
        let least = match (self.draining, self.presence) {
            (true, _) => Health::Draining,
            (false, Presence::Suspect) => Health::Suspect,
            (false, Presence::Present) => Health::Healthy,
        };
        self.offers
            .iter()
            .map(|offer| self.health_of(offer))
            .fold(least, Health::max)
    }

    /// Its offers as others are told of them.
    pub fn endpoints(&self) -> impl Iterator<Item = Endpoint> {
        self.offers.iter().map(|offer| Endpoint {
            node: self.key.node.clone(),
            generation: self.generation,
            identity: self.identity.clone(),
            addresses: self.addresses.clone(),
            locality: self.locality.clone(),
            offer: Offer {
                health: self.health_of(offer),
                ..offer.clone()
            },
        })
    }

    /// Would a store keep the same of both? Presence is not kept: after a restart everybody is
    /// suspect.
    #[must_use]
    pub fn is_stored_as(&self, other: &Self) -> bool {
        let present = |record: &Self| Self {
            presence: Presence::Present,
            ..record.clone()
        };
        self == other || present(self) == present(other)
    }
}

/// Something that a source says: a node is as the record says, or gone.
#[derive(Debug, Clone)]
pub struct Change {
    /// Who says it.
    pub origin: Origin,
    /// Of which node.
    pub key: NodeKey,
    /// Its place among all that this source says of this node.
    pub stamp: Stamp,
    /// How the node is; `None`: gone.
    pub record: Option<Arc<NodeRecord>>,
}

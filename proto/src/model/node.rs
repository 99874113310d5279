//! Nodes: a sidecar with the local services behind it, as it introduces itself.

use std::fmt;

use prost::Message as _;

use super::endpoint::{Addresses, Locality, Offer};
use super::error::{FieldError, Problem};
use super::name::{Identity, Network, NodeId};
use super::snapshot::{Subscription, Version};
use crate::wire::control::v1 as wire;

/// The most services that one node may offer.
pub const OFFERS_LIMIT: usize = 4_096;
/// The longest instance id or build, in bytes.
const TEXT_LIMIT: usize = 128;

/// A number that grows each time a node starts: `max(stored + 1, unix milliseconds)`. Never 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Generation(u64);

impl Generation {
    /// A generation; `None` for 0.
    #[must_use]
    pub const fn new(number: u64) -> Option<Self> {
        if number == 0 {
            None
        } else {
            Some(Self(number))
        }
    }

    /// The generation that follows `stored` at the wall-clock time `unix_ms`.
    #[must_use]
    pub const fn next(stored: Option<Self>, unix_ms: u64) -> Self {
        let after = match stored {
            Some(Self(number)) => number.saturating_add(1),
            None => 1,
        };
        Self(if after > unix_ms { after } else { unix_ms })
    }

    /// The number.
    #[must_use]
    pub const fn number(self) -> u64 {
        self.0
    }

    pub(super) fn from_wire(number: u64, path: &str) -> Result<Self, FieldError> {
        Self::new(number).ok_or_else(|| FieldError::new(path, Problem::Missing))
    }
}

impl fmt::Display for Generation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}", self.0)
    }
}

/// Random, made at each start: tells two processes with one generation apart.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct InstanceId(Box<str>);

impl InstanceId {
    /// Takes an instance id in.
    ///
    /// # Errors
    /// Empty or over 128 bytes.
    pub fn new(text: &str) -> Result<Self, FieldError> {
        check_text(text, "instance_id")?;
        if text.is_empty() {
            return Err(FieldError::new("instance_id", Problem::Missing));
        }
        Ok(Self(Box::from(text)))
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// Versions of a protocol that a process speaks, both ends included.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProtocolRange {
    /// The oldest spoken.
    pub oldest: u32,
    /// The newest spoken.
    pub newest: u32,
}

impl ProtocolRange {
    /// The newest version that both speak.
    #[must_use]
    pub fn common(self, other: Self) -> Option<u32> {
        let newest = self.newest.min(other.newest);
        (newest >= self.oldest.max(other.oldest)).then_some(newest)
    }
}

impl fmt::Display for ProtocolRange {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} to {}", self.oldest, self.newest)
    }
}

impl TryFrom<Option<wire::VersionRange>> for ProtocolRange {
    type Error = FieldError;

    fn try_from(range: Option<wire::VersionRange>) -> Result<Self, FieldError> {
        let range = range.ok_or_else(|| FieldError::new("protocol", Problem::Missing))?;
        if range.oldest == 0 || range.newest < range.oldest {
            let given = format!("{} to {}", range.oldest, range.newest);
            let problem = Problem::Malformed {
                given,
                wanted: "a range of versions from 1 up",
            };
            return Err(FieldError::new("protocol", problem));
        }
        Ok(Self {
            oldest: range.oldest,
            newest: range.newest,
        })
    }
}

impl From<ProtocolRange> for wire::VersionRange {
    fn from(range: ProtocolRange) -> Self {
        Self {
            oldest: range.oldest,
            newest: range.newest,
        }
    }
}

/// How a sidecar introduces itself to the control plane.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeHello {
    /// The node's name.
    pub node: NodeId,
    /// Its generation.
    pub generation: Generation,
    /// Its instance.
    pub instance: InstanceId,
    /// Its workload identity; `None` in trust mode `disabled`.
    pub identity: Option<Identity>,
    /// Versions of the membership protocol that it speaks.
    pub protocol: ProtocolRange,
    /// Its program's version.
    pub build: String,
    /// SHA-256 over its compiled rules.
    pub rules_digest: Vec<u8>,
    /// Where it stands.
    pub locality: Locality,
    /// Its network.
    pub network: Network,
    /// What peers dial.
    pub addresses: Addresses,
    /// What it offers, each service once.
    pub offers: Vec<Offer>,
    /// The version that it holds already.
    pub held: Option<Version>,
    /// What it wants to know.
    pub subscription: Subscription,
    /// It came back while draining.
    pub draining: bool,
}

impl NodeHello {
    /// The message as bytes, for a store.
    #[must_use]
    pub fn to_bytes(&self) -> Vec<u8> {
        wire::Hello::from(self).encode_to_vec()
    }

    /// Reads what [`NodeHello::to_bytes`] wrote, with the same checks as for one from the wire.
    ///
    /// # Errors
    /// Bytes that are no such message, or the field that is wrong.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, FieldError> {
        let hello = wire::Hello::decode(bytes).map_err(|error| {
            let given = error.to_string();
            let wanted = "a stored hello";
            FieldError::new("hello", Problem::Malformed { given, wanted })
        })?;
        Self::try_from(hello)
    }
}

/// Checks a list of offers: its length, each offer, and that no service is offered twice.
///
/// # Errors
/// The path of the first offer that is wrong.
pub fn offers_from_wire(offers: Vec<wire::Offer>) -> Result<Vec<Offer>, FieldError> {
    if offers.len() > OFFERS_LIMIT {
        let problem = Problem::TooMany {
            count: offers.len(),
            limit: OFFERS_LIMIT,
        };
        return Err(FieldError::new("offers", problem));
    }
    let mut seen = std::collections::HashSet::with_capacity(offers.len());
    let mut checked = Vec::with_capacity(offers.len());
    for (index, offer) in offers.into_iter().enumerate() {
        let offer = Offer::try_from(offer)
            .map_err(|error| error.within(format_args!("offers[{index}]")))?;
        if !seen.insert(offer.service.clone()) {
            let problem = Problem::Duplicate {
                given: offer.service.to_string(),
            };
            return Err(FieldError::new(format!("offers[{index}].service"), problem));
        }
        checked.push(offer);
    }
    Ok(checked)
}

impl TryFrom<wire::Hello> for NodeHello {
    type Error = FieldError;

    fn try_from(hello: wire::Hello) -> Result<Self, FieldError> {
        check_text(&hello.build, "build")?;
        if hello.rules_digest.len() > TEXT_LIMIT {
            let problem = Problem::TooLong {
                length: hello.rules_digest.len(),
                limit: TEXT_LIMIT,
            };
            return Err(FieldError::new("rules_digest", problem));
        }
        let identity = match hello.identity.as_str() {
            "" => None,
            text => Some(Identity::new(text)?),
        };
        Ok(Self {
            node: NodeId::new(&hello.node_id)?,
            generation: Generation::from_wire(hello.generation, "generation")?,
            instance: InstanceId::new(&hello.instance_id)?,
            identity,
            protocol: hello.protocol.try_into()?,
            build: hello.build,
            rules_digest: hello.rules_digest,
            locality: hello
                .locality
                .unwrap_or_default()
                .try_into()
                .map_err(|error: FieldError| error.within("locality"))?,
            network: Network::new(&hello.network)?,
            addresses: hello
                .addresses
                .unwrap_or_default()
                .try_into()
                .map_err(|error: FieldError| error.within("addresses"))?,
            offers: offers_from_wire(hello.offers)?,
            held: hello
                .held
                .map(|held| Version::try_from(held).map_err(|error| error.within("held")))
                .transpose()?,
            subscription: hello
                .subscribe
                .unwrap_or_default()
                .try_into()
                .map_err(|error: FieldError| error.within("subscribe"))?,
            draining: hello.draining,
        })
    }
}

impl From<&NodeHello> for wire::Hello {
    fn from(hello: &NodeHello) -> Self {
        Self {
            node_id: hello.node.as_str().to_owned(),
            generation: hello.generation.number(),
            instance_id: hello.instance.as_str().to_owned(),
            identity: hello
                .identity
                .as_ref()
                .map(|identity| identity.as_str().to_owned())
                .unwrap_or_default(),
            protocol: Some(hello.protocol.into()),
            build: hello.build.clone(),
            rules_digest: hello.rules_digest.clone(),
            locality: Some((&hello.locality).into()),
            network: hello.network.as_str().to_owned(),
            addresses: Some((&hello.addresses).into()),
            offers: hello.offers.iter().map(Into::into).collect(),
            held: hello.held.as_ref().map(Into::into),
            subscribe: Some((&hello.subscription).into()),
            draining: hello.draining,
        }
    }
}

fn check_text(text: &str, field: &str) -> Result<(), FieldError> {
    if text.len() > TEXT_LIMIT {
        let problem = Problem::TooLong {
            length: text.len(),
            limit: TEXT_LIMIT,
        };
        return Err(FieldError::new(field, problem));
    }
    Ok(())
}

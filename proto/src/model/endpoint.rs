//! Endpoints: a node's offer of one service, and what is said about it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use super::class::{ConnectionClass, OwnClass};
use super::error::{FieldError, Problem};
use super::name::{Identity, NodeId, ServiceName};
use super::node::Generation;
use super::rule::Rule;
use crate::wire::control::v1 as wire;

/// The longest host name, in bytes (RFC 1035).
const HOST_LIMIT: usize = 253;
/// The longest label or version, in bytes.
pub const LABEL_LIMIT: usize = 256;
/// The most labels that an offer may carry.
pub const LABELS_LIMIT: usize = 32;
/// The most classes of a project's own in which a node can be dialled.
pub const OWN_CLASSES_LIMIT: usize = 16;
/// What an unset weight counts.
pub const DEFAULT_WEIGHT: u32 = 100;
/// The largest weight.
pub const WEIGHT_LIMIT: u32 = 10_000;

/// A host and a port that a peer can dial. The host is a name or an IP address.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PeerAddress(Arc<str>);

impl PeerAddress {
    /// Reads `host:port` or `[v6]:port`.
    ///
    /// # Errors
    /// No port, port 0, an empty or malformed host.
    pub fn new(text: &str) -> Result<Self, FieldError> {
        let malformed = || {
            let wanted = "a host and port such as `10.0.0.7:15006`";
            FieldError::new(
                "address",
                Problem::Malformed {
                    given: text.to_owned(),
                    wanted,
                },
            )
        };
        let (host, port) = text.rsplit_once(':').ok_or_else(malformed)?;
        let port: u16 = port.parse().map_err(|_| malformed())?;
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
        let good = match host
            .strip_prefix('[')
            .and_then(|rest| rest.strip_suffix(']'))
        {
            Some(inner) => inner.parse::<std::net::Ipv6Addr>().is_ok(),
            None => !host.is_empty() && host.len() <= HOST_LIMIT && host.bytes().all(plain),
        };
        if port == 0 || !good {
            return Err(malformed());
        }
        Ok(Self(Arc::from(text)))
    }

    /// `host:port`, as resolvers take it.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PeerAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for PeerAddress {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, formatter)
    }
}

/// What peers dial, by class.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Addresses {
    /// For calls of class Internal.
    pub internal: Option<PeerAddress>,
    /// For calls of class External.
    pub external: Option<PeerAddress>,
    /// For calls of classes of a project's own, each class once, at most [`OWN_CLASSES_LIMIT`].
    pub own: Vec<(OwnClass, PeerAddress)>,
}

impl Addresses {
    /// The address for a class, where the node has one.
    #[must_use]
    pub fn of(&self, class: ConnectionClass) -> Option<&PeerAddress> {
        match class {
            ConnectionClass::Internal => self.internal.as_ref(),
            ConnectionClass::External => self.external.as_ref(),
            ConnectionClass::Own(class) => {
                let of_class = self.own.iter().find(|(own, _)| *own == class);
                of_class.map(|(_, address)| address)
            }
        }
    }
}

/// Where a node stands. Empty parts mean that nothing was said.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Locality {
    /// Such as `eu-central`.
    pub region: Arc<str>,
    /// Such as `eu-central-1a`.
    pub zone: Arc<str>,
}

/// Can an endpoint take calls?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Health {
    /// Yes.
    Healthy,
    /// Not heard of, but its lease runs.
    Suspect,
    /// No new ones: it is about to leave.
    Draining,
    /// No: it says so itself.
    Unhealthy,
}

impl Health {
    /// The name that people see.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Suspect => "suspect",
            Self::Draining => "draining",
            Self::Unhealthy => "unhealthy",
        }
    }

    /// Reads a health from the wire's number for the field `path`.
    ///
    /// # Errors
    /// Unspecified and unknown numbers.
    pub fn from_wire(number: i32, path: &str) -> Result<Self, FieldError> {
        match wire::Health::try_from(number) {
            Ok(wire::Health::Healthy) => Ok(Self::Healthy),
            Ok(wire::Health::Suspect) => Ok(Self::Suspect),
            Ok(wire::Health::Draining) => Ok(Self::Draining),
            Ok(wire::Health::Unhealthy) => Ok(Self::Unhealthy),
            Ok(wire::Health::Unspecified) => Err(FieldError::new(path, Problem::Missing)),
            Err(_) => Err(FieldError::new(
                path,
                Problem::Unknown {
                    given: number.to_string(),
                    what: "health",
                },
            )),
        }
    }

    /// The health as the wire has it.
    #[must_use]
    pub const fn to_wire(self) -> wire::Health {
        match self {
            Self::Healthy => wire::Health::Healthy,
            Self::Suspect => wire::Health::Suspect,
            Self::Draining => wire::Health::Draining,
            Self::Unhealthy => wire::Health::Unhealthy,
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

/// What a node says of one service that it offers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Offer {
    /// The service.
    pub service: ServiceName,
    /// Can it take calls?
    pub health: Health,
    /// Share of the calls in relation to others, 1 to 10,000.
    pub weight: u32,
    /// The service's own version; empty where nothing was said.
    pub version: Arc<str>,
    /// What traffic splits match on.
    pub labels: BTreeMap<String, String>,
    /// The rule that the node was compiled with.
    pub rule: Option<Arc<Rule>>,
}

impl Offer {
    /// Checks an offer that was not made from the wire, such as one from a file: the lengths of its
    /// texts, its labels and its weight, 0 being read as 100, and that its rule is of its service.
    ///
    /// # Errors
    /// Names the field that is wrong.
    pub fn check(mut self) -> Result<Self, FieldError> {
        check_length(&self.version, "version")?;
        if self.labels.len() > LABELS_LIMIT {
            let problem = Problem::TooMany {
                count: self.labels.len(),
                limit: LABELS_LIMIT,
            };
            return Err(FieldError::new("labels", problem));
        }
        for (key, value) in &self.labels {
            check_length(key, "labels")?;
            check_length(value, "labels")?;
        }
        if self.weight > WEIGHT_LIMIT {
            let wanted = "a weight of at most 10000";
            let problem = Problem::Malformed {
                given: self.weight.to_string(),
                wanted,
            };
            return Err(FieldError::new("weight", problem));
        }
        if let Some(rule) = &self.rule
            && rule.service != self.service.as_str()
        {
            let text = format!(
                "the offer is of {}, the rule of {}",
                self.service, rule.service
            );
            return Err(FieldError::new(
                "rule.service",
                Problem::Contradiction(text),
            ));
        }
        if self.weight == 0 {
            self.weight = DEFAULT_WEIGHT;
        }
        Ok(self)
    }
}

impl Locality {
    /// Checks the names of a region and a zone; either may be empty.
    ///
    /// # Errors
    /// One of them is too long.
    pub fn new(region: &str, zone: &str) -> Result<Self, FieldError> {
        check_length(region, "region")?;
        check_length(zone, "zone")?;
        Ok(Self {
            region: Arc::from(region),
            zone: Arc::from(zone),
        })
    }
}

/// A node's offer of one service, with all that is needed to reach it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Whose offer it is.
    pub node: NodeId,
    /// The node's generation.
    pub generation: Generation,
    /// The identity that its certificate must show; `None` in trust mode `disabled`.
    pub identity: Option<Identity>,
    /// What to dial.
    pub addresses: Addresses,
    /// Where it stands.
    pub locality: Locality,
    /// What it offers, and its health.
    pub offer: Offer,
}

impl TryFrom<wire::Addresses> for Addresses {
    type Error = FieldError;

    fn try_from(addresses: wire::Addresses) -> Result<Self, FieldError> {
        let read = |text: &str, field: &str| {
            if text.is_empty() {
                return Ok(None);
            }
            PeerAddress::new(text)
                .map(Some)
                .map_err(|error| FieldError::new(field, error.problem))
        };
        Ok(Self {
            internal: read(&addresses.internal, "internal")?,
            external: read(&addresses.external, "external")?,
            own: own_addresses(&addresses.own)?,
        })
    }
}

fn own_addresses(given: &[wire::ClassAddress]) -> Result<Vec<(OwnClass, PeerAddress)>, FieldError> {
    if given.len() > OWN_CLASSES_LIMIT {
        let (count, limit) = (given.len(), OWN_CLASSES_LIMIT);
        return Err(FieldError::new("own", Problem::TooMany { count, limit }));
    }
    let mut own: Vec<(OwnClass, PeerAddress)> = Vec::with_capacity(given.len());
    for (index, given) in given.iter().enumerate() {
        let within =
            |field: &str, problem| FieldError::new(format!("own[{index}].{field}"), problem);
        let Some(class) = &given.class else {
            return Err(within("class", Problem::Missing));
        };
        let class = OwnClass::learn(class)
            .map_err(|error| error.within(format_args!("own[{index}].class")))?;
        if own.iter().any(|(known, _)| *known == class) {
            let given = class.definition().name.to_owned();
            return Err(within("class", Problem::Duplicate { given }));
        }
        let address =
            PeerAddress::new(&given.address).map_err(|error| within("address", error.problem))?;
        own.push((class, address));
    }
    Ok(own)
}

impl From<&Addresses> for wire::Addresses {
    fn from(addresses: &Addresses) -> Self {
        let text = |address: &Option<PeerAddress>| {
            address
                .as_ref()
                .map(|address| address.as_str().to_owned())
                .unwrap_or_default()
        };
        Self {
            internal: text(&addresses.internal),
            external: text(&addresses.external),
            own: addresses
                .own
                .iter()
                .map(|(class, address)| wire::ClassAddress {
                    class: Some(class.to_wire()),
                    address: address.as_str().to_owned(),
                })
                .collect(),
        }
    }
}

impl TryFrom<wire::Locality> for Locality {
    type Error = FieldError;

    fn try_from(locality: wire::Locality) -> Result<Self, FieldError> {
        Self::new(&locality.region, &locality.zone)
    }
}

impl From<&Locality> for wire::Locality {
    fn from(locality: &Locality) -> Self {
        Self {
            region: locality.region.to_string(),
            zone: locality.zone.to_string(),
        }
    }
}

impl TryFrom<wire::Offer> for Offer {
    type Error = FieldError;

    fn try_from(offer: wire::Offer) -> Result<Self, FieldError> {
        let service = ServiceName::new(&offer.service)?;
        let rule = offer
            .rule
            .map(|rule| Rule::try_from(rule).map_err(|error| error.within("rule")))
            .transpose()?;
        let checked = Self {
            service,
            health: Health::from_wire(offer.health, "health")?,
            weight: offer.weight,
            version: Arc::from(offer.version),
            labels: offer.labels.into_iter().collect(),
            rule: rule.map(Arc::new),
        };
        checked.check()
    }
}

impl From<&Offer> for wire::Offer {
    fn from(offer: &Offer) -> Self {
        Self {
            service: offer.service.as_str().to_owned(),
            health: offer.health.to_wire().into(),
            weight: offer.weight,
            version: offer.version.to_string(),
            labels: offer.labels.clone().into_iter().collect(),
            rule: offer.rule.as_deref().map(Into::into),
        }
    }
}

impl TryFrom<wire::Endpoint> for Endpoint {
    type Error = FieldError;

    fn try_from(endpoint: wire::Endpoint) -> Result<Self, FieldError> {
        let identity = match endpoint.identity.as_str() {
            "" => None,
            text => Some(Identity::new(text)?),
        };
        Ok(Self {
            node: NodeId::new(&endpoint.node_id)?,
            generation: Generation::from_wire(endpoint.generation, "generation")?,
            identity,
            addresses: endpoint
                .addresses
                .unwrap_or_default()
                .try_into()
                .map_err(|error: FieldError| error.within("addresses"))?,
            locality: endpoint
                .locality
                .unwrap_or_default()
                .try_into()
                .map_err(|error: FieldError| error.within("locality"))?,
            offer: Offer::try_from(wire::Offer {
                service: endpoint.service,
                health: endpoint.health,
                weight: endpoint.weight,
                version: endpoint.version,
                labels: endpoint.labels,
                rule: endpoint.rule,
            })?,
        })
    }
}

impl From<&Endpoint> for wire::Endpoint {
    fn from(endpoint: &Endpoint) -> Self {
        let offer = wire::Offer::from(&endpoint.offer);
        Self {
            service: offer.service,
            node_id: endpoint.node.as_str().to_owned(),
            generation: endpoint.generation.number(),
            identity: endpoint
                .identity
                .as_ref()
                .map(|identity| identity.as_str().to_owned())
                .unwrap_or_default(),
            addresses: Some((&endpoint.addresses).into()),
            locality: Some((&endpoint.locality).into()),
            health: offer.health,
            weight: offer.weight,
            version: offer.version,
            labels: offer.labels,
            rule: offer.rule,
        }
    }
}

fn check_length(text: &str, field: &str) -> Result<(), FieldError> {
    if text.len() > LABEL_LIMIT {
        let problem = Problem::TooLong {
            length: text.len(),
            limit: LABEL_LIMIT,
        };
        return Err(FieldError::new(field, problem));
    }
    Ok(())
}

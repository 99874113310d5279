//! The fixed file's format, and its way into records. Everything in it is checked; an error names
//! the line, and for an unknown key or word the nearest known one.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_saphyr::{Error, Location, SnippetMode, Spanned};
use sidelane_process::settings::{FILE_LIMIT, nearest};
use sidelane_proto::model::{
    Addresses, FieldError, Generation, Health, Identity, Locality, Network, NodeId, Offer,
    PeerAddress, ServiceName,
};

use crate::registry::{NodeKey, NodeRecord, Presence};

/// The network of a node that names none; it is also a sidecar's, if it is given none.
pub const DEFAULT_NETWORK: &str = "default";
/// What a node has before the source gives it one.
const FIRST_GENERATION: Generation = match Generation::new(1) {
    Some(generation) => generation,
    None => panic!("1 is a generation"),
};
const HEALTHS: [Health; 3] = [Health::Healthy, Health::Unhealthy, Health::Draining];

/// A file with all that can be in one.
pub const EXAMPLE: &str = "\
nodes:
  - node: billing-1                     # its name, unique in its network
    network: default                    # may be left out: default
    identity: spiffe://example.org/ns/shop/sa/billing   # may be left out
    region: eu-central                  # may be left out
    zone: eu-central-1a                 # may be left out
    internal: 10.0.0.7:15006            # what peers dial for calls of class Internal
    external: billing.example.org:15443 # for calls of class External; one of both at least
    services:
      - service: shop.v1.Billing
        weight: 100                     # may be left out: 100; 1 to 10000
        version: v2                     # may be left out
        labels:                         # may be left out
          stage: canary
        health: healthy                 # may be left out: healthy; or unhealthy, draining
";

/// A fixed file that cannot be taken in.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("cannot read the fixed file {path}: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the operating system said; above 1 MiB, `FileTooLarge`.
        reason: std::io::Error,
    },
    /// Something in it is wrong.
    #[error("the fixed file {path}, line {line}: {problem}")]
    Wrong {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: u64,
        /// What is wrong, and what to write.
        problem: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    nodes: Vec<Node>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Node {
    node: Spanned<String>,
    network: Option<Spanned<String>>,
    identity: Option<Spanned<String>>,
    #[serde(default)]
    region: String,
    #[serde(default)]
    zone: String,
    internal: Option<Spanned<String>>,
    external: Option<Spanned<String>>,
    services: Vec<Service>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Service {
    service: Spanned<String>,
    #[serde(default)]
    weight: u32,
    #[serde(default)]
    version: String,
    #[serde(default)]
    labels: BTreeMap<String, String>,
    health: Option<Spanned<String>>,
}

/// Something wrong in a line.
struct Wrong {
    line: u64,
    problem: String,
}

impl Wrong {
    fn at(location: Location, problem: impl std::fmt::Display) -> Self {
        Self {
            line: location.line(),
            problem: format!("{problem}"),
        }
    }
}

/// Reads the text of a fixed file; `path` is for errors.
///
/// # Errors
/// The first thing that is wrong with it.
pub fn parse(path: &Path, text: &str) -> Result<Vec<NodeRecord>, FileError> {
    read(text).map_err(|Wrong { line, problem }| FileError::Wrong {
        path: path.to_owned(),
        line,
        problem,
    })
}

fn read(text: &str) -> Result<Vec<NodeRecord>, Wrong> {
    debug_assert!(text.len() as u64 <= FILE_LIMIT, "the reader has a bound");
    let file: File = serde_saphyr::from_str(text).map_err(|error| wrong_yaml(&error))?;
    let mut seen: HashMap<NodeKey, u64> = HashMap::new();
    let mut records = Vec::with_capacity(file.nodes.len());
    for node in file.nodes {
        let location = node.node.referenced;
        let record = record(node)?;
        if let Some(first) = seen.insert(record.key.clone(), location.line()) {
            let problem = format!(
                "node `{}` is named twice, first in line {first}",
                record.key
            );
            return Err(Wrong::at(location, problem));
        }
        records.push(record);
    }
    Ok(records)
}

fn record(node: Node) -> Result<NodeRecord, Wrong> {
    let at = node.node.referenced;
    let network = match &node.network {
        Some(network) => checked(network, Network::new)?,
        None => Network::new(DEFAULT_NETWORK).map_err(|error| Wrong::at(at, error))?,
    };
    let identity = node.identity.as_ref();
    let identity = identity.map(|identity| checked(identity, Identity::new));
    if node.internal.is_none() && node.external.is_none() {
        let problem = "has no address: write `internal: HOST:PORT`, `external: HOST:PORT`, or both";
        return Err(Wrong::at(
            at,
            format!("node `{}` {problem}", node.node.value),
        ));
    }
    let address = |address: Option<Spanned<String>>| match address {
        Some(address) => (address.referenced, address.value),
        None => (at, String::new()),
    };
    let (internal, external) = (address(node.internal), address(node.external));
    let locality = Locality::new(&node.region, &node.zone);
    let mut offers: Vec<Offer> = Vec::with_capacity(node.services.len());
    for service in node.services {
        let at = service.service.referenced;
        let offer = offer(service)?;
        if offers.iter().any(|known| known.service == offer.service) {
            let problem = format!("service `{}` is named twice in one node", offer.service);
            return Err(Wrong::at(at, problem));
        }
        offers.push(offer);
    }
    Ok(NodeRecord {
        key: NodeKey {
            network,
            node: checked(&node.node, NodeId::new)?,
        },
        generation: FIRST_GENERATION,
        instance: None,
        identity: identity.transpose()?,
        build: "".into(),
        rules_digest: [].into(),
        locality: locality.map_err(|error| Wrong::at(at, error))?,
        addresses: Addresses {
            internal: one_address(internal, "internal")?,
            external: one_address(external, "external")?,
            // What stands in a file was not built with us, so it has no class of ours.
            own: Vec::new(),
        },
        offers,
        draining: false,
        presence: Presence::Present,
    })
}

fn one_address((at, text): (Location, String), key: &str) -> Result<Option<PeerAddress>, Wrong> {
    if text.is_empty() {
        return Ok(None);
    }
    let address = PeerAddress::new(&text);
    let named = |error: FieldError| Wrong::at(at, FieldError::new(key, error.problem));
    address.map(Some).map_err(named)
}

fn offer(service: Service) -> Result<Offer, Wrong> {
    let at = service.service.referenced;
    let health = match &service.health {
        Some(word) => health(word)?,
        None => Health::Healthy,
    };
    let offer = Offer {
        service: checked(&service.service, ServiceName::new)?,
        health,
        weight: service.weight,
        version: service.version.into(),
        labels: service.labels,
        rule: None,
    };
    offer.check().map_err(|error| Wrong::at(at, error))
}

fn health(word: &Spanned<String>) -> Result<Health, Wrong> {
    let known = HEALTHS.into_iter().find(|known| known.name() == word.value);
    known.ok_or_else(|| {
        let names = HEALTHS.map(Health::name);
        let nearest = nearest(&word.value, names).unwrap_or_default();
        let problem = format!(
            "`{}` is not a health; there are {}; the nearest is `{nearest}`",
            word.value,
            names.join(", ")
        );
        Wrong::at(word.referenced, problem)
    })
}

fn checked<T>(
    text: &Spanned<String>,
    check: impl FnOnce(&str) -> Result<T, FieldError>,
) -> Result<T, Wrong> {
    check(&text.value).map_err(|error| Wrong::at(text.referenced, error))
}

fn wrong_yaml(error: &Error) -> Wrong {
    let error = error.without_snippet();
    let location = error.location().unwrap_or(Location::UNKNOWN);
    let problem = match error {
        Error::SerdeUnknownField {
            field, expected, ..
        } => {
            let nearest = nearest(field, expected.iter().copied()).unwrap_or_default();
            format!(
                "`{field}` is not a key here; the keys are {}; the nearest is `{nearest}`",
                expected.join(", ")
            )
        }
        Error::SerdeMissingField { field, .. } => format!("the key `{field}` is missing"),
        Error::DuplicateMappingKey { key: Some(key), .. } => format!("`{key}` is there twice"),
        other => {
            let options = serde_saphyr::render_options! { snippets: SnippetMode::Off };
            other.render_with_options(options)
        }
    };
    Wrong::at(location, problem)
}

#[cfg(test)]
mod tests;

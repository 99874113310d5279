//! What control pushes: versions, whole states and changes, and what a sidecar asks to be told.

use std::collections::HashSet;
use std::fmt;

use super::endpoint::Endpoint;
use super::error::{FieldError, Problem};
use super::name::{NodeId, SERVICE_NAME_LIMIT, ServiceName};
use super::node::Generation;
use super::pushed::PushedRule;
use crate::wire::control::v1 as wire;
use crate::wire::routing::v1 as routing;

/// The most services in one subscription request.
pub const SUBSCRIBE_LIMIT: usize = 16_384;
/// The most entries of one kind in one update.
pub const UPDATE_LIMIT: usize = 262_144;
/// The largest update, in bytes as encoded. Above what a mesh of 65,536 endpoints with rules of
/// usual length needs; a sidecar sets its decoder to this, because gRPC's default is 4 MiB.
pub const UPDATE_BYTES_LIMIT: usize = 64 << 20;
/// Fields and problems of refused rules are cut to so many bytes on the wire: thousands of rules may
/// be refused at once, and a problem may list every method of a service.
pub const REFUSED_FIELD_LIMIT: usize = 256;
/// See [`REFUSED_FIELD_LIMIT`].
pub const REFUSED_PROBLEM_LIMIT: usize = 512;
/// The longest store id, in bytes.
const STORE_ID_LIMIT: usize = 64;

/// A place in a store's history. Two versions of different stores cannot be compared.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Version {
    /// Which store counts.
    pub store: String,
    /// Grows by one with each change.
    pub counter: u64,
}

impl fmt::Display for Version {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}@{}", self.counter, self.store)
    }
}

/// What a sidecar wants to know more, or no more.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subscription {
    /// Services to be told about from now on.
    pub add: Vec<ServiceName>,
    /// Services to be told about no more.
    pub remove: Vec<ServiceName>,
    /// All services, those to come included.
    pub all: bool,
}

/// News of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Update {
    /// What is held once this is taken.
    pub version: Version,
    /// This is all there is; services not named here are no longer held.
    pub full: bool,
    /// Whole states: each replaces what was held of its service.
    pub services: Vec<ServiceState>,
    /// Endpoints that are new or changed.
    pub upserts: Vec<Endpoint>,
    /// Endpoints that left.
    pub removals: Vec<Removal>,
    /// Rules that were applied, new or changed; in a full update these are all.
    pub rules: Vec<PushedRule>,
    /// Rules that cannot be. They refuse nothing but themselves: what is known of nodes must not
    /// grow old because of a rule.
    pub refused: Vec<RefusedRule>,
    /// Services whose applied rule was taken back.
    pub rules_removed: Vec<ServiceName>,
}

/// A pushed rule that is not taken; the last good one of its service stays.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRule {
    /// Its service, as it was given.
    pub service: String,
    /// Its version.
    pub version: u64,
    /// Its place among the update's rules.
    pub place: usize,
    /// What is wrong with it.
    pub error: FieldError,
}

impl Update {
    /// Refuses those of its rules that do not pass, and every second one of a service. `judge`
    /// names fields as rules have them (`lane`); what is kept has the path in the update
    /// (`rules[3].rule.lane`).
    pub fn judge_rules(&mut self, mut judge: impl FnMut(&PushedRule) -> Result<(), FieldError>) {
        let unread: HashSet<usize> = self.refused.iter().map(|refused| refused.place).collect();
        let places = (0..).filter(|place| !unread.contains(place));
        let mut named = HashSet::new();
        let mut good = Vec::with_capacity(self.rules.len());
        for (place, pushed) in places.zip(std::mem::take(&mut self.rules)) {
            let judged = if named.insert(pushed.rule.service.clone()) {
                judge(&pushed)
            } else {
                let given = pushed.rule.service.to_string();
                Err(FieldError::new("service", Problem::Duplicate { given }))
            };
            match judged {
                Ok(()) => good.push(pushed),
                Err(error) => self.refused.push(RefusedRule {
                    service: pushed.rule.service.to_string(),
                    version: pushed.version,
                    place,
                    error: error.within(format_args!("rules[{place}].rule")),
                }),
            }
        }
        self.rules = good;
        self.refused.sort_by_key(|refused| refused.place);
    }
}

/// All that is known of one service.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServiceState {
    /// The service.
    pub service: ServiceName,
    /// Some node offered it once.
    pub ever_seen: bool,
    /// Who offers it now.
    pub endpoints: Vec<Endpoint>,
}

/// An endpoint that left.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Removal {
    /// The service.
    pub service: ServiceName,
    /// Whose offer it was.
    pub node: NodeId,
    /// Only this generation left.
    pub generation: Generation,
}

impl TryFrom<wire::Version> for Version {
    type Error = FieldError;

    fn try_from(version: wire::Version) -> Result<Self, FieldError> {
        if version.store_id.is_empty() {
            return Err(FieldError::new("store_id", Problem::Missing));
        }
        if version.store_id.len() > STORE_ID_LIMIT {
            let problem = Problem::TooLong {
                length: version.store_id.len(),
                limit: STORE_ID_LIMIT,
            };
            return Err(FieldError::new("store_id", problem));
        }
        Ok(Self {
            store: version.store_id,
            counter: version.counter,
        })
    }
}

impl From<&Version> for wire::Version {
    fn from(version: &Version) -> Self {
        Self {
            store_id: version.store.clone(),
            counter: version.counter,
        }
    }
}

impl TryFrom<wire::Subscribe> for Subscription {
    type Error = FieldError;

    fn try_from(subscribe: wire::Subscribe) -> Result<Self, FieldError> {
        Ok(Self {
            add: names(&subscribe.services, "services", SUBSCRIBE_LIMIT)?,
            remove: names(&subscribe.unsubscribe, "unsubscribe", SUBSCRIBE_LIMIT)?,
            all: subscribe.all,
        })
    }
}

impl From<&Subscription> for wire::Subscribe {
    fn from(subscription: &Subscription) -> Self {
        let text =
            |names: &[ServiceName]| names.iter().map(|name| name.as_str().to_owned()).collect();
        Self {
            services: text(&subscription.add),
            unsubscribe: text(&subscription.remove),
            all: subscription.all,
        }
    }
}

impl TryFrom<wire::Update> for Update {
    type Error = FieldError;

    fn try_from(update: wire::Update) -> Result<Self, FieldError> {
        let version = update
            .version
            .ok_or_else(|| FieldError::new("version", Problem::Missing))?;
        let (rules, refused) = pushed(update.rules)?;
        Ok(Self {
            version: version
                .try_into()
                .map_err(|error: FieldError| error.within("version"))?,
            full: update.full,
            services: each(update.services, "services")?,
            upserts: each(update.upserts, "upserts")?,
            removals: each(update.removals, "removals")?,
            rules,
            refused,
            rules_removed: names(&update.rules_removed, "rules_removed", UPDATE_LIMIT)?,
        })
    }
}

impl From<&Update> for wire::Update {
    fn from(update: &Update) -> Self {
        Self {
            version: Some((&update.version).into()),
            full: update.full,
            services: update.services.iter().map(Into::into).collect(),
            upserts: update.upserts.iter().map(Into::into).collect(),
            removals: update.removals.iter().map(Into::into).collect(),
            rules: update.rules.iter().map(Into::into).collect(),
            rules_removed: update
                .rules_removed
                .iter()
                .map(|service| service.as_str().to_owned())
                .collect(),
        }
    }
}

/// Rules that are right, and those that are not.
fn pushed(
    rules: Vec<routing::PushedRule>,
) -> Result<(Vec<PushedRule>, Vec<RefusedRule>), FieldError> {
    if rules.len() > UPDATE_LIMIT {
        let (count, limit) = (rules.len(), UPDATE_LIMIT);
        return Err(FieldError::new("rules", Problem::TooMany { count, limit }));
    }
    let (mut good, mut refused) = (Vec::new(), Vec::new());
    for (index, rule) in rules.into_iter().enumerate() {
        let service = rule.rule.as_ref().map(|rule| rule.service.clone());
        let version = rule.version;
        match PushedRule::try_from(rule) {
            Ok(rule) => good.push(rule),
            Err(error) => refused.push(RefusedRule {
                service: service.unwrap_or_default(),
                version,
                place: index,
                error: error.within(format_args!("rules[{index}]")),
            }),
        }
    }
    Ok((good, refused))
}

impl From<&RefusedRule> for wire::RuleRefusal {
    fn from(refused: &RefusedRule) -> Self {
        Self {
            service: cut(&refused.service, SERVICE_NAME_LIMIT),
            version: refused.version,
            field: cut(&refused.error.path, REFUSED_FIELD_LIMIT),
            problem: cut(&refused.error.problem.to_string(), REFUSED_PROBLEM_LIMIT),
        }
    }
}

/// The beginning of a text that people read.
fn cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let mark = "…";
    let mut end = limit - mark.len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{mark}", &text[..end])
}

impl TryFrom<wire::ServiceState> for ServiceState {
    type Error = FieldError;

    fn try_from(state: wire::ServiceState) -> Result<Self, FieldError> {
        let service = ServiceName::new(&state.service)?;
        let endpoints: Vec<Endpoint> = each(state.endpoints, "endpoints")?;
        let mut nodes = std::collections::HashSet::with_capacity(endpoints.len());
        for (index, endpoint) in endpoints.iter().enumerate() {
            if endpoint.offer.service != service {
                let text = format!(
                    "the state is of {service}, the endpoint of {}",
                    endpoint.offer.service
                );
                let path = format!("endpoints[{index}].service");
                return Err(FieldError::new(path, Problem::Contradiction(text)));
            }
            if !nodes.insert(endpoint.node.clone()) {
                let problem = Problem::Duplicate {
                    given: endpoint.node.to_string(),
                };
                return Err(FieldError::new(
                    format!("endpoints[{index}].node_id"),
                    problem,
                ));
            }
        }
        Ok(Self {
            service,
            ever_seen: state.ever_seen,
            endpoints,
        })
    }
}

impl From<&ServiceState> for wire::ServiceState {
    fn from(state: &ServiceState) -> Self {
        Self {
            service: state.service.as_str().to_owned(),
            ever_seen: state.ever_seen,
            endpoints: state.endpoints.iter().map(Into::into).collect(),
        }
    }
}

impl TryFrom<wire::Removal> for Removal {
    type Error = FieldError;

    fn try_from(removal: wire::Removal) -> Result<Self, FieldError> {
        Ok(Self {
            service: ServiceName::new(&removal.service)?,
            node: NodeId::new(&removal.node_id)?,
            generation: Generation::from_wire(removal.generation, "generation")?,
        })
    }
}

impl From<&Removal> for wire::Removal {
    fn from(removal: &Removal) -> Self {
        Self {
            service: removal.service.as_str().to_owned(),
            node_id: removal.node.as_str().to_owned(),
            generation: removal.generation.number(),
        }
    }
}

fn names(texts: &[String], field: &str, limit: usize) -> Result<Vec<ServiceName>, FieldError> {
    if texts.len() > limit {
        let problem = Problem::TooMany {
            count: texts.len(),
            limit,
        };
        return Err(FieldError::new(field, problem));
    }
    texts
        .iter()
        .enumerate()
        .map(|(index, text)| {
            ServiceName::new(text)
                .map_err(|error| FieldError::new(format!("{field}[{index}]"), error.problem))
        })
        .collect()
}

fn each<From, To>(items: Vec<From>, field: &str) -> Result<Vec<To>, FieldError>
where
    To: TryFrom<From, Error = FieldError>,
{
    if items.len() > UPDATE_LIMIT {
        let problem = Problem::TooMany {
            count: items.len(),
            limit: UPDATE_LIMIT,
        };
        return Err(FieldError::new(field, problem));
    }
    items
        .into_iter()
        .enumerate()
        .map(|(index, item)| {
            To::try_from(item).map_err(|error| error.within(format_args!("{field}[{index}]")))
        })
        .collect()
}

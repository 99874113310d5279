//! A service's routing rule. The same type holds rules that were compiled in (all of it borrowed,
//! so that a table of them is a constant) and rules that came over the wire (owned).

use std::borrow::Cow;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::error::{FieldError, Problem};
use super::matrix::{ConnectionClass, Lane, check_pair};
use super::name::{ServiceName, is_identifier};
use super::path::METHOD_NAME_LIMIT;
use crate::wire::routing::v1 as wire;

/// The most methods that a rule may name.
pub const METHODS_LIMIT: usize = 1_024;
/// The longest origin that is kept, in bytes.
pub const ORIGIN_LIMIT: usize = 1_024;
/// The longest time limit that a rule may set.
pub const TIMEOUT_LIMIT: Duration = Duration::from_secs(24 * 3600);

/// What a service demands of the mesh.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rule {
    /// The gRPC service, `shop.v1.Orders`.
    pub service: Cow<'static, str>,
    /// What kind of service it is.
    pub category: Category,
    /// From where it may be reached.
    pub class: ConnectionClass,
    /// The lane in which its calls travel.
    pub lane: Lane,
    /// Refused rather than sent in the clear.
    pub secure: bool,
    /// The channel is kept open while idle.
    pub persistent: bool,
    /// How an endpoint is picked; `None` where the rule says nothing.
    pub load_balancing: Option<LoadBalancing>,
    /// Time limit of unary calls that bring none.
    pub timeout: Option<Duration>,
    /// The methods that are known. Others count as streaming and as not idempotent.
    pub methods: Cow<'static, [MethodRule]>,
    /// Where the rule was written: `file:line`, or the constant's name.
    pub origin: Cow<'static, str>,
}

/// A method as a rule knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MethodRule {
    /// The method's name without its service.
    pub name: Cow<'static, str>,
    /// The caller sends a stream.
    pub client_streaming: bool,
    /// The callee answers with a stream.
    pub server_streaming: bool,
    /// Doing it twice has the same effect as doing it once.
    pub idempotent: bool,
    /// Time limit of a call that brings none.
    pub timeout: Option<Duration>,
}

/// What kind of service it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Category {
    /// Nothing was said.
    Unspecified,
    /// Metadata of the application.
    Metadata,
    /// Administration.
    Admin,
    /// Work.
    Worker,
    /// What users send in.
    Ingress,
    /// Replicated log.
    Bifrost,
    /// Heartbeats and membership.
    Gossip,
}

/// How an endpoint is picked among those that offer a service.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LoadBalancing {
    /// One after the other.
    RoundRobin,
    /// The one with the fewest calls in flight.
    LeastConnections,
    /// By a key.
    ConsistentHash,
    /// Any.
    Random,
    /// Exactly one endpoint is meant: the caller names the node, or there is only one.
    None,
    /// Two at random, the better by latency and load.
    PeakEwma,
}

impl LoadBalancing {
    /// The name as it is written in rules.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "ROUND_ROBIN",
            Self::LeastConnections => "LEAST_CONNECTIONS",
            Self::ConsistentHash => "CONSISTENT_HASH",
            Self::Random => "RANDOM",
            Self::None => "NONE",
            Self::PeakEwma => "PEAK_EWMA",
        }
    }
}

impl Category {
    /// The name as it is written in rules.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Unspecified => "UNSPECIFIED",
            Self::Metadata => "METADATA",
            Self::Admin => "ADMIN",
            Self::Worker => "WORKER",
            Self::Ingress => "INGRESS",
            Self::Bifrost => "BIFROST",
            Self::Gossip => "GOSSIP",
        }
    }
}

impl MethodRule {
    /// A unary method that is not idempotent and has no time limit of its own.
    #[must_use]
    pub const fn unary(name: &'static str) -> Self {
        Self {
            name: Cow::Borrowed(name),
            client_streaming: false,
            server_streaming: false,
            idempotent: false,
            timeout: None,
        }
    }

    /// A streaming method.
    #[must_use]
    pub const fn streaming(name: &'static str, client: bool, server: bool) -> Self {
        Self {
            name: Cow::Borrowed(name),
            client_streaming: client,
            server_streaming: server,
            idempotent: false,
            timeout: None,
        }
    }

    /// The same method, declared idempotent.
    #[must_use]
    pub const fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// One message each way.
    #[must_use]
    pub const fn is_unary(&self) -> bool {
        !self.client_streaming && !self.server_streaming
    }
}

impl Rule {
    /// The rule of a service that some node serves but that no rule names.
    #[must_use]
    pub fn default_for(service: &ServiceName) -> Self {
        Self {
            service: Cow::Owned(service.as_str().to_owned()),
            category: Category::Unspecified,
            class: ConnectionClass::Internal,
            lane: Lane::GENERAL,
            secure: false,
            persistent: false,
            load_balancing: None,
            timeout: None,
            methods: Cow::Borrowed(&[]),
            origin: Cow::Borrowed("default rule"),
        }
    }

    /// The method of this name, where the rule knows it.
    #[must_use]
    pub fn method(&self, name: &str) -> Option<&MethodRule> {
        self.methods.iter().find(|method| method.name == name)
    }

    /// What two nodes must agree on: class, lane and secure. Nodes that differ in it must not
    /// call each other for this service.
    #[must_use]
    pub fn agreement(&self) -> (ConnectionClass, Lane, bool) {
        (self.class, self.lane, self.secure)
    }

    /// SHA-256 over what nodes must agree on, for a table of rules in any order.
    #[must_use]
    pub fn digest<'a>(rules: impl IntoIterator<Item = &'a Self>) -> [u8; 32] {
        let mut lines: Vec<String> = rules
            .into_iter()
            .map(|rule| {
                format!(
                    "{} {} {} {}\n",
                    rule.service, rule.class, rule.lane, rule.secure
                )
            })
            .collect();
        lines.sort_unstable();
        let mut hasher = Sha256::new();
        for line in lines {
            hasher.update(line.as_bytes());
        }
        hasher.finalize().into()
    }
}

impl TryFrom<wire::Rule> for Rule {
    type Error = FieldError;

    fn try_from(rule: wire::Rule) -> Result<Self, FieldError> {
        let service = ServiceName::new(&rule.service)?;
        let class = ConnectionClass::from_wire(rule.connection, "connection")?;
        let lane = lane_from_wire(rule.lane_id, &rule.lane)?;
        check_pair(class, lane, "lane")?;
        if rule.methods.len() > METHODS_LIMIT {
            let problem = Problem::TooMany {
                count: rule.methods.len(),
                limit: METHODS_LIMIT,
            };
            return Err(FieldError::new("methods", problem));
        }
        let mut methods = Vec::with_capacity(rule.methods.len());
        for (index, method) in rule.methods.into_iter().enumerate() {
            let method = MethodRule::try_from(method)
                .map_err(|error| error.within(format_args!("methods[{index}]")))?;
            if methods
                .iter()
                .any(|known: &MethodRule| known.name == method.name)
            {
                let problem = Problem::Duplicate {
                    given: method.name.into_owned(),
                };
                return Err(FieldError::new(format!("methods[{index}].name"), problem));
            }
            methods.push(method);
        }
        if rule.origin.len() > ORIGIN_LIMIT {
            let problem = Problem::TooLong {
                length: rule.origin.len(),
                limit: ORIGIN_LIMIT,
            };
            return Err(FieldError::new("origin", problem));
        }
        Ok(Self {
            service: Cow::Owned(service.as_str().to_owned()),
            category: category_from_wire(rule.category)?,
            class,
            lane,
            secure: rule.secure,
            persistent: rule.persistent,
            load_balancing: load_balancing_from_wire(rule.load_balancing)?,
            timeout: duration_from_wire(rule.timeout, "timeout")?,
            methods: Cow::Owned(methods),
            origin: Cow::Owned(rule.origin),
        })
    }
}

impl TryFrom<wire::Method> for MethodRule {
    type Error = FieldError;

    fn try_from(method: wire::Method) -> Result<Self, FieldError> {
        if method.name.len() > METHOD_NAME_LIMIT {
            let problem = Problem::TooLong {
                length: method.name.len(),
                limit: METHOD_NAME_LIMIT,
            };
            return Err(FieldError::new("name", problem));
        }
        if !is_identifier(&method.name) {
            let problem = Problem::Malformed {
                given: method.name,
                wanted: "a method name",
            };
            return Err(FieldError::new("name", problem));
        }
        Ok(Self {
            name: Cow::Owned(method.name),
            client_streaming: method.client_streaming,
            server_streaming: method.server_streaming,
            idempotent: method.idempotent,
            timeout: duration_from_wire(method.timeout, "timeout")?,
        })
    }
}

impl From<&Rule> for wire::Rule {
    fn from(rule: &Rule) -> Self {
        let category = match rule.category {
            Category::Unspecified => wire::Category::Unspecified,
            Category::Metadata => wire::Category::Metadata,
            Category::Admin => wire::Category::Admin,
            Category::Worker => wire::Category::Worker,
            Category::Ingress => wire::Category::Ingress,
            Category::Bifrost => wire::Category::Bifrost,
            Category::Gossip => wire::Category::Gossip,
        };
        let load_balancing = match rule.load_balancing {
            None => wire::LoadBalancing::Unspecified,
            Some(LoadBalancing::RoundRobin) => wire::LoadBalancing::RoundRobin,
            Some(LoadBalancing::LeastConnections) => wire::LoadBalancing::LeastConnections,
            Some(LoadBalancing::ConsistentHash) => wire::LoadBalancing::ConsistentHash,
            Some(LoadBalancing::Random) => wire::LoadBalancing::Random,
            Some(LoadBalancing::None) => wire::LoadBalancing::None,
            Some(LoadBalancing::PeakEwma) => wire::LoadBalancing::PeakEwma,
        };
        Self {
            service: rule.service.clone().into_owned(),
            category: category.into(),
            connection: rule.class.to_wire().into(),
            lane_id: rule.lane.id().into(),
            lane: rule.lane.name().to_owned(),
            secure: rule.secure,
            persistent: rule.persistent,
            load_balancing: load_balancing.into(),
            timeout: rule.timeout.map(duration_to_wire),
            methods: rule
                .methods
                .iter()
                .map(|method| wire::Method {
                    name: method.name.clone().into_owned(),
                    client_streaming: method.client_streaming,
                    server_streaming: method.server_streaming,
                    idempotent: method.idempotent,
                    timeout: method.timeout.map(duration_to_wire),
                })
                .collect(),
            origin: rule.origin.clone().into_owned(),
        }
    }
}

/// A lane is sent by number and by name; both must mean the same.
///
/// # Errors
/// An unknown number, or a name that belongs to another number.
pub fn lane_from_wire(id: u32, name: &str) -> Result<Lane, FieldError> {
    let lane = u16::try_from(id)
        .ok()
        .and_then(Lane::from_id)
        .ok_or_else(|| {
            FieldError::new(
                "lane_id",
                Problem::Unknown {
                    given: id.to_string(),
                    what: "lane",
                },
            )
        })?;
    if lane.name() == name {
        return Ok(lane);
    }
    let text = format!("lane_id {id} is `{lane}`, lane says `{name}`");
    Err(FieldError::new("lane", Problem::Contradiction(text)))
}

fn category_from_wire(number: i32) -> Result<Category, FieldError> {
    Ok(match wire::Category::try_from(number) {
        Ok(wire::Category::Unspecified) => Category::Unspecified,
        Ok(wire::Category::Metadata) => Category::Metadata,
        Ok(wire::Category::Admin) => Category::Admin,
        Ok(wire::Category::Worker) => Category::Worker,
        Ok(wire::Category::Ingress) => Category::Ingress,
        Ok(wire::Category::Bifrost) => Category::Bifrost,
        Ok(wire::Category::Gossip) => Category::Gossip,
        Err(_) => {
            let problem = Problem::Unknown {
                given: number.to_string(),
                what: "category",
            };
            return Err(FieldError::new("category", problem));
        }
    })
}

fn load_balancing_from_wire(number: i32) -> Result<Option<LoadBalancing>, FieldError> {
    Ok(match wire::LoadBalancing::try_from(number) {
        Ok(wire::LoadBalancing::Unspecified) => None,
        Ok(wire::LoadBalancing::RoundRobin) => Some(LoadBalancing::RoundRobin),
        Ok(wire::LoadBalancing::LeastConnections) => Some(LoadBalancing::LeastConnections),
        Ok(wire::LoadBalancing::ConsistentHash) => Some(LoadBalancing::ConsistentHash),
        Ok(wire::LoadBalancing::Random) => Some(LoadBalancing::Random),
        Ok(wire::LoadBalancing::None) => Some(LoadBalancing::None),
        Ok(wire::LoadBalancing::PeakEwma) => Some(LoadBalancing::PeakEwma),
        Err(_) => {
            let problem = Problem::Unknown {
                given: number.to_string(),
                what: "load balancing",
            };
            return Err(FieldError::new("load_balancing", problem));
        }
    })
}

fn duration_from_wire(
    duration: Option<prost_types::Duration>,
    path: &str,
) -> Result<Option<Duration>, FieldError> {
    let Some(duration) = duration else {
        return Ok(None);
    };
    let given = format!("{}.{:09} s", duration.seconds, duration.nanos);
    let duration = Duration::try_from(duration)
        .ok()
        .filter(|duration| !duration.is_zero() && *duration <= TIMEOUT_LIMIT);
    duration.map(Some).ok_or_else(|| {
        let wanted = "a time limit above zero and of at most 24 hours";
        FieldError::new(path, Problem::Malformed { given, wanted })
    })
}

fn duration_to_wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

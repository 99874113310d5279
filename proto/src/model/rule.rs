//! A service's routing rule. The same type holds rules that were compiled in (all of it borrowed,
//! so that a table of them is a constant) and rules that came over the wire (owned).

use std::borrow::Cow;
use std::time::Duration;

use sha2::{Digest, Sha256};

use super::admission::{Admission, Concurrency, Fault};
use super::authorization::Authorization;
use super::balancing::Balancing;
use super::breaker::Breaker;
use super::class::ConnectionClass;
use super::error::{FieldError, Problem};
use super::flaw::{is_field_path, is_limit};
use super::hedge::Hedge;
use super::lane::{Lane, check_name};
use super::name::{ServiceName, is_identifier};
use super::outlier::Outlier;
use super::path::METHOD_NAME_LIMIT;
use super::retry::{Retry, RetryBudget};
use super::split::Split;
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
    /// A strategy of one's own, by the name under which the sidecar's builder knows it, instead
    /// of `load_balancing`.
    pub strategy: Option<Cow<'static, str>>,
    /// What else it says of balancing.
    pub balancing: Balancing,
    /// Time limit of unary calls that bring none.
    pub timeout: Option<Duration>,
    /// The ceiling: no unary call may take longer, whatever its caller or its method says.
    pub max_timeout: Option<Duration>,
    /// How idempotent methods are tried again; `None` where they are not.
    pub retry: Option<Retry>,
    /// When an endpoint that fails is left alone; `None` where the rule says nothing.
    pub breaker: Option<Breaker>,
    /// When one that fails more often than others is; `None` where the rule says nothing.
    pub outlier: Option<Outlier>,
    /// How calls are split between versions of the service; `None` where they are not.
    pub split: Option<Split>,
    /// What is admitted of its calls.
    pub admission: Admission,
    /// Who may call it; `None` where the rule says nothing.
    pub authorization: Option<Authorization>,
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
    /// The request's field whose value keeps calls together on one endpoint.
    pub hash_on: Option<Cow<'static, str>>,
    /// How it is tried again, instead of its service's.
    pub retry: Option<Retry>,
    /// When its calls are sent a second time beside the first.
    pub hedge: Option<Hedge>,
    /// What is admitted of its calls: limits beside its service's, a fault instead.
    pub admission: Admission,
    /// Who may call it, instead of its service's.
    pub authorization: Option<Authorization>,
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
    /// Every one.
    pub const ALL: [Self; 6] = [
        Self::RoundRobin,
        Self::LeastConnections,
        Self::ConsistentHash,
        Self::Random,
        Self::None,
        Self::PeakEwma,
    ];

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
            hash_on: None,
            retry: None,
            hedge: None,
            admission: Admission::NONE,
            authorization: None,
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
            hash_on: None,
            retry: None,
            hedge: None,
            admission: Admission::NONE,
            authorization: None,
        }
    }

    /// The same method, declared idempotent.
    #[must_use]
    pub const fn idempotent(mut self) -> Self {
        self.idempotent = true;
        self
    }

    /// The same method with this time limit of calls that bring none.
    #[must_use]
    pub const fn with_timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The same method; the value of this field of its request keeps calls together.
    #[must_use]
    pub const fn with_hash_on(mut self, field: &'static str) -> Self {
        let before = self.hash_on.replace(Cow::Borrowed(field));
        // A constant runs no destructor. What is forgotten borrows, unless somebody puts a rule
        // from the wire through here.
        std::mem::forget(before);
        self
    }

    /// The same method, tried again in this way.
    #[must_use]
    pub const fn with_retry(mut self, retry: Retry) -> Self {
        self.retry = Some(retry);
        self
    }

    /// The same method, whose calls are sent a second time in this way.
    #[must_use]
    pub const fn with_hedge(mut self, hedge: Hedge) -> Self {
        self.hedge = Some(hedge);
        self
    }

    /// The same method, of whose calls so much is admitted.
    #[must_use]
    pub const fn with_admission(mut self, admission: Admission) -> Self {
        // See `with_hash_on`.
        std::mem::forget(std::mem::replace(&mut self.admission, admission));
        self
    }

    /// The same method, which these may call and nobody else.
    #[must_use]
    pub const fn with_authorization(mut self, authorization: Authorization) -> Self {
        // See `with_hash_on`.
        std::mem::forget(self.authorization.replace(authorization));
        self
    }

    /// When its calls are sent a second time beside the first; `None` where they are not, as always
    /// for a method that streams or is not idempotent.
    #[must_use]
    pub fn hedged(&self) -> Option<Hedge> {
        let hedge = self.hedge.filter(|hedge| !hedge.off)?;
        (self.idempotent && self.is_unary()).then_some(hedge)
    }

    /// One message each way.
    #[must_use]
    pub const fn is_unary(&self) -> bool {
        !self.client_streaming && !self.server_streaming
    }
}

impl Rule {
    /// A rule for constants: this service, class and lane, these methods, nothing else demanded.
    /// `origin` says where it was written, for `explain`.
    ///
    /// # Panics
    /// At compile time, where it is used in a constant: the class and the lane do not go together.
    #[must_use]
    pub const fn new(
        service: &'static str,
        class: ConnectionClass,
        lane: Lane,
        methods: &'static [MethodRule],
        origin: &'static str,
    ) -> Self {
        assert!(
            class.allows(lane),
            "this class and this lane do not go together"
        );
        Self {
            service: Cow::Borrowed(service),
            category: Category::Unspecified,
            class,
            lane,
            secure: false,
            persistent: false,
            load_balancing: None,
            strategy: None,
            balancing: Balancing::NONE,
            timeout: None,
            max_timeout: None,
            retry: None,
            breaker: None,
            outlier: None,
            split: None,
            admission: Admission::NONE,
            authorization: None,
            methods: Cow::Borrowed(methods),
            origin: Cow::Borrowed(origin),
        }
    }

    /// The rule of a service that some node serves but that no rule names.
    #[must_use]
    pub fn default_for(service: &ServiceName) -> Self {
        Self {
            service: Cow::Owned(service.as_str().to_owned()),
            ..Self::new(
                "",
                ConnectionClass::Internal,
                Lane::GENERAL,
                &[],
                "default rule",
            )
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

impl Rule {
    /// How calls of this method are tried again: its own word, or its service's. `None` where they
    /// are not, as always for a method that is not idempotent.
    #[must_use]
    pub fn retry_of(&self, method: &MethodRule) -> Option<Retry> {
        let retry = method.retry.or(self.retry);
        retry.filter(|_| method.idempotent && !method.client_streaming)
    }

    /// How many further attempts all its calls may have together.
    #[must_use]
    pub fn retry_budget(&self) -> RetryBudget {
        self.retry
            .map_or(RetryBudget::DEFAULT, |retry| retry.budget())
    }
}

impl TryFrom<wire::Rule> for Rule {
    type Error = FieldError;

    fn try_from(rule: wire::Rule) -> Result<Self, FieldError> {
        // The service first: it is what people look for in an error.
        ServiceName::new(&rule.service)?;
        let class = ConnectionClass::from_wire(
            rule.connection,
            rule.class_definition.as_ref(),
            "connection",
        )?;
        let lane = Lane::from_wire(rule.lane_id, &rule.lane, rule.lane_definition.as_ref())?;
        Self::from_wire(rule, class, lane)
    }
}

impl Rule {
    /// The rule whose class and lane are known already; those that `rule` names are not looked at.
    pub(super) fn from_wire(
        rule: wire::Rule,
        class: ConnectionClass,
        lane: Lane,
    ) -> Result<Self, FieldError> {
        let service = ServiceName::new(&rule.service)?;
        if rule.methods.len() > METHODS_LIMIT {
            let problem = Problem::TooMany {
                count: rule.methods.len(),
                limit: METHODS_LIMIT,
            };
            return Err(FieldError::new("methods", problem));
        }
        let mut methods = Vec::with_capacity(rule.methods.len());
        let mut names = std::collections::HashSet::new();
        for (index, method) in rule.methods.into_iter().enumerate() {
            let method = MethodRule::from_wire(method, (class, lane))
                .map_err(|error| error.within(format_args!("methods[{index}]")))?;
            if !names.insert(method.name.clone()) {
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
        let strategy = match rule.load_balancing_custom.as_str() {
            "" => None,
            name => {
                check_name(name, "load_balancing_custom")?;
                Some(Cow::Owned(name.to_owned()))
            }
        };
        let slow_start = duration_from_wire(rule.slow_start, "slow_start")?;
        let rule = Self {
            service: Cow::Owned(service.as_str().to_owned()),
            category: category_from_wire(rule.category)?,
            class,
            lane,
            secure: rule.secure,
            persistent: rule.persistent,
            load_balancing: load_balancing_from_wire(rule.load_balancing)?,
            strategy,
            balancing: Balancing::from_wire(rule.hash_header, rule.locality, slow_start)?,
            timeout: duration_from_wire(rule.timeout, "timeout")?,
            max_timeout: duration_from_wire(rule.max_timeout, "max_timeout")?,
            retry: Retry::from_wire(rule.retry, "retry")?,
            breaker: Breaker::from_wire(rule.breaker, "breaker")?,
            outlier: Outlier::from_wire(rule.outlier),
            split: rule.split.map(Split::from_wire),
            admission: Admission::from_wire(&rule.limits, rule.concurrency.as_ref(), rule.fault)?,
            authorization: Authorization::from_wire(rule.authorization, (class, lane))?,
            methods: Cow::Owned(methods),
            origin: Cow::Owned(rule.origin),
        };
        rule.check()?;
        Ok(rule)
    }
}

impl MethodRule {
    /// A method of a rule of this class and lane.
    fn from_wire(method: wire::Method, way: (ConnectionClass, Lane)) -> Result<Self, FieldError> {
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
            hash_on: match method.hash_on.as_str() {
                "" => None,
                field if is_field_path(field) => Some(Cow::Owned(method.hash_on)),
                _ => {
                    let (given, wanted) = (method.hash_on, "a field of the request");
                    return Err(FieldError::new(
                        "hash_on",
                        Problem::Malformed { given, wanted },
                    ));
                }
            },
            retry: Retry::from_wire(method.retry, "retry")?,
            hedge: Hedge::from_wire(method.hedge, "hedge")?,
            admission: Admission::from_wire(&method.limits, None, method.fault)?,
            authorization: Authorization::from_wire(method.authorization, way)?,
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
            connection: rule.class.to_wire().0.into(),
            class_definition: rule.class.to_wire().1,
            lane_id: rule.lane.id().into(),
            lane: rule.lane.name().to_owned(),
            lane_definition: rule.lane.definition_to_wire(),
            secure: rule.secure,
            persistent: rule.persistent,
            load_balancing: load_balancing.into(),
            load_balancing_custom: rule.strategy.clone().unwrap_or_default().into_owned(),
            hash_header: rule
                .balancing
                .hash_header
                .as_deref()
                .unwrap_or_default()
                .to_owned(),
            locality: rule.balancing.locality.map_or(0, |it| it.to_wire().into()),
            slow_start: rule.balancing.slow_start.map(duration_to_wire),
            timeout: rule.timeout.map(duration_to_wire),
            max_timeout: rule.max_timeout.map(duration_to_wire),
            retry: rule.retry.map(Retry::to_wire),
            breaker: rule.breaker.map(Breaker::to_wire),
            outlier: rule.outlier.map(Outlier::to_wire),
            split: rule.split.as_ref().map(Split::to_wire),
            limits: rule.admission.limits_to_wire(),
            concurrency: rule.admission.concurrency.map(Concurrency::to_wire),
            fault: rule.admission.fault.as_ref().map(Fault::to_wire),
            authorization: rule.authorization.as_ref().map(Authorization::to_wire),
            methods: rule
                .methods
                .iter()
                .map(|method| wire::Method {
                    name: method.name.clone().into_owned(),
                    client_streaming: method.client_streaming,
                    server_streaming: method.server_streaming,
                    idempotent: method.idempotent,
                    timeout: method.timeout.map(duration_to_wire),
                    hash_on: method.hash_on.clone().unwrap_or_default().into_owned(),
                    retry: method.retry.map(Retry::to_wire),
                    hedge: method.hedge.map(Hedge::to_wire),
                    limits: method.admission.limits_to_wire(),
                    fault: method.admission.fault.as_ref().map(Fault::to_wire),
                    authorization: method.authorization.as_ref().map(Authorization::to_wire),
                })
                .collect(),
            origin: rule.origin.clone().into_owned(),
        }
    }
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
        .filter(|duration| is_limit(Some(*duration)));
    duration.map(Some).ok_or_else(|| {
        let wanted = "a time limit above zero and of at most 24 hours";
        FieldError::new(path, Problem::Malformed { given, wanted })
    })
}

pub(super) fn duration_to_wire(duration: Duration) -> prost_types::Duration {
    prost_types::Duration {
        seconds: i64::try_from(duration.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(duration.subsec_nanos()).unwrap_or(0),
    }
}

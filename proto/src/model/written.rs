//! Rules as people write them: options in a `.proto`, or the same fields in a YAML file. Texts
//! become what they mean here, once, and the rule is then checked as one from the wire is.

use std::time::Duration;

use super::class::ConnectionClass;
use super::error::{FieldError, Problem};
use super::lane::Lane;
use super::matrix::check_pair_among;
use super::rule::{Rule, TIMEOUT_LIMIT, duration_to_wire};
use super::vocabulary::Vocabulary;
use crate::wire::routing::v1 as wire;

/// A service's rule as it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct WrittenRule {
    /// The gRPC service.
    pub service: String,
    /// Its options.
    pub options: wire::ServiceRule,
    /// Its methods, in order; errors name them by their place.
    pub methods: Vec<WrittenMethod>,
    /// Where it is written, `file:line`.
    pub origin: String,
}

/// A method as it is written.
#[derive(Debug, Clone, PartialEq)]
pub struct WrittenMethod {
    /// Its name without its service.
    pub name: String,
    /// The caller sends a stream.
    pub client_streaming: bool,
    /// The callee answers with a stream.
    pub server_streaming: bool,
    /// Its options.
    pub options: wire::MethodRule,
}

impl WrittenRule {
    /// The rule that is meant, among the lanes and classes that this process knows
    /// ([`Lane::learn`]).
    ///
    /// # Errors
    /// The first field that is wrong: of the service by its name (`lane`), of a method as
    /// `methods[2].timeout`.
    pub fn read(&self) -> Result<Rule, FieldError> {
        self.read_with(&Vocabulary::known())
    }

    /// The rule that is meant, among these lanes and classes and no others.
    ///
    /// # Errors
    /// As [`WrittenRule::read`].
    pub fn read_with(&self, vocabulary: &Vocabulary) -> Result<Rule, FieldError> {
        let (class, lane) = (self.class(vocabulary)?, self.lane(vocabulary)?);
        check_pair_among(class, lane, "lane", &vocabulary.lanes())?;
        Rule::from_wire(self.wire(class, lane)?, class, lane)
    }

    /// The rule as the wire has it: names and texts have become what they mean, and nothing else
    /// is checked.
    ///
    /// # Errors
    /// As [`WrittenRule::read`], for names and texts.
    pub fn to_wire(&self) -> Result<wire::Rule, FieldError> {
        let vocabulary = Vocabulary::known();
        self.wire(self.class(&vocabulary)?, self.lane(&vocabulary)?)
    }

    fn wire(&self, class: ConnectionClass, lane: Lane) -> Result<wire::Rule, FieldError> {
        let options = &self.options;
        let (connection, class_definition) = class.to_wire();
        let mut methods = Vec::with_capacity(self.methods.len());
        for (index, method) in self.methods.iter().enumerate() {
            let timeout = limit(&method.options.timeout, "timeout")
                .map_err(|error| error.within(format_args!("methods[{index}]")))?;
            methods.push(wire::Method {
                name: method.name.clone(),
                client_streaming: method.client_streaming,
                server_streaming: method.server_streaming,
                idempotent: method.options.idempotent,
                timeout,
                hash_on: method.options.hash_on.clone(),
                retry: method.options.retry.clone(),
                hedge: method.options.hedge.clone(),
                limits: method.options.limits.clone(),
                fault: method.options.fault.clone(),
                authorization: method.options.authorization.clone(),
            });
        }
        Ok(wire::Rule {
            service: self.service.clone(),
            category: options.category,
            connection: connection.into(),
            class_definition,
            lane_id: lane.id().into(),
            lane: lane.name().to_owned(),
            lane_definition: lane.definition_to_wire(),
            secure: options.secure,
            persistent: options.persistent,
            load_balancing: options.load_balancing,
            load_balancing_custom: options.load_balancing_custom.clone(),
            timeout: limit(&options.timeout, "timeout")?,
            max_timeout: limit(&options.max_timeout, "max_timeout")?,
            hash_header: options.hash_header.clone(),
            locality: options.locality,
            slow_start: limit(&options.slow_start, "slow_start")?,
            retry: options.retry.clone(),
            breaker: options.breaker.clone(),
            outlier: options.outlier,
            split: options.split.clone(),
            limits: options.limits.clone(),
            concurrency: options.concurrency.clone(),
            fault: options.fault.clone(),
            authorization: options.authorization.clone(),
            methods,
            origin: self.origin.clone(),
        })
    }

    fn class(&self, vocabulary: &Vocabulary) -> Result<ConnectionClass, FieldError> {
        let name = self.options.connection_custom.as_str();
        let custom = "connection_custom";
        if name.is_empty() {
            if self.options.connection == 0 {
                let text = "is missing: it is INTERNAL or EXTERNAL, or `connection_custom` names a \
                            class of one's own";
                return Err(FieldError::new(
                    "connection",
                    Problem::Refused(text.to_owned()),
                ));
            }
            return ConnectionClass::from_wire(self.options.connection, None, "connection");
        }
        if self.options.connection != 0 {
            let text = "connection and connection_custom are both given".to_owned();
            return Err(FieldError::new(custom, Problem::Contradiction(text)));
        }
        ConnectionClass::own_among(&vocabulary.classes(), name)
            .map_err(|problem| FieldError::new(custom, problem))
    }

    fn lane(&self, vocabulary: &Vocabulary) -> Result<Lane, FieldError> {
        let name = self.options.lane.as_str();
        let lanes = vocabulary.lanes();
        let names = || lanes.iter().map(|lane| lane.name());
        if name.is_empty() {
            let names: Vec<_> = names().collect();
            let text = format!("is missing: it is one of {}", names.join(", "));
            return Err(FieldError::new("lane", Problem::Refused(text)));
        }
        lanes
            .iter()
            .find(|lane| lane.name() == name)
            .copied()
            .ok_or_else(|| FieldError::new("lane", Problem::unknown_name(name, "lane", names())))
    }
}

fn limit(text: &str, path: &str) -> Result<Option<prost_types::Duration>, FieldError> {
    if text.is_empty() {
        return Ok(None);
    }
    let malformed = || {
        let given = text.to_owned();
        let wanted = "a time limit: a whole number and a unit, such as 800ms, 30s, 5m or 1h";
        FieldError::new(path, Problem::Malformed { given, wanted })
    };
    let duration = duration(text).ok_or_else(malformed)?;
    if duration.is_zero() || duration > TIMEOUT_LIMIT {
        let given = text.to_owned();
        let wanted = "a time limit above zero and of at most 24 hours";
        return Err(FieldError::new(path, Problem::Malformed { given, wanted }));
    }
    Ok(Some(duration_to_wire(duration)))
}

/// The time that a policy's field says; `None` where it says nothing. Its bounds are checked with the
/// rule's.
pub(super) fn span(text: &str, path: &str) -> Result<Option<Duration>, FieldError> {
    if text.is_empty() {
        return Ok(None);
    }
    duration(text).map(Some).ok_or_else(|| {
        let given = text.to_owned();
        let wanted = "a time: a whole number and a unit, such as 800ms, 30s, 5m or 1h";
        FieldError::new(path, Problem::Malformed { given, wanted })
    })
}

/// The time as [`span`] reads it.
pub(super) fn span_text(time: Duration) -> String {
    format!("{}ms", time.as_millis())
}

/// Reads `800ms`, `30s`, `5m` or `1h`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let milliseconds: u64 = match unit {
        "ms" => 1,
        "s" => 1_000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return None,
    };
    let number: u64 = number.parse().ok()?;
    number.checked_mul(milliseconds).map(Duration::from_millis)
}

/// Writes what [`duration`] reads; rules say whole milliseconds.
pub(super) fn duration_text(duration: Duration) -> String {
    format!("{}ms", duration.as_millis())
}

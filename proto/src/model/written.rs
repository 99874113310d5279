//! Rules as people write them: options in a `.proto`, or the same fields in a YAML file. Texts
//! become what they mean here, once, and the rule is then checked as one from the wire is.

use std::time::Duration;

use super::class::ConnectionClass;
use super::error::{FieldError, Problem};
use super::lane::Lane;
use super::rule::{Rule, duration_to_wire};
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
    /// The rule that is meant. Lanes and classes of the project's own are to be made known before
    /// ([`Lane::learn`]).
    ///
    /// # Errors
    /// The first field that is wrong: of the service by its name (`lane`), of a method as
    /// `methods[2].timeout`.
    pub fn read(&self) -> Result<Rule, FieldError> {
        Rule::try_from(self.to_wire()?)
    }

    /// The rule as the wire has it: names and texts have become what they mean, and nothing else
    /// is checked.
    ///
    /// # Errors
    /// As [`WrittenRule::read`], for names and texts.
    pub fn to_wire(&self) -> Result<wire::Rule, FieldError> {
        let options = &self.options;
        let (connection, class_definition) = self.class()?;
        let lane = self.lane()?;
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
            });
        }
        Ok(wire::Rule {
            service: self.service.clone(),
            category: options.category,
            connection,
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
            retry: options.retry.clone(),
            methods,
            origin: self.origin.clone(),
        })
    }

    fn class(&self) -> Result<(i32, Option<wire::Class>), FieldError> {
        let name = self.options.connection_custom.as_str();
        if name.is_empty() {
            return Ok((self.options.connection, None));
        }
        let path = "connection_custom";
        if self.options.connection != 0 {
            let text = "connection and connection_custom are both given".to_owned();
            return Err(FieldError::new(path, Problem::Contradiction(text)));
        }
        let known = ConnectionClass::known();
        let own = known
            .iter()
            .find(|class| matches!(class, ConnectionClass::Own(_)) && class.name() == name);
        let Some(class) = own else {
            let own = known
                .iter()
                .filter(|class| matches!(class, ConnectionClass::Own(_)));
            let names = own.map(|class| class.name());
            let problem = Problem::unknown_name(name, "connection class of one's own", names);
            return Err(FieldError::new(path, problem));
        };
        Ok((0, class.to_wire().1))
    }

    fn lane(&self) -> Result<Lane, FieldError> {
        let name = self.options.lane.as_str();
        if name.is_empty() {
            return Err(FieldError::new("lane", Problem::Missing));
        }
        Lane::from_name(name).ok_or_else(|| {
            let known = Lane::known();
            let names = known.iter().map(|lane| lane.name());
            FieldError::new("lane", Problem::unknown_name(name, "lane", names))
        })
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
    Ok(Some(duration_to_wire(duration)))
}

/// Reads `800ms`, `30s`, `5m` or `1h`.
fn duration(text: &str) -> Option<Duration> {
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

//! What a rule says of balancing beside the strategy: which header is the key, whether near
//! endpoints are preferred, and how new ones warm up.

use std::borrow::Cow;
use std::time::Duration;

use super::error::{FieldError, Problem};
use crate::wire::routing::v1 as wire;

/// The longest name of a header that a rule may take as a key, in bytes.
pub const HASH_HEADER_LIMIT: usize = 64;
/// The longest time that a new endpoint may take to get its whole share.
pub const SLOW_START_LIMIT: Duration = Duration::from_secs(3600);

/// What a rule says of balancing; each `None` where it says nothing.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Balancing {
    /// The request's header that is the key of calls which bring no `sidelane-hash`: lower-case, at
    /// most [`HASH_HEADER_LIMIT`] bytes.
    pub hash_header: Option<Cow<'static, str>>,
    /// Are near endpoints preferred? They are where nothing is said.
    pub locality: Option<LocalityPreference>,
    /// The time in which the share of an endpoint that is new beside others grows to its whole, at
    /// most [`SLOW_START_LIMIT`]. Where nothing is said it has it at once.
    pub slow_start: Option<Duration>,
}

/// Does it matter where an endpoint stands?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum LocalityPreference {
    /// Calls go to the caller's zone, then to its region, as long as these can take them.
    Prefer,
    /// It does not.
    Ignore,
}

impl Balancing {
    /// Nothing is said.
    pub const NONE: Self = Self {
        hash_header: None,
        locality: None,
        slow_start: None,
    };

    /// What this one says, and what `other` says where it says nothing.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        let header = self.hash_header.as_ref().or(other.hash_header.as_ref());
        Self {
            hash_header: header.cloned(),
            locality: self.locality.or(other.locality),
            slow_start: self.slow_start.or(other.slow_start),
        }
    }

    pub(super) const fn flaw(&self) -> Option<BalancingFlaw> {
        if let Some(name) = &self.hash_header
            && !is_header(name)
        {
            return Some(BalancingFlaw::HashHeader);
        }
        match self.slow_start {
            Some(time) if time.is_zero() || time.as_nanos() > SLOW_START_LIMIT.as_nanos() => {
                Some(BalancingFlaw::SlowStart)
            }
            _ => None,
        }
    }

    pub(super) fn from_wire(
        hash_header: String,
        locality: i32,
        slow_start: Option<Duration>,
    ) -> Result<Self, FieldError> {
        let locality = match wire::LocalityPreference::try_from(locality) {
            Ok(wire::LocalityPreference::Unspecified) => None,
            Ok(wire::LocalityPreference::Prefer) => Some(LocalityPreference::Prefer),
            Ok(wire::LocalityPreference::Ignore) => Some(LocalityPreference::Ignore),
            Err(_) => {
                let (given, what) = (locality.to_string(), "preference of localities");
                return Err(FieldError::new(
                    "locality",
                    Problem::Unknown { given, what },
                ));
            }
        };
        let hash_header = match hash_header {
            none if none.is_empty() => None,
            name => Some(Cow::Owned(name)),
        };
        Ok(Self {
            hash_header,
            locality,
            slow_start,
        })
    }
}

/// What is wrong with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BalancingFlaw {
    /// No name of a header that an app can send.
    HashHeader,
    /// Zero, or too long.
    SlowStart,
}

impl BalancingFlaw {
    /// The field that is wrong.
    #[must_use]
    pub const fn field(self) -> &'static str {
        match self {
            Self::HashHeader => "hash_header",
            Self::SlowStart => "slow_start",
        }
    }

    /// Why it cannot be.
    #[must_use]
    pub const fn reason(self) -> &'static str {
        match self {
            Self::HashHeader => {
                "is no name of a header that an app sends: lower-case letters, digits, `-`, `_` \
                 and `.`, at most 64, and not `sidelane-` or `grpc-` first"
            }
            Self::SlowStart => "is no time above zero and of at most 1 hour",
        }
    }
}

impl LocalityPreference {
    /// Both.
    pub const ALL: [Self; 2] = [Self::Prefer, Self::Ignore];

    /// The name as it is written in rules.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Prefer => "PREFER",
            Self::Ignore => "IGNORE",
        }
    }

    pub(super) const fn to_wire(self) -> wire::LocalityPreference {
        match self {
            Self::Prefer => wire::LocalityPreference::Prefer,
            Self::Ignore => wire::LocalityPreference::Ignore,
        }
    }
}

#[allow(
    clippy::ptr_arg,
    reason = "what a `Cow` is read by is not for constants"
)]
const fn is_header(name: &Cow<'static, str>) -> bool {
    let bytes = match name {
        Cow::Borrowed(name) => name.as_bytes(),
        Cow::Owned(name) => name.as_str().as_bytes(),
    };
    if bytes.is_empty() || bytes.len() > HASH_HEADER_LIMIT {
        return false;
    }
    let mut index = 0;
    while index < bytes.len() {
        match bytes[index] {
            b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' => index += 1,
            _ => return false,
        }
    }
    !begins_with(bytes, b"sidelane-") && !begins_with(bytes, b"grpc-")
}

const fn begins_with(bytes: &[u8], first: &[u8]) -> bool {
    if bytes.len() < first.len() {
        return false;
    }
    let mut index = 0;
    while index < first.len() {
        if bytes[index] != first[index] {
            return false;
        }
        index += 1;
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{ConnectionClass, Lane, Rule};

    fn rule(balancing: Balancing) -> Rule {
        Rule {
            balancing,
            ..Rule::new("a.B", ConnectionClass::Internal, Lane::GENERAL, &[], "here")
        }
    }

    fn with_header(name: &str) -> Rule {
        rule(Balancing {
            hash_header: Some(Cow::Owned(name.to_owned())),
            ..Balancing::NONE
        })
    }

    fn with_slow_start(slow_start: Duration) -> Rule {
        rule(Balancing {
            slow_start: Some(slow_start),
            ..Balancing::NONE
        })
    }

    #[test]
    fn what_can_be_arrives_as_it_was_sent() {
        let whole = rule(Balancing {
            hash_header: Some(Cow::Borrowed("x-user-id")),
            locality: Some(LocalityPreference::Ignore),
            slow_start: Some(SLOW_START_LIMIT),
        });
        for rule in [whole, rule(Balancing::NONE), with_header(&"x".repeat(64))] {
            assert_eq!(rule.check(), Ok(()));
            assert_eq!(
                Rule::try_from(crate::wire::routing::v1::Rule::from(&rule)),
                Ok(rule)
            );
        }
    }

    #[test]
    fn what_cannot_be_is_refused_by_its_field() {
        for (rule, field) in [
            (with_header("X-User"), "hash_header"),
            (with_header("x user"), "hash_header"),
            (with_header(&"x".repeat(65)), "hash_header"),
            (with_header("sidelane-hash"), "hash_header"),
            (with_header("grpc-timeout"), "hash_header"),
            (with_slow_start(Duration::ZERO), "slow_start"),
            (
                with_slow_start(SLOW_START_LIMIT + Duration::from_nanos(1)),
                "slow_start",
            ),
        ] {
            assert_eq!(rule.check().unwrap_err().path, field, "{rule:?}");
            let sent = Rule::try_from(crate::wire::routing::v1::Rule::from(&rule));
            assert_eq!(sent.unwrap_err().path, field, "{rule:?}");
        }
        let mut sent = crate::wire::routing::v1::Rule::from(&rule(Balancing::NONE));
        sent.locality = 7;
        assert_eq!(Rule::try_from(sent).unwrap_err().path, "locality");
    }
}

//! Connection classes, lanes, and the matrix of those that go together. This is the one place
//! that knows the matrix: the SDK's types, the rule check and the wire check are derived from it.

use super::error::{FieldError, Problem};
use crate::wire::routing::v1 as wire;

/// From where a call may come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ConnectionClass {
    /// Node to node, on the internal bind address.
    Internal,
    /// Users and peers, on the external bind address.
    External,
}

/// A swimlane: the kind of traffic. Two lanes never share a connection, a flow-control window or
/// a queue. Numbers below 16 are Sidelane's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Lane(u16);

impl ConnectionClass {
    /// Both, in order.
    pub const ALL: [Self; 2] = [Self::Internal, Self::External];

    /// The name as it is written in rules and shown to people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Internal => "Internal",
            Self::External => "External",
        }
    }

    /// The lanes that go with this class.
    #[must_use]
    pub const fn lanes(self) -> &'static [Lane] {
        match self {
            Self::Internal => &[Lane::GENERAL, Lane::GOSSIP, Lane::BIFROST_DATA],
            Self::External => &[Lane::GENERAL, Lane::INGRESS_DATA],
        }
    }

    /// Does this lane go with this class?
    #[must_use]
    pub const fn allows(self, lane: Lane) -> bool {
        let lanes = self.lanes();
        let mut index = 0;
        while index < lanes.len() {
            if lanes[index].0 == lane.0 {
                return true;
            }
            index += 1;
        }
        false
    }

    /// The number of this class in the preamble of a link.
    #[must_use]
    pub const fn number(self) -> u8 {
        match self {
            Self::Internal => 1,
            Self::External => 2,
        }
    }

    /// The class with this number, if there is one.
    #[must_use]
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Internal),
            2 => Some(Self::External),
            _ => None,
        }
    }

    /// Reads a class from the wire's number for the field `path`.
    ///
    /// # Errors
    /// Unspecified and unknown numbers.
    pub fn from_wire(number: i32, path: &str) -> Result<Self, FieldError> {
        match wire::Connection::try_from(number) {
            Ok(wire::Connection::Internal) => Ok(Self::Internal),
            Ok(wire::Connection::External) => Ok(Self::External),
            Ok(wire::Connection::Unspecified) => Err(FieldError::new(path, Problem::Missing)),
            Err(_) => Err(FieldError::new(
                path,
                Problem::Unknown {
                    given: number.to_string(),
                    what: "connection class",
                },
            )),
        }
    }

    /// The class as the wire has it.
    #[must_use]
    pub const fn to_wire(self) -> wire::Connection {
        match self {
            Self::Internal => wire::Connection::Internal,
            Self::External => wire::Connection::External,
        }
    }
}

impl std::fmt::Display for ConnectionClass {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

impl Lane {
    /// Ordinary calls.
    pub const GENERAL: Self = Self(0);
    /// Heartbeats and membership: small and quick.
    pub const GOSSIP: Self = Self(1);
    /// Replicated log and other bulk data.
    pub const BIFROST_DATA: Self = Self(2);
    /// What users send in.
    pub const INGRESS_DATA: Self = Self(3);
    /// All lanes, in the order of their numbers.
    pub const ALL: [Self; 4] = [
        Self::GENERAL,
        Self::GOSSIP,
        Self::BIFROST_DATA,
        Self::INGRESS_DATA,
    ];

    /// The lane's number.
    #[must_use]
    pub const fn id(self) -> u16 {
        self.0
    }

    /// The lane with this number, if there is one.
    #[must_use]
    pub const fn from_id(id: u16) -> Option<Self> {
        if id < 4 { Some(Self(id)) } else { None }
    }

    /// The lane's name as it is written in rules, headers and metrics.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self.0 {
            1 => "gossip",
            2 => "bifrost_data",
            3 => "ingress_data",
            _ => "general",
        }
    }

    /// The lane of this name, if there is one.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|lane| lane.name() == name)
    }

    /// The lane's place in a table of all lanes.
    #[must_use]
    pub const fn index(self) -> usize {
        self.0 as usize
    }
}

impl std::fmt::Display for Lane {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.name())
    }
}

/// Refuses a pair that the matrix does not have; `path` is the lane's field.
///
/// # Errors
/// [`Problem::IllegalPair`] with the lanes that the class allows.
pub fn check_pair(class: ConnectionClass, lane: Lane, path: &str) -> Result<(), FieldError> {
    if class.allows(lane) {
        return Ok(());
    }
    let legal: Vec<&str> = class.lanes().iter().map(|lane| lane.name()).collect();
    let problem = Problem::IllegalPair {
        class: class.name(),
        lane: lane.name().to_owned(),
        legal: legal.join(", "),
    };
    Err(FieldError::new(path, problem))
}

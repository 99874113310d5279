//! Classes and lanes that are known only when the program runs: from a setting, a file, a message.
//! They are held against the same matrix, and a value that passed can become a type again.

use sidelane_proto::model::error::nearest;
use sidelane_proto::model::{ConnectionClass, Lane};

use crate::routing::phantom::{LaneMarker, RoutingConfig, RoutingWitness};
use crate::routing::services::matrix::ValidRoutingMatrix;

/// A routing that is put together while the program runs.
///
/// ```
/// use sidelane::routing::{Gossip, Internal, Lane, RoutingBuilder};
///
/// let routing = RoutingBuilder::dynamic()
///     .connection_named("Internal")
///     .lane_named("gossip")
///     .build()?;
/// assert_eq!(routing.lane(), Lane::GOSSIP);
/// let typed = routing.typed::<Internal, Gossip>()?;
/// # Ok::<(), sidelane::routing::RoutingError>(())
/// ```
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct DynamicBuilder {
    connection: Given<ConnectionClass>,
    lane: Given<Lane>,
}

/// What was said of a class or a lane so far.
#[derive(Debug, Clone, Default)]
enum Given<T> {
    #[default]
    Nothing,
    Value(T),
    /// A name that nothing known here has.
    Unknown(String),
    /// Two that differ.
    Two(T, T),
}

/// A class and a lane that go together. There is no other way to one than through the matrix.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct DynamicRouting {
    connection: ConnectionClass,
    lane: Lane,
}

/// Why a class and a lane are no routing, or not the one that is wanted.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RoutingError {
    /// No class, or none that is known here.
    #[error("{}; legal are {legal}", missing("connection class", .given.as_deref(), .nearest.as_deref()))]
    MissingConnection {
        /// The name that nothing has, if one was given.
        given: Option<String>,
        /// The class that may have been meant.
        nearest: Option<String>,
        /// The classes that there are; those that go with the lane, if it was given.
        legal: String,
    },
    /// No lane, or none that is known here.
    #[error("{}; legal are {legal}", missing("lane", .given.as_deref(), .nearest.as_deref()))]
    MissingLane {
        /// The name that nothing has, if one was given.
        given: Option<String>,
        /// The lane that may have been meant.
        nearest: Option<String>,
        /// The lanes that go with the class.
        legal: String,
    },
    /// The two do not go together.
    #[error("{connection} and lane `{lane}` do not go together; {connection} allows {legal}")]
    IllegalPair {
        /// The class given.
        connection: ConnectionClass,
        /// The lane given.
        lane: Lane,
        /// The lanes that go with the class.
        legal: String,
    },
    /// One class is wanted and another given, or two were given.
    #[error("the connection class is {given}, where only {expected} is legal")]
    ConnectionMismatch {
        /// The class wanted: that of the types, or the one given first.
        expected: ConnectionClass,
        /// The class given.
        given: ConnectionClass,
    },
    /// One lane is wanted and another given, or two were given.
    #[error("the lane is `{given}`, where only `{expected}` is legal")]
    LaneMismatch {
        /// The lane wanted: that of the types, or the one given first.
        expected: Lane,
        /// The lane given.
        given: Lane,
    },
}

impl DynamicBuilder {
    pub(super) const fn new() -> Self {
        Self {
            connection: Given::Nothing,
            lane: Given::Nothing,
        }
    }

    /// The class.
    pub fn connection(mut self, class: ConnectionClass) -> Self {
        self.connection = self.connection.and(class);
        self
    }

    /// The class of this name; Sidelane's own in any case of letters.
    pub fn connection_named(mut self, name: &str) -> Self {
        self.connection = match ConnectionClass::from_name(name) {
            Some(class) => self.connection.and(class),
            None => Given::Unknown(name.to_owned()),
        };
        self
    }

    /// The lane.
    pub fn lane(mut self, lane: Lane) -> Self {
        self.lane = self.lane.and(lane);
        self
    }

    /// The lane of this name.
    pub fn lane_named(mut self, name: &str) -> Self {
        self.lane = match Lane::from_name(name) {
            Some(lane) => self.lane.and(lane),
            None => Given::Unknown(name.to_owned()),
        };
        self
    }

    /// What was chosen, if it can be.
    ///
    /// # Errors
    /// Something is missing, unknown or given twice with a difference, or the two do not go
    /// together.
    pub fn build(self) -> Result<DynamicRouting, RoutingError> {
        let connection = match self.connection {
            Given::Value(class) => class,
            Given::Two(expected, given) => {
                return Err(RoutingError::ConnectionMismatch { expected, given });
            }
            Given::Nothing => return Err(missing_connection(None, &self.lane)),
            Given::Unknown(name) => return Err(missing_connection(Some(name), &self.lane)),
        };
        let lane = match self.lane {
            Given::Value(lane) => lane,
            Given::Two(expected, given) => {
                return Err(RoutingError::LaneMismatch { expected, given });
            }
            Given::Nothing => return Err(missing_lane(None, connection)),
            Given::Unknown(name) => return Err(missing_lane(Some(name), connection)),
        };
        if connection.allows(lane) {
            return Ok(DynamicRouting { connection, lane });
        }
        let legal = connection.lane_names();
        Err(RoutingError::IllegalPair {
            connection,
            lane,
            legal,
        })
    }
}

impl DynamicRouting {
    /// The class.
    #[must_use]
    pub const fn class(self) -> ConnectionClass {
        self.connection
    }

    /// The lane.
    #[must_use]
    pub const fn lane(self) -> Lane {
        self.lane
    }

    /// The same as a type, if it is this one.
    ///
    /// # Errors
    /// [`RoutingError::ConnectionMismatch`], [`RoutingError::LaneMismatch`].
    pub fn typed<C: ValidRoutingMatrix<L>, L: LaneMarker>(
        self,
    ) -> Result<RoutingConfig<C, L>, RoutingError> {
        if self.connection != C::CLASS {
            return Err(RoutingError::ConnectionMismatch {
                expected: C::CLASS,
                given: self.connection,
            });
        }
        if self.lane != L::LANE {
            return Err(RoutingError::LaneMismatch {
                expected: L::LANE,
                given: self.lane,
            });
        }
        Ok(RoutingConfig::new())
    }

    /// The proof that it is this pair.
    ///
    /// # Errors
    /// As [`DynamicRouting::typed`].
    pub fn witness<C: ValidRoutingMatrix<L>, L: LaneMarker>(
        self,
    ) -> Result<RoutingWitness<C, L>, RoutingError> {
        self.typed::<C, L>().map(RoutingConfig::witness)
    }
}

impl<C: ValidRoutingMatrix<L>, L: LaneMarker> From<RoutingConfig<C, L>> for DynamicRouting {
    fn from(config: RoutingConfig<C, L>) -> Self {
        Self {
            connection: config.class(),
            lane: config.lane(),
        }
    }
}

impl<T: PartialEq> Given<T> {
    /// What is said twice must be the same; the first difference is what is reported.
    fn and(self, next: T) -> Self {
        match self {
            Self::Nothing => Self::Value(next),
            Self::Value(first) if first != next => Self::Two(first, next),
            other => other,
        }
    }
}

fn missing_connection(given: Option<String>, lane: &Given<Lane>) -> RoutingError {
    let mut classes = ConnectionClass::known();
    if let Given::Value(lane) = lane {
        classes.retain(|class| class.allows(*lane));
    }
    let names: Vec<&str> = classes.into_iter().map(ConnectionClass::name).collect();
    RoutingError::MissingConnection {
        nearest: nearest_of(given.as_deref(), &names),
        given,
        legal: names.join(", "),
    }
}

fn missing_lane(given: Option<String>, class: ConnectionClass) -> RoutingError {
    let names: Vec<&str> = class.lanes().into_iter().map(Lane::name).collect();
    RoutingError::MissingLane {
        nearest: nearest_of(given.as_deref(), &names),
        given,
        legal: names.join(", "),
    }
}

fn nearest_of(given: Option<&str>, names: &[&str]) -> Option<String> {
    nearest(given?, names.iter().copied()).map(str::to_owned)
}

fn missing(what: &str, given: Option<&str>, nearest: Option<&str>) -> String {
    match (given, nearest) {
        (None, _) => format!("no {what} is chosen"),
        (Some(given), None) => format!("`{given}` is no {what} that is known here"),
        (Some(given), Some(nearest)) => {
            format!("`{given}` is no {what} that is known here; did you mean `{nearest}`?")
        }
    }
}

//! A class and a lane that go together, as one type. There is no value of it with an illegal pair,
//! and no signature, field or expression that names one.

use std::marker::PhantomData;

use sidelane_proto::model::{ConnectionClass, Lane};

use super::swimlane_markers::LaneMarker;
use super::witness::RoutingWitness;
use crate::routing::services::matrix::ValidRoutingMatrix;

/// Over which class and in which lane: what [`RoutingBuilder`](crate::routing::RoutingBuilder) and
/// [`RoutingFactory`](crate::routing::RoutingFactory) make, and what a typed connection is asked
/// with. It has no size.
///
/// ```
/// use sidelane::routing::{Gossip, Internal, Lane, RoutingConfig};
///
/// const HEARTBEATS: RoutingConfig<Internal, Gossip> = RoutingConfig::new();
/// assert_eq!(HEARTBEATS.lane(), Lane::GOSSIP);
/// assert_eq!(size_of_val(&HEARTBEATS), 0);
/// ```
///
/// ```compile_fail,E0277
/// use sidelane::routing::{IngressData, Internal, RoutingConfig};
///
/// fn users_come_in_from_outside(config: RoutingConfig<Internal, IngressData>) {}
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct RoutingConfig<C: ValidRoutingMatrix<L>, L: LaneMarker>(PhantomData<(C, L)>);

/// One legal cell of the matrix: a pair as a type, with what it stands for as constants. It has no
/// size.
///
/// ```
/// use sidelane::routing::{ConnectionClass, External, IngressData, Lane, RoutingMatrix};
///
/// type FromUsers = RoutingMatrix<External, IngressData>;
/// assert_eq!(FromUsers::CLASS, ConnectionClass::External);
/// assert_eq!(FromUsers::LANE, Lane::INGRESS_DATA);
/// ```
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct RoutingMatrix<C: ValidRoutingMatrix<L>, L: LaneMarker>(PhantomData<(C, L)>);

impl<C: ValidRoutingMatrix<L>, L: LaneMarker> RoutingConfig<C, L> {
    /// The one value that there is of this type.
    #[must_use]
    pub const fn new() -> Self {
        Self(PhantomData)
    }

    /// The class.
    #[must_use]
    pub const fn class(self) -> ConnectionClass {
        C::CLASS
    }

    /// The lane.
    #[must_use]
    pub const fn lane(self) -> Lane {
        L::LANE
    }

    /// The proof that the two go together.
    #[must_use]
    pub const fn witness(self) -> RoutingWitness<C, L> {
        RoutingWitness::new()
    }
}

impl<C: ValidRoutingMatrix<L>, L: LaneMarker> RoutingMatrix<C, L> {
    /// The class.
    pub const CLASS: ConnectionClass = C::CLASS;
    /// The lane.
    pub const LANE: Lane = L::LANE;

    /// The one value that there is of this type.
    #[must_use]
    pub const fn new() -> Self {
        Self(PhantomData)
    }

    /// The class.
    #[must_use]
    pub const fn class(self) -> ConnectionClass {
        C::CLASS
    }

    /// The lane.
    #[must_use]
    pub const fn lane(self) -> Lane {
        L::LANE
    }

    /// The same pair, to be asked for.
    #[must_use]
    pub const fn config(self) -> RoutingConfig<C, L> {
        RoutingConfig::new()
    }
}

//! The proof that a class and a lane go together, to be carried where the choice itself is long
//! made: in a connection, in a message, in a function that must not be called otherwise.

use std::marker::PhantomData;

use sidelane_proto::model::{ConnectionClass, Lane};

use super::swimlane_markers::LaneMarker;
use crate::routing::services::matrix::ValidRoutingMatrix;

/// Whoever holds it has a legal pair: either rustc looked at the types, or
/// [`DynamicRouting::witness`](crate::routing::DynamicRouting::witness) at the values. It has no
/// size.
///
/// ```
/// use sidelane::routing::{General, Internal, RoutingFactory, RoutingWitness};
///
/// /// Only for those who were let in on the internal address.
/// fn forget_everything(_: RoutingWitness<Internal, General>) -> &'static str {
///     "forgotten"
/// }
/// let inside = RoutingFactory::internal_general().witness();
/// assert_eq!(forget_everything(inside), "forgotten");
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct RoutingWitness<C: ValidRoutingMatrix<L>, L: LaneMarker>(PhantomData<(C, L)>);

impl<C: ValidRoutingMatrix<L>, L: LaneMarker> RoutingWitness<C, L> {
    pub(in crate::routing) const fn new() -> Self {
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
}

//! The states of a routing that is being put together, and the steps between them. A step is a
//! method of every state, so that rustc says in words which step is missing or one too many,
//! rather than that there is no such method.

use std::marker::PhantomData;

use super::dynamic::DynamicBuilder;
use crate::routing::phantom::{
    BifrostData, ConnectionMarker, External, General, Gossip, IngressData, Internal, LaneMarker,
    RoutingConfig,
};
use crate::routing::services::matrix::ValidRoutingMatrix;

/// A routing that is being put together: nothing chosen, then a class, then a lane. It has no
/// size.
///
/// ```
/// use sidelane::routing::{Gossip, Internal, RoutingBuilder, RoutingConfig};
///
/// let heartbeats: RoutingConfig<Internal, Gossip> =
///     RoutingBuilder::new().internal().gossip().build();
/// ```
///
/// Classes and lanes of one's own have the steps [`connection`](RoutingBuilder::connection) and
/// [`swimlane`](RoutingBuilder::swimlane):
///
/// ```
/// use sidelane::define_swimlane;
/// use sidelane::routing::{Internal, RoutingBuilder};
///
/// define_swimlane!(Audit, id = 16, connection = [Internal], window = 65_536, max_streams = 100);
///
/// let audit = RoutingBuilder::new().connection(Internal).swimlane(Audit).build();
/// assert_eq!(audit.lane().name(), "audit");
/// ```
///
/// What cannot work does not compile: an unfinished chain, a step that was done already, a pair
/// that the matrix does not have.
///
/// ```compile_fail,E0277
/// # use sidelane::routing::RoutingBuilder;
/// let unfinished = RoutingBuilder::new().internal().build();
/// ```
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RoutingBuilder<State = NothingChosen>(PhantomData<State>);

/// The first state.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NothingChosen;

/// The second state: the class is `C`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClassChosen<C: ConnectionMarker>(PhantomData<C>);

/// The last state: the class is `C`, the lane `L`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Complete<C: ValidRoutingMatrix<L>, L: LaneMarker>(PhantomData<(C, L)>);

/// A state in which the class is chosen next.
#[diagnostic::on_unimplemented(
    message = "the connection class is chosen already",
    label = "a second class",
    note = "say `.internal()`, `.external()` or `.connection(C)` once, first of all"
)]
pub trait AwaitsClass: sealed::State {}

/// A state in which the lane is chosen next, after class `C`.
#[diagnostic::on_unimplemented(
    message = "there is no lane to choose here: the class comes first, the lane once after it",
    label = "no place for a lane",
    note = "say `.internal()`, `.external()` or `.connection(C)`, then one lane, then `.build()`"
)]
pub trait AwaitsLane<C: ConnectionMarker>: sealed::State {}

/// The state in which all is chosen: class `C` and lane `L`.
#[diagnostic::on_unimplemented(
    message = "this routing is not finished",
    label = "a class and a lane are to be chosen before",
    note = "choose a class with `.internal()`, `.external()` or `.connection(C)`",
    note = "then a lane with `.general()`, `.gossip()`, `.bifrost_data()`, `.ingress_data()` or \
            `.swimlane(L)`"
)]
pub trait Finished<C: ValidRoutingMatrix<L>, L: LaneMarker>: sealed::State {}

mod sealed {
    pub trait State {}
}

impl sealed::State for NothingChosen {}
impl<C: ConnectionMarker> sealed::State for ClassChosen<C> {}
impl<C: ValidRoutingMatrix<L>, L: LaneMarker> sealed::State for Complete<C, L> {}

impl AwaitsClass for NothingChosen {}

impl<C: ConnectionMarker> AwaitsLane<C> for ClassChosen<C> {}

impl<C: ValidRoutingMatrix<L>, L: LaneMarker> Finished<C, L> for Complete<C, L> {}

impl RoutingBuilder {
    /// Nothing is chosen yet.
    #[must_use]
    pub const fn new() -> Self {
        Self(PhantomData)
    }

    /// The same for a class and a lane that are known only when the program runs.
    pub const fn dynamic() -> DynamicBuilder {
        DynamicBuilder::new()
    }
}

impl Default for RoutingBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl<S> RoutingBuilder<S> {
    /// The class is [`Internal`].
    #[must_use]
    pub const fn internal(self) -> RoutingBuilder<ClassChosen<Internal>>
    where
        S: AwaitsClass,
    {
        RoutingBuilder(PhantomData)
    }

    /// The class is [`External`].
    #[must_use]
    pub const fn external(self) -> RoutingBuilder<ClassChosen<External>>
    where
        S: AwaitsClass,
    {
        RoutingBuilder(PhantomData)
    }

    /// The class is `C`, which may be one's own.
    #[must_use]
    pub const fn connection<C: ConnectionMarker>(self, _: C) -> RoutingBuilder<ClassChosen<C>>
    where
        S: AwaitsClass,
    {
        RoutingBuilder(PhantomData)
    }

    /// The lane is [`General`].
    #[must_use]
    pub const fn general<C: ValidRoutingMatrix<General>>(
        self,
    ) -> RoutingBuilder<Complete<C, General>>
    where
        S: AwaitsLane<C>,
    {
        RoutingBuilder(PhantomData)
    }

    /// The lane is [`Gossip`].
    #[must_use]
    pub const fn gossip<C: ValidRoutingMatrix<Gossip>>(self) -> RoutingBuilder<Complete<C, Gossip>>
    where
        S: AwaitsLane<C>,
    {
        RoutingBuilder(PhantomData)
    }

    /// The lane is [`BifrostData`].
    #[must_use]
    pub const fn bifrost_data<C: ValidRoutingMatrix<BifrostData>>(
        self,
    ) -> RoutingBuilder<Complete<C, BifrostData>>
    where
        S: AwaitsLane<C>,
    {
        RoutingBuilder(PhantomData)
    }

    /// The lane is [`IngressData`].
    #[must_use]
    pub const fn ingress_data<C: ValidRoutingMatrix<IngressData>>(
        self,
    ) -> RoutingBuilder<Complete<C, IngressData>>
    where
        S: AwaitsLane<C>,
    {
        RoutingBuilder(PhantomData)
    }

    /// The lane is `L`, which may be one's own.
    #[must_use]
    pub const fn swimlane<L: LaneMarker, C: ValidRoutingMatrix<L>>(
        self,
        _: L,
    ) -> RoutingBuilder<Complete<C, L>>
    where
        S: AwaitsLane<C>,
    {
        RoutingBuilder(PhantomData)
    }

    /// What was chosen.
    #[must_use]
    pub const fn build<C: ValidRoutingMatrix<L>, L: LaneMarker>(self) -> RoutingConfig<C, L>
    where
        S: Finished<C, L>,
    {
        RoutingConfig::new()
    }
}

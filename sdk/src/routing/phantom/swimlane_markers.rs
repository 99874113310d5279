//! Swimlanes as types. Each stands for a [`Lane`] of the model, which is what sidecars work with.

use std::fmt::Debug;
use std::hash::Hash;

use sidelane_proto::model::Lane;

use crate::routing::__private::Opened;

/// A lane as a type: one of Sidelane's own, or one that
/// [`define_swimlane!`](crate::define_swimlane) made.
///
/// ```
/// use sidelane::routing::{Gossip, Lane, LaneMarker};
///
/// fn lane_of<L: LaneMarker>(_: L) -> Lane {
///     L::LANE
/// }
/// assert_eq!(lane_of(Gossip), Lane::GOSSIP);
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no lane",
    label = "not a lane",
    note = "lanes are `General`, `Gossip`, `BifrostData` and `IngressData`, and those that \
            `define_swimlane!` makes"
)]
pub trait LaneMarker: Opened + Copy + Debug + Default + Eq + Hash + Send + Sync + 'static {
    /// The lane that it stands for.
    const LANE: Lane;
    /// The name of that lane, as rules, headers and metrics have it.
    const NAME: &'static str = Self::LANE.name();
}

/// Ordinary calls.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct General;

/// Heartbeats and membership: small and quick.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct Gossip;

/// Replicated log and other bulk data.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct BifrostData;

/// What users send in.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
pub struct IngressData;

impl Opened for General {}
impl Opened for Gossip {}
impl Opened for BifrostData {}
impl Opened for IngressData {}

impl LaneMarker for General {
    const LANE: Lane = Lane::GENERAL;
}

impl LaneMarker for Gossip {
    const LANE: Lane = Lane::GOSSIP;
}

impl LaneMarker for BifrostData {
    const LANE: Lane = Lane::BIFROST_DATA;
}

impl LaneMarker for IngressData {
    const LANE: Lane = Lane::INGRESS_DATA;
}

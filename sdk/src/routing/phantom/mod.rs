//! Types without a value: classes, lanes and the pairs of them that go together. They cost nothing
//! when the program runs; what they are for is that a program with an illegal pair is none.

pub mod configuration;
pub mod connection_markers;
pub mod swimlane_markers;
pub mod witness;

pub use configuration::{RoutingConfig, RoutingMatrix};
pub use connection_markers::{ConnectionMarker, External, Internal};
pub use swimlane_markers::{BifrostData, General, Gossip, IngressData, LaneMarker};
pub use witness::RoutingWitness;

#[cfg(test)]
mod tests;

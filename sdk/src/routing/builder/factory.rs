//! The legal pairs of Sidelane's own, ready made.

use crate::routing::phantom::{
    BifrostData, External, General, Gossip, IngressData, Internal, RoutingConfig,
};

/// Makes each pair that the matrix has.
///
/// ```
/// use sidelane::routing::{Lane, RoutingFactory};
///
/// assert_eq!(RoutingFactory::internal_bifrost().lane(), Lane::BIFROST_DATA);
/// ```
#[derive(Debug, Clone, Copy)]
pub struct RoutingFactory;

impl RoutingFactory {
    /// Ordinary calls between nodes.
    #[must_use]
    pub const fn internal_general() -> RoutingConfig<Internal, General> {
        RoutingConfig::new()
    }

    /// Heartbeats and membership.
    #[must_use]
    pub const fn internal_gossip() -> RoutingConfig<Internal, Gossip> {
        RoutingConfig::new()
    }

    /// Replicated log and other bulk data.
    #[must_use]
    pub const fn internal_bifrost() -> RoutingConfig<Internal, BifrostData> {
        RoutingConfig::new()
    }

    /// Ordinary calls of users.
    #[must_use]
    pub const fn external_general() -> RoutingConfig<External, General> {
        RoutingConfig::new()
    }

    /// What users send in.
    #[must_use]
    pub const fn external_ingress() -> RoutingConfig<External, IngressData> {
        RoutingConfig::new()
    }
}

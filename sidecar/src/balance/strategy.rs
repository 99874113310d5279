//! How a hub picks among the endpoints that can take a call: what rules name, and a strategy of a
//! project's own. How each of them picks is in `select`.

use std::{fmt, ptr};

use sidelane_proto::model::LoadBalancing;

use super::own::OwnStrategy;

/// How an endpoint is picked. Each goes by the weights of endpoints, too.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Strategy {
    /// One after the other, each as often in a round as it is heavy.
    RoundRobin,
    /// The one with the fewest calls in flight for its weight, of all where they are few, of two at random
    /// where they are many.
    LeastConnections,
    /// By the call's key: the same key, the same endpoint.
    ConsistentHash,
    /// Any, each as likely as it is heavy.
    Random,
    /// Exactly one endpoint is meant: the caller names its node, or there is only one.
    None,
    /// Two at random, and of these the one that is expected to answer sooner, by its latency,
    /// its calls in flight and its weight.
    #[default]
    PeakEwma,
    /// One of the project's own.
    Own(Own),
}

/// A strategy of a project's own, with the name under which rules know it.
#[derive(Clone, Copy)]
pub struct Own {
    pub(super) name: &'static str,
    pub(super) strategy: &'static dyn OwnStrategy,
}

impl Strategy {
    /// May an endpoint be taken because it is near? Not where a key, the caller or a project says
    /// which one it is.
    #[must_use]
    pub const fn minds_nearness(self) -> bool {
        match self {
            Self::RoundRobin | Self::Random | Self::LeastConnections | Self::PeakEwma => true,
            Self::ConsistentHash | Self::None | Self::Own(_) => false,
        }
    }

    /// The strategy that a rule names; [`Strategy::PeakEwma`] where it says nothing.
    #[must_use]
    pub const fn of(asked: Option<LoadBalancing>) -> Self {
        match asked {
            Some(LoadBalancing::RoundRobin) => Self::RoundRobin,
            Some(LoadBalancing::LeastConnections) => Self::LeastConnections,
            Some(LoadBalancing::ConsistentHash) => Self::ConsistentHash,
            Some(LoadBalancing::Random) => Self::Random,
            Some(LoadBalancing::None) => Self::None,
            None | Some(LoadBalancing::PeakEwma) => Self::PeakEwma,
        }
    }

    /// The name as it is written in rules.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => LoadBalancing::RoundRobin.name(),
            Self::LeastConnections => LoadBalancing::LeastConnections.name(),
            Self::ConsistentHash => LoadBalancing::ConsistentHash.name(),
            Self::Random => LoadBalancing::Random.name(),
            Self::None => LoadBalancing::None.name(),
            Self::PeakEwma => LoadBalancing::PeakEwma.name(),
            Self::Own(own) => own.name,
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl fmt::Debug for Own {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "Own({})", self.name)
    }
}

impl PartialEq for Own {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && ptr::addr_eq(self.strategy, other.strategy)
    }
}

impl Eq for Own {}

//! How a hub picks among the endpoints that can take a call. Rules name more strategies than are
//! built; what becomes of the others is decided here and nowhere else, and never in silence.

use std::fmt;

use sidelane_proto::model::LoadBalancing;

/// How an endpoint is picked. Weights do not count in any of these.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Strategy {
    /// One after the other, each once in a round.
    #[default]
    RoundRobin,
    /// Any, each as likely as the others.
    Random,
    /// Exactly one endpoint is meant: the caller names its node, or there is only one.
    None,
}

/// A strategy that a rule asks for and that does not exist yet; [`Strategy::RoundRobin`] stands in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct NotBuiltYet {
    /// What the rule asks for.
    pub asked: LoadBalancing,
}

impl Strategy {
    /// The strategy that serves a rule, and what the rule asked for if that is not built yet. A
    /// rule that says nothing gets round robin.
    #[must_use]
    pub const fn of(asked: Option<LoadBalancing>) -> (Self, Option<NotBuiltYet>) {
        match asked {
            None | Some(LoadBalancing::RoundRobin) => (Self::RoundRobin, None),
            Some(LoadBalancing::Random) => (Self::Random, None),
            Some(LoadBalancing::None) => (Self::None, None),
            Some(
                asked @ (LoadBalancing::LeastConnections
                | LoadBalancing::ConsistentHash
                | LoadBalancing::PeakEwma),
            ) => (Self::RoundRobin, Some(NotBuiltYet { asked })),
        }
    }

    /// The name as it is written in rules.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => LoadBalancing::RoundRobin.name(),
            Self::Random => LoadBalancing::Random.name(),
            Self::None => LoadBalancing::None.name(),
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.name())
    }
}

impl fmt::Display for NotBuiltYet {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "{} is not built yet; {} stands in",
            self.asked.name(),
            Strategy::RoundRobin
        )
    }
}

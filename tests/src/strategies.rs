//! Services that differ in how an endpoint is picked for their calls, and nothing else; a strategy
//! of a project's own, and a service in a connection class of its own.

use sidelane::define_connection;
use sidelane::routing::{
    ConnectionClass, ConnectionMarker, General, Lane, LoadBalancing, MethodRule, RouteTable, Rule,
    rule,
};
use sidelane_sidecar::balance::{CallFacts, Choice, OwnStrategy};

/// One after the other.
pub const ROUND_ROBIN: &str = "strategies.v1.RoundRobin";
/// The one with the fewest calls in flight.
pub const LEAST_CONNECTIONS: &str = "strategies.v1.LeastConnections";
/// By a key.
pub const CONSISTENT_HASH: &str = "strategies.v1.ConsistentHash";
/// Any.
pub const RANDOM: &str = "strategies.v1.Random";
/// Exactly one.
pub const NONE: &str = "strategies.v1.None";
/// Its rule says nothing of it.
pub const UNSAID: &str = "strategies.v1.Unsaid";
/// [`Last`].
pub const OWN: &str = "strategies.v1.Own";
/// All of them.
pub const ALL: [&str; 7] = [
    ROUND_ROBIN,
    LEAST_CONNECTIONS,
    CONSISTENT_HASH,
    RANDOM,
    NONE,
    UNSAID,
    OWN,
];
/// The name under which rules know [`Last`].
pub const LAST: &str = "last";

/// Its class is [`Partners`].
pub const SETTLEMENT: &str = "strategies.v1.Settlement";

define_connection!(
    /// Other companies, over a line of their own.
    pub Partners,
    number = 16,
    lanes = [General],
);

/// What the program is compiled with.
pub static ROUTES: RouteTable = RouteTable::new(RULES).with_classes(&[Partners::CLASS]);

static RULES: &[Rule] = &[
    balanced(ROUND_ROBIN, LoadBalancing::RoundRobin),
    balanced(LEAST_CONNECTIONS, LoadBalancing::LeastConnections),
    balanced(CONSISTENT_HASH, LoadBalancing::ConsistentHash),
    balanced(RANDOM, LoadBalancing::Random),
    balanced(NONE, LoadBalancing::None),
    plain(UNSAID),
    own(),
    rule(
        SETTLEMENT,
        Partners::CLASS,
        Lane::GENERAL,
        METHODS,
        "sidelane_tests::strategies",
    ),
];

const METHODS: &[MethodRule] = &[MethodRule::unary("Get")];

const fn plain(service: &'static str) -> Rule {
    let (class, lane) = (ConnectionClass::Internal, Lane::GENERAL);
    rule(service, class, lane, METHODS, "sidelane_tests::strategies")
}

const fn balanced(service: &'static str, by: LoadBalancing) -> Rule {
    let mut rule = plain(service);
    rule.load_balancing = Some(by);
    rule
}

const fn own() -> Rule {
    let mut rule = plain(OWN);
    std::mem::forget(rule.strategy.replace(std::borrow::Cow::Borrowed(LAST)));
    rule
}

/// The node whose name is last; a call with a key goes to the first.
#[derive(Debug)]
pub struct Last;

impl OwnStrategy for Last {
    fn choose(&self, choices: &[Choice<'_>], call: &CallFacts) -> Option<usize> {
        match call.key {
            Some(_) => Some(0),
            None => choices.len().checked_sub(1),
        }
    }
}

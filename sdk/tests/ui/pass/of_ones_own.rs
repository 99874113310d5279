//! Services, lanes and classes of one's own, with every field, in any order, and without those
//! that may be left out.

#![deny(warnings)]

use std::time::Duration;

use sidelane::routing::{
    Category, ConnectionClass, ConnectionMarker, External, General, Internal, Lane, LaneMarker,
    LoadBalancingStrategy, MethodRule, Retry, RouteTable, RoutingBuilder, RoutingConfig, Rule,
    ServiceRouting,
};
use sidelane::{define_connection, define_service_routing, define_swimlane};

define_swimlane!(
    Audit,
    id = 16,
    connection = [Internal],
    window = 65_536,
    max_streams = 100
);
define_swimlane! {
    /// Everything that a lane can say.
    pub Replay,
    priority = 6,
    dscp = 63,
    max_waiting = 7,
    max_connections = 16,
    connection_window = 4 * 65_536,
    name = "replay_of_old",
    max_streams = 1,
    window = 65_536,
    connection = [Internal, External, Partners],
    id = 65_535,
}
define_connection!(pub Partners, number = 16, lanes = [General]);
define_connection!(
    /// No lane of Sidelane's own: what goes with it says so itself.
    pub Auditors,
    lanes = [],
    name = "those_who_audit",
    number = 255
);

define_service_routing!(
    Journal,
    category = Category::Worker,
    connection = Internal,
    swimlane = Audit,
    secure = false,
    persistent = false,
    load_balancing = LoadBalancingStrategy::LeastConnections
);
define_service_routing! {
    /// Everything that a rule can say.
    pub Settlement,
    methods = [
        MethodRule::unary("Settle"),
        MethodRule::unary("Look").idempotent().with_hash_on("account.id").with_retry(TWICE),
        MethodRule::streaming("Watch", false, true).with_timeout(Duration::from_secs(1)),
    ],
    retry = TWICE,
    max_timeout = Duration::from_secs(3),
    timeout = Duration::from_secs(2),
    service = SETTLEMENT,
    load_balancing_custom = "nearest_bank",
    persistent = true,
    secure = true,
    swimlane = Replay,
    connection = Partners,
    category = Admin,
}

// Nobody uses these yet.
define_swimlane!(
    Later,
    id = 99,
    connection = Internal,
    window = 65_536,
    max_streams = 100
);
define_connection!(Nobody, number = 99, lanes = [General]);
define_service_routing!(
    Someday,
    category = Gossip,
    connection = Nobody,
    swimlane = General,
    secure = false,
    persistent = false,
    load_balancing = None
);

const SETTLEMENT: &str = "bank.v1.Settlement";
const TWICE: Retry = Retry {
    attempts: 2,
    ..Retry::DEFAULT
};

static LANES: &[Lane] = &[Audit::LANE, Replay::LANE];
static CLASSES: &[ConnectionClass] = &[Partners::CLASS, Auditors::CLASS];
static RULES: &[Rule] = &[Journal::RULE, Settlement::RULE];
static ROUTES: RouteTable = RouteTable::new(RULES)
    .with_lanes(LANES)
    .with_classes(CLASSES);
static JOINED: RouteTable = RouteTable::join(&[ROUTES, RouteTable::PREDEFINED]);

fn main() {
    JOINED.remember();
    assert_eq!(Lane::from_name("replay_of_old"), Some(Replay::LANE));
    assert_eq!(
        ConnectionClass::from_name("those_who_audit"),
        Some(Auditors::CLASS)
    );
    let bounds = Replay::LANE.bounds().unwrap();
    assert_eq!(
        (bounds.priority, bounds.dscp, bounds.max_waiting),
        (6, 63, 7)
    );
    assert_eq!(
        (bounds.max_connections, bounds.connection_window),
        (16, 262_144)
    );

    let rule = &JOINED.rules().nth(1).unwrap();
    assert_eq!(**rule, Settlement::RULE);
    assert_eq!((rule.class, rule.lane), (Partners::CLASS, Replay::LANE));
    assert_eq!(
        (&*rule.service, rule.category),
        ("bank.v1.Settlement", Category::Admin)
    );
    assert_eq!(
        (rule.strategy.as_deref(), rule.load_balancing),
        (Some("nearest_bank"), None)
    );
    assert_eq!(rule.timeout, Some(Duration::from_secs(2)));
    assert_eq!(rule.max_timeout, Some(Duration::from_secs(3)));
    assert_eq!(rule.retry, Some(TWICE));
    assert_eq!(
        rule.method("Look").unwrap().hash_on.as_deref(),
        Some("account.id")
    );
    assert!(rule.origin.contains("of_ones_own.rs:"), "{}", rule.origin);
    assert_eq!(Journal::NAME, "Journal");
    assert_eq!(Journal::DEFAULT_TIMEOUT, None);

    let replay: RoutingConfig<External, Replay> =
        RoutingBuilder::new().external().swimlane(Replay).build();
    assert_eq!(replay.lane(), Replay::LANE);
}

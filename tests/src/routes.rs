//! The rules of the test services, as constants, as a project writes its own.

use sidelane::routing::{
    ConnectionClass, Lane, LoadBalancing, MethodRule, RouteTable, Rule, rule,
};

use crate::services;

/// What the program under test is compiled with.
pub static ROUTES: RouteTable = RouteTable::new(RULES);

const ORIGIN: &str = "sidelane_tests::routes";

static RULES: &[Rule] = &[ECHO, BULK, BEAT, VAULT, FRONT];

/// `Unary` is not idempotent: no call of it may ever be executed twice, which the servers' ledgers
/// show.
const ECHO: Rule = {
    const METHODS: &[MethodRule] = &[
        MethodRule::unary("Unary"),
        MethodRule::streaming("Collect", true, false),
        MethodRule::streaming("Expand", false, true),
        MethodRule::streaming("Chat", true, true),
    ];
    internal(services::ECHO, Lane::GENERAL, METHODS)
};

const BULK: Rule = {
    const METHODS: &[MethodRule] = &[
        MethodRule::streaming("Pull", false, true),
        MethodRule::streaming("Push", true, false),
    ];
    internal(services::BULK, Lane::BIFROST_DATA, METHODS)
};

const BEAT: Rule = {
    const METHODS: &[MethodRule] = &[MethodRule::unary("Ping")];
    internal(services::BEAT, Lane::GOSSIP, METHODS)
};

const VAULT: Rule = {
    const METHODS: &[MethodRule] = &[MethodRule::unary("Open")];
    let mut vault = internal(services::VAULT, Lane::GENERAL, METHODS);
    vault.secure = true;
    vault
};

const FRONT: Rule = {
    const METHODS: &[MethodRule] = &[MethodRule::unary("Visit")];
    let (class, lane) = (ConnectionClass::External, Lane::INGRESS_DATA);
    let mut front = rule(services::FRONT, class, lane, METHODS, ORIGIN);
    front.load_balancing = Some(LoadBalancing::RoundRobin);
    front
};

const fn internal(service: &'static str, lane: Lane, methods: &'static [MethodRule]) -> Rule {
    let mut rule = rule(service, ConnectionClass::Internal, lane, methods, ORIGIN);
    // Tests count how calls are shared out.
    rule.load_balancing = Some(LoadBalancing::RoundRobin);
    rule
}

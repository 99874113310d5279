//! The shop's routing rules, as a project writes them in Rust. Every sidecar of the demo is
//! compiled with them; the load generator reads from them in which lane each call must arrive.

use sidelane::routing::{
    Category, ConnectionClass, Lane, LoadBalancing, MethodRule, RouteTable, Rule, rule,
};

/// Orders, kept by the orders nodes.
pub(super) const ORDERS: &str = "shop.v1.Orders";
/// Stock, kept by the inventory nodes.
pub(super) const INVENTORY: &str = "shop.v1.Inventory";
/// The log of all orders: bulk data, from the orders nodes.
pub(super) const ORDER_LOG: &str = "shop.v1.OrderLog";
/// Heartbeats, answered by the orders nodes.
pub(super) const HEARTBEAT: &str = "shop.v1.Heartbeat";

/// What the demo's sidecars are compiled with.
pub(super) static ROUTES: RouteTable = RouteTable::new(RULES);

static RULES: &[Rule] = &[
    {
        const METHODS: &[MethodRule] = &[
            MethodRule::unary("GetOrder").idempotent(),
            MethodRule::streaming("ImportOrders", true, false),
            MethodRule::streaming("WatchOrder", false, true),
        ];
        const ORIGIN: &str = concat!(file!(), ":", line!());
        let mut orders = rule(ORDERS, INTERNAL, Lane::GENERAL, METHODS, ORIGIN);
        orders.category = Category::Worker;
        orders.persistent = true;
        orders.load_balancing = Some(LoadBalancing::RoundRobin);
        orders
    },
    {
        const METHODS: &[MethodRule] = &[MethodRule::streaming("Reserve", true, true)];
        const ORIGIN: &str = concat!(file!(), ":", line!());
        let mut inventory = rule(INVENTORY, INTERNAL, Lane::GENERAL, METHODS, ORIGIN);
        inventory.category = Category::Worker;
        inventory.load_balancing = Some(LoadBalancing::RoundRobin);
        inventory
    },
    {
        const METHODS: &[MethodRule] = &[MethodRule::streaming("Replicate", false, true)];
        const ORIGIN: &str = concat!(file!(), ":", line!());
        let mut log = rule(ORDER_LOG, INTERNAL, Lane::BIFROST_DATA, METHODS, ORIGIN);
        log.category = Category::Bifrost;
        log.load_balancing = Some(LoadBalancing::RoundRobin);
        log
    },
    {
        const METHODS: &[MethodRule] = &[MethodRule::unary("Beat").idempotent()];
        const ORIGIN: &str = concat!(file!(), ":", line!());
        let mut heartbeat = rule(HEARTBEAT, INTERNAL, Lane::GOSSIP, METHODS, ORIGIN);
        heartbeat.category = Category::Gossip;
        heartbeat.load_balancing = Some(LoadBalancing::Random);
        heartbeat
    },
];

const INTERNAL: ConnectionClass = ConnectionClass::Internal;

/// The name of the lane in which calls to `service` must arrive; empty for a service of others.
pub(super) fn lane_of(service: &str) -> &'static str {
    RULES
        .iter()
        .find(|rule| rule.service == service)
        .map_or("", |rule| rule.lane.name())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shop::v1 as shop;

    #[test]
    fn the_rules_name_the_services_of_the_proto() {
        assert_eq!(ORDERS, shop::orders_server::SERVICE_NAME);
        assert_eq!(INVENTORY, shop::inventory_server::SERVICE_NAME);
        assert_eq!(ORDER_LOG, shop::order_log_server::SERVICE_NAME);
        assert_eq!(HEARTBEAT, shop::heartbeat_server::SERVICE_NAME);
    }

    #[test]
    fn the_kinds_of_traffic_travel_in_three_lanes() {
        assert_eq!(lane_of(ORDERS), "general");
        assert_eq!(lane_of(INVENTORY), "general");
        assert_eq!(lane_of(ORDER_LOG), "bifrost_data");
        assert_eq!(lane_of(HEARTBEAT), "gossip");
        assert_eq!(lane_of("shop.v1.Nothing"), "");
    }

    #[test]
    fn origins_name_this_file_and_different_lines() {
        let mut origins: Vec<_> = RULES.iter().map(|rule| &*rule.origin).collect();
        assert!(
            origins
                .iter()
                .all(|origin| origin.contains("demo/rules.rs:"))
        );
        origins.dedup();
        assert_eq!(origins.len(), RULES.len());
    }
}

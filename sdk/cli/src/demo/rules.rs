//! The shop's routing rules, as `proto/shop/v1/shop.proto` has them. Every sidecar of the demo is
//! compiled with them; the load generator reads from them in which lane each call must arrive.

use sidelane::routing::{Rule, ServiceRouting};

pub(super) use crate::shop::ROUTES;
use crate::shop::v1 as shop;

/// Orders, kept by the orders nodes.
pub(super) const ORDERS: &str = shop::OrdersServiceRouting::NAME;
/// Stock, kept by the inventory nodes.
pub(super) const INVENTORY: &str = shop::InventoryServiceRouting::NAME;
/// The log of all orders: bulk data, from the orders nodes.
pub(super) const ORDER_LOG: &str = shop::OrderLogServiceRouting::NAME;
/// Heartbeats, answered by the orders nodes.
pub(super) const HEARTBEAT: &str = shop::HeartbeatServiceRouting::NAME;

static RULES: &[Rule] = &[
    shop::OrdersServiceRouting::RULE,
    shop::InventoryServiceRouting::RULE,
    shop::OrderLogServiceRouting::RULE,
    shop::HeartbeatServiceRouting::RULE,
];

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
    fn every_rule_is_in_the_table_and_says_where_it_is_written() {
        let text = include_str!("../../proto/shop/v1/shop.proto");
        for rule in RULES {
            assert!(
                ROUTES.rules().any(|known| known == rule),
                "{}",
                rule.service
            );
            let line = rule.origin.strip_prefix("shop/v1/shop.proto:").unwrap();
            let line = text
                .lines()
                .nth(line.parse::<usize>().unwrap() - 1)
                .unwrap();
            assert_eq!(line.trim(), "option (sidelane.routing.v1.service) = {");
        }
    }
}

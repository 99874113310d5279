//! The predefined services: those that most systems have, with the rules that suit them.

use sidelane_proto::model::Rule;

use super::service_markers::ServiceRouting;
use crate::define_service_routing;
use crate::routing::phantom::{BifrostData, External, General, Gossip, IngressData, Internal};

define_service_routing!(
    /// Metadata of the application: calls of one key go to one node.
    pub MetadataServiceRouting,
    service = "sidelane.predefined.v1.Metadata",
    category = Metadata,
    connection = Internal,
    swimlane = General,
    secure = true,
    persistent = true,
    load_balancing = ConsistentHash,
);

define_service_routing!(
    /// Administration among the nodes.
    pub AdminInternalServiceRouting,
    service = "sidelane.predefined.v1.AdminInternal",
    category = Admin,
    connection = Internal,
    swimlane = General,
    secure = true,
    persistent = false,
    load_balancing = LeastConnections,
);

define_service_routing!(
    /// Administration by people.
    pub AdminExternalServiceRouting,
    service = "sidelane.predefined.v1.AdminExternal",
    category = Admin,
    connection = External,
    swimlane = General,
    secure = true,
    persistent = false,
    load_balancing = RoundRobin,
);

define_service_routing!(
    /// Work: calls of one key go to one node.
    pub WorkerServiceRouting,
    service = "sidelane.predefined.v1.Worker",
    category = Worker,
    connection = Internal,
    swimlane = General,
    secure = false,
    persistent = true,
    load_balancing = ConsistentHash,
);

define_service_routing!(
    /// What users send in.
    pub IngressServiceRouting,
    service = "sidelane.predefined.v1.Ingress",
    category = Ingress,
    connection = External,
    swimlane = IngressData,
    secure = true,
    persistent = false,
    load_balancing = RoundRobin,
);

define_service_routing!(
    /// The replicated log: the caller says which node it means.
    pub BifrostServiceRouting,
    service = "sidelane.predefined.v1.Bifrost",
    category = Bifrost,
    connection = Internal,
    swimlane = BifrostData,
    secure = false,
    persistent = true,
    load_balancing = None,
);

define_service_routing!(
    /// Heartbeats and membership.
    pub GossipServiceRouting,
    service = "sidelane.predefined.v1.Gossip",
    category = Gossip,
    connection = Internal,
    swimlane = Gossip,
    secure = false,
    persistent = false,
    load_balancing = Random,
);

/// The rules of the predefined services.
pub static PREDEFINED: &[Rule] = &[
    MetadataServiceRouting::RULE,
    AdminInternalServiceRouting::RULE,
    AdminExternalServiceRouting::RULE,
    WorkerServiceRouting::RULE,
    IngressServiceRouting::RULE,
    BifrostServiceRouting::RULE,
    GossipServiceRouting::RULE,
];

#[cfg(test)]
mod tests {
    use sidelane_proto::model::LoadBalancing;

    use super::*;

    /// The table of the design, a line a service.
    const TABLE: [&str; 7] = [
        "Metadata METADATA Internal general secure persistent CONSISTENT_HASH",
        "AdminInternal ADMIN Internal general secure - LEAST_CONNECTIONS",
        "AdminExternal ADMIN External general secure - ROUND_ROBIN",
        "Worker WORKER Internal general - persistent CONSISTENT_HASH",
        "Ingress INGRESS External ingress_data secure - ROUND_ROBIN",
        "Bifrost BIFROST Internal bifrost_data - persistent NONE",
        "Gossip GOSSIP Internal gossip - - RANDOM",
    ];

    #[test]
    fn the_rules_are_those_of_the_table() {
        let line = |rule: &Rule| {
            rule.check().unwrap();
            assert!(rule.strategy.is_none() && rule.methods.is_empty());
            // Nobody's word, so that whoever tunes one is heard.
            assert_eq!(rule.timeout, None);
            format!(
                "{} {} {} {} {} {} {}",
                rule.service
                    .strip_prefix("sidelane.predefined.v1.")
                    .unwrap(),
                rule.category.name(),
                rule.class,
                rule.lane,
                if rule.secure { "secure" } else { "-" },
                if rule.persistent { "persistent" } else { "-" },
                rule.load_balancing.map_or("", LoadBalancing::name),
            )
        };
        let lines: Vec<String> = PREDEFINED.iter().map(line).collect();
        assert_eq!(lines, TABLE);
    }

    #[test]
    fn each_rule_says_where_it_is_written() {
        let mut origins: Vec<&str> = PREDEFINED.iter().map(|rule| &*rule.origin).collect();
        assert!(
            origins
                .iter()
                .all(|origin| origin.contains("predefined_services.rs:"))
        );
        origins.dedup();
        assert_eq!(origins.len(), PREDEFINED.len());
    }
}

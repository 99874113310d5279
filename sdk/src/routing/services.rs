//! The predefined services: those that most systems have, with the rules that suit them.

use sidelane_proto::model::{Category, ConnectionClass, Lane, LoadBalancing, Rule};

use super::table::rule;

const fn predefined(
    service: &'static str,
    category: Category,
    (class, lane): (ConnectionClass, Lane),
    secure: bool,
    persistent: bool,
    load_balancing: LoadBalancing,
) -> Rule {
    let mut predefined = rule(service, class, lane, &[], "sidelane::routing::PREDEFINED");
    predefined.category = category;
    predefined.secure = secure;
    predefined.persistent = persistent;
    predefined.load_balancing = Some(load_balancing);
    predefined
}

const INTERNAL_GENERAL: (ConnectionClass, Lane) = (ConnectionClass::Internal, Lane::GENERAL);
const INTERNAL_GOSSIP: (ConnectionClass, Lane) = (ConnectionClass::Internal, Lane::GOSSIP);
const INTERNAL_BIFROST: (ConnectionClass, Lane) = (ConnectionClass::Internal, Lane::BIFROST_DATA);
const EXTERNAL_GENERAL: (ConnectionClass, Lane) = (ConnectionClass::External, Lane::GENERAL);
const EXTERNAL_INGRESS: (ConnectionClass, Lane) = (ConnectionClass::External, Lane::INGRESS_DATA);

/// The rules of the predefined services.
pub static PREDEFINED: &[Rule] = &[
    predefined(
        "sidelane.predefined.v1.Metadata",
        Category::Metadata,
        INTERNAL_GENERAL,
        true,
        true,
        LoadBalancing::ConsistentHash,
    ),
    predefined(
        "sidelane.predefined.v1.AdminInternal",
        Category::Admin,
        INTERNAL_GENERAL,
        true,
        false,
        LoadBalancing::LeastConnections,
    ),
    predefined(
        "sidelane.predefined.v1.AdminExternal",
        Category::Admin,
        EXTERNAL_GENERAL,
        true,
        false,
        LoadBalancing::RoundRobin,
    ),
    predefined(
        "sidelane.predefined.v1.Worker",
        Category::Worker,
        INTERNAL_GENERAL,
        false,
        true,
        LoadBalancing::ConsistentHash,
    ),
    predefined(
        "sidelane.predefined.v1.Ingress",
        Category::Ingress,
        EXTERNAL_INGRESS,
        true,
        false,
        LoadBalancing::RoundRobin,
    ),
    predefined(
        "sidelane.predefined.v1.Bifrost",
        Category::Bifrost,
        INTERNAL_BIFROST,
        false,
        true,
        LoadBalancing::None,
    ),
    predefined(
        "sidelane.predefined.v1.Gossip",
        Category::Gossip,
        INTERNAL_GOSSIP,
        false,
        false,
        LoadBalancing::Random,
    ),
];

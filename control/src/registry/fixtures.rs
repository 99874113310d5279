//! Records for the tests of this crate, short to write.

use std::collections::BTreeMap;
use std::sync::Arc;

use sidelane_proto::model::{
    Addresses, Generation, Health, InstanceId, Locality, Network, NodeHello, NodeId, Offer,
    PeerAddress, ProtocolRange, PushedRule, Rule, ServiceName, Subscription,
};

use super::{Change, NodeKey, NodeRecord, Origin, Presence, Stamp};

pub(crate) fn network() -> Network {
    Network::new("default").unwrap()
}

pub(crate) fn service(name: &str) -> ServiceName {
    ServiceName::new(name).unwrap()
}

pub(crate) fn key(node: &str) -> NodeKey {
    NodeKey {
        network: network(),
        node: NodeId::new(node).unwrap(),
    }
}

pub(crate) fn generation(number: u64) -> Generation {
    Generation::new(number).unwrap()
}

pub(crate) fn offer(name: &str) -> Offer {
    Offer {
        service: service(name),
        health: Health::Healthy,
        weight: 100,
        version: Arc::from(""),
        labels: BTreeMap::new(),
        rule: None,
    }
}

/// A rule that only tunes: a time limit of so many seconds.
pub(crate) fn pushed(name: &str, seconds: u64) -> PushedRule {
    let rule = Rule {
        timeout: Some(std::time::Duration::from_secs(seconds)),
        ..Rule::default_for(&service(name))
    };
    PushedRule {
        rule: Arc::new(rule),
        tuning_only: true,
        version: 0,
    }
}

/// A node of generation 1 that offers these services.
pub(crate) fn record(node: &str, services: &[&str]) -> NodeRecord {
    NodeRecord {
        key: key(node),
        generation: generation(1),
        instance: Some(InstanceId::new("instance").unwrap()),
        identity: None,
        build: "0.1.0".into(),
        rules_digest: [].into(),
        locality: Locality::default(),
        addresses: Addresses {
            internal: Some(PeerAddress::new("127.0.0.1:15006").unwrap()),
            external: None,
            own: Vec::new(),
        },
        offers: services.iter().map(|name| offer(name)).collect(),
        draining: false,
        presence: Presence::Present,
    }
}

/// What registration says of a record.
pub(crate) fn upsert(record: NodeRecord, revision: u64) -> Change {
    Change {
        origin: Origin::Registration,
        key: record.key.clone(),
        stamp: Stamp {
            generation: record.generation,
            revision,
        },
        record: Some(Arc::new(record)),
    }
}

/// Registration says that this generation of a node is gone.
pub(crate) fn removal(node: &str, number: u64, revision: u64) -> Change {
    Change {
        origin: Origin::Registration,
        key: key(node),
        stamp: Stamp {
            generation: generation(number),
            revision,
        },
        record: None,
    }
}

/// What a sidecar says that offers these services and wants to know nothing.
pub(crate) fn hello(node: &str, number: u64, instance: &str, services: &[&str]) -> NodeHello {
    let record = record(node, services);
    NodeHello {
        node: record.key.node,
        generation: generation(number),
        instance: InstanceId::new(instance).unwrap(),
        identity: None,
        protocol: ProtocolRange {
            oldest: 1,
            newest: 1,
        },
        build: "0.1.0".to_owned(),
        rules_digest: Vec::new(),
        locality: record.locality,
        network: record.key.network,
        addresses: record.addresses,
        offers: record.offers,
        held: None,
        subscription: Subscription::default(),
        draining: false,
    }
}

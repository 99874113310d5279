//! How records look on disk: keys as `network NUL name`, nodes as the `Hello` they would say, rules
//! as they are pushed. A record that does not come out as it went in is damage, and named.

use std::sync::Arc;

use sidelane_proto::model::{
    Network, NodeHello, NodeId, ProtocolRange, PushedRule, ServiceName, Subscription,
};

use crate::registry::{AppliedRule, NodeKey, NodeRecord, Presence};

/// Stands between a network and a name, and can be in neither.
const SEPARATOR: char = '\0';
/// `NodeHello` has a range of protocol versions, a record has none.
const ANY_PROTOCOL: ProtocolRange = ProtocolRange {
    oldest: 1,
    newest: 1,
};

pub(super) fn node_key(key: &NodeKey) -> String {
    format!("{}{SEPARATOR}{}", key.network, key.node)
}

pub(super) fn service_key(network: &Network, service: &ServiceName) -> String {
    format!("{network}{SEPARATOR}{service}")
}

pub(super) fn read_node_key(text: &str) -> Result<NodeKey, String> {
    let (network, node) = split(text)?;
    Ok(NodeKey {
        network: Network::new(network).map_err(|error| error.to_string())?,
        node: NodeId::new(node).map_err(|error| error.to_string())?,
    })
}

pub(super) fn read_service_key(text: &str) -> Result<(Network, ServiceName), String> {
    let (network, service) = split(text)?;
    let network = Network::new(network).map_err(|error| error.to_string())?;
    let service = ServiceName::new(service).map_err(|error| error.to_string())?;
    Ok((network, service))
}

/// `None` for a record that no process registered: only those are kept.
pub(super) fn write_node(record: &NodeRecord) -> Option<Vec<u8>> {
    let hello = NodeHello {
        node: record.key.node.clone(),
        generation: record.generation,
        instance: record.instance.clone()?,
        identity: record.identity.clone(),
        protocol: ANY_PROTOCOL,
        build: record.build.to_string(),
        rules_digest: record.rules_digest.to_vec(),
        locality: record.locality.clone(),
        network: record.key.network.clone(),
        addresses: record.addresses.clone(),
        offers: record.offers.clone(),
        held: None,
        subscription: Subscription::default(),
        draining: record.draining,
    };
    Some(hello.to_bytes())
}

pub(super) fn read_node(bytes: &[u8]) -> Result<Arc<NodeRecord>, String> {
    let hello = NodeHello::from_bytes(bytes).map_err(|error| error.to_string())?;
    Ok(Arc::new(NodeRecord {
        key: NodeKey {
            network: hello.network,
            node: hello.node,
        },
        generation: hello.generation,
        instance: Some(hello.instance),
        identity: hello.identity,
        build: hello.build.into(),
        rules_digest: hello.rules_digest.into(),
        locality: hello.locality,
        addresses: hello.addresses,
        offers: hello.offers,
        draining: hello.draining,
        presence: Presence::Suspect,
    }))
}

/// A rule without its version, which stands beside it.
pub(super) fn write_rule(rule: &PushedRule) -> Vec<u8> {
    let bare = PushedRule {
        version: 0,
        ..rule.clone()
    };
    bare.to_bytes()
}

/// Nothing is a rule that was taken back.
pub(super) fn read_rule(key: &str, version: u64, bytes: &[u8]) -> Result<AppliedRule, String> {
    let (network, service) = read_service_key(key)?;
    let rule = match bytes {
        [] => None,
        bytes => {
            let rule = PushedRule::from_bytes(bytes).map_err(|error| error.to_string())?;
            if rule.rule.service != service.as_str() {
                return Err(format!("it is of {}", rule.rule.service));
            }
            Some(Arc::new(PushedRule { version, ..rule }))
        }
    };
    Ok(AppliedRule {
        network,
        service,
        version,
        rule,
    })
}

fn split(text: &str) -> Result<(&str, &str), String> {
    text.split_once(SEPARATOR)
        .ok_or_else(|| format!("the key {text:?} has no network"))
}

//! Tests of the hub: named cases in `membership`, `picking`, `breaker` and `scale`, what each
//! strategy does in `strategies`, what weights do in `weights`, and in `properties` any sequence of
//! events against the slow, obvious hub of
//! `model`.

mod breaker;
mod membership;
mod model;
mod near;
mod picking;
mod properties;
mod scale;
mod splits;
mod strategies;
mod warmth;
mod weights;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Instant;

use sidelane_proto::model::{
    Addresses, ConnectionClass, Endpoint, Generation, Health, Identity, Lane, Locality, NodeId,
    Offer, PeerAddress, Rule, ServiceName,
};

use super::{Hub, PickError, Strategy, Unfit, Up, Wanted};

const INTERNAL: Wanted<'_> = Wanted::any(ConnectionClass::Internal);

/// A healthy endpoint of a node's first generation, with an internal address and nothing else.
fn endpoint(node: &str) -> Endpoint {
    let service = ServiceName::new("shop.v1.Orders").unwrap();
    Endpoint {
        node: id(node),
        generation: generation(1),
        identity: None,
        addresses: Addresses {
            internal: Some(PeerAddress::new("10.0.0.7:15006").unwrap()),
            external: None,
            own: Vec::new(),
        },
        locality: Locality::default(),
        offer: Offer {
            service,
            health: Health::Healthy,
            weight: 100,
            version: Arc::from(""),
            labels: std::collections::BTreeMap::new(),
            rule: None,
        },
    }
}

fn with_generation(node: &str, number: u64) -> Endpoint {
    let generation = generation(number);
    Endpoint {
        generation,
        ..endpoint(node)
    }
}

fn with_health(node: &str, health: Health) -> Endpoint {
    let mut endpoint = endpoint(node);
    endpoint.offer.health = health;
    endpoint
}

fn with_identity(node: &str, account: &str) -> Endpoint {
    let identity = Some(identity(account));
    Endpoint {
        identity,
        ..endpoint(node)
    }
}

fn with_lane(node: &str, lane: Lane) -> Endpoint {
    let mut endpoint = endpoint(node);
    endpoint.offer.rule = Some(Arc::new(Rule {
        lane,
        origin: Cow::Borrowed("orders.proto:12"),
        ..Rule::default_for(&endpoint.offer.service)
    }));
    endpoint
}

fn identity(account: &str) -> Identity {
    Identity::new(&format!("spiffe://example.org/ns/shop/sa/{account}")).unwrap()
}

fn id(node: &str) -> NodeId {
    NodeId::new(node).unwrap()
}

fn generation(number: u64) -> Generation {
    Generation::new(number).unwrap()
}

/// A hub that takes turns, with these nodes, which joined in this order.
fn hub_of(nodes: &[&str]) -> Hub {
    let mut hub = Hub::new(Strategy::RoundRobin);
    for node in nodes {
        assert_eq!(up(&mut hub, endpoint(node)), Up::Added);
    }
    hub
}

fn up(hub: &mut Hub, endpoint: Endpoint) -> Up {
    hub.up(Arc::new(endpoint), Instant::now())
}

/// Picks for a call that ends at once; the node picked.
fn pick(hub: &mut Hub, wanted: &Wanted<'_>) -> Result<String, PickError> {
    let pick = hub.pick(wanted, 0, Instant::now())?;
    Ok(pick.endpoint.node.as_str().to_owned())
}

/// The nodes that so many calls go to, one after the other, with a space between.
fn picks(hub: &mut Hub, count: usize) -> String {
    let nodes: Vec<String> = (0..count).map(|_| pick(hub, &INTERNAL).unwrap()).collect();
    nodes.join(" ")
}

/// Why a call cannot go to a node; `None` if it can.
fn unfit(hub: &Hub, wanted: &Wanted<'_>, node: &str) -> Option<Unfit> {
    let candidates = hub.candidates(wanted, Instant::now());
    let mut named = candidates.iter().filter(|it| it.endpoint.node == id(node));
    let found = named.next().expect("the node is in the hub");
    assert!(named.next().is_none(), "twice in the hub: {node}");
    found.unfit
}

//! What opens a link and a session: the preamble, the Hello between sidecars, and the Hello to control.
//! The first byte says which.

use std::sync::Arc;

use prost::Message;
use sidelane_proto::model::{ConnectionClass, Generation, Lane, NodeHello, NodeId};
use sidelane_proto::wire::control::v1::VersionRange;
use sidelane_proto::wire::peer::v1::HelloRequest;
use sidelane_sidecar::accept::{Known, Welcome, greeted};
use sidelane_sidecar::identity::Own;
use sidelane_sidecar::pool::PEER_PROTOCOL;
use sidelane_sidecar::preamble::{self, Preamble};

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "links",
    run,
    seeds,
};

const GENERAL: Preamble = Preamble {
    class: ConnectionClass::Internal,
    lane: Lane::GENERAL,
};

fn run(data: &[u8]) {
    match data.split_first() {
        Some((0, rest)) => opens(rest),
        Some((1, rest)) => greets(rest),
        Some((_, rest)) => registers(rest),
        None => {}
    }
}

fn opens(data: &[u8]) {
    let Some(bytes) = data.first_chunk::<{ preamble::LENGTH }>() else {
        return;
    };
    if let Ok(read) = preamble::read(*bytes) {
        assert!(read.class.allows(read.lane));
        assert_eq!(preamble::write(read.class, read.lane), *bytes);
    }
}

fn greets(data: &[u8]) {
    let Ok(hello) = HelloRequest::decode(data) else {
        return;
    };
    let node = NodeId::new("orders-1").expect("a name");
    let own = Own::new(node, Generation::new(7).expect("a number"));
    let welcome = Welcome {
        own,
        protocol: PEER_PROTOCOL,
        known: Known(Arc::new(|_| None)),
    };
    if let Some(peer) = greeted(welcome, GENERAL, &hello) {
        assert_eq!((peer.class, peer.lane), (GENERAL.class, GENERAL.lane));
        assert_eq!(peer.node.as_str(), hello.node_id);
        assert_eq!(hello.expected_node_id, "orders-1");
        assert!(hello.expected_generation <= 7, "it means a later one");
    }
}

fn registers(data: &[u8]) {
    let Ok(hello) = NodeHello::from_bytes(data) else {
        return;
    };
    let again = NodeHello::from_bytes(&hello.to_bytes()).expect("what was written");
    assert_eq!(again, hello);
}

fn seeds() -> Vec<Vec<u8>> {
    let mut seeds = Vec::new();
    for class in ConnectionClass::BUILT_IN {
        for lane in Lane::BUILT_IN {
            seeds.push([&[0][..], &preamble::write(class, lane)].concat());
        }
    }
    let hello = HelloRequest {
        node_id: "store-1".to_owned(),
        generation: 3,
        expected_node_id: "orders-1".to_owned(),
        expected_generation: 7,
        connection: ConnectionClass::Internal.spoken().0,
        lane_id: Lane::GENERAL.id().into(),
        lane: Lane::GENERAL.name().to_owned(),
        protocol: Some(VersionRange {
            oldest: 1,
            newest: 1,
        }),
        build: "0.1.0".to_owned(),
        rules_digest: vec![7; 32],
        ..HelloRequest::default()
    };
    seeds.push([&[1][..], &hello.encode_to_vec()].concat());
    let hello = sidelane_proto::wire::control::v1::Hello {
        node_id: "orders-1".to_owned(),
        generation: 3,
        ..Default::default()
    };
    seeds.push([&[2][..], &hello.encode_to_vec()].concat());
    seeds
}

//! The picture of the mesh, as control pushes it and as it is kept on disk: any bytes in a file whose
//! checksum is right, and any file. What is taken is kept as it was taken.

use prost::Message;
use sidelane_proto::model::Network;
use sidelane_proto::wire::control::v1 as wire;
use sidelane_sidecar::discover::{Held, disk};

use crate::Target;

pub(crate) const TARGET: Target = Target {
    name: "snapshots",
    run,
    seeds,
};

fn run(data: &[u8]) {
    let network = Network::new("default").expect("a name");
    if let Ok(held) = disk::read(data, &network) {
        kept(&held, &network);
    }
    if let Ok(held) = disk::read(&disk::sealed(data, &network), &network) {
        kept(&held, &network);
    }
}

/// Written and read again it is the same.
fn kept(held: &Held, network: &Network) {
    let Some(update) = held.to_wire() else {
        return;
    };
    let bytes = disk::sealed(&update.encode_to_vec(), network);
    let again = disk::read(&bytes, network).expect("what was written");
    assert_eq!(sorted(again.to_wire()), sorted(Some(update)));
    // One byte more or less, and it is torn.
    assert!(disk::read(&bytes[..bytes.len() - 1], network).is_err());
    let other = Network::new("other").expect("a name");
    assert!(disk::read(&bytes, &other).is_err());
}

/// Services and rules are held without an order.
fn sorted(update: Option<wire::Update>) -> Option<wire::Update> {
    update.map(|mut update| {
        update
            .services
            .sort_by(|one, other| one.service.cmp(&other.service));
        update.rules.sort_by_key(Message::encode_to_vec);
        for service in &mut update.services {
            service.endpoints.sort_by_key(Message::encode_to_vec);
        }
        update
    })
}

fn seeds() -> Vec<Vec<u8>> {
    let network = Network::new("default").expect("a name");
    let endpoint = wire::Endpoint {
        node_id: "orders-1".to_owned(),
        generation: 7,
        ..wire::Endpoint::default()
    };
    let update = |full, rules| wire::Update {
        version: Some(wire::Version {
            store_id: "0123456789abcdef".to_owned(),
            counter: 42,
        }),
        full,
        services: vec![wire::ServiceState {
            service: "shop.v1.Orders".to_owned(),
            ever_seen: true,
            endpoints: vec![endpoint.clone()],
        }],
        rules,
        ..wire::Update::default()
    };
    let small = wire::Update {
        services: vec![wire::ServiceState {
            service: "shop.v1.Orders".to_owned(),
            ever_seen: true,
            endpoints: Vec::new(),
        }],
        ..update(true, Vec::new())
    };
    let bodies = [
        update(true, crate::yaml::rules()),
        update(false, Vec::new()),
        small,
    ];
    let mut seeds: Vec<Vec<u8>> = bodies.iter().map(Message::encode_to_vec).collect();
    seeds.push(disk::sealed(&seeds[2], &network));
    seeds
}

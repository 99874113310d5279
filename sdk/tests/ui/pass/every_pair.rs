//! All five pairs, in a signature, a field, an expression, by the builder and by the factory.

use sidelane::routing::{
    BifrostData, ConnectionClass, External, General, Gossip, IngressData, Internal, Lane,
    LaneMarker, RoutingBuilder, RoutingConfig, RoutingFactory, RoutingMatrix, RoutingWitness,
    ValidRoutingMatrix,
};

struct Holds<C: ValidRoutingMatrix<L>, L: LaneMarker> {
    config: RoutingConfig<C, L>,
    witness: RoutingWitness<C, L>,
    matrix: RoutingMatrix<C, L>,
}

fn takes<C: ValidRoutingMatrix<L>, L: LaneMarker>(
    config: RoutingConfig<C, L>,
) -> (ConnectionClass, Lane) {
    let holds = Holds {
        config,
        witness: config.witness(),
        matrix: RoutingMatrix::new(),
    };
    assert_eq!(holds.witness.class(), holds.config.class());
    assert_eq!(holds.matrix.lane(), holds.config.lane());
    (holds.config.class(), holds.config.lane())
}

const HEARTBEATS: RoutingConfig<Internal, Gossip> =
    RoutingBuilder::new().internal().gossip().build();

fn main() {
    let internal = ConnectionClass::Internal;
    let external = ConnectionClass::External;
    let pairs = [
        takes::<Internal, General>(RoutingFactory::internal_general()),
        takes(HEARTBEATS),
        takes::<Internal, BifrostData>(RoutingBuilder::new().internal().bifrost_data().build()),
        takes::<External, General>(RoutingBuilder::new().external().general().build()),
        takes::<External, IngressData>(RoutingFactory::external_ingress()),
    ];
    let expected = [
        (internal, Lane::GENERAL),
        (internal, Lane::GOSSIP),
        (internal, Lane::BIFROST_DATA),
        (external, Lane::GENERAL),
        (external, Lane::INGRESS_DATA),
    ];
    assert_eq!(pairs, expected);
}

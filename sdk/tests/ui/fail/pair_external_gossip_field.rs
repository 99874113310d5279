use sidelane::routing::{External, Gossip, RoutingWitness};

struct Holds {
    _witness: RoutingWitness<External, Gossip>,
}

fn main() {}

use sidelane::routing::{BifrostData, External, RoutingWitness};

struct Holds {
    _witness: RoutingWitness<External, BifrostData>,
}

fn main() {}

use sidelane::routing::{IngressData, Internal, RoutingWitness};

struct Holds {
    _witness: RoutingWitness<Internal, IngressData>,
}

fn main() {}

use sidelane::routing::{External, Gossip, RoutingMatrix};

fn main() {
    let _ = RoutingMatrix::<External, Gossip>::new();
}

use sidelane::routing::{BifrostData, External, RoutingMatrix};

fn main() {
    let _ = RoutingMatrix::<External, BifrostData>::new();
}

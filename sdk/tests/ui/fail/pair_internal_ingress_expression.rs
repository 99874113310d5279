use sidelane::routing::{IngressData, Internal, RoutingMatrix};

fn main() {
    let _ = RoutingMatrix::<Internal, IngressData>::new();
}

use sidelane::routing::RoutingBuilder;

fn main() {
    let _ = RoutingBuilder::new().gossip().build();
}

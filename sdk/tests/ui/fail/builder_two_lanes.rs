use sidelane::routing::RoutingBuilder;

fn main() {
    let _ = RoutingBuilder::new().internal().gossip().general();
}

use sidelane::routing::RoutingBuilder;

fn main() {
    let _ = RoutingBuilder::new().external().bifrost_data();
}

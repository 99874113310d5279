use sidelane::define_connection;
use sidelane::routing::{General, Gossip, RoutingConfig};

define_connection!(Partners, number = 16, lanes = [General]);

fn main() {
    let _ = RoutingConfig::<Partners, Gossip>::new();
}

use sidelane::define_service_routing;
use sidelane::routing::{External, Gossip};

define_service_routing!(
    Orders,
    category = Worker,
    connection = External,
    swimlane = Gossip,
    secure = true,
    persistent = true,
    load_balancing = Random,
);

fn main() {}

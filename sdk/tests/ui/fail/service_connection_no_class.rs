use sidelane::define_service_routing;
use sidelane::routing::{General, Gossip};

define_service_routing!(
    Orders,
    category = Worker,
    connection = Gossip,
    swimlane = General,
    secure = true,
    persistent = true,
    load_balancing = Random,
);

fn main() {}

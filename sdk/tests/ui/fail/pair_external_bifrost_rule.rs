use sidelane::define_service_routing;
use sidelane::routing::{BifrostData, External};

define_service_routing!(
    Orders,
    category = Worker,
    connection = External,
    swimlane = BifrostData,
    secure = true,
    persistent = true,
    load_balancing = Random,
);

fn main() {}

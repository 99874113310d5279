use sidelane::define_service_routing;
use sidelane::routing::{External, Internal};

define_service_routing!(
    Orders,
    category = Worker,
    connection = Internal,
    swimlane = External,
    secure = true,
    persistent = true,
    load_balancing = Random,
);

fn main() {}

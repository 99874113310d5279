use sidelane::define_service_routing;
use sidelane::routing::{IngressData, Internal};

define_service_routing!(
    Orders,
    category = Worker,
    connection = Internal,
    swimlane = IngressData,
    secure = true,
    persistent = true,
    load_balancing = Random,
);

fn main() {}

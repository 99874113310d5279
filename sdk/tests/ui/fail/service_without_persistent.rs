use sidelane::define_service_routing;
use sidelane::routing::{General, Internal};

define_service_routing!(
    Orders,
    category = Worker,
    connection = Internal,
    swimlane = General,
    secure = true,
    load_balancing = Random,
);

fn main() {}

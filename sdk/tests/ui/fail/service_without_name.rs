use sidelane::define_service_routing;
use sidelane::routing::{General, Internal};

define_service_routing!(
    category = Worker,
    connection = Internal,
    swimlane = General,
    secure = true,
    persistent = true,
    load_balancing = Random,
);

fn main() {}

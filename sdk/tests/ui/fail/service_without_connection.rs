use sidelane::define_service_routing;
use sidelane::routing::General;

define_service_routing!(
    Orders,
    category = Worker,
    swimlane = General,
    secure = true,
    persistent = true,
    load_balancing = Random,
);

fn main() {}

use sidelane::define_service_routing;
use sidelane::routing::Internal;

define_service_routing!(
    Orders,
    category = Worker,
    connection = Internal,
    secure = true,
    persistent = true,
    load_balancing = Random,
);

fn main() {}

use sidelane::define_service_routing;
use sidelane::routing::{Allow, Authorization, General, Internal};

define_service_routing!(
    Orders,
    category = Worker,
    connection = Internal,
    swimlane = General,
    secure = true,
    persistent = true,
    load_balancing = Random,
    authorization = Authorization::of(const { &[Allow::prefix("spiffe://mesh.ex")] }),
);

fn main() {}

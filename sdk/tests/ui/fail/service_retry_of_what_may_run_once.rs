use sidelane::define_service_routing;
use sidelane::routing::{General, Internal, MethodRule, Retry};

define_service_routing!(
    Orders,
    category = Worker,
    connection = Internal,
    swimlane = General,
    secure = true,
    persistent = true,
    load_balancing = Random,
    methods = [MethodRule::unary("Place").with_retry(Retry::DEFAULT),],
);

fn main() {}

use std::time::Duration;

use sidelane::define_service_routing;
use sidelane::routing::{General, Internal};

define_service_routing!(
    Orders,
    category = Worker,
    connection = Internal,
    swimlane = General,
    secure = true,
    persistent = true,
    load_balancing = Random,
    timeout = Duration::from_secs(3),
    max_timeout = Duration::from_secs(2),
);

fn main() {}

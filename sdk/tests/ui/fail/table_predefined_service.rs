use sidelane::define_service_routing;
use sidelane::routing::{General, Internal, RouteTable, Rule, ServiceRouting};

define_service_routing!(
    Worker,
    service = "sidelane.predefined.v1.Worker",
    category = Worker,
    connection = Internal,
    swimlane = General,
    secure = true,
    persistent = true,
    load_balancing = Random,
);

static RULES: &[Rule] = &[Worker::RULE];
pub static ROUTES: RouteTable = RouteTable::new(RULES);

fn main() {}

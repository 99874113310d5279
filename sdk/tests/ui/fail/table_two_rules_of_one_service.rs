use sidelane::define_service_routing;
use sidelane::routing::{General, Internal, RouteTable, Rule, ServiceRouting};

define_service_routing!(
    Orders,
    service = "shop.v1.Orders",
    category = Worker,
    connection = Internal,
    swimlane = General,
    secure = true,
    persistent = true,
    load_balancing = Random,
);

define_service_routing!(
    Purchases,
    service = "shop.v1.Orders",
    category = Worker,
    connection = Internal,
    swimlane = General,
    secure = true,
    persistent = true,
    load_balancing = Random,
);

static RULES: &[Rule] = &[Orders::RULE, Purchases::RULE];
pub static ROUTES: RouteTable = RouteTable::new(RULES);

fn main() {}

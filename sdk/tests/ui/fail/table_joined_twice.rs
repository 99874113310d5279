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

static RULES: &[Rule] = &[Orders::RULE];
static ROUTES: RouteTable = RouteTable::new(RULES);
pub static ALL: RouteTable = RouteTable::join(&[ROUTES, ROUTES]);

fn main() {}

use sidelane::routing::{ConnectionClass, Lane, RouteTable, Rule, rule};

static RULES: &[Rule] = &[{
    let mut orders = rule(
        "shop.v1.Orders",
        ConnectionClass::Internal,
        Lane::GENERAL,
        &[],
        "here",
    );
    orders.class = ConnectionClass::External;
    orders.lane = Lane::GOSSIP;
    orders
}];
pub static ROUTES: RouteTable = RouteTable::new(RULES);

fn main() {}

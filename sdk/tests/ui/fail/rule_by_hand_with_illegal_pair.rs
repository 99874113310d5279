use sidelane::routing::{Category, External, Gossip, ServiceRouting};

struct Orders;

impl ServiceRouting for Orders {
    const NAME: &'static str = "shop.v1.Orders";
    const SERVICE_CATEGORY: Category = Category::Worker;
    type Connection = External;
    type Lane = Gossip;
    const REQUIRES_SECURE_TRANSPORT: bool = true;
    const REQUIRES_PERSISTENT_CONNECTION: bool = true;
}

fn main() {}

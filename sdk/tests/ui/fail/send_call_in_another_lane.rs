use sidelane::define_service_routing;
use sidelane::routing::{General, Gossip, Internal, RpcRequest, TypedConnection};

define_service_routing!(
    Orders,
    category = Worker,
    connection = Internal,
    swimlane = General,
    secure = true,
    persistent = true,
    load_balancing = Random,
);

#[derive(Clone, PartialEq, prost::Message)]
struct GetOrder {}

impl RpcRequest<Orders> for GetOrder {
    type Response = GetOrder;
    const METHOD: &'static str = "GetOrder";
}

fn wrong(heartbeats: &TypedConnection<Internal, Gossip>) {
    let _ = heartbeats.call::<_, Orders>(GetOrder {}, None, None);
}

fn main() {}

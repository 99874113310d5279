use sidelane::define_service_routing;
use sidelane::routing::{
    General, Internal, MetadataServiceRouting, RpcRequest, TypedNetworkSender,
};

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

fn wrong(sender: &TypedNetworkSender) {
    let _ = sender.call_rpc_with_service_routing::<_, MetadataServiceRouting, GetOrder>(
        None,
        GetOrder {},
        None,
        None,
    );
}

fn main() {}

//! Several services on one listener, told apart by the first part of a call's path. tonic's own
//! router would do the same, with a web framework below it that nothing else here needs.

use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;

use tonic::Status;
use tonic::body::Body;
use tower::{Service, service_fn};

use super::answer::Shop;
use crate::shop::v1::heartbeat_server::{self, HeartbeatServer};
use crate::shop::v1::inventory_server::{self, InventoryServer};
use crate::shop::v1::order_log_server::{self, OrderLogServer};
use crate::shop::v1::orders_server::{self, OrdersServer};

type Answering = Pin<Box<dyn Future<Output = Result<http::Response<Body>, Infallible>> + Send>>;

/// All services of the shop as one.
pub(super) fn services(
    shop: Shop,
) -> impl Service<
    http::Request<Body>,
    Response = http::Response<Body>,
    Error = Infallible,
    Future = Answering,
> + Clone
+ Send {
    let orders = OrdersServer::new(shop.clone());
    let inventory = InventoryServer::new(shop.clone());
    let order_log = OrderLogServer::new(shop.clone());
    let heartbeat = HeartbeatServer::new(shop);
    service_fn(move |request: http::Request<Body>| -> Answering {
        let service = request.uri().path().split('/').nth(1).unwrap_or_default();
        // Generated servers are always ready, so a fresh clone may be called at once.
        match service {
            orders_server::SERVICE_NAME => orders.clone().call(request),
            inventory_server::SERVICE_NAME => inventory.clone().call(request),
            order_log_server::SERVICE_NAME => order_log.clone().call(request),
            heartbeat_server::SERVICE_NAME => heartbeat.clone().call(request),
            other => {
                let status = Status::unimplemented(format!("the shop has no service {other:?}"));
                Box::pin(async move { Ok(status.into_http()) })
            }
        }
    })
}

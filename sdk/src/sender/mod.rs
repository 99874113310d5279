//! Calls by types: a caller states the service by its [`ServiceRouting`](crate::routing::ServiceRouting),
//! and class, lane, strategy and security come from there. All of it goes through the sidecar
//! beside this process, which is told the caller's rule with each call and refuses rather than send
//! it by another one.
//!
//! [`NetworkSender`] is the untyped way to make a call, and [`LocalSidecar`] is ours. Upon it stand
//! [`TypedNetworkSender`], which takes a request and finds the rest in its types; [`TypedConnection`],
//! which carries what travels in its class and lane and nothing else; and [`Bound`], under which a
//! generated client says its service's rule without anybody naming a type.
//!
//! ```no_run
//! use sidelane::define_service_routing;
//! use sidelane::routing::{General, Internal};
//! use sidelane::sender::{LocalSidecar, NetworkSenderExt, Recipient, RpcRequest};
//!
//! define_service_routing!(
//!     OrdersServiceRouting,
//!     service = "shop.v1.Orders",
//!     category = Worker,
//!     connection = Internal,
//!     swimlane = General,
//!     secure = false,
//!     persistent = true,
//!     load_balancing = ConsistentHash,
//! );
//!
//! // What the build writes beside the messages.
//! impl RpcRequest<OrdersServiceRouting> for GetOrder {
//!     type Response = Order;
//!     const METHOD: &'static str = "GetOrder";
//! }
//! # #[derive(Clone, PartialEq, prost::Message)]
//! # struct GetOrder { #[prost(uint64, tag = "1")] order: u64 }
//! # #[derive(Clone, PartialEq, prost::Message)]
//! # struct Order {}
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let sender = LocalSidecar::connect().await?.typed();
//! let order: Order = sender
//!     .call_rpc_with_service_routing::<_, OrdersServiceRouting, _>(
//!         Recipient::Any,
//!         GetOrder { order: 7 },
//!         Some(7),
//!         None,
//!     )
//!     .await?;
//! # Ok(())
//! # }
//! ```

mod bound;
mod connection;
mod hash;
mod local;
mod network;
mod pool;
mod typed;

pub use bound::Bound;
pub use connection::{TravelsIn, TypedConnection};
pub use hash::{HASH_KEY_LIMIT, HashKey, KeyField};
pub use local::LocalSidecar;
pub use network::{Answering, ConnectionKey, NetworkCall, NetworkSender, Recipient, answer};
pub use pool::POOL_LIMIT;
pub use sidelane_proto::model::{Generation, NodeId, SpokenRule};
pub use typed::{NetworkSenderExt, RpcRequest, TypedNetworkSender};

#[cfg(test)]
mod tests;

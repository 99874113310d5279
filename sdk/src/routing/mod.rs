//! Routing rules: what kind of traffic a service is, where it may be reached, and in which lane
//! it travels.
//!
//! Classes and lanes are types: [`Internal`], [`Gossip`]. Which go together is known to
//! [`sidelane_proto::model::matrix`] alone, and the relation [`ValidRoutingMatrix`] is held against
//! it; a pair that it does not have is no program. A service states its rule by a type that
//! implements [`ServiceRouting`], which the build writes from the options in its `.proto`, and
//! [`define_service_routing!`] from Rust:
//!
//! ```
//! use sidelane::define_service_routing;
//! use sidelane::routing::{General, Internal, MethodRule, RouteTable, Rule, ServiceRouting};
//!
//! define_service_routing!(
//!     pub Orders,
//!     service = "shop.v1.Orders",
//!     category = Worker,
//!     connection = Internal,
//!     swimlane = General,
//!     secure = true,
//!     persistent = true,
//!     load_balancing = ConsistentHash,
//!     methods = [MethodRule::unary("GetOrder").idempotent()],
//! );
//!
//! static RULES: &[Rule] = &[Orders::RULE];
//! pub static ROUTES: RouteTable = RouteTable::new(RULES);
//! assert_eq!(ROUTES.rules().next().unwrap().service, "shop.v1.Orders");
//! ```
//!
//! ```compile_fail,E0277
//! use sidelane::routing::{IngressData, Internal, RoutingConfig};
//!
//! // error: class `Internal` and lane `IngressData` do not go together
//! let config = RoutingConfig::<Internal, IngressData>::new();
//! ```
//!
//! A [`Rule`] is data that can be a constant; a [`RouteTable`] is all rules that a program was
//! compiled with. [`define_swimlane!`] and [`define_connection!`] add lanes and classes of one's
//! own. For what is known only when the program runs there is [`RoutingBuilder::dynamic`], which
//! asks the same matrix.

#[doc(hidden)]
#[path = "private.rs"]
pub mod __private;
pub mod builder;
mod check;
mod define;
mod index;
mod message;
pub mod phantom;
pub mod services;

pub use builder::{DynamicBuilder, DynamicRouting, RoutingBuilder, RoutingError, RoutingFactory};
pub use check::{CLASSES_LIMIT, LANES_LIMIT, RULES_LIMIT};
pub use index::{Found, PATHS_LIMIT, PathIndex};
pub use phantom::{
    BifrostData, ConnectionMarker, External, General, Gossip, IngressData, Internal, LaneMarker,
    RoutingConfig, RoutingMatrix, RoutingWitness,
};
pub use services::{
    AdminExternalServiceRouting, AdminInternalServiceRouting, BifrostServiceRouting,
    GossipServiceRouting, IngressServiceRouting, LoadBalancingStrategy, MetadataServiceRouting,
    PREDEFINED, RouteTable, ServiceRouting, ValidRoutingMatrix, WorkerServiceRouting, rule,
    rule_of,
};
pub use sidelane_proto::model::error::Problem;
pub use sidelane_proto::model::{
    Abort, Adaptive, Admission, Allow, Authorization, Balancing, Bound, Breaker, CallPath,
    Category, Concurrency, ConnectionClass, Delay, Fault, FieldError, HeaderMatch, Hedge, Lane,
    LaneBounds, Limit, LoadBalancing, LocalityPreference, MethodRule, Outlier, PathError, Per,
    Retry, RetryBudget, Rule, Split, SplitPart, Statuses, Validation,
};

pub use crate::sender as typed_sender;
pub use crate::sender::{
    NetworkSender, NetworkSenderExt, RpcRequest, TypedConnection, TypedNetworkSender,
};
pub use crate::{define_connection, define_service_routing, define_swimlane};

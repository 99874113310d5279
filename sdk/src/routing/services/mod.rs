//! Services and their rules: the trait by which a service states its rule in types, the services
//! that come with Sidelane, and the table of all rules that a program was compiled with.

pub mod matrix;
pub mod predefined_services;
pub mod registry;
pub mod service_markers;

pub use matrix::ValidRoutingMatrix;
pub use predefined_services::{
    AdminExternalServiceRouting, AdminInternalServiceRouting, BifrostServiceRouting,
    GossipServiceRouting, IngressServiceRouting, MetadataServiceRouting, PREDEFINED,
    WorkerServiceRouting,
};
pub use registry::{RouteTable, rule};
pub use service_markers::{LoadBalancingStrategy, ServiceRouting, rule_of};

//! The validated model of the mesh. Every type here is right by construction: names are
//! well-formed, (class, lane) pairs are legal, versions are complete. `TryFrom<wire::…>` is the
//! only way in from the wire, and each failure is a [`FieldError`] that names the field's path.
//! Nothing here does I/O or knows the time.

pub mod endpoint;
pub mod error;
pub mod matrix;
pub mod name;
pub mod node;
pub mod path;
pub mod rule;
pub mod snapshot;

pub use endpoint::{Addresses, Endpoint, Health, Locality, Offer, PeerAddress};
pub use error::{FieldError, Problem};
pub use matrix::{ConnectionClass, Lane};
pub use name::{Identity, Network, NodeId, ServiceName};
pub use node::{Generation, InstanceId, NodeHello, ProtocolRange};
pub use path::{CallPath, PathError};
pub use rule::{Category, LoadBalancing, MethodRule, Rule};
pub use snapshot::{Removal, ServiceState, Subscription, Update, Version};

#[cfg(test)]
mod tests;

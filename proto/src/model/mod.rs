//! The validated model of the mesh. Every type here is right by construction: names are
//! well-formed, (class, lane) pairs are legal, versions are complete. `TryFrom<wire::…>` is the
//! only way in from the wire, and each failure is a [`FieldError`] that names the field's path.
//! Nothing here does I/O or knows the time.

pub mod adaptive;
pub mod admission;
pub mod authorization;
pub mod balancing;
pub mod breaker;
pub mod breaking;
pub mod class;
pub mod endpoint;
pub mod error;
pub mod flaw;
pub mod hedge;
pub mod lane;
pub mod matrix;
pub mod name;
pub mod node;
pub mod outlier;
pub mod path;
pub mod pushed;
pub mod pushed_set;
mod registry;
pub mod retry;
pub mod rule;
pub mod snapshot;
pub mod split;
pub mod spoken;
pub mod validation;
pub mod vocabulary;
pub mod written;

pub use adaptive::Adaptive;
pub use admission::{Abort, Admission, Bound, Concurrency, Delay, Fault, Limit, Per};
pub use authorization::{Allow, Approach, Authorization, Holds};
pub use balancing::{Balancing, LocalityPreference};
pub use breaker::Breaker;
pub use class::{ClassDefinition, ConnectionClass, OwnClass};
pub use endpoint::{Addresses, Endpoint, Health, Locality, Offer, PeerAddress};
pub use error::{FieldError, Problem};
pub use flaw::{Flaw, PolicyFlaw};
pub use hedge::Hedge;
pub use lane::{Lane, LaneBounds, LaneDefinition};
pub use name::{Identity, Network, NodeId, ServiceName};
pub use node::{Generation, InstanceId, NodeHello, ProtocolRange};
pub use outlier::Outlier;
pub use path::{CallPath, PathError};
pub use pushed::PushedRule;
pub use retry::{Retry, RetryBudget, Statuses};
pub use rule::{Category, LoadBalancing, MethodRule, Rule};
pub use snapshot::{RefusedRule, Removal, ServiceState, Subscription, Update, Version};
pub use split::{HeaderMatch, Split, SplitPart};
pub use spoken::SpokenRule;
pub use validation::Validation;
pub use vocabulary::Vocabulary;
pub use written::{WrittenMethod, WrittenRule};

#[cfg(test)]
mod tests;

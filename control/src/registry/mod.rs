//! The registry: what every source says of the mesh and the rules that people apply to it, merged
//! by one writer into versioned, immutable snapshots that push and the admin pages read without
//! waiting. It knows neither where a record comes from nor who reads the result, and it must never
//! wait for a reader or a disk.

pub mod edition;
pub mod lease;
pub mod merge;
pub mod record;
pub mod rules;
pub mod snapshot;
pub mod writer;

pub use edition::{Batch, Changed};
pub use lease::{Lease, Standing, Terms};
pub use merge::Merge;
pub use record::{Change, NodeKey, NodeRecord, Origin, Presence, Stamp};
pub use rules::{AppliedRule, RuleBook};
pub use snapshot::{Delta, ServiceView, Snapshot};
pub use writer::{Closed, Journal, Registry, RuleChanges, Start, Watcher};

#[cfg(test)]
pub(crate) mod fixtures;

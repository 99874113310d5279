//! The registry: what every source says of the mesh, merged by one writer into versioned,
//! immutable snapshots that push and the admin pages read without waiting. It knows neither where
//! a record comes from nor who reads the result, and it must never wait for a reader or a disk.

pub mod edition;
pub mod lease;
pub mod merge;
pub mod record;
pub mod snapshot;
pub mod writer;

pub use edition::Batch;
pub use lease::{Lease, Standing, Terms};
pub use merge::Merge;
pub use record::{Change, NodeKey, NodeRecord, Origin, Presence, Stamp};
pub use snapshot::{Delta, ServiceView, Snapshot};
pub use writer::{Closed, Journal, Registry, Start, Watcher};

#[cfg(test)]
pub(crate) mod fixtures;

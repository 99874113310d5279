//! What the sidecar counts. Counters are built once for each service, so that a call only adds to
//! them; labels come from closed sets. Nothing here knows a stage.

mod access;
mod admission;
mod authorization;
mod calls;
mod edge;
mod guard;
mod histogram;
mod lane;
mod metrics;
mod peers;
pub mod tap;
mod target;
pub mod trace;
mod trust;

pub use access::{AccessLog, Note, PATH_LIMIT, QUEUE, To, Which};
pub use admission::AdmissionCounters;
pub use authorization::{AUDIT_BURST, AuditLines, AuthorizationCounters};
pub use edge::{EdgeCounters, Full, Standing, Turned};
pub use guard::{CallGuard, Carried, Outcome, Traffic};
pub use histogram::{BOUNDS_LIMIT, Buckets};
pub use lane::{Counted, LaneCounters, Side, Stall};
pub use metrics::{Dial, Metrics, PAGE_LIMIT, RETIRED_AFTER, SERIES_A_TARGET, TARGETS_LIMIT};
pub(crate) use metrics::{escaped, heading, line};
pub use peers::{PEERS_LIMIT, PeerCalls};
pub use target::{Direction, ServiceCounters, TargetCounters};
pub use trust::TrustCounters;

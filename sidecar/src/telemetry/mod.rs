//! What the sidecar counts. Counters are built once for each service, so that a call only adds to
//! them; labels come from closed sets. Nothing here knows a stage.

mod admission;
mod authorization;
mod edge;
mod guard;
mod lane;
mod metrics;
mod target;
mod trust;

pub use admission::AdmissionCounters;
pub use authorization::{AUDIT_BURST, AuditLines, AuthorizationCounters};
pub use edge::{EdgeCounters, Standing, Turned};
pub use guard::{CallGuard, Outcome};
pub use lane::{Counted, LaneCounters, Side, Stall};
pub use metrics::Metrics;
pub(crate) use metrics::{heading, line};
pub use target::{Direction, TargetCounters};
pub use trust::TrustCounters;

//! From the registry to the wire: one stream a sidecar, on which it says who it is and what it
//! wants to know, and is told the newest state of that, and the rules of it and of what it offers. What a session must be told is worked out
//! when it can take it, from the newest snapshot: there is no backlog that a slow one could build
//! up. Push knows no source; claims go through `crate::claim`.

mod ack;
mod counters;
mod directory;
mod outgoing;
mod responses;
mod server;
mod session;

pub use ack::{Progress, REFUSALS_KEPT, RefusedRule, RefusedUpdate};
pub use counters::{Counters, RefusalReason};
pub use directory::{Directory, Laggard, Listed};
pub use outgoing::News;
pub(crate) use server::service;
pub use server::{MESSAGE_LIMIT, Membership, PROTOCOL};
pub use session::{DRAIN_LIMIT, HELLO_LIMIT, SUBSCRIPTIONS_LIMIT};

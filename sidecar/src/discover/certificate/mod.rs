//! This sidecar's certificate where control signs it: the first one, by a proof of right (`proof`);
//! the next ones, by the one before (`renew`); and what control says of trust meanwhile (`trusted`).
//! `ask` is the one call to control, `kept` the file of who was told to keep one. The private key is
//! made here and goes nowhere else. Nothing of this stands in a call's way: links read what is
//! present, and while nothing holds any more they are refused.

mod account;
mod ask;
mod holder;
mod kept;
mod proof;
mod renew;
mod trusted;

pub use account::{AccountError, ServiceAccount};
pub use ask::{EnrolError, EnrolErrors, Enrolment, Unanswered};
pub use holder::{Figures, Holder};
pub use proof::{ProofError, Proofs};
pub use trusted::TrustError;

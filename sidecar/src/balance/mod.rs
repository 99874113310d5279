//! Picks the endpoint that a call goes to, among those that offer its service. It stands between
//! policy, which may ask again with what was already tried, and the pool, which holds the
//! connections. It is pure: it never opens a socket, reads a clock or draws a random number; time
//! and chance come in as arguments.

mod choose;
mod circuit;
mod departed;
mod eligible;
mod error;
mod hub;
mod latency;
mod load;
mod near;
mod own;
mod ring;
mod rotation;
mod select;
mod shares;
mod strategy;
mod trips;
mod warmth;
mod weight;
mod window;

pub use choose::Pick;
pub use circuit::{Cause, Change, Verdict};
pub use departed::Departure;
pub use eligible::{Agreement, Candidate, Tripped, Unfit, Wanted};
pub use error::{Counts, NAMED_IN_ERRORS, PickError};
pub use hub::{Counters, Down, Gone, Hub, SplitPicks, Up};
pub use latency::FAILURE;
pub use load::InFlight;
pub use near::{NEAR_CROWD, NEAR_SHARES, Nearness};
pub use own::{CallFacts, Choice, OwnStrategy, Strategies, StrategyNameError};
pub use select::{CROWD, FEW};
pub use strategy::{Own, Strategy};

#[cfg(test)]
mod tests;

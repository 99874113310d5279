//! The whole control plane over real sockets, and sidecars that say exactly what a test wants.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "these are tests, and so are the helpers between them"
)]

mod admin;
mod drain;
mod fixed;
mod identity;
mod kubernetes;
mod leases;
mod process;
mod restart;
mod rules;
mod scale;
mod session;
mod sidecar;
mod subscriptions;

//! Whole meshes for tests, of real processes: control, sidecars, and servers and clients that
//! nobody here wrote. The builders read like sentences, so that a test says what it is about:
//!
//! ```no_run
//! # async fn example() {
//! use sidelane_tests::{Upstream, services};
//!
//! # let program = "sidelane-under-test";
//! let upstream = Upstream::named("echo").start().await;
//! let mut mesh = sidelane_tests::Cluster::of(program)
//!     .control()
//!     .node("caller")
//!     .node("callee").serving(services::ECHO, &upstream)
//!     .start()
//!     .await;
//! mesh.node("callee").kill().await;
//! # }
//! ```
//!
//! Everything that is started ends with the value that stands for it, also when the test panics;
//! then the processes' logs are shown. Nothing here is part of the product.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "this crate is nothing but tests: a panic with a clear message is a failed test"
)]

pub mod admin;
pub mod api_server;
pub mod app;
pub mod applied;
pub mod ask;
pub mod cases;
pub mod certificates;
pub mod client;
pub mod cluster;
pub mod collector;
pub mod compare;
pub mod exclusive;
pub mod executions;
pub mod fake_control;
pub mod fake_peer;
pub mod flood;
pub mod frames;
pub mod hub;
pub mod imports;
pub mod jaeger;
pub mod lanes;
pub mod languages;
pub mod link;
pub mod load;
pub mod machine;
pub mod mesh_view;
pub mod moody;
pub mod moved;
pub mod netns;
pub mod openmetrics;
pub mod owner;
pub mod ports;
pub mod process;
pub mod prometheus;
pub mod refusal;
pub mod routes;
pub mod run;
pub mod secrets;
pub mod services;
pub mod sockets;
pub mod stranger;
pub mod strategies;
pub mod three;
pub mod tunnel;
pub mod unruled;
pub mod upstream;
pub mod users;
pub mod wire;
pub mod workload;

pub use cluster::Cluster;
pub use exclusive::exclusive;
pub use upstream::Upstream;
pub use upstream::raw::RawUpstream;

/// A cluster of the program that this crate builds, [`Cluster::of`] it. To be used in integration
/// tests, since only there cargo tells where the program is.
#[macro_export]
macro_rules! cluster {
    () => {
        $crate::Cluster::of(env!("CARGO_BIN_EXE_sidelane-under-test"))
    };
}

/// Starts a server that is a process of its own, [`app::App::start`]. To be used in integration
/// tests, as [`cluster!`].
#[macro_export]
macro_rules! app {
    ($node:expr) => {
        $crate::app::App::start(env!("CARGO_BIN_EXE_app-under-test"), $node)
    };
}

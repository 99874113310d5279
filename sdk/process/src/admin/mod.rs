//! A small HTTP/1.1 server for admin pages: probes, metrics, configuration. It stands beside the
//! way of calls and must never hold one up, so everything a client can make it do is bounded:
//! connections, time, headers, bodies. And a browser cannot be led to act here by a page of another
//! origin.
//!
//! ```no_run
//! use sidelane_process::admin::{self, AdminResponse, Pages};
//! # async fn example(listener: tokio::net::TcpListener, stop: tokio::sync::oneshot::Receiver<()>) {
//! let pages = Pages::new()
//!     .get("/livez", |_| async { AdminResponse::text("alive\n") })
//!     .post("/drain", |_| async { AdminResponse::text("draining\n") });
//! admin::serve(listener, pages, async { drop(stop.await) }).await;
//! # }
//! ```

mod body;
mod page;
mod query;
mod server;

pub use body::{SEND_BUFFER, STALL_LIMIT, STREAM_AGE};
pub use http::{Method, StatusCode};
pub use page::{AdminRequest, AdminResponse, AdminStream, Pages};
pub use server::{
    BODY_LIMIT, CONNECTION_AGE, CONNECTION_LIMIT, HEADER_LIMIT, LAST_ANSWER_TIME, READ_TIME, serve,
};

#[cfg(test)]
mod tests;

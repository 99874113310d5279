//! A sidecar that is linked into the program whose calls it carries: the same rules, lanes,
//! discovery and telemetry as the process of its own, without a hop to it. It runs on a thread of
//! its own, with a runtime of its own, as the process does, so that the program's work cannot hold
//! up heartbeats; between the two are pipes in memory. Nothing here takes part in a decision: calls
//! enter where those of any local app do.
//!
//! ```no_run
//! use sidelane::define_service_routing;
//! use sidelane::routing::{General, Internal, MethodRule, RouteTable, Rule, ServiceRouting};
//! use sidelane_sidecar::Mesh;
//!
//! define_service_routing!(
//!     Orders,
//!     service = "shop.v1.Orders",
//!     category = Worker,
//!     connection = Internal,
//!     swimlane = General,
//!     secure = false,
//!     persistent = true,
//!     load_balancing = LeastConnections,
//!     methods = [MethodRule::unary("Get")],
//! );
//! static RULES: &[Rule] = &[Orders::RULE];
//! static ROUTES: RouteTable = RouteTable::new(RULES);
//!
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! let mesh = Mesh::embedded(ROUTES)
//!     .setting("node", "shop-1")
//!     .setting("control", "127.0.0.1:15010")
//!     // .serve(OrdersServer::new(orders))
//!     .start()
//!     .await?;
//! mesh.ready().await?;
//! let channel = mesh.channel();
//! // let mut payments = PaymentsClient::new(channel);
//! mesh.shutdown().await;
//! # drop(channel);
//! # Ok(())
//! # }
//! ```

mod builder;
mod direct;
mod serve;

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::thread;

use serde_json::Value;
use sidelane::routing::RouteTable;
use sidelane_process::settings::SettingsError;
use sidelane_proto::model::NodeId;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tonic::transport::Channel;

pub use builder::Embedded;

use crate::Builder;
use crate::drain::Draining;
use crate::host::Wish;
use crate::stack::Stack;
use direct::Handlers;

/// Why there is no mesh in this program.
#[derive(Debug, thiserror::Error)]
pub enum EmbedError {
    /// A setting cannot be followed; the text is that of the flag.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// A service that is to be served is none.
    #[error("a service of this program cannot be served: `{service}` {problem}")]
    Service {
        /// Its name.
        service: String,
        /// What is wrong with it.
        problem: String,
    },
    /// A handler that no call could reach.
    #[error("the handler of `{path}` cannot be used: {problem}")]
    Handler {
        /// Its path.
        path: String,
        /// What is wrong with it.
        problem: String,
    },
    /// An address, the data folder or a thread was refused; the text is what a process would say.
    #[error("{0}")]
    Start(String),
}

/// The mesh has ended, or ended while it was waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the mesh in this program has ended; start another with `Mesh::embedded`")]
pub struct Ended;

/// A sidecar that runs in this program. Clones are handles of the same one; it ends with
/// [`Mesh::shutdown`], and otherwise at once when the last handle is dropped.
#[derive(Clone)]
pub struct Mesh {
    inner: Arc<Inner>,
}

struct Inner {
    node: NodeId,
    wish: watch::Sender<Wish>,
    ended: watch::Receiver<Option<Result<(), String>>>,
    /// The sidecar's own thread has it, until it ends.
    stack: Weak<Stack>,
    draining: Draining,
    bound: Value,
    channel: Channel,
    handlers: Handlers,
    running: Mutex<Option<Running>>,
}

/// What ends after the sidecar.
struct Running {
    thread: thread::JoinHandle<()>,
    serving: JoinHandle<()>,
}

impl Mesh {
    /// A sidecar with these rules, linked into this program. [`Builder::embedded`] is the same for
    /// those who bring more than rules.
    pub fn embedded(routes: RouteTable) -> Embedded {
        Builder::new(routes).embedded()
    }

    /// This node.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.inner.node
    }

    /// The address that a listener got: `internal`, `external` or `admin`. `None` where it is off.
    #[must_use]
    pub fn bound(&self, listener: &str) -> Option<&str> {
        self.inner.bound.get(listener)?.as_str()
    }

    /// A channel into the mesh for every generated client. All are one connection, and it holds
    /// after the mesh has ended: then every call on it fails with UNAVAILABLE.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.inner.channel.clone()
    }

    /// Waits until traffic can flow: control was reached, or its last picture was on the disk.
    ///
    /// # Errors
    /// The mesh ended meanwhile.
    pub async fn ready(&self) -> Result<(), Ended> {
        // Not held while waiting: it would keep the sidecar's state after its end.
        let mut status = self.stack()?.discovery.status();
        let ready = status.wait_for(|status| status.version.is_some());
        ready.await.map(|_| ()).map_err(|_| Ended)
    }

    /// Ends it in the order in which the process does: control is told, then peers, and what is in
    /// flight has the time of the setting `grace` to finish. Returns when its thread has ended and
    /// nothing of it is left. More than one may wait for it.
    pub async fn shutdown(&self) {
        self.inner.wish.send_if_modified(|wish| {
            let begun = *wish;
            *wish = begun.max(Wish::Drain);
            *wish != begun
        });
        let mut ended = self.inner.ended.clone();
        // A thread that is gone without a word has ended, too.
        let _ = ended.wait_for(Option::is_some).await;
        let running = self.inner.running.lock();
        let running = running.unwrap_or_else(PoisonError::into_inner).take();
        if let Some(Running { thread, serving }) = running {
            // It said that it has ended, and does nothing after that.
            let _ = thread.join();
            let _ = serving.await;
        }
    }

    fn stack(&self) -> Result<Arc<Stack>, Ended> {
        self.inner.stack.upgrade().ok_or(Ended)
    }
}

impl fmt::Debug for Mesh {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Mesh")
            .field("node", &self.inner.node)
            .field("bound", &self.inner.bound)
            .finish_non_exhaustive()
    }
}

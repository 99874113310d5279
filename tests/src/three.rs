//! The mesh of the fault tests: callers, and three nodes that all serve `Echo`, so that any one of
//! them can be disturbed while the others carry on.

use std::time::Duration;

use crate::cluster::{Cluster, ClusterBuilder};
use crate::hub::{HubWatch, fit};
use crate::{Upstream, services};

/// The three nodes.
pub const NODES: [&str; 3] = ["a", "b", "c"];
/// How long news may take to get through the mesh. Each start of a process waits for the disk,
/// which takes many seconds where others write much.
pub const NEWS: Duration = Duration::from_secs(20);

/// A running mesh with three nodes. It ends with this value.
#[derive(Debug)]
pub struct Three {
    /// All processes.
    pub mesh: Cluster,
    /// The servers behind the three nodes.
    pub upstreams: Vec<Upstream>,
}

impl Three {
    /// Adds the three nodes, each with these flags, to a mesh of callers, and starts everything.
    ///
    /// # Panics
    /// If something does not start.
    pub async fn with(callers: ClusterBuilder, flags: &[(&str, &str)]) -> Self {
        let mut upstreams = Vec::new();
        let mut mesh = callers;
        for name in NODES {
            let upstream = Upstream::named(name).start().await;
            mesh = mesh.node(name).serving(services::ECHO, &upstream);
            for (flag, value) in flags {
                mesh = mesh.with(flag, value);
            }
            upstreams.push(upstream);
        }
        Self {
            mesh: mesh.start().await,
            upstreams,
        }
    }

    /// Watches the hub of a caller, in which all three nodes are when this returns.
    ///
    /// # Panics
    /// If they are not in time.
    pub async fn hub(&self, caller: &str) -> HubWatch {
        let hub = HubWatch::start(self.mesh.node(caller).admin());
        let all = |held: &[_]| fit(held) == NODES.len();
        hub.sees("all three nodes take calls", NEWS, all).await;
        hub
    }
}

//! The processes of the demo and how they are started, killed, restarted and rolled. Dropping the
//! cluster ends all of them.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use sidelane_process::runtime::{RuntimeFolder, join_name};
use sidelane_process::settings::Environment;
use tokio::time::{Instant, sleep};

use super::folder::Folder;
use super::mesh;
use super::node::{END_LIMIT, Node, Plan};
use super::ports::Ports;
use super::process::{Process, ProcessError};
use super::rules::{HEARTBEAT, INVENTORY, ORDER_LOG, ORDERS};
use super::storefront::{Storefront, StorefrontError};
use super::{HIDDEN_APP, HIDDEN_CONTROL};

/// How long everything may take to start. A debug build on a busy machine with two cores needs a
/// few seconds.
const START_LIMIT: Duration = Duration::from_secs(20);
/// How long nodes may take to be back at a control plane that has come back: it reloads them as
/// suspect, and they reconnect with backoff.
const BACK_LIMIT: Duration = Duration::from_secs(15);
/// Time between two questions to control.
const ASK_EVERY: Duration = Duration::from_millis(50);
/// The node that makes the load.
pub(super) const STOREFRONT: &str = "storefront";

const ORDERS_SERVICES: &[&str] = &[ORDERS, ORDER_LOG, HEARTBEAT];
const INVENTORY_SERVICES: &[&str] = &[INVENTORY];
const NODES: [(&str, &[&str]); 6] = [
    (STOREFRONT, &[]),
    ("orders-1", ORDERS_SERVICES),
    ("orders-2", ORDERS_SERVICES),
    ("orders-3", ORDERS_SERVICES),
    ("inventory-1", INVENTORY_SERVICES),
    ("inventory-2", INVENTORY_SERVICES),
];

/// Something in the cluster did not go as it should.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClusterError {
    /// A process.
    #[error(transparent)]
    Process(#[from] ProcessError),
    /// The mesh did not come into the state that was waited for.
    #[error("waited {} s in vain until {wanted}: {found}", limit.as_secs())]
    InVain {
        /// What was waited for.
        wanted: String,
        /// The time that it had.
        limit: Duration,
        /// What was there instead.
        found: String,
    },
    /// The load generator.
    #[error(transparent)]
    Storefront(#[from] StorefrontError),
    /// A folder or a port.
    #[error("cannot find {what}: {source}")]
    Place {
        /// What was looked for.
        what: &'static str,
        /// What the operating system said.
        source: io::Error,
    },
    /// A node came back as what it was before.
    #[error("{node} came back with generation {after}, which is not newer than {before}")]
    NotNewer {
        /// The node.
        node: String,
        /// Its generation before.
        before: u64,
        /// Its generation now.
        after: u64,
    },
}

/// Everything that runs.
pub(super) struct Cluster {
    nodes: Vec<Node>,
    told: [String; 4],
    storefront: Option<Storefront>,
    control: Option<Process>,
    control_address: SocketAddr,
    control_admin: SocketAddr,
    // Last: the others write into it until they are gone.
    folder: Folder,
}

impl Cluster {
    /// Finds a folder and addresses; nothing is started yet.
    /// Sidecars are told these flags besides.
    pub(super) fn plan(told: [String; 4]) -> Result<Self, ClusterError> {
        let folder = Folder::make().map_err(|source| ClusterError::Place {
            what: "a folder for data and logs",
            source,
        })?;
        let mut ports = Ports::default();
        let no_port = |source| ClusterError::Place {
            what: "a free port",
            source,
        };
        let control_address = ports.free().map_err(no_port)?;
        let control_admin = ports.free().map_err(no_port)?;
        let nodes = NODES
            .into_iter()
            .map(|(name, services)| Node::plan(Plan { name, services }, &mut ports));
        Ok(Self {
            nodes: nodes.collect::<Result<_, _>>().map_err(no_port)?,
            told,
            storefront: None,
            control: None,
            control_address,
            control_admin,
            folder,
        })
    }

    /// Starts the control plane and returns when it answers.
    pub(super) async fn start_control(&mut self) -> Result<(), ClusterError> {
        let data = self.folder.path().join("control");
        let arguments = [
            HIDDEN_CONTROL.to_owned(),
            "--listen".to_owned(),
            self.control_address.to_string(),
            "--admin".to_owned(),
            self.control_admin.to_string(),
            "--data".to_owned(),
            data.to_string_lossy().into_owned(),
        ];
        let process = Process::start("control", self.folder.path(), arguments, &[])?;
        self.control = Some(process);
        self.until("control answers", START_LIMIT, |_| Ok(())).await
    }

    /// Starts all nodes and returns when control lists them as healthy.
    pub(super) async fn start_nodes(&mut self) -> Result<(), ClusterError> {
        for node in &mut self.nodes {
            node.start(self.control_address, self.folder.path(), &self.told)?;
        }
        self.all_healthy("all nodes are healthy", START_LIMIT).await
    }

    /// Starts the load generator, beside a sidecar that is ready.
    pub(super) async fn start_storefront(&mut self) -> Result<(), ClusterError> {
        let direct = format!("http://{}", self.node("orders-1").app_address);
        let target = format!("http://{}", self.node(STOREFRONT).outbound);
        let arguments = [
            HIDDEN_APP.to_owned(),
            "--node".to_owned(),
            STOREFRONT.to_owned(),
            "--direct".to_owned(),
            direct,
        ];
        let variables = [(sidelane::TARGET_VARIABLE, target)];
        let process = Process::start("storefront app", self.folder.path(), arguments, &variables)?;
        let mut storefront = Storefront::new(process)?;
        storefront
            .until("it has begun", START_LIMIT, |heard| {
                heard.progress.is_some()
            })
            .await?;
        self.storefront = Some(storefront);
        Ok(())
    }

    /// An error if a process that should run has ended.
    pub(super) fn must_live(&mut self) -> Result<(), ClusterError> {
        for node in &mut self.nodes {
            node.must_live()?;
        }
        if let Some(control) = &mut self.control {
            control.must_live()?;
        }
        if let Some(storefront) = &mut self.storefront {
            storefront.must_live()?;
        }
        Ok(())
    }

    /// SIGKILL to both processes of a node; returns when they are gone.
    pub(super) async fn kill_node(&mut self, name: &str) -> Result<(), ClusterError> {
        Ok(self.node_mut(name).kill().await?)
    }

    /// SIGKILL to control; returns when it is gone.
    pub(super) async fn kill_control(&mut self) -> Result<(), ClusterError> {
        if let Some(mut control) = self.control.take() {
            control.kill()?;
            control.wait(END_LIMIT).await?;
        }
        Ok(())
    }

    /// Returns when all nodes that run are back at control.
    pub(super) async fn all_back(&mut self) -> Result<(), ClusterError> {
        self.all_healthy("all nodes are back at control", BACK_LIMIT)
            .await
    }

    /// Drains a node, ends it, starts it again, and returns when control lists its newer
    /// generation as healthy.
    pub(super) async fn roll(&mut self, name: &str) -> Result<(), ClusterError> {
        let services = self.node(name).plan.services;
        let listed = format!("{name} is healthy");
        let before = self
            .until(&listed, START_LIMIT, |nodes| {
                mesh::healthy(nodes, name, services).map(|node| node.generation)
            })
            .await?;

        self.node_mut(name).end().await?;

        let after = self.start_again(name).await?;
        if after > before {
            return Ok(());
        }
        let node = name.to_owned();
        Err(ClusterError::NotNewer {
            node,
            before,
            after,
        })
    }

    /// Starts a node that has ended, and returns its generation when control lists it as healthy.
    pub(super) async fn start_again(&mut self, name: &str) -> Result<u64, ClusterError> {
        let services = self.node(name).plan.services;
        let (control, folder) = (self.control_address, self.folder.path().to_owned());
        let told = self.told.clone();
        self.node_mut(name).start(control, &folder, &told)?;
        self.until(&format!("{name} is healthy"), START_LIMIT, |nodes| {
            mesh::healthy(nodes, name, services).map(|node| node.generation)
        })
        .await
    }

    /// The load generator.
    ///
    /// # Errors
    /// It has not been started.
    pub(super) fn storefront(&mut self) -> Result<&mut Storefront, ClusterError> {
        self.storefront.as_mut().ok_or_else(|| ClusterError::Place {
            what: "the storefront",
            source: io::Error::from(io::ErrorKind::NotFound),
        })
    }

    /// The node of this name, one of [`NODES`].
    pub(super) fn node(&self, name: &str) -> &Node {
        &self.nodes[position(name)]
    }

    /// Where control's gRPC port is.
    pub(super) fn control_text(&self) -> String {
        self.control_address.to_string()
    }

    /// Where control's admin page is.
    pub(super) fn control_admin(&self) -> SocketAddr {
        self.control_admin
    }

    /// Where data and logs are.
    pub(super) fn folder(&mut self) -> &mut Folder {
        &mut self.folder
    }

    /// Control is killed in the end, so it cannot take its join file away itself.
    fn remove_join_file(&self) {
        let folder = RuntimeFolder::of(&Environment::of_process());
        folder.remove(&join_name(self.control_address));
    }

    fn node_mut(&mut self, name: &str) -> &mut Node {
        &mut self.nodes[position(name)]
    }

    async fn all_healthy(&mut self, wanted: &str, limit: Duration) -> Result<(), ClusterError> {
        let running = self.nodes.iter().filter(|node| node.is_running());
        let plans: Vec<_> = running
            .map(|node| (node.plan.name, node.plan.services))
            .collect();
        self.until(wanted, limit, |nodes| {
            plans
                .iter()
                .try_for_each(|(name, services)| mesh::healthy(nodes, name, services).map(|_| ()))
        })
        .await
    }

    /// Waits until control lists its nodes in such a way that `right` finds what it looks for; what
    /// it says instead is in the error if the wait is in vain. A process that ends meanwhile ends
    /// the wait.
    async fn until<T>(
        &mut self,
        wanted: &str,
        limit: Duration,
        mut right: impl FnMut(&[mesh::Listed]) -> Result<T, String>,
    ) -> Result<T, ClusterError> {
        let deadline = Instant::now() + limit;
        let address = self.control_text();
        loop {
            let found = match mesh::list(&address).await {
                Ok(nodes) => match right(&nodes) {
                    Ok(found) => return Ok(found),
                    Err(found) => found,
                },
                Err(error) => error.to_string(),
            };
            self.must_live()?;
            if Instant::now() >= deadline {
                let wanted = wanted.to_owned();
                return Err(ClusterError::InVain {
                    wanted,
                    limit,
                    found,
                });
            }
            sleep(ASK_EVERY).await;
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // In this order: one that runs would write it anew.
        drop(self.control.take());
        self.remove_join_file();
    }
}

/// Nodes are kept in the order of [`NODES`]. Names are constants; one that is not in the list would
/// stop the first run of the demo here.
fn position(name: &str) -> usize {
    let found = NODES.iter().position(|(known, _)| *known == name);
    found.unwrap_or(NODES.len())
}

//! One node of the demo: an app and the sidecar beside it, two processes with one name. A node
//! that is started again keeps its name, its addresses and its data folder, as a service does that
//! is deployed anew.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use super::ports::Ports;
use super::process::{Process, ProcessError};
use super::{HIDDEN_APP, HIDDEN_SIDECAR};

/// How long a sidecar that drains waits for what is open. Longer than the demo's longest stream.
pub(super) const GRACE: Duration = Duration::from_secs(5);
/// How long a process that was told to end may take: the grace, and time to be scheduled.
pub(super) const END_LIMIT: Duration = Duration::from_secs(10);

/// What a node is made from.
pub(super) struct Plan {
    /// Its name.
    pub(super) name: &'static str,
    /// The services of its app; none for a node that only calls.
    pub(super) services: &'static [&'static str],
}

/// A node and where it listens.
pub(super) struct Node {
    pub(super) plan: Plan,
    pub(super) app_address: SocketAddr,
    pub(super) outbound: SocketAddr,
    pub(super) internal: SocketAddr,
    pub(super) admin: SocketAddr,
    app: Option<Process>,
    sidecar: Option<Process>,
}

impl Node {
    /// Finds addresses for a node; nothing is started yet.
    pub(super) fn plan(plan: Plan, ports: &mut Ports) -> std::io::Result<Self> {
        Ok(Self {
            plan,
            app_address: ports.free()?,
            outbound: ports.free()?,
            internal: ports.free()?,
            admin: ports.free()?,
            app: None,
            sidecar: None,
        })
    }

    /// Starts the sidecar, and the app if the node serves something.
    pub(super) fn start(
        &mut self,
        control: SocketAddr,
        folder: &Path,
        told: &[String],
    ) -> Result<(), ProcessError> {
        if !self.plan.services.is_empty() {
            let arguments = [
                HIDDEN_APP.to_owned(),
                "--node".to_owned(),
                self.plan.name.to_owned(),
                "--listen".to_owned(),
                self.app_address.to_string(),
            ];
            let name = format!("{} app", self.plan.name);
            self.app = Some(Process::start(&name, folder, arguments, &[])?);
        }
        let name = format!("{} sidecar", self.plan.name);
        let mut arguments = self.sidecar_arguments(control, folder);
        arguments.extend_from_slice(told);
        self.sidecar = Some(Process::start(&name, folder, arguments, &[])?);
        Ok(())
    }

    fn sidecar_arguments(&self, control: SocketAddr, folder: &Path) -> Vec<String> {
        let mut arguments = vec![HIDDEN_SIDECAR.to_owned()];
        let mut flag = |name: &str, value: String| {
            arguments.push(format!("--{name}"));
            arguments.push(value);
        };
        flag("node", self.plan.name.to_owned());
        flag("control", control.to_string());
        flag("outbound", self.outbound.to_string());
        flag("internal", self.internal.to_string());
        flag("admin", self.admin.to_string());
        flag("grace", format!("{}s", GRACE.as_secs()));
        flag(
            "data",
            folder.join(self.plan.name).to_string_lossy().into_owned(),
        );
        if !self.plan.services.is_empty() {
            let services = self.plan.services.join(",");
            flag("serve", format!("{services}={}", self.app_address));
        }
        arguments
    }

    /// Was the node started, and not killed since?
    pub(super) fn is_running(&self) -> bool {
        self.sidecar.is_some()
    }

    /// An error if one of the processes has ended by itself.
    pub(super) fn must_live(&mut self) -> Result<(), ProcessError> {
        for process in [&mut self.sidecar, &mut self.app].into_iter().flatten() {
            process.must_live()?;
        }
        Ok(())
    }

    /// SIGKILL to both processes, the sidecar first; returns when both are gone.
    pub(super) async fn kill(&mut self) -> Result<(), ProcessError> {
        let mut killed = [self.sidecar.take(), self.app.take()];
        for process in killed.iter_mut().flatten() {
            process.kill()?;
        }
        for process in killed.iter_mut().flatten() {
            process.wait(END_LIMIT).await?;
        }
        Ok(())
    }

    /// SIGTERM to the sidecar, which drains and ends, and then to the app, which has nothing left
    /// to do; returns when both processes have ended.
    pub(super) async fn end(&mut self) -> Result<(), ProcessError> {
        for mut process in [self.sidecar.take(), self.app.take()].into_iter().flatten() {
            process.terminate()?;
            process.wait(END_LIMIT).await?;
        }
        Ok(())
    }
}

//! The control plane that is measured: the program itself in a process of its own, with all its
//! threads, started over one folder and on one port as often as it is killed.

use std::fs::File;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use crate::accounting::{ProcessorTime, Size};

/// It listens within this time, or something is wrong.
const START_LIMIT: Duration = Duration::from_secs(10);
/// Between two looks at whether it does.
const LOOK: Duration = Duration::from_millis(5);

/// A control plane; killed when dropped.
pub(super) struct Plane {
    child: Child,
    pid: u32,
    program: PathBuf,
    folder: tempfile::TempDir,
    pub(super) listen: SocketAddr,
    admin: SocketAddr,
}

impl Plane {
    /// Starts one over an empty folder. It listens when this returns.
    pub(super) async fn start(program: &Path) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("sidelane-bench-").tempdir();
        let folder = folder.context("cannot make a temporary directory")?;
        let [listen, admin] = crate::mesh::free_addresses()?;
        let child = spawn(program, folder.path(), listen, admin)?;
        let mut plane = Self {
            pid: child.id().context("control has ended at once")?,
            child,
            program: program.to_owned(),
            folder,
            listen,
            admin,
        };
        plane.listening().await?;
        Ok(plane)
    }

    /// Ends it without a word, as a crash would.
    pub(super) async fn kill(&mut self) -> Result<()> {
        self.child.kill().await.context("cannot kill control")
    }

    /// Starts it again. Returns how long it took until it listened.
    pub(super) async fn again(&mut self) -> Result<Duration> {
        let began = Instant::now();
        self.child = spawn(&self.program, self.folder.path(), self.listen, self.admin)?;
        self.pid = self.child.id().context("control has ended at once")?;
        self.listening().await?;
        Ok(began.elapsed())
    }

    /// Its processor time so far.
    pub(super) fn processor_time(&self) -> Result<ProcessorTime> {
        ProcessorTime::of(self.pid)
    }

    /// Its memory now.
    pub(super) fn size(&self) -> Result<Size> {
        Size::of(self.pid)
    }

    async fn listening(&mut self) -> Result<()> {
        let until = Instant::now() + START_LIMIT;
        while TcpStream::connect(self.listen).await.is_err() {
            let ended = self.child.try_wait().context("cannot watch control")?;
            if let Some(status) = ended {
                let log = std::fs::read_to_string(self.folder.path().join("log"));
                let log = log.unwrap_or_default();
                bail!("control has ended ({status}):\n{}", log.trim_end());
            }
            if Instant::now() > until {
                bail!(
                    "control does not listen on {} within {START_LIMIT:?}",
                    self.listen
                );
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }
}

fn spawn(program: &Path, folder: &Path, listen: SocketAddr, admin: SocketAddr) -> Result<Child> {
    let log = File::create(folder.join("log")).context("cannot write control's log")?;
    let mut command = Command::new(program);
    command
        .args(["--trust", "disabled", "--log", "warn"])
        .args([
            "--listen",
            &listen.to_string(),
            "--admin",
            &admin.to_string(),
        ])
        .arg("--data")
        .arg(folder.join("data"))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(log)
        .kill_on_drop(true);
    for (variable, _) in std::env::vars_os() {
        if variable.as_encoded_bytes().starts_with(b"SIDELANE") {
            command.env_remove(variable);
        }
    }
    let started = command.spawn();
    started.with_context(|| format!("cannot start control ({})", program.display()))
}

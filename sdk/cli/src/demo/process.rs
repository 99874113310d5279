//! A child of the demo: this very program under a hidden name, in a process of its own, with its
//! log in a file. It never outlives its owner: dropping kills it, and a pipe tells it when the
//! owner could not even do that.

use std::fs::File;
use std::io::{self, Read as _, Seek as _, SeekFrom};
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, ChildStdin, ChildStdout, Command};
use tokio::time::timeout;

/// How much of a log is shown when its process has failed: the last screenful.
const LOG_TAIL: u64 = 2_048;
/// How long a drop waits for the kernel to take a killed process away, in steps of a millisecond.
/// A process that the kernel does not let go for longer is stuck in a device, and not ours to wait for.
const REAP_STEPS: u32 = 2_000;

/// A process could not be handled.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ProcessError {
    /// It could not be started.
    #[error("cannot start {name}: {source}")]
    Start {
        /// What it is.
        name: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// Its state could not be asked for, or no signal could be sent.
    #[error("cannot reach the process of {name}: {source}")]
    Lost {
        /// What it is.
        name: String,
        /// What the operating system said.
        source: io::Error,
    },
    /// It has ended, and nobody had told it to.
    #[error("{name} has ended by itself ({status}){log}")]
    Ended {
        /// What it is.
        name: String,
        /// How it ended.
        status: ExitStatus,
        /// The end of its log, or nothing.
        log: String,
    },
    /// It has not ended in time.
    #[error("{name} was told to end and had not done so after {} s{log}", limit.as_secs())]
    Stuck {
        /// What it is.
        name: String,
        /// The time that it had.
        limit: Duration,
        /// The end of its log, or nothing.
        log: String,
    },
}

/// A running child.
pub(super) struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    // Held open for as long as the child may live: its end tells the child to leave.
    input: Option<ChildStdin>,
    output: Option<ChildStdout>,
}

impl Process {
    /// Starts this program with `arguments`. Its log goes to a file in `folder`.
    pub(super) fn start(
        name: &str,
        folder: &Path,
        arguments: impl IntoIterator<Item = String>,
        variables: &[(&str, String)],
    ) -> Result<Self, ProcessError> {
        let failed = |source| ProcessError::Start {
            name: name.to_owned(),
            source,
        };
        let log = folder.join(format!("{}.log", name.replace(' ', "-")));
        // A node that comes back writes on where it had left off.
        let file = File::options().create(true).append(true).open(&log);
        let mut command = Command::new(std::env::current_exe().map_err(failed)?);
        command
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(file.map_err(failed)?)
            // Ctrl-C at a terminal is meant for the demo, which ends its children itself.
            .process_group(0)
            .kill_on_drop(true);
        // Settings of a sidecar that the user runs are not those of the demo's.
        for (variable, _) in std::env::vars_os() {
            if variable.as_encoded_bytes().starts_with(b"SIDELANE_") {
                command.env_remove(variable);
            }
        }
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        let mut child = command.spawn().map_err(failed)?;
        Ok(Self {
            name: name.to_owned(),
            log,
            // Taken out of the child, because waiting for it would close them.
            input: child.stdin.take(),
            output: child.stdout.take(),
            child,
        })
    }

    /// What the child writes and reads, for those who talk with it.
    pub(super) fn take_pipes(&mut self) -> Option<(ChildStdin, ChildStdout)> {
        Some((self.input.take()?, self.output.take()?))
    }

    /// An error if the child has ended.
    pub(super) fn must_live(&mut self) -> Result<(), ProcessError> {
        let ended = self.child.try_wait().map_err(|source| self.lost(source))?;
        match ended {
            None => Ok(()),
            Some(status) => Err(ProcessError::Ended {
                name: self.name.clone(),
                status,
                log: self.log_tail(),
            }),
        }
    }

    /// Sends SIGTERM.
    pub(super) fn terminate(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::TERM)
    }

    /// Sends SIGKILL; [`Process::wait`] says when it is gone.
    pub(super) fn kill(&mut self) -> Result<(), ProcessError> {
        self.signal(Signal::KILL)
    }

    /// Waits for the end that was asked for.
    pub(super) async fn wait(&mut self, limit: Duration) -> Result<ExitStatus, ProcessError> {
        match timeout(limit, self.child.wait()).await {
            Ok(ended) => ended.map_err(|source| self.lost(source)),
            Err(_) => Err(ProcessError::Stuck {
                name: self.name.clone(),
                limit,
                log: self.log_tail(),
            }),
        }
    }

    fn signal(&mut self, signal: Signal) -> Result<(), ProcessError> {
        // The id is there until the child has been waited for, so it cannot be another's.
        let id = self.child.id().and_then(|id| i32::try_from(id).ok());
        let Some(pid) = id.and_then(Pid::from_raw) else {
            return self.must_live();
        };
        kill_process(pid, signal).map_err(|errno| self.lost(errno.into()))
    }

    fn lost(&self, source: io::Error) -> ProcessError {
        ProcessError::Lost {
            name: self.name.clone(),
            source,
        }
    }

    fn log_tail(&self) -> String {
        let tail = || -> io::Result<String> {
            let mut file = File::open(&self.log)?;
            let length = file.metadata()?.len();
            file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes)?;
            Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
        };
        match tail() {
            Ok(text) if !text.is_empty() => format!("; the end of its log:\n{text}"),
            _ => String::new(),
        }
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // An error says that it has ended already.
        let _ = self.child.start_kill();
        for _ in 0..REAP_STEPS {
            match self.child.try_wait() {
                Ok(None) => thread::sleep(Duration::from_millis(1)),
                Ok(Some(_)) | Err(_) => break,
            }
        }
    }
}

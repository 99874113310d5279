//! The processes that are measured: started with what they need, watched while they start, ended
//! with the benchmark. A process that ends by itself is an error that shows the end of its log;
//! none may outlive its owner. (If the owner itself is killed by SIGKILL, its own kind leave by
//! themselves, see `parent`; other programs then stay, which only `unsafe` could prevent.)

use anyhow::{Context as _, Result, bail};
use rustix::process::{Pid, Signal, kill_process};
use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, ChildStdin, Command};

/// Ample for a process that only binds a socket.
const START_LIMIT: Duration = Duration::from_secs(10);

/// How long a program may take to end in good order; its connections have gone by then.
const END_LIMIT: Duration = Duration::from_secs(10);

/// How much of a log is shown when its process has failed: the last screenful.
const LOG_TAIL: u64 = 2048;

/// A running child; killed when dropped, and gone for certain after [`Process::stop`].
pub(crate) struct Process {
    /// What it is called in messages and tables.
    pub(crate) name: &'static str,
    /// Its process id, for `/proc`.
    pub(crate) pid: u32,
    child: Child,
    // Held open: its end tells one of our own processes to leave.
    _input: Option<ChildStdin>,
    log: Option<PathBuf>,
}

impl Process {
    /// Starts this very program as `subcommand` and reads the address that it listens on.
    pub(crate) async fn own(name: &'static str, subcommand: &[&str]) -> Result<(Self, SocketAddr)> {
        let program = std::env::current_exe().context("cannot tell where this program is")?;
        let mut command = Command::new(program);
        command
            .args(subcommand)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let mut process = Self::spawn(name, command, None)?;
        let output = process
            .child
            .stdout
            .take()
            .context("no pipe to read from")?;
        let mut line = String::new();
        let mut output = BufReader::new(output);
        let read = tokio::time::timeout(START_LIMIT, output.read_line(&mut line));
        let read = read
            .await
            .with_context(|| format!("{name} did not say where it listens"))?;
        read.with_context(|| format!("cannot read from {name}"))?;
        let address = line.trim().parse();
        let address = address.with_context(|| format!("{name} said {line:?}, not an address"))?;
        Ok((process, address))
    }

    /// Starts another program, with its output in a log file and none of this process's
    /// `SIDELANE…` variables, which would change what is measured.
    pub(crate) fn other(
        name: &'static str,
        program: &Path,
        arguments: &[String],
        log: PathBuf,
    ) -> Result<Self> {
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let again = file.try_clone().context("cannot share a log file")?;
        let mut command = clean(program, arguments);
        command.stdout(file).stderr(again);
        // One thread each, as in all the others, or the pairs could not be compared.
        command.env("TOKIO_WORKER_THREADS", "1");
        Self::spawn(name, command, Some(log))
    }

    fn spawn(name: &'static str, mut command: Command, log: Option<PathBuf>) -> Result<Self> {
        let child = command.kill_on_drop(true).spawn();
        let program = command
            .as_std()
            .get_program()
            .to_string_lossy()
            .into_owned();
        let mut child = child.with_context(|| format!("cannot start {name} ({program})"))?;
        let pid = child
            .id()
            .with_context(|| format!("{name} ended at once"))?;
        // Taken out of the child, because `Child::wait` would close it.
        let input = child.stdin.take();
        Ok(Self {
            name,
            pid,
            child,
            _input: input,
            log,
        })
    }

    /// An error if the process has ended, with how it ended and the end of its log.
    pub(crate) fn must_live(&mut self) -> Result<()> {
        let ended = self
            .child
            .try_wait()
            .with_context(|| format!("cannot watch {}", self.name))?;
        if let Some(status) = ended {
            bail!("{} has ended ({status}){}", self.name, self.log_tail());
        }
        Ok(())
    }

    /// The end of the log as part of a message; empty if there is none.
    pub(crate) fn log_tail(&self) -> String {
        match self.log.as_deref().map(tail) {
            Some(Ok(text)) if !text.trim().is_empty() => {
                format!("; its log ends with:\n{}", text.trim_end())
            }
            Some(Err(error)) => format!("; its log cannot be read: {error}"),
            _ => String::new(),
        }
    }

    /// Asks it to end and waits until it is gone; after [`END_LIMIT`] it is killed.
    pub(crate) async fn stop(mut self) {
        if self.log.is_some() && self.terminate().is_some() {
            let _ = tokio::time::timeout(END_LIMIT, self.child.wait()).await;
        }
        // Fails only if it has already gone, which is what is wanted.
        let _ = self.child.kill().await;
    }

    /// `None` where it has gone already. A profiler writes what it has counted when its program
    /// ends by itself, and not when it is killed.
    fn terminate(&self) -> Option<()> {
        // Still a child of ours that was not waited for, so the id is nobody else's.
        self.child.id()?;
        let id = Pid::from_raw(i32::try_from(self.pid).ok()?)?;
        kill_process(id, Signal::TERM).ok()
    }
}

/// Runs another program to its end, with none of this process's `SIDELANE…` variables.
///
/// # Errors
/// It does not start, says what is wrong, or takes longer than `limit`.
pub(crate) async fn once(
    name: &str,
    program: &Path,
    arguments: &[String],
    limit: Duration,
) -> Result<()> {
    let mut command = clean(program, arguments);
    let output = tokio::time::timeout(limit, command.kill_on_drop(true).output()).await;
    let output = output.with_context(|| format!("{name} took longer than {limit:?}"))?;
    let output = output.with_context(|| format!("cannot start {name}"))?;
    if !output.status.success() {
        let told = String::from_utf8_lossy(&output.stderr);
        bail!("{name} failed ({}): {}", output.status, told.trim_end());
    }
    Ok(())
}

/// A program with no input and without the variables that would change what is measured.
fn clean(program: &Path, arguments: &[String]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    for (variable, _) in std::env::vars_os() {
        if variable.as_encoded_bytes().starts_with(b"SIDELANE") {
            command.env_remove(variable);
        }
    }
    command
}

fn tail(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(LOG_TAIL)))?;
    let mut bytes = Vec::new();
    file.take(LOG_TAIL).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_end_of_a_long_log_is_shown() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("log");
        std::fs::write(&path, format!("{}the end", "x".repeat(10_000))).unwrap();
        let text = tail(&path).unwrap();
        assert_eq!(text.len(), 2048);
        assert!(text.ends_with("the end"));
    }

    #[tokio::test]
    async fn a_program_is_asked_to_end_before_it_is_killed() {
        let directory = tempfile::tempdir().unwrap();
        let log = directory.path().join("log");
        let script =
            "trap 'echo in good order; exit' TERM; echo ready; while :; do sleep 0.01; done";
        let arguments = ["-c", script].map(str::to_owned);
        let process = Process::other("shell", Path::new("/bin/sh"), &arguments, log.clone());
        let process = process.unwrap();
        let told = || std::fs::read_to_string(&log).unwrap();
        while !told().contains("ready") {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        process.stop().await;
        assert_eq!(told(), "ready\nin good order\n");
    }

    #[tokio::test]
    async fn a_program_that_runs_once_fails_with_what_it_said_or_when_its_time_is_over() {
        let run = |script: &str, limit| {
            let arguments = ["-c".to_owned(), script.to_owned()];
            async move { once("apply", Path::new("/bin/sh"), &arguments, limit).await }
        };
        run("exit 0", END_LIMIT).await.unwrap();
        let error = run("echo line 3 >&2; exit 2", END_LIMIT).await.unwrap_err();
        assert_eq!(error.to_string(), "apply failed (exit status: 2): line 3");
        let late = run("sleep 60", Duration::from_millis(10))
            .await
            .unwrap_err();
        assert_eq!(late.to_string(), "apply took longer than 10ms");
    }

    #[tokio::test]
    async fn a_program_that_is_not_there_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("absent");
        let error = Process::other("control", &program, &[], directory.path().join("log"));
        let text = format!("{:#}", error.err().unwrap());
        assert!(
            text.starts_with("cannot start control (") && text.contains("absent"),
            "{text}"
        );
    }
}

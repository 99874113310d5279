//! One process under test: started with its arguments, signalled, killed, started again. What it
//! writes goes to a file, which is shown when the test fails. No process outlives its value, nor
//! the test program: it ends when its standard input does.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use rustix::process::{Pid, Signal};
use tokio::process::{Child, ChildStdin, Command};
use tokio::sync::Mutex;

use crate::secrets;

/// Set for the program under test, which then ends when its standard input does, so that a test
/// program that is killed leaves nothing behind.
pub const TETHER_VARIABLE: &str = "TETHERED_TO_TEST";
/// How much of a log is shown when a test fails.
const SHOWN_LINES: usize = 80;
/// A killed process is gone in milliseconds, a stopped one stands still; longer means that the machine is stuck.
const SIGNAL_LIMIT: Duration = Duration::from_secs(10);

/// To be called by programs under test: this one ends when the test that started it does, however
/// that ends.
pub fn end_with_test() {
    if std::env::var_os(TETHER_VARIABLE).is_some() {
        std::thread::spawn(|| {
            // The other end of standard input is held by the test and by nobody else.
            let mut byte = [0];
            while matches!(std::io::stdin().read(&mut byte), Ok(1)) {}
            std::process::exit(1);
        });
    }
}

/// One process under test.
#[derive(Debug)]
pub struct Process {
    name: String,
    program: PathBuf,
    arguments: Vec<String>,
    variables: Vec<(String, String)>,
    output: Output,
    log: PathBuf,
    id: AtomicU32,
    child: Mutex<Option<Child>>,
    /// Its standard input, taken from the child: whoever waits for a child closes what is left in
    /// it, and the process would end before its time.
    tether: Mutex<Option<ChildStdin>>,
}

/// What becomes of standard output.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Output {
    /// It goes to the log, too.
    Logged,
    /// It is read by the test, by [`Process::take_output`].
    Piped,
}

impl Process {
    /// Starts `program` with `arguments`; its log is a file in `folder`.
    ///
    /// # Panics
    /// If it cannot be started.
    pub async fn start(
        name: &str,
        program: &Path,
        arguments: Vec<String>,
        folder: &Path,
        output: Output,
    ) -> Self {
        Self::start_with(name, program, arguments, Vec::new(), folder, output).await
    }

    /// The same, with these environment variables.
    ///
    /// # Panics
    /// If it cannot be started.
    pub async fn start_with(
        name: &str,
        program: &Path,
        arguments: Vec<String>,
        variables: Vec<(String, String)>,
        folder: &Path,
        output: Output,
    ) -> Self {
        let process = Self {
            name: name.to_owned(),
            program: program.to_owned(),
            arguments,
            variables,
            output,
            log: folder.join(format!("{name}.log")),
            id: AtomicU32::new(0),
            child: Mutex::new(None),
            tether: Mutex::new(None),
        };
        process.start_again().await;
        process
    }

    /// Starts it once more, with the same arguments. Its log goes on in the same file.
    ///
    /// # Panics
    /// If it runs, or cannot be started.
    pub async fn start_again(&self) {
        let mut child = self.child.lock().await;
        if let Some(running) = child.as_mut() {
            let ended = running.try_wait().expect("the state of a child is known");
            assert!(ended.is_some(), "{} still runs: stop it first", self.name);
        }
        self.hide();
        let mut started = self.command().spawn().unwrap_or_else(|error| {
            panic!(
                "{} cannot start {}: {error}",
                self.name,
                self.program.display()
            )
        });
        let id = started
            .id()
            .expect("a child that nobody waited for has an id");
        self.id.store(id, Ordering::Relaxed);
        *self.tether.lock().await = started.stdin.take();
        *child = Some(started);
    }

    /// What it was given, and what is in its mesh's folder by now, are secrets.
    fn hide(&self) {
        secrets::hide_given(&self.arguments, &self.variables);
        if let Some(folder) = self.log.parent() {
            secrets::hide_left(folder);
        }
    }

    fn command(&self) -> Command {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&self.log)
            .unwrap_or_else(|error| panic!("no log at {}: {error}", self.log.display()));
        let mut command = Command::new(&self.program);
        command
            .args(&self.arguments)
            .kill_on_drop(true)
            .stdin(Stdio::piped());
        match self.output {
            Output::Piped => command.stdout(Stdio::piped()),
            Output::Logged => command.stdout(log.try_clone().expect("a log can be shared")),
        };
        command.stderr(log);
        // Settings of whoever runs the tests must not reach what is tested.
        for (name, _) in std::env::vars_os() {
            let text = name.to_string_lossy().to_lowercase();
            let settings = ["sidelane_", "spiffe_"];
            if settings.iter().any(|it| text.starts_with(it)) || text.ends_with("_proxy") {
                command.env_remove(name);
            }
        }
        command.envs(self.variables.iter().map(|(name, value)| (name, value)));
        command.env(TETHER_VARIABLE, "yes");
        command
    }

    /// Its name in this test.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its process id.
    #[must_use]
    pub fn id(&self) -> u32 {
        self.id.load(Ordering::Relaxed)
    }

    /// Kills it (SIGKILL) and waits until it is gone.
    ///
    /// # Panics
    /// If it does not go.
    pub async fn kill(&self) {
        self.signal(Signal::KILL);
        self.exited(SIGNAL_LIMIT).await;
    }

    /// Asks it to end (SIGTERM).
    ///
    /// # Panics
    /// If it is not there.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// Freezes it (SIGSTOP): its sockets stay open, and nobody answers. It stands still when this
    /// returns, since a signal is only asked for by sending it.
    ///
    /// # Panics
    /// If it is not there, or does not stand still.
    pub async fn freeze(&self) {
        self.signal(Signal::STOP);
        let stopped = async {
            while !self.status("State:").starts_with('T') {
                tokio::task::yield_now().await;
            }
        };
        let stopped = tokio::time::timeout(SIGNAL_LIMIT, stopped).await;
        assert!(
            stopped.is_ok(),
            "{} does not stand still: {}",
            self.name,
            self.status("State:")
        );
    }

    /// Lets it go on (SIGCONT).
    ///
    /// # Panics
    /// If it is not there.
    pub fn thaw(&self) {
        self.signal(Signal::CONT);
    }

    fn signal(&self, signal: Signal) {
        let id = i32::try_from(self.id()).ok().and_then(Pid::from_raw);
        let id = id.expect("a started process has an id");
        rustix::process::kill_process(id, signal)
            .unwrap_or_else(|error| panic!("{} cannot be signalled: {error}", self.name));
    }

    /// Waits until it has ended, at most so long.
    ///
    /// # Panics
    /// If it has not ended by then, or was never started.
    pub async fn exited(&self, within: Duration) -> ExitStatus {
        let mut child = self.child.lock().await;
        let child = child.as_mut().expect("a started process has a child");
        tokio::time::timeout(within, child.wait())
            .await
            .unwrap_or_else(|_| panic!("{} has not ended within {within:?}", self.name))
            .expect("a child can be waited for")
    }

    /// How it ended, if it has.
    ///
    /// # Panics
    /// If it was never started.
    pub async fn ended(&self) -> Option<ExitStatus> {
        let mut child = self.child.lock().await;
        let child = child.as_mut().expect("a started process has a child");
        child.try_wait().expect("the state of a child is known")
    }

    /// Its standard output, once.
    ///
    /// # Panics
    /// If it was taken, or not asked for at the start.
    pub async fn take_output(&self) -> tokio::process::ChildStdout {
        let mut child = self.child.lock().await;
        let child = child.as_mut().expect("a started process has a child");
        child
            .stdout
            .take()
            .expect("the output was piped and not taken")
    }

    /// The memory that it really occupies now, in bytes (`VmRSS`).
    ///
    /// # Panics
    /// Where there is no `/proc`, or no such process.
    #[must_use]
    pub fn resident_memory(&self) -> u64 {
        self.bytes("VmRSS:")
    }

    /// The most that it occupied since [`Self::forget_peak`], or its start, in bytes (`VmHWM`).
    ///
    /// # Panics
    /// Where there is no `/proc`, or no such process.
    #[must_use]
    pub fn peak_memory(&self) -> u64 {
        self.bytes("VmHWM:")
    }

    /// Measures the peak anew from now on. Returns what is occupied now, in bytes.
    ///
    /// # Panics
    /// Where there is no `/proc`, or no such process.
    #[must_use]
    pub fn forget_peak(&self) -> u64 {
        let path = format!("/proc/{}/clear_refs", self.id());
        std::fs::write(&path, "5")
            .unwrap_or_else(|error| panic!("{} has no {path}: {error}", self.name));
        self.peak_memory()
    }

    fn bytes(&self, field: &str) -> u64 {
        let memory = self.status(field);
        let kibibytes = memory
            .strip_suffix(" kB")
            .and_then(|number| number.parse::<u64>().ok());
        kibibytes.unwrap_or_else(|| panic!("{} has a {field} of {memory:?}", self.name)) * 1024
    }

    fn status(&self, field: &str) -> String {
        let path = format!("/proc/{}/status", self.id());
        let status = std::fs::read_to_string(&path)
            .unwrap_or_else(|error| panic!("{} has no {path}: {error}", self.name));
        let value = status.lines().find_map(|line| line.strip_prefix(field));
        value
            .unwrap_or_else(|| panic!("{path} has no {field}:\n{status}"))
            .trim()
            .to_owned()
    }

    /// All that it has written so far.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The end of what it has written, for messages of failed tests.
    #[must_use]
    pub fn end_of_log(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        let shown = lines.len().saturating_sub(SHOWN_LINES);
        format!(
            "---- {}: {} {}\n{}\n---- end of {}",
            self.name,
            self.program.display(),
            self.arguments.join(" "),
            lines[shown..].join("\n"),
            self.name
        )
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.end_of_log());
            return;
        }
        self.hide();
        secrets::assert_none(&format!("the log of {}", self.name), &self.log());
        secrets::assert_none_in_pages();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    async fn start(program: &str, arguments: &[&str], folder: &Path) -> Process {
        let arguments = arguments.iter().map(|text| (*text).to_owned()).collect();
        Process::start("it", Path::new(program), arguments, folder, Output::Logged).await
    }

    #[tokio::test]
    async fn a_process_is_killed_started_again_and_its_log_kept() {
        let folder = tempfile::tempdir().unwrap();
        // `cat` waits for the end of its input, which comes with the end of this value.
        let process = start("/bin/sh", &["-c", "echo up >&2; exec cat"], folder.path()).await;
        while process.log().is_empty() {
            tokio::task::yield_now().await;
        }
        let first = process.id();
        assert!(process.resident_memory() > 0);
        assert_eq!(process.ended().await, None);
        process.kill().await;
        assert!(!process.ended().await.unwrap().success());
        process.start_again().await;
        assert_ne!(process.id(), first);
        while process.log().lines().count() < 2 {
            tokio::task::yield_now().await;
        }
        assert_eq!(process.log(), "up\nup\n");
        assert!(
            process
                .end_of_log()
                .contains("exec cat\nup\nup\n---- end of it")
        );
    }

    #[tokio::test]
    async fn a_frozen_process_ends_only_after_it_goes_on() {
        let folder = tempfile::tempdir().unwrap();
        let process = start("/bin/cat", &[], folder.path()).await;
        process.freeze().await;
        process.terminate();
        assert_eq!(process.ended().await, None);
        process.thaw();
        assert!(!process.exited(SIGNAL_LIMIT).await.success());
    }
}

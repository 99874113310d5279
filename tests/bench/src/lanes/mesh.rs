//! The mesh that is measured: a control plane, two sidecars, and an app each for small calls and
//! for bulk, so that neither waits for the other there. Rules say in which lane each service
//! travels; they are applied while the mesh runs, as a user would.

use anyhow::{Context as _, Result, ensure};
use serde::de::DeserializeOwned;
use std::fs::File;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio::time::timeout;

use super::ground::{Ground, Side, free_ports};
use super::load::Told;
use super::{Flow, Way};
use clap::ValueEnum as _;

/// Bytes of a small call, each way, and of a bulk call.
const SMALL: u32 = 128;
const BULK: u32 = 1024 * 1024;
/// A debug build on a busy machine takes a second or two.
const START_LIMIT: Duration = Duration::from_secs(30);
/// Bulk that is under way when it is to end, on a slow link.
const END_LIMIT: Duration = Duration::from_secs(60);

/// The lanes without marks have the bounds of gossip and of `bifrost_data`.
const LANES: &str = "\
lanes:
  - { id: 201, name: bench_small, connections: [INTERNAL], window: 65536, max_streams: 256,
      connection_window: 2097152, max_connections: 1, max_waiting: 64, dscp: 0, priority: 0 }
  - { id: 202, name: bench_bulk, connections: [INTERNAL], window: 16777216, max_streams: 64,
      connection_window: 67108864, max_connections: 2, max_waiting: 128, dscp: 0, priority: 0 }
rules:
";

/// A running mesh. It ends with this value, its processes before its ground.
pub(super) struct Mesh {
    /// Held: they end when they are dropped.
    _processes: Vec<Child>,
    outbound: SocketAddr,
    _folder: TempDir,
    ground: Ground,
}

/// Bulk under way.
pub(super) struct Bulk(Child);

impl Mesh {
    /// Starts all of it, and returns when calls can flow.
    pub(super) async fn start(program: &Path, ground: Ground) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("sidelane-bench-").tempdir();
        let folder = folder.context("cannot make a temporary directory")?;
        let starting = Starting {
            program,
            ground: &ground,
            folder: folder.path(),
        };
        let (processes, outbound) = starting.start().await?;
        Ok(Self {
            _processes: processes,
            outbound,
            _folder: folder,
            ground,
        })
    }

    /// Makes so many small calls a second for so long.
    pub(super) async fn small(&self, service: &str, rate: u32, seconds: u32) -> Result<Told> {
        let (rate, seconds) = (rate.to_string(), seconds.to_string());
        let more = ["--rate", &rate, "--seconds", &seconds];
        let child = self.load(service, SMALL, &more)?;
        let told: Told = told(child, "small calls").await?;
        ensure!(told.answered > 0, "no small call was answered: {told:?}");
        Ok(told)
    }

    /// Begins with bulk, so much at once.
    pub(super) fn bulk(&self, service: &str, flow: Flow, in_flight: u32) -> Result<Bulk> {
        let more = ["--flow", flow.name(), "--in-flight", &in_flight.to_string()];
        self.load(service, BULK, &more).map(Bulk)
    }

    fn load(&self, service: &str, payload: u32, more: &[&str]) -> Result<Child> {
        let mut command = own(&self.ground, Side::Caller)?;
        let (target, payload) = (self.outbound.to_string(), payload.to_string());
        command.args(["lanes-part", "load", "--target", &target]);
        command.args(["--service", service, "--payload", &payload]);
        command
            .args(more)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        command.spawn().context("cannot start the load")
    }
}

impl Bulk {
    /// Ends it, and returns what came of it.
    pub(super) async fn told(mut self) -> Result<Told> {
        drop(self.0.stdin.take());
        told(self.0, "bulk").await
    }
}

async fn told<Answer: DeserializeOwned>(mut child: Child, what: &str) -> Result<Answer> {
    // Held open: its end would tell bulk to end.
    let _input = child.stdin.take();
    let mut output = child.stdout.take().context("no pipe to read from")?;
    let mut text = String::new();
    let limit = END_LIMIT + Duration::from_secs(600);
    timeout(limit, output.read_to_string(&mut text))
        .await
        .with_context(|| format!("{what} did not end"))??;
    let status = child.wait().await?;
    ensure!(status.success(), "{what} ended with {status}");
    serde_json::from_str(&text).with_context(|| format!("{what} said {text:?}"))
}

/// This very program on that side. It ends when it is dropped.
fn own(ground: &Ground, side: Side) -> Result<Command> {
    let program = std::env::current_exe().context("cannot tell where this program is")?;
    let mut command = Command::from(ground.command(side, &program));
    command.kill_on_drop(true);
    Ok(command)
}

struct Starting<'a> {
    program: &'a Path,
    ground: &'a Ground,
    folder: &'a Path,
}

impl Starting<'_> {
    async fn start(&self) -> Result<(Vec<Child>, SocketAddr)> {
        let mut processes = Vec::new();
        let mut serves = Vec::new();
        for at in 0..2 {
            let address = self.app(&mut processes).await?;
            for way in Way::value_variants() {
                serves.extend([
                    "--serve".to_owned(),
                    format!("{}={address}", way.services()[at]),
                ]);
            }
        }
        let caller = self.ground.address(Side::Caller);
        let [listen, admin] = free_ports()?;
        let control = format!("{caller}:{listen}");
        let admin = format!("127.0.0.1:{admin}");
        let flags = words(&["control", "--listen", &control, "--admin", &admin]);
        processes.push(self.sidelane(Side::Caller, "control", flags)?);
        let callee = self.sidecar(Side::Callee, &control, &serves)?;
        let caller = self.sidecar(Side::Caller, &control, &[])?;
        let outbound = caller.1;
        for (side, (process, _, admin)) in [(Side::Callee, callee), (Side::Caller, caller)] {
            processes.push(process);
            let url = format!("http://{admin}");
            self.succeed(side, &["wait", "--timeout", "30s", "--sidecar", &url])
                .await?;
        }
        let rules = self.folder.join("rules.yaml");
        std::fs::write(&rules, rules_text()).context("cannot write the rules")?;
        let rules = rules.to_string_lossy().into_owned();
        self.succeed(
            Side::Caller,
            &["apply", "-f", &rules, "--control", &control],
        )
        .await?;
        Ok((processes, outbound))
    }

    /// The process, where apps call it, and its admin port.
    fn sidecar(
        &self,
        side: Side,
        control: &str,
        serves: &[String],
    ) -> Result<(Child, SocketAddr, String)> {
        let node = match side {
            Side::Caller => "bench-caller",
            Side::Callee => "bench-callee",
        };
        let [outbound, internal, admin] = free_ports()?;
        let outbound = SocketAddr::from((Ipv4Addr::LOCALHOST, outbound));
        let internal = SocketAddr::from((self.ground.address(side), internal));
        let admin = format!("127.0.0.1:{admin}");
        let mut flags = words(&["sidecar", "--node", node, "--control", control]);
        flags.extend(words(&["--outbound", &outbound.to_string()]));
        flags.extend(words(&[
            "--internal",
            &internal.to_string(),
            "--admin",
            &admin,
        ]));
        flags.extend_from_slice(serves);
        Ok((self.sidelane(side, node, flags)?, outbound, admin))
    }

    fn sidelane(&self, side: Side, name: &str, mut flags: Vec<String>) -> Result<Child> {
        let data = self.folder.join(name).display().to_string();
        flags.extend(words(&["--trust", "disabled", "--data", &data]));
        let log = self.log(name);
        let file = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let again = file.try_clone().context("cannot share a log file")?;
        let mut command = self.command(side);
        command
            .args(flags)
            .stdin(Stdio::null())
            .stdout(file)
            .stderr(again);
        let child = command.spawn();
        child.with_context(|| format!("cannot start {name}"))
    }

    /// A command of the `sidelane` program, without this process's `SIDELANE…` variables, which
    /// would change what is measured.
    fn command(&self, side: Side) -> Command {
        let mut command = Command::from(self.ground.command(side, self.program));
        for (variable, _) in std::env::vars_os() {
            if variable.as_encoded_bytes().starts_with(b"SIDELANE") {
                command.env_remove(variable);
            }
        }
        command.kill_on_drop(true);
        command
    }

    async fn succeed(&self, side: Side, arguments: &[&str]) -> Result<()> {
        let mut command = self.command(side);
        let output = command.args(arguments).stdin(Stdio::null()).output();
        let output = timeout(START_LIMIT * 2, output).await;
        let what = arguments.join(" ");
        let output = output.with_context(|| format!("`sidelane {what}` did not end"))??;
        let said = String::from_utf8_lossy(&output.stderr);
        ensure!(
            output.status.success(),
            "`sidelane {what}`: {}{}",
            said.trim(),
            self.logs()
        );
        Ok(())
    }

    async fn app(&self, processes: &mut Vec<Child>) -> Result<SocketAddr> {
        let mut command = own(self.ground, Side::Callee)?;
        command.args(["lanes-part", "app"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().context("cannot start an app")?;
        let output = child.stdout.take().context("no pipe to read from")?;
        let mut line = String::new();
        timeout(START_LIMIT, BufReader::new(output).read_line(&mut line))
            .await
            .context("an app did not say where it listens")??;
        processes.push(child);
        let address = line.trim().parse();
        address.with_context(|| format!("an app said {line:?}, not an address"))
    }

    fn log(&self, name: &str) -> PathBuf {
        self.folder.join(format!("{name}.log"))
    }

    /// The logs, for a message.
    fn logs(&self) -> String {
        let mut text = String::new();
        for name in ["control", "bench-callee", "bench-caller"] {
            let log = std::fs::read_to_string(self.log(name)).unwrap_or_default();
            if !log.trim().is_empty() {
                text.push_str(&format!("\n{name}:\n{}", log.trim_end()));
            }
        }
        text
    }
}

fn rules_text() -> String {
    let mut text = LANES.to_owned();
    for way in Way::value_variants() {
        let lanes = match way {
            Way::Lanes => ["gossip", "bifrost_data"],
            Way::Unmarked => ["bench_small", "bench_bulk"],
            Way::Shared => ["general", "general"],
        };
        for (service, lane) in way.services().iter().zip(lanes) {
            text.push_str(&format!(
                "  - {{ service: {service}, connection: INTERNAL, lane: {lane}, persistent: true }}\n"
            ));
        }
    }
    text
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_service_has_a_rule() {
        let text = rules_text();
        assert!(text.contains(
            "{ service: sidelane.bench.lanes.v1.Beat, connection: INTERNAL, lane: gossip, "
        ));
        for way in Way::value_variants() {
            for service in way.services() {
                assert_eq!(text.matches(&service).count(), 1, "{text}");
            }
        }
    }
}

//! A way from the load generator to the echo server, with the processes that it consists of and
//! what they cost. Pairs are started before the first round and stopped after the last; between
//! them a pair must never change.

use anyhow::{Context as _, Result, bail};
use clap::ValueEnum;
use serde::Serialize;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tempfile::TempDir;
use tokio::time::Instant;

use crate::accounting::{ProcessorTime, Size};
use crate::call;
use crate::envoy;
use crate::load;
use crate::mesh::{self, Mesh};
use crate::message::EchoCall;
use crate::process::Process;
use crate::tls::Certificates;

/// From readiness to the first good answer: connections are dialled, membership has arrived.
const FIRST_CALL_LIMIT: Duration = Duration::from_secs(10);

/// Between two tries of the first call.
const TRY_INTERVAL: Duration = Duration::from_millis(25);

/// A way from the load generator to the echo server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// No proxy.
    Direct,
    /// Two pass-through proxies of hyper and nothing else.
    Bare,
    /// Two Envoys, with nothing but their router.
    Envoy,
    /// Two Sidelane sidecars, and a control plane.
    Sidelane,
    /// The same with a rule that turns every policy on.
    Policies,
    /// As bare, in mTLS by rustls between the two.
    BareTls,
    /// As envoy, in mTLS between the two.
    EnvoyTls,
    /// As sidelane, trust mode strict.
    SidelaneTls,
}

/// The programs of pairs that are not this one's own.
#[derive(Clone, Debug, Default)]
pub(crate) struct Programs {
    /// `sidelane`.
    pub(crate) sidelane: Option<PathBuf>,
    /// `sidelane-sidecar`; where there is none, sidecars are `sidelane sidecar`.
    pub(crate) sidecar: Option<PathBuf>,
    /// `envoy`.
    pub(crate) envoy: Option<PathBuf>,
}

impl Kind {
    /// As in `--only`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Bare => "bare",
            Self::Envoy => "envoy",
            Self::Sidelane => "sidelane",
            Self::Policies => "policies",
            Self::BareTls => "bare-tls",
            Self::EnvoyTls => "envoy-tls",
            Self::SidelaneTls => "sidelane-tls",
        }
    }

    /// Are the two proxies in mTLS?
    pub(crate) fn is_tls(self) -> bool {
        matches!(self, Self::BareTls | Self::EnvoyTls | Self::SidelaneTls)
    }

    /// Does it need the `sidelane` program?
    pub(crate) fn is_sidelane(self) -> bool {
        matches!(self, Self::Sidelane | Self::Policies | Self::SidelaneTls)
    }

    /// Does it need the `envoy` program?
    pub(crate) fn is_envoy(self) -> bool {
        matches!(self, Self::Envoy | Self::EnvoyTls)
    }
}

/// What a process does for its pair.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Part {
    /// Answers the calls.
    Echo,
    /// Carries the calls: these are what is compared.
    Proxy,
    /// Is needed, but not in the way of a call.
    Control,
}

/// One process of a pair.
pub(crate) struct Member {
    /// Its part.
    pub(crate) part: Part,
    /// The process.
    pub(crate) process: Process,
}

/// One way, ready to be measured once [`Pair::start`] has returned.
pub(crate) struct Pair {
    /// Which one.
    pub(crate) kind: Kind,
    /// In the order in which they were started.
    pub(crate) members: Vec<Member>,
    /// Where the callee's proxy takes connections in mTLS, and by which certificates; `None` in the
    /// clear.
    pub(crate) callee: Option<(SocketAddr, Certificates)>,
    // Logs, state and certificates of programs that have any; removed with the pair.
    directory: Option<TempDir>,
}

impl Pair {
    /// A pair without processes.
    pub(crate) fn new(kind: Kind) -> Self {
        Self {
            kind,
            members: Vec::new(),
            callee: None,
            directory: None,
        }
    }

    /// Starts its processes and returns where calls go in. What has been started when it fails
    /// belongs to the pair all the same.
    pub(crate) async fn start(&mut self, programs: &Programs) -> Result<SocketAddr> {
        let echo = self.add(Part::Echo, "echo server", &["echo"]).await?;
        let mut certificates = None;
        if self.kind.is_tls() {
            let folder = directory(&mut self.directory)?;
            certificates = Some(Certificates::make(folder)?);
        }
        let [caller, callee] = match self.kind {
            Kind::Direct => return Ok(echo),
            Kind::Bare | Kind::BareTls => self.bare(echo, certificates.as_ref()).await?,
            Kind::Envoy | Kind::EnvoyTls => {
                let program = programs.envoy.as_deref();
                let program = program.context("the envoy program is not known")?;
                let directory = directory(&mut self.directory)?;
                let certificates = certificates.as_ref();
                envoy::start(program, directory, echo, certificates, &mut self.members).await?
            }
            Kind::Sidelane | Kind::Policies | Kind::SidelaneTls => {
                let program = programs.sidelane.as_deref();
                let program = program.context("the sidelane program is not known")?;
                let mesh = Mesh {
                    programs: (program, programs.sidecar.as_deref()),
                    directory: directory(&mut self.directory)?,
                    echo,
                    rules: (self.kind == Kind::Policies).then_some(mesh::POLICIES),
                    certificates: certificates.as_ref(),
                };
                mesh::start(&mesh, &mut self.members).await?
            }
        };
        self.callee = certificates.map(|certificates| (callee, certificates));
        Ok(caller)
    }

    async fn bare(
        &mut self,
        echo: SocketAddr,
        certificates: Option<&Certificates>,
    ) -> Result<[SocketAddr; 2]> {
        let folder = certificates.map(|certificates| certificates.folder().display().to_string());
        let upstream = echo.to_string();
        let mut arguments = vec!["bare", "--upstream", &upstream];
        arguments.extend(folder.iter().flat_map(|folder| ["--accept-tls", folder]));
        let callee = self.add(Part::Proxy, "callee's proxy", &arguments).await?;
        let upstream = callee.to_string();
        let mut arguments = vec!["bare", "--upstream", &upstream];
        arguments.extend(folder.iter().flat_map(|folder| ["--dial-tls", folder]));
        let caller = self.add(Part::Proxy, "caller's proxy", &arguments).await?;
        Ok([caller, callee])
    }

    async fn add(
        &mut self,
        part: Part,
        name: &'static str,
        subcommand: &[&str],
    ) -> Result<SocketAddr> {
        let (process, address) = Process::own(name, subcommand).await?;
        self.members.push(Member { part, process });
        Ok(address)
    }

    /// Calls until one call is answered byte for byte, at most [`FIRST_CALL_LIMIT`].
    pub(crate) async fn first_call(
        &mut self,
        call: &Arc<EchoCall>,
        target: SocketAddr,
    ) -> Result<()> {
        let deadline = Instant::now() + FIRST_CALL_LIMIT;
        loop {
            self.must_live()?;
            let attempt = async {
                let mut senders = load::connect(target, 1).await?;
                let sender = senders.first_mut().context("no connection")?;
                anyhow::Ok(call::compare(sender, call).await?)
            };
            let reason = match tokio::time::timeout_at(deadline, attempt).await {
                Ok(Ok(())) => return Ok(()),
                Ok(Err(error)) => format!("{error:#}"),
                Err(_) => "no answer".to_owned(),
            };
            if Instant::now() >= deadline {
                bail!(
                    "no call to {target} in {FIRST_CALL_LIMIT:?}: {reason}{}",
                    self.log_tails()
                );
            }
            tokio::time::sleep(TRY_INTERVAL).await;
        }
    }

    fn log_tails(&self) -> String {
        let tail = |member: &Member| match member.process.log_tail() {
            text if text.is_empty() => text,
            text => format!("\n{}{text}", member.process.name),
        };
        self.members.iter().map(tail).collect()
    }

    /// An error if one of its processes has ended.
    pub(crate) fn must_live(&mut self) -> Result<()> {
        self.members
            .iter_mut()
            .try_for_each(|member| member.process.must_live())
    }

    /// The processor time of each member, in order.
    pub(crate) fn processor_times(&self) -> Result<Vec<ProcessorTime>> {
        self.members
            .iter()
            .map(|member| ProcessorTime::of(member.process.pid))
            .collect()
    }

    /// The memory of each member, in order.
    pub(crate) fn sizes(&self) -> Result<Vec<Size>> {
        self.members
            .iter()
            .map(|member| Size::of(member.process.pid))
            .collect()
    }

    /// Ends its processes, the last first, and removes what they wrote.
    pub(crate) async fn stop(self) {
        for member in self.members.into_iter().rev() {
            member.process.stop().await;
        }
    }
}

/// A directory of its own for what a pair's programs write; made when it is first asked for.
fn directory(kept: &mut Option<TempDir>) -> Result<&Path> {
    if let Some(kept) = kept {
        return Ok(kept.path());
    }
    let directory = tempfile::Builder::new().prefix("sidelane-bench-").tempdir();
    let directory = directory.context("cannot make a temporary directory")?;
    Ok(kept.insert(directory).path())
}

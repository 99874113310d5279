//! Starts the Sidelane pair: a control plane and two sidecars, as a user would start them, in the
//! clear. The callee's sidecar serves the echo server; the caller's serves nothing and takes the
//! load. Readiness is asked for, never guessed.

use anyhow::{Context as _, Result};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;

use crate::admin;
use crate::message::SERVICE;
use crate::pair::{Member, Part};
use crate::process::Process;

/// Starts the three, each into `members`, with logs and state in `directory`; returns the
/// address of the caller's outbound listener.
pub(crate) async fn start(
    program: &Path,
    directory: &Path,
    echo: SocketAddr,
    members: &mut Vec<Member>,
) -> Result<SocketAddr> {
    let [control, control_admin] = free_addresses()?;
    let callee = Sidecar::new("callee")?;
    let caller = Sidecar::new("caller")?;

    let mut arguments = words(&["control"]);
    flag(&mut arguments, "--listen", control);
    flag(&mut arguments, "--admin", control_admin);
    flag(&mut arguments, "--trust", "disabled");
    flag(
        &mut arguments,
        "--data",
        directory.join("control").display(),
    );
    let log = directory.join("control.log");
    let process = Process::other("control", program, &arguments, log)?;
    add(members, Part::Control, process, control_admin, "/readyz").await?;

    for (name, sidecar, serves) in [
        ("callee's sidecar", &callee, Some(echo)),
        ("caller's sidecar", &caller, None),
    ] {
        let arguments = sidecar.arguments(control, directory, serves);
        let log = directory.join(format!("{}.log", sidecar.node));
        let process = Process::other(name, program, &arguments, log)?;
        add(
            members,
            Part::Proxy,
            process,
            sidecar.admin,
            "/readyz?for=outbound",
        )
        .await?;
    }
    Ok(caller.outbound)
}

/// Adds a process to `members` once its admin port answers 200 to `path`.
pub(crate) async fn add(
    members: &mut Vec<Member>,
    part: Part,
    process: Process,
    admin: SocketAddr,
    path: &str,
) -> Result<()> {
    // First into the list: whoever owns that also ends a process that does not become ready.
    members.push(Member { part, process });
    let member = members.last_mut().context("nothing was added")?;
    admin::ready(&mut member.process, admin, path).await
}

struct Sidecar {
    node: &'static str,
    outbound: SocketAddr,
    internal: SocketAddr,
    admin: SocketAddr,
}

impl Sidecar {
    fn new(node: &'static str) -> Result<Self> {
        let [outbound, internal, admin] = free_addresses()?;
        Ok(Self {
            node,
            outbound,
            internal,
            admin,
        })
    }

    fn arguments(
        &self,
        control: SocketAddr,
        directory: &Path,
        serves: Option<SocketAddr>,
    ) -> Vec<String> {
        let mut arguments = words(&["sidecar"]);
        flag(
            &mut arguments,
            "--node",
            format_args!("bench-{}", self.node),
        );
        flag(&mut arguments, "--control", control);
        flag(&mut arguments, "--outbound", self.outbound);
        flag(&mut arguments, "--internal", self.internal);
        flag(&mut arguments, "--admin", self.admin);
        flag(&mut arguments, "--trust", "disabled");
        flag(
            &mut arguments,
            "--data",
            directory.join(self.node).display(),
        );
        if let Some(echo) = serves {
            flag(&mut arguments, "--serve", format_args!("{SERVICE}={echo}"));
        }
        arguments
    }
}

/// Arguments that are written here.
pub(crate) fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|&word| word.to_owned()).collect()
}

/// A flag and its value.
pub(crate) fn flag(arguments: &mut Vec<String>, name: &str, value: impl std::fmt::Display) {
    arguments.push(name.to_owned());
    arguments.push(value.to_string());
}

/// Loopback addresses that were free a moment ago, all different. Somebody else may take one
/// before its owner does; then that process ends, and the error shows its log.
pub(crate) fn free_addresses<const COUNT: usize>() -> Result<[SocketAddr; COUNT]> {
    let mut addresses = [SocketAddr::from((Ipv4Addr::LOCALHOST, 0)); COUNT];
    let mut held = Vec::new();
    for address in &mut addresses {
        let listener = TcpListener::bind(*address).context("no free loopback port")?;
        *address = listener
            .local_addr()
            .context("no address for a loopback port")?;
        held.push(listener);
    }
    Ok(addresses)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(port: u16) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    #[test]
    fn only_the_callee_serves() {
        let sidecar = Sidecar {
            node: "callee",
            outbound: address(1),
            internal: address(2),
            admin: address(3),
        };
        let serving = sidecar
            .arguments(address(4), Path::new("/d"), Some(address(5)))
            .join(" ");
        assert_eq!(
            serving,
            "sidecar --node bench-callee --control 127.0.0.1:4 --outbound 127.0.0.1:1 \
             --internal 127.0.0.1:2 --admin 127.0.0.1:3 --trust disabled --data /d/callee \
             --serve sidelane.test.v1.Echo=127.0.0.1:5"
        );
        let calling = sidecar
            .arguments(address(4), Path::new("/d"), None)
            .join(" ");
        assert!(!calling.contains("--serve"), "{calling}");
    }

    #[test]
    fn free_addresses_differ_and_can_be_bound() {
        let addresses: [SocketAddr; 4] = free_addresses().unwrap();
        let listeners: Vec<_> = addresses.iter().map(TcpListener::bind).collect();
        assert!(listeners.iter().all(Result::is_ok), "{listeners:?}");
    }
}

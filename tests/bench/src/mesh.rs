//! Starts the Sidelane pair: a control plane and two sidecars, as a user would start them, in the
//! clear, or `strict` with certificates from files. The callee's sidecar serves the echo server; the caller's serves nothing and takes the
//! load. Readiness is asked for, never guessed.

use anyhow::{Context as _, Result};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::Path;
use std::time::Duration;

use crate::admin;
use crate::message::SERVICE;
use crate::pair::{Member, Part};
use crate::process::{self, Process};
use crate::tls::{Certificates, End};

/// A rule that turns every policy on, none of which changes what becomes of a call: limits and
/// the bound that follows latency are out of reach, faults are for calls with a header that none
/// brings, no call takes so long that it is hedged, and the only endpoint is of the part that gets all
/// calls. What each costs is paid all the same.
pub(crate) const POLICIES: &str = "\
rules:
  - service: sidelane.test.v1.Echo
    connection: INTERNAL
    lane: general
    load_balancing: PEAK_EWMA
    timeout: 30s
    max_timeout: 60s
    retry: { attempts: 3, on: [UNAVAILABLE], budget_percent: 20, budget_per_second: 10 }
    breaker: { consecutive_failures: 5, success_percent: 50, min_calls: 20, interval: 10s }
    outlier: { below_mean: 25, min_calls: 20, max_percent: 50 }
    limits:
      - { requests_per_second: 1000000, burst: 1000000, per: [CALLER] }
    concurrency: { adaptive: { min: 1024, max: 4096 }, queue: 64, longest_wait: 50ms }
    fault: { abort_percent: 100, abort_status: UNAVAILABLE, header: x-bench-fault }
    split:
      label: version
      parts:
        - { value: v1, percent: 100 }
        - { value: v2, percent: 0, header: x-bench-canary, header_value: \"yes\" }
    hash_header: x-bench-user
    locality: PREFER
    slow_start: 10s
    methods:
      - { name: Unary, idempotent: true, hedge: { after: 10s, max_attempts: 2 } }
      - { name: Expand, idempotent: true, server_streaming: true }
      - { name: Chat, client_streaming: true, server_streaming: true }
";

/// Where both sidecars of a pair with policies stand.
const LOCALITY: &str = "here/a";
/// The part of the split in [`POLICIES`] that the callee is of.
const LABEL: &str = "version=v1";
/// Share of the callee, which is no one's in relation to another.
const WEIGHT: u32 = 200;
/// How long control waits until both sidecars have taken the rule, also where they are counted
/// instruction by instruction.
const APPLY_LIMIT: Duration = Duration::from_secs(30);

/// Which mesh.
pub(crate) struct Mesh<'a> {
    /// The program of control, and that of the sidecars where it is one of its own.
    pub(crate) programs: (&'a Path, Option<&'a Path>),
    /// For logs and state.
    pub(crate) directory: &'a Path,
    /// What the callee's sidecar serves.
    pub(crate) echo: SocketAddr,
    /// Rules to apply.
    pub(crate) rules: Option<&'a str>,
    /// What sidecars show each other; in the clear without. Control is asked in the clear all the
    /// same: it is in no call's way.
    pub(crate) certificates: Option<&'a Certificates>,
}

/// Starts the three, each into `members`; returns the addresses of the caller's outbound listener and
/// of the callee's internal one.
pub(crate) async fn start(mesh: &Mesh<'_>, members: &mut Vec<Member>) -> Result<[SocketAddr; 2]> {
    let Mesh {
        programs: (program, sidecars),
        directory,
        echo,
        rules,
        certificates,
    } = *mesh;
    let [control, control_admin] = free_addresses()?;
    let callee = Sidecar::new(End::Callee, rules.is_some())?;
    let caller = Sidecar::new(End::Caller, rules.is_some())?;

    let mut arguments = words(&["control"]);
    flag(&mut arguments, "--listen", control);
    flag(&mut arguments, "--admin", control_admin);
    trust(&mut arguments, certificates, End::Control);
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
        let mut arguments = sidecar.arguments(control, directory, serves, certificates);
        let program = match sidecars {
            Some(program) => program,
            None => {
                arguments.insert(0, "sidecar".to_owned());
                program
            }
        };
        let log = directory.join(format!("{}.log", sidecar.end.name()));
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
    if let Some(rules) = rules {
        apply(program, directory, control, rules).await?;
    }
    Ok([caller.outbound, callee.internal])
}

/// Strict with the certificate of this end, or in the clear.
fn trust(arguments: &mut Vec<String>, certificates: Option<&Certificates>, end: End) {
    let Some(certificates) = certificates else {
        return flag(arguments, "--trust", "disabled");
    };
    flag(arguments, "--trust", "strict");
    for (name, file) in [
        ("--identity-chain", certificates.chain(end)),
        ("--identity-key", certificates.key(end)),
        ("--identity-roots", certificates.roots()),
    ] {
        flag(arguments, name, file.display());
    }
}

/// The node of this end.
pub(crate) fn node(end: End) -> String {
    format!("bench-{}", end.name())
}

/// Applies rules, as a user would, and waits until both sidecars have them.
async fn apply(program: &Path, directory: &Path, control: SocketAddr, rules: &str) -> Result<()> {
    let file = directory.join("rules.yaml");
    std::fs::write(&file, rules).with_context(|| format!("cannot write {}", file.display()))?;
    let mut arguments = words(&["apply"]);
    flag(&mut arguments, "--file", file.display());
    flag(&mut arguments, "--control", control);
    let wait = format!("{}s", APPLY_LIMIT.as_secs());
    flag(&mut arguments, "--wait", wait);
    process::once("apply", program, &arguments, APPLY_LIMIT * 2).await
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
    end: End,
    outbound: SocketAddr,
    internal: SocketAddr,
    admin: SocketAddr,
    /// Says what policies go by: where it stands, its weight and its version.
    placed: bool,
}

impl Sidecar {
    fn new(end: End, placed: bool) -> Result<Self> {
        let [outbound, internal, admin] = free_addresses()?;
        Ok(Self {
            end,
            outbound,
            internal,
            admin,
            placed,
        })
    }

    fn arguments(
        &self,
        control: SocketAddr,
        directory: &Path,
        serves: Option<SocketAddr>,
        certificates: Option<&Certificates>,
    ) -> Vec<String> {
        let mut arguments = Vec::new();
        flag(&mut arguments, "--node", node(self.end));
        flag(&mut arguments, "--control", control);
        flag(&mut arguments, "--outbound", self.outbound);
        flag(&mut arguments, "--internal", self.internal);
        flag(&mut arguments, "--admin", self.admin);
        trust(&mut arguments, certificates, self.end);
        flag(
            &mut arguments,
            "--data",
            directory.join(self.end.name()).display(),
        );
        if self.placed {
            flag(&mut arguments, "--locality", LOCALITY);
            flag(&mut arguments, "--label", LABEL);
            flag(&mut arguments, "--weight", WEIGHT);
        }
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
            end: End::Callee,
            outbound: address(1),
            internal: address(2),
            admin: address(3),
            placed: false,
        };
        let serving = sidecar
            .arguments(address(4), Path::new("/d"), Some(address(5)), None)
            .join(" ");
        assert_eq!(
            serving,
            "--node bench-callee --control 127.0.0.1:4 --outbound 127.0.0.1:1 \
             --internal 127.0.0.1:2 --admin 127.0.0.1:3 --trust disabled --data /d/callee \
             --serve sidelane.test.v1.Echo=127.0.0.1:5"
        );
        let calling = sidecar
            .arguments(address(4), Path::new("/d"), None, None)
            .join(" ");
        assert!(!calling.contains("--serve"), "{calling}");
        let certificates = Certificates::in_folder(Path::new("/c"));
        let secured = sidecar
            .arguments(address(4), Path::new("/d"), None, Some(&certificates))
            .join(" ");
        assert!(
            secured.contains(
                "--trust strict --identity-chain /c/callee.pem --identity-key /c/callee.key \
                 --identity-roots /c/roots.pem --data"
            ),
            "{secured}"
        );
        let placed = Sidecar {
            placed: true,
            ..sidecar
        };
        let placed = placed
            .arguments(address(4), Path::new("/d"), None, None)
            .join(" ");
        let added = " --locality here/a --label version=v1 --weight 200";
        assert_eq!(placed, format!("{calling}{added}"));
    }

    #[test]
    fn the_rule_with_every_policy_is_of_the_service_that_is_called() {
        assert!(POLICIES.contains(&format!("service: {SERVICE}\n")));
    }

    #[test]
    fn free_addresses_differ_and_can_be_bound() {
        let addresses: [SocketAddr; 4] = free_addresses().unwrap();
        let listeners: Vec<_> = addresses.iter().map(TcpListener::bind).collect();
        assert!(listeners.iter().all(Result::is_ok), "{listeners:?}");
    }
}

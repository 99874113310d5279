//! The kernel's tables, by the programs of the package iptables. Each change of one table is one
//! step for the kernel; both tables together are not, so what was changed first is put back when
//! the second one fails.

use std::ffi::OsString;
use std::io::{self, Write as _};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use super::rules::{Family, State, change};

/// Seconds to wait for somebody else who changes the table.
const LOCK_WAIT: &str = "5";
/// Where the programs are when the path of whoever calls does not say so.
const SYSTEM_FOLDERS: &str = "/usr/sbin:/sbin";
/// There when IPv6 is.
const V6_ADDRESSES: &str = "/proc/net/if_inet6";
/// Says 1 when IPv6 was turned off.
const V6_DISABLED: &str = "/proc/sys/net/ipv6/conf/all/disable_ipv6";

/// The rules are not as they were asked for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum TablesError {
    /// No such tables.
    #[error("only Linux has the rules that this needs; elsewhere apps dial the sidecar")]
    NotLinux,
    /// The program is not there.
    #[error(
        "{program} is not installed; it comes with the package iptables{}",
        v6_hint(*family)
    )]
    NotInstalled {
        /// Which.
        program: String,
        /// For what.
        family: Family,
    },
    /// The program cannot be started or talked to.
    #[error("cannot run {program}: {source}")]
    Run {
        /// Which.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// The right is missing.
    #[error(
        "no right to change the kernel's tables ({program}: {said}); run it as root, or give the \
         container the capability NET_ADMIN"
    )]
    NoRight {
        /// Which was refused.
        program: String,
        /// What it said.
        said: String,
    },
    /// The kernel cannot do it.
    #[error(
        "this kernel cannot redirect ({program}: {said}); it needs NAT (CONFIG_NF_NAT, \
         CONFIG_NETFILTER_XT_TARGET_REDIRECT) and the matches owner and mark{}",
        v6_hint(*family)
    )]
    NoNat {
        /// Which found out.
        program: String,
        /// For what.
        family: Family,
        /// What it said.
        said: String,
    },
    /// IPv6 is off, and may be turned on.
    #[error(
        "IPv6 is off here, so its connections cannot be brought to the sidecar, and would pass it \
         by once it is on; if that may be, say --ipv4-only"
    )]
    V6Off,
    /// Anything else that it said.
    #[error("{program} refused the rules: {said}")]
    Refused {
        /// Which.
        program: String,
        /// What it said.
        said: String,
    },
    /// The second table failed, and the first one could not be put back.
    #[error(
        "{source}; what was changed before could not be put back ({undo}): see to it with \
         `sidelane redirect --remove`"
    )]
    HalfDone {
        /// Why it failed.
        source: Box<Self>,
        /// Why it was not undone.
        undo: Box<Self>,
    },
}

fn v6_hint(family: Family) -> &'static str {
    match family {
        Family::V4 => "",
        Family::V6 => "; to leave IPv6 alone, say --ipv4-only",
    }
}

/// Puts these rules in place of earlier ones, in all these tables or in none.
pub(super) fn install(targets: &[(Family, State)]) -> Result<(), TablesError> {
    linux()?;
    let mut before = Vec::with_capacity(targets.len());
    for &(family, _) in targets {
        if family == Family::V6 && !v6_is_on() {
            return Err(TablesError::V6Off);
        }
        // All are read before one is changed: most of what can fail does so here.
        before.push(read(family)?);
    }
    for (done, ((family, to), from)) in targets.iter().zip(&before).enumerate() {
        if let Err(error) = write(*family, from, to) {
            return Err(undo(&targets[..done], &before, error));
        }
    }
    Ok(())
}

/// Takes out all rules of ours; returns how many ports were redirected.
pub(super) fn remove(family: Family) -> Result<usize, TablesError> {
    linux()?;
    let found = read(family)?;
    if !found.is_empty() {
        write(family, &found, &State::default())?;
    }
    Ok(found.ports())
}

fn undo(done: &[(Family, State)], before: &[State], source: TablesError) -> TablesError {
    for ((family, now), before) in done.iter().zip(before) {
        if let Err(undo) = write(*family, now, before) {
            let (source, undo) = (Box::new(source), Box::new(undo));
            return TablesError::HalfDone { source, undo };
        }
    }
    source
}

fn linux() -> Result<(), TablesError> {
    if cfg!(target_os = "linux") {
        return Ok(());
    }
    Err(TablesError::NotLinux)
}

fn v6_is_on() -> bool {
    let disabled = std::fs::read_to_string(V6_DISABLED);
    Path::new(V6_ADDRESSES).exists() && disabled.is_ok_and(|said| said.trim() != "1")
}

fn read(family: Family) -> Result<State, TablesError> {
    let saved = run(family, "save", &["-t", "nat"], "")?;
    Ok(State::parse(&saved))
}

fn write(family: Family, from: &State, to: &State) -> Result<(), TablesError> {
    let text = change(from, to);
    run(family, "restore", &["--noflush", "-w", LOCK_WAIT], &text).map(drop)
}

fn run(family: Family, what: &str, arguments: &[&str], input: &str) -> Result<String, TablesError> {
    let program = family.program(what);
    let ended = talk(&program, arguments, input);
    let Output {
        status,
        stdout,
        stderr,
    } = ended.map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => TablesError::NotInstalled {
            program: program.clone(),
            family,
        },
        _ => TablesError::Run {
            program: program.clone(),
            source,
        },
    })?;
    if status.success() {
        return Ok(String::from_utf8_lossy(&stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&stderr);
    let said = said.split_whitespace().collect::<Vec<_>>().join(" ");
    let said = if said.is_empty() {
        status.to_string()
    } else {
        said
    };
    Err(cause(program, family, said))
}

/// Runs a program with this input to its end.
fn talk(program: &str, arguments: &[&str], input: &str) -> io::Result<Output> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut folders = OsString::from(&path);
    if !path.is_empty() {
        folders.push(":");
    }
    folders.push(SYSTEM_FOLDERS);
    let mut child = Command::new(program)
        .args(arguments)
        .env("PATH", folders)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    if let Some(mut stdin) = child.stdin.take() {
        match stdin.write_all(input.as_bytes()) {
            // One that ends without having read says why on standard error.
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe => return Err(error),
            _ => {}
        }
    }
    child.wait_with_output()
}

/// Which of the causes it is that the programs have in mind; their exit codes do not tell.
fn cause(program: String, family: Family, said: String) -> TablesError {
    let says = |words: &[&str]| words.iter().any(|word| said.contains(word));
    if says(&[
        "Permission denied",
        "Operation not permitted",
        "must be root",
    ]) {
        TablesError::NoRight { program, said }
    } else if says(&[
        "Table does not exist",
        "do you need to insmod",
        "Failed to initialize nft",
        "No chain/target/match by that name",
        "Couldn't load match",
        "Couldn't load target",
        "missing kernel module",
    ]) {
        TablesError::NoNat {
            program,
            family,
            said,
        }
    } else {
        TablesError::Refused { program, said }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_programs_say_becomes_a_cause() {
        let cause = |family: Family, said: &str| {
            super::cause(family.program("save"), family, said.to_owned()).to_string()
        };
        let said = "iptables-save v1.8.9 (nf_tables): Could not fetch rule set generation id: \
                    Permission denied (you must be root)";
        let text = cause(Family::V4, said);
        assert!(text.contains("capability NET_ADMIN"), "{text}");
        let said = "modprobe: FATAL: can't initialize ip6tables table `nat': Table does not exist \
                    (do you need to insmod?)";
        let text = cause(Family::V6, said);
        assert!(text.contains("this kernel cannot redirect"), "{text}");
        assert!(
            text.ends_with("to leave IPv6 alone, say --ipv4-only"),
            "{text}"
        );
        let text = cause(Family::V4, "line 3 failed");
        assert_eq!(text, "iptables-save refused the rules: line 3 failed");
    }

    #[test]
    fn a_missing_program_is_told_with_its_package() {
        let missing = TablesError::NotInstalled {
            program: "ip6tables-save".to_owned(),
            family: Family::V6,
        };
        assert_eq!(
            missing.to_string(),
            "ip6tables-save is not installed; it comes with the package iptables; to leave IPv6 \
             alone, say --ipv4-only"
        );
        let error = talk("no-such-program-anywhere", &[], "").unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}

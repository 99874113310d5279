//! What the command line asks for, checked as a whole: a rule that leads a sidecar back to itself
//! would be found only when the first call never ends.

use sidelane_process::settings::{Flag, Item, Origin, Settings};

use super::super::Failure;
use super::rules::{Family, Plan};
use super::{APP_UID, DRY_RUN, EXEMPT_UID, IPV4_ONLY, OWN_PORTS, PORTS, REMOVE, TO};

/// More ports than a machine declares services; the kernel looks at the rules one after the other,
/// for each new connection.
const MOST_PORTS: usize = 256;

const BOTH: &[Family] = &[Family::V4, Family::V6];
const ONLY_V4: &[Family] = &[Family::V4];

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Job {
    /// The rules are shown.
    Print(Plan),
    /// They are put into the kernel, in place of earlier ones.
    Install(Plan),
    /// They are taken out of these tables.
    Remove(&'static [Family]),
}

/// Who calls the command.
#[derive(Debug)]
pub(super) struct Caller {
    /// The users that this may be: the process's own, and who asked `sudo` to start it.
    pub(super) uids: Vec<u32>,
}

impl Caller {
    /// Who calls this process.
    pub(super) fn of_process() -> Self {
        let asked = std::env::var("SUDO_UID").ok();
        let asked = asked.and_then(|uid| uid.parse().ok());
        let own = rustix::process::getuid().as_raw();
        Self {
            uids: [own].into_iter().chain(asked).collect(),
        }
    }
}

/// Reads all flags.
pub(super) fn read(settings: &Settings, caller: &Caller) -> Result<Job, Failure> {
    let families = if settings.switch(&IPV4_ONLY)? {
        ONLY_V4
    } else {
        BOTH
    };
    if settings.switch(&REMOVE)? {
        let why = "--remove takes out whatever was installed";
        for flag in [&PORTS, &TO, &EXEMPT_UID, &APP_UID, &OWN_PORTS, &DRY_RUN] {
            not_given(settings, flag, why)?;
        }
        return Ok(Job::Remove(families));
    }
    let plan = Plan {
        ports: ports(settings)?,
        to: settings.value(&TO, port)?,
        exempt_uid: exempt_uid(settings, caller)?,
        families,
    };
    Ok(if settings.switch(&DRY_RUN)? {
        Job::Print(plan)
    } else {
        Job::Install(plan)
    })
}

fn not_given(settings: &Settings, flag: &Flag, why: &'static str) -> Result<(), Failure> {
    match given(settings, flag) {
        Some(_) => Err(Failure::OfNoUse {
            flag: flag.name,
            why,
        }),
        None => Ok(()),
    }
}

fn given<'a>(settings: &'a Settings, flag: &Flag) -> Option<&'a Item> {
    let item = settings.item(flag)?;
    (*item.origin() == Origin::CommandLine).then_some(item)
}

fn ports(settings: &Settings) -> Result<Vec<u16>, Failure> {
    let items = settings.items(&PORTS);
    if items.is_empty() {
        return Err(Failure::NoOperand {
            operand: "which ports to redirect",
            example: "sidelane redirect --ports 50051,50052 (or --remove)",
        });
    }
    let own = settings.list(&OWN_PORTS, port)?;
    let to = settings.value(&TO, port)?;
    let mut ports = Vec::with_capacity(items.len());
    for item in items {
        let port = item.parse(port)?;
        if ports.contains(&port) {
            return Err(item.refuse("is there twice; once is enough").into());
        }
        if port == to {
            let reason = "is where --to leads: the sidecar would call itself for ever";
            return Err(item.refuse(reason).into());
        }
        if own.contains(&port) {
            let reason = "is a port of sidecars or control, whose own connections it would take; \
                          if theirs are others here, say so with --own-ports";
            return Err(item.refuse(reason).into());
        }
        if ports.len() == MOST_PORTS {
            let reason = format!("is one more than {MOST_PORTS}, the most that there may be");
            return Err(item.refuse(reason).into());
        }
        ports.push(port);
    }
    Ok(ports)
}

fn exempt_uid(settings: &Settings, caller: &Caller) -> Result<Option<u32>, Failure> {
    let Some(item) = settings.item(&EXEMPT_UID) else {
        let why = "it is held against --exempt-uid, which is not there";
        return not_given(settings, &APP_UID, why).map(|()| None);
    };
    let exempt = item.parse(uid)?;
    let apps = settings.list(&APP_UID, uid)?;
    if apps.contains(&exempt) {
        let reason = "is an app's user by --app-uid: its calls would pass the mesh by; let the \
                      sidecar run as a user of its own";
        return Err(item.refuse(reason).into());
    }
    if apps.is_empty() && caller.uids.contains(&exempt) {
        let reason = "is who calls this, as apps may run, too: their calls would pass the mesh by; \
                      let the sidecar run as a user of its own, or say with --app-uid who the apps \
                      run as";
        return Err(item.refuse(reason).into());
    }
    Ok(Some(exempt))
}

fn port(text: &str) -> Result<u16, &'static str> {
    match text.parse() {
        Ok(0) | Err(_) => Err("is no port; write a number from 1 to 65535"),
        Ok(port) => Ok(port),
    }
}

fn uid(text: &str) -> Result<u32, &'static str> {
    match text.parse() {
        // The kernel's word for nobody at all.
        Ok(u32::MAX) | Err(_) => Err("is no user; write the number that `id -u NAME` prints"),
        Ok(uid) => Ok(uid),
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsString;

    use super::super::super::arguments::parsed_for_tests;
    use super::super::USAGE;
    use super::*;

    fn job(given: &[&str], caller: &[u32]) -> Result<Job, String> {
        let given: Vec<OsString> = given.iter().map(OsString::from).collect();
        let settings = parsed_for_tests(&USAGE, given);
        let uids = caller.to_vec();
        read(&settings, &Caller { uids }).map_err(|failure| failure.to_string())
    }

    fn plan(given: &[&str]) -> Plan {
        match job(given, &[0]) {
            Ok(Job::Install(plan)) => plan,
            other => panic!("{given:?}: {other:?}"),
        }
    }

    fn refused(given: &[&str], caller: &[u32], because: &str) {
        let error = job(given, caller).unwrap_err();
        assert!(error.contains(because), "{given:?}: {error}");
    }

    #[test]
    fn each_flag_has_its_effect() {
        let plain = plan(&["--ports", "50051,443"]);
        let expected = Plan {
            ports: vec![50_051, 443],
            to: 15_001,
            exempt_uid: None,
            families: BOTH,
        };
        assert_eq!(plain, expected);
        assert_eq!(plan(&["--ports", "1", "--to", "65535"]).to, 65_535);
        let only = plan(&["--ports", "1", "--ipv4-only"]);
        assert_eq!(only.families, ONLY_V4);
        let exempt = plan(&["--ports", "1", "--exempt-uid", "1337"]);
        assert_eq!(exempt.exempt_uid, Some(1337));
        let printed = job(&["--ports", "50051,443", "--dry-run"], &[0]);
        assert_eq!(printed, Ok(Job::Print(expected)));
        assert_eq!(job(&["--remove"], &[0]), Ok(Job::Remove(BOTH)));
        let removed = job(&["--remove", "--ipv4-only"], &[0]);
        assert_eq!(removed, Ok(Job::Remove(ONLY_V4)));
    }

    #[test]
    fn ports_that_cannot_be_are_refused() {
        for wrong in ["0", "65536", "-1", "http", "1-9"] {
            refused(&["--ports", wrong], &[0], "is no port; write a number");
        }
        refused(&["--ports", "1,65536"], &[0], "is no port; write a number");
        refused(&["--ports", "1,2,1"], &[0], "is there twice");
        refused(&["--ports", "1", "--to", "0"], &[0], "is no port");
        refused(&[], &[0], "which ports to redirect is missing");
    }

    #[test]
    fn ports_of_the_mesh_itself_are_refused() {
        for own in ["15000", "15001", "15006", "15010", "15014", "15443"] {
            let ports = ["--ports", own, "--to", "7000"];
            refused(&ports, &[0], "is a port of sidecars or control");
        }
        refused(&["--ports", "15001"], &[0], "is where --to leads");
        let elsewhere = ["--ports", "15006", "--own-ports", "7001,7002"];
        assert_eq!(plan(&elsewhere).ports, [15_006]);
        let moved = ["--ports", "7002", "--own-ports", "7001,7002"];
        refused(&moved, &[0], "is a port of sidecars or control");
    }

    #[test]
    fn there_is_a_bound_on_ports() {
        let most: Vec<String> = (1..=MOST_PORTS).map(|port| port.to_string()).collect();
        assert_eq!(plan(&["--ports", &most.join(",")]).ports.len(), MOST_PORTS);
        let more = format!("{},{}", most.join(","), MOST_PORTS + 1);
        refused(&["--ports", &more], &[0], "is one more than 256");
    }

    #[test]
    fn a_user_is_not_exempt_if_apps_run_as_the_same() {
        let given = ["--ports", "1", "--exempt-uid", "1000"];
        refused(&given, &[1000], "is who calls this");
        refused(&given, &[0, 1000], "is who calls this");
        let apps = |uids| [&given[..], &["--app-uid", uids]].concat();
        refused(&apps("7,1000"), &[0], "is an app's user by --app-uid");
        let known = job(&apps("7"), &[1000]);
        assert!(matches!(known, Ok(Job::Install(_))), "{known:?}");
        for wrong in ["root", "-1", "4294967295"] {
            refused(&["--ports", "1", "--exempt-uid", wrong], &[0], "is no user");
        }
    }

    #[test]
    fn flags_without_an_effect_are_refused() {
        for more in [
            &["--ports", "1"][..],
            &["--to", "7000"],
            &["--exempt-uid", "7"],
            &["--app-uid", "7"],
            &["--own-ports", "7"],
            &["--dry-run"],
        ] {
            let given = [&["--remove"], more].concat();
            refused(&given, &[0], "is of no use here");
        }
        refused(
            &["--ports", "1", "--app-uid", "7"],
            &[0],
            "is of no use here",
        );
    }
}

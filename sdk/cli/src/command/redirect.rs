//! `sidelane redirect`: rules in the kernel that bring connections to declared ports to the sidecar,
//! so that an app which dials a service's own name is carried by the mesh without knowing. The rules
//! need no process to stand, outlive all of them, and are removed without knowing who made them.

mod options;
mod rules;
mod tables;

use std::ffi::OsString;
use std::process::ExitCode;

use serde_json::{Value, json};
use sidelane_process::settings::{Flag, Program};

use super::arguments::{self, Format, OUTPUT, Usage};
use super::{Failure, output};
use options::{Caller, Job};
use rules::{Family, Plan, State, change, wanted};
pub(crate) use tables::TablesError;

const PORTS: Flag = Flag::list(
    "ports",
    "PORT,…",
    "The TCP ports of services, as apps dial them",
);
const TO: Flag =
    Flag::single("to", "PORT", "The sidecar's --outbound port, on loopback").or("15001");
const EXEMPT_UID: Flag = Flag::single(
    "exempt-uid",
    "UID",
    "The sidecar's user, whose connections are left alone; the sidecar's mark always is",
);
const APP_UID: Flag = Flag::list(
    "app-uid",
    "UID,…",
    "The users of the apps, if not whoever calls this; none may be --exempt-uid",
);
const OWN_PORTS: Flag = Flag::list(
    "own-ports",
    "PORT,…",
    "What sidecars and control listen on, and is never redirected",
)
.or("15000,15001,15006,15010,15014,15443");
const IPV4_ONLY: Flag = Flag::switch(
    "ipv4-only",
    "Leaves IPv6 alone, which then passes the mesh by",
);
const REMOVE: Flag = Flag::switch(
    "remove",
    "Removes what an earlier run installed, and nothing else",
);
const DRY_RUN: Flag = Flag::switch("dry-run", "Prints the rules and touches nothing");

/// The command as people see it.
pub(super) const USAGE: Usage = Usage {
    program: Program {
        name: "sidelane redirect",
        version: env!("CARGO_PKG_VERSION"),
        about: "Brings connections to declared ports to the sidecar",
        flags: &[
            PORTS, TO, EXEMPT_UID, APP_UID, OWN_PORTS, IPV4_ONLY, REMOVE, DRY_RUN, OUTPUT,
        ],
    },
    operand: None,
};

/// Runs the command.
pub(super) fn run(given: Vec<OsString>) -> Result<ExitCode, Failure> {
    let Some(arguments) = arguments::read(&USAGE, given)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let format = arguments.format()?;
    let job = options::read(&arguments.settings, &Caller::of_process())?;
    let mut told = Vec::new();
    // Of each family it is told at once what was done: the next one may fail.
    let ended = done(&job, |done| {
        match format {
            Format::Table => output::text(&done.text())?,
            Format::Json => told.push(done.json()),
        }
        Ok(())
    });
    if format == Format::Json && (ended.is_ok() || !told.is_empty()) {
        output::json(&json!({ "families": told }))?;
    }
    ended.map(|()| ExitCode::SUCCESS)
}

/// What was done for a family.
enum Done<'a> {
    /// Its rules were shown.
    Shown(Family, String),
    /// They were installed.
    Installed(Family, &'a Plan),
    /// So many ports are redirected no longer.
    Removed(Family, usize),
}

fn done(job: &Job, mut tell: impl FnMut(Done<'_>) -> Result<(), Failure>) -> Result<(), Failure> {
    match job {
        Job::Print(plan) => {
            for &family in plan.families {
                let text = change(&State::default(), &wanted(plan, family));
                tell(Done::Shown(family, text))?;
            }
        }
        Job::Install(plan) => {
            let targets: Vec<_> = plan
                .families
                .iter()
                .map(|&family| (family, wanted(plan, family)))
                .collect();
            tables::install(&targets)?;
            for &family in plan.families {
                tell(Done::Installed(family, plan))?;
            }
            // What an earlier run installed for IPv6 would bring it to the sidecar still. Where IPv6
            // cannot be looked at, it is off.
            if !plan.families.contains(&Family::V6)
                && let Ok(ports @ 1..) = tables::remove(Family::V6)
            {
                tell(Done::Removed(Family::V6, ports))?;
            }
        }
        Job::Remove(families) => {
            for &family in *families {
                tell(Done::Removed(family, tables::remove(family)?))?;
            }
        }
    }
    Ok(())
}

impl Done<'_> {
    fn text(&self) -> String {
        match self {
            Self::Shown(family, rules) => {
                format!("# {} --noflush\n{rules}", family.program("restore"))
            }
            Self::Installed(family, plan) => installed(plan, *family),
            Self::Removed(family, ports) => removed(*family, *ports) + "\n",
        }
    }

    fn json(&self) -> Value {
        match self {
            Self::Shown(family, rules) => json!({
                "family": family.name(),
                "program": family.program("restore"),
                "arguments": ["--noflush"],
                "rules": rules,
            }),
            Self::Installed(family, plan) => json!({
                "family": family.name(),
                "redirected": plan.ports,
                "to": family.sidecar(plan.to).to_string(),
                "exempt_mark": rules::MARK,
                "exempt_uid": plan.exempt_uid,
            }),
            Self::Removed(family, ports) => json!({ "family": family.name(), "removed": ports }),
        }
    }
}

fn removed(family: Family, ports: usize) -> String {
    let name = family.name();
    match ports {
        0 => format!("{name}: nothing was redirected"),
        1 => format!("{name}: no port is redirected any more; 1 was"),
        ports => format!("{name}: no port is redirected any more; {ports} were"),
    }
}

fn installed(plan: &Plan, family: Family) -> String {
    let ports: Vec<String> = plan.ports.iter().map(u16::to_string).collect();
    let noun = if ports.len() == 1 { "port" } else { "ports" };
    let user = plan.exempt_uid.map(|uid| format!(" or user {uid}"));
    format!(
        "{}: connections to {noun} {} go to {}, where the sidecar must listen; those with mark \
         {:#x}{} and those to loopback do not\n",
        family.name(),
        ports.join(", "),
        family.sidecar(plan.to),
        rules::MARK,
        user.unwrap_or_default(),
    )
}

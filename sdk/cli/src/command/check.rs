//! `sidelane check`: what is wrong with this mesh, or would new rules break it? Control and sidecars are
//! asked, and each finding is a line that says what to do; or two descriptor sets are compared as
//! `buf breaking` compares schemas.

mod agreement;
mod finding;
mod look;
mod mesh;
mod sidecars;

use std::collections::HashMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};
use sidelane_build::RuleSet;
use sidelane_process::settings::{Flag, Origin, Program};
use sidelane_proto::model::Rule;
use sidelane_proto::model::breaking::{Break, Described, DescribedService, breaking};

use super::arguments::{self, Arguments, CONTROL, Format, NETWORK, OUTPUT, Usage, plain};
use super::{Failure, apply, block_on, control, output, sidecar};
use agreement::{Disagreement, disagreements};
use finding::{Finding, Weight};

const AGAINST: Flag = Flag::single(
    "against",
    "OLD.binpb",
    "Compares NEW.binpb with these descriptors instead of asking control",
);
/// The default is the sidecar that stands beside whoever asks, if there is one.
const SIDECARS: Flag = Flag::list(
    "sidecar",
    "URL,…",
    "Admin ports of sidecars that are asked, too; or $SIDELANE_SIDECAR",
)
.or("http://127.0.0.1:15000");

/// The command as people see it.
pub(super) const USAGE: Usage = Usage {
    program: Program {
        name: "sidelane check",
        version: env!("CARGO_PKG_VERSION"),
        about: "Tells what is wrong with a mesh, and what to do; or what new rules would break",
        flags: &[AGAINST, CONTROL, SIDECARS, NETWORK, OUTPUT],
    },
    operand: Some("[NEW.binpb]"),
};

/// What was looked for is there.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {
    /// A file is none.
    #[error(transparent)]
    Source(#[from] apply::SourceError),
    /// Changes that break.
    #[error("{} would break a mesh that runs by {old}:\n{}", changes(lines.len()), lines.join("\n"))]
    Breaks {
        /// The old descriptors.
        old: PathBuf,
        /// A line for each change.
        lines: Vec<String>,
    },
    /// What is wrong with a mesh that runs.
    #[error("{}:\n{}", problems(.0.len()), .0.join("\n"))]
    Broken(Vec<String>),
}

/// Runs the command. The exit code is 1 where something is or would be broken.
pub(super) fn run(given: Vec<OsString>) -> Result<ExitCode, Failure> {
    let Some(arguments) = arguments::read(&USAGE, given)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let settings = &arguments.settings;
    match settings.optional(&AGAINST, str::parse::<PathBuf>)? {
        Some(old) => changed(&arguments, &old),
        None if arguments.operand.is_some() => Err(Failure::NoOperand {
            operand: "what to compare it with",
            example: "sidelane check --against OLD.binpb NEW.binpb",
        }),
        None => diagnosed(&arguments),
    }
}

fn changed(arguments: &Arguments, old: &Path) -> Result<ExitCode, Failure> {
    let Some(new) = &arguments.operand else {
        return Err(Failure::NoOperand {
            operand: "what is new",
            example: "sidelane check --against OLD.binpb NEW.binpb",
        });
    };
    for flag in [&CONTROL, &SIDECARS, &NETWORK] {
        let item = arguments.settings.item(flag);
        if item.is_some_and(|item| *item.origin() == Origin::CommandLine) {
            let why = "with --against two files are compared, and nobody is asked";
            return Err(Failure::OfNoUse {
                flag: flag.name,
                why,
            });
        }
    }
    let format = arguments.format()?;
    let new = PathBuf::from(new);
    let read = |path: &Path| apply::compiled(path).map_err(CheckError::from);
    let (before, after) = (read(old)?, read(&new)?);
    let breaks = breaking(&described(&before), &described(&after));
    if format == Format::Json {
        output::json(&json!({ "breaks": breaks.iter().map(break_json).collect::<Vec<_>>() }))?;
    }
    if breaks.is_empty() {
        if format == Format::Json {
            return Ok(ExitCode::SUCCESS);
        }
        return output::line(&format!(
            "{} breaks nothing of {}: {} services compared",
            new.display(),
            old.display(),
            before.services.len()
        ));
    }
    let lines = breaks.iter().map(|found| break_line(found, old, &new));
    Err(CheckError::Breaks {
        old: old.to_owned(),
        lines: lines.collect(),
    }
    .into())
}

/// A descriptor set, as it is compared.
fn described(set: &RuleSet) -> Described<'_> {
    let rules: HashMap<&str, &Rule> = set
        .rules
        .iter()
        .map(|rule| (&*rule.service, rule))
        .collect();
    let services = set.services.iter().map(|service| DescribedService {
        name: &service.name,
        origin: &service.origin,
        methods: service.methods.iter().map(String::as_str).collect(),
        rule: rules.get(service.name.as_str()).copied(),
    });
    let lanes = set
        .lanes
        .iter()
        .map(|lane| (lane.what, lane.origin.as_str()));
    let classes = set
        .classes
        .iter()
        .map(|class| (class.what, class.origin.as_str()));
    Described {
        services: services.collect(),
        lanes: lanes.collect(),
        classes: classes.collect(),
    }
}

/// What is new stands first: that is where it can be set right. What is gone has only been.
fn break_line(found: &Break, old: &Path, new: &Path) -> String {
    let Break {
        subject,
        what,
        old: before,
        new: after,
    } = found;
    let place = if after.is_empty() {
        new.display().to_string()
    } else {
        after.clone()
    };
    format!(
        "{place}: {subject} {what} (before: {before} in {})",
        old.display()
    )
}

fn break_json(found: &Break) -> Value {
    json!({
        "subject": found.subject,
        "kind": found.what.name(),
        "message": format!("{} {}", found.subject, found.what),
        "old": found.old,
        "new": found.new,
    })
}

fn changes(count: usize) -> String {
    match count {
        1 => "a change".to_owned(),
        count => format!("{count} changes"),
    }
}

/// Asks control and the sidecars, and tells what is wrong.
fn diagnosed(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let (format, settings) = (arguments.format()?, &arguments.settings);
    let addresses = control::addresses(settings)?;
    let network = settings.optional(&NETWORK, plain)?.unwrap_or_default();
    let items = settings.items(&SIDECARS).iter();
    let sidecars: Vec<String> = items.map(|item| sidecar::url(item.text())).collect();
    let meant = settings.item(&SIDECARS);
    let meant = meant.is_some_and(|item| *item.origin() != Origin::Default);
    let mut looked = block_on(look::look(&addresses, &network, &sidecars))?;
    if !meant {
        looked.sidecars.retain(|sidecar| sidecar.answered.is_ok());
    }
    let (listed, mut findings) = match looked.control {
        Ok(listed) => {
            let findings = mesh::findings(&listed);
            (Some(listed), findings)
        }
        // People are told with how to start one, where nobody is left to ask.
        Err(error)
            if format == Format::Table && looked.sidecars.iter().all(|it| it.answered.is_err()) =>
        {
            return Err(error.into());
        }
        Err(error) if error.may_not_know_us() && looked.sidecars.iter().any(is_with_control) => {
            (None, vec![mesh::not_asked(&error.to_string())])
        }
        Err(error) => (None, vec![mesh::unreachable(&error.to_string())]),
    };
    findings.extend(looked.sidecars.iter().flat_map(sidecars::findings));
    let services = listed.as_ref().map(|listed| &listed.services);
    let disagreements = services.map(disagreements).unwrap_or_default();
    findings.extend(disagreements.iter().map(mesh::disagree));
    // The worst first; else in the order in which it was looked at.
    findings.sort_by_key(|finding| finding.weight);
    if format == Format::Json {
        output::json(&json!({
            "findings": findings.iter().map(Finding::json).collect::<Vec<_>>(),
            "disagreements": disagreements.iter().map(Disagreement::json).collect::<Vec<_>>(),
        }))?;
    }
    let lines = |weight| {
        let those = findings.iter().filter(move |it| it.weight == weight);
        those.map(Finding::text).collect::<Vec<_>>()
    };
    let (problems, warnings) = (lines(Weight::Problem), lines(Weight::Warning));
    if format == Format::Table {
        if !warnings.is_empty() {
            let warnings = warnings.iter().map(|line| format!("warning: {line}\n"));
            output::text(&warnings.collect::<String>())?;
        }
        if problems.is_empty() {
            let (nodes, services) = listed.map_or((0, 0), |listed| {
                (listed.nodes.nodes.len(), listed.services.services.len())
            });
            return output::line(&format!(
                "nothing is broken (looked at: nodes {nodes}, services {services}, sidecars {})",
                looked.sidecars.len()
            ));
        }
    }
    if problems.is_empty() {
        return Ok(ExitCode::SUCCESS);
    }
    Err(CheckError::Broken(problems).into())
}

/// Its control is there, as it says.
fn is_with_control(sidecar: &look::Sidecar) -> bool {
    let pages = sidecar.answered.as_ref().ok();
    let said = pages.and_then(|pages| pages.config["control"].as_str());
    said.is_some_and(sidecars::is_connected)
}

fn problems(count: usize) -> String {
    match count {
        1 => "a problem".to_owned(),
        count => format!("{count} problems"),
    }
}

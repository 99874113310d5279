//! `sidelane check`: would new rules break a mesh that runs, or is one broken already? Two descriptor
//! sets are compared as `buf breaking` compares schemas; or control is asked which nodes were
//! compiled with rules of one service that differ, so that they refuse each other.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use serde_json::{Value, json};
use sidelane_build::RuleSet;
use sidelane_process::settings::{Flag, Origin, Program};
use sidelane_proto::model::Rule;
use sidelane_proto::model::breaking::{Break, Described, DescribedService, breaking};
use sidelane_proto::wire::admin::v1::ListServicesResponse;
use sidelane_proto::wire::control::v1::ServiceState;

use super::arguments::{self, Arguments, CONTROL, Format, NETWORK, OUTPUT, Usage, plain};
use super::{Failure, apply, block_on, control, output};

const AGAINST: Flag = Flag::single(
    "against",
    "OLD.binpb",
    "Compares NEW.binpb with these descriptors instead of asking control",
);

/// The command as people see it.
pub(super) const USAGE: Usage = Usage {
    program: Program {
        name: "sidelane check",
        version: env!("CARGO_PKG_VERSION"),
        about: "Tells which rules would break a running mesh, or break it now",
        flags: &[AGAINST, CONTROL, NETWORK, OUTPUT],
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
    /// Nodes that refuse each other.
    #[error(
        "nodes were compiled with rules that differ, and refuse each other's calls with \
         RULES_MISMATCH:\n{}", .0.join("\n")
    )]
    Disagree(Vec<String>),
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
        None => agreed(&arguments),
    }
}

fn changed(arguments: &Arguments, old: &Path) -> Result<ExitCode, Failure> {
    let Some(new) = &arguments.operand else {
        return Err(Failure::NoOperand {
            operand: "what is new",
            example: "sidelane check --against OLD.binpb NEW.binpb",
        });
    };
    for flag in [&CONTROL, &NETWORK] {
        let item = arguments.settings.item(flag);
        if item.is_some_and(|item| *item.origin() == Origin::CommandLine) {
            let why = "with --against two files are compared, and control is not asked";
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

fn agreed(arguments: &Arguments) -> Result<ExitCode, Failure> {
    let format = arguments.format()?;
    let addresses = control::addresses(&arguments.settings)?;
    let network = arguments.settings.optional(&NETWORK, plain)?;
    let listed = block_on(async move {
        let mut control = control::connect(&addresses).await?;
        control.list_services(&network.unwrap_or_default()).await
    })??;
    let disagreements = disagreements(&listed);
    if format == Format::Json {
        let each = disagreements.iter().map(Disagreement::json);
        output::json(&json!({ "disagreements": each.collect::<Vec<_>>() }))?;
    }
    if disagreements.is_empty() {
        if format == Format::Json {
            return Ok(ExitCode::SUCCESS);
        }
        let services = listed.services.len();
        return output::line(&format!(
            "no node disagrees with another about class, lane or secure of what they offer \
             (services looked at: {services})"
        ));
    }
    let lines = disagreements.iter().map(Disagreement::text);
    Err(CheckError::Disagree(lines.collect()).into())
}

/// A service of which nodes were compiled with rules that differ.
struct Disagreement {
    service: String,
    /// At least two.
    sides: Vec<Side>,
}

/// What some nodes go by.
#[derive(Debug, PartialEq, Eq)]
struct Side {
    /// Class, lane and secure.
    rule: String,
    /// Where it is written, each place once.
    origins: Vec<String>,
    nodes: Vec<String>,
}

/// One answer of control has each network's services apart, so each state is one mesh's. A node
/// without a rule of its own agrees with everybody.
fn disagreements(listed: &ListServicesResponse) -> Vec<Disagreement> {
    let states = listed.services.iter();
    let sides = states.map(|state| Disagreement {
        service: state.service.clone(),
        sides: sides(state),
    });
    sides.filter(|found| found.sides.len() > 1).collect()
}

fn sides(state: &ServiceState) -> Vec<Side> {
    let mut sides: Vec<(_, Side)> = Vec::new();
    for endpoint in &state.endpoints {
        let rule = endpoint.rule.clone().map(Rule::try_from);
        // Control has checked it: what cannot be read here is of a lane too many for this process.
        let Some(Ok(rule)) = rule else { continue };
        let agreement = rule.agreement();
        let known = sides.iter().position(|(known, _)| *known == agreement);
        let side = known.unwrap_or_else(|| {
            let secure = if rule.secure { "secure" } else { "not secure" };
            let side = Side {
                rule: format!("{} {} {secure}", rule.class, rule.lane),
                origins: Vec::new(),
                nodes: Vec::new(),
            };
            sides.push((agreement, side));
            sides.len() - 1
        });
        let side = &mut sides[side].1;
        side.nodes.push(endpoint.node_id.clone());
        let origin = rule.origin.into_owned();
        if !side.origins.contains(&origin) {
            side.origins.push(origin);
        }
    }
    sides.into_iter().map(|(_, side)| side).collect()
}

impl Disagreement {
    fn text(&self) -> String {
        let mut text = self.service.clone();
        for side in &self.sides {
            let (rule, origins) = (&side.rule, side.origins.join(", "));
            // Writing into a String cannot fail.
            let _ = write!(text, "\n  {rule} ({origins}): {}", side.nodes.join(" "));
        }
        text
    }

    fn json(&self) -> Value {
        let sides = self
            .sides
            .iter()
            .map(|side| json!({ "rule": side.rule, "origins": side.origins, "nodes": side.nodes }));
        json!({ "service": self.service, "sides": sides.collect::<Vec<_>>() })
    }
}

#[cfg(test)]
mod tests;

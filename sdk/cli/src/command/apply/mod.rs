//! `sidelane apply`: routing rules for a mesh that runs, from a YAML file or from a descriptor set.
//! The file is read here, so that mistakes have a line; control judges the rules, and the sidecars
//! that take them judge them again. What any of them says is told with the place in the file.

mod report;
mod source;
mod yaml;

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use sidelane_process::settings::{Flag, Program, Settings, value};
use sidelane_proto::model::Vocabulary;
use sidelane_proto::wire::admin::v1::{
    ApplyRulesRequest, ApplyRulesResponse, WaitRevisionResponse,
};
use sidelane_proto::wire::control::v1::RuleRefusal;
use sidelane_proto::wire::routing::v1 as routing;

use super::arguments::{self, CONTROL, Format, OUTPUT, Usage, plain};
use super::control::Control;
use super::{Failure, block_on, control, output};
use report::Report;
use source::Source;
pub(crate) use source::{SourceError, compiled};

const FILE: Flag = Flag::single(
    "file",
    "FILE",
    "Rules: a .yaml, or a descriptor set (.binpb) as `buf build -o` writes it; short: -f",
);
const REMOVE: Flag = Flag::list(
    "remove",
    "SERVICE,…",
    "Takes the rules of these services back",
);
const NETWORK: Flag =
    Flag::single("network", "NAME", "The network whose rules they are").or("default");
const DRY_RUN: Flag = Flag::switch("dry-run", "Checks everything and applies nothing");
const WAIT: Flag = Flag::single(
    "wait",
    "DURATION",
    "How long to wait until every connected sidecar has taken them; 0s: not at all",
)
.or("5s");

/// As [`crate::read_yaml`].
#[cfg(feature = "fuzzing")]
pub(crate) fn read_yaml(text: &str) -> Option<Vec<routing::PushedRule>> {
    let written = yaml::read("rules.yaml", text).ok()?;
    written.rules(&written.vocabulary().ok()?).ok()
}

/// The command as people see it.
pub(super) const USAGE: Usage = Usage {
    program: Program {
        name: "sidelane apply",
        version: env!("CARGO_PKG_VERSION"),
        about: "Applies routing rules to the running mesh, or takes them back",
        flags: &[FILE, REMOVE, DRY_RUN, WAIT, NETWORK, CONTROL, OUTPUT],
    },
    operand: None,
};

/// Rules were not applied, or not everywhere.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ApplyError {
    /// The file is no file of rules.
    #[error(transparent)]
    Source(#[from] SourceError),
    /// Control does not take them: a line for each mistake.
    #[error("nothing was applied:\n{}", .0.join("\n"))]
    Refused(Vec<String>),
    /// They are applied, and some sidecar has not taken all of them.
    #[error("the rules are applied, but not everywhere:\n{}", .0.join("\n"))]
    NotEverywhere(Vec<String>),
}

impl From<SourceError> for Failure {
    fn from(error: SourceError) -> Self {
        Self::Apply(error.into())
    }
}

/// Runs the command. The exit code is 1 where nothing was applied, and where a connected sidecar
/// has not taken everything in time.
pub(super) fn run(given: Vec<OsString>) -> Result<ExitCode, Failure> {
    let Some(arguments) = arguments::read(&USAGE, given)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let format = arguments.format()?;
    let settings = &arguments.settings;
    let wait = settings.value(&WAIT, value::duration)?;
    let addresses = control::addresses(settings)?;
    let source = source(settings)?;
    let mut request = ApplyRulesRequest {
        network: settings.value(&NETWORK, plain)?,
        rules: Vec::new(),
        remove: settings.list(&REMOVE, plain)?,
        dry_run: settings.switch(&DRY_RUN)?,
    };
    let applied = block_on(async move {
        let mut control = control::connect(&addresses).await?;
        if let Some(source) = &source {
            request.rules = rules(source, &mut control, &request.network).await?;
        }
        let answer = control.apply_rules(request.clone()).await?;
        let waited = follow(&mut control, &request, &answer, wait).await?;
        Ok::<_, Failure>(Applied {
            source,
            request,
            answer,
            waited,
            wait,
        })
    })??;
    let report = Report::of(&applied);
    match format {
        Format::Json => output::json(&report.json())?,
        Format::Table => output::text(&report.text())?,
    }
    report
        .error()
        .map_or(Ok(ExitCode::SUCCESS), |error| Err(error.into()))
}

/// What was asked, and what became of it.
struct Applied {
    source: Option<Source>,
    request: ApplyRulesRequest,
    answer: ApplyRulesResponse,
    /// `None`: nobody was waited for.
    waited: Option<WaitRevisionResponse>,
    wait: Duration,
}

impl Applied {
    /// Refusals by connected sidecars of what was applied here. Of an older rule that they refuse
    /// nobody has asked.
    fn refused(&self) -> Vec<(&str, &RuleRefusal)> {
        let named = |service: &str| {
            let rules = self.request.rules.iter();
            let mut rules = rules.filter_map(|pushed| pushed.rule.as_ref());
            rules.any(|rule| rule.service == service)
        };
        let refused = self.waited.iter().flat_map(|waited| &waited.refused);
        let ours = refused.filter(|refused| refused.network == self.request.network);
        let each = ours.filter_map(|it| Some((it.node_id.as_str(), it.refusal.as_ref()?)));
        each.filter(|(_, refusal)| named(&refusal.service))
            .collect()
    }
}

/// The rules' file, read. `None`: rules are only taken back.
fn source(settings: &Settings) -> Result<Option<Source>, Failure> {
    let Some(path) = settings.optional(&FILE, str::parse::<PathBuf>)? else {
        if settings.items(&REMOVE).is_empty() {
            return Err(Failure::NoOperand {
                operand: "what to apply",
                example: "sidelane apply --file rules.yaml",
            });
        }
        return Ok(None);
    };
    Ok(Some(Source::read(&path)?))
}

/// The rules of a file. Lanes and classes that it names and does not define are those of the mesh.
async fn rules(
    source: &Source,
    control: &mut Control,
    network: &str,
) -> Result<Vec<routing::PushedRule>, Failure> {
    let mut vocabulary = source.vocabulary()?;
    if source.names_others(&vocabulary) {
        let applied = control.list_rules(network, "").await?;
        let applied = applied.rules.into_iter().filter_map(|it| it.rule?.rule);
        let offered = control.list_services(network).await?;
        let endpoints = offered.services.into_iter().flat_map(|it| it.endpoints);
        for rule in endpoints.filter_map(|it| it.rule).chain(applied) {
            learn(&mut vocabulary, &rule);
        }
    }
    Ok(source.rules(&vocabulary)?)
}

/// What the mesh knows. What the file defines itself, or somebody else did before, stays: if two
/// differ, control will say so.
fn learn(vocabulary: &mut Vocabulary, rule: &routing::Rule) {
    let lane = rule.lane_definition.as_ref();
    let classes = lane.into_iter().flat_map(|lane| &lane.class_definitions);
    for class in classes.chain(&rule.class_definition) {
        let _ = vocabulary.define_class(class, &rule.origin);
    }
    if let Some(lane) = lane {
        let _ = vocabulary.define_lane(lane, &rule.origin);
    }
}

/// Waits until every connected sidecar has taken what was applied.
async fn follow(
    control: &mut Control,
    request: &ApplyRulesRequest,
    answer: &ApplyRulesResponse,
    wait: Duration,
) -> Result<Option<WaitRevisionResponse>, Failure> {
    if request.dry_run || wait.is_zero() || !answer.refused.is_empty() {
        return Ok(None);
    }
    let revision = answer.version.as_ref().map_or(0, |version| version.counter);
    Ok(Some(control.wait_revision(revision, wait).await?))
}

//! `sidelane version`: which version of the program this is, and which ones run.

use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use serde_json::{Value, json};
use sidelane_process::settings::{Flag, Origin, Program, Settings};

use super::arguments::{self, CONTROL, Format, OUTPUT, Usage, plain};
use super::{Failure, block_on, control, output, sidecar};

const SIDECARS: Flag = Flag::list(
    "sidecar",
    "URL,…",
    "Admin ports of sidecars that are asked, too; or $SIDELANE_SIDECAR",
);

/// How long a sidecar may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);
/// What one says that is older than this question.
const UNKNOWN: &str = "unknown";

/// The command as people see it.
pub(super) const USAGE: Usage = Usage {
    program: Program {
        name: "sidelane version",
        version: env!("CARGO_PKG_VERSION"),
        about: "Prints the version, and those of control and sidecars that are named",
        flags: &[CONTROL, SIDECARS, OUTPUT],
    },
    operand: None,
};

/// What runs.
#[derive(Debug, Default, PartialEq, Eq)]
struct Running {
    control: Option<String>,
    /// Of each sidecar where it is, its node, and its version.
    sidecars: Vec<(String, String, String)>,
}

/// Runs the command. Nobody is asked who was not named, and who does not answer keeps nothing back: a
/// version is known without a mesh.
pub(super) fn run(given: Vec<OsString>) -> Result<ExitCode, Failure> {
    let Some(arguments) = arguments::read(&USAGE, given)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let format = arguments.format()?;
    let mut running = Running::default();
    let asked = block_on(ask(&arguments.settings, &mut running))?;
    match format {
        Format::Json => output::json(&json(&running))?,
        Format::Table => output::text(&text(&running))?,
    }
    asked.map(|()| ExitCode::SUCCESS)
}

/// Asks them in turn, up to the first that does not answer.
async fn ask(settings: &Settings, running: &mut Running) -> Result<(), Failure> {
    let named = settings.items(&CONTROL).iter();
    if named.clone().any(|item| *item.origin() != Origin::Default) {
        let mut control = control::connect(&control::addresses(settings)?).await?;
        let build = control.list_nodes("").await?.build;
        running.control = Some(or_unknown(&build));
    }
    for given in settings.list(&SIDECARS, plain)? {
        let base = sidecar::url(&given);
        let page = sidecar::get(&base, "/config", ANSWER_LIMIT).await?;
        let config: Value = serde_json::from_slice(&page.body).unwrap_or_default();
        let said = |key: &str| or_unknown(config[key].as_str().unwrap_or_default());
        running.sidecars.push((base, said("node"), said("build")));
    }
    Ok(())
}

fn or_unknown(said: &str) -> String {
    match said {
        "" => UNKNOWN.to_owned(),
        said => said.to_owned(),
    }
}

fn text(running: &Running) -> String {
    let mut text = format!("{}\n", super::VERSION);
    if let Some(build) = &running.control {
        text.push_str(&format!("control {build}\n"));
    }
    for (_, node, build) in &running.sidecars {
        text.push_str(&format!("sidecar {node} {build}\n"));
    }
    text
}

fn json(running: &Running) -> Value {
    let sidecars = running.sidecars.iter().map(
        |(sidecar, node, build)| json!({ "sidecar": sidecar, "node": node, "version": build }),
    );
    json!({
        "version": env!("CARGO_PKG_VERSION"),
        "control": running.control,
        "sidecars": sidecars.collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_that_was_asked_has_its_line() {
        let nobody = Running::default();
        assert_eq!(text(&nobody), format!("{}\n", super::super::VERSION));
        assert_eq!(json(&nobody)["control"], Value::Null);
        let some = Running {
            control: Some("0.2.0".to_owned()),
            sidecars: vec![("http://a".to_owned(), "orders-1".to_owned(), or_unknown(""))],
        };
        assert!(text(&some).ends_with("\ncontrol 0.2.0\nsidecar orders-1 unknown\n"));
        assert_eq!(json(&some)["sidecars"][0]["version"], UNKNOWN);
    }
}

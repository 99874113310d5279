//! `sidelane demo`: a whole mesh on loopback, made of real processes that run this very program
//! under hidden names. It makes calls of every kind, breaks things while they run, and tells what
//! failed. It is a user of the mesh like any other: it knows nothing that the command line, the
//! ports and the answers do not tell.

mod alone;
mod app;
mod checkout;
mod cluster;
mod facts;
mod folder;
mod load;
mod look;
mod mesh;
mod message;
mod node;
mod parent;
mod ports;
mod process;
mod report;
mod rules;
mod script;
mod spans;
mod stage;
mod storefront;
mod traces;
mod verdict;

use std::cell::Cell;
use std::ffi::OsString;
use std::process::ExitCode;
use std::time::Duration;

use sidelane_process::settings::{Flag, Program};
use sidelane_process::signals::{Signal, Signals, Stop};
use tokio::time::timeout;

use sidelane_sidecar::telemetry::trace::collector_url;

use crate::command::arguments::{self, Arguments, Usage, plain};
use crate::command::{Failure, block_on, output};
use crate::programs;
use facts::Facts;
use script::Script;
use stage::Stage;

/// An app of the shop, or the storefront.
pub(crate) const HIDDEN_APP: &str = "demo-app";
/// A sidecar that is compiled with the shop's rules and ends with its parent.
pub(crate) const HIDDEN_SIDECAR: &str = "demo-sidecar";
/// A control plane that ends with its parent.
pub(crate) const HIDDEN_CONTROL: &str = "demo-control";

/// The longest time that a demo may take, to the end of its last process. Less than the minute
/// that is promised, to leave time for the end.
const LIMIT: Duration = Duration::from_secs(55);

const KEEP: Flag = Flag::switch("keep", "Leave it running, and say how to look around");
const JSON: Flag = Flag::switch("json", "Write the result as JSON; progress goes to stderr");
const OTLP: Flag = Flag::single(
    "otlp",
    "URL",
    "A collector for the sidecars' spans; if absent, the demo is it and shows one call",
);
const NODE: Flag = Flag::single("node", "NODE", "Its name");
const LISTEN: Flag = Flag::single("listen", "ADDRESS", "Where it listens");
const DIRECT: Flag = Flag::single("direct", "URL", "An app, for the calls past the mesh");

/// What it does, in a line.
pub(crate) const ABOUT: &str =
    "Runs a whole mesh on loopback, breaks it under load, and tells what failed";

/// The command as people see it.
pub(crate) const USAGE: Usage = Usage {
    program: Program {
        name: "sidelane demo",
        version: env!("CARGO_PKG_VERSION"),
        about: "Runs a whole mesh on loopback, breaks it under load, and tells what failed.\n\
                `sidelane demo app` runs one app of its shop alone, beside a sidecar of yours.",
        flags: &[KEEP, JSON, OTLP],
    },
    operand: None,
};

const APP_USAGE: Usage = Usage {
    program: Program {
        name: "sidelane demo-app",
        version: env!("CARGO_PKG_VERSION"),
        about: "A part of the demo.",
        flags: &[NODE, LISTEN, DIRECT],
    },
    operand: None,
};

/// The demo could not be run to its end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DemoError {
    /// Something did not go as it should.
    #[error(transparent)]
    Cluster(#[from] cluster::ClusterError),
    /// It took too long.
    #[error("the demo was not over after {} s; it was at: {at}", LIMIT.as_secs())]
    TooLong {
        /// The last line of its progress.
        at: String,
    },
    /// The app of a child.
    #[error(transparent)]
    App(#[from] app::AppError),
    /// The load of a child.
    #[error(transparent)]
    Load(#[from] load::LoadError),
    /// The calls of an app that runs alone.
    #[error(transparent)]
    Checkout(#[from] checkout::CheckoutError),
    /// The spans of an app that runs alone.
    #[error(transparent)]
    Spans(#[from] spans::SpansError),
    /// No signals.
    #[error("cannot wait for Ctrl-C: {0}")]
    Signals(std::io::Error),
}

/// Runs the demo, or one app of it.
pub(crate) fn run(mut given: Vec<OsString>) -> Result<ExitCode, Failure> {
    if given.first().is_some_and(|first| first == "app") {
        given.remove(0);
        return alone::run(given);
    }
    let Some(arguments) = arguments::read(&USAGE, given)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let keep = switch(&arguments, &KEEP)?;
    let json = switch(&arguments, &JSON)?;
    let otlp = arguments.settings.optional(&OTLP, collector_url)?;
    block_on(async move { demo(keep, json, otlp).await })?
}

async fn demo(keep: bool, json: bool, otlp: Option<String>) -> Result<ExitCode, Failure> {
    let mut signals = Signals::install().map_err(DemoError::Signals)?;
    let stage = Stage::new(json);
    let verdict = Cell::new(None);
    // Whatever ends this future drops the cluster in it, and with it every process.
    let whole = async {
        let mut script = Script::begin(&stage, otlp).await?;
        let played = timeout(LIMIT, script.play()).await;
        let facts = played.unwrap_or_else(|_| {
            let at = stage.last();
            Err(DemoError::TooLong { at })
        });
        let facts = match facts {
            Ok(facts) => facts,
            Err(error) => {
                stage.say(&script.keep_logs());
                return Err(Failure::from(error));
            }
        };
        tell(&facts, json)?;
        if !facts.held() {
            stage.say(&script.keep_logs());
        }
        verdict.set(Some(exit_code(&facts)));
        if keep {
            script.look_around().await?;
            std::future::pending::<()>().await;
        }
        Ok(exit_code(&facts))
    };
    tokio::select! {
        ended = whole => ended,
        stop = signals.next() => {
            let (Stop::Drain(signal) | Stop::Force(signal)) = stop;
            stage.say(&format!("{signal}: everything is ended"));
            let interrupted = ExitCode::from(match signal {
                Signal::Interrupt => 130,
                Signal::Terminate => 143,
            });
            Ok(verdict.get().unwrap_or(interrupted))
        }
    }
}

fn tell(facts: &Facts, json: bool) -> Result<(), Failure> {
    if json {
        return output::json(&report::json(facts));
    }
    output::text(&report::end(facts))
}

fn exit_code(facts: &Facts) -> ExitCode {
    if facts.held() {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    }
}

/// Runs an app of the shop, or the storefront where `--direct` is given.
pub(crate) fn run_app(given: Vec<OsString>) -> Result<ExitCode, Failure> {
    let Some(arguments) = arguments::read(&APP_USAGE, given)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let settings = &arguments.settings;
    let node = settings.value(&NODE, plain)?;
    if let Some(direct) = settings.optional(&DIRECT, plain)? {
        let orders = parent::lines();
        return block_on(async move {
            load::run(&node, &direct, orders)
                .await
                .map_err(DemoError::from)?;
            Ok(ExitCode::SUCCESS)
        })?;
    }
    let listen = settings.value(&LISTEN, sidelane_process::address::listen_tcp)?;
    parent::watch();
    block_on(async move {
        app::serve(&node, listen).await.map_err(DemoError::from)?;
        Ok(ExitCode::SUCCESS)
    })?
}

/// Runs a sidecar with the shop's rules.
pub(crate) fn run_sidecar(given: Vec<OsString>) -> ExitCode {
    parent::watch();
    programs::sidecar(given, rules::ROUTES)
}

/// Runs a control plane.
pub(crate) fn run_control(given: Vec<OsString>) -> ExitCode {
    parent::watch();
    programs::control(given)
}

fn switch(arguments: &Arguments, flag: &Flag) -> Result<bool, Failure> {
    Ok(arguments.settings.switch(flag)?)
}

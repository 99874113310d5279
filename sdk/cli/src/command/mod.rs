//! The commands and how one is found. Each has a file of its own; here is only what all of them
//! share: the list, the errors and the exit codes.

mod apply;
pub(crate) mod arguments;
mod check;
pub(crate) mod control;
mod explain;
mod figures;
mod lanes;
mod nodes;
pub(crate) mod output;
mod pause;
mod redirect;
mod revoke;
mod root;
mod routes;
mod rules;
mod services;
mod sidecar;
mod tap;
mod token;
mod top;
mod version;
mod wait;

#[cfg(feature = "fuzzing")]
pub(crate) use apply::read_yaml;

use std::ffi::{OsStr, OsString};
use std::fmt::Write as _;
use std::future::Future;
use std::process::ExitCode;

use sidelane::routing::RouteTable;
use sidelane_process::runtime::RuntimeError;
use sidelane_process::settings::{InvalidSetting, SettingsError, nearest};

use crate::demo::{self, DemoError};
use crate::programs;
use apply::ApplyError;
use check::CheckError;
use control::ControlError;
use explain::ExplainError;
use redirect::TablesError;
use rules::RulesError;
use sidecar::SidecarError;
use tap::TapError;
use wait::WaitError;

/// Exit code: the command line is wrong.
const WRONG_USAGE: u8 = 2;
/// What `sidelane version` prints.
const VERSION: &str = concat!("sidelane ", env!("CARGO_PKG_VERSION"));

/// Every command that people see, with what it does.
const COMMANDS: [(&str, &str); 21] = [
    ("control", "Runs the control plane"),
    ("sidecar", "Runs a sidecar beside a service"),
    ("nodes", nodes::USAGE.program.about),
    ("services", services::USAGE.program.about),
    ("routes", routes::USAGE.program.about),
    ("lanes", lanes::USAGE.program.about),
    ("top", top::USAGE.program.about),
    ("tap", tap::USAGE.program.about),
    ("apply", apply::USAGE.program.about),
    ("rules", rules::USAGE.program.about),
    ("check", check::USAGE.program.about),
    ("explain", explain::USAGE.program.about),
    ("wait", wait::USAGE.program.about),
    ("token", token::USAGE.program.about),
    ("revoke", revoke::USAGE.program.about),
    ("root", root::USAGE.program.about),
    ("redirect", redirect::USAGE.program.about),
    ("pause", pause::USAGE.program.about),
    ("demo", demo::ABOUT),
    ("version", version::USAGE.program.about),
    ("help", "Prints this text, or that of one command"),
];

/// A command ended without having done what it was for.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Failure {
    /// No such command.
    #[error(
        "there is no command {given:?}; the nearest known one is `{nearest}` (`sidelane help` \
         lists all)"
    )]
    UnknownCommand {
        /// As it was written.
        given: String,
        /// The most similar one.
        nearest: String,
    },
    /// The command's arguments are wrong.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// What the command is about was not said.
    #[error("{operand} is missing: {example}")]
    NoOperand {
        /// What is missing.
        operand: &'static str,
        /// How it looks when it is right.
        example: &'static str,
    },
    /// A flag that changes nothing, beside the others or without them.
    #[error("--{flag} is of no use here: {why}")]
    OfNoUse {
        /// The flag.
        flag: &'static str,
        /// Why not.
        why: &'static str,
    },
    /// The control plane.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// The sidecar's admin port.
    #[error(transparent)]
    Sidecar(#[from] SidecarError),
    /// Rules were not applied, or not everywhere.
    #[error(transparent)]
    Apply(#[from] ApplyError),
    /// No such rule.
    #[error(transparent)]
    Rules(#[from] RulesError),
    /// Something is broken, or would be.
    #[error(transparent)]
    Check(#[from] CheckError),
    /// No explanation.
    #[error(transparent)]
    Explain(#[from] ExplainError),
    /// Calls are not told.
    #[error(transparent)]
    Tap(#[from] TapError),
    /// A wait in vain.
    #[error(transparent)]
    Wait(#[from] WaitError),
    /// The kernel's rules are not as asked.
    #[error(transparent)]
    Redirect(#[from] TablesError),
    /// The demo.
    #[error(transparent)]
    Demo(#[from] DemoError),
    /// A file that is for this user alone could not be written.
    #[error("a token was made, and is of no use: {0}; put that right, and ask for another")]
    Runtime(#[from] RuntimeError),
    /// The operating system refuses what every command needs.
    #[error("cannot {what}: {source}")]
    System {
        /// What was wanted.
        what: &'static str,
        /// What it said.
        source: std::io::Error,
    },
}

impl From<InvalidSetting> for Failure {
    fn from(invalid: InvalidSetting) -> Self {
        Self::Settings(invalid.into())
    }
}

impl Failure {
    fn exit_code(&self) -> ExitCode {
        match self {
            Self::UnknownCommand { .. }
            | Self::Settings(_)
            | Self::NoOperand { .. }
            | Self::OfNoUse { .. } => ExitCode::from(WRONG_USAGE),
            Self::Control(_)
            | Self::Sidecar(_)
            | Self::Apply(_)
            | Self::Rules(_)
            | Self::Check(_)
            | Self::Explain(_)
            | Self::Tap(_)
            | Self::Wait(_)
            | Self::Redirect(_)
            | Self::Demo(_)
            | Self::Runtime(_)
            | Self::System { .. } => ExitCode::FAILURE,
        }
    }
}

/// Runs a command line.
pub(crate) fn run(mut args: Vec<OsString>, routes: RouteTable) -> ExitCode {
    if args.is_empty() {
        // Somebody who types only the name wants to know what there is.
        args.push("help".into());
    }
    let command = args.remove(0);
    let ended = match command.to_str().unwrap_or_default() {
        "control" => return programs::control(args),
        "sidecar" => return programs::sidecar(args, routes),
        demo::HIDDEN_CONTROL => return demo::run_control(args),
        demo::HIDDEN_SIDECAR => return demo::run_sidecar(args),
        demo::HIDDEN_APP => demo::run_app(args),
        "nodes" => nodes::run(args),
        "services" => services::run(args),
        "routes" => routes::run(args),
        "lanes" => lanes::run(args),
        "top" => top::run(args),
        "tap" => tap::run(args),
        "apply" => apply::run(args),
        "rules" => rules::run(args),
        "check" => check::run(args),
        "explain" => explain::run(args),
        "wait" => wait::run(args),
        "token" => token::run(args),
        "revoke" => revoke::run(args),
        "root" => root::run(args),
        "redirect" => redirect::run(args),
        "pause" => pause::run(args),
        "demo" => demo::run(args),
        "version" => version::run(args),
        "--version" | "-V" => output::line(VERSION),
        "help" | "--help" | "-h" => return help(args, routes),
        _ => Err(unknown(&command)),
    };
    ended.unwrap_or_else(|failure| {
        let name = match &failure {
            Failure::UnknownCommand { .. } => "sidelane".to_owned(),
            _ => format!("sidelane {}", command.to_string_lossy()),
        };
        output::error(&format!("{name}: {failure}"));
        failure.exit_code()
    })
}

/// `sidelane help`, or `sidelane help COMMAND`, which is what `sidelane COMMAND --help` is.
fn help(mut args: Vec<OsString>, routes: RouteTable) -> ExitCode {
    if args.is_empty() || args[0] == "help" {
        let printed = output::text(&overview()).map(|()| ExitCode::SUCCESS);
        return printed.unwrap_or_else(|failure| failure.exit_code());
    }
    args.truncate(1);
    args.push("--help".into());
    run(args, routes)
}

fn overview() -> String {
    let mut text = format!(
        "{VERSION}\nA gRPC service mesh: a sidecar beside each service, a small control plane, and \
         rules that are\nchecked when the program is compiled.\n\nUsage: sidelane COMMAND [flags]\n\n"
    );
    for (name, about) in COMMANDS {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "  {name:10}{about}");
    }
    text.push_str(
        "\n`sidelane COMMAND --help` lists a command's flags. Begin with `sidelane demo`.\n",
    );
    text
}

fn unknown(given: &OsStr) -> Failure {
    let given = given.to_string_lossy().into_owned();
    let names = COMMANDS.iter().map(|(name, _)| *name);
    let nearest = nearest(&given, names).unwrap_or_default().to_owned();
    Failure::UnknownCommand { given, nearest }
}

/// Runs a command's work on a runtime of one thread: it waits for others, mostly.
pub(crate) fn block_on<T>(work: impl Future<Output = T>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let runtime = runtime.map_err(|source| Failure::System {
        what: "start a runtime",
        source,
    })?;
    Ok(runtime.block_on(work))
}

//! Sidelane's control plane: it knows which nodes exist, which services they offer and how healthy
//! they are, and tells the sidecars that need to know. Small, boring, and allowed to be away:
//! calls go on without it.
//!
//! Sources emit records into the registry, its single writer merges them into versioned snapshots,
//! push tells each session what it asked for, the store keeps what must survive. Rules that people
//! apply are judged, kept and published in the same versions. `app` wires them.
//!
//! A project that demands something of every rule writes its own control plane, which is this one
//! with one line more:
//!
//! ```no_run
//! use sidelane_proto::model::{FieldError, Problem, Rule, Validation};
//!
//! /// Everything in our mesh has a time limit.
//! struct TimeLimits;
//!
//! impl Validation for TimeLimits {
//!     fn name(&self) -> &'static str {
//!         "time-limits"
//!     }
//!
//!     fn check(&self, rule: &Rule) -> Result<(), FieldError> {
//!         if rule.timeout.is_some() {
//!             return Ok(());
//!         }
//!         let text = "every service of ours says its `timeout`".to_owned();
//!         Err(FieldError::new("timeout", Problem::Refused(text)))
//!     }
//! }
//!
//! fn main() -> std::process::ExitCode {
//!     sidelane_control::Builder::new().validation(TimeLimits).main()
//! }
//! ```

pub mod admin;
pub mod app;
pub mod ca;
pub mod certificates;
pub mod claim;
pub mod config;
pub mod drain;
pub mod peer;
pub mod push;
pub mod registry;
pub mod rules;
pub mod serve;
pub mod source;
pub mod store;

use std::ffi::OsString;
use std::process::ExitCode;

use sidelane_process::settings::{self, Environment, Start};
use sidelane_process::signals::{Signals, Stop};

use app::{App, Parameters, StartError};
use config::{Config, Loaded};
use rules::Validations;
use sidelane_proto::model::Validation;

/// The exit code for settings that cannot be followed, as `sysexits` and most programs have it.
const USAGE: u8 = 2;

/// Open files at most: a connection each, and some for the rest.
const FILES: u64 = serve::CONNECTION_LIMIT as u64 + 64;

/// The control plane's `main`: reads its settings from the arguments (without the program's name),
/// the environment and files, serves until a signal ends it, and says on stderr what went wrong.
/// Exit codes: 0 for an orderly end, 1 where it could not start or was cut, 2 for wrong settings.
pub fn run(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    Builder::new().run(arguments)
}

/// A control plane of one's own.
#[derive(Debug, Default)]
pub struct Builder {
    validations: Validations,
}

impl Builder {
    /// The stock one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Demands this of every rule that is applied. Sidecars and builds that demand the same say so
    /// in their own builders.
    #[must_use]
    pub fn validation(mut self, validation: impl Validation + 'static) -> Self {
        self.validations.add(validation);
        self
    }

    /// A `main` over the process's own arguments.
    #[must_use]
    pub fn main(self) -> ExitCode {
        self.run(std::env::args_os().skip(1))
    }

    /// As [`run`].
    #[must_use]
    pub fn run(self, arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
        let environment = Environment::of_process();
        match Config::load(arguments, &environment, settings::read_file) {
            Ok(Start::Print(text)) => {
                println!("{text}");
                ExitCode::SUCCESS
            }
            Ok(Start::Run(loaded)) => run_with(&loaded, self.validations),
            Err(error) => {
                eprintln!("sidelane-control: {error}");
                ExitCode::from(USAGE)
            }
        }
    }
}

fn run_with(loaded: &Loaded, validations: Validations) -> ExitCode {
    if let Err(error) = sidelane_process::logs::init(&loaded.config.log) {
        eprintln!("sidelane-control: {error}");
        return ExitCode::from(USAGE);
    }
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    sidelane_process::files::allow(FILES, "sidecars may connect");
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build();
    let served = match runtime {
        Ok(runtime) => runtime.block_on(serve(&loaded.config, validations)),
        Err(error) => Err(StartError::System(error)),
    };
    match served {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("sidelane-control: {error}");
            ExitCode::FAILURE
        }
    }
}

/// True: it ended in order.
async fn serve(config: &Config, validations: Validations) -> Result<bool, StartError> {
    // First, so that a signal that comes while it starts is not lost.
    let mut signals = Signals::install()?;
    let parameters = Parameters {
        validations,
        ..Parameters::from(config)
    };
    let app = App::start(parameters).await?;
    let (listen, admin) = (app.listen(), app.admin());
    tracing::info!(%listen, %admin, data = %config.data.display(), "ready");
    let (Stop::Drain(signal) | Stop::Force(signal)) = signals.next().await;
    tracing::info!(%signal, grace = ?config.grace, "stopping");
    tokio::select! {
        ended = app.stop(config.grace) => {
            tracing::info!(cut = ended.cut, stored = ended.stored, "stopped");
            Ok(ended.stored)
        }
        _ = signals.next() => {
            tracing::warn!("stopped at once, as a second signal asked");
            Ok(false)
        }
    }
}

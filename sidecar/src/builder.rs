//! A sidecar of a project's own: its rules, and what it brings beside them. The stock sidecar is
//! this builder with nothing but rules.

use std::ffi::OsString;
use std::process::ExitCode;

use sidelane::routing::RouteTable;
use sidelane_process::settings::{self, Environment, Start};
use sidelane_proto::model::Validation;

use crate::accept::{CONNECTIONS_LIMIT, LINKS_LIMIT};
use crate::app::{self, Built};
use crate::balance::{OwnStrategy, Strategies};
use crate::config::Config;
use crate::embedded::Embedded;

/// Open files that the bounds of one listener of each kind allow for: connections of apps, each with
/// one onward, and links of peers.
const FILES: u64 = 2 * CONNECTIONS_LIMIT as u64 + LINKS_LIMIT as u64;

/// Puts a sidecar together.
///
/// ```no_run
/// use sidelane::routing::{RouteTable, Rule};
/// use sidelane_proto::model::error::{FieldError, Problem};
/// use sidelane_proto::model::Validation;
///
/// /// Nothing that is applied to our mesh goes without a time limit.
/// struct TimeLimits;
///
/// impl Validation for TimeLimits {
///     fn name(&self) -> &'static str {
///         "time-limits"
///     }
///
///     fn check(&self, rule: &Rule) -> Result<(), FieldError> {
///         if rule.timeout.is_some() {
///             return Ok(());
///         }
///         let text = "every service of ours says its `timeout`".to_owned();
///         Err(FieldError::new("timeout", Problem::Refused(text)))
///     }
/// }
///
/// fn main() -> std::process::ExitCode {
///     sidelane_sidecar::Builder::new(RouteTable::PREDEFINED)
///         .validation(TimeLimits)
///         .main()
/// }
/// ```
#[must_use = "nothing runs before `main` or `run`"]
pub struct Builder {
    built: Built,
}

impl Builder {
    /// A sidecar with these rules, and with the lanes and classes of their table.
    pub fn new(routes: RouteTable) -> Self {
        let built = Built {
            routes,
            validations: Vec::new(),
            strategies: Strategies::default(),
        };
        Self { built }
    }

    /// One more way to pick an endpoint, which rules name by `load_balancing_custom`. A compiled
    /// rule that names one which is not here keeps the sidecar from starting; a pushed one is
    /// refused.
    ///
    /// # Panics
    /// The name is none that a rule could say, or is taken: a mistake in the program.
    pub fn strategy(mut self, name: &str, strategy: impl OwnStrategy + 'static) -> Self {
        if let Err(error) = self.built.strategies.add(name, strategy) {
            panic!("{error}");
        }
        self
    }

    /// One more demand on the rules that control pushes. A rule is judged as it would hold here:
    /// where it only tunes a compiled one, together with that. What does not pass is refused by
    /// itself, and the last good rule stays.
    pub fn validation(mut self, validation: impl Validation + 'static) -> Self {
        self.built.validations.push(Box::new(validation));
        self
    }

    /// The sidecar linked into this program, see [`Mesh::embedded`](crate::Mesh::embedded).
    pub fn embedded(self) -> Embedded {
        Embedded::new(self.built)
    }

    /// Runs the sidecar with this process's arguments.
    #[must_use]
    pub fn main(self) -> ExitCode {
        self.run(std::env::args_os().skip(1).collect())
    }

    /// Runs the sidecar with these arguments, the program's name left out. Returns when it was
    /// told to end; 1 if it could not start, 2 if an argument was wrong.
    #[must_use]
    pub fn run(self, arguments: Vec<OsString>) -> ExitCode {
        // Before the settings: they may name a class.
        self.built.routes.remember();
        let environment = Environment::of_process();
        let loaded = match Config::load(arguments, &environment, settings::read_file) {
            Ok(Start::Run(loaded)) => loaded,
            Ok(Start::Print(text)) => {
                println!("{text}");
                return ExitCode::SUCCESS;
            }
            Err(error) => {
                eprintln!("sidelane-sidecar: {error}");
                return ExitCode::from(2);
            }
        };
        if let Err(error) = sidelane_process::logs::init(&loaded.config.log) {
            eprintln!("sidelane-sidecar: {error}");
            return ExitCode::from(2);
        }
        // As many as the bounds allow for: 1,024 is less than the apps' connections alone.
        let config = &loaded.config;
        let users = config
            .external
            .map_or(0, |_| config.users.limits.connections);
        let files = FILES + users as u64;
        sidelane_process::files::allow(files, "connections may be");
        // One thread: it beats two on small machines, for every proxy that was measured, because no
        // call changes its core. What blocks (the disk) has threads of its own.
        let runtime = match tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
        {
            Ok(runtime) => runtime,
            Err(error) => {
                eprintln!("sidelane-sidecar: the runtime does not start: {error}");
                return ExitCode::FAILURE;
            }
        };
        match runtime.block_on(app::run(loaded, self.built)) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("sidelane-sidecar: {error}");
                ExitCode::FAILURE
            }
        }
    }
}

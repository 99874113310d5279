//! What Sidelane's programs need of their process: settings, logs, listeners, an admin HTTP
//! server, the formats of metrics, signals, and a small HTTP client for the command line. The sidecar and the control
//! plane may not import each other, so what both need lives here. Nothing here knows of calls,
//! nodes or services.
//!
//! A program describes its flags in one table and reads them back typed; every error says which
//! flag, which value and where the value came from:
//!
//! ```
//! use std::path::Path;
//! use std::time::Duration;
//!
//! use sidelane_process::settings::{self, Environment, Flag, Program, Start, value};
//!
//! const GRACE: Flag = Flag::single("grace", "DURATION", "How long a drain waits").or("30s");
//! const PROGRAM: Program = Program {
//!     name: "example",
//!     version: "1.0.0",
//!     about: "An example.",
//!     flags: &[GRACE, settings::CONFIG, settings::LOG],
//! };
//!
//! # fn main() -> Result<(), settings::SettingsError> {
//! let arguments = ["--config", "mesh.yaml"];
//! let environment = Environment::new([("SIDELANE_LOG", "debug")]);
//! let read_file = |_: &Path| Ok("grace: 5s\n".to_owned());
//!
//! let Start::Run(loaded) = settings::load(&PROGRAM, arguments, &environment, read_file)? else {
//!     return Ok(()); // --help or --version: the text is in Start::Print
//! };
//! let grace: Duration = loaded.settings.value(&GRACE, value::duration)?;
//! assert_eq!(grace, Duration::from_secs(5));
//! assert_eq!(loaded.settings.describe()["grace"]["origin"], "mesh.yaml:1");
//! assert_eq!(loaded.settings.describe()["log"]["origin"], "SIDELANE_LOG");
//! # Ok(())
//! # }
//! ```

pub mod address;
pub mod admin;
pub mod clock;
pub mod fetch;
pub mod files;
pub mod listen;
pub mod logs;
pub mod metrics;
pub mod runtime;
pub mod seldom;
pub mod settings;
pub mod signals;
pub mod strangers;

//! Lays the layers over each other: defaults, file, variables, command line, in this order.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use super::arguments::{self, CommandLine};
use super::environment::Environment;
use super::error::{SettingsError, UsageError};
use super::nearest::slip;
use super::resolved::{Item, Origin, Settings};
use super::table::{Flag, Kind, Program, VARIABLE_PREFIX};
use super::{CONFIG, file, help};

/// Variables that begin like ours and are read elsewhere: by the SDK and by the command line.
const READ_ELSEWHERE: [&str; 2] = ["SIDELANE_TARGET", "SIDELANE_TOKEN"];

/// What a program does after its settings were read.
#[derive(Debug)]
pub enum Start<T> {
    /// Run with these settings.
    Run(T),
    /// Print this text to stdout and exit with success: `--help` or `--version`.
    Print(String),
}

impl<T> Start<T> {
    /// Goes on with what it would run with; a text to print stays one.
    ///
    /// # Errors
    /// What `read` says.
    pub fn and_then<U, E>(self, read: impl FnOnce(T) -> Result<U, E>) -> Result<Start<U>, E> {
        match self {
            Self::Run(value) => read(value).map(Start::Run),
            Self::Print(text) => Ok(Start::Print(text)),
        }
    }
}

/// Settings, what a program made of them, and what should be logged about them once there is a log.
#[derive(Debug)]
pub struct Loaded<C = ()> {
    /// The typed configuration; nothing yet when it comes from [`load`].
    pub config: C,
    /// Value and origin of every setting; [`Settings::describe`] is for `/config`.
    pub settings: Settings,
    /// One sentence each.
    pub warnings: Vec<String>,
}

/// Reads a program's settings. `arguments` come without the program's name; `read_file` is
/// [`super::read_file`] outside tests.
///
/// # Errors
/// The first thing that is wrong, by layer: command line, file, variables. Values are not looked
/// into yet; [`Settings::value`] and its siblings do that.
pub fn load(
    program: &Program,
    arguments: impl IntoIterator<Item = impl Into<OsString>>,
    environment: &Environment,
    read_file: impl Fn(&Path) -> io::Result<String>,
) -> Result<Start<Loaded>, SettingsError> {
    let given = match arguments::parse(program, arguments)? {
        CommandLine::Help => return Ok(Start::Print(help::help(program))),
        CommandLine::Version => return Ok(Start::Print(help::version(program))),
        CommandLine::Run(given) => given,
    };
    let variables = variables(program, environment)?;
    let mut settings = Settings::new(program);
    for (flag, items) in variables.into_iter().chain(given) {
        settings.lay(flag, items);
    }
    if let Some(named) = settings.item(&CONFIG).cloned() {
        let path = PathBuf::from(named.text());
        let text = file::open(&path, named.origin(), read_file)?;
        for (flag, items) in file::parse(program, &path, &text)? {
            settings.lay_below(flag, items);
        }
    }
    Ok(Start::Run(Loaded {
        config: (),
        settings,
        warnings: warnings(program, environment),
    }))
}

/// The non-empty pieces of a comma-separated list, trimmed. An empty piece stays, as an empty
/// text that no value accepts, so that `a,,b` is an error and not a shorter list.
pub(super) fn split_list(text: &str) -> impl Iterator<Item = &str> {
    text.split(',').map(str::trim)
}

fn variables(
    program: &Program,
    environment: &Environment,
) -> Result<Vec<(&'static Flag, Vec<Item>)>, UsageError> {
    let mut layer = Vec::new();
    for flag in program.flags {
        let name = flag.variable();
        let Some(value) = environment.get(&name) else {
            continue;
        };
        let text = value.to_str().ok_or_else(|| UsageError::NotUtf8 {
            what: name.clone(),
            lossy: value.to_string_lossy().into_owned(),
        })?;
        let item = |text: &str| Item::new(flag.name, text, Origin::Variable(name.clone()));
        let items = match flag.kind {
            Kind::Single | Kind::Switch => vec![item(text)],
            Kind::List => split_list(text).map(item).collect(),
            // An empty piece is what a trailing separator leaves, and says nothing.
            Kind::Pairs => text
                .split([';', '\n'])
                .map(str::trim)
                .filter(|pair| !pair.is_empty())
                .map(item)
                .collect(),
        };
        layer.push((flag, items));
    }
    Ok(layer)
}

/// A variable that only looks like one of ours is not an error, since other programs may share the
/// prefix; but a slip of the pen must not go unseen.
fn warnings(program: &Program, environment: &Environment) -> Vec<String> {
    let known: Vec<String> = program.flags.iter().map(Flag::variable).collect();
    let endings = || {
        known
            .iter()
            .filter_map(|name| name.strip_prefix(VARIABLE_PREFIX))
    };
    environment
        .names_with(VARIABLE_PREFIX)
        .filter(|name| !READ_ELSEWHERE.contains(name) && known.iter().all(|known| known != name))
        .filter_map(|name| {
            let near = slip(name.strip_prefix(VARIABLE_PREFIX)?, endings())?;
            Some(format!(
                "{name} is set, but {} does not read it; did you mean {VARIABLE_PREFIX}{near}?",
                program.name
            ))
        })
        .collect()
}

//! The command line, read by the table: `--flag value`, `--flag=value`, `--switch`. Values are
//! kept as text; what they mean is decided later, with the same rules for every layer.

use std::ffi::OsString;

use super::error::UsageError;
use super::nearest::nearest;
use super::resolve::split_list;
use super::resolved::{Item, Origin};
use super::table::{Flag, Kind, Program};

/// What a command line asks for.
pub(super) enum CommandLine {
    Help,
    Version,
    Run(Vec<(&'static Flag, Vec<Item>)>),
}

/// Reads a command line, the program's own name not included.
pub(super) fn parse(
    program: &Program,
    arguments: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<CommandLine, UsageError> {
    let arguments = texts(arguments)?;
    // Help is for people who got something else wrong, so it comes before every other check.
    if arguments
        .iter()
        .any(|argument| argument == "--help" || argument == "-h")
    {
        return Ok(CommandLine::Help);
    }
    if arguments
        .iter()
        .any(|argument| argument == "--version" || argument == "-V")
    {
        return Ok(CommandLine::Version);
    }
    let mut given: Vec<(&'static Flag, Vec<String>)> = Vec::new();
    let mut rest = arguments.iter().map(String::as_str).peekable();
    let mut before = None;
    while let Some(argument) = rest.next() {
        let (flag, attached) = recognise(program, argument, before)?;
        let text = match (attached, flag.kind) {
            (Some(text), _) => text,
            (None, Kind::Switch) => "true",
            (None, _) => separate(
                flag,
                rest.next_if(|next| !next.starts_with("--")),
                rest.peek(),
            )?,
        };
        if text.is_empty() {
            let found = if attached.is_some() {
                "nothing after the `=`"
            } else {
                "an empty one"
            };
            return Err(missing(flag, format!(" (found {found})")));
        }
        match given.iter_mut().find(|(known, _)| known.name == flag.name) {
            Some((_, texts)) if flag.kind == Kind::Pairs => texts.push(text.to_owned()),
            Some((_, texts)) => return Err(repeated(flag, texts, text)),
            None => given.push((flag, vec![text.to_owned()])),
        }
        before = Some(flag);
    }
    Ok(CommandLine::Run(
        given
            .into_iter()
            .map(|(flag, texts)| (flag, items(flag, &texts)))
            .collect(),
    ))
}

fn texts(
    arguments: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<Vec<String>, UsageError> {
    let text = |argument: OsString| {
        argument
            .into_string()
            .map_err(|argument| UsageError::NotUtf8 {
                what: "an argument".to_owned(),
                lossy: argument.to_string_lossy().into_owned(),
            })
    };
    arguments
        .into_iter()
        .map(|argument| text(argument.into()))
        .collect()
}

/// Finds the flag that an argument begins, and the value that it brings along after `=`.
fn recognise<'a>(
    program: &Program,
    argument: &'a str,
    before: Option<&Flag>,
) -> Result<(&'static Flag, Option<&'a str>), UsageError> {
    let (given, attached) = argument
        .split_once('=')
        .map_or((argument, None), |(name, value)| (name, Some(value)));
    let Some(name) = given.strip_prefix('-') else {
        return Err(UsageError::Unexpected {
            given: argument.to_owned(),
            advice: unexpected(argument, before),
        });
    };
    let exact = name.strip_prefix('-').unwrap_or_default();
    program
        .flag(exact)
        .map(|flag| (flag, attached))
        .ok_or_else(|| UsageError::UnknownFlag {
            given: given.to_owned(),
            nearest: nearest(name.trim_start_matches('-'), program.names())
                .unwrap_or_default()
                .to_owned(),
        })
}

fn unexpected(argument: &str, before: Option<&Flag>) -> String {
    match before {
        Some(flag) if flag.kind == Kind::Switch => format!(
            "--{} takes no separate value; write --{}={argument}",
            flag.name, flag.name
        ),
        Some(flag) if flag.kind == Kind::List => {
            format!(
                "values of --{} are separated by commas, without spaces",
                flag.name
            )
        }
        _ => "every setting is a flag (--help lists all)".to_owned(),
    }
}

/// The value that stands after its flag. One that begins with dashes is more likely the next flag.
fn separate<'a>(
    flag: &Flag,
    value: Option<&'a str>,
    next: Option<&&str>,
) -> Result<&'a str, UsageError> {
    value.ok_or_else(|| {
        let found = next.map(|next| {
            format!(
                " (found {next} instead; if that is the value, write --{}={next})",
                flag.name
            )
        });
        missing(flag, found.unwrap_or_default())
    })
}

fn missing(flag: &Flag, found: String) -> UsageError {
    UsageError::MissingValue {
        name: flag.name,
        value: flag.value,
        found,
    }
}

fn repeated(flag: &Flag, texts: &[String], second: &str) -> UsageError {
    UsageError::Repeated {
        name: flag.name,
        first: texts.first().cloned().unwrap_or_default(),
        second: second.to_owned(),
        advice: if flag.kind == Kind::List {
            ", with commas between the values"
        } else {
            ""
        },
    }
}

fn items(flag: &Flag, texts: &[String]) -> Vec<Item> {
    let item = |text: &str| Item::new(flag.name, text, Origin::CommandLine);
    match flag.kind {
        Kind::List => texts
            .iter()
            .flat_map(|text| split_list(text))
            .map(item)
            .collect(),
        Kind::Single | Kind::Switch | Kind::Pairs => texts.iter().map(|text| item(text)).collect(),
    }
}

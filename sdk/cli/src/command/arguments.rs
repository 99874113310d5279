//! A command's arguments, read by the same table of flags as the programs' settings. What is added
//! here: one operand without a flag (`explain PATH`), the short `-o`, and a help text of its own,
//! because commands have neither a settings file nor a variable for each flag.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fmt::Write as _;
use std::path::Path;

use sidelane_process::settings::{
    Environment, Flag, Kind, Program, Settings, SettingsError, Start, load, value,
};

use super::{Failure, output};

/// How an answer is written.
pub(crate) const OUTPUT: Flag = Flag::single(
    "output",
    "table|json",
    "How the answer is written; short: -o",
)
.or("table");
/// Where control is. Also a variable, and a list, as for the sidecar: a shell that is set up for
/// one is set up for the other.
pub(crate) const CONTROL: Flag = Flag::list(
    "control",
    "HOST:PORT,…",
    "Control's gRPC port; several are tried in turn; or $SIDELANE_CONTROL",
)
.or("127.0.0.1:15010");
/// Where a sidecar's admin port is.
pub(crate) const SIDECAR: Flag = Flag::single(
    "sidecar",
    "URL",
    "The sidecar's admin port; or $SIDELANE_SIDECAR",
)
.or("http://127.0.0.1:15000");

/// Which of several meshes that one control serves.
pub(crate) const NETWORK: Flag = Flag::single("network", "NAME", "Only this network's [all]");

/// The only variables that commands read. Those of other flags are settings of a sidecar: a
/// `SIDELANE_NODE` in the environment must not change what `explain` asks.
const VARIABLES: [&str; 2] = ["SIDELANE_CONTROL", "SIDELANE_SIDECAR"];

/// A command: its flags, and what it is about.
pub(crate) struct Usage {
    /// Name, purpose and flags.
    pub(crate) program: Program,
    /// What the one argument without a flag is called; `None` if there is none.
    pub(crate) operand: Option<&'static str>,
}

/// A command's arguments.
pub(crate) struct Arguments {
    /// The flags.
    pub(crate) settings: Settings,
    /// The argument without a flag.
    pub(crate) operand: Option<String>,
}

/// How an answer is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

/// Reads a command's arguments. `None`: help was asked for, and printed.
pub(crate) fn read(usage: &Usage, given: Vec<OsString>) -> Result<Option<Arguments>, Failure> {
    let variables = VARIABLES
        .iter()
        .filter_map(|name| Some((*name, std::env::var_os(name)?)));
    match parse(usage, given, &Environment::new(variables))? {
        Some(arguments) => Ok(Some(arguments)),
        None => output::text(&help(usage)).map(|()| None),
    }
}

impl Arguments {
    /// How the answer is to be written.
    pub(crate) fn format(&self) -> Result<Format, Failure> {
        let choices = [("table", Format::Table), ("json", Format::Json)];
        let read = |text: &str| value::choice(text, &choices);
        Ok(self.settings.value(&OUTPUT, read)?)
    }
}

/// Takes a text as it is.
pub(crate) fn plain(text: &str) -> Result<String, Infallible> {
    Ok(text.to_owned())
}

fn parse(
    usage: &Usage,
    given: Vec<OsString>,
    environment: &Environment,
) -> Result<Option<Arguments>, SettingsError> {
    if given.iter().any(|one| one == "--help" || one == "-h") {
        return Ok(None);
    }
    let mut given: Vec<OsString> = given.into_iter().map(long).collect();
    let operand = usage.operand.and_then(|_| take_operand(usage, &mut given));
    let no_file = |_: &Path| Err(std::io::Error::from(std::io::ErrorKind::Unsupported));
    match load(&usage.program, given, environment, no_file)? {
        Start::Run(loaded) => Ok(Some(Arguments {
            settings: loaded.settings,
            operand,
        })),
        Start::Print(_) => Ok(None),
    }
}

/// `-o json` is `--output json`, `-f FILE` is `--file FILE`.
fn long(argument: OsString) -> OsString {
    for (short, long) in [("-o", "--output"), ("-f", "--file")] {
        let given = argument.to_str().and_then(|text| text.strip_prefix(short));
        match given {
            Some("") => return long.into(),
            Some(value) if value.starts_with('=') => return format!("{long}{value}").into(),
            Some(_) | None => {}
        }
    }
    argument
}

/// Takes the first argument that is neither a flag nor a flag's value out of the list.
fn take_operand(usage: &Usage, given: &mut Vec<OsString>) -> Option<String> {
    let mut index = 0;
    while let Some(argument) = given.get(index).and_then(|argument| argument.to_str()) {
        let Some(name) = argument.strip_prefix("--") else {
            // A single dash is a mistake that the table will name.
            if argument.starts_with('-') {
                return None;
            }
            return given.remove(index).into_string().ok();
        };
        let known = usage.program.flags.iter().find(|flag| flag.name == name);
        let takes_value = known.is_some_and(|flag| flag.kind != Kind::Switch);
        index += if takes_value { 2 } else { 1 };
    }
    None
}

/// What `--help` prints.
fn help(usage: &Usage) -> String {
    let Program { name, about, .. } = usage.program;
    let operand = usage.operand.map(|operand| format!(" {operand}"));
    let operand = operand.unwrap_or_default();
    let mut text = format!("{about}\n\nUsage: {name}{operand} [flags]\n\n");
    for flag in usage.program.flags {
        let spelling = match flag.kind {
            Kind::Switch => format!("--{}", flag.name),
            _ => format!("--{} {}", flag.name, flag.value),
        };
        let default = match (flag.kind, flag.default) {
            (Kind::Switch, _) | (_, None) => String::new(),
            (_, Some(default)) => format!(" [{default}]"),
        };
        // Writing into a String cannot fail.
        let _ = writeln!(text, "  {spelling:28}{}{default}", flag.help);
    }
    text
}

/// The settings of a command line, for tests of what a command makes of them.
#[cfg(test)]
pub(super) fn parsed_for_tests(usage: &Usage, given: Vec<OsString>) -> Settings {
    let parsed = parse(usage, given, &Environment::default()).unwrap();
    parsed.unwrap().settings
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: Flag = Flag::single("node", "NODE", "A node");
    const LOUD: Flag = Flag::switch("loud", "Loud");
    const USAGE: Usage = Usage {
        program: Program {
            name: "sidelane example",
            version: "1.0.0",
            about: "An example.",
            flags: &[NODE, LOUD, CONTROL, OUTPUT],
        },
        operand: Some("PATH"),
    };

    fn parsed(given: &[&str]) -> Arguments {
        let given = given.iter().map(OsString::from).collect();
        let environment = Environment::new([("SIDELANE_CONTROL", "from-variable:1")]);
        parse(&USAGE, given, &environment).unwrap().unwrap()
    }

    #[test]
    fn the_operand_may_stand_anywhere() {
        for given in [
            &["/a.B/C", "--node", "n", "--loud"][..],
            &["--node", "n", "/a.B/C", "--loud"],
            &["--loud", "--node=n", "/a.B/C"],
        ] {
            let arguments = parsed(given);
            assert_eq!(arguments.operand.as_deref(), Some("/a.B/C"), "{given:?}");
            assert_eq!(arguments.settings.item(&NODE).unwrap().text(), "n");
            assert!(arguments.settings.switch(&LOUD).unwrap());
        }
        assert_eq!(parsed(&["--node", "n"]).operand, None);
    }

    #[test]
    fn the_short_flag_is_the_long_one() {
        for given in [&["-o", "json"][..], &["-o=json"], &["--output", "json"]] {
            assert_eq!(parsed(given).format().unwrap(), Format::Json);
        }
        assert_eq!(parsed(&[]).format().unwrap(), Format::Table);
        let wrong = parsed(&["-o", "jsno"]).format().unwrap_err().to_string();
        assert!(
            wrong.contains("must be one of table, json; the nearest is json"),
            "{wrong}"
        );
    }

    #[test]
    fn control_comes_from_the_variable_too() {
        assert_eq!(
            parsed(&[]).settings.item(&CONTROL).unwrap().text(),
            "from-variable:1"
        );
        let given = parsed(&["--control", "a:1,b:2"]);
        assert_eq!(given.settings.items(&CONTROL).len(), 2);
    }

    #[test]
    fn a_second_operand_and_an_unknown_flag_are_errors() {
        let refused = |given: &[&str]| {
            let given = given.iter().map(OsString::from).collect();
            parse(&USAGE, given, &Environment::default())
                .err()
                .unwrap()
                .to_string()
        };
        assert!(refused(&["/a.B/C", "/d.E/F"]).starts_with("unexpected argument \"/d.E/F\""));
        assert_eq!(
            refused(&["/a.B/C", "--nod", "n"]),
            "unknown flag --nod; the nearest known flag is --node (--help lists all)"
        );
    }

    #[test]
    fn help_lists_operand_flags_and_defaults() {
        let text = help(&USAGE);
        assert!(text.starts_with("An example.\n\nUsage: sidelane example PATH [flags]\n\n"));
        assert!(
            text.contains("  --node NODE                 A node\n"),
            "{text}"
        );
        assert!(
            text.contains("$SIDELANE_CONTROL [127.0.0.1:15010]\n"),
            "{text}"
        );
    }
}

//! The texts of `--help` and `--version`, made from the table.

use std::fmt::Write as _;

use super::table::{Flag, Kind, Program};

/// Where the help's second column begins.
const COLUMN: usize = 34;

pub(super) fn version(program: &Program) -> String {
    format!("{} {}", program.name, program.version)
}

pub(super) fn help(program: &Program) -> String {
    let mut text = format!(
        "{}\n{}\n\nUsage: {} [flags]\n\n",
        version(program),
        program.about,
        program.name
    );
    for flag in program.flags {
        line(&mut text, &spelling(flag), &explanation(flag));
    }
    line(&mut text, "--help", "This text");
    line(&mut text, "--version", "The version");
    text.push_str(
        "\nEvery flag has an environment variable (--token-file: SIDELANE_TOKEN_FILE) and a key in the\n\
         YAML file named by --config (token-file). Flag beats variable beats file beats default.\n\
         Lists are comma-separated. Port 0 means any free port.",
    );
    text
}

fn line(text: &mut String, spelling: &str, explanation: &str) {
    // A spelling that reaches into the second column gets a line of its own.
    let gap = if spelling.len() + 4 > COLUMN {
        format!("\n{:COLUMN$}", "")
    } else {
        String::new()
    };
    let width = if gap.is_empty() { COLUMN - 2 } else { 0 };
    // Writing into a String cannot fail.
    let _ = writeln!(text, "  {spelling:width$}{gap}{explanation}");
}

fn spelling(flag: &Flag) -> String {
    match flag.kind {
        Kind::Switch => format!("--{}", flag.name),
        Kind::Single | Kind::List | Kind::Pairs => format!("--{} {}", flag.name, flag.value),
    }
}

fn explanation(flag: &Flag) -> String {
    let repeats = if flag.kind == Kind::Pairs {
        "; repeats"
    } else {
        ""
    };
    let default = match (flag.kind, flag.default) {
        (Kind::Switch, _) | (_, None) => String::new(),
        (_, Some(default)) => format!(" [{default}]"),
    };
    format!("{}{repeats}{default}", flag.help)
}

//! The table of a program's flags. It is the one place where names, shapes and defaults are
//! written down; parsing, help and messages follow from it.

/// One setting of a program, and thereby one flag, one variable and one key.
#[derive(Debug, Clone, Copy)]
pub struct Flag {
    /// The name without dashes in front, `token-file`; also the key in the file.
    pub name: &'static str,
    /// How many values it takes.
    pub kind: Kind,
    /// What the help calls a value, `HOST:PORT`; empty for a switch.
    pub value: &'static str,
    /// The value where no layer gives one; comma-separated for lists.
    pub default: Option<&'static str>,
    /// One sentence for `--help`.
    pub help: &'static str,
}

/// How many values a flag takes, and how they are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Exactly one.
    Single,
    /// None: `--flag`, or `--flag=true|false`.
    Switch,
    /// One or more, separated by commas.
    List,
    /// `NAME=VALUE`, once or often.
    Pairs,
}

impl Flag {
    /// A flag with one value.
    #[must_use]
    pub const fn single(name: &'static str, value: &'static str, help: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Single,
            value,
            default: None,
            help,
        }
    }

    /// A flag without a value: off unless given.
    #[must_use]
    pub const fn switch(name: &'static str, help: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Switch,
            value: "",
            default: Some("false"),
            help,
        }
    }

    /// A flag with comma-separated values.
    #[must_use]
    pub const fn list(name: &'static str, value: &'static str, help: &'static str) -> Self {
        Self {
            name,
            kind: Kind::List,
            value,
            default: None,
            help,
        }
    }

    /// A flag that repeats, each time with a `NAME=VALUE`.
    #[must_use]
    pub const fn pairs(name: &'static str, value: &'static str, help: &'static str) -> Self {
        Self {
            name,
            kind: Kind::Pairs,
            value,
            default: None,
            help,
        }
    }

    /// The same flag with a default.
    #[must_use]
    pub const fn or(mut self, default: &'static str) -> Self {
        self.default = Some(default);
        self
    }

    /// The environment variable of this flag, `SIDELANE_TOKEN_FILE`.
    #[must_use]
    pub fn variable(&self) -> String {
        format!(
            "{VARIABLE_PREFIX}{}",
            self.name.to_ascii_uppercase().replace('-', "_")
        )
    }
}

/// What every variable of ours begins with.
pub(super) const VARIABLE_PREFIX: &str = "SIDELANE_";

/// A program: what it is called and which flags it has.
#[derive(Debug, Clone, Copy)]
pub struct Program {
    /// The binary's name.
    pub name: &'static str,
    /// Its version, for `--version`.
    pub version: &'static str,
    /// What it is, in a sentence or two, for `--help`.
    pub about: &'static str,
    /// All its flags, in the order of the help. `--help` and `--version` are always there.
    pub flags: &'static [Flag],
}

impl Program {
    pub(super) fn flag(&self, name: &str) -> Option<&'static Flag> {
        self.flags.iter().find(|flag| flag.name == name)
    }

    pub(super) fn names(&self) -> impl Iterator<Item = &'static str> + use<> {
        self.flags.iter().map(|flag| flag.name)
    }
}

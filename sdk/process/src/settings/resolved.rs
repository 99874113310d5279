//! Settings after the layers have been laid over each other: per flag its values as text, each
//! with the place it came from. Typed values are made from here, so that every error can name the
//! flag, the value and the place.

use std::fmt;
use std::path::PathBuf;

use serde_json::{Map, Value, json};

use super::error::{InvalidSetting, MissingSetting, SettingsError};
use super::table::{Flag, Kind, Program};
use super::value;

/// Where a value came from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag on the command line.
    CommandLine,
    /// The environment variable of this name.
    Variable(String),
    /// A line of the settings file.
    File {
        /// The file, as it was named.
        path: PathBuf,
        /// From 1.
        line: usize,
    },
    /// Nobody gave one.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::CommandLine => formatter.write_str("command line"),
            Self::Variable(name) => formatter.write_str(name),
            Self::File { path, line } => write!(formatter, "{}:{line}", path.display()),
            Self::Default => formatter.write_str("default"),
        }
    }
}

/// One value of one flag, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Item {
    flag: &'static str,
    text: String,
    origin: Origin,
}

impl Item {
    pub(super) fn new(flag: &'static str, text: impl Into<String>, origin: Origin) -> Self {
        Self {
            flag,
            text: text.into(),
            origin,
        }
    }

    /// The value as it was written.
    #[must_use]
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Where it came from.
    #[must_use]
    pub fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Reads the value.
    ///
    /// # Errors
    /// What `read` says, with the flag, the value and its origin in front.
    pub fn parse<T, E: fmt::Display>(
        &self,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, InvalidSetting> {
        read(&self.text).map_err(|reason| self.refuse(reason))
    }

    /// The error that this value cannot be used, for `reason`.
    #[must_use]
    pub fn refuse(&self, reason: impl fmt::Display) -> InvalidSetting {
        InvalidSetting {
            flag: self.flag,
            text: self.text.clone(),
            origin: self.origin.clone(),
            reason: reason.to_string(),
        }
    }
}

/// As messages name it: `--grace "30s" (mesh.yaml:3)`.
impl fmt::Display for Item {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            formatter,
            "--{} {:?} ({})",
            self.flag, self.text, self.origin
        )
    }
}

/// All settings of a program.
#[derive(Debug)]
pub struct Settings {
    entries: Vec<(&'static Flag, Vec<Item>)>,
}

impl Settings {
    pub(super) fn new(program: &Program) -> Self {
        let defaults = |flag: &'static Flag| {
            let texts: Vec<_> = match (flag.default, flag.kind) {
                (None, _) => Vec::new(),
                (Some(several), Kind::List) => several.split(',').collect(),
                (Some(one), _) => vec![one],
            };
            texts
                .into_iter()
                .map(|text| Item::new(flag.name, text, Origin::Default))
                .collect()
        };
        Self {
            entries: program
                .flags
                .iter()
                .map(|flag| (flag, defaults(flag)))
                .collect(),
        }
    }

    /// Lays a layer over what is there. An empty one changes nothing.
    pub(super) fn lay(&mut self, flag: &Flag, items: Vec<Item>) {
        if items.is_empty() {
            return;
        }
        if let Some(entry) = self
            .entries
            .iter_mut()
            .find(|(known, _)| known.name == flag.name)
        {
            entry.1 = items;
        }
    }

    /// Lays a layer under what was laid before, over the defaults.
    pub(super) fn lay_below(&mut self, flag: &Flag, items: Vec<Item>) {
        if self
            .items(flag)
            .iter()
            .all(|item| item.origin == Origin::Default)
        {
            self.lay(flag, items);
        }
    }

    /// Gives a flag a default that only the running program can know, such as a folder below the
    /// user's home. Does nothing where a layer gave a value.
    pub fn derive(&mut self, flag: &Flag, text: &str) {
        self.lay_below(flag, vec![Item::new(flag.name, text, Origin::Default)]);
    }

    /// The same, by a variable that is not the flag's own, such as one that a standard names.
    pub fn derive_from(&mut self, flag: &Flag, text: &str, variable: &str) {
        let origin = Origin::Variable(variable.to_owned());
        self.lay_below(flag, vec![Item::new(flag.name, text, origin)]);
    }

    /// Takes a flag's default away, for a program that does without what it names. Does nothing
    /// where a layer gave a value.
    pub fn without_default(&mut self, flag: &Flag) {
        let entry = self
            .entries
            .iter_mut()
            .find(|(known, _)| known.name == flag.name);
        if let Some((_, items)) = entry {
            items.retain(|item| item.origin != Origin::Default);
        }
    }

    /// All values of a flag, in the order in which they were given. Empty where no layer gives one
    /// and the flag has no default.
    #[must_use]
    pub fn items(&self, flag: &Flag) -> &[Item] {
        self.entries
            .iter()
            .find(|(known, _)| known.name == flag.name)
            .map_or(&[], |(_, items)| items.as_slice())
    }

    /// The first value of a flag, if there is one.
    #[must_use]
    pub fn item(&self, flag: &Flag) -> Option<&Item> {
        self.items(flag).first()
    }

    /// The value of a flag that must have one.
    ///
    /// # Errors
    /// It has none, or `read` refuses it.
    pub fn value<T, E: fmt::Display>(
        &self,
        flag: &Flag,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<T, SettingsError> {
        let item = self.item(flag).ok_or_else(|| MissingSetting::of(flag))?;
        Ok(item.parse(read)?)
    }

    /// The value of a flag that may be absent.
    ///
    /// # Errors
    /// `read` refuses it.
    pub fn optional<T, E: fmt::Display>(
        &self,
        flag: &Flag,
        read: impl FnOnce(&str) -> Result<T, E>,
    ) -> Result<Option<T>, InvalidSetting> {
        self.item(flag).map(|item| item.parse(read)).transpose()
    }

    /// All values of a flag.
    ///
    /// # Errors
    /// `read` refuses one of them.
    pub fn list<T, E: fmt::Display>(
        &self,
        flag: &Flag,
        read: impl Fn(&str) -> Result<T, E>,
    ) -> Result<Vec<T>, InvalidSetting> {
        self.items(flag)
            .iter()
            .map(|item| item.parse(&read))
            .collect()
    }

    /// Whether a switch is on.
    ///
    /// # Errors
    /// Its value is neither `true` nor `false`.
    pub fn switch(&self, flag: &Flag) -> Result<bool, InvalidSetting> {
        Ok(self.optional(flag, value::boolean)?.unwrap_or(false))
    }

    /// Every setting with its value and origin, for the admin page `/config`:
    /// `{"grace": {"value": "30s", "origin": "mesh.yaml:3"}, …}`. A value that is not set is null.
    /// No setting holds a secret: secrets are named by the path of their file.
    #[must_use]
    pub fn describe(&self) -> Value {
        let described = self.entries.iter().map(|(flag, items)| {
            let origin = items.first().map_or(&Origin::Default, Item::origin);
            let texts = || items.iter().map(Item::text).collect::<Vec<_>>();
            let value = match flag.kind {
                Kind::List | Kind::Pairs => json!(texts()),
                Kind::Switch => json!(texts().first() == Some(&"true")),
                Kind::Single => json!(texts().first()),
            };
            (
                flag.name.to_owned(),
                json!({ "value": value, "origin": origin.to_string() }),
            )
        });
        Value::Object(described.collect::<Map<_, _>>())
    }
}

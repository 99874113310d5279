//! Where rules come from: a YAML file, or a descriptor set with the options that are written beside
//! the rpc. Both end as the same messages, and both can say where a rule stands.

use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use sidelane_build::RuleSet;
use sidelane_proto::model::{PushedRule, Vocabulary};
use sidelane_proto::wire::routing::v1 as wire;

use super::yaml::{self, EXAMPLE, Written, Wrong};

/// The largest file that is read, in bytes: as many rules as may be applied fit, with comments.
const FILE_LIMIT: u64 = 32 << 20;

/// A file of rules that is none.
#[derive(Debug, thiserror::Error)]
pub(crate) enum SourceError {
    /// It cannot be read.
    #[error("cannot read {path}: {reason}")]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What is in the way.
        reason: String,
    },
    /// Nobody knows what is in it.
    #[error(
        "{path} is neither .yaml (or .yml), rules that are written by hand, nor .binpb, a descriptor \
         set; rename it"
    )]
    Kind {
        /// The file.
        path: PathBuf,
    },
    /// There is nothing in it.
    #[error("there is no rule in {path}; this is how they look:\n\n{example}")]
    Empty {
        /// The file.
        path: PathBuf,
        /// What could be in it.
        example: &'static str,
    },
    /// Something is wrong with the rules: a line for each.
    #[error("the rules cannot be taken as they are:\n{}", .0.join("\n"))]
    Wrong(Vec<String>),
}

/// A file with rules.
#[derive(Debug)]
pub(super) struct Source {
    path: PathBuf,
    rules: Rules,
}

#[derive(Debug)]
enum Rules {
    Written(Box<Written>),
    Compiled(Box<RuleSet>),
}

impl Source {
    /// Reads a file; what is in it, its name says.
    pub(super) fn read(path: &Path) -> Result<Self, SourceError> {
        let extension = path.extension().and_then(|it| it.to_str());
        let rules = match extension.unwrap_or_default() {
            "yaml" | "yml" => {
                let text = String::from_utf8(bytes(path)?);
                let text = text.map_err(|_| unreadable(path, "it is not valid UTF-8"))?;
                let written = yaml::read(&path.display().to_string(), &text);
                Rules::Written(Box::new(written.map_err(|wrong| all(path, &wrong))?))
            }
            "binpb" => Rules::Compiled(Box::new(compiled(path)?)),
            _ => {
                let path = path.to_owned();
                return Err(SourceError::Kind { path });
            }
        };
        let source = Self {
            path: path.to_owned(),
            rules,
        };
        if source.count() == 0 {
            return Err(SourceError::Empty {
                path: source.path,
                example: EXAMPLE,
            });
        }
        Ok(source)
    }

    /// The lanes and classes that it defines, and Sidelane's own.
    pub(super) fn vocabulary(&self) -> Result<Vocabulary, SourceError> {
        match &self.rules {
            Rules::Written(written) => written
                .vocabulary()
                .map_err(|wrong| all(&self.path, &wrong)),
            // A descriptor set is read among its own.
            Rules::Compiled(_) => Ok(Vocabulary::built_in()),
        }
    }

    /// Does it name lanes or classes that are not among these?
    pub(super) fn names_others(&self, vocabulary: &Vocabulary) -> bool {
        match &self.rules {
            Rules::Written(written) => written.names_others(vocabulary),
            Rules::Compiled(_) => false,
        }
    }

    /// Its rules, as control takes them.
    pub(super) fn rules(
        &self,
        vocabulary: &Vocabulary,
    ) -> Result<Vec<wire::PushedRule>, SourceError> {
        match &self.rules {
            Rules::Written(written) => {
                let rules = written.rules(vocabulary);
                rules.map_err(|wrong| all(&self.path, &wrong))
            }
            Rules::Compiled(set) => {
                let rules = set.rules.iter().cloned().map(|rule| PushedRule {
                    rule: rule.into(),
                    tuning_only: false,
                    version: 0,
                });
                Ok(rules.map(|pushed| (&pushed).into()).collect())
            }
        }
    }

    /// What control says of a field of the request (`rules[3].rule.lane`), with its place.
    pub(super) fn blame(&self, field: &str, problem: &str) -> String {
        let file = self.path.display().to_string();
        match &self.rules {
            Rules::Written(written) => {
                // In the file there is nothing between a rule and its fields.
                let field = field.replacen("].rule", "]", 1);
                written.at(&field, problem).text(&file)
            }
            Rules::Compiled(set) => match place(field).and_then(|index| set.rules.get(index)) {
                Some(rule) => {
                    let field = field
                        .split_once("].rule.")
                        .map_or(field, |(_, field)| field);
                    format!("{}: {}: {field} {problem}", rule.origin, rule.service)
                }
                None => format!("{file}: {field} {problem}"),
            },
        }
    }

    fn count(&self) -> usize {
        match &self.rules {
            Rules::Written(written) => written.rules.len(),
            Rules::Compiled(set) => set.rules.len(),
        }
    }
}

/// The rules of a descriptor set.
pub(crate) fn compiled(path: &Path) -> Result<RuleSet, SourceError> {
    let set = sidelane_build::rules::from_descriptor_set(&bytes(path)?);
    set.map_err(|errors| {
        let file = path.display();
        let lines = errors.iter().map(|error| match error.place {
            Some(_) => error.to_string(),
            None => format!("{file}: {error}"),
        });
        SourceError::Wrong(lines.collect())
    })
}

/// The number in `rules[3].rule.lane`.
fn place(field: &str) -> Option<usize> {
    let (_, rest) = field.split_once("rules[")?;
    rest.split_once(']')?.0.parse().ok()
}

fn all(path: &Path, wrong: &[Wrong]) -> SourceError {
    let file = path.display().to_string();
    SourceError::Wrong(wrong.iter().map(|wrong| wrong.text(&file)).collect())
}

fn bytes(path: &Path) -> Result<Vec<u8>, SourceError> {
    let mut bytes = Vec::new();
    let read = std::fs::File::open(path)
        .and_then(|file| file.take(FILE_LIMIT + 1).read_to_end(&mut bytes));
    match read {
        Ok(_) if bytes.len() as u64 > FILE_LIMIT => {
            let reason = format!("it is larger than {FILE_LIMIT} bytes; apply it in parts");
            Err(unreadable(path, &reason))
        }
        Ok(_) => Ok(bytes),
        Err(error) => Err(unreadable(path, &reason(&error))),
    }
}

fn reason(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::NotFound => {
            "there is no such file; paths are relative to the working directory".to_owned()
        }
        io::ErrorKind::IsADirectory => "it is a directory; name a file in it".to_owned(),
        _ => error.to_string(),
    }
}

fn unreadable(path: &Path, reason: &str) -> SourceError {
    SourceError::Unreadable {
        path: path.to_owned(),
        reason: reason.to_owned(),
    }
}

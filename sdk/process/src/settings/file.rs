//! The settings file, read by the table: which keys there may be, and what shape the value of each
//! may have. It turns YAML into the same texts that the other layers give; what a text means is
//! decided later, with the same rules for every layer.

use std::io::{self, Read};
use std::path::Path;

use super::CONFIG;
use super::error::{FileError, FileProblem};
use super::nearest::nearest;
use super::resolve::split_list;
use super::resolved::{Item, Origin};
use super::table::{Flag, Kind, Program};
use super::yaml::{Node, Scalar, Wrong, document};

/// The largest settings file, in bytes. Thousands of services fit; a log file named by mistake
/// does not.
pub const FILE_LIMIT: u64 = 1 << 20;

/// Reads a file of at most [`FILE_LIMIT`] bytes from the disk.
///
/// # Errors
/// What the operating system says; `FileTooLarge` above the limit; `InvalidData` if it is not
/// UTF-8.
pub fn read_file(path: &Path) -> io::Result<String> {
    let mut text = String::new();
    let read = std::fs::File::open(path)?
        .take(FILE_LIMIT + 1)
        .read_to_string(&mut text)?;
    if read as u64 > FILE_LIMIT {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    Ok(text)
}

/// Reads the file that `origin` named.
pub(super) fn open(
    path: &Path,
    origin: &Origin,
    read_file: impl Fn(&Path) -> io::Result<String>,
) -> Result<String, FileError> {
    read_file(path).map_err(|error| FileError::Unreadable {
        path: path.to_owned(),
        origin: origin.clone(),
        reason: match error.kind() {
            io::ErrorKind::NotFound => {
                "there is no such file; paths are relative to the working directory".to_owned()
            }
            io::ErrorKind::IsADirectory => "it is a directory; name the YAML file in it".to_owned(),
            io::ErrorKind::FileTooLarge => {
                format!("it is larger than {FILE_LIMIT} bytes; is it a settings file?")
            }
            io::ErrorKind::InvalidData => "it is not valid UTF-8".to_owned(),
            _ => error.to_string(),
        },
    })
}

/// Reads the text of a settings file by the table.
pub(super) fn parse(
    program: &Program,
    path: &Path,
    text: &str,
) -> Result<Vec<(&'static Flag, Vec<Item>)>, FileError> {
    layer(program, path, text).map_err(|Wrong { line, problem }| FileError::Wrong {
        path: path.to_owned(),
        line,
        problem,
    })
}

fn layer(
    program: &Program,
    path: &Path,
    text: &str,
) -> Result<Vec<(&'static Flag, Vec<Item>)>, Wrong> {
    let mut seen: Vec<(&'static str, usize)> = Vec::new();
    let mut layer = Vec::new();
    for (key, value) in document(text)? {
        let flag = program.flag(&key.text).ok_or_else(|| {
            let nearest = nearest(&key.text, program.names())
                .unwrap_or_default()
                .to_owned();
            key.wrong(FileProblem::UnknownKey {
                key: key.text.clone(),
                nearest,
            })
        })?;
        if flag.name == CONFIG.name {
            return Err(key.wrong(FileProblem::Nested));
        }
        if let Some(&(_, first)) = seen.iter().find(|(name, _)| *name == flag.name) {
            return Err(key.wrong(FileProblem::DuplicateKey {
                key: key.text.clone(),
                first,
            }));
        }
        seen.push((flag.name, key.line));
        let item = |scalar: &Scalar, text: &str| {
            let origin = Origin::File {
                path: path.to_owned(),
                line: scalar.line,
            };
            Item::new(flag.name, text, origin)
        };
        layer.push((flag, items(flag, &key, &value, &item)?));
    }
    Ok(layer)
}

/// The values of one key, by the flag's kind.
fn items(
    flag: &Flag,
    key: &Scalar,
    value: &Node,
    item: &dyn Fn(&Scalar, &str) -> Item,
) -> Result<Vec<Item>, Wrong> {
    let expected = match flag.kind {
        Kind::Single => "one value",
        Kind::Switch => "true or false",
        Kind::List => "one value, values separated by commas, or a list of values",
        Kind::Pairs => "a NAME=VALUE, a list of these, or a map of names to values",
    };
    let shape = |found: &Node| {
        let key = key.text.clone();
        Wrong::at(
            found.line(),
            FileProblem::Shape {
                key,
                expected,
                found: found.name(),
            },
        )
    };
    match (flag.kind, value) {
        (_, Node::Scalar(scalar)) => {
            let text = scalar.given(key)?;
            Ok(match flag.kind {
                Kind::List => split_list(text).map(|text| item(scalar, text)).collect(),
                Kind::Single | Kind::Switch | Kind::Pairs => vec![item(scalar, text)],
            })
        }
        (Kind::List | Kind::Pairs, Node::List(line, nodes)) => {
            let mut items = Vec::new();
            for node in nodes {
                match (flag.kind, node) {
                    (_, Node::Scalar(scalar)) => items.push(item(scalar, scalar.given(key)?)),
                    (Kind::Pairs, Node::Map(_, pairs)) => {
                        items.extend(joined(pairs, &shape, item)?);
                    }
                    _ => return Err(shape(node)),
                }
            }
            some(items, *line, key)
        }
        (Kind::Pairs, Node::Map(line, pairs)) => some(joined(pairs, &shape, item)?, *line, key),
        _ => Err(shape(value)),
    }
}

/// The pairs of a map as `NAME=VALUE`.
fn joined(
    pairs: &[(Scalar, Node)],
    shape: &dyn Fn(&Node) -> Wrong,
    item: &dyn Fn(&Scalar, &str) -> Item,
) -> Result<Vec<Item>, Wrong> {
    let join = |(name, value): &(Scalar, Node)| match value {
        Node::Scalar(scalar) => Ok(item(
            name,
            &format!("{}={}", name.text, scalar.given(name)?),
        )),
        other => Err(shape(other)),
    };
    pairs.iter().map(join).collect()
}

/// A list or map that is there says something: an empty one would fall back to the default.
fn some(items: Vec<Item>, line: usize, key: &Scalar) -> Result<Vec<Item>, Wrong> {
    if items.is_empty() {
        return Err(Wrong::at(
            line,
            FileProblem::NoValue {
                key: key.text.clone(),
            },
        ));
    }
    Ok(items)
}

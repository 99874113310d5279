//! The little YAML that settings need: scalars, lists and maps, each with its line. It is read
//! event by event rather than into typed structures, because the table of flags is data: so a value
//! keeps its exact text (`0x10` and `1e3` are names here, not numbers), and messages name the keys
//! of the table. It never follows anchors or tags.

use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle, Span};

use super::error::FileProblem;

/// Nodes inside each other. The file's map, a flag's list, a map in that list and its values make
/// four; a few more are read to be named by the key that they stand under, and no more than that,
/// so that no file exhausts the stack.
const DEPTH_LIMIT: usize = 8;

/// What is wrong, and in which line, from 1.
pub(super) struct Wrong {
    pub(super) line: usize,
    pub(super) problem: FileProblem,
}

impl Wrong {
    pub(super) fn at(line: usize, problem: FileProblem) -> Self {
        Self { line, problem }
    }
}

/// A single value or key.
pub(super) struct Scalar {
    pub(super) text: String,
    pub(super) line: usize,
    pub(super) plain: bool,
}

impl Scalar {
    pub(super) fn wrong(&self, problem: FileProblem) -> Wrong {
        Wrong::at(self.line, problem)
    }

    /// YAML's ways to say nothing (YAML 1.2.2 §10.3.2).
    fn is_null(&self) -> bool {
        self.plain && matches!(&*self.text, "" | "~" | "null" | "Null" | "NULL")
    }

    /// The text, unless there is none.
    pub(super) fn given(&self, key: &Self) -> Result<&str, Wrong> {
        if self.is_null() || self.text.is_empty() {
            return Err(self.wrong(FileProblem::NoValue {
                key: key.text.clone(),
            }));
        }
        Ok(&self.text)
    }
}

/// A piece of the file, with the line where it begins.
pub(super) enum Node {
    Scalar(Scalar),
    List(usize, Vec<Node>),
    Map(usize, Vec<(Scalar, Node)>),
}

impl Node {
    pub(super) fn line(&self) -> usize {
        match self {
            Self::Scalar(scalar) => scalar.line,
            Self::List(line, _) | Self::Map(line, _) => *line,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Scalar(_) => "a single value",
            Self::List(..) => "a list",
            Self::Map(..) => "a map",
        }
    }
}

/// The pairs of the file's one map. An empty file is an empty map.
pub(super) fn document(text: &str) -> Result<Vec<(Scalar, Node)>, Wrong> {
    let options = granit_parser::options! { emit_comments: false };
    let mut events = Events(Parser::new_from_str_with_options(text, options));
    let mut pairs = Vec::new();
    let mut documents = 0;
    loop {
        let (event, line) = events.next()?;
        match event {
            Event::StreamEnd => return Ok(pairs),
            Event::DocumentStart(..) if documents > 0 => {
                let what = "a second YAML document";
                return Err(Wrong::at(line, FileProblem::Unsupported { what }));
            }
            Event::DocumentStart(..) => documents += 1,
            Event::StreamStart | Event::DocumentEnd => {}
            event => match events.node(event, line, 1)? {
                Node::Map(_, found) => pairs = found,
                // What a file with nothing but comments and `---` holds.
                Node::Scalar(scalar) if scalar.is_null() => {}
                other => {
                    let found = other.name();
                    return Err(Wrong::at(line, FileProblem::NotAMap { found }));
                }
            },
        }
    }
}

struct Events<'a>(Parser<'a, granit_parser::StrInput<'a>>);

impl<'a> Events<'a> {
    fn next(&mut self) -> Result<(Event<'a>, usize), Wrong> {
        match self.0.next_event() {
            Some(Ok((event, Span { start, .. }))) => Ok((event, start.line())),
            Some(Err(error)) => {
                let reason = error.info();
                let column = error.marker().col() + 1;
                Err(Wrong::at(
                    error.marker().line(),
                    FileProblem::Syntax { reason, column },
                ))
            }
            None => Ok((Event::StreamEnd, 0)),
        }
    }

    /// The node that `event` begins.
    fn node(&mut self, event: Event<'a>, line: usize, depth: usize) -> Result<Node, Wrong> {
        let unsupported = |what| Err(Wrong::at(line, FileProblem::Unsupported { what }));
        if depth > DEPTH_LIMIT {
            return unsupported("a list or map this deep");
        }
        match event {
            Event::Scalar(_, _, _, Some(_))
            | Event::SequenceStart(_, _, Some(_))
            | Event::MappingStart(_, _, Some(_)) => unsupported("a YAML tag"),
            Event::Scalar(text, style, ..) => {
                let plain = style == ScalarStyle::Plain;
                Ok(Node::Scalar(Scalar {
                    text: text.into_owned(),
                    line,
                    plain,
                }))
            }
            Event::SequenceStart(..) => {
                let mut nodes = Vec::new();
                loop {
                    match self.next()? {
                        (Event::SequenceEnd, _) => return Ok(Node::List(line, nodes)),
                        (event, line) => nodes.push(self.node(event, line, depth + 1)?),
                    }
                }
            }
            Event::MappingStart(..) => {
                let mut pairs = Vec::new();
                loop {
                    let key = match self.next()? {
                        (Event::MappingEnd, _) => return Ok(Node::Map(line, pairs)),
                        (event, line) => self.node(event, line, depth + 1)?,
                    };
                    let Node::Scalar(key) = key else {
                        let what = "a list or map as a key";
                        return Err(Wrong::at(key.line(), FileProblem::Unsupported { what }));
                    };
                    let (event, line) = self.next()?;
                    pairs.push((key, self.node(event, line, depth + 1)?));
                }
            }
            Event::Alias(_) => unsupported("a YAML alias"),
            _ => unsupported("this YAML"),
        }
    }
}

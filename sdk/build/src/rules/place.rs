//! Where in a file something is: by the source info of its descriptor, and, where the file's text
//! is at hand, by the place of the field inside the option.

use std::collections::HashMap;

use prost_reflect::prost_types::source_code_info::Location;
use prost_reflect::{FileDescriptor, Kind, MessageDescriptor};

use super::text::{self, Step};
use crate::error::Place;

/// The texts from which descriptors were made, by the names under which files are imported.
#[derive(Debug, Default)]
pub(crate) struct Sources(pub(crate) HashMap<String, Source>);

/// A file that was read.
#[derive(Debug, Clone)]
pub(crate) struct Source {
    /// Its path as the person who builds knows it.
    pub(crate) path: String,
    /// What is in it.
    pub(crate) text: String,
}

/// Finds places in one file.
pub(super) struct Finder<'a> {
    file: &'a FileDescriptor,
    source: Option<&'a Source>,
}

impl<'a> Finder<'a> {
    pub(super) fn new(file: &'a FileDescriptor, sources: &'a Sources) -> Self {
        Self {
            file,
            source: sources.0.get(file.name()),
        }
    }

    /// The place of a descriptor's element, by its path (descriptor.proto, `SourceCodeInfo`).
    pub(super) fn element(&self, path: &[i32]) -> Place {
        let location = self.locations().find(|location| location.path == path);
        self.place(location.and_then(start))
    }

    /// The place of the first element at or below `path`, or of `fallback`.
    pub(super) fn element_or(&self, path: &[i32], fallback: &[i32]) -> Place {
        let below = self.locations().find(|it| it.path.starts_with(path));
        match below.and_then(start) {
            Some(position) => self.place(Some(position)),
            None => self.element(fallback),
        }
    }

    /// `file:line` of an element, by the name under which others import the file.
    pub(super) fn origin(&self, paths: &[&[i32]]) -> String {
        let location = paths.iter().find_map(|path| {
            let mut under = self.locations().filter(|it| it.path.starts_with(path));
            under.next().and_then(start)
        });
        match location {
            Some((line, _)) => format!("{}:{}", self.file.name(), line + 1),
            None => self.file.name().to_owned(),
        }
    }

    /// The place of the field `path` of an option of this type that stands at `option`; of the
    /// option where the field is not written; of `element` where there is no option either.
    pub(super) fn field(
        &self,
        option: &[i32],
        message: &MessageDescriptor,
        path: &str,
        element: &[i32],
    ) -> Place {
        let steps = text::steps(path);
        let numbers = numbers(message, &steps);
        let mut best: Option<(usize, (u32, u32))> = None;
        for location in self.locations().filter(|it| it.path.starts_with(option)) {
            let said = &location.path[option.len()..];
            let Some(here) = start(location) else {
                continue;
            };
            // `option (…).retry.attempts = 9;` says two numbers, `option (…) = {…};` none.
            let leads = numbers
                .iter()
                .map(|(number, _)| number)
                .zip(said)
                .all(|(one, other)| one == other)
                && said.len() <= numbers.len();
            if !leads {
                best = best.or(Some((0, here)));
                continue;
            }
            let taken = said
                .len()
                .checked_sub(1)
                .map_or(0, |last| numbers[last].1 + 1);
            let inside = self.inside(location, &steps[taken.min(steps.len())..]);
            let score = 1 + said.len() + usize::from(inside.is_some()) * 100;
            if best.is_none_or(|(known, _)| known < score) {
                best = Some((score, inside.unwrap_or(here)));
            }
        }
        match best {
            Some((_, position)) => self.place(Some(position)),
            None => self.element(element),
        }
    }

    /// The place of a field inside the braces of an option.
    fn inside(&self, location: &Location, steps: &[Step<'_>]) -> Option<(u32, u32)> {
        let text = &self.source?.text;
        let (start, end) = span(location, text)?;
        let option = text.get(start..end)?;
        let offset = text::find(&text::fields(option), steps)?;
        Some(position(text, start + offset))
    }

    fn locations(&self) -> impl Iterator<Item = &'a Location> + use<'a> {
        let info = self.file.file_descriptor_proto().source_code_info.as_ref();
        info.into_iter().flat_map(|info| &info.location)
    }

    /// Lines and columns count from 0 here, and columns are bytes.
    fn place(&self, position: Option<(u32, u32)>) -> Place {
        let name = self.file.name();
        let file = self.source.map_or(name, |source| &source.path).to_owned();
        let position = position.map(|(line, column)| {
            let text = self.source.map_or("", |source| &source.text);
            (line + 1, characters(text, line, column) + 1)
        });
        Place { file, position }
    }
}

/// The numbers by which the steps are known in descriptors, each with the step that it is of.
fn numbers(message: &MessageDescriptor, steps: &[Step<'_>]) -> Vec<(i32, usize)> {
    let mut numbers = Vec::new();
    let mut message = Some(message.clone());
    for (index, step) in steps.iter().enumerate() {
        let field = message.and_then(|message| message.get_field_by_name(step.name));
        let Some(field) = field else { break };
        let number = |number| i32::try_from(number).unwrap_or(i32::MAX);
        numbers.push((number(field.number()), index));
        if let Some(entry) = step.index {
            numbers.push((i32::try_from(entry).unwrap_or(i32::MAX), index));
        }
        message = match field.kind() {
            Kind::Message(inner) => Some(inner),
            _ => None,
        };
    }
    numbers
}

fn start(location: &Location) -> Option<(u32, u32)> {
    match *location.span.as_slice() {
        [line, column, ..] => Some((u32::try_from(line).ok()?, u32::try_from(column).ok()?)),
        _ => None,
    }
}

/// The bytes that a location covers.
fn span(location: &Location, text: &str) -> Option<(usize, usize)> {
    let (from, to) = match *location.span.as_slice() {
        [line, from, to] => ((line, from), (line, to)),
        [first, from, last, to] => ((first, from), (last, to)),
        _ => return None,
    };
    let offset = |(line, column): (i32, i32)| {
        let line = usize::try_from(line).ok()?;
        let column = usize::try_from(column).ok()?;
        Some(line_start(text, line)? + column)
    };
    Some((offset(from)?, offset(to)?))
}

fn line_start(text: &str, line: usize) -> Option<usize> {
    match line.checked_sub(1) {
        None => Some(0),
        Some(before) => text.match_indices('\n').nth(before).map(|(end, _)| end + 1),
    }
}

/// Line and column of a byte.
pub(crate) fn position(text: &str, offset: usize) -> (u32, u32) {
    let before = &text[..offset];
    let line = before.matches('\n').count();
    let column = offset - before.rfind('\n').map_or(0, |end| end + 1);
    let number = |number| u32::try_from(number).unwrap_or(u32::MAX);
    (number(line), number(column))
}

/// How many characters the first bytes of a line are; people and editors count those.
pub(crate) fn characters(text: &str, line: u32, bytes: u32) -> u32 {
    let count = || {
        let start = line_start(text, usize::try_from(line).ok()?)?;
        let end = start + usize::try_from(bytes).ok()?;
        u32::try_from(text.get(start..end)?.chars().count()).ok()
    };
    count().unwrap_or(bytes)
}

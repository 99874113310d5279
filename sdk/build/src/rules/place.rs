//! Where in a file something is: by the source info of its descriptor, and, where the file's text
//! is at hand, by the place of the field inside the option.

use std::collections::HashMap;

#[cfg(feature = "generate")]
use prost_reflect::prost_types::FileDescriptorProto;
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
        Some(text::position(text, start + offset))
    }

    fn locations(&self) -> impl Iterator<Item = &'a Location> + use<'a> {
        let info = self.file.file_descriptor_proto().source_code_info.as_ref();
        info.into_iter().flat_map(|info| &info.location)
    }

    fn place(&self, position: Option<(u32, u32)>) -> Place {
        place(self.file.name(), self.source, position)
    }
}

/// The place of an element of a file that is no descriptor yet.
#[cfg(feature = "generate")]
pub(crate) fn place_of(file: &FileDescriptorProto, sources: &Sources, path: &[i32]) -> Place {
    let position = location(file, path).and_then(start);
    place(file.name(), sources.0.get(file.name()), position)
}

/// The place of a byte of a file.
#[cfg(feature = "generate")]
pub(crate) fn place_at(
    file: &FileDescriptorProto,
    sources: &Sources,
    offset: usize,
) -> Option<Place> {
    let source = sources.0.get(file.name())?;
    let position = text::position(&source.text, offset);
    Some(place(file.name(), Some(source), Some(position)))
}

/// The text of an element, and at which byte it begins.
#[cfg(feature = "generate")]
pub(crate) fn text_of<'a>(
    file: &FileDescriptorProto,
    sources: &'a Sources,
    path: &[i32],
) -> Option<(usize, &'a str)> {
    let text = &sources.0.get(file.name())?.text;
    let (start, end) = span(location(file, path)?, text)?;
    Some((start, text.get(start..end)?))
}

#[cfg(feature = "generate")]
fn location<'a>(file: &'a FileDescriptorProto, path: &[i32]) -> Option<&'a Location> {
    let info = file.source_code_info.as_ref()?;
    info.location.iter().find(|location| location.path == path)
}

/// Lines and columns count from 0 here, and columns are bytes.
fn place(name: &str, source: Option<&Source>, position: Option<(u32, u32)>) -> Place {
    let file = source.map_or(name, |source| &source.path).to_owned();
    let position = position.map(|(line, column)| {
        let text = source.map_or("", |source| &source.text);
        (line + 1, text::characters(text, line, column) + 1)
    });
    Place { file, position }
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
        Some(text::line_start(text, line)? + column)
    };
    Some((offset(from)?, offset(to)?))
}

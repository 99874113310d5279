//! What the proto compiler refuses, in words that say what to do. It knows nothing of routing, so
//! a misspelt field of a rule is looked for once more here, to name what was meant.

use std::error::Error as _;

use prost_reflect::prost_types::FileDescriptorProto;
use prost_reflect::{DescriptorError, DescriptorPool, FieldDescriptor, Kind, MessageDescriptor};
use sidelane_proto::model::error::nearest;

use super::load::OPTIONS;
use crate::error::{Error, Place};
use crate::rules::text::{self, Field, Value};
use crate::rules::{Source, Sources, place_at, place_of, text_of};

/// A file that cannot be parsed.
pub(super) fn syntax(error: &protox::Error, source: &Source) -> Error {
    let message = error.to_string();
    // The compiler says the place in its debug form alone, before the message.
    let shown = format!("{error:?}");
    let mut numbers = shown
        .strip_suffix(&message)
        .unwrap_or_default()
        .trim_end_matches([':', ' '])
        .rsplit(':');
    let mut number = || numbers.next()?.parse::<u32>().ok();
    let position = match (number(), number()) {
        (Some(column), Some(line)) => Some((line, column)),
        // Without a place it is about the end of the file.
        _ => {
            let (line, column) = text::position(&source.text, source.text.len());
            Some((line + 1, column + 1))
        }
    };
    let place = Place {
        file: source.path.clone(),
        position,
    };
    Error::at(place, message)
}

/// A file whose parts do not fit together, or into the others.
pub(super) fn descriptors(
    error: &DescriptorError,
    file: &FileDescriptorProto,
    sources: &Sources,
    pool: &DescriptorPool,
) -> Error {
    let path = error.path().unwrap_or_default();
    let place = || place_of(file, sources, path);
    let message = error.to_string();
    if let Some(inner) = error.source() {
        // A value in braces: which part of it?
        let found = wrong_value(&message, path, file, sources, pool);
        return found.unwrap_or_else(|| Error::at(place(), format!("{message}: {inner}")));
    }
    let hint = option_hint(&message, file, pool).or_else(|| twice_hint(&message));
    Error::at(place(), message + &hint.unwrap_or_default())
}

/// The part of an option's value that is wrong.
fn wrong_value(
    message: &str,
    path: &[i32],
    file: &FileDescriptorProto,
    sources: &Sources,
    pool: &DescriptorPool,
) -> Option<Error> {
    let kind = pool.get_message_by_name(quoted(message).next()?)?;
    let (start, option) = text_of(file, sources, path)?;
    let (offset, text) = wrong_field(&text::fields(option), &kind)?;
    let place = place_at(file, sources, start + offset)?;
    Some(Error::at(place, text))
}

/// The first field that does not fit, and why.
fn wrong_field(fields: &[Field<'_>], message: &MessageDescriptor) -> Option<(usize, String)> {
    let mut seen = std::collections::HashSet::new();
    for field in fields {
        let Some(known) = message.get_field_by_name(field.name) else {
            let full = message.full_name();
            let known = message.fields().map(|field| field.name().to_owned());
            let text = unknown(field.name, &format!("field of {full}"), known);
            return Some((field.offset, text));
        };
        if !known.is_list() && (!seen.insert(field.name) || field.values.len() != 1) {
            return Some((field.offset, format!("`{}` is given twice", field.name)));
        }
        let wrong = field.values.iter().find_map(|value| wrong(value, &known));
        if wrong.is_some() {
            return wrong;
        }
    }
    None
}

fn wrong(value: &Value<'_>, field: &FieldDescriptor) -> Option<(usize, String)> {
    let text = value.text;
    let is_number = text.starts_with(|it: char| it.is_ascii_digit() || it == '-');
    let wanted = match field.kind() {
        Kind::Message(message) if text.is_empty() => return wrong_field(&value.fields, &message),
        Kind::Message(_) => "fields in braces",
        Kind::Enum(known) if !text.is_empty() && !is_number => {
            if known.get_value_by_name(text).is_some() {
                return None;
            }
            let what = format!("value of {}", known.full_name());
            let names = known.values().filter(|value| value.number() != 0);
            let names = names.map(|value| value.name().to_owned());
            return Some((value.offset, unknown(text, &what, names)));
        }
        Kind::Enum(_) => return None,
        Kind::String | Kind::Bytes if text.starts_with(['"', '\'']) => return None,
        Kind::String | Kind::Bytes => "a text in quotes",
        Kind::Bool
            if matches!(
                text,
                "true" | "false" | "t" | "f" | "True" | "False" | "0" | "1"
            ) =>
        {
            return None;
        }
        Kind::Bool => "true or false",
        _ if is_number => return None,
        _ => "a number",
    };
    let given = if text.is_empty() { "{" } else { text };
    let text = format!("`{}` is {wanted}, and `{given}` is not", field.name());
    Some((value.offset, text))
}

/// What may have been meant by the name of an option.
fn option_hint(message: &str, file: &FileDescriptorProto, pool: &DescriptorPool) -> Option<String> {
    let mut quoted = quoted(message);
    let first = quoted.next()?;
    if message.ends_with("is not defined") {
        let imports = file.dependency.iter().any(|import| import == OPTIONS);
        let name = first.rsplit_once("routing.v1.").map(|(_, name)| name);
        if let Some(name) = name.filter(|_| !first.starts_with('(')) {
            if !imports {
                return Some(format!("; say `import \"{OPTIONS}\";`"));
            }
            let known = ["service", "method", "lane", "class"];
            let meant = nearest(name, known)?;
            return Some(format!("; did you mean `sidelane.routing.v1.{meant}`?"));
        }
        // `option field '(a.b).c' is not defined`
        let (option, field) = first.rsplit_once('.')?;
        let option = option.strip_prefix('(')?.strip_suffix(')')?;
        let option = pool.get_extension_by_name(option)?;
        let Kind::Message(kind) = option.kind() else {
            return None;
        };
        let names: Vec<_> = kind.fields().collect();
        return meant(field, names.iter().map(FieldDescriptor::name));
    }
    // `expected a value of type 'a.Enum' for option '…', but found 'X'`
    let known = pool.get_enum_by_name(first)?;
    let values: Vec<_> = known.values().collect();
    let names = values.iter().filter(|value| value.number() != 0);
    meant(
        quoted.last()?,
        names.map(prost_reflect::EnumValueDescriptor::name),
    )
}

/// `name 'a.B' is already defined in file 'c.proto'`
fn twice_hint(message: &str) -> Option<String> {
    let twice =
        message.contains("is already defined in file") || message.ends_with("is defined twice");
    twice.then(|| "; give one of them another name".to_owned())
}

fn meant<'a>(given: &str, known: impl Iterator<Item = &'a str>) -> Option<String> {
    let known: Vec<_> = known.collect();
    let meant = nearest(given, known.iter().copied());
    let meant = meant.map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
    Some(format!("{meant} (known are {})", known.join(", ")))
}

fn unknown(given: &str, what: &str, known: impl Iterator<Item = String>) -> String {
    let known: Vec<_> = known.collect();
    let hint = meant(given, known.iter().map(String::as_str)).unwrap_or_default();
    format!("`{given}` is no {what}{hint}")
}

/// The texts in single quotes.
fn quoted(message: &str) -> impl Iterator<Item = &str> {
    message.split('\'').skip(1).step_by(2)
}

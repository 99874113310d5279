//! `hash_on` names a field of the request, whose value becomes text: so it must be there, be one
//! value, and be of a kind that has one text.

use prost_reflect::{Kind, MessageDescriptor, MethodDescriptor};
use sidelane_proto::model::Problem;
use sidelane_proto::model::error::nearest;

/// The most fields that an error lists.
const LISTED: usize = 20;

/// Can calls of `method` be told apart by the field `path` of their request?
pub(super) fn check(method: &MethodDescriptor, path: &str) -> Result<(), Problem> {
    let mut message = method.input();
    let mut names = path.split('.').peekable();
    while let Some(name) = names.next() {
        let Some(field) = message.get_field_by_name(name) else {
            return Err(unknown(path, name, &message));
        };
        let refused = |why: &str| {
            let full = message.full_name();
            let text = format!(
                "`{path}` cannot keep calls together: `{name}` of {full} {why}; name one string, \
                 bytes, bool, enum or integer field"
            );
            Problem::Refused(text)
        };
        if field.is_map() {
            return Err(refused("is a map"));
        }
        if field.is_list() {
            return Err(refused("is repeated"));
        }
        match (field.kind(), names.peek()) {
            (Kind::Message(inner), Some(_)) => message = inner,
            (Kind::Message(_), None) => return Err(refused("is a message")),
            (_, Some(_)) => return Err(refused("is no message and has no fields")),
            (Kind::Float | Kind::Double, None) => {
                return Err(refused(
                    "is a floating-point number, of which one value has many texts",
                ));
            }
            (_, None) => {}
        }
    }
    Ok(())
}

fn unknown(path: &str, name: &str, message: &MessageDescriptor) -> Problem {
    let fields: Vec<_> = message.fields().collect();
    let names: Vec<&str> = fields
        .iter()
        .map(prost_reflect::FieldDescriptor::name)
        .collect();
    let meant = nearest(name, names.iter().copied());
    let meant = meant.map_or_else(String::new, |name| format!("; did you mean `{name}`?"));
    let more = if names.len() > LISTED { ", …" } else { "" };
    let known = match names.as_slice() {
        [] => "it has none".to_owned(),
        names => format!(
            "it has {}{more}",
            names[..names.len().min(LISTED)].join(", ")
        ),
    };
    let full = message.full_name();
    Problem::Refused(format!(
        "`{path}`: `{name}` is no field of {full}{meant} ({known})"
    ))
}

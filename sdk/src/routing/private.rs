//! What the macros need and nobody else should name. The relation of classes and lanes is sealed
//! by the traits here; the macros open it for types of one's own, and hold each pair that they add
//! against the model.

pub use std::option::Option;
pub use std::time::Duration;

pub use super::phantom::swimlane_markers::LaneMarker;
pub use sidelane_proto::model::{ClassDefinition, LaneBounds, LaneDefinition, OwnClass};

use sidelane_proto::model::Lane;
use sidelane_proto::model::lane::FIRST_OWN_LANE;

/// This type was made a marker by the macro for it.
#[diagnostic::on_unimplemented(
    message = "`{Self}` is no lane and no connection class of Sidelane's",
    label = "not made by a macro of Sidelane",
    note = "`define_swimlane!` makes a lane of one's own, `define_connection!` a connection class"
)]
pub trait Opened {}

/// This class was said to go with lane `L` by the macro for one of them.
pub trait Legal<L> {}

/// The lanes of a class of one's own, which are all Sidelane's own.
#[must_use]
pub const fn lanes_of_class(lanes: &'static [Lane]) -> &'static [Lane] {
    let mut index = 0;
    while index < lanes.len() {
        assert!(
            lanes[index].id() < FIRST_OWN_LANE,
            "a class names those of Sidelane's own lanes that go with it; a lane of one's own names \
             its classes itself, in `define_swimlane!`"
        );
        index += 1;
    }
    lanes
}

/// The length of `BulkLoad` as `bulk_load`.
#[must_use]
pub const fn snake_length(name: &str) -> usize {
    let bytes = name.as_bytes();
    let (mut index, mut length) = (0, 0);
    while index < bytes.len() {
        length += if begins_word(bytes, index) { 2 } else { 1 };
        index += 1;
    }
    length
}

/// `BulkLoad` as `bulk_load`; `LENGTH` is what [`snake_length`] says.
#[must_use]
pub const fn snake<const LENGTH: usize>(name: &str) -> [u8; LENGTH] {
    let bytes = name.as_bytes();
    let mut snake = [0; LENGTH];
    let (mut index, mut length) = (0, 0);
    while index < bytes.len() {
        if begins_word(bytes, index) {
            snake[length] = b'_';
            length += 1;
        }
        snake[length] = bytes[index].to_ascii_lowercase();
        length += 1;
        index += 1;
    }
    snake
}

/// The name that [`snake`] wrote.
#[must_use]
pub const fn text(bytes: &'static [u8]) -> &'static str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => panic!("the name of this type has letters outside ASCII: give `name = \"…\"`"),
    }
}

const fn begins_word(bytes: &[u8], index: usize) -> bool {
    index > 0 && bytes[index].is_ascii_uppercase() && bytes[index - 1] != b'_'
}

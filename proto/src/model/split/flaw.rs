//! Whether a split can be, decided in a constant: for rules that are written in Rust, so that rustc
//! refuses what [`Split::check`] refuses elsewhere in more words.

use std::borrow::Cow;

use super::{
    HEADER_NAME_LIMIT, HEADER_VALUE_LIMIT, HeaderMatch, LABEL_LIMIT, PARTS_LIMIT, Split, SplitPart,
};
use crate::model::admission::{Wrong, text, wrong};
use crate::model::class::same_text;

impl Split {
    pub(in crate::model) const fn flaw(&self) -> Option<Wrong> {
        if text(&self.label).len() > LABEL_LIMIT {
            return wrong("split.label", "has more than 256 bytes");
        }
        if has(text(&self.label), b'=') {
            return wrong("split.label", "has a `=`, at which the key of a label ends");
        }
        let parts = self.parts();
        if parts.is_empty() || parts.len() > PARTS_LIMIT {
            return wrong("split.parts", "has 1 to 8 entries");
        }
        let (mut index, mut sum) = (0, 0);
        while index < parts.len() {
            if let Some(wrong) = parts[index].flaw() {
                return Some(wrong);
            }
            let mut before = 0;
            while before < index {
                if same_text(text(&parts[before].value), text(&parts[index].value)) {
                    return wrong("split.parts", "has two entries of one value");
                }
                before += 1;
            }
            sum += parts[index].percent;
            index += 1;
        }
        if sum != 100 {
            return wrong("split.parts", "has percentages that are not 100 together");
        }
        None
    }

    const fn parts(&self) -> &[SplitPart] {
        match &self.parts {
            Cow::Borrowed(parts) => parts,
            Cow::Owned(parts) => parts.as_slice(),
        }
    }
}

impl SplitPart {
    const fn flaw(&self) -> Option<Wrong> {
        let value = text(&self.value);
        if value.is_empty() || value.len() > LABEL_LIMIT {
            return wrong("split.parts", "has a value that is not 1 to 256 bytes");
        }
        if self.percent > 100 {
            return wrong("split.parts", "has more than 100 percent in one entry");
        }
        match &self.header {
            Some(header) if !header.can_be() => wrong(
                "split.parts",
                "has a header that is none of an app's own, in lower case and with a value in \
                 ASCII",
            ),
            _ => None,
        }
    }
}

impl HeaderMatch {
    const fn can_be(&self) -> bool {
        let (name, value) = (text(&self.name).as_bytes(), text(&self.value).as_bytes());
        if name.is_empty() || name.len() > HEADER_NAME_LIMIT {
            return false;
        }
        if value.is_empty() || value.len() > HEADER_VALUE_LIMIT {
            return false;
        }
        let mut index = 0;
        while index < name.len() {
            if !matches!(name[index], b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.') {
                return false;
            }
            index += 1;
        }
        index = 0;
        while index < value.len() {
            if !matches!(value[index], b' '..=b'~') {
                return false;
            }
            index += 1;
        }
        !is_at(name, b"sidelane-", 0)
            && !is_at(name, b"grpc-", 0)
            && (name.len() < 4 || !is_at(name, b"-bin", name.len() - 4))
    }
}

const fn has(text: &str, byte: u8) -> bool {
    let (bytes, mut index) = (text.as_bytes(), 0);
    while index < bytes.len() {
        if bytes[index] == byte {
            return true;
        }
        index += 1;
    }
    false
}

/// Does `part` stand at this place of the name?
const fn is_at(name: &[u8], part: &[u8], place: usize) -> bool {
    let mut index = 0;
    while index < part.len() {
        if place + index >= name.len() || name[place + index] != part[index] {
            return false;
        }
        index += 1;
    }
    true
}

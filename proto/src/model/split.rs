//! How the calls of a service are split between versions of it: by a label of the endpoints, in
//! percent, and by a header that forces one of them. Pure: who may be called at all, and what
//! happens where nobody of a part can be, is decided beside the endpoints.

mod flaw;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;

use super::endpoint::LABEL_LIMIT;
use super::error::{FieldError, Problem};
use crate::wire::routing::v1 as wire;

/// The most parts of a split.
pub const PARTS_LIMIT: usize = 8;
/// The longest name of a header that forces a part, in bytes.
pub const HEADER_NAME_LIMIT: usize = 64;
/// The longest value of a header that forces a part, in bytes.
pub const HEADER_VALUE_LIMIT: usize = 256;
/// The label that is meant where a split names none.
pub const DEFAULT_LABEL: &str = "version";

/// A split of a service's calls.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Split {
    /// The label by whose value endpoints are told apart.
    pub label: Cow<'static, str>,
    /// At least one and at most [`PARTS_LIMIT`], each value once; their percentages are 100
    /// together.
    pub parts: Cow<'static, [SplitPart]>,
    /// A call whose part has nobody fails. Otherwise it goes to the other parts that get calls.
    pub strict: bool,
}

/// One part of a split.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SplitPart {
    /// The label's value.
    pub value: Cow<'static, str>,
    /// Its share of the calls that no header forces, 0 to 100.
    pub percent: u32,
    /// A call with this header goes here.
    pub header: Option<HeaderMatch>,
}

/// A header by its name, in lower case, and its exact value.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeaderMatch {
    /// Its name.
    pub name: Cow<'static, str>,
    /// Its value.
    pub value: Cow<'static, str>,
}

impl Split {
    /// By the label `version`; a part without endpoints falls to the others.
    #[must_use]
    pub const fn by_version(parts: &'static [SplitPart]) -> Self {
        Self {
            label: Cow::Borrowed(DEFAULT_LABEL),
            parts: Cow::Borrowed(parts),
            strict: false,
        }
    }

    /// The part that a header of the call forces: the first whose header it has.
    pub fn forced(&self, has: impl Fn(&HeaderMatch) -> bool) -> Option<usize> {
        let forces = |part: &SplitPart| part.header.as_ref().is_some_and(&has);
        self.parts.iter().position(forces)
    }

    /// The part that a point on the line from 0 to 2^64 falls to, each part having its percentage
    /// of the line, in their order. A point that stays where it is changes its part only where the
    /// percentages before it change.
    #[must_use]
    pub fn at(&self, point: u64) -> usize {
        // Below 100, since the product is below 100 times 2^64.
        let percent = (u128::from(point) * 100) >> 64;
        let mut end = 0_u128;
        for (index, part) in self.parts.iter().enumerate() {
            end += u128::from(part.percent);
            if percent < end {
                return index;
            }
        }
        // The percentages are 100 together.
        self.parts.len() - 1
    }

    /// The part to which an endpoint with these labels belongs.
    #[must_use]
    pub fn part_of(&self, labels: &BTreeMap<String, String>) -> Option<usize> {
        let value = labels.get(&*self.label)?;
        self.parts.iter().position(|part| part.value == *value)
    }

    /// From the wire, as it was written; [`Split::check`] says whether it can be.
    pub(super) fn from_wire(split: wire::Split) -> Self {
        let label = match split.label.as_str() {
            "" => Cow::Borrowed(DEFAULT_LABEL),
            _ => Cow::Owned(split.label),
        };
        Self {
            label,
            parts: split.parts.into_iter().map(SplitPart::from_wire).collect(),
            strict: split.strict,
        }
    }

    pub(super) fn to_wire(&self) -> wire::Split {
        wire::Split {
            label: self.label.clone().into_owned(),
            parts: self.parts.iter().map(SplitPart::to_wire).collect(),
            strict: self.strict,
        }
    }

    /// Can it be?
    pub(super) fn check(&self) -> Result<(), FieldError> {
        check_text(&self.label, "label")?;
        if self.label.contains('=') {
            let given = self.label.clone().into_owned();
            let wanted = "the key of a label, which ends at its first `=`";
            return Err(FieldError::new(
                "label",
                Problem::Malformed { given, wanted },
            ));
        }
        if self.parts.is_empty() {
            return Err(FieldError::new("parts", Problem::Missing));
        }
        if self.parts.len() > PARTS_LIMIT {
            let (count, limit) = (self.parts.len(), PARTS_LIMIT);
            return Err(FieldError::new("parts", Problem::TooMany { count, limit }));
        }
        for (index, part) in self.parts.iter().enumerate() {
            let within = |error: FieldError| error.within(format_args!("parts[{index}]"));
            part.check().map_err(within)?;
            if self.parts[..index].iter().any(|it| it.value == part.value) {
                let given = part.value.clone().into_owned();
                let error = FieldError::new("value", Problem::Duplicate { given });
                return Err(within(error));
            }
        }
        let sum: u32 = self.parts.iter().map(|part| part.percent).sum();
        if sum != 100 {
            let text = format!("their percentages are {sum} together; they must be 100");
            return Err(FieldError::new("parts", Problem::OutOfBounds(text)));
        }
        Ok(())
    }
}

impl SplitPart {
    /// So many of a hundred calls go to endpoints with this value, and no header forces it.
    #[must_use]
    pub const fn of(value: &'static str, percent: u32) -> Self {
        Self {
            value: Cow::Borrowed(value),
            percent,
            header: None,
        }
    }

    fn from_wire(part: wire::SplitPart) -> Self {
        let header = !(part.header.is_empty() && part.header_value.is_empty());
        Self {
            value: Cow::Owned(part.value),
            percent: part.percent,
            header: header.then_some(HeaderMatch {
                name: Cow::Owned(part.header),
                value: Cow::Owned(part.header_value),
            }),
        }
    }

    fn to_wire(&self) -> wire::SplitPart {
        let (header, header_value) = match &self.header {
            Some(it) => (it.name.clone().into_owned(), it.value.clone().into_owned()),
            None => Default::default(),
        };
        wire::SplitPart {
            value: self.value.clone().into_owned(),
            percent: self.percent,
            header,
            header_value,
        }
    }

    fn check(&self) -> Result<(), FieldError> {
        if self.value.is_empty() {
            return Err(FieldError::new("value", Problem::Missing));
        }
        check_text(&self.value, "value")?;
        if self.percent > 100 {
            let text = format!("{} percent; it is 0 to 100", self.percent);
            return Err(FieldError::new("percent", Problem::OutOfBounds(text)));
        }
        self.header.as_ref().map_or(Ok(()), HeaderMatch::check)
    }
}

impl HeaderMatch {
    fn check(&self) -> Result<(), FieldError> {
        let (name, value) = (&*self.name, &*self.value);
        if name.is_empty() {
            return Err(FieldError::new("header", Problem::Missing));
        }
        if value.is_empty() {
            return Err(FieldError::new("header_value", Problem::Missing));
        }
        let plain = |byte: u8| {
            byte.is_ascii_lowercase() || byte.is_ascii_digit() || matches!(byte, b'-' | b'_' | b'.')
        };
        let malformed = |field: &str, given: &str, wanted| {
            let given = given.to_owned();
            FieldError::new(field, Problem::Malformed { given, wanted })
        };
        if name.len() > HEADER_NAME_LIMIT || !name.bytes().all(plain) {
            let wanted = "a header's name in lower case, of at most 64 bytes";
            return Err(malformed("header", name, wanted));
        }
        if name.starts_with("sidelane-") || name.starts_with("grpc-") || name.ends_with("-bin") {
            let text = format!(
                "`{name}` cannot force a part: `sidelane-…` and `grpc-…` mean something else \
                 already, and `…-bin` is no text"
            );
            return Err(FieldError::new("header", Problem::Refused(text)));
        }
        let visible = |byte: u8| byte == b' ' || byte.is_ascii_graphic();
        if value.len() > HEADER_VALUE_LIMIT || !value.bytes().all(visible) {
            let wanted = "a header's value in ASCII, of at most 256 bytes";
            return Err(malformed("header_value", value, wanted));
        }
        Ok(())
    }
}

impl fmt::Display for Split {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "by label {}:", self.label)?;
        for (index, part) in self.parts.iter().enumerate() {
            let comma = if index == 0 { "" } else { "," };
            write!(formatter, "{comma} {} {} %", part.value, part.percent)?;
            if let Some(header) = &part.header {
                write!(formatter, " (or {header})")?;
            }
        }
        formatter.write_str(match self.strict {
            true => "; a part without endpoints fails",
            false => "; a part without endpoints falls to the others",
        })
    }
}

impl fmt::Display for HeaderMatch {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "`{}: {}`", self.name, self.value)
    }
}

fn check_text(text: &str, field: &str) -> Result<(), FieldError> {
    if text.len() > LABEL_LIMIT {
        let (length, limit) = (text.len(), LABEL_LIMIT);
        return Err(FieldError::new(field, Problem::TooLong { length, limit }));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn part(value: &str, percent: u32) -> wire::SplitPart {
        wire::SplitPart {
            value: value.to_owned(),
            percent,
            ..wire::SplitPart::default()
        }
    }

    fn split(parts: Vec<wire::SplitPart>) -> wire::Split {
        wire::Split {
            parts,
            ..wire::Split::default()
        }
    }

    fn read(parts: Vec<wire::SplitPart>) -> Result<Split, FieldError> {
        let split = Split::from_wire(split(parts));
        // What rustc refuses and what all others refuse is the same.
        assert_eq!(split.flaw().is_some(), split.check().is_err(), "{split:?}");
        split.check().map(|()| split)
    }

    fn by_header(name: &str, value: &str) -> wire::SplitPart {
        wire::SplitPart {
            header: name.to_owned(),
            header_value: value.to_owned(),
            ..part("v2", 0)
        }
    }

    #[test]
    fn what_cannot_be_is_refused_with_its_path() {
        let many = (0..=PARTS_LIMIT).map(|index| part(&index.to_string(), 0));
        let one = || part("v1", 100);
        let long = "x".repeat(257);
        for (parts, path) in [
            (vec![], "parts"),
            (many.collect(), "parts"),
            (vec![part("v1", 0), part("v2", 0)], "parts"),
            (vec![part("v1", 60), part("v2", 41)], "parts"),
            (vec![part("v1", 101)], "parts[0].percent"),
            (vec![part("", 100)], "parts[0].value"),
            (vec![part(&long, 100)], "parts[0].value"),
            (vec![one(), part("v1", 0)], "parts[1].value"),
            (vec![one(), by_header("", "x")], "parts[1].header"),
            (vec![one(), by_header("x", "")], "parts[1].header_value"),
            (vec![one(), by_header("X-Canary", "x")], "parts[1].header"),
            (vec![one(), by_header("a b", "x")], "parts[1].header"),
            (
                vec![one(), by_header("sidelane-node", "x")],
                "parts[1].header",
            ),
            (
                vec![one(), by_header("grpc-timeout", "x")],
                "parts[1].header",
            ),
            (vec![one(), by_header("x-bin", "x")], "parts[1].header"),
            (vec![one(), by_header("x", "\n")], "parts[1].header_value"),
            (vec![one(), by_header("x", &long)], "parts[1].header_value"),
        ] {
            let error = read(parts.clone()).unwrap_err();
            assert_eq!(error.path, path, "{parts:?}: {error}");
        }
        let label = wire::Split {
            label: long,
            ..split(vec![one()])
        };
        let label = Split::from_wire(label);
        assert_eq!(label.check().unwrap_err().path, "label");
        assert_eq!(label.flaw().map(|it| it.field), Some("split.label"));
        let text = read(vec![part("v1", 90), part("v2", 9)]).unwrap_err();
        let text = text.to_string();
        assert!(text.contains("99 together; they must be 100"), "{text}");
    }

    #[test]
    fn what_goes_over_the_wire_comes_back() {
        let written = wire::Split {
            label: "track".to_owned(),
            strict: true,
            ..split(vec![part("v1", 100), by_header("x-canary", "yes")])
        };
        let read = Split::from_wire(written.clone());
        assert_eq!(read.to_wire(), written);
        let text = "by label track: v1 100 %, v2 0 % (or `x-canary: yes`); a part without \
                    endpoints fails";
        assert_eq!(read.to_string(), text);
        let unnamed = read_of(&[100]);
        assert_eq!(unnamed.label, DEFAULT_LABEL);
    }

    fn read_of(percents: &[u32]) -> Split {
        let parts = percents.iter().enumerate();
        read(
            parts
                .map(|(index, it)| part(&format!("v{index}"), *it))
                .collect(),
        )
        .unwrap()
    }

    #[test]
    fn a_header_forces_the_first_part_that_has_it() {
        let split = read(vec![part("v1", 100), by_header("x-canary", "yes")]).unwrap();
        assert_eq!(split.forced(|it| it.value == "yes"), Some(1));
        assert_eq!(split.forced(|_| false), None);
        let labels = |value: &str| BTreeMap::from([("version".to_owned(), value.to_owned())]);
        assert_eq!(split.part_of(&labels("v2")), Some(1));
        assert_eq!(split.part_of(&labels("v3")), None);
        assert_eq!(split.part_of(&BTreeMap::new()), None);
    }

    /// Percentages that are 100 together.
    fn percents() -> impl Strategy<Value = Vec<u32>> {
        proptest::collection::vec(0..=100_u32, 0..PARTS_LIMIT).prop_map(|mut cuts| {
            cuts.extend([0, 100]);
            cuts.sort_unstable();
            let mut parts: Vec<u32> = cuts.windows(2).map(|pair| pair[1] - pair[0]).collect();
            parts.truncate(PARTS_LIMIT);
            let sum: u32 = parts.iter().sum();
            parts[0] += 100 - sum;
            parts
        })
    }

    proptest! {
        #[test]
        fn a_part_without_calls_gets_none(percents in percents(), point: u64) {
            prop_assert!(percents[read_of(&percents).at(point)] > 0);
        }

        /// Of points that are spread evenly, each part gets its share to the point.
        #[test]
        fn each_part_gets_its_share(percents in percents(), offset in 0_u64..=u64::MAX / 1_000) {
            let split = read_of(&percents);
            let mut got = vec![0_u32; percents.len()];
            for step in 0..1_000_u64 {
                got[split.at((u64::MAX / 1_000) * step + offset)] += 1;
            }
            for (got, percent) in got.iter().zip(&percents) {
                prop_assert!(got.abs_diff(percent * 10) <= 1, "{got} for {percent} %");
            }
        }

        /// Moving calls from the first of two to the second moves no other way.
        #[test]
        fn a_key_moves_only_in_the_direction_of_the_change(
            from in 0_u32..=100, to in 0_u32..=100, point: u64,
        ) {
            let part = |first: u32| read_of(&[first, 100 - first]).at(point);
            let (before, after) = (part(from.max(to)), part(from.min(to)));
            prop_assert!(before <= after);
        }
    }
}

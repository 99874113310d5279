//! Traffic splits: which of a service's endpoints a call is meant for, by the part of the split that
//! they belong to. Pure, and below the stages, like `call`: what a header forces and which number
//! comes up is told from outside. Hubs know nothing of percentages; they are given sets of parts.

use sidelane_proto::model::Split;
use sidelane_proto::model::split::PARTS_LIMIT;

use crate::call::hash_key;

/// The part of endpoints that are in none.
pub(crate) const NO_PART: u8 = 15;
const _: () = assert!(PARTS_LIMIT <= NO_PART as usize);

/// A set of parts of a split.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parts(u16);

/// The parts that a call is meant for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Course {
    /// Where it goes.
    pub first: Parts,
    /// Where it goes if none of those can take it; `None` where it fails then.
    pub then: Option<Parts>,
}

/// Why a call goes to its part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// A header forces it.
    Header,
    /// Its key falls there.
    Key,
    /// Chance.
    Chance,
}

impl Parts {
    /// All endpoints, those in no part too.
    pub const ALL: Self = Self(u16::MAX);

    /// One part alone.
    #[must_use]
    pub const fn only(part: usize) -> Self {
        Self(1 << part)
    }

    /// Is an endpoint of this part among them? `None` is one that is in no part.
    #[must_use]
    pub fn has(self, part: Option<usize>) -> bool {
        self.contains(number(part))
    }

    pub(crate) const fn contains(self, part: u8) -> bool {
        self.0 & (1 << part) != 0
    }

    /// Those parts that get calls by themselves, but this one.
    fn others(split: &Split, part: usize) -> Option<Self> {
        let parts = split.parts.iter().enumerate();
        let get = parts.filter(|(index, it)| it.percent > 0 && *index != part);
        let set = get.fold(0, |set, (index, _)| set | (1 << index));
        (set != 0).then_some(Self(set))
    }
}

impl Course {
    /// Where there is no split.
    pub const ANY: Self = Self {
        first: Parts::ALL,
        then: None,
    };

    /// That of a call which this part was chosen for.
    #[must_use]
    pub fn to(split: &Split, part: usize) -> Self {
        let others = || Parts::others(split, part);
        Self {
            first: Parts::only(part),
            then: if split.strict { None } else { others() },
        }
    }
}

/// The part that a call goes to, and why: what a header forces, else where its key falls, if calls
/// of this service are kept together by keys, else chance. `random` is any 64 bits.
#[must_use]
pub fn part_of_call(
    split: &Split,
    forced: Option<usize>,
    key: Option<u64>,
    random: u64,
) -> (usize, Why) {
    match (forced, key) {
        (Some(part), _) => (part, Why::Header),
        // Not the key itself, which also leads to a place on the ring: the keys of a part would crowd
        // in one piece of it.
        (None, Some(key)) => (split.at(hash_key(&key.to_le_bytes())), Why::Key),
        (None, None) => (split.at(random), Why::Chance),
    }
}

/// A part as kinds have it.
pub(crate) fn number(part: Option<usize>) -> u8 {
    part.and_then(|part| u8::try_from(part).ok())
        .unwrap_or(NO_PART)
}

#[cfg(test)]
mod tests {
    use sidelane_proto::model::SplitPart;

    use super::*;

    fn split(strict: bool) -> Split {
        let part = |(index, percent)| SplitPart {
            value: format!("v{index}").into(),
            percent,
            header: None,
        };
        Split {
            label: "version".into(),
            parts: [90, 10, 0].into_iter().enumerate().map(part).collect(),
            strict,
        }
    }

    #[test]
    fn a_header_beats_the_key_and_the_key_beats_chance() {
        let split = split(false);
        assert_eq!(part_of_call(&split, Some(2), Some(0), 0), (2, Why::Header));
        assert_eq!(part_of_call(&split, None, None, 0), (0, Why::Chance));
        assert_eq!(part_of_call(&split, None, None, u64::MAX), (1, Why::Chance));
        assert_eq!(part_of_call(&split, None, Some(7), 0).1, Why::Key);
    }

    #[test]
    fn the_others_are_those_that_get_calls() {
        let course = Course::to(&split(false), 0);
        assert!(course.first.has(Some(0)) && !course.first.has(Some(1)));
        let then = course.then.unwrap();
        assert!(then.has(Some(1)) && !then.has(Some(2)) && !then.has(None));
        assert_eq!(Course::to(&split(true), 0).then, None);
        assert!(Course::ANY.first.has(None) && Course::ANY.first.has(Some(7)));
    }
}

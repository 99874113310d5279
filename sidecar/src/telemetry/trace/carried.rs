//! What travels beside a trace and is none of the mesh's business: `tracestate` (W3C Trace Context)
//! and `baggage` (W3C Baggage). Pure. Within the documents' bounds they go on untouched; beyond them
//! they are cut as the documents say, by whole members; a `tracestate` that breaks its grammar is
//! dropped whole, since half of it may mean something else.

/// What tracing systems keep with a call.
pub(super) const TRACESTATE: &str = "tracestate";
/// What apps keep with a call.
pub(super) const BAGGAGE: &str = "baggage";

/// The most members of a `tracestate`; more break its grammar.
pub const STATE_MEMBERS: usize = 32;
/// As many bytes of a `tracestate` go on in any case; beyond, members are left out.
pub const STATE_BYTES: usize = 512;
/// Members of a `tracestate` that are longer are the first to be left out.
const STATE_LONG: usize = 128;
/// As many members of a `baggage` go on.
pub const BAGGAGE_MEMBERS: usize = 64;
/// As many bytes of a `baggage` go on.
pub const BAGGAGE_BYTES: usize = 8192;

/// The longest key of a `tracestate`, the longest of its values, and the two parts of a key.
const KEY: usize = 256;
const VALUE: usize = 256;
const TENANT: usize = 241;
const SYSTEM: usize = 14;

/// What becomes of a header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Fate {
    /// It goes on as it is.
    Untouched,
    /// This goes on in its place.
    Cut(Vec<u8>),
    /// It does not go on.
    Dropped,
}

/// What becomes of a `tracestate`, whose headers were put together with commas.
#[must_use]
pub(super) fn state(text: &[u8]) -> Fate {
    // In place: nearly every call's goes on as it is, and is only looked at.
    let mut keys: [&[u8]; STATE_MEMBERS] = [&[]; STATE_MEMBERS];
    for (index, member) in members_of(text).enumerate() {
        let Some(key) = state_key(member) else {
            return Fate::Dropped;
        };
        if index == STATE_MEMBERS || keys[..index].contains(&key) {
            return Fate::Dropped;
        }
        keys[index] = key;
    }
    if text.len() <= STATE_BYTES {
        return Fate::Untouched;
    }
    let mut members: Vec<&[u8]> = members_of(text).collect();
    while joined(&members) > STATE_BYTES {
        let long = members.iter().rposition(|it| it.len() > STATE_LONG);
        let last = members.len() - 1;
        members.remove(long.unwrap_or(last));
    }
    cut(&members)
}

/// What becomes of a `baggage`, whose headers were put together with commas. What its members say is
/// not looked at.
#[must_use]
pub(super) fn baggage(text: &[u8]) -> Fate {
    if text.len() <= BAGGAGE_BYTES && members_of(text).count() <= BAGGAGE_MEMBERS {
        return Fate::Untouched;
    }
    // What comes first was there first.
    let mut members: Vec<&[u8]> = Vec::new();
    let mut bytes = 0;
    for member in members_of(text) {
        let longer = bytes + member.len() + usize::from(!members.is_empty());
        if longer <= BAGGAGE_BYTES && members.len() < BAGGAGE_MEMBERS {
            members.push(member);
            bytes = longer;
        }
    }
    cut(&members)
}

fn cut(members: &[&[u8]]) -> Fate {
    match members {
        [] => Fate::Dropped,
        members => Fate::Cut(members.join(&b',')),
    }
}

fn joined(members: &[&[u8]]) -> usize {
    let bytes: usize = members.iter().map(|it| it.len()).sum();
    bytes + members.len().saturating_sub(1)
}

/// The members of a list; empty ones are none.
fn members_of(text: &[u8]) -> impl Iterator<Item = &[u8]> {
    let all = text.split(|byte| *byte == b',');
    all.map(trim).filter(|member| !member.is_empty())
}

/// Without the spaces and tabs around it.
pub(super) fn trim(mut text: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = text {
        text = rest;
    }
    text
}

/// The key of a member that is as the document's grammar says.
fn state_key(member: &[u8]) -> Option<&[u8]> {
    let at = member.iter().position(|byte| *byte == b'=')?;
    let (key, value) = (&member[..at], &member[at + 1..]);
    let printable = |byte: &u8| matches!(byte, b' '..=b'~') && !matches!(byte, b',' | b'=');
    let good = !value.is_empty() && value.len() <= VALUE && value.iter().all(printable);
    (good && is_state_key(key)).then_some(key)
}

fn is_state_key(key: &[u8]) -> bool {
    let plain = |byte: &u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-' | b'*' | b'/');
    // Level 1 has digits at the beginning of a tenant alone; Level 2 has them everywhere.
    let word = |text: &[u8], most: usize| {
        let begins = matches!(text.first(), Some(b'a'..=b'z' | b'0'..=b'9'));
        begins && text.len() <= most && text.iter().all(plain)
    };
    match key.iter().position(|byte| *byte == b'@') {
        None => word(key, KEY),
        Some(at) => word(&key[..at], TENANT) && word(&key[at + 1..], SYSTEM),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbered(count: usize) -> String {
        let members: Vec<String> = (0..count).map(|it| format!("k{it}={it}")).collect();
        members.join(",")
    }

    #[test]
    fn the_documents_cases_of_tracestate() {
        let good = [
            "rojo=00f067aa0ba902b7,congo=t61rcWkgMzE",
            "foo=1 \t , \t bar=2, \t baz=3",
            "foo=1,",
            ",foo=1,,bar=2",
            "",
            "fw529a3039@dt=FfqNyYVkAAAAAA",
            "a0_-*/=!\"#$%&'()*+-./:;<>?@[]^_`{|}~ x",
            "1a=level-2",
        ];
        for text in good {
            assert_eq!(state(text.as_bytes()), Fate::Untouched, "{text}");
        }
        let long = [
            (format!("{}=1", "z".repeat(256)), true),
            (format!("{}=1", "z".repeat(257)), false),
            (format!("{}@{}=1", "t".repeat(241), "v".repeat(14)), true),
            (format!("{}@v=1", "t".repeat(242)), false),
            (format!("t@{}=1", "v".repeat(15)), false),
            (format!("a={}", "v".repeat(256)), true),
            (format!("a={}", "v".repeat(257)), false),
            (numbered(STATE_MEMBERS), true),
            (numbered(STATE_MEMBERS + 1), false),
        ];
        for (text, good) in long {
            let expected = if good { Fate::Untouched } else { Fate::Dropped };
            assert_eq!(state(text.as_bytes()), expected, "{text}");
        }
        let bad = [
            "foo",
            "foo=",
            "=1",
            "foo @bar=1",
            "foo@=1",
            "@foo=1",
            "foo@@bar=1",
            "foo@bar@baz=1",
            "Foo=1",
            "foo=1=2",
            "foo =1",
            "foo=1,bar",
            "foo.bar=1",
            "foo=\u{e9}",
            "foo=1,foo=2",
            "foo=1\u{7f}",
        ];
        for text in bad {
            assert_eq!(state(text.as_bytes()), Fate::Dropped, "{text}");
        }
    }

    #[test]
    fn a_long_tracestate_loses_its_longest_members_first_and_then_its_last() {
        let member = |key: char, bytes: usize| format!("{key}={}", "v".repeat(bytes - 2));
        let text = [
            member('a', 100),
            member('b', 200),
            member('c', 100),
            member('d', 128),
        ];
        let whole = text.join(",");
        let kept = [&text[0][..], &text[2], &text[3]].join(",");
        assert_eq!(state(whole.as_bytes()), Fate::Cut(kept.into_bytes()));
        let text: Vec<String> = ('a'..='f').map(|key| member(key, 128)).collect();
        let kept = text[..3].join(",");
        assert_eq!(
            state(text.join(",").as_bytes()),
            Fate::Cut(kept.into_bytes())
        );
        let most = format!("a={},b={}", "v".repeat(254), "v".repeat(253));
        assert_eq!((most.len(), state(most.as_bytes())), (512, Fate::Untouched));
    }

    #[test]
    fn baggage_goes_on_within_its_bounds_and_by_whole_members_beyond() {
        for text in [
            "",
            "userId=alice,serverNode=DF%2028;prop=1",
            "not; at, all=\"good",
            ",",
        ] {
            assert_eq!(baggage(text.as_bytes()), Fate::Untouched, "{text}");
        }
        assert_eq!(baggage(numbered(64).as_bytes()), Fate::Untouched);
        let kept = numbered(64).into_bytes();
        assert_eq!(baggage(numbered(65).as_bytes()), Fate::Cut(kept));
        let long = format!("a={}", "v".repeat(BAGGAGE_BYTES - 2));
        assert_eq!(baggage(long.as_bytes()), Fate::Untouched);
        // A member that does not fit goes as a whole; one after it may fit.
        let text = format!("a=1,b={},c=2", "v".repeat(BAGGAGE_BYTES - 2));
        assert_eq!(baggage(text.as_bytes()), Fate::Cut(b"a=1,c=2".to_vec()));
        let long = format!("a={}", "v".repeat(BAGGAGE_BYTES));
        assert_eq!(baggage(long.as_bytes()), Fate::Dropped);
    }

    proptest! {
        #[test]
        fn what_goes_on_is_within_the_bounds_and_goes_on_whole_from_there(
            text in "[a-c@=, v]{0,1200}",
            names in proptest::collection::vec("[a-z]{1,120}=[a-z]{1,200}", 0..40),
        ) {
            for text in [text, names.join(",")] {
                if let Fate::Cut(kept) = state(text.as_bytes()) {
                    prop_assert!(kept.len() <= STATE_BYTES);
                    prop_assert_eq!(state(&kept), Fate::Untouched);
                }
                let much = [&text[..]; 20].join(",");
                if let Fate::Cut(kept) = baggage(much.as_bytes()) {
                    prop_assert!(kept.len() <= BAGGAGE_BYTES);
                    prop_assert_eq!(baggage(&kept), Fate::Untouched);
                }
            }
        }
    }
}

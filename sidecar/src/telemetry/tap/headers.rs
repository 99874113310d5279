//! The headers of a call, as they may be told: what proves who somebody is stays here, and what is
//! long is cut. Whatever is not told is not kept either.

use http::HeaderMap;
use serde_json::{Value, json};

/// Bytes of names and values that are kept of one set of headers.
pub const HEADERS_LIMIT: usize = 2 * 1024;
/// Bytes of one value that are kept.
pub const VALUE_LIMIT: usize = 256;
/// What stands for a value that is not told.
pub const REDACTED: &str = "[redacted]";

/// Never told, by their names.
const SECRET: [&str; 13] = [
    "authorization",
    "proxy-authorization",
    "cookie",
    "set-cookie",
    "token",
    "jwt",
    "password",
    "secret",
    "apikey",
    "api-key",
    "api_key",
    "x-apikey",
    "x-forwarded-client-cert",
];
/// Never told, by how their names end, be it behind `-` or `_`.
const SECRET_ENDS: [&str; 11] = [
    "token",
    "jwt",
    "password",
    "secret",
    "credential",
    "credentials",
    "api-key",
    "api_key",
    "access-key",
    "authorization",
    "session-id",
];

/// Names that whoever taps does not want to see either; `x-acme-*` is all that begin so.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Redaction(Vec<String>);

/// Headers, bounded.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Captured {
    headers: Vec<(Box<str>, Box<str>)>,
    /// Some are left out, since there are too many.
    cut: bool,
}

impl Redaction {
    /// These names, too.
    pub fn of(names: impl IntoIterator<Item = String>) -> Self {
        Self(
            names
                .into_iter()
                .map(|it| it.to_ascii_lowercase())
                .collect(),
        )
    }

    fn hides(&self, name: &str) -> bool {
        self.0.iter().any(|hidden| match hidden.strip_suffix('*') {
            Some(begins) => name.starts_with(begins),
            None => name == hidden,
        })
    }
}

/// Is this header a secret, whoever asks? gRPC's binary ones are named as others are, with `-bin`.
pub(super) fn is_secret(name: &str) -> bool {
    let name = name.strip_suffix("-bin").unwrap_or(name);
    let ends = |end: &&str| {
        let before = name.strip_suffix(*end);
        before.is_some_and(|before| before.ends_with(['-', '_']))
    };
    SECRET.contains(&name) || SECRET_ENDS.iter().any(ends)
}

impl Captured {
    /// Keeps what may be told.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut captured = Self::default();
        let mut room = HEADERS_LIMIT;
        for (name, value) in headers {
            let name = name.as_str();
            let value = match is_secret(name) {
                true => REDACTED.to_owned(),
                false => cut(&String::from_utf8_lossy(value.as_bytes()), VALUE_LIMIT),
            };
            let Some(left) = room.checked_sub(name.len() + value.len()) else {
                captured.cut = true;
                continue;
            };
            room = left;
            captured.headers.push((name.into(), value.into()));
        }
        captured
    }

    /// As they are told to one who does not want to see these.
    pub(super) fn json(&self, redaction: &Redaction) -> Value {
        let shown = self.headers.iter().map(|(name, value)| {
            let value = if redaction.hides(name) {
                REDACTED
            } else {
                value
            };
            json!([name, value])
        });
        shown.collect()
    }

    /// Is something left out?
    pub(super) const fn is_cut(&self) -> bool {
        self.cut
    }
}

/// So many bytes of a text, with a mark where that is not all.
pub(super) fn cut(text: &str, limit: usize) -> String {
    if text.len() <= limit {
        return text.to_owned();
    }
    let end = (0..=limit).rev().find(|end| text.is_char_boundary(*end));
    format!("{}…", &text[..end.unwrap_or_default()])
}

#[cfg(test)]
mod tests {
    use http::{HeaderName, HeaderValue};
    use proptest::prelude::*;

    use super::*;

    fn map(pairs: &[(&str, &str)]) -> HeaderMap {
        let pairs = pairs.iter().map(|(name, value)| {
            let name = HeaderName::from_bytes(name.as_bytes()).unwrap();
            (name, HeaderValue::from_bytes(value.as_bytes()).unwrap())
        });
        pairs.collect()
    }

    #[test]
    fn secrets_are_not_kept_and_what_is_asked_for_is_not_told() {
        for secret in [
            "authorization",
            "Authorization",
            "authorization-bin",
            "proxy-authorization",
            "cookie",
            "set-cookie",
            "x-api-key",
            "x-acme-token",
            "x-token-bin",
            "x-csrf-token",
            "x-amz-security-token",
            "client-secret",
            "db-password",
            "x-original-authorization",
            "x-forwarded-client-cert",
        ] {
            let captured = Captured::of(&map(&[(secret, "s3cret")]));
            assert!(!format!("{captured:?}").contains("s3cret"), "{secret}");
        }
        let captured = Captured::of(&map(&[
            ("x-note", "one"),
            ("x-acme-id", "two"),
            ("x-tokens", "three"),
        ]));
        let told = |names: &[&str]| {
            let redaction = Redaction::of(names.iter().map(|it| (*it).to_owned()));
            captured.json(&redaction).to_string()
        };
        let all = r#"[["x-note","one"],["x-acme-id","two"],["x-tokens","three"]]"#;
        assert_eq!(told(&[]), all);
        assert_eq!(told(&["X-Note"]), all.replace("one", REDACTED));
        assert_eq!(told(&["x-acme-*", "x-no"]), all.replace("two", REDACTED));
    }

    #[test]
    fn what_is_long_is_cut() {
        let long = "ä".repeat(VALUE_LIMIT);
        let captured = Captured::of(&map(&[("x-long", &long)]));
        let value = &captured.headers[0].1;
        assert!(value.len() <= VALUE_LIMIT + '…'.len_utf8() && value.ends_with('…'));
        assert!(!captured.is_cut());
    }

    proptest! {
        #[test]
        fn no_headers_take_more_than_their_room(
            pairs in prop::collection::vec(("[a-z][a-z0-9-]{0,30}", "[ -~]{0,600}"), 0..40),
        ) {
            let pairs: Vec<_> = pairs.iter().map(|(name, value)| (&**name, value.trim())).collect();
            let headers = map(&pairs);
            let captured = Captured::of(&headers);
            let bytes: usize = captured.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
            prop_assert!(bytes <= HEADERS_LIMIT);
            prop_assert_eq!(captured.is_cut(), captured.headers.len() < headers.len());
        }
    }
}

//! The headers of a call, as they may be told: what proves who somebody is stays here, and what is
//! long is cut. Whatever is not told is not kept either.

use http::{HeaderMap, HeaderValue};
use serde_json::{Value, json};

/// Bytes that are kept of one set of headers, each charged with [`ENTRY_COST`] beside its text.
pub const HEADERS_LIMIT: usize = 2 * 1024;
/// What a header takes beside the bytes of its name and value: two boxes, and what their allocations
/// take. So one set has 32 of them at most.
pub const ENTRY_COST: usize = 64;
/// Bytes of one value that are kept.
pub const VALUE_LIMIT: usize = 256;
/// What stands for a value that is not told.
pub const REDACTED: &str = "[redacted]";

/// Never told where a word of their names has one of these in it. Words end at `-`, `_` and `.`.
const SECRET_PARTS: [&str; 15] = [
    "cookie",
    "token",
    "jwt",
    "secret",
    "passw",
    "passphrase",
    "pwd",
    "apikey",
    "session",
    "signature",
    "credential",
    "private",
    "assertion",
    "oidc",
    "dpop",
];
/// Never told where one of these is a word of their names. Many keys are no secrets, yet which are is
/// not to be seen by a name such as `x-functions-key`.
const SECRET_WORDS: [&str; 12] = [
    "pass", "key", "keys", "sid", "sig", "otp", "pin", "csrf", "xsrf", "bearer", "saml", "cert",
];
/// Words that say what a key is for, where that is no secret.
const HARMLESS_KEYS: [&str; 6] = [
    "idempotency",
    "partition",
    "routing",
    "cache",
    "surrogate",
    "hash",
];
/// Values are URLs, of which only what is before the query is told: secrets come in queries.
const URLS: [&str; 9] = [
    "referer",
    "location",
    "content-location",
    "x-original-uri",
    "x-original-url",
    "x-forwarded-uri",
    "x-rewrite-url",
    "x-envoy-original-path",
    "x-forwarded-path",
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

    /// A binary one is hidden by the name without `-bin`, too.
    fn hides(&self, name: &str) -> bool {
        self.0.iter().any(|hidden| match hidden.strip_suffix('*') {
            Some(begins) => name.starts_with(begins),
            None => name == hidden || name.strip_suffix("-bin") == Some(hidden),
        })
    }
}

/// Is this header a secret, whoever asks? gRPC's binary ones are named as others are, with `-bin`, and
/// gateways pass headers on behind a prefix of theirs: so what counts is which words a name has. One
/// too many is hidden rather than one too few told.
pub(super) fn is_secret(name: &str) -> bool {
    let words = || name.split(['-', '_', '.']);
    let has = |known: &[&str]| words().any(|word| known.contains(&word));
    let hidden = |word: &str| {
        SECRET_PARTS.iter().any(|part| word.contains(part))
            || is_about_authentication(word)
            || (SECRET_WORDS.contains(&word) && !(word.starts_with("key") && has(&HARMLESS_KEYS)))
    };
    words().any(hidden)
}

/// `auth`, `oauth2`, `authorization`, but neither `authority` nor `author`.
fn is_about_authentication(word: &str) -> bool {
    word.match_indices("auth").any(|(at, _)| {
        let rest = &word[at + "auth".len()..];
        !rest.starts_with("or") || rest.starts_with("oriz") || rest.starts_with("oris")
    })
}

/// The value, as it may be told.
fn told(name: &str, value: &HeaderValue) -> String {
    // Whoever sent it said that it must not be kept in tables of headers.
    if value.is_sensitive() || is_secret(name) {
        return REDACTED.to_owned();
    }
    let text = String::from_utf8_lossy(value.as_bytes());
    let text = match text.find(['?', '#']).filter(|_| URLS.contains(&name)) {
        Some(end) => format!("{}?…", &text[..end]),
        None => text.into_owned(),
    };
    cut(&text, VALUE_LIMIT)
}

impl Captured {
    /// Keeps what may be told.
    pub(super) fn of(headers: &HeaderMap) -> Self {
        let mut captured = Self::default();
        let mut room = HEADERS_LIMIT;
        for (name, value) in headers {
            if room < ENTRY_COST {
                captured.cut = true;
                break;
            }
            let name = name.as_str();
            let value = told(name, value);
            let Some(left) = room.checked_sub(name.len() + value.len() + ENTRY_COST) else {
                captured.cut = true;
                continue;
            };
            room = left;
            captured.headers.push((name.into(), value.into()));
        }
        captured.headers.shrink_to_fit();
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
    use http::HeaderName;
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
    fn secrets_are_known_by_their_names_and_the_rest_stays_visible() {
        for secret in [
            "authorization",
            "Authorization",
            "authorization-bin",
            "proxy-authorization",
            "grpcgateway-authorization",
            "x-original-authorization",
            "x-oauth2-proof",
            "x-auth",
            "x-auth-request-access",
            "x-authentication-info",
            "cookie",
            "cookie2",
            "set-cookie",
            "grpcgateway-cookie",
            "x-forwarded-cookie",
            "token",
            "x-tokens",
            "x-acme-token",
            "x-token-bin",
            "x-token-id",
            "x-csrf-token",
            "xsrf",
            "x-amz-security-token",
            "x-amz-signature",
            "x-hub-signature-256",
            "x-sig",
            "apikey",
            "api-key",
            "api_key",
            "x-apikey",
            "x-api-key",
            "x-api-key-bin",
            "x.api.key",
            "x-functions-key",
            "ocp-apim-subscription-key",
            "x-secret",
            "client-secret",
            "x-secrets-v2",
            "password",
            "db-password",
            "x-passwd",
            "x-pass",
            "x-pwd",
            "x-userpwd",
            "session",
            "x-session-id",
            "sessionid",
            "x-phpsessionid",
            "x-credential",
            "aws-credentials",
            "x-private-note",
            "x-jwt",
            "x-goog-iap-jwt-assertion",
            "x-amzn-oidc-data",
            "dpop",
            "x-forwarded-client-cert",
            "x-ssl-client-cert",
        ] {
            let captured = Captured::of(&map(&[(secret, "s3cret")]));
            assert!(!format!("{captured:?}").contains("s3cret"), "{secret}");
            assert_eq!(&*captured.headers[0].1, REDACTED, "{secret}");
        }
        for visible in [
            "user-agent",
            "content-type",
            "grpc-timeout",
            "grpc-status",
            "grpc-message",
            "grpc-encoding",
            "te",
            "x-request-id",
            "authority",
            "x-forwarded-authority",
            "x-author",
            "x-forwarded-for",
            "x-forwarded-proto",
            "traceparent",
            "tracestate",
            "baggage",
            "x-sidelane-lane",
            "x-note",
            "x-tenant",
            "idempotency-key",
            "x-routing-key",
            "x-keyboard",
            "x-passenger",
            "accept-language",
        ] {
            let captured = Captured::of(&map(&[(visible, "seen")]));
            assert_eq!(&*captured.headers[0].1, "seen", "{visible}");
        }
    }

    #[test]
    fn what_its_sender_calls_sensitive_is_not_kept() {
        let mut headers = map(&[("x-note", "s3cret")]);
        headers.get_mut("x-note").unwrap().set_sensitive(true);
        assert!(!format!("{:?}", Captured::of(&headers)).contains("s3cret"));
    }

    #[test]
    fn of_urls_no_query_is_kept() {
        for name in URLS {
            for (url, kept) in [
                ("https://a.example/b?code=s3cret", "https://a.example/b?…"),
                ("/b#access=s3cret", "/b?…"),
                ("/b", "/b"),
            ] {
                let captured = Captured::of(&map(&[(name, url)]));
                assert_eq!(&*captured.headers[0].1, kept, "{name}");
            }
        }
        let other = Captured::of(&map(&[("x-note", "why? so")]));
        assert_eq!(&*other.headers[0].1, "why? so");
    }

    #[test]
    fn what_is_asked_for_is_not_told() {
        let captured = Captured::of(&map(&[
            ("x-note", "one"),
            ("x-note-bin", "onebin"),
            ("x-acme-id", "two"),
        ]));
        let told = |names: &[&str]| {
            let redaction = Redaction::of(names.iter().map(|it| (*it).to_owned()));
            captured.json(&redaction).to_string()
        };
        let all = r#"[["x-note","one"],["x-note-bin","onebin"],["x-acme-id","two"]]"#;
        assert_eq!(told(&[]), all);
        let both = all.replace("onebin", REDACTED).replace("one", REDACTED);
        assert_eq!(told(&["X-Note"]), both);
        assert_eq!(told(&["x-note-bin"]), all.replace("onebin", REDACTED));
        assert_eq!(told(&["x-acme-*", "x-no"]), all.replace("two", REDACTED));
    }

    #[test]
    fn many_small_headers_are_bounded_by_their_number() {
        let names: Vec<_> = (0..1_000).map(|number| format!("x{number}")).collect();
        let pairs: Vec<_> = names.iter().map(|name| (name.as_str(), "")).collect();
        let captured = Captured::of(&map(&pairs));
        assert!(captured.is_cut());
        let entries = captured.headers.len();
        assert!(
            (20..=HEADERS_LIMIT / ENTRY_COST).contains(&entries),
            "{entries}"
        );
        assert!(captured.headers.capacity() <= HEADERS_LIMIT / ENTRY_COST);
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
            let cost = |(name, value): &(Box<str>, Box<str>)| name.len() + value.len() + ENTRY_COST;
            let bytes: usize = captured.headers.iter().map(cost).sum();
            prop_assert!(bytes <= HEADERS_LIMIT);
            prop_assert_eq!(captured.is_cut(), captured.headers.len() < headers.len());
        }
    }
}

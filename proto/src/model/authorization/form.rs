//! What identities, and what rules say of them, look like (SPIFFE-ID §2). For constants, so that
//! rustc refuses what the build does; the process that shows a certificate has read its id by a
//! parser of its own, and a test holds the two against each other.

use super::super::class::same_bytes;

/// The longest SPIFFE id, in bytes (SPIFFE-ID §2.3).
const ID_LIMIT: usize = 2_048;
/// The longest trust domain, in bytes (SPIFFE-ID §2.1).
const DOMAIN_LIMIT: usize = 255;
const SCHEME: &str = "spiffe://";

/// A caller's id, taken apart.
pub(super) struct Caller<'a> {
    pub(super) id: &'a str,
    pub(super) domain: &'a str,
    /// Where the path is that of a service account.
    pub(super) namespace: Option<&'a str>,
}

impl<'a> Caller<'a> {
    /// `None` for what is no id.
    pub(super) fn read(id: &'a str) -> Option<Self> {
        let rest = id.strip_prefix(SCHEME)?;
        let (domain, path) = rest.split_once('/').unwrap_or((rest, ""));
        let namespace = path.strip_prefix("ns/").and_then(|path| {
            let (namespace, account) = path.split_once("/sa/")?;
            let whole = !account.is_empty() && !account.contains('/') && !namespace.contains('/');
            whole.then_some(namespace)
        });
        Some(Self {
            id,
            domain,
            namespace,
        })
    }
}

/// The trust domain of a prefix.
pub(super) fn domain(prefix: &str) -> Option<&str> {
    let rest = prefix.strip_prefix(SCHEME)?;
    rest.split_once('/').map(|(domain, _)| domain)
}

/// The field as rules in Rust have it, where no place in the list is told.
pub(super) const fn beneath(field: &'static str) -> &'static str {
    match field.as_bytes() {
        b"anyone" => "authorization.allow.anyone",
        b"identity" => "authorization.allow.identity",
        b"namespace" => "authorization.allow.namespace",
        b"trust_domain" => "authorization.allow.trust_domain",
        b"prefix" => "authorization.allow.prefix",
        _ => "authorization.allow",
    }
}

/// Why it is no id of a workload.
pub(super) const fn flaw_of_identity(text: &str) -> Option<&'static str> {
    let Some((domain, path)) = split(text) else {
        return Some("is no SPIFFE id such as `spiffe://mesh.example/ns/shop/sa/orders`");
    };
    if !is_trust_domain(domain) {
        return Some(
            "has no trust domain of 1 to 255 of a-z, 0-9, `.`, `-` and `_` after `spiffe://`",
        );
    }
    if path.is_empty() {
        return Some("names a whole trust domain; say it with `trust_domain`");
    }
    let (whole, last) = segments(path);
    if !whole || !is_segment(last) {
        return Some(
            "has a path that no SPIFFE id may have: segments are made of a-z, A-Z, 0-9, `.`, `-` \
             and `_`, and none is empty, `.` or `..`",
        );
    }
    None
}

/// Why ids that begin so are not what is meant.
pub(super) const fn flaw_of_prefix(text: &str) -> Option<&'static str> {
    let Some((domain, path)) = split(text) else {
        return Some(
            "is no beginning of a SPIFFE id such as `spiffe://mesh.example/ns/shop/sa/worker-`",
        );
    };
    if !is_trust_domain(domain) {
        return Some(
            "has no trust domain of 1 to 255 of a-z, 0-9, `.`, `-` and `_` after `spiffe://`",
        );
    }
    if path.is_empty() {
        return Some(
            "ends within the trust domain, so that those of others fit, too; end it with `/`, or \
             say `trust_domain`",
        );
    }
    let (whole, last) = segments(path);
    if !whole || !is_plain(last) {
        return Some(
            "has a path that no SPIFFE id may have: segments are made of a-z, A-Z, 0-9, `.`, `-` \
             and `_`, and none is empty, `.` or `..`",
        );
    }
    if is_namespace_begun(path, last) {
        return Some(
            "ends within a namespace, so that others that begin so fit, too; end it with `/`, or \
             say `namespace`",
        );
    }
    None
}

/// Trust domain, and the path with its first slash; `None` for another scheme, or what is too long.
const fn split(text: &str) -> Option<(&[u8], &[u8])> {
    let (bytes, scheme) = (text.as_bytes(), SCHEME.as_bytes());
    if bytes.len() > ID_LIMIT || bytes.len() < scheme.len() {
        return None;
    }
    let (start, rest) = bytes.split_at(scheme.len());
    if !same_bytes(start, scheme) {
        return None;
    }
    let mut slash = 0;
    while slash < rest.len() && rest[slash] != b'/' {
        slash += 1;
    }
    Some(rest.split_at(slash))
}

/// Are all segments but the last whole, and which is the last? The path begins with a slash.
const fn segments(path: &[u8]) -> (bool, &[u8]) {
    let mut rest = path.split_at(1).1;
    let mut index = 0;
    while index < rest.len() {
        if rest[index] == b'/' {
            let (segment, after) = rest.split_at(index);
            if !is_segment(segment) {
                return (false, after);
            }
            rest = after.split_at(1).1;
            index = 0;
        } else {
            index += 1;
        }
    }
    (true, rest)
}

/// `/ns/sh`: the name may go on.
const fn is_namespace_begun(path: &[u8], last: &[u8]) -> bool {
    const NAMESPACES: &[u8] = b"/ns/";
    !last.is_empty()
        && path.len() == NAMESPACES.len() + last.len()
        && same_bytes(path.split_at(NAMESPACES.len()).0, NAMESPACES)
}

pub(super) const fn is_trust_domain(text: &[u8]) -> bool {
    if text.is_empty() || text.len() > DOMAIN_LIMIT {
        return false;
    }
    let mut index = 0;
    while index < text.len() {
        if !matches!(text[index], b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_') {
            return false;
        }
        index += 1;
    }
    true
}

pub(super) const fn is_segment(text: &[u8]) -> bool {
    !matches!(text, b"" | b"." | b"..") && text.len() <= ID_LIMIT && is_plain(text)
}

const fn is_plain(text: &[u8]) -> bool {
    let mut index = 0;
    while index < text.len() {
        if !matches!(text[index], b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_') {
            return false;
        }
        index += 1;
    }
    true
}

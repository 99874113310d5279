//! SPIFFE ids and trust domains, as SPIFFE-ID §2 writes them. An id that exists is well-formed.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

/// The longest SPIFFE id, in bytes (SPIFFE-ID §2.3).
pub const SPIFFE_ID_LIMIT: usize = 2048;
/// The longest trust domain, in bytes (SPIFFE-ID §2.1).
pub const TRUST_DOMAIN_LIMIT: usize = 255;

/// The trust domain of a mesh that was given no other. `.internal` is reserved for private use.
pub const DEFAULT_TRUST_DOMAIN: &str = "sidelane.internal";

const SCHEME: &str = "spiffe://";

/// Why a text is no SPIFFE id. What was given is shown up to its first 80 characters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Another scheme, or none.
    #[error(
        "{given:?} is no SPIFFE id: it must begin with spiffe://, as \
         spiffe://mesh.example/ns/shop/sa/orders does"
    )]
    Scheme {
        /// What was given.
        given: String,
    },
    /// Longer than an id may be.
    #[error("a SPIFFE id of {length} bytes is too long: {SPIFFE_ID_LIMIT} is the most")]
    TooLong {
        /// Its length in bytes.
        length: usize,
    },
    /// The trust domain is missing, too long, or has a character that it may not have.
    #[error(
        "{given:?} is no trust domain: it takes 1 to {TRUST_DOMAIN_LIMIT} of a-z, 0-9, `.`, `-`, \
         `_`, and no port or user"
    )]
    TrustDomain {
        /// What was given.
        given: String,
    },
    /// A segment of the path is empty, `.` or `..`, or has a character that it may not have.
    #[error(
        "{given:?} has a path that no SPIFFE id may have: segments are made of a-z, A-Z, 0-9, \
         `.`, `-`, `_`, none is empty, `.` or `..`, and there is no slash at the end"
    )]
    Path {
        /// What was given.
        given: String,
    },
}

/// The name of a mesh's trust: every certificate of it is signed under roots of this name.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct TrustDomain(Arc<str>);

impl TrustDomain {
    /// Takes a trust domain in, without `spiffe://`.
    ///
    /// # Errors
    /// It is empty, too long, or has a character that it may not have.
    pub fn new(text: &str) -> Result<Self, IdError> {
        let fits = (1..=TRUST_DOMAIN_LIMIT).contains(&text.len());
        let plain =
            |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
        if fits && text.bytes().all(plain) {
            Ok(Self(Arc::from(text)))
        } else {
            let given = shown(text);
            Err(IdError::TrustDomain { given })
        }
    }

    /// The name as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The trust domain of a mesh that was given no other.
impl Default for TrustDomain {
    fn default() -> Self {
        Self(Arc::from(DEFAULT_TRUST_DOMAIN))
    }
}

impl fmt::Display for TrustDomain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.0)
    }
}

impl fmt::Debug for TrustDomain {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.0, formatter)
    }
}

impl FromStr for TrustDomain {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}

/// A workload's name in its trust domain. A clone is one reference count.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: Arc<str>,
    /// Where the path begins in the text.
    path: usize,
}

impl SpiffeId {
    /// Takes an id in.
    ///
    /// # Errors
    /// Says which part of it is not as SPIFFE-ID §2 asks.
    pub fn new(text: &str) -> Result<Self, IdError> {
        if text.len() > SPIFFE_ID_LIMIT {
            return Err(IdError::TooLong { length: text.len() });
        }
        let Some(rest) = text.strip_prefix(SCHEME) else {
            return Err(IdError::Scheme { given: shown(text) });
        };
        let domain = rest.find('/').unwrap_or(rest.len());
        TrustDomain::new(&rest[..domain])?;
        let path = &rest[domain..];
        if !path.is_empty() && !path[1..].split('/').all(is_segment) {
            return Err(IdError::Path { given: shown(text) });
        }
        Ok(Self {
            text: Arc::from(text),
            path: SCHEME.len() + domain,
        })
    }

    /// The id of a service account: `spiffe://<trust-domain>/ns/<namespace>/sa/<account>`.
    ///
    /// # Errors
    /// A name is not one segment of a path, or the whole is too long.
    pub fn workload(domain: &TrustDomain, namespace: &str, account: &str) -> Result<Self, IdError> {
        let text = format!("{SCHEME}{domain}/ns/{namespace}/sa/{account}");
        if is_segment(namespace) && is_segment(account) {
            Self::new(&text)
        } else {
            Err(IdError::Path {
                given: shown(&text),
            })
        }
    }

    /// The id as text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whose workload it names.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        TrustDomain(Arc::from(self.domain()))
    }

    /// Is it of this trust domain?
    #[must_use]
    pub fn is_of(&self, domain: &TrustDomain) -> bool {
        self.domain() == domain.as_str()
    }

    /// What follows the trust domain, with its first slash; empty for the trust domain itself.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[self.path..]
    }

    /// Namespace and service account, where the path has that form.
    #[must_use]
    pub fn service_account(&self) -> Option<(&str, &str)> {
        let (namespace, rest) = self.path().strip_prefix("/ns/")?.split_once('/')?;
        let account = rest.strip_prefix("sa/")?;
        (!account.contains('/')).then_some((namespace, account))
    }

    fn domain(&self) -> &str {
        &self.text[SCHEME.len()..self.path]
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.text)
    }
}

impl fmt::Debug for SpiffeId {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&*self.text, formatter)
    }
}

impl FromStr for SpiffeId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}

fn is_segment(segment: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    !matches!(segment, "" | "." | "..") && segment.bytes().all(plain)
}

/// As much of a stranger's text as a line of a log should hold.
pub(crate) fn shown(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn well_formed_ids_are_taken_apart() {
        let id = SpiffeId::new("spiffe://mesh.example/ns/shop/sa/orders").unwrap();
        assert_eq!(id.trust_domain().as_str(), "mesh.example");
        assert_eq!(id.path(), "/ns/shop/sa/orders");
        assert_eq!(id.service_account(), Some(("shop", "orders")));
        let domain = TrustDomain::new("mesh.example").unwrap();
        assert_eq!(SpiffeId::workload(&domain, "shop", "orders").unwrap(), id);
        assert!(id.is_of(&domain));
        for text in ["spiffe://a", "spiffe://a/b", "spiffe://a-b_c.1/A.b-c_d/..."] {
            let id = SpiffeId::new(text).unwrap();
            assert_eq!(id.as_str(), text);
            assert_eq!(id.service_account(), None);
        }
        let deep = SpiffeId::new("spiffe://a/ns/b/sa/c/d").unwrap();
        assert_eq!(deep.service_account(), None);
    }

    #[test]
    fn everything_else_is_refused_by_its_part() {
        let scheme = ["", "https://a/b", "spiffe:/a/b", "SPIFFE://a/b", "//a/b"];
        let domain = [
            "spiffe://",
            "spiffe:///b",
            "spiffe://A/b",
            "spiffe://a:80/b",
            "spiffe://user@a/b",
            "spiffe://a%62/b",
            "spiffe://ä/b",
            "spiffe://a?b",
        ];
        let path = [
            "spiffe://a/",
            "spiffe://a//b",
            "spiffe://a/b/",
            "spiffe://a/./b",
            "spiffe://a/../b",
            "spiffe://a/b?c",
            "spiffe://a/b#c",
            "spiffe://a/b%2fc",
            "spiffe://a/b c",
            "spiffe://a/ü",
        ];
        for text in scheme {
            assert!(
                matches!(SpiffeId::new(text), Err(IdError::Scheme { .. })),
                "{text}"
            );
        }
        for text in domain {
            assert!(
                matches!(SpiffeId::new(text), Err(IdError::TrustDomain { .. })),
                "{text}"
            );
        }
        for text in path {
            assert!(
                matches!(SpiffeId::new(text), Err(IdError::Path { .. })),
                "{text}"
            );
        }
        let domain = TrustDomain::new("a").unwrap();
        assert!(SpiffeId::workload(&domain, "b/c", "d").is_err());
    }

    #[test]
    fn lengths_are_held() {
        let domain = "d".repeat(TRUST_DOMAIN_LIMIT);
        assert!(TrustDomain::new(&domain).is_ok());
        assert!(TrustDomain::new(&format!("{domain}d")).is_err());
        let longest = format!("spiffe://a/{}", "p".repeat(SPIFFE_ID_LIMIT - 11));
        assert!(SpiffeId::new(&longest).is_ok());
        let length = SPIFFE_ID_LIMIT + 1;
        assert_eq!(
            SpiffeId::new(&format!("{longest}p")),
            Err(IdError::TooLong { length })
        );
    }
}

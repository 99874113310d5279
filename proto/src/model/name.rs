//! Names: of nodes, services, networks and identities. They are shared by many tables, so a clone
//! is one reference count, and a name that exists is well-formed.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use super::error::{FieldError, Problem};

/// The longest name of a node or network, in bytes: a DNS name fits.
pub const NODE_ID_LIMIT: usize = 253;
/// The longest gRPC service name, in bytes.
pub const SERVICE_NAME_LIMIT: usize = 255;
/// The longest SPIFFE id, in bytes (SPIFFE-ID §2.3).
pub const IDENTITY_LIMIT: usize = 2048;
/// The longest trust domain, in bytes (SPIFFE-ID §2.1).
const TRUST_DOMAIN_LIMIT: usize = 255;

macro_rules! name_type {
    ($(#[$doc:meta])* $name:ident, $field:literal, $limit:expr, $wanted:literal, $check:path) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name(Arc<str>);

        impl $name {
            /// Takes a name in, if it is well-formed.
            ///
            /// # Errors
            /// Names what is wrong: empty, too long, or not of the form asked for.
            pub fn new(text: &str) -> Result<Self, FieldError> {
                if text.is_empty() {
                    return Err(FieldError::new($field, Problem::Missing));
                }
                if text.len() > $limit {
                    let problem = Problem::TooLong { length: text.len(), limit: $limit };
                    return Err(FieldError::new($field, problem));
                }
                if !$check(text) {
                    let problem = Problem::Malformed { given: text.to_owned(), wanted: $wanted };
                    return Err(FieldError::new($field, problem));
                }
                Ok(Self(Arc::from(text)))
            }

            /// The name as text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Debug::fmt(&*self.0, formatter)
            }
        }

        impl AsRef<str> for $name {
            fn as_ref(&self) -> &str {
                &self.0
            }
        }

        impl Borrow<str> for $name {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl std::str::FromStr for $name {
            type Err = FieldError;

            fn from_str(text: &str) -> Result<Self, FieldError> {
                Self::new(text)
            }
        }
    };
}

name_type!(
    /// A node's name, unique in its network: letters, digits, `.`, `_`, `-`.
    NodeId,
    "node_id",
    NODE_ID_LIMIT,
    "a node id (letters, digits, `.`, `_`, `-`)",
    is_plain
);
name_type!(
    /// A network's name: meshes with different names do not see each other.
    Network,
    "network",
    NODE_ID_LIMIT,
    "a network name (letters, digits, `.`, `_`, `-`)",
    is_plain
);
name_type!(
    /// A fully qualified gRPC service name, `shop.v1.Orders`.
    ServiceName,
    "service",
    SERVICE_NAME_LIMIT,
    "a gRPC service name such as `shop.v1.Orders`",
    is_service
);
name_type!(
    /// A workload identity: a SPIFFE id.
    Identity,
    "identity",
    IDENTITY_LIMIT,
    "a SPIFFE id such as `spiffe://example.org/ns/shop/sa/orders`",
    is_spiffe
);

fn is_plain(text: &str) -> bool {
    text.bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b'-'))
}

/// Dotted protobuf identifiers: each begins with a letter or `_`.
pub(super) const fn is_service(text: &str) -> bool {
    has_form(text, true)
}

pub(super) const fn is_identifier(text: &str) -> bool {
    has_form(text, false)
}

/// What a byte may be in a protobuf name. A table, since rustc walks whole programs' names and
/// counts its steps.
const FORM: [u8; 256] = {
    let mut form = [OTHER; 256];
    let mut byte = 0_u8;
    while byte < 128 {
        form[byte as usize] = if byte.is_ascii_alphabetic() || byte == b'_' {
            LETTER
        } else if byte.is_ascii_digit() {
            DIGIT
        } else if byte == b'.' {
            DOT
        } else {
            OTHER
        };
        byte += 1;
    }
    form
};
const LETTER: u8 = 0;
const DIGIT: u8 = 1;
const DOT: u8 = 2;
const OTHER: u8 = 3;

const fn has_form(text: &str, dots: bool) -> bool {
    let bytes = text.as_bytes();
    let mut first = true;
    let mut index = 0;
    while index < bytes.len() {
        match FORM[bytes[index] as usize] {
            LETTER => first = false,
            DIGIT if !first => (),
            DOT if dots && !first => first = true,
            _ => return false,
        }
        index += 1;
    }
    !first
}

/// As SPIFFE-ID §2 has it, and as certificates are read: what no certificate can show is no name.
fn is_spiffe(text: &str) -> bool {
    let Some(rest) = text.strip_prefix("spiffe://") else {
        return false;
    };
    let (domain, path) = match rest.split_once('/') {
        Some((domain, path)) => (domain, Some(path)),
        None => (rest, None),
    };
    let of_domain =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b".-_".contains(&byte);
    let of_path = |byte: u8| byte.is_ascii_alphanumeric() || b".-_".contains(&byte);
    let is_segment =
        |segment: &str| !matches!(segment, "" | "." | "..") && segment.bytes().all(of_path);
    (1..=TRUST_DOMAIN_LIMIT).contains(&domain.len())
        && domain.bytes().all(of_domain)
        && path.is_none_or(|path| path.split('/').all(is_segment))
}

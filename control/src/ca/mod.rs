//! The certificate authority: signs who may be whom. `root` signs certificates, `request` reads what
//! a sidecar asks to have signed, `rotation` says which root signs and which are still trusted,
//! `tokens`, `issued` and `revoked` remember who may join, who holds what, and who may not any longer.
//! These are pure: the time comes in, what must be kept goes out as records (`record`). [`Authority`]
//! is the shell around them. No private key but that of a root is ever here.

mod authority;
mod error;
mod issued;
mod record;
mod request;
mod revoked;
mod root;
mod rotation;
mod tokens;

#[cfg(test)]
mod tests;

pub use authority::{
    Authority, AuthorityError, Heard, LEAF_LIFE_MAXIMUM, LEAF_LIFE_MINIMUM, NODE, OpenError, Right,
    Signed, Terms, Trust, random, unix_now,
};
pub use error::{Denied, RotateError};
pub use issued::{ISSUED_LIMIT, ISSUED_PER_NODE};
pub use record::RecordError;
pub use request::{PublicKey, REQUEST_LIMIT, RSA_BITS_MINIMUM, RequestError};
pub use revoked::{
    Found, Held, RENEWAL_GRACE_MAXIMUM, REVOKED_FOR, REVOKED_LIMIT, Revocation, Revoked, Subject,
};
pub use root::{BACKDATED, Leaf, LeafTerms, ROOT_LIFE, Root, Serial, SignError, signed_at};
pub use rotation::{OVERLAP_LIMIT, Phase, Placed, ROOTS_LIMIT, Roots, SKEW};
pub use tokens::{
    Grant, Issued, REPEAT_LIMIT, TOKEN_LIFE_LIMIT, TOKENS_LIMIT, TokenHash, Tokens, Use,
};

/// Seconds since 1970: certificates know no shorter time.
pub type UnixSeconds = u64;

//! The certificate authority: signs who may be whom. `root` signs certificates, `request` reads what
//! a sidecar asks to have signed, `rotation` says which root signs and which are still trusted,
//! `tokens` and `revoked` remember who may join and who may not any longer. These are pure: the time
//! comes in, what must be kept goes out as records (`record`). [`Authority`] is the shell around
//! them. No private key but that of a root is ever here.

mod authority;
mod error;
mod record;
mod request;
mod revoked;
mod root;
mod rotation;
mod tokens;

#[cfg(test)]
mod tests;

pub use authority::{
    Authority, AuthorityError, ISSUED_LIMIT, LEAF_LIFE_MAXIMUM, LEAF_LIFE_MINIMUM, OpenError,
    Right, Signed, Terms, Trust, random, unix_now,
};
pub use error::{Denied, RotateError};
pub use record::RecordError;
pub use request::{PublicKey, REQUEST_LIMIT, RSA_BITS_MINIMUM, RequestError};
pub use revoked::{REVOKED_LIMIT, Revocation, Revoked, Subject};
pub use root::{BACKDATED, Leaf, LeafTerms, ROOT_LIFE, Root, Serial, SignError};
pub use rotation::{OVERLAP_LIMIT, Phase, Placed, ROOTS_LIMIT, Roots, SKEW};
pub use tokens::{Grant, Issued, TOKEN_LIFE_LIMIT, TOKENS_LIMIT, TokenHash, Tokens};

/// Seconds since 1970: certificates know no shorter time.
pub type UnixSeconds = u64;

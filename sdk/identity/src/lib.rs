//! Who is who in a mesh: SPIFFE ids, X.509-SVIDs, the roots that they are judged by, and TLS 1.3
//! that asks both sides for theirs. Control signs with these types, sidecars dial and accept with
//! them. Nothing here opens a socket, and nothing here decides who may call what.
//!
//! An [`Identity`] is immutable; what changes is which one is present, in a [`Source`]. TLS reads
//! the source at each handshake, so a new certificate, a new root or a revocation holds from the
//! next handshake on, and no configuration is built anew.

mod bundle;
pub mod der;
pub mod files;
mod hint;
mod id;
pub mod kept;
mod key;
mod moment;
mod pem;
pub mod pinned;
mod present;
mod refusal;
mod request;
mod revoked;
mod svid;
pub mod tls;
pub mod token;
pub mod verify;

pub use bundle::{Bundle, BundleError, ROOTS_LIMIT};
pub use id::{
    DEFAULT_TRUST_DOMAIN, IdError, SPIFFE_ID_LIMIT, SpiffeId, TRUST_DOMAIN_LIMIT, TrustDomain,
};
pub use key::{KeyError, PrivateKey};
pub use moment::Moment;
pub use pem::{PemError, certificates_to_pem};
pub use present::{Identity, IdentityError, Source};
pub use refusal::Refusal;
pub use request::{Request, RequestError};
pub use revoked::{REVOKED_LIMIT, Revoked, RevokedError, Serial};
pub use svid::{CERTIFICATE_LIMIT, CHAIN_LIMIT, Svid, SvidError};

pub use rustls_pki_types::CertificateDer;

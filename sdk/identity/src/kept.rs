//! An identity as one text, for a disk that keeps it: whose it is, the private key, the certificates
//! and the roots. One file and not three, so that key and certificate can only change together.

use zeroize::Zeroizing;

use crate::bundle::{Bundle, BundleError};
use crate::key::PrivateKey;
use crate::pem;
use crate::present::{Identity, IdentityError};
use crate::revoked::Revoked;
use crate::svid::{Svid, SvidError};

/// What the text begins with; the node's name follows.
const HEAD: &str = "# sidelane identity of node ";
/// What stands before the roots.
const ROOTS: &str = "# roots\n";

/// Why a text is no kept identity. Says nothing of what stands in it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeptError {
    /// It is none, or not whole.
    #[error("it is no kept identity, or not whole")]
    Broken,
    /// It is another node's.
    #[error("it is the identity of node `{found}`")]
    OtherNode {
        /// Whose it is.
        found: String,
    },
    /// Key and certificates make no SVID.
    #[error("{0}")]
    Svid(#[from] SvidError),
    /// The roots make no bundle.
    #[error("{0}")]
    Bundle(#[from] BundleError),
    /// The two do not fit.
    #[error("{0}")]
    Identity(#[from] IdentityError),
}

/// Writes it. Revocations are not in it: they are told anew.
#[must_use]
pub fn to_text(node: &str, identity: &Identity, key: &PrivateKey) -> Zeroizing<String> {
    let key = key.to_pem();
    let certificates = |all: &[rustls_pki_types::CertificateDer<'_>]| {
        pem::certificates_to_pem(all.iter().map(|each| &**each))
    };
    let chain = certificates(identity.svid().chain());
    let roots = certificates(identity.bundle().roots());
    let parts = [HEAD, node, "\n", &key, &chain, ROOTS, &roots];
    // As much room as it takes, so that growing leaves no copy of the key behind.
    let room = parts.iter().map(|part| part.len()).sum();
    let mut text = Zeroizing::new(String::with_capacity(room));
    for part in parts {
        text.push_str(part);
    }
    text
}

/// The text with the roots of `identity` in place of its own; `None` where it holds another
/// certificate, or the same roots.
///
/// # Errors
/// It is none, not whole, or another node's.
pub fn retrusted(
    node: &str,
    text: &[u8],
    identity: &Identity,
) -> Result<Option<Zeroizing<String>>, KeptError> {
    let held = from_text(node, text)?;
    let same = held.bundle() == identity.bundle();
    if same || held.svid().chain() != identity.svid().chain() {
        return Ok(None);
    }
    let text = std::str::from_utf8(text).map_err(|_| KeptError::Broken)?;
    let (own, _) = text.split_once(ROOTS).ok_or(KeptError::Broken)?;
    let roots = identity.bundle().roots().iter();
    let roots = pem::certificates_to_pem(roots.map(|root| &**root));
    let mut new = Zeroizing::new(String::with_capacity(own.len() + ROOTS.len() + roots.len()));
    for part in [own, ROOTS, &roots] {
        new.push_str(part);
    }
    Ok(Some(new))
}

/// Reads what this node has kept. Whether its time is over is not asked.
///
/// # Errors
/// It is none, not whole, or another node's.
pub fn from_text(node: &str, text: &[u8]) -> Result<Identity, KeptError> {
    let text = std::str::from_utf8(text).map_err(|_| KeptError::Broken)?;
    let (head, rest) = text.split_once('\n').ok_or(KeptError::Broken)?;
    let found = head.strip_prefix(HEAD).ok_or(KeptError::Broken)?;
    if found != node {
        let found = found.chars().take(80).collect();
        return Err(KeptError::OtherNode { found });
    }
    let (own, roots) = rest.split_once(ROOTS).ok_or(KeptError::Broken)?;
    let svid = Svid::from_pem(own.as_bytes(), own.as_bytes())?;
    let bundle = Bundle::from_pem(svid.trust_domain(), roots.as_bytes())?;
    Ok(Identity::new(svid, bundle, Revoked::default())?)
}

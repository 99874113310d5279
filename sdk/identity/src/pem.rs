//! PEM files: certificates, and nothing that only looks like one.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};

/// Why a text is no PEM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PemError {
    /// Nothing of the kind is in it.
    #[error("no `-----BEGIN {wanted}-----` is in it")]
    Missing {
        /// What was looked for.
        wanted: &'static str,
    },
    /// It is broken off, or is no base64. What stands there is not shown: it may be a key.
    #[error("it is no whole PEM: broken off, or no base64")]
    Broken,
}

pub(crate) fn certificates(text: &[u8]) -> Result<Vec<CertificateDer<'static>>, PemError> {
    let found: Result<Vec<_>, pem::Error> = CertificateDer::pem_slice_iter(text).collect();
    let found = found.map_err(|_| PemError::Broken)?;
    let wanted = "CERTIFICATE";
    if found.is_empty() {
        return Err(PemError::Missing { wanted });
    }
    Ok(found)
}

//! PEM files: certificates, and nothing that only looks like one.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::{self, PemObject};
use zeroize::Zeroizing;

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

/// Writes certificates, one after the other: what [`crate::Bundle::from_pem`] reads.
#[must_use]
pub fn certificates_to_pem<'a>(all: impl IntoIterator<Item = &'a [u8]>) -> String {
    let all = all.into_iter();
    all.map(|each| encode("CERTIFICATE", each).to_string())
        .collect()
}

/// Characters on a line (RFC 7468 §2).
const LINE: usize = 64;

/// Writes one item. What it is made from may be a key, so all of it is overwritten on drop.
pub(crate) fn encode(label: &str, der: &[u8]) -> Zeroizing<String> {
    let digits = Zeroizing::new(STANDARD.encode(der));
    // As much room as it takes, so that growing leaves no copy behind.
    let room = digits.len() + digits.len() / LINE + 2 * label.len() + LINE;
    let mut text = Zeroizing::new(String::with_capacity(room));
    for part in ["-----BEGIN ", label, "-----\n"] {
        text.push_str(part);
    }
    let mut rest = digits.as_str();
    while !rest.is_empty() {
        let (line, more) = rest.split_at(rest.len().min(LINE));
        text.push_str(line);
        text.push('\n');
        rest = more;
    }
    for part in ["-----END ", label, "-----\n"] {
        text.push_str(part);
    }
    text
}

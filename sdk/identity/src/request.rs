//! How a workload comes to a certificate without showing anybody its key: it makes the key itself, and
//! asks with a PKCS#10 request (RFC 2986) that the key has signed.

use rcgen::{CertificateParams, KeyPair, PKCS_ECDSA_P256_SHA256};
use rustls_pki_types::CertificateDer;
use zeroize::{Zeroize, Zeroizing};

use crate::key::PrivateKey;
use crate::svid::{Svid, SvidError};

/// A key or a request for it cannot be made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("no key and request for a certificate can be made: {0}")]
pub struct RequestError(String);

/// A new P-256 key, and what asks to have it signed. Has no `Debug`, so that no log can hold it.
pub struct Request {
    key: PrivateKey,
    csr: Vec<u8>,
}

impl Request {
    /// Makes both.
    ///
    /// # Errors
    /// The system has no random numbers.
    pub fn make() -> Result<Self, RequestError> {
        let failed = |error: rcgen::Error| RequestError(error.to_string());
        let mut pair = KeyPair::generate_for(&PKCS_ECDSA_P256_SHA256).map_err(failed)?;
        let csr = CertificateParams::default().serialize_request(&pair);
        let key = PrivateKey::pkcs8(&Zeroizing::new(pair.serialize_der()));
        pair.zeroize();
        let csr = csr.map_err(failed)?.der().to_vec();
        Ok(Self { key, csr })
    }

    /// The request, DER.
    #[must_use]
    pub fn csr(&self) -> &[u8] {
        &self.csr
    }

    /// The key, for whoever was told to keep it.
    #[must_use]
    pub fn key(&self) -> &PrivateKey {
        &self.key
    }

    /// What came of it, the workload's certificate first.
    ///
    /// # Errors
    /// It is no X.509-SVID, or not of this key.
    pub fn signed(&self, chain: Vec<CertificateDer<'static>>) -> Result<Svid, SvidError> {
        Svid::new(chain, &self.key)
    }
}

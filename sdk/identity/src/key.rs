//! Private keys on their way into TLS. They are overwritten when they are dropped, and nothing
//! prints them.

use std::sync::Arc;

use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::sign::SigningKey;
use rustls_pki_types::pem::{Error, PemObject};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use zeroize::{Zeroize, Zeroizing};

use crate::pem::{self, PemError};

/// Why there is no private key. Says nothing of what stands in the file.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// The file is no PEM with a key.
    #[error("the private key cannot be read: {0}")]
    Pem(#[from] PemError),
    /// Of a kind that is not taken.
    #[error(
        "the private key cannot be used: it must be P-256, P-384, Ed25519 or RSA of at least \
         2,048 bits, in PKCS#8, SEC1 or PKCS#1, without a password"
    )]
    Unsupported,
}

/// A private key's bytes, overwritten on drop.
pub struct PrivateKey(PrivateKeyDer<'static>);

impl PrivateKey {
    /// A key in PKCS#8.
    #[must_use]
    pub fn pkcs8(der: &Zeroizing<Vec<u8>>) -> Self {
        Self(PrivatePkcs8KeyDer::from(der.to_vec()).into())
    }

    /// The first key of a PEM file, in PKCS#8, SEC1 or PKCS#1.
    ///
    /// # Errors
    /// There is none, or it is broken off. Whether it can be used is seen with its certificate.
    pub fn from_pem(text: &[u8]) -> Result<Self, KeyError> {
        let wanted = "PRIVATE KEY";
        let key = PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
            Error::NoItemsFound => PemError::Missing { wanted },
            _ => PemError::Broken,
        })?;
        Ok(Self(key))
    }

    /// As [`PrivateKey::from_pem`] reads it.
    pub(crate) fn to_pem(&self) -> Zeroizing<String> {
        let label = match &self.0 {
            PrivateKeyDer::Pkcs1(_) => "RSA PRIVATE KEY",
            PrivateKeyDer::Sec1(_) => "EC PRIVATE KEY",
            _ => "PRIVATE KEY",
        };
        pem::encode(label, self.0.secret_der())
    }

    /// The key as TLS takes it.
    ///
    /// # Errors
    /// It is of a kind that is not taken.
    pub fn signing(&self) -> Result<Arc<dyn SigningKey>, KeyError> {
        any_supported_type(&self.0).map_err(|_| KeyError::Unsupported)
    }
}

impl Drop for PrivateKey {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

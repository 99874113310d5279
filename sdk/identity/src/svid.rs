//! An X.509-SVID: a workload's certificate, those between it and a root, and its private key.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::InconsistentKeys;
use rustls::sign::CertifiedKey;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, X509Certificate};

use crate::key::{KeyError, PrivateKey};
use crate::pem::{self, PemError};
use crate::refusal::Refusal;
use crate::revoked::Serial;
use crate::verify;
use crate::{SpiffeId, TrustDomain};

/// Certificates in a chain at most, the workload's own among them. A stranger's chain is parsed
/// before it is believed.
pub const CHAIN_LIMIT: usize = 4;
/// The longest certificate, in bytes.
pub const CERTIFICATE_LIMIT: usize = 16 * 1024;

/// Why certificates and a key make no SVID.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SvidError {
    /// The certificates are no PEM.
    #[error("the certificates cannot be read: {0}")]
    Pem(#[from] PemError),
    /// The key cannot be used.
    #[error("{0}")]
    Key(#[from] KeyError),
    /// The first certificate is none that peers would take.
    #[error("the certificate is no X.509-SVID: {0}")]
    Leaf(Refusal),
    /// A certificate did not sign the one before it.
    #[error(
        "certificate {place} of the chain is not the issuer of the one before it: the workload's \
         comes first, then who signed it, and so on; the root stays in the bundle"
    )]
    Order {
        /// Which one, counted from 1.
        place: usize,
    },
    /// The key is another certificate's.
    #[error("the private key does not fit the certificate: the two are not of one signing")]
    KeyMismatch,
}

/// A workload's certificate and key, which clones share. Has no `Debug`, so that no log can hold it.
#[derive(Clone)]
pub struct Svid {
    id: SpiffeId,
    serial: Serial,
    not_before: SystemTime,
    not_after: SystemTime,
    certified: Arc<CertifiedKey>,
}

impl Svid {
    /// From a chain, the workload's certificate first and without its root, and its key.
    ///
    /// # Errors
    /// The certificate is no X.509-SVID, the chain is out of order, or the key is another's.
    /// Whether it is valid now, and under which root, is seen when it is used.
    pub fn new(chain: Vec<CertificateDer<'static>>, key: &PrivateKey) -> Result<Self, SvidError> {
        let leaf = verify::leaf(&chain).map_err(SvidError::Leaf)?;
        in_order(&chain)?;
        let certified = CertifiedKey::new(chain, key.signing()?);
        match certified.keys_match() {
            Ok(()) => {}
            Err(rustls::Error::InconsistentKeys(InconsistentKeys::KeyMismatch)) => {
                return Err(SvidError::KeyMismatch);
            }
            Err(_) => return Err(KeyError::Unsupported.into()),
        }
        Ok(Self {
            id: leaf.id,
            serial: leaf.serial,
            not_before: leaf.not_before,
            not_after: leaf.not_after,
            certified: Arc::new(certified),
        })
    }

    /// From PEM files.
    ///
    /// # Errors
    /// As [`Svid::new`], or one of the two is no PEM.
    pub fn from_pem(chain: &[u8], key: &[u8]) -> Result<Self, SvidError> {
        Self::new(pem::certificates(chain)?, &PrivateKey::from_pem(key)?)
    }

    /// Whose it is.
    #[must_use]
    pub fn id(&self) -> &SpiffeId {
        &self.id
    }

    /// The trust domain of its id.
    #[must_use]
    pub fn trust_domain(&self) -> TrustDomain {
        self.id.trust_domain()
    }

    /// The certificate's serial number.
    #[must_use]
    pub fn serial(&self) -> &Serial {
        &self.serial
    }

    /// From when on it is valid.
    #[must_use]
    pub fn not_before(&self) -> SystemTime {
        self.not_before
    }

    /// Until when it is valid.
    #[must_use]
    pub fn not_after(&self) -> SystemTime {
        self.not_after
    }

    /// The certificates, the workload's first.
    #[must_use]
    pub fn chain(&self) -> &[CertificateDer<'static>] {
        &self.certified.cert
    }

    /// The same, whose chain ends with its root: who knows a root by its fingerprint alone looks for
    /// it there.
    pub(crate) fn with_root(&self, root: CertificateDer<'static>) -> Self {
        let mut chain = self.certified.cert.clone();
        chain.push(root);
        Self {
            certified: Arc::new(CertifiedKey::new(chain, Arc::clone(&self.certified.key))),
            ..self.clone()
        }
    }

    pub(crate) fn certified(&self) -> &Arc<CertifiedKey> {
        &self.certified
    }
}

fn in_order(chain: &[CertificateDer<'_>]) -> Result<(), SvidError> {
    for (index, pair) in chain.windows(2).enumerate() {
        let issued = X509Certificate::from_der(&pair[0]);
        let issuer = X509Certificate::from_der(&pair[1]);
        let fits = match (issued, issuer) {
            (Ok((_, issued)), Ok((_, issuer))) => {
                issued.issuer().as_raw() == issuer.subject().as_raw()
            }
            _ => false,
        };
        if !fits {
            return Err(SvidError::Order { place: index + 2 });
        }
    }
    Ok(())
}

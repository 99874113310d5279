//! Who a program is at the moment, and by what it judges others.

use std::sync::Arc;
use std::time::SystemTime;

use tokio::sync::watch;

use crate::TrustDomain;
use crate::bundle::Bundle;
use crate::refusal::Refusal;
use crate::revoked::Revoked;
use crate::svid::Svid;
use crate::verify::{self, Expected};

/// Where the present identity is read; `None` while there is none yet.
pub type Source = watch::Receiver<Option<Arc<Identity>>>;

/// Why certificate and roots make no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// The roots are another mesh's.
    #[error("the certificate is of trust domain {svid}, the roots are of {bundle}")]
    TrustDomain {
        /// The certificate's.
        svid: TrustDomain,
        /// The roots'.
        bundle: TrustDomain,
    },
}

/// An SVID, the roots and revocations that others' are judged by. It never changes: another one
/// takes its place.
pub struct Identity {
    svid: Svid,
    bundle: Bundle,
    revoked: Revoked,
}

impl Identity {
    /// These together.
    ///
    /// # Errors
    /// They are of two trust domains.
    pub fn new(svid: Svid, bundle: Bundle, revoked: Revoked) -> Result<Self, IdentityError> {
        let domain = svid.trust_domain();
        if domain != *bundle.trust_domain() {
            return Err(IdentityError::TrustDomain {
                svid: domain,
                bundle: bundle.trust_domain().clone(),
            });
        }
        Ok(Self {
            svid,
            bundle,
            revoked,
        })
    }

    /// The own certificate.
    #[must_use]
    pub fn svid(&self) -> &Svid {
        &self.svid
    }

    /// The roots.
    #[must_use]
    pub fn bundle(&self) -> &Bundle {
        &self.bundle
    }

    /// What is revoked.
    #[must_use]
    pub fn revoked(&self) -> &Revoked {
        &self.revoked
    }

    /// Would a peer with the same roots take the own certificate now?
    ///
    /// # Errors
    /// What it would say.
    pub fn is_sound(&self, now: SystemTime) -> Result<(), Refusal> {
        verify::chain(self.svid.chain(), self, &Expected::Any, now).map(drop)
    }
}

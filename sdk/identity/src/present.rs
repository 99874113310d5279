//! Who a program is at the moment, and by what it judges others.

use std::sync::Arc;
use std::time::SystemTime;

use rustls::DistinguishedName;
use rustls_pki_types::CertificateDer;
use tokio::sync::watch;

use crate::bundle::Bundle;
use crate::refusal::Refusal;
use crate::revoked::Revoked;
use crate::svid::Svid;
use crate::verify::{self, Expected};
use crate::{TrustDomain, hint};

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
    /// Of the same holder, under roots before that of `svid`, the latest first.
    elders: Vec<Svid>,
    /// The same, under roots that peers believe no more.
    late: Vec<Svid>,
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
            elders: Vec::new(),
            late: Vec::new(),
            bundle,
            revoked,
        })
    }

    /// And these certificates of the same holder under roots before, the latest first, each with its
    /// root in its chain: for who dials and believes one of those alone. `late` are of roots that nobody
    /// believes but who was away since.
    #[must_use]
    pub fn with_elders(mut self, elders: Vec<Svid>, late: Vec<Svid>) -> Self {
        (self.elders, self.late) = (elders, late);
        self
    }

    /// The certificate to show to somebody who believes these roots, if they said so.
    pub(crate) fn shown_to(&self, named: &[DistinguishedName]) -> &Svid {
        if self.elders.is_empty() && self.late.is_empty() {
            return &self.svid;
        }
        let believed = std::iter::once(&self.svid).chain(&self.elders);
        let svids: Vec<&Svid> = believed.chain(&self.late).collect();
        let believed = svids.len() - self.late.len();
        hint::chosen(&svids, believed, named).unwrap_or(&self.svid)
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

    /// The same, showing its root beside its certificates, and that root. `None` where no root of the
    /// bundle signed it, or the chain would be too long with one.
    #[must_use]
    pub fn with_root(&self, now: SystemTime) -> Option<(Self, CertificateDer<'static>)> {
        let domain = self.svid.trust_domain();
        let chain = self.svid.chain();
        let root = self.bundle.roots().iter().find(|root| {
            let alone = Bundle::new(domain.clone(), vec![(*root).clone()]);
            alone.is_ok_and(|alone| {
                let none = Revoked::default();
                verify::under(chain, &alone, &none, &Expected::Any, now).is_ok()
            })
        })?;
        let svid = self.svid.with_root(root.clone());
        let (bundle, revoked) = (self.bundle.clone(), self.revoked.clone());
        let shown = Self::new(svid, bundle, revoked).ok()?;
        shown.is_sound(now).ok()?;
        Some((shown, root.clone()))
    }

    /// Would a peer with the same roots take the own certificate now?
    ///
    /// # Errors
    /// What it would say.
    pub fn is_sound(&self, now: SystemTime) -> Result<(), Refusal> {
        verify::chain(self.svid.chain(), self, &Expected::Any, now).map(drop)
    }
}

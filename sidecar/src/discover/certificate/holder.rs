//! Who this sidecar is at the moment. Certificates come from renewals and trust comes by membership,
//! each without the other; here they meet.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use arc_swap::ArcSwapOption;
use sidelane_identity::{Identity, Source, TrustDomain};
use sidelane_proto::wire::control::v1 as wire;
use tokio::sync::{Notify, watch};

use super::trusted::{self, TrustError};

/// Holds the present identity. There is one from its making on.
pub struct Holder {
    domain: TrustDomain,
    present: watch::Sender<Option<Arc<Identity>>>,
    renewed: AtomicU64,
    failed: AtomicU64,
    /// Why the last attempt came to nothing, until one succeeds.
    trouble: ArcSwapOption<String>,
    /// Whoever answers for control is none by what is trusted here.
    stranger: Notify,
}

/// What became of renewals so far.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    /// Certificates that took another's place.
    pub renewed: u64,
    /// Attempts that came to nothing.
    pub failed: u64,
}

impl Holder {
    /// With the first one.
    #[must_use]
    pub fn new(first: Identity) -> Self {
        Self {
            domain: first.svid().trust_domain(),
            present: watch::Sender::new(Some(Arc::new(first))),
            renewed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            trouble: ArcSwapOption::empty(),
            stranger: Notify::new(),
        }
    }

    /// Where links read it.
    #[must_use]
    pub fn source(&self) -> Source {
        self.present.subscribe()
    }

    /// What became of renewals so far.
    #[must_use]
    pub fn figures(&self) -> Figures {
        Figures {
            renewed: self.renewed.load(Ordering::Relaxed),
            failed: self.failed.load(Ordering::Relaxed),
        }
    }

    /// Takes another certificate. What is trusted stays as it is, because what membership said last
    /// may be newer than what came beside the certificate; unless the certificate is not believed
    /// by it, as when control was away for a change of roots.
    pub(super) fn renew(&self, new: Identity, now: SystemTime) {
        self.renewed.fetch_add(1, Ordering::Relaxed);
        self.trouble.store(None);
        self.present.send_modify(|present| {
            let kept = present.as_ref().and_then(|held| {
                let (bundle, revoked) = (held.bundle().clone(), held.revoked().clone());
                let kept = Identity::new(new.svid().clone(), bundle, revoked).ok()?;
                kept.is_sound(now).is_ok().then_some(kept)
            });
            *present = Some(Arc::new(kept.unwrap_or(new)));
        });
    }

    /// An attempt came to nothing.
    pub(super) fn failed(&self, why: &impl ToString) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.trouble.store(Some(Arc::new(why.to_string())));
    }

    /// Why the certificate is not renewed, where the last attempt came to nothing.
    #[must_use]
    pub fn trouble(&self) -> Option<Arc<String>> {
        self.trouble.load_full()
    }

    /// Who answers for control is of another root: it has lost its own, or what is held was kept from
    /// another one. Another proof may lead to it, and needs not wait until a renewal is due.
    pub(in crate::discover) fn met_stranger(&self) {
        self.stranger.notify_one();
    }

    /// Waits until that is so.
    pub(super) async fn stranger(&self) {
        self.stranger.notified().await;
    }

    /// Judges by this from now on.
    pub(in crate::discover) fn trust(&self, told: wire::Trust) -> Result<(), TrustError> {
        let (bundle, revoked) = trusted::read(&self.domain, told)?;
        let mut wrong = None;
        self.present.send_if_modified(|present| {
            let Some(held) = present else { return false };
            if *held.bundle() == bundle && *held.revoked() == revoked {
                return false;
            }
            match Identity::new(held.svid().clone(), bundle, revoked) {
                Ok(identity) => *held = Arc::new(identity),
                Err(error) => wrong = Some(error),
            }
            wrong.is_none()
        });
        wrong.map_or(Ok(()), |error| Err(error.into()))
    }
}

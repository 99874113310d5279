//! What identity needs done while control runs: control's own certificates, one under each root that
//! somebody may know it by, which are renewed like any other; the join file, which names the root that
//! signs; and the steps of a rotation, which wait for time or for the sidecars.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::{CertificateParams, KeyPair};
use sidelane_identity::pinned::control;
use sidelane_identity::{Bundle, CertificateDer, Identity, PrivateKey, Source, Svid, TrustDomain};
use sidelane_proto::model::Identity as Name;
use tokio::sync::watch;
use tokio::time::MissedTickBehavior;
use zeroize::Zeroizing;

use super::join::Join;
use super::revoked;
use crate::ca::{Authority, Trust, unix_now};
use crate::drain::Draining;
use crate::push::Directory;

/// Between two looks at what the time has made due: the shortest certificates live for 2 s.
pub const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Sees to it.
pub struct Keeper {
    authority: Arc<Authority>,
    domain: TrustDomain,
    join: Join,
    own: watch::Sender<Option<Arc<Identity>>>,
    renew_at: SystemTime,
}

impl Keeper {
    /// Signs control's first certificate and leaves the join file.
    ///
    /// # Errors
    /// What stands in the way.
    pub async fn start(
        authority: Arc<Authority>,
        domain: TrustDomain,
        join: Join,
    ) -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let mut keeper = Self {
            authority,
            domain,
            join,
            own: watch::Sender::new(None),
            renew_at: SystemTime::UNIX_EPOCH,
        };
        keeper.renew().await?;
        Ok(keeper)
    }

    /// Control's own identity, at any time.
    #[must_use]
    pub fn source(&self) -> Source {
        self.own.subscribe()
    }

    /// Runs until the end begins.
    pub async fn run(mut self, directory: Arc<Directory>, mut draining: Draining) {
        let mut trust = self.authority.trust();
        let mut looks = tokio::time::interval(LOOK_EVERY);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let changed = tokio::select! {
                () = draining.begun() => break,
                changed = trust.changed() => changed.is_ok(),
                _ = looks.tick() => false,
            };
            let revision = trust.borrow().revision;
            let heard = directory.trust(revision);
            if let Err(error) = self.authority.advance(unix_now(), &heard).await {
                tracing::error!(%error, "the authority cannot go on, and tries again");
            }
            if (changed || SystemTime::now() >= self.renew_at)
                && let Err(error) = self.renew().await
            {
                tracing::error!(%error, "control cannot renew its certificate, and tries again");
            }
        }
        self.join.remove();
    }

    async fn renew(&mut self) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let key = KeyPair::generate()?;
        let request = CertificateParams::default().serialize_request(&key)?;
        let name = Name::new(control(&self.domain).as_str())?;
        let signed = self
            .authority
            .sign_own(&name, request.der(), unix_now())
            .await?;
        let key = PrivateKey::pkcs8(&Zeroizing::new(key.serialize_der()));
        let mut svids = Vec::new();
        for signed in &signed {
            // With its root: who knows control only by a fingerprint looks for it there.
            let chain = vec![
                signed.certificate.clone().into(),
                signed.root.certificate().to_vec().into(),
            ];
            svids.push(Svid::new(chain, &key)?);
        }
        let mut elders = svids.split_off(1.min(svids.len()));
        let (Some(first), Some(svid)) = (signed.first(), svids.pop()) else {
            return Err("no root signs".into());
        };
        let trust: &Trust = &first.trust;
        let is_late = |svid: &Svid| {
            let root = svid.chain().last();
            root.is_some_and(|root| trust.late.iter().any(|late| **root == **late))
        };
        let late = elders.extract_if(.., |svid| is_late(svid)).collect();
        let roots = trust.roots.iter().chain(&trust.late);
        let roots: Vec<CertificateDer<'static>> = roots.map(|root| root.clone().into()).collect();
        let (begin, end) = (SystemTime::now(), svid.not_after());
        let life = end.duration_since(begin).unwrap_or_default();
        self.renew_at = begin + life * 2 / 3;
        let bundle = Bundle::new(self.domain.clone(), roots)?;
        let identity = Identity::new(svid, bundle, revoked(trust))?.with_elders(elders, late);
        self.own.send_replace(Some(Arc::new(identity)));
        self.join.leave(first.root.fingerprint())?;
        Ok(())
    }
}

//! Which root signs, and which are trusted. A new root is trusted before it signs: it is *coming*
//! until every sidecar has it, so that nobody meets a certificate of a root that they do not know.
//! The old one is *leaving* until the last certificate that it signed has ended, so that nobody's
//! certificate turns bad before its time. Then it is *late*: sidecars believe it no longer, and
//! control does, for those that were away all the while and may renew what has ended.

use std::sync::Arc;
use std::time::Duration;

use super::error::RotateError;
use super::{Root, UnixSeconds};

/// A root signs this long after it was made even if sidecars have not acknowledged it: one that
/// hangs must not keep a root from being replaced. It hears of the root when it comes back.
pub const OVERLAP_LIMIT: Duration = Duration::from_secs(3_600);
/// Roots at once: one that signs, one that is coming, and some that are leaving or late.
pub const ROOTS_LIMIT: usize = 4;
/// A leaving root is trusted this much longer than its last certificate, for clocks that are behind; but
/// never longer than that has lived, since where lives are shorter clocks cannot differ so much.
pub const SKEW: Duration = Duration::from_secs(300);

/// Where in its life a root stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// Trusted, and signs nothing yet.
    Coming {
        /// Since when.
        since: UnixSeconds,
    },
    /// The one that signs.
    Signing,
    /// Signs no more, and is trusted until then.
    Leaving {
        /// Until when.
        until: UnixSeconds,
    },
    /// Trusted by control alone, until then.
    Late {
        /// Until when.
        until: UnixSeconds,
    },
}

/// A root, and where it stands.
#[derive(Debug, Clone)]
pub struct Placed {
    /// The root.
    pub root: Arc<Root>,
    /// Where it stands.
    pub phase: Phase,
    /// The longest life that any of its certificates was given.
    pub longest: Duration,
}

/// All roots that are trusted. Exactly one of them signs.
#[derive(Debug, Clone)]
pub struct Roots {
    signing: Placed,
    others: Vec<Placed>,
}

impl Roots {
    /// One root, which signs.
    #[must_use]
    pub fn new(root: Root) -> Self {
        let signing = Placed {
            root: Arc::new(root),
            phase: Phase::Signing,
            longest: Duration::ZERO,
        };
        Self {
            signing,
            others: Vec::new(),
        }
    }

    /// As they were kept; `None` if not exactly one of them signs.
    #[must_use]
    pub fn restore(placed: Vec<Placed>) -> Option<Self> {
        let (mut signing, others): (Vec<_>, Vec<_>) = placed
            .into_iter()
            .partition(|it| it.phase == Phase::Signing);
        let one = signing.pop().filter(|_| signing.is_empty())?;
        Some(Self {
            signing: one,
            others,
        })
    }

    /// The one that signs.
    #[must_use]
    pub fn signing(&self) -> &Arc<Root> {
        &self.signing.root
    }

    /// All that are kept, the one that signs first.
    pub fn all(&self) -> impl Iterator<Item = &Placed> {
        std::iter::once(&self.signing).chain(&self.others)
    }

    /// Is a root on its way to the sidecars?
    #[must_use]
    pub fn is_rotating(&self) -> bool {
        self.coming().is_some()
    }

    /// The signing root gives a certificate this life. True: it is longer than any before, so this
    /// must be kept before the certificate is given out.
    pub fn gives(&mut self, life: Duration) -> bool {
        let longer = life > self.signing.longest;
        self.signing.longest = self.signing.longest.max(life);
        longer
    }

    /// Brings a new root in.
    ///
    /// # Errors
    /// There is one on its way, or too many are trusted.
    pub fn rotate(&mut self, root: Root, now: UnixSeconds) -> Result<(), RotateError> {
        if self.is_rotating() {
            return Err(RotateError::UnderWay);
        }
        // With the one that signs and the new one.
        if self.others.len() + 2 > ROOTS_LIMIT {
            return Err(RotateError::TooMany(self.others.len()));
        }
        self.others.push(Placed {
            root: Arc::new(root),
            phase: Phase::Coming { since: now },
            longest: Duration::ZERO,
        });
        Ok(())
    }

    /// Goes on as far as the time allows: `acknowledged` says that every sidecar has all roots, and
    /// what has ended can be renewed for `grace`. True: something changed.
    pub fn advance(&mut self, now: UnixSeconds, acknowledged: bool, grace: Duration) -> bool {
        let mut dropped = false;
        for it in &mut self.others {
            if let Phase::Leaving { until } = it.phase
                && now >= until
            {
                let until = until + grace.as_secs();
                it.phase = Phase::Late { until };
                dropped = true;
            }
        }
        let before = self.others.len();
        self.others
            .retain(|it| !matches!(it.phase, Phase::Late { until } if now >= until));
        dropped |= self.others.len() != before;
        let Some(index) = self.coming() else {
            return dropped;
        };
        let Phase::Coming { since } = self.others[index].phase else {
            return dropped;
        };
        if !acknowledged && now < since + OVERLAP_LIMIT.as_secs() {
            return dropped;
        }
        let mut new = self.others.remove(index);
        new.phase = Phase::Signing;
        let mut old = std::mem::replace(&mut self.signing, new);
        let until = now + (old.longest + SKEW.min(old.longest)).as_secs();
        old.phase = Phase::Leaving { until };
        self.others.push(old);
        true
    }

    /// All by which somebody may know control: the one that signs, then those before it, the latest
    /// first.
    pub fn known(&self) -> impl Iterator<Item = &Arc<Root>> {
        let before = self.others.iter().rev();
        let before = before.filter(|it| !matches!(it.phase, Phase::Coming { .. }));
        std::iter::once(&self.signing)
            .chain(before)
            .map(|it| &it.root)
    }

    fn coming(&self) -> Option<usize> {
        self.others
            .iter()
            .position(|it| matches!(it.phase, Phase::Coming { .. }))
    }
}

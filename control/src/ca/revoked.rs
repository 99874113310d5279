//! Who is believed no longer: single certificates by number, and nodes and identities with all that
//! was signed for them until then. To take such a revocation back lets in what is newer, by a new
//! proof: what was signed before is of no use for ever, not for a call and not for a renewal, because
//! whoever took it may have it still. So a revocation keeps its time, also after it was taken back,
//! until nothing that was signed before can be renewed.

use std::collections::HashMap;
use std::fmt;
use std::time::Duration;

use sidelane_proto::model::{Identity, NodeId};

use super::authority::LEAF_LIFE_MAXIMUM;
use super::rotation::SKEW;
use super::{Serial, UnixSeconds};

/// Revocations at once: they travel whole, to every sidecar.
pub const REVOKED_LIMIT: usize = 10_000;
/// The longest time after its end in which a certificate can be renewed.
pub const RENEWAL_GRACE_MAXIMUM: Duration = LEAF_LIFE_MAXIMUM;
/// A revocation is kept for so long: the longest certificate, the longest grace, and the difference
/// of clocks.
pub const REVOKED_FOR: Duration = Duration::from_secs(
    LEAF_LIFE_MAXIMUM.as_secs() + RENEWAL_GRACE_MAXIMUM.as_secs() + SKEW.as_secs(),
);

/// Who or what was revoked.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Subject {
    /// One certificate.
    Serial(Serial),
    /// All of a node.
    Node(NodeId),
    /// All of an identity.
    Identity(Identity),
}

/// One revocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Revocation {
    /// Of whom.
    pub subject: Subject,
    /// What was signed or made up to this second is of no use.
    pub since: UnixSeconds,
    /// Until when it is kept.
    pub until: UnixSeconds,
    /// It was taken back for what is newer.
    pub lifted: bool,
}

/// What somebody shows that was made at some time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// A certificate's number.
    pub serial: Option<Serial>,
    /// When it was signed, or made.
    pub made: UnixSeconds,
}

/// Who of those that somebody is was revoked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Found {
    /// Who.
    pub subject: Subject,
    /// It was taken back, and what is shown is older.
    pub lifted: bool,
}

/// All that are kept.
#[derive(Debug, Clone, Default)]
pub struct Revoked {
    kept: HashMap<Subject, Kept>,
}

#[derive(Debug, Clone, Copy)]
struct Kept {
    since: UnixSeconds,
    until: UnixSeconds,
    lifted: bool,
}

impl Revoked {
    /// As they were kept.
    #[must_use]
    pub fn restore(kept: impl IntoIterator<Item = Revocation>) -> Self {
        let mut revoked = Self::default();
        for it in kept {
            let Revocation {
                subject,
                since,
                until,
                lifted,
            } = it;
            let it = Kept {
                since,
                until,
                lifted,
            };
            revoked.kept.insert(subject, it);
        }
        revoked
    }

    /// Revokes. An earlier revocation of the same is prolonged, never shortened, and holds again if it
    /// was taken back. False: there are too many.
    pub fn add(&mut self, revocation: Revocation) -> bool {
        let Revocation {
            subject,
            since,
            until,
            lifted,
        } = revocation;
        if self.kept.len() >= REVOKED_LIMIT && !self.kept.contains_key(&subject) {
            return false;
        }
        let new = Kept {
            since,
            until,
            lifted,
        };
        let kept = self.kept.entry(subject).or_insert(new);
        kept.since = since.max(kept.since);
        kept.until = until.max(kept.until);
        kept.lifted &= lifted;
        true
    }

    /// Takes one back: all of it for a single certificate, for what is newer otherwise. Gives what is
    /// to be kept of it; `None` in it: nothing. Without it: it was not revoked.
    pub fn lift(&mut self, subject: &Subject) -> Option<Option<Revocation>> {
        let kept = self.kept.get_mut(subject).filter(|kept| !kept.lifted)?;
        if matches!(subject, Subject::Serial(_)) {
            self.kept.remove(subject);
            return Some(None);
        }
        kept.lifted = true;
        Some(Some(revocation(subject, kept)))
    }

    /// Forgets what is over; gives what it forgot.
    pub fn forget(&mut self, now: UnixSeconds) -> Vec<Subject> {
        let over = self.kept.iter().filter(|(_, kept)| now >= kept.until);
        let over: Vec<Subject> = over.map(|(subject, _)| subject.clone()).collect();
        for subject in &over {
            self.kept.remove(subject);
        }
        over
    }

    /// Who of those that somebody is was revoked, if any was, so that what is `held` counts no more;
    /// without it they have nothing yet, and come by a proof that was made now.
    #[must_use]
    pub fn finds(
        &self,
        held: Option<Held>,
        node: Option<&NodeId>,
        identity: &Identity,
    ) -> Option<Found> {
        let serial = held.and_then(|held| held.serial).map(Subject::Serial);
        if let Some(subject) = serial.filter(|serial| self.kept.contains_key(serial)) {
            let lifted = false;
            return Some(Found { subject, lifted });
        }
        for subject in names(node, identity) {
            let Some(kept) = self.kept.get(&subject) else {
                continue;
            };
            let older = held.is_some_and(|held| held.made <= kept.since);
            if !kept.lifted || older {
                let lifted = kept.lifted;
                return Some(Found { subject, lifted });
            }
        }
        None
    }

    /// The first second at which something that is made for them is newer than every revocation.
    #[must_use]
    pub fn newer(&self, node: &NodeId, identity: &Identity) -> UnixSeconds {
        let kept = names(Some(node), identity).filter_map(|subject| self.kept.get(&subject));
        kept.map(|kept| kept.since + 1).max().unwrap_or_default()
    }

    /// All of them that hold, in no order: what others are told.
    pub fn iter(&self) -> impl Iterator<Item = Revocation> {
        let holding = self.kept.iter().filter(|(_, kept)| !kept.lifted);
        holding.map(|(subject, kept)| revocation(subject, kept))
    }

    /// How many are kept.
    #[must_use]
    pub fn len(&self) -> usize {
        self.kept.len()
    }

    /// None?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }
}

fn names(node: Option<&NodeId>, identity: &Identity) -> impl Iterator<Item = Subject> {
    let node = node.cloned().map(Subject::Node);
    node.into_iter()
        .chain([Subject::Identity(identity.clone())])
}

fn revocation(subject: &Subject, kept: &Kept) -> Revocation {
    Revocation {
        subject: subject.clone(),
        since: kept.since,
        until: kept.until,
        lifted: kept.lifted,
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Serial(serial) => write!(formatter, "certificate {serial}"),
            Self::Node(node) => write!(formatter, "node `{node}`"),
            Self::Identity(identity) => write!(formatter, "{identity}"),
        }
    }
}

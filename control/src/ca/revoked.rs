//! Who is believed no longer: single certificates by number, and nodes and identities with all
//! certificates that they have. A number is kept until its certificate's end; a node or an identity
//! until the last certificate that it can have has ended, and is refused new ones meanwhile.

use std::collections::HashMap;
use std::fmt;

use sidelane_proto::model::{Identity, NodeId};

use super::{Serial, UnixSeconds};

/// Revocations at once: they travel whole, to every sidecar.
pub const REVOKED_LIMIT: usize = 10_000;

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
    /// Until when it is kept.
    pub until: UnixSeconds,
}

/// All that hold.
#[derive(Debug, Clone, Default)]
pub struct Revoked {
    until: HashMap<Subject, UnixSeconds>,
}

impl Revoked {
    /// As they were kept.
    #[must_use]
    pub fn restore(kept: impl IntoIterator<Item = Revocation>) -> Self {
        let until = kept.into_iter().map(|it| (it.subject, it.until));
        Self {
            until: until.collect(),
        }
    }

    /// Revokes. An earlier revocation of the same is prolonged, never shortened. False: there are
    /// too many.
    pub fn add(&mut self, revocation: Revocation) -> bool {
        let Revocation { subject, until } = revocation;
        if self.until.len() >= REVOKED_LIMIT && !self.until.contains_key(&subject) {
            return false;
        }
        let kept = self.until.entry(subject).or_insert(until);
        *kept = until.max(*kept);
        true
    }

    /// Takes one back. False: there is none.
    pub fn remove(&mut self, subject: &Subject) -> bool {
        self.until.remove(subject).is_some()
    }

    /// Forgets what is over; gives what it forgot.
    pub fn forget(&mut self, now: UnixSeconds) -> Vec<Subject> {
        let over = self.until.iter().filter(|(_, until)| now >= **until);
        let over: Vec<Subject> = over.map(|(subject, _)| subject.clone()).collect();
        for subject in &over {
            self.until.remove(subject);
        }
        over
    }

    /// Who of a certificate's three names was revoked, if any was.
    #[must_use]
    pub fn finds(
        &self,
        serial: Option<Serial>,
        node: &NodeId,
        identity: &Identity,
    ) -> Option<Subject> {
        let names = [
            serial.map(Subject::Serial),
            Some(Subject::Node(node.clone())),
            Some(Subject::Identity(identity.clone())),
        ];
        let mut names = names.into_iter().flatten();
        names.find(|name| self.until.contains_key(name))
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = Revocation> {
        self.until.iter().map(|(subject, until)| Revocation {
            subject: subject.clone(),
            until: *until,
        })
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.until.len()
    }

    /// None?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.until.is_empty()
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

//! Were a peer and this sidecar compiled with the same rules? Both say a digest in their Hello.
//! That they differ is no error: eligibility and classification see to each service by itself, and
//! the link goes on for all others. It is shown, and said once for each peer.

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};

use sidelane_proto::model::NodeId;
use tracing::info;

/// Peers of which it is remembered that it was said. Past it all are forgotten, and said again.
const TOLD_LIMIT: usize = 8_192;

/// A peer's compiled rules beside this sidecar's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kinship {
    /// All say the same of class, lane and secure.
    Same,
    /// At least one says something else, or one of the two has more.
    Different,
    /// The peer said nothing: it is of an older build.
    Unknown,
}

impl Kinship {
    /// The word that `/config` has.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Same => "same",
            Self::Different => "different",
            Self::Unknown => "unknown",
        }
    }
}

/// Peers that differ, and their digests.
type Told = HashSet<(NodeId, Vec<u8>)>;

/// The digest of this sidecar's compiled rules. Clones share what was said.
#[derive(Debug, Clone, Default)]
pub struct RulesDigest {
    own: Vec<u8>,
    told: Arc<Mutex<Told>>,
}

impl RulesDigest {
    /// Of rules that have this digest.
    #[must_use]
    pub fn new(digest: [u8; 32]) -> Self {
        Self {
            own: digest.to_vec(),
            told: Arc::default(),
        }
    }

    /// As it goes into a Hello.
    #[must_use]
    pub fn to_wire(&self) -> Vec<u8> {
        self.own.clone()
    }

    /// Compares a peer's with it, and says once if they differ.
    pub fn compare(&self, peer: &NodeId, theirs: &[u8]) -> Kinship {
        if theirs.is_empty() || self.own.is_empty() {
            return Kinship::Unknown;
        }
        if theirs == self.own {
            return Kinship::Same;
        }
        if theirs.len() == self.own.len() && self.is_news(peer, theirs) {
            info!(
                %peer,
                "the peer was compiled with other rules; a service of which they say something \
                 else is refused with RULES_MISMATCH, all others go on"
            );
        }
        Kinship::Different
    }

    fn is_news(&self, peer: &NodeId, theirs: &[u8]) -> bool {
        let mut told = self.told.lock().unwrap_or_else(PoisonError::into_inner);
        if told.len() >= TOLD_LIMIT {
            told.clear();
        }
        told.insert((peer.clone(), theirs.to_vec()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_difference_is_told_once_a_peer_and_digest() {
        let digest = RulesDigest::new([7; 32]);
        let peer = |name: &str| NodeId::new(name).unwrap();
        assert_eq!(digest.compare(&peer("a"), &[7; 32]), Kinship::Same);
        assert_eq!(digest.compare(&peer("a"), &[]), Kinship::Unknown);
        assert_eq!(digest.compare(&peer("a"), &[8; 32]), Kinship::Different);
        assert!(!digest.is_news(&peer("a"), &[8; 32]));
        assert!(digest.is_news(&peer("a"), &[9; 32]));
        assert!(digest.clone().is_news(&peer("b"), &[8; 32]));
        assert!(!digest.is_news(&peer("b"), &[8; 32]));
    }

    #[test]
    fn what_was_told_is_remembered_up_to_a_bound() {
        let digest = RulesDigest::new([7; 32]);
        for number in 0..=TOLD_LIMIT {
            let peer = NodeId::new(&format!("node-{number}")).unwrap();
            assert!(digest.is_news(&peer, &[8; 32]));
        }
        assert_eq!(digest.told.lock().unwrap().len(), 1);
    }
}

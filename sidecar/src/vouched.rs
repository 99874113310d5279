//! Who has proved who it is, and until when: the newest certificate that each peer has shown on any
//! link. A link outlives the certificate of its own handshake for as long as the same peer shows newer
//! ones beside it, so that renewal cuts no stream, however long it lasts. Pure: time comes in.

use std::collections::HashMap;
use std::time::{Instant, SystemTime};

use sidelane_identity::SpiffeId;
use sidelane_identity::verify::Leaf;

/// Peers that are kept in mind. Beyond it links end with the certificate of their own handshake.
pub const PEERS_LIMIT: usize = 16_384;

/// The newest certificates of peers.
#[derive(Debug, Default)]
pub struct Vouched {
    newest: HashMap<Who, Proof>,
}

/// What a peer has shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// Its certificate.
    pub leaf: Leaf,
    /// When another is to be asked for, by whoever has calls with it.
    pub due: Option<Instant>,
}

/// An identity, and the node where control has signed for one: many nodes may have one identity.
type Who = (SpiffeId, Option<String>);

impl Vouched {
    /// It was shown, and believed.
    pub fn shown(&mut self, proof: Proof, now: SystemTime) {
        let who = who(&proof.leaf);
        if let Some(known) = self.newest.get_mut(&who) {
            // A handshake with the same certificate sets the time anew, too.
            if known.leaf.not_after <= proof.leaf.not_after {
                *known = proof;
            }
            return;
        }
        if self.newest.len() >= PEERS_LIMIT {
            self.newest.retain(|_, known| known.leaf.not_after > now);
        }
        if self.newest.len() < PEERS_LIMIT {
            self.newest.insert(who, proof);
        }
    }

    /// The newest that the owner of this one has shown, if it is newer.
    #[must_use]
    pub fn newer(&self, leaf: &Leaf) -> Option<&Leaf> {
        let proof = self.of(leaf)?;
        (proof.leaf.not_after > leaf.not_after).then_some(&proof.leaf)
    }

    /// The newest that the owner of this one has shown.
    #[must_use]
    pub fn of(&self, leaf: &Leaf) -> Option<&Proof> {
        self.newest.get(&who(leaf))
    }
}

fn who(leaf: &Leaf) -> Who {
    (leaf.id.clone(), leaf.common_name.clone())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use sidelane_identity::Serial;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn leaf(id: &str, node: Option<&str>, not_after: SystemTime) -> Leaf {
        Leaf {
            id: SpiffeId::new(id).unwrap(),
            common_name: node.map(str::to_owned),
            serial: Serial::new(&[7]),
            fingerprint: [0; 32],
            not_before: SystemTime::UNIX_EPOCH,
            not_after,
        }
    }

    fn proof(leaf: &Leaf) -> Proof {
        Proof {
            leaf: leaf.clone(),
            due: None,
        }
    }

    #[test]
    fn only_a_newer_one_of_the_same_node_vouches_for_a_certificate() {
        let now = SystemTime::now();
        let (id, other) = ("spiffe://a.b/ns/c/sa/d", "spiffe://a.b/ns/c/sa/e");
        let old = leaf(id, Some("one"), now + HOUR);
        let mut vouched = Vouched::default();
        assert_eq!(vouched.of(&old), None);
        vouched.shown(proof(&old), now);
        assert_eq!(vouched.newer(&old), None);
        for stranger in [
            leaf(id, Some("two"), now + 2 * HOUR),
            leaf(id, None, now + 2 * HOUR),
            leaf(other, Some("one"), now + 2 * HOUR),
        ] {
            vouched.shown(proof(&stranger), now);
            assert_eq!(vouched.newer(&old), None, "{stranger:?}");
        }
        let new = leaf(id, Some("one"), now + 2 * HOUR);
        vouched.shown(proof(&new), now);
        assert_eq!(vouched.newer(&old), Some(&new));
        // What comes late changes nothing.
        vouched.shown(proof(&old), now);
        assert_eq!(vouched.newer(&old), Some(&new));
    }

    #[test]
    fn beyond_the_bound_those_go_that_have_ended_and_nobody_else() {
        let now = SystemTime::now();
        let mut vouched = Vouched::default();
        let of =
            |number: usize, end| leaf("spiffe://a.b/ns/c/sa/d", Some(&number.to_string()), end);
        for number in 0..PEERS_LIMIT {
            let end = if number == 0 { now } else { now + HOUR };
            vouched.shown(proof(&of(number, end)), now - HOUR);
        }
        let late = of(PEERS_LIMIT, now + HOUR);
        vouched.shown(proof(&late), now);
        assert!(vouched.of(&late).is_some());
        assert_eq!(vouched.of(&of(0, now)), None);
        let more = of(PEERS_LIMIT + 1, now + HOUR);
        vouched.shown(proof(&more), now);
        assert_eq!(vouched.of(&more), None);
        assert!(vouched.of(&of(1, now)).is_some());
    }
}

//! Who this node is, as peers hear it. The generation can still be raised once after the start,
//! when control knows a higher one; all who say it read it here.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use sidelane_identity::SpiffeId;
use sidelane_proto::model::{Generation, NodeId};

use crate::kin::RulesDigest;

/// This node. Clones share the generation.
#[derive(Debug, Clone)]
pub struct Own {
    /// Its name.
    pub node: NodeId,
    /// The rules that it was compiled with.
    pub rules: RulesDigest,
    /// Whose certificate it shows; `None` in trust mode `disabled`.
    pub identity: Option<SpiffeId>,
    /// Control signs, and so each certificate of the mesh names the node that it is of.
    pub control_signs: bool,
    /// It keeps no id of calls that it does not record, and needs to send none to peers that know.
    pub leaves_unmarked: bool,
    generation: Arc<AtomicU64>,
}

impl Own {
    /// This node in this generation.
    #[must_use]
    pub fn new(node: NodeId, generation: Generation) -> Self {
        Self {
            node,
            rules: RulesDigest::default(),
            identity: None,
            control_signs: false,
            leaves_unmarked: false,
            generation: Arc::new(AtomicU64::new(generation.number())),
        }
    }

    /// The same, compiled with these rules.
    #[must_use]
    pub fn compiled_with(self, rules: RulesDigest) -> Self {
        Self { rules, ..self }
    }

    /// The same, with a certificate of this identity.
    #[must_use]
    pub fn identified(self, identity: Option<SpiffeId>) -> Self {
        Self { identity, ..self }
    }

    /// The same, where calls that it does not record may go to peers without an id, or may not.
    #[must_use]
    pub fn leaving_unmarked(self, leaves_unmarked: bool) -> Self {
        Self {
            leaves_unmarked,
            ..self
        }
    }

    /// The same, in a mesh whose certificates control signs, or somebody else.
    #[must_use]
    pub fn signed_by_control(self, control_signs: bool) -> Self {
        Self {
            control_signs,
            ..self
        }
    }

    /// The generation's number.
    #[must_use]
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Relaxed)
    }

    /// Control knew a higher one.
    pub fn raise(&self, generation: Generation) {
        self.generation
            .fetch_max(generation.number(), Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_generation_is_raised_for_all_who_say_it() {
        let number = |number| Generation::new(number).unwrap();
        let own = Own::new(NodeId::new("orders-1").unwrap(), number(7));
        let other = own.clone();
        own.raise(number(9));
        own.raise(number(8));
        assert_eq!(other.generation(), 9);
    }
}

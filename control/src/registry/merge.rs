//! The merge of all sources, pure: of all that was said of a node it keeps, for each source, the
//! saying with the highest stamp, and shows that of the most trusted source that has one. Each
//! step only ever keeps a maximum, so the order in which sayings arrive does not matter.

use std::collections::HashMap;
use std::sync::Arc;

use super::record::{Change, NodeKey, NodeRecord, Origin, Stamp};

/// Removals that are remembered, so that a late saying of an older generation cannot bring a node
/// back: four times the nodes that may be alive at once. Past it the oldest generations are
/// forgotten first.
pub const REMOVALS_LIMIT: usize = 65_536;

/// What all sources said.
#[derive(Debug, Default)]
pub struct Merge {
    nodes: HashMap<NodeKey, Sayings>,
    removed: usize,
}

#[derive(Debug, Default)]
struct Sayings([Option<Saying>; Origin::ALL.len()]);

#[derive(Debug)]
struct Saying {
    stamp: Stamp,
    record: Option<Arc<NodeRecord>>,
}

impl Merge {
    /// Takes in what a source says. False: something newer of the same source is known, and
    /// nothing changed.
    pub fn apply(&mut self, change: Change) -> bool {
        let sayings = self.nodes.entry(change.key).or_default();
        let slot = &mut sayings.0[change.origin.rank()];
        if slot
            .as_ref()
            .is_some_and(|known| known.stamp >= change.stamp)
        {
            return false;
        }
        let was_removed = slot.as_ref().is_some_and(|known| known.record.is_none());
        let is_removed = change.record.is_none();
        *slot = Some(Saying {
            stamp: change.stamp,
            record: change.record,
        });
        self.removed = self.removed + usize::from(is_removed) - usize::from(was_removed);
        if self.removed > REMOVALS_LIMIT {
            self.forget_oldest_removals();
        }
        true
    }

    /// The node as the most trusted source knows it.
    #[must_use]
    pub fn node(&self, key: &NodeKey) -> Option<&Arc<NodeRecord>> {
        self.nodes.get(key)?.winner().map(|(_, record)| record)
    }

    /// The node as this source knows it.
    #[must_use]
    pub fn known_to(&self, origin: Origin, key: &NodeKey) -> Option<&Arc<NodeRecord>> {
        let saying = self.nodes.get(key)?.0[origin.rank()].as_ref()?;
        saying.record.as_ref()
    }

    /// All nodes, in no order, each with the source that is believed.
    pub fn nodes(&self) -> impl Iterator<Item = (Origin, &Arc<NodeRecord>)> {
        self.nodes.values().filter_map(Sayings::winner)
    }

    /// An eighth at once, so that the cost of looking for the oldest is spread over many removals.
    fn forget_oldest_removals(&mut self) {
        let mut stamps: Vec<Stamp> = self.removals().map(|saying| saying.stamp).collect();
        let surplus = stamps.len().saturating_sub(REMOVALS_LIMIT * 7 / 8);
        if surplus == 0 {
            return;
        }
        let (_, cut, _) = stamps.select_nth_unstable(surplus - 1);
        let cut = *cut;
        self.nodes.retain(|_, sayings| {
            for slot in &mut sayings.0 {
                if slot
                    .as_ref()
                    .is_some_and(|saying| saying.record.is_none() && saying.stamp <= cut)
                {
                    *slot = None;
                }
            }
            sayings.0.iter().any(Option::is_some)
        });
        self.removed = self.removals().count();
    }

    fn removals(&self) -> impl Iterator<Item = &Saying> {
        self.nodes
            .values()
            .flat_map(|sayings| sayings.0.iter().flatten())
            .filter(|saying| saying.record.is_none())
    }
}

impl Sayings {
    fn winner(&self) -> Option<(Origin, &Arc<NodeRecord>)> {
        Origin::ALL.into_iter().find_map(|origin| {
            let saying = self.0[origin.rank()].as_ref()?;
            Some((origin, saying.record.as_ref()?))
        })
    }
}

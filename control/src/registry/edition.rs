//! From changes to the next snapshot, and to what of it must survive a restart. Pure: the writer
//! collects and publishes, this file decides what is published.

use std::collections::HashMap;
use std::sync::Arc;

use sidelane_proto::model::{Generation, Network, ServiceName};

use super::merge::Merge;
use super::record::{Change, NodeKey, NodeRecord, Origin};
use super::snapshot::Snapshot;

/// What one version brought that must survive a restart.
#[derive(Debug, Clone, Default)]
pub struct Batch {
    /// The version's counter.
    pub version: u64,
    /// Registered nodes as they are now; `None`: gone.
    pub nodes: Vec<(NodeKey, Option<Arc<NodeRecord>>)>,
    /// The highest generation of each of these nodes.
    pub generations: Vec<(NodeKey, Generation)>,
    /// Services that were never seen before.
    pub services: Vec<(Network, ServiceName)>,
}

/// What is to be published.
#[derive(Debug)]
pub struct Edition {
    /// The next snapshot and the services that changed; `None` if nothing that others see did.
    pub next: Option<(Snapshot, Vec<(Network, ServiceName)>)>,
    /// What must survive.
    pub batch: Batch,
}

/// All that was said, and what of it is not published yet.
#[derive(Debug, Default)]
pub struct Editor {
    merge: Merge,
    pending: Pending,
}

#[derive(Debug, Default)]
struct Pending {
    changes: usize,
    /// Each touched node as the current snapshot has it.
    before: HashMap<NodeKey, Option<Arc<NodeRecord>>>,
    registered: HashMap<NodeKey, Option<Arc<NodeRecord>>>,
    generations: HashMap<NodeKey, Generation>,
    seen: Vec<(Network, ServiceName)>,
}

impl Editor {
    /// All that was said.
    #[must_use]
    pub fn merge(&self) -> &Merge {
        &self.merge
    }

    /// Changes that were taken and are not published.
    #[must_use]
    pub fn changes(&self) -> usize {
        self.pending.changes
    }

    /// Takes a change.
    pub fn take(&mut self, change: Change) {
        let pending = &mut self.pending;
        pending.changes += 1;
        // Also of a saying that loses: whether a service was ever seen must not depend on the
        // order in which sayings arrive.
        if let Some(record) = &change.record {
            let offered = record.offers.iter();
            let seen = offered.map(|offer| (record.key.network.clone(), offer.service.clone()));
            pending.seen.extend(seen);
        }
        let key = change.key.clone();
        let before = self.merge.node(&key).cloned();
        let (origin, stamp, record) = (change.origin, change.stamp, change.record.clone());
        let known = self.merge.known_to(origin, &key).cloned();
        if !self.merge.apply(change) {
            return;
        }
        let stored_already = match (&known, &record) {
            (Some(known), Some(record)) => known.is_stored_as(record),
            _ => false,
        };
        pending.before.entry(key.clone()).or_insert(before);
        if origin == Origin::Registration && !stored_already {
            let highest = pending.generations.entry(key.clone());
            let highest = highest.or_insert(stamp.generation);
            *highest = stamp.generation.max(*highest);
            pending.registered.insert(key, record);
        }
    }

    /// What is to be published after `current`.
    #[must_use]
    pub fn finish(&mut self, current: &Snapshot) -> Edition {
        let pending = std::mem::take(&mut self.pending);
        let mut draft = current.draft();
        for (key, before) in &pending.before {
            let after = self.merge.node(key);
            draft.node(before.as_deref(), after.map(|record| &**record));
        }
        let mut unseen = pending.seen;
        unseen.retain(|(network, service)| current.service(network, service).is_none());
        unseen.sort_unstable();
        unseen.dedup();
        for (network, service) in &unseen {
            draft.seen(network, service);
        }
        let next = draft.finish();
        let newest = next.as_ref().map_or(current, |(next, _)| next);
        let batch = Batch {
            version: newest.counter(),
            nodes: pending.registered.into_iter().collect(),
            generations: pending.generations.into_iter().collect(),
            services: unseen,
        };
        Edition { next, batch }
    }
}

#[cfg(test)]
mod tests;

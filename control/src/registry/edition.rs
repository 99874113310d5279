//! From changes to the next snapshot, and to what of it must survive a restart. Pure: the writer
//! collects and publishes, this file decides what is published.

use std::collections::HashMap;
use std::sync::Arc;

use sidelane_proto::model::{Generation, Network, PushedRule, ServiceName};

use super::merge::Merge;
use super::record::{Change, NodeKey, NodeRecord, Origin};
use super::rules::AppliedRule;
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
    /// Applied rules as they are now.
    pub rules: Vec<AppliedRule>,
    /// Who holds a version before this one may hold rules that are gone and forgotten.
    pub rules_floor: u64,
}

/// What differs from the snapshot before.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changed {
    /// Services of which an endpoint changed, or that are known as seen now.
    pub services: Vec<(Network, ServiceName)>,
    /// Services whose applied rule changed.
    pub rules: Vec<(Network, ServiceName)>,
}

/// What is to be published.
#[derive(Debug)]
pub struct Edition {
    /// The next snapshot and what changed; `None` if nothing that others see did.
    pub next: Option<(Snapshot, Changed)>,
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
    rules: HashMap<(Network, ServiceName), Option<Arc<PushedRule>>>,
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

    /// Takes the rules that people apply to a network; `None` takes one back.
    pub fn apply(
        &mut self,
        network: &Network,
        rules: impl IntoIterator<Item = (ServiceName, Option<Arc<PushedRule>>)>,
    ) {
        let pending = &mut self.pending;
        pending.changes += 1;
        let named = |(service, rule)| ((network.clone(), service), rule);
        pending.rules.extend(rules.into_iter().map(named));
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
        for ((network, service), rule) in pending.rules {
            draft.rule(&network, &service, rule.as_ref());
        }
        let next = draft.finish();
        let newest = next.as_ref().map_or(current, |(next, _)| next);
        let rules = next.iter().flat_map(|(_, changed)| &changed.rules);
        let rules = rules.map(|(network, service)| AppliedRule {
            network: network.clone(),
            service: service.clone(),
            version: newest.counter(),
            rule: newest.rules().get(network, service).cloned(),
        });
        let batch = Batch {
            version: newest.counter(),
            nodes: pending.registered.into_iter().collect(),
            generations: pending.generations.into_iter().collect(),
            services: unseen,
            rules: rules.collect(),
            rules_floor: newest.rules().floor(),
        };
        Edition { next, batch }
    }
}

#[cfg(test)]
mod tests;

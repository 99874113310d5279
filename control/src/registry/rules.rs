//! The rules that were applied to the mesh, each with the version that brought it, and those that
//! were taken back, as long as some session may not know it yet. Pure, and part of the snapshot:
//! whoever holds a snapshot holds the rules of that version.

use std::collections::HashMap;
use std::sync::Arc;

use sidelane_proto::model::{Network, PushedRule, ServiceName};

/// Rules that were taken back and are remembered, so that a session that was away is told of
/// them. Past it the oldest are forgotten, an eighth at once, and a session that was away for
/// longer is told everything anew.
pub const REMOVED_LIMIT: usize = 20_000;

/// Of a network: each service that has a rule, or had one.
type Services = HashMap<ServiceName, Entry>;

/// All applied rules of all networks.
#[derive(Debug, Clone, Default)]
pub struct RuleBook {
    networks: HashMap<Network, Services>,
    /// Of services that are not in the book, nothing is known before this version.
    floor: u64,
    /// When any of them changed last.
    newest: u64,
    count: usize,
    removed: usize,
    bytes: usize,
}

/// What is applied to a service; `None` where it was taken back.
#[derive(Debug, Clone)]
struct Entry {
    version: u64,
    rule: Option<Arc<PushedRule>>,
    bytes: usize,
}

/// A rule as it stands after a change, for those who keep or load it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AppliedRule {
    /// Whose it is.
    pub network: Network,
    /// Of which service.
    pub service: ServiceName,
    /// The version that brought this; 0 where that is still to come.
    pub version: u64,
    /// `None`: it was taken back.
    pub rule: Option<Arc<PushedRule>>,
}

impl RuleBook {
    /// The book as a store kept it. What has no version yet gets `version`: it was made durable,
    /// and the process ended before it was published.
    #[must_use]
    pub fn load(rules: impl IntoIterator<Item = AppliedRule>, floor: u64, version: u64) -> Self {
        let mut book = Self {
            floor,
            newest: floor,
            ..Self::default()
        };
        for applied in rules {
            let known_since = match applied.version {
                0 => version,
                known => known,
            };
            book.set(
                &applied.network,
                &applied.service,
                known_since,
                applied.rule,
            );
        }
        book.forget_oldest();
        book
    }

    /// The rule of a service.
    #[must_use]
    pub fn get(&self, network: &Network, service: &ServiceName) -> Option<&Arc<PushedRule>> {
        self.entry(network, service)?.rule.as_ref()
    }

    /// Was the rule of this service taken back, or may it have been?
    #[must_use]
    pub fn may_be_removed(&self, network: &Network, service: &ServiceName) -> bool {
        match self.entry(network, service) {
            Some(entry) => entry.rule.is_none(),
            None => self.floor > 0,
        }
    }

    /// When the rule of a service changed last, as far as is known.
    #[must_use]
    pub fn changed(&self, network: &Network, service: &ServiceName) -> u64 {
        self.entry(network, service)
            .map_or(self.floor, |entry| entry.version)
    }

    /// Of a network: all services that have a rule or had one, and when that changed last, in no
    /// order.
    pub fn services(&self, network: &Network) -> impl Iterator<Item = (&ServiceName, u64)> {
        let services = self.networks.get(network).into_iter().flatten();
        services.map(|(service, entry)| (service, entry.version))
    }

    /// Everything that changed in this version or later, in no order.
    pub fn since(&self, version: u64) -> impl Iterator<Item = AppliedRule> {
        let services = self.networks.iter().flat_map(|(network, services)| {
            let named = move |(service, entry)| (network, service, entry);
            services.iter().map(named)
        });
        let since = services.filter(move |(_, _, entry): &(_, _, &Entry)| entry.version >= version);
        since.map(|(network, service, entry)| AppliedRule {
            network: network.clone(),
            service: service.clone(),
            version: entry.version,
            rule: entry.rule.clone(),
        })
    }

    /// All rules of all networks, in no order.
    pub fn rules(&self) -> impl Iterator<Item = (&Network, &Arc<PushedRule>)> {
        self.networks.iter().flat_map(|(network, services)| {
            let rules = services.values().filter_map(|entry| entry.rule.as_ref());
            rules.map(move |rule| (network, rule))
        })
    }

    /// All rules of a network, in no order.
    pub fn of(&self, network: &Network) -> impl Iterator<Item = &Arc<PushedRule>> {
        let services = self.networks.get(network).into_iter().flatten();
        services.filter_map(|(_, entry)| entry.rule.as_ref())
    }

    /// When any rule changed last.
    #[must_use]
    pub fn newest(&self) -> u64 {
        self.newest
    }

    /// How many rules there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.count
    }

    /// How many bytes they have together, as encoded.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Who holds a version before this one may hold rules that are gone, and is told all.
    #[must_use]
    pub fn floor(&self) -> u64 {
        self.floor
    }

    /// The rule of a service is this one from `version` on; `None` takes it back. False: nothing
    /// is different.
    pub(super) fn change(
        &mut self,
        network: &Network,
        service: &ServiceName,
        version: u64,
        rule: Option<&Arc<PushedRule>>,
    ) -> bool {
        let before = self.get(network, service);
        if before.is_none() && rule.is_none() {
            return false;
        }
        if let (Some(before), Some(rule)) = (before, rule)
            && same(before, rule)
        {
            return false;
        }
        self.set(network, service, version, rule.cloned());
        self.forget_oldest();
        true
    }

    fn entry(&self, network: &Network, service: &ServiceName) -> Option<&Entry> {
        self.networks.get(network)?.get(service)
    }

    fn set(
        &mut self,
        network: &Network,
        service: &ServiceName,
        version: u64,
        rule: Option<Arc<PushedRule>>,
    ) {
        let rule = rule.map(|rule| match rule.version == version {
            true => rule,
            false => Arc::new(PushedRule {
                version,
                ..PushedRule::clone(&rule)
            }),
        });
        let bytes = rule.as_ref().map_or(0, |rule| rule.to_bytes().len());
        let entry = Entry {
            version,
            rule,
            bytes,
        };
        self.newest = self.newest.max(version);
        self.count += usize::from(entry.rule.is_some());
        self.removed += usize::from(entry.rule.is_none());
        self.bytes += bytes;
        let services = self.networks.entry(network.clone()).or_default();
        if let Some(before) = services.insert(service.clone(), entry) {
            self.count -= usize::from(before.rule.is_some());
            self.removed -= usize::from(before.rule.is_none());
            self.bytes -= before.bytes;
        }
    }

    fn forget_oldest(&mut self) {
        if self.removed <= REMOVED_LIMIT {
            return;
        }
        let entries = self.networks.values().flat_map(HashMap::values);
        let removed = entries.filter(|entry| entry.rule.is_none());
        let mut versions: Vec<u64> = removed.map(|entry| entry.version).collect();
        let surplus = self.removed - REMOVED_LIMIT * 7 / 8;
        let (_, cut, _) = versions.select_nth_unstable(surplus - 1);
        self.floor = self.floor.max(*cut);
        let floor = self.floor;
        for services in self.networks.values_mut() {
            services.retain(|_, entry| entry.rule.is_some() || entry.version > floor);
        }
        self.networks.retain(|_, services| !services.is_empty());
        let entries = self.networks.values().flat_map(HashMap::values);
        self.removed = entries.filter(|entry| entry.rule.is_none()).count();
    }
}

/// Do two rules say the same, whenever they came?
#[must_use]
pub fn same(one: &PushedRule, other: &PushedRule) -> bool {
    one.tuning_only == other.tuning_only && one.rule == other.rule
}

#[cfg(test)]
mod tests;

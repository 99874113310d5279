//! Snapshots: an immutable picture of all services and applied rules at one version, and, per
//! service, the latest changes that led to it. Push reads them without locks. A new one shares with the one before all
//! that did not change; a snapshot that somebody holds never does.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::sync::Arc;

use sidelane_proto::model::{
    Endpoint, Generation, Network, NodeId, PushedRule, Removal, ServiceName, Version,
};

use super::edition::Changed;
use super::record::NodeRecord;
use super::rules::RuleBook;

/// Changes that are kept of each service. A session that is further behind gets the whole state,
/// which is hardly larger. Kept per service, so that a busy one does not cost the others theirs.
pub const CHANGES_LIMIT: usize = 64;
/// Services that are remembered as seen. Past it, those without endpoints that changed longest ago
/// are forgotten first, and count as never seen again.
pub const SERVICES_LIMIT: usize = 65_536;

/// Parts of a network's services. A new version copies the part that a changed service is in, so
/// that a change costs by itself and not by all services that there are.
const PARTS: usize = 64;

/// The services of a network.
#[derive(Debug, Clone)]
struct Services(Vec<Arc<Part>>);

type Part = HashMap<ServiceName, Arc<ServiceView>>;
/// Of one service: each touched node's endpoint as it will be.
type Edits = BTreeMap<NodeId, Option<Arc<Endpoint>>>;

/// All services of all networks at one version.
#[derive(Debug, Clone)]
pub struct Snapshot {
    store: Arc<str>,
    version: u64,
    /// Of services that are not in the picture, nothing is known before this version.
    unknown_since: u64,
    networks: HashMap<Network, Arc<Services>>,
    rules: Arc<RuleBook>,
}

/// A service that some node offered once.
#[derive(Debug, Clone)]
pub struct ServiceView {
    /// When it changed last.
    version: u64,
    /// `changes` tells everything that happened after this version.
    floor: u64,
    endpoints: BTreeMap<NodeId, Arc<Endpoint>>,
    changes: VecDeque<Step>,
}

/// One endpoint, changed.
#[derive(Debug, Clone)]
struct Step {
    version: u64,
    node: NodeId,
    before: Option<Generation>,
    after: Option<Arc<Endpoint>>,
}

/// What leads from an older state of a service to the newest. A removal names the generation that
/// was there in the older state.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Delta {
    /// Endpoints that are new or changed.
    pub upserts: Vec<Arc<Endpoint>>,
    /// Endpoints that left.
    pub removals: Vec<Removal>,
}

impl Default for Services {
    fn default() -> Self {
        Self(vec![Arc::default(); PARTS])
    }
}

impl Services {
    fn part(service: &ServiceName) -> usize {
        let mut hasher = DefaultHasher::new();
        service.hash(&mut hasher);
        usize::try_from(hasher.finish() % PARTS as u64).unwrap_or(0)
    }

    fn get(&self, service: &ServiceName) -> Option<&Arc<ServiceView>> {
        self.0[Self::part(service)].get(service)
    }

    fn insert(&mut self, service: ServiceName, view: Arc<ServiceView>) {
        let part = &mut self.0[Self::part(&service)];
        Arc::make_mut(part).insert(service, view);
    }

    fn iter(&self) -> impl Iterator<Item = (&ServiceName, &Arc<ServiceView>)> {
        self.0.iter().flat_map(|part| part.iter())
    }

    fn len(&self) -> usize {
        self.0.iter().map(|part| part.len()).sum()
    }

    fn retain(&mut self, keep: impl Fn(&ServiceView) -> bool) {
        for part in &mut self.0 {
            Arc::make_mut(part).retain(|_, view| keep(view));
        }
    }
}

impl Snapshot {
    /// The picture with which a store that counts from `version` starts: these services were seen
    /// once, and nobody is there yet.
    pub fn start(
        store: Arc<str>,
        version: u64,
        seen: impl IntoIterator<Item = (Network, ServiceName)>,
    ) -> Self {
        let mut networks: HashMap<Network, Services> = HashMap::new();
        for (network, service) in seen {
            let view = Arc::new(ServiceView::new(version));
            networks.entry(network).or_default().insert(service, view);
        }
        Self {
            store,
            version,
            unknown_since: version,
            networks: networks
                .into_iter()
                .map(|(network, services)| (network, Arc::new(services)))
                .collect(),
            rules: Arc::default(),
        }
    }

    /// The same picture with these rules.
    #[must_use]
    pub fn with_rules(mut self, rules: RuleBook) -> Self {
        self.rules = Arc::new(rules);
        self
    }

    /// The applied rules.
    #[must_use]
    pub fn rules(&self) -> &RuleBook {
        &self.rules
    }

    /// The counter of its version.
    #[must_use]
    pub fn counter(&self) -> u64 {
        self.version
    }

    /// The store that counts.
    #[must_use]
    pub fn store(&self) -> &Arc<str> {
        &self.store
    }

    /// Its version.
    #[must_use]
    pub fn version(&self) -> Version {
        Version {
            store: self.store.to_string(),
            counter: self.version,
        }
    }

    /// A service, if it was ever seen.
    #[must_use]
    pub fn service(&self, network: &Network, service: &ServiceName) -> Option<&Arc<ServiceView>> {
        self.networks.get(network)?.get(service)
    }

    /// All services of a network that were ever seen, in no order.
    pub fn services(
        &self,
        network: &Network,
    ) -> impl Iterator<Item = (&ServiceName, &Arc<ServiceView>)> {
        self.networks
            .get(network)
            .into_iter()
            .flat_map(|s| s.iter())
    }

    /// All networks, in no order.
    pub fn networks(&self) -> impl Iterator<Item = &Network> {
        self.networks.keys()
    }

    /// When a service changed last, as far as is known.
    #[must_use]
    pub fn changed(&self, network: &Network, service: &ServiceName) -> u64 {
        self.service(network, service)
            .map_or(self.unknown_since, |view| view.version)
    }

    /// What happened to a service after `since`; `None` if that is no longer known, and only the
    /// whole state will do.
    #[must_use]
    pub fn delta(&self, network: &Network, service: &ServiceName, since: u64) -> Option<Delta> {
        match self.service(network, service) {
            Some(view) => view.delta(service, since),
            None => (since >= self.unknown_since).then(Delta::default),
        }
    }

    /// Begins the next picture.
    #[must_use]
    pub fn draft(&self) -> Draft<'_> {
        Draft {
            from: self,
            edits: HashMap::new(),
            rules: Vec::new(),
        }
    }

    fn forget_oldest_services(&mut self) {
        let total: usize = self.networks.values().map(|services| services.len()).sum();
        let Some(surplus) = total.checked_sub(SERVICES_LIMIT).filter(|more| *more > 0) else {
            return;
        };
        let empty = |view: &ServiceView| view.endpoints.is_empty();
        let mut ages: Vec<u64> = self
            .networks
            .values()
            .flat_map(|services| services.iter())
            .filter(|(_, view)| empty(view))
            .map(|(_, view)| view.version)
            .collect();
        if ages.is_empty() {
            return;
        }
        // An eighth more than needed, so that this is done once for many services.
        let count = (surplus + SERVICES_LIMIT / 8).min(ages.len());
        let (_, cut, _) = ages.select_nth_unstable(count - 1);
        let cut = *cut;
        for services in self.networks.values_mut() {
            Arc::make_mut(services).retain(|view| !empty(view) || view.version > cut);
        }
        self.unknown_since = self.version;
    }
}

impl ServiceView {
    fn new(version: u64) -> Self {
        Self {
            version,
            floor: version,
            endpoints: BTreeMap::new(),
            changes: VecDeque::new(),
        }
    }

    /// When it changed last.
    #[must_use]
    pub fn version(&self) -> u64 {
        self.version
    }

    /// Who offers it now, in the order of node ids.
    pub fn endpoints(&self) -> impl ExactSizeIterator<Item = &Arc<Endpoint>> {
        self.endpoints.values()
    }

    /// Did something happen after `after`, up to and including `upto`? True where that is no
    /// longer known.
    #[must_use]
    pub fn changed_within(&self, after: u64, upto: u64) -> bool {
        if self.version <= after {
            return false;
        }
        if after < self.floor {
            return self.floor <= upto;
        }
        self.changes
            .iter()
            .any(|step| step.version > after && step.version <= upto)
    }

    fn delta(&self, service: &ServiceName, since: u64) -> Option<Delta> {
        if since < self.floor {
            return None;
        }
        let mut nodes: BTreeMap<&NodeId, (Option<Generation>, Option<&Arc<Endpoint>>)> =
            BTreeMap::new();
        let first = self.changes.partition_point(|step| step.version <= since);
        for step in self.changes.range(first..) {
            nodes.entry(&step.node).or_insert((step.before, None)).1 = step.after.as_ref();
        }
        let mut delta = Delta::default();
        for (node, (before, after)) in nodes {
            match (before, after) {
                // Whoever holds the newer generation ignores an older one, rightly. Only a whole
                // state can say that the older one is meant.
                (Some(before), Some(after)) if after.generation < before => return None,
                (_, Some(after)) => delta.upserts.push(Arc::clone(after)),
                (Some(generation), None) => delta.removals.push(Removal {
                    service: service.clone(),
                    node: node.clone(),
                    generation,
                }),
                (None, None) => {}
            }
        }
        Some(delta)
    }

    /// False: it is so already.
    fn set(&mut self, version: u64, node: &NodeId, after: Option<Arc<Endpoint>>) -> bool {
        let before = self.endpoints.get(node);
        if before == after.as_ref() {
            return false;
        }
        let step = Step {
            version,
            node: node.clone(),
            before: before.map(|endpoint| endpoint.generation),
            after: after.clone(),
        };
        match after {
            Some(endpoint) => self.endpoints.insert(node.clone(), endpoint),
            None => self.endpoints.remove(node),
        };
        if self.changes.len() == CHANGES_LIMIT
            && let Some(oldest) = self.changes.pop_front()
        {
            self.floor = oldest.version;
        }
        self.changes.push_back(step);
        self.version = version;
        true
    }
}

/// The next picture in the making.
#[derive(Debug)]
pub struct Draft<'a> {
    from: &'a Snapshot,
    edits: HashMap<(Network, ServiceName), Edits>,
    rules: Vec<RuleEdit>,
}

/// A service's rule as it will be.
type RuleEdit = (Network, ServiceName, Option<Arc<PushedRule>>);

impl Draft<'_> {
    /// A node that was as `before` is now as `after`.
    pub fn node(&mut self, before: Option<&NodeRecord>, after: Option<&NodeRecord>) {
        if let Some(record) = before {
            for offer in &record.offers {
                self.service(&record.key.network, &offer.service)
                    .insert(record.key.node.clone(), None);
            }
        }
        if let Some(record) = after {
            for endpoint in record.endpoints() {
                self.service(&record.key.network, &endpoint.offer.service)
                    .insert(record.key.node.clone(), Some(Arc::new(endpoint)));
            }
        }
    }

    /// A service was offered once, whoever won.
    pub fn seen(&mut self, network: &Network, service: &ServiceName) {
        self.service(network, service);
    }

    /// A service has this rule from now on, or none.
    pub fn rule(
        &mut self,
        network: &Network,
        service: &ServiceName,
        rule: Option<&Arc<PushedRule>>,
    ) {
        let edit = (network.clone(), service.clone(), rule.cloned());
        self.rules.push(edit);
    }

    /// The picture, as the version after the one before, and what changed. `None` if nothing did.
    #[must_use]
    pub fn finish(self) -> Option<(Snapshot, Changed)> {
        let mut next = self.from.clone();
        next.version += 1;
        let mut changed = Changed::default();
        for ((network, service), nodes) in self.edits {
            let known = self.from.service(&network, &service);
            let mut view = known.map_or_else(
                || ServiceView::new(next.version),
                |view| ServiceView::clone(view),
            );
            let mut differs = known.is_none();
            for (node, after) in nodes {
                differs |= view.set(next.version, &node, after);
            }
            if differs {
                let services = next.networks.entry(network.clone()).or_default();
                Arc::make_mut(services).insert(service.clone(), Arc::new(view));
                changed.services.push((network, service));
            }
        }
        if !self.rules.is_empty() {
            let rules = Arc::make_mut(&mut next.rules);
            let version = next.version;
            let edits = self.rules.into_iter();
            let differing = edits.filter(|(network, service, rule)| {
                rules.change(network, service, version, rule.as_ref())
            });
            let named = differing.map(|(network, service, _)| (network, service));
            changed.rules = named.collect();
        }
        if changed == Changed::default() {
            return None;
        }
        next.forget_oldest_services();
        Some((next, changed))
    }

    fn service(&mut self, network: &Network, service: &ServiceName) -> &mut Edits {
        self.edits
            .entry((network.clone(), service.clone()))
            .or_default()
    }
}

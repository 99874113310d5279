//! What one session was told, what it has taken, and what it must be told next. Pure. At most one
//! update is on its way: the next is made only when that one is answered, from whatever the newest
//! snapshot is then.

mod rules;

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use sidelane_proto::model::{Network, ServiceName, Subscription, Version};

use super::outgoing::News;
use crate::registry::{Delta, ServiceView, Snapshot};

pub use rules::{REFUSALS_KEPT, RefusedRule};
use rules::{RuleNews, Rules, Wanted};

/// Where a session stands.
#[derive(Debug)]
pub struct Progress {
    wanted: Wanted,
    /// Subscribed, and the whole state is still to be told.
    fresh: BTreeSet<ServiceName>,
    told_once: bool,
    in_flight: Option<InFlight>,
    /// It was asked for more while an update was on its way.
    missed: bool,
    /// Refused by the sidecar in this version, and not told again until it has changed.
    held_back: HashMap<ServiceName, u64>,
    refused: Option<RefusedUpdate>,
    rules: Rules,
}

/// What a session refused last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedUpdate {
    /// The update's version.
    pub version: u64,
    /// The field that is wrong.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

/// Fields and problems are cut to so many bytes: they are kept for people to read.
const TEXT_LIMIT: usize = 512;

#[derive(Debug, Default)]
struct InFlight {
    version: u64,
    /// The services of each list of the update, in its order, so that a refused field can be
    /// traced to the service that it is of.
    states: Vec<ServiceName>,
    upserts: Vec<ServiceName>,
    removals: Vec<ServiceName>,
    rules: Vec<ServiceName>,
    rules_removed: Vec<ServiceName>,
}

/// What a refused field is of.
enum Blamed<'a> {
    Service(&'a ServiceName),
    Rule(&'a ServiceName),
}

impl Progress {
    /// A session that has just said Hello. What it holds counts if it is of this store, not from a
    /// future that this store has lost, and not from a past of which rules are forgotten.
    #[must_use]
    pub fn new(
        network: Network,
        subscription: Subscription,
        held: Option<&Version>,
        snapshot: &Snapshot,
    ) -> Self {
        let resumed = held
            .filter(|held| *held.store == **snapshot.store() && held.counter <= snapshot.counter())
            .filter(|held| held.counter >= snapshot.rules().floor());
        let services: BTreeSet<ServiceName> = subscription.add.into_iter().collect();
        Self {
            fresh: match resumed {
                Some(_) => BTreeSet::new(),
                None => services.clone(),
            },
            wanted: Wanted {
                network,
                all: subscription.all,
                services,
                synced: resumed.map_or(0, |held| held.counter),
                full: resumed.is_none(),
            },
            told_once: false,
            in_flight: None,
            missed: false,
            held_back: HashMap::new(),
            refused: None,
            rules: Rules::default(),
        }
    }

    /// The node offers these services. What a session held says nothing of their rules, because
    /// the node may have offered others then.
    pub fn offer(&mut self, services: &[ServiceName]) {
        self.rules.offer(services, &self.wanted);
    }

    /// The services that the node offers.
    pub fn offered(&self) -> impl ExactSizeIterator<Item = &ServiceName> {
        self.rules.offered()
    }

    /// Does it want to know of this service?
    #[must_use]
    pub fn wants(&self, service: &ServiceName) -> bool {
        self.wanted.all || self.wanted.services.contains(service)
    }

    /// Does it want to know of all services?
    #[must_use]
    pub fn wants_all(&self) -> bool {
        self.wanted.all
    }

    /// The services it asked for by name.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &ServiceName> {
        self.wanted.services.iter()
    }

    /// The version it acknowledged last: 0 before the first.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.wanted.synced
    }

    /// Rules that it does not follow: the newest [`REFUSALS_KEPT`], and how many there are.
    #[must_use]
    pub fn refused_rules(&self) -> (Vec<RefusedRule>, usize) {
        self.rules.refused()
    }

    /// What it refused last, until it takes an update again.
    #[must_use]
    pub fn refused(&self) -> Option<&RefusedUpdate> {
        self.refused.as_ref()
    }

    /// It wants to know more, or no more. Whatever is asked for is told whole, also if it was
    /// subscribed before: then the sidecar has a reason to ask.
    pub fn subscribe(&mut self, subscription: &Subscription, snapshot: &Snapshot) {
        for service in &subscription.remove {
            self.wanted.services.remove(service);
            self.fresh.remove(service);
            self.held_back.remove(service);
            if !self.wanted.all {
                self.rules.remove(service);
            }
        }
        for service in &subscription.add {
            self.wanted.services.insert(service.clone());
            self.fresh.insert(service.clone());
            self.held_back.remove(service);
        }
        self.rules.add(&subscription.add);
        if subscription.all && !self.wanted.all {
            self.wanted.all = true;
            let known = snapshot.services(&self.wanted.network);
            self.fresh.extend(known.map(|(service, _)| service.clone()));
            let ruled = snapshot.rules().services(&self.wanted.network);
            self.rules.add(ruled.map(|(service, _)| service));
        }
    }

    /// The next update, if there is something to tell and the one before was answered. The first
    /// of a session is made even if there is nothing in it: it says that this is all.
    pub fn next(&mut self, snapshot: &Snapshot) -> Option<News> {
        if self.in_flight.is_some() {
            self.missed = true;
            return None;
        }
        self.missed = false;
        self.release_changed(snapshot);
        // It was told nothing for so long that rules are forgotten which it may hold.
        self.wanted.full |= self.wanted.synced < snapshot.rules().floor();
        let mut news = News {
            store: Arc::clone(snapshot.store()),
            counter: snapshot.counter(),
            full: self.wanted.full,
            ..News::default()
        };
        let mut in_flight = InFlight {
            version: snapshot.counter(),
            ..InFlight::default()
        };
        for service in self.pending(snapshot) {
            let delta = match self.wanted.full || self.fresh.contains(&service) {
                true => None,
                false => snapshot.delta(&self.wanted.network, &service, self.wanted.synced),
            };
            match delta {
                Some(delta) => in_flight.add_delta(&mut news, &service, delta),
                None => {
                    let view = snapshot.service(&self.wanted.network, &service).cloned();
                    in_flight.add_state(&mut news, service, view);
                }
            }
        }
        let told = self.rules.next(snapshot.rules(), &self.wanted);
        in_flight.add_rules(&mut news, told);
        let empty = in_flight.services().next().is_none() && in_flight.ruled().next().is_none();
        if empty && self.told_once {
            return None;
        }
        for service in &in_flight.states {
            self.fresh.remove(service);
        }
        self.told_once = true;
        self.in_flight = Some(in_flight);
        Some(news)
    }

    /// Is an update on its way that is not answered?
    #[must_use]
    pub fn waits(&self) -> bool {
        self.in_flight.is_some()
    }

    /// May there be something to tell now that an update was taken? Asked so that an answer costs
    /// no look at all that is subscribed, when nothing of that has changed meanwhile.
    #[must_use]
    pub fn has_more(&self) -> bool {
        self.missed || !self.fresh.is_empty() || !self.held_back.is_empty() || !self.rules.settled()
    }

    /// The sidecar has taken an update, but for these rules in it. `None`: not the update that is
    /// on its way. Otherwise, how many rules it refused.
    pub fn ack(&mut self, version: &Version, refused: Vec<RefusedRule>) -> Option<usize> {
        let in_flight = self.answered(version)?;
        self.wanted.synced = in_flight.version;
        let told = in_flight.ruled().cloned();
        let refusals = self.rules.taken(told, refused, &self.wanted);
        self.wanted.full = false;
        if self.held_back.is_empty() && self.rules.holds_nothing_back() {
            self.refused = None;
        }
        Some(refusals)
    }

    /// The sidecar has refused an update. The service of the refused field is not told again until
    /// it has changed; what else was in the update is told again without it, so that one endpoint
    /// that a sidecar cannot take does not cut it off from all others. Each refusal takes at least
    /// one service out, so this ends. False: not the update that is on its way.
    pub fn nack(&mut self, version: &Version, field: &str, problem: &str) -> bool {
        let Some(in_flight) = self.answered(version) else {
            return false;
        };
        let blamed = in_flight.blamed(field);
        for service in in_flight.services() {
            let at_fault = match blamed {
                Some(Blamed::Service(blamed)) => blamed == service,
                Some(Blamed::Rule(_)) => false,
                None => true,
            };
            if at_fault {
                self.held_back.insert(service.clone(), in_flight.version);
            }
        }
        for service in in_flight.ruled() {
            let at_fault = match blamed {
                Some(Blamed::Rule(blamed)) => blamed == service,
                Some(Blamed::Service(_)) => false,
                None => true,
            };
            match at_fault {
                true => self.rules.hold_back(service.clone(), in_flight.version),
                false => self.rules.tell_again(service.clone()),
            }
        }
        for service in in_flight.states {
            if !self.held_back.contains_key(&service) {
                self.fresh.insert(service);
            }
        }
        self.refused = Some(RefusedUpdate {
            version: in_flight.version,
            field: cut(field),
            problem: cut(problem),
        });
        true
    }

    /// Has the sidecar taken everything up to this version that it wants to know?
    #[must_use]
    pub fn has(&self, version: u64, snapshot: &Snapshot) -> bool {
        if !self.held_back.is_empty() || !self.fresh.is_empty() || self.wanted.full {
            return false;
        }
        if !self.rules.settled() {
            return false;
        }
        if self.wanted.synced >= version {
            return true;
        }
        // Behind, but perhaps only by changes that it does not want to know.
        let changed = |service| {
            let view = snapshot.service(&self.wanted.network, service);
            view.is_some_and(|view| view.changed_within(self.wanted.synced, version))
        };
        self.in_flight.is_none()
            && !self.wanted(snapshot).any(changed)
            && self.rules.current(snapshot.rules(), &self.wanted)
    }

    fn answered(&mut self, version: &Version) -> Option<InFlight> {
        self.in_flight
            .take_if(|in_flight| in_flight.version == version.counter)
    }

    /// A refused service that has changed since may be acceptable now.
    fn release_changed(&mut self, snapshot: &Snapshot) {
        let (network, fresh) = (&self.wanted.network, &mut self.fresh);
        self.held_back.retain(|service, refused| {
            let held = snapshot.changed(network, service) <= *refused;
            if !held {
                fresh.insert(service.clone());
            }
            held
        });
        self.rules
            .release_changed(snapshot.rules(), &self.wanted.network);
    }

    /// The services that the next update must tell of, in the order of their names.
    fn pending(&self, snapshot: &Snapshot) -> BTreeSet<ServiceName> {
        let behind = |service: &&ServiceName| {
            self.wanted.full || snapshot.changed(&self.wanted.network, service) > self.wanted.synced
        };
        let mut pending: BTreeSet<_> = self.wanted(snapshot).filter(behind).cloned().collect();
        pending.extend(self.fresh.iter().cloned());
        pending.retain(|service| !self.held_back.contains_key(service));
        pending
    }

    fn wanted<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = &'a ServiceName> {
        let network = self.wanted.all.then_some(&self.wanted.network);
        let all = network.into_iter().flat_map(|n| snapshot.services(n));
        self.wanted
            .services
            .iter()
            .chain(all.map(|(service, _)| service))
    }
}

impl InFlight {
    fn add_delta(&mut self, news: &mut News, service: &ServiceName, delta: Delta) {
        let named = |count| std::iter::repeat_n(service.clone(), count);
        self.upserts.extend(named(delta.upserts.len()));
        self.removals.extend(named(delta.removals.len()));
        news.upserts.extend(delta.upserts);
        news.removals.extend(delta.removals);
    }

    fn add_state(&mut self, news: &mut News, service: ServiceName, view: Option<Arc<ServiceView>>) {
        self.states.push(service.clone());
        news.states.push((service, view));
    }

    fn add_rules(&mut self, news: &mut News, told: RuleNews) {
        (self.rules, news.rules) = told.rules.into_iter().unzip();
        self.rules_removed.clone_from(&told.removed);
        news.rules_removed = told.removed;
    }

    /// Services whose rule is told.
    fn ruled(&self) -> impl Iterator<Item = &ServiceName> {
        self.rules.iter().chain(&self.rules_removed)
    }

    fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.states
            .iter()
            .chain(&self.upserts)
            .chain(&self.removals)
    }

    /// What a field such as `upserts[3].addresses.internal` is of.
    fn blamed(&self, field: &str) -> Option<Blamed<'_>> {
        let (list, rest) = field.split_once('[')?;
        let (index, _) = rest.split_once(']')?;
        let index: usize = index.parse().ok()?;
        match list {
            "services" => self.states.get(index).map(Blamed::Service),
            "upserts" => self.upserts.get(index).map(Blamed::Service),
            "removals" => self.removals.get(index).map(Blamed::Service),
            "rules" => self.rules.get(index).map(Blamed::Rule),
            "rules_removed" => self.rules_removed.get(index).map(Blamed::Rule),
            _ => None,
        }
    }
}

fn cut(text: &str) -> String {
    let mut end = text.len().min(TEXT_LIMIT);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}

#[cfg(test)]
mod tests;

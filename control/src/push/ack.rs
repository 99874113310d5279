//! What one session was told, what it has taken, and what it must be told next. Pure. At most one
//! update is on its way: the next is made only when that one is answered, from whatever the newest
//! snapshot is then.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

use sidelane_proto::model::{Network, ServiceName, Subscription, Version};

use super::outgoing::News;
use crate::registry::{Delta, ServiceView, Snapshot};

/// Where a session stands.
#[derive(Debug)]
pub struct Progress {
    network: Network,
    all: bool,
    services: BTreeSet<ServiceName>,
    /// Subscribed, and the whole state is still to be told.
    fresh: BTreeSet<ServiceName>,
    /// Nothing that the sidecar holds counts: the next update is full.
    full: bool,
    /// Everything that is neither fresh nor held back is held at this version.
    synced: u64,
    told_once: bool,
    in_flight: Option<InFlight>,
    /// Refused by the sidecar in this version, and not told again until it has changed.
    held_back: HashMap<ServiceName, u64>,
    refused: Option<RefusedUpdate>,
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
}

impl Progress {
    /// A session that has just said Hello. What it holds counts if it is of this store, and not
    /// from a future that this store has lost.
    #[must_use]
    pub fn new(
        network: Network,
        subscription: Subscription,
        held: Option<&Version>,
        snapshot: &Snapshot,
    ) -> Self {
        let resumed = held
            .filter(|held| *held.store == **snapshot.store() && held.counter <= snapshot.counter());
        let services: BTreeSet<ServiceName> = subscription.add.into_iter().collect();
        Self {
            network,
            all: subscription.all,
            fresh: match resumed {
                Some(_) => BTreeSet::new(),
                None => services.clone(),
            },
            services,
            full: resumed.is_none(),
            synced: resumed.map_or(0, |held| held.counter),
            told_once: false,
            in_flight: None,
            held_back: HashMap::new(),
            refused: None,
        }
    }

    /// Does it want to know of this service?
    #[must_use]
    pub fn wants(&self, service: &ServiceName) -> bool {
        self.all || self.services.contains(service)
    }

    /// Does it want to know of all services?
    #[must_use]
    pub fn wants_all(&self) -> bool {
        self.all
    }

    /// The services it asked for by name.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &ServiceName> {
        self.services.iter()
    }

    /// The version it acknowledged last: 0 before the first.
    #[must_use]
    pub fn acknowledged(&self) -> u64 {
        self.synced
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
            self.services.remove(service);
            self.fresh.remove(service);
            self.held_back.remove(service);
        }
        for service in &subscription.add {
            self.services.insert(service.clone());
            self.fresh.insert(service.clone());
            self.held_back.remove(service);
        }
        if subscription.all && !self.all {
            self.all = true;
            let known = snapshot.services(&self.network);
            self.fresh.extend(known.map(|(service, _)| service.clone()));
        }
    }

    /// The next update, if there is something to tell and the one before was answered. The first
    /// of a session is made even if there is nothing in it: it says that this is all.
    pub fn next(&mut self, snapshot: &Snapshot) -> Option<News> {
        if self.in_flight.is_some() {
            return None;
        }
        self.release_changed(snapshot);
        let mut news = News {
            store: Arc::clone(snapshot.store()),
            counter: snapshot.counter(),
            full: self.full,
            ..News::default()
        };
        let mut in_flight = InFlight {
            version: snapshot.counter(),
            ..InFlight::default()
        };
        for service in self.pending(snapshot) {
            let delta = match self.full || self.fresh.contains(&service) {
                true => None,
                false => snapshot.delta(&self.network, &service, self.synced),
            };
            match delta {
                Some(delta) => in_flight.add_delta(&mut news, &service, delta),
                None => {
                    let view = snapshot.service(&self.network, &service).cloned();
                    in_flight.add_state(&mut news, service, view);
                }
            }
        }
        let empty = in_flight.services().next().is_none();
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

    /// The sidecar has taken an update. False: not the one that is on its way.
    pub fn ack(&mut self, version: &Version) -> bool {
        let Some(in_flight) = self.answered(version) else {
            return false;
        };
        self.synced = in_flight.version;
        self.full = false;
        if self.held_back.is_empty() {
            self.refused = None;
        }
        true
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
            if blamed.is_none_or(|blamed| blamed == service) {
                self.held_back.insert(service.clone(), in_flight.version);
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
        if !self.held_back.is_empty() || !self.fresh.is_empty() || self.full {
            return false;
        }
        if self.synced >= version {
            return true;
        }
        // Behind, but perhaps only by changes that it does not want to know.
        let changed = |service| {
            let view = snapshot.service(&self.network, service);
            view.is_some_and(|view| view.changed_within(self.synced, version))
        };
        self.in_flight.is_none() && !self.wanted(snapshot).any(changed)
    }

    fn answered(&mut self, version: &Version) -> Option<InFlight> {
        self.in_flight
            .take_if(|in_flight| in_flight.version == version.counter)
    }

    /// A refused service that has changed since may be acceptable now.
    fn release_changed(&mut self, snapshot: &Snapshot) {
        let (network, fresh) = (&self.network, &mut self.fresh);
        self.held_back.retain(|service, refused| {
            let held = snapshot.changed(network, service) <= *refused;
            if !held {
                fresh.insert(service.clone());
            }
            held
        });
    }

    /// The services that the next update must tell of, in the order of their names.
    fn pending(&self, snapshot: &Snapshot) -> BTreeSet<ServiceName> {
        let behind = |service: &&ServiceName| {
            self.full || snapshot.changed(&self.network, service) > self.synced
        };
        let mut pending: BTreeSet<_> = self.wanted(snapshot).filter(behind).cloned().collect();
        pending.extend(self.fresh.iter().cloned());
        pending.retain(|service| !self.held_back.contains_key(service));
        pending
    }

    fn wanted<'a>(&'a self, snapshot: &'a Snapshot) -> impl Iterator<Item = &'a ServiceName> {
        let network = self.all.then_some(&self.network);
        let all = network.into_iter().flat_map(|n| snapshot.services(n));
        self.services.iter().chain(all.map(|(service, _)| service))
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

    fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.states
            .iter()
            .chain(&self.upserts)
            .chain(&self.removals)
    }

    /// The service of a field such as `upserts[3].addresses.internal`.
    fn blamed(&self, field: &str) -> Option<&ServiceName> {
        let (list, rest) = field.split_once('[')?;
        let (index, _) = rest.split_once(']')?;
        let index: usize = index.parse().ok()?;
        match list {
            "services" => self.states.get(index),
            "upserts" => self.upserts.get(index),
            "removals" => self.removals.get(index),
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

//! The part of a session's progress that is about rules: of which services it must be told them,
//! which are still to be told, and which it does not take. Beside the services that it wants to
//! know, a sidecar is told the rules of those that it offers: they govern what comes in.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sidelane_proto::model::pushed::RULES_LIMIT;
use sidelane_proto::model::{Network, PushedRule, ServiceName};

use super::cut;
use crate::registry::RuleBook;

/// Refusals whose text is kept of one session, the newest; of more, only their services are.
pub const REFUSALS_KEPT: usize = 8;

/// Rules of one session.
#[derive(Debug, Default)]
pub(super) struct Rules {
    /// Services that the node offers.
    offered: BTreeSet<ServiceName>,
    /// Still to be told, changed or not.
    fresh: BTreeSet<ServiceName>,
    /// An update was refused for the rule of this service in this version, which is not told again
    /// until it has changed.
    held_back: HashMap<ServiceName, u64>,
    /// Taken for what they are, and not followed. Text is there for the newest few.
    refused: BTreeMap<ServiceName, Option<RefusedRule>>,
}

/// A rule that a session does not take.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RefusedRule {
    /// Its service.
    pub service: ServiceName,
    /// The rule's version.
    pub version: u64,
    /// The field that is wrong.
    pub field: String,
    /// What is wrong with it.
    pub problem: String,
}

/// What is to be told of rules.
#[derive(Debug, Default)]
pub(super) struct RuleNews {
    pub(super) rules: Vec<(ServiceName, Arc<PushedRule>)>,
    pub(super) removed: Vec<ServiceName>,
}

/// What a session wants to know, and which version of that it holds.
#[derive(Debug)]
pub(super) struct Wanted {
    pub(super) network: Network,
    pub(super) all: bool,
    pub(super) services: BTreeSet<ServiceName>,
    /// Everything that is neither fresh nor held back is held at this version.
    pub(super) synced: u64,
    /// Nothing that the sidecar holds counts: the next update is full.
    pub(super) full: bool,
}

impl Rules {
    pub(super) fn offered(&self) -> impl ExactSizeIterator<Item = &ServiceName> {
        self.offered.iter()
    }

    /// The node offers these services. Of each that is new it is told whether there is a rule.
    pub(super) fn offer(&mut self, services: &[ServiceName], wanted: &Wanted) {
        let before = std::mem::take(&mut self.offered);
        self.offered.extend(services.iter().cloned());
        for service in self.offered.difference(&before) {
            self.fresh.insert(service.clone());
        }
        for service in before.difference(&self.offered.clone()) {
            if !wanted.all && !wanted.services.contains(service) {
                self.forget(service);
            }
        }
    }

    /// These services are wanted from now on.
    pub(super) fn add<'a>(&mut self, services: impl IntoIterator<Item = &'a ServiceName>) {
        for service in services {
            self.fresh.insert(service.clone());
            self.held_back.remove(service);
        }
    }

    /// This service is wanted no more.
    pub(super) fn remove(&mut self, service: &ServiceName) {
        if !self.offered.contains(service) {
            self.forget(service);
        }
    }

    /// A refused rule that has changed since may be acceptable now.
    pub(super) fn release_changed(&mut self, book: &RuleBook, network: &Network) {
        let fresh = &mut self.fresh;
        self.held_back.retain(|service, refused| {
            let held = book.changed(network, service) <= *refused;
            if !held {
                fresh.insert(service.clone());
            }
            held
        });
    }

    /// What is to be told. Asked only when it will be.
    pub(super) fn next(&mut self, book: &RuleBook, wanted: &Wanted) -> RuleNews {
        let mut news = RuleNews::default();
        if !wanted.full && self.fresh.is_empty() && book.newest() <= wanted.synced {
            return news;
        }
        let fresh = std::mem::take(&mut self.fresh);
        let mut pending = self.behind(book, wanted);
        pending.extend(fresh.iter());
        for service in pending {
            if self.held_back.contains_key(service) {
                continue;
            }
            match book.get(&wanted.network, service) {
                Some(rule) => news.rules.push((service.clone(), Arc::clone(rule))),
                None if wanted.full => {}
                // A sidecar must know of everything that it offers how it stands. Of anything else
                // it knows no rule, unless there was one.
                None if self.offered.contains(service)
                    || book.may_be_removed(&wanted.network, service) =>
                {
                    news.removed.push(service.clone());
                }
                None => {}
            }
        }
        news
    }

    /// An update with these rules was taken, but for those that are refused: of its own rules, and
    /// in the first answer on a stream also of those that were held before. Returns how many that
    /// are.
    pub(super) fn taken(
        &mut self,
        told: impl Iterator<Item = ServiceName>,
        refused: Vec<RefusedRule>,
        wanted: &Wanted,
    ) -> usize {
        if wanted.full {
            self.refused.clear();
        }
        for service in told {
            self.refused.remove(&service);
        }
        let mut count = 0;
        for refused in refused {
            let service = refused.service.clone();
            let named = wanted.services.contains(&service) || self.offered.contains(&service);
            let room = self.refused.len() < RULES_LIMIT;
            if !room || !(wanted.all || named) {
                continue;
            }
            let text = self.make_room(refused.version).then(|| RefusedRule {
                field: cut(&refused.field),
                problem: cut(&refused.problem),
                ..refused
            });
            self.refused.insert(service, text);
            count += 1;
        }
        count
    }

    /// Is there room for the text of one more refusal, in this version? That of an older one gives
    /// way: whoever has just applied rules wants to know of those.
    fn make_room(&mut self, version: u64) -> bool {
        let texts = || self.refused.values().flatten();
        if texts().count() < REFUSALS_KEPT {
            return true;
        }
        let oldest = texts().map(|refused| refused.version).min();
        let Some(oldest) = oldest.filter(|oldest| *oldest < version) else {
            return false;
        };
        let mut texts = self.refused.values_mut();
        let gives_way = texts.find(|text| text.as_ref().is_some_and(|it| it.version == oldest));
        if let Some(text) = gives_way {
            *text = None;
        }
        true
    }

    /// The rule of this service is why an update was refused.
    pub(super) fn hold_back(&mut self, service: ServiceName, version: u64) {
        self.held_back.insert(service, version);
    }

    /// The rule of this service was in an update that was refused for something else.
    pub(super) fn tell_again(&mut self, service: ServiceName) {
        if !self.held_back.contains_key(&service) {
            self.fresh.insert(service);
        }
    }

    /// Is there nothing that was refused with its whole update, and nothing still to be told?
    pub(super) fn settled(&self) -> bool {
        self.held_back.is_empty() && self.fresh.is_empty()
    }

    pub(super) fn holds_nothing_back(&self) -> bool {
        self.held_back.is_empty()
    }

    /// Does it have all rules of the newest version? A change to a rule counts also if it came
    /// after the version that somebody waits for: what was before it is not known.
    pub(super) fn current(&self, book: &RuleBook, wanted: &Wanted) -> bool {
        book.newest() <= wanted.synced || self.behind(book, wanted).is_empty()
    }

    /// The refused rules whose text is kept, the newest first, and how many there are.
    pub(super) fn refused(&self) -> (Vec<RefusedRule>, usize) {
        let mut texts: Vec<_> = self.refused.values().flatten().cloned().collect();
        texts.sort_by_key(|refused| std::cmp::Reverse(refused.version));
        (texts, self.refused.len())
    }

    /// Services whose rule has changed since what is held; of a full update, all that are wanted.
    fn behind<'a>(&'a self, book: &'a RuleBook, wanted: &'a Wanted) -> BTreeSet<&'a ServiceName> {
        let (network, since, full) = (&wanted.network, wanted.synced, wanted.full);
        if wanted.all {
            let known = book.services(network);
            let changed = known.filter(|(_, version)| full || *version > since);
            return changed.map(|(service, _)| service).collect();
        }
        let named = wanted.services.iter().chain(&self.offered);
        let changed = named.filter(|service| full || book.changed(network, service) > since);
        changed.collect()
    }

    fn forget(&mut self, service: &ServiceName) {
        self.fresh.remove(service);
        self.held_back.remove(service);
        self.refused.remove(service);
    }
}

//! The rules of control that a sidecar holds: of each service the last good one. Pure, the part of
//! `held` that is about rules. A rule that is refused must never take the one before it away, nor
//! keep anything else of its update from being taken.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use sidelane_proto::model::{FieldError, Problem, PushedRule, RefusedRule, ServiceName, Update};

/// The most pushed rules that are held: twice what one mesh is built for, and a few MiB. Past it a
/// rule is refused, and the service goes by what holds without it.
pub const RULES_LIMIT: usize = 20_000;

/// Judges a pushed rule beside what this program was compiled with. Fields are named as rules have
/// them, `lane`.
pub type Judge = Arc<dyn Fn(&PushedRule) -> Result<(), FieldError> + Send + Sync>;

/// Pushed rules, merged from control's updates.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct HeldRules {
    good: BTreeMap<ServiceName, PushedRule>,
    /// What is held back now, by the service's name as it was given.
    refused: BTreeMap<String, RefusedRule>,
    /// What this node offers, as control was told on the stream that is open.
    offered: BTreeSet<ServiceName>,
    /// Of these services control has said which rule they have, or that they have none, whether
    /// or not they are subscribed to.
    stated: BTreeSet<ServiceName>,
}

/// What one update changed.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct RulesChange {
    pub(super) rules: Vec<PushedRule>,
    pub(super) dropped: Vec<ServiceName>,
}

impl HeldRules {
    pub(super) fn iter(&self) -> impl ExactSizeIterator<Item = &PushedRule> {
        self.good.values()
    }

    pub(super) fn services(&self) -> impl Iterator<Item = &ServiceName> {
        self.good.keys()
    }

    pub(super) fn refused(&self) -> impl ExactSizeIterator<Item = &RefusedRule> {
        self.refused.values()
    }

    pub(super) fn offered(&self) -> impl Iterator<Item = &ServiceName> {
        self.offered.iter()
    }

    /// Control is told what this node offers from now on.
    pub(super) fn offer(&mut self, services: impl IntoIterator<Item = ServiceName>) {
        self.offered = services.into_iter().collect();
    }

    /// Services of which it is known that they have no rule.
    pub(super) fn without(&self) -> impl Iterator<Item = &ServiceName> {
        let none = |service: &&ServiceName| !self.good.contains_key(*service);
        self.stated.iter().filter(none)
    }

    /// Is it known of everything that is offered which rule it has? `held` says of which services
    /// more than that is known.
    pub(super) fn complete(&self, held: impl Fn(&ServiceName) -> bool) -> bool {
        let mut offered = self.offered.iter();
        offered.all(|service| self.stated.contains(service) || held(service))
    }

    /// Refuses those rules of an update that cannot be taken. What `takes` leaves out is nobody's
    /// here, and is not judged.
    pub(super) fn judge(
        &self,
        update: &mut Update,
        takes: impl Fn(&str) -> bool,
        judge: impl Fn(&PushedRule) -> Result<(), FieldError>,
    ) {
        let mut count = if update.full {
            0
        } else {
            let removed = &update.rules_removed;
            let leaving = removed.iter().filter(|it| self.good.contains_key(*it));
            self.good.len() - leaving.count()
        };
        let full = update.full;
        let removed: BTreeSet<ServiceName> = update.rules_removed.iter().cloned().collect();
        update.judge_rules(|pushed| {
            let service = &*pushed.rule.service;
            if !takes(service) {
                return Ok(());
            }
            judge(pushed)?;
            let known = !full && self.good.contains_key(service) && !removed.contains(service);
            if !known && count >= RULES_LIMIT {
                let text =
                    format!("{RULES_LIMIT} rules are held already, the most that a sidecar takes");
                return Err(FieldError::new("service", Problem::OutOfBounds(text)));
            }
            count += usize::from(!known);
            Ok(())
        });
    }

    /// Merges what was judged. Removals come first. In a full update everything goes that is not
    /// named, but for services in `blamed`, of which more than a rule was held back.
    pub(super) fn merge(
        &mut self,
        full: bool,
        (rules, refused, removed): (Vec<PushedRule>, Vec<RefusedRule>, Vec<ServiceName>),
        takes: impl Fn(&str) -> bool,
        blamed: &BTreeSet<ServiceName>,
    ) -> RulesChange {
        let mut before = BTreeMap::new();
        let mut kept = BTreeSet::new();
        if full {
            self.stated = self.offered.clone();
            self.refused.clear();
            let stays = |service: &ServiceName| {
                let held_back = refused.iter().any(|it| it.service == service.as_str());
                held_back || blamed.contains(service)
            };
            let good = std::mem::take(&mut self.good);
            let (stay, go): (BTreeMap<_, _>, _) =
                good.into_iter().partition(|(service, _)| stays(service));
            kept.extend(stay.keys().cloned());
            (self.good, before) = (stay, go);
        }
        for service in removed {
            self.refused.remove(service.as_str());
            if let Some(rule) = self.good.remove(&service) {
                before.insert(service.clone(), rule);
            }
            self.stated.insert(service);
        }
        let mut change = RulesChange::default();
        for rule in rules {
            let Ok(service) = ServiceName::new(&rule.rule.service) else {
                continue;
            };
            if !takes(service.as_str()) {
                continue;
            }
            self.refused.remove(service.as_str());
            self.stated.insert(service.clone());
            kept.remove(&service);
            let known = before.remove(&service);
            let known = self.good.insert(service, rule.clone()).or(known);
            if known.as_ref() != Some(&rule) {
                change.rules.push(rule);
            }
        }
        // What was held back gives way to what was not.
        while self.good.len() > RULES_LIMIT
            && let Some(service) = kept.pop_last()
        {
            before.extend(self.good.remove_entry(&service));
        }
        change.dropped = before.into_keys().collect();
        for refused in refused {
            if self.refused.len() < RULES_LIMIT {
                self.refused.insert(refused.service.clone(), refused);
            }
        }
        change
    }

    /// Holds the rule of this service no more, unless it is offered. True if it was held.
    pub(super) fn forget(&mut self, service: &ServiceName) -> bool {
        if self.offered.contains(service) {
            return false;
        }
        self.refused.remove(service.as_str());
        self.stated.remove(service);
        self.good.remove(service).is_some()
    }

    /// Refuses what is held and does not pass: it was taken by a program that was compiled with
    /// other rules. Returns what was refused.
    pub(super) fn recheck(&mut self, judge: &Judge) -> Vec<(PushedRule, FieldError)> {
        let mut refused = Vec::new();
        self.good.retain(|_, rule| match judge(rule) {
            Ok(()) => true,
            Err(error) => {
                refused.push((rule.clone(), error));
                false
            }
        });
        refused
    }
}

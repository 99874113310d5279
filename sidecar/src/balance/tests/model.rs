//! The reference: a hub as one would write it who has all the time in the world. One line of
//! nodes; the first in it that is eligible is next, and goes to its end.

use std::collections::BTreeMap;

use sidelane_proto::model::{Endpoint, Generation, Health};

use super::super::{Counts, Departure, Down, PickError, Strategy, Up, Wanted};

pub(super) struct Model {
    pub(super) strategy: Strategy,
    /// Everybody who was ever here, in the order of their turns.
    line: Vec<String>,
    pub(super) live: BTreeMap<String, Live>,
    gone: BTreeMap<String, (Generation, Departure)>,
    /// Counts every generation that came up, so that calls on it can be told apart.
    lives: u64,
}

#[derive(Clone)]
pub(super) struct Live {
    pub(super) endpoint: Endpoint,
    pub(super) closed: bool,
    pub(super) life: u64,
}

/// Why the model picks nobody: the facts in a [`PickError`] without its examples.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Refusal {
    Empty,
    NoneHealthy { named: bool, counts: Counts },
    UnknownNode { count: usize },
    NodeGone(Generation, Departure),
    MustNameNode { count: usize },
    RulesMismatch { count: usize },
    NoAddress { count: usize },
    AllTried { tried: usize, counts: Counts },
}

impl From<&PickError> for Refusal {
    fn from(error: &PickError) -> Self {
        match *error {
            PickError::Empty => Self::Empty,
            PickError::NoneHealthy { ref node, counts } => Self::NoneHealthy {
                named: node.is_some(),
                counts,
            },
            PickError::UnknownNode { count, .. } => Self::UnknownNode { count },
            PickError::NodeGone {
                generation, why, ..
            } => Self::NodeGone(generation, why),
            PickError::MustNameNode { count, .. } => Self::MustNameNode { count },
            PickError::RulesMismatch { count, .. } => Self::RulesMismatch { count },
            PickError::NoAddress { count, .. } => Self::NoAddress { count },
            PickError::BreakerOpen { .. } => panic!("no call fails here"),
            PickError::NoneChosen { .. } => panic!("no strategy here chooses nobody"),
            PickError::AllTried { tried, counts } => Self::AllTried { tried, counts },
        }
    }
}

impl Model {
    pub(super) fn new(strategy: Strategy) -> Self {
        Self {
            strategy,
            line: Vec::new(),
            live: BTreeMap::new(),
            gone: BTreeMap::new(),
            lives: 0,
        }
    }

    pub(super) fn up(&mut self, endpoint: Endpoint) -> Up {
        let node = endpoint.node.as_str().to_owned();
        if let Some(live) = self.live.get_mut(&node) {
            let held = &live.endpoint;
            if let Some(identity) = &held.identity
                && endpoint.identity.as_ref() != Some(identity)
            {
                let held = identity.clone();
                return Up::IdentityRefused { held };
            }
            let old = held.generation;
            if endpoint.generation < old {
                return Up::Stale;
            }
            if endpoint.generation == old {
                live.endpoint = endpoint;
                return Up::Refreshed;
            }
            self.begin(node, endpoint);
            return Up::Replaced { old };
        }
        self.gone.remove(&node);
        if !self.line.contains(&node) {
            self.line.push(node.clone());
        }
        self.begin(node, endpoint);
        Up::Added
    }

    fn begin(&mut self, node: String, endpoint: Endpoint) {
        self.lives += 1;
        let live = Live {
            endpoint,
            closed: false,
            life: self.lives,
        };
        self.live.insert(node, live);
    }

    pub(super) fn down(&mut self, node: &str, generation: Generation, why: Departure) -> Down {
        match self.live.get(node) {
            None => Down::Unknown,
            Some(live) if live.endpoint.generation != generation => Down::Stale,
            Some(_) => {
                self.live.remove(node);
                self.gone.insert(node.to_owned(), (generation, why));
                Down::Removed
            }
        }
    }

    /// The generations whose channels must close, in order.
    pub(super) fn reconcile(&mut self, state: &[Endpoint]) -> Vec<(String, Generation)> {
        let mut gone = Vec::new();
        for (node, live) in self.live.clone() {
            let generation = live.endpoint.generation;
            let identity = live.endpoint.identity;
            let named = state.iter().find(|named| named.node.as_str() == node);
            let same = named.is_some_and(|named| identity.is_none() || named.identity == identity);
            if !same {
                assert_eq!(
                    self.down(&node, generation, Departure::Missing),
                    Down::Removed
                );
                gone.push((node, generation));
            }
        }
        for endpoint in state {
            let node = endpoint.node.as_str();
            let held = self.live.get(node).map(|live| live.endpoint.generation);
            // Control's word may also name an older one: another source knows the node then.
            if let Some(old) = held.filter(|old| endpoint.generation < *old) {
                self.begin(node.to_owned(), endpoint.clone());
                gone.push((node.to_owned(), old));
                continue;
            }
            if let Up::Replaced { old } = self.up(endpoint.clone()) {
                gone.push((endpoint.node.as_str().to_owned(), old));
            }
        }
        gone.sort_unstable();
        gone
    }

    /// Closes or opens the channel; true if that is a change.
    pub(super) fn set_closed(&mut self, node: &str, generation: Generation, closed: bool) -> bool {
        match self.live.get_mut(node) {
            Some(live) if live.endpoint.generation == generation => {
                std::mem::replace(&mut live.closed, closed) != closed
            }
            _ => false,
        }
    }

    /// It had its turn.
    pub(super) fn pass(&mut self, node: &str) {
        self.line.retain(|other| other != node);
        self.line.push(node.to_owned());
    }

    /// Those from which the next pick is made, the next in line first.
    pub(super) fn eligible(&self, wanted: &Wanted<'_>) -> Result<Vec<String>, Refusal> {
        if let Some(node) = wanted.node {
            return self.named(node, wanted);
        }
        let line = self.line.iter().filter_map(|node| self.live.get(node));
        let all: Vec<&Live> = line.collect();
        if all.is_empty() {
            return Err(Refusal::Empty);
        }
        let staying = all.iter().filter(|live| live.health() != Health::Draining);
        let count = staying.count();
        if self.strategy == Strategy::None && count > 1 {
            return Err(Refusal::MustNameNode { count });
        }
        let able = Self::able(&all, wanted, false)?;
        let left: Vec<&Live> = able
            .iter()
            .copied()
            .filter(|live| !wanted.exclude.contains(&live.endpoint.node))
            .collect();
        if left.is_empty() {
            let tried = able.len();
            let counts = Self::counts(&all, wanted);
            return Err(Refusal::AllTried { tried, counts });
        }
        let good = |live: &&Live| !live.closed && live.health() == Health::Healthy;
        let panic = able.iter().copied().filter(good).count() * 2 < able.len();
        let best: Vec<&Live> = left.iter().copied().filter(good).collect();
        let ready: Vec<&Live> = left.iter().copied().filter(|live| !live.closed).collect();
        let chosen = if !panic && !best.is_empty() {
            best
        } else if !ready.is_empty() {
            ready
        } else {
            left
        };
        Ok(chosen.into_iter().map(Live::name).collect())
    }

    fn named(&self, node: &str, wanted: &Wanted<'_>) -> Result<Vec<String>, Refusal> {
        let Some(live) = self.live.get(node) else {
            return Err(match self.gone.get(node) {
                Some((generation, why)) => Refusal::NodeGone(*generation, *why),
                None => Refusal::UnknownNode {
                    count: self.live.len(),
                },
            });
        };
        match Self::able(&[live], wanted, true) {
            Err(Refusal::NoneHealthy { counts, .. }) if counts.draining == 1 => Err(
                Refusal::NodeGone(live.endpoint.generation, Departure::Draining),
            ),
            Err(refusal) => Err(refusal),
            Ok(_) => Ok(vec![live.name()]),
        }
    }

    /// Those that agree about the rule, have an address, and take new calls.
    fn able<'a>(
        all: &[&'a Live],
        wanted: &Wanted<'_>,
        named: bool,
    ) -> Result<Vec<&'a Live>, Refusal> {
        let mut able: Vec<&Live> = all.to_vec();
        able.retain(|live| live.agrees(wanted));
        if able.is_empty() {
            return Err(Refusal::RulesMismatch { count: all.len() });
        }
        let count = able.len();
        able.retain(|live| live.endpoint.addresses.of(wanted.class).is_some());
        if able.is_empty() {
            return Err(Refusal::NoAddress { count });
        }
        able.retain(|live| matches!(live.health(), Health::Healthy | Health::Suspect));
        if able.is_empty() {
            let counts = Self::counts(all, wanted);
            return Err(Refusal::NoneHealthy { named, counts });
        }
        Ok(able)
    }

    fn counts(all: &[&Live], wanted: &Wanted<'_>) -> Counts {
        let mut counts = Counts::default();
        for live in all {
            if !live.agrees(wanted) {
                counts.other_rule += 1;
            } else if live.endpoint.addresses.of(wanted.class).is_none() {
                counts.no_address += 1;
            } else if live.health() == Health::Draining {
                counts.draining += 1;
            } else if live.health() == Health::Unhealthy {
                counts.unhealthy += 1;
            }
        }
        counts
    }
}

impl Live {
    fn name(&self) -> String {
        self.endpoint.node.as_str().to_owned()
    }

    fn health(&self) -> Health {
        self.endpoint.offer.health
    }

    fn agrees(&self, wanted: &Wanted<'_>) -> bool {
        match (wanted.agreement, &self.endpoint.offer.rule) {
            (Some(ours), Some(rule)) => ours == (rule.class, rule.lane, rule.secure),
            _ => true,
        }
    }
}

//! Picks an endpoint for one call, and explains what it would pick. Standard mode (a node is
//! named) is that node or an error, never another one, and leaves the rotation alone; load-balancer
//! mode goes by the hub's strategy. `pick`, `peek` and `candidates` go through the same functions.

use std::sync::Arc;
use std::time::Instant;

use sidelane_proto::model::{Endpoint, NodeId};

use super::circuit::{Stand, Ticket};
use super::departed::Departure;
use super::eligible::{Agreement, Candidate, Kind, Reach, Tally, Tier, Tripped, Unfit, Wanted};
use super::error::{Counts, NAMED_IN_ERRORS, PickError};
use super::hub::Hub;
use super::load::InFlight;
use super::near::Nearness;
use super::select::Chance;
use super::strategy::Strategy;
use crate::parts::Course;

/// Where a call goes.
#[derive(Debug)]
pub struct Pick {
    /// The endpoint.
    pub endpoint: Arc<Endpoint>,
    /// Held for as long as the call lasts.
    pub in_flight: InFlight,
}

/// What load-balancer mode sees of a hub for one call.
struct View {
    /// Slots that this call has tried, each once.
    tried: Vec<usize>,
    reach: Result<Reach, PickError>,
}

impl Hub {
    /// Picks the endpoint for a call. `random` is any 64 bits, for strategies that leave something
    /// to chance.
    ///
    /// # Errors
    /// [`PickError`] says what stands in the way; nothing has changed then.
    pub fn pick(
        &mut self,
        wanted: &Wanted<'_>,
        random: u64,
        now: Instant,
    ) -> Result<Pick, PickError> {
        self.settle_breakers(now);
        if wanted.node.is_none() && self.strategy_for(wanted) == Strategy::ConsistentHash {
            self.rotation.keep_rings();
            self.counters.keyless_picks += u64::from(wanted.key.is_none());
        }
        self.settle(now);
        let slot = self.choose(wanted, Chance { random, now })?;
        if self.minds_nearness(wanted) {
            let near = self.rotation.kind(slot).near;
            // There is no circle within the first.
            let spilled = near > Nearness::Zone
                && self.view(wanted).reach.is_ok_and(|reach| near > reach.near);
            self.counters.spilled_picks += u64::from(spilled);
        }
        // A call that names its node must not take the turn that others wait for.
        if wanted.node.is_none() {
            self.rotation.pass(slot);
            self.count_part(wanted, slot);
        }
        let ticket = wanted
            .node
            .is_none()
            .then(|| self.enter(slot, now))
            .flatten();
        let held = &mut self.held[slot];
        held.last_picked = Some(now);
        Ok(Pick {
            endpoint: Arc::clone(&held.endpoint),
            in_flight: InFlight::new(&held.load, ticket),
        })
    }

    /// What the call tells the endpoint's breaker with, once it is known what came of it.
    fn enter(&mut self, slot: usize, now: Instant) -> Option<Ticket> {
        let held = &self.held[slot];
        if !held.guarded {
            return Some(Ticket::plain(held.epoch));
        }
        let (ticket, change) = held.load.circuit().enter(now);
        self.trips.changed(change);
        ticket
    }

    /// What [`Hub::pick`] would pick now; nothing changes. [`Hub::settle_breakers`] comes before it.
    ///
    /// # Errors
    /// As [`Hub::pick`].
    pub fn peek(
        &self,
        wanted: &Wanted<'_>,
        random: u64,
        now: Instant,
    ) -> Result<Arc<Endpoint>, PickError> {
        let slot = self.choose(wanted, Chance { random, now })?;
        Ok(Arc::clone(&self.held[slot].endpoint))
    }

    /// Every endpoint, and why the call cannot go there. Takes time for each endpoint: meant for
    /// explanations, not for calls.
    #[must_use]
    pub fn candidates(&self, wanted: &Wanted<'_>, now: Instant) -> Vec<Candidate> {
        let wanted = &self.on_course(wanted);
        let view = self.view(wanted);
        let verdict = |slot: usize| {
            let kind = self.rotation.kind(slot);
            if let Some(node) = wanted.node {
                if self.held[slot].endpoint.node.as_str() != node {
                    return Err(Unfit::NotNamed);
                }
                return kind.suits(wanted);
            }
            kind.suits(wanted)?;
            if view.tried.contains(&slot) {
                return Err(Unfit::Tried);
            }
            match &view.reach {
                Ok(reach) => kind.open(wanted, *reach),
                Err(_) => Err(Unfit::MustBeNamed),
            }
        };
        let candidate = |slot: usize| {
            let held = &self.held[slot];
            Candidate {
                endpoint: Arc::clone(&held.endpoint),
                unfit: verdict(slot).err().map(|unfit| match unfit {
                    Unfit::BreakerOpen(_) => Unfit::BreakerOpen(self.tripped_at(slot, now)),
                    Unfit::Avoided(_) => Unfit::Avoided(self.tripped_at(slot, now)),
                    unfit => unfit,
                }),
                in_flight: held.load.in_flight(),
                latency: held.load.latency(now),
                weight: self.rotation.weight(slot).whole(),
                warmth: self.rotation.weight(slot).warmth(),
                nearness: self.rotation.kind(slot).near,
                up_since: held.up_since,
                closed_since: held.closed_since,
                last_picked: held.last_picked,
            }
        };
        (0..self.held.len()).map(candidate).collect()
    }

    fn choose(&self, wanted: &Wanted<'_>, chance: Chance) -> Result<usize, PickError> {
        if let Some(node) = wanted.node {
            return self.named(node, wanted);
        }
        // Without a split there is nothing to fall over to, and no cost.
        let on_course;
        let wanted = if wanted.course.then.is_some() {
            on_course = self.on_course(wanted);
            &on_course
        } else {
            wanted
        };
        let View { mut tried, reach } = self.view(wanted);
        let mut reach = match reach {
            Err(PickError::BreakerOpen { count, others, .. }) => {
                let tripped = self.first_of_tripped(chance.now);
                return Err(PickError::BreakerOpen {
                    count,
                    tripped,
                    others,
                });
            }
            reach => reach?,
        };
        if self.due.now
            && let Some(slot) = self.to_probe(wanted, reach, &tried)
        {
            return Ok(slot);
        }
        loop {
            let slot = self.select(wanted, reach, &tried, chance)?;
            if reach.near.wider().is_none() || !self.is_crowded(slot, wanted, reach) {
                return Ok(slot);
            }
            // The next circle, and not this one again, unless there is no other.
            tried.push(slot);
            while let Some(wider) = reach.near.wider() {
                reach.near = wider;
                if self.count_open(wanted, reach, &tried) > 0 {
                    break;
                }
            }
            if self.count_open(wanted, reach, &tried) == 0 {
                return Ok(slot);
            }
        }
    }

    /// The smallest circle that can take such a call; `None` where it does not matter for it who is
    /// near, or nobody can take it.
    #[must_use]
    pub fn circle_for(&self, wanted: &Wanted<'_>) -> Option<Nearness> {
        let minds = self.minds_nearness(wanted);
        let reach = minds.then(|| self.view(wanted).reach)?.ok()?;
        Some(reach.near)
    }

    fn count_open(&self, wanted: &Wanted<'_>, reach: Reach, tried: &[usize]) -> usize {
        let open = |kind: &Kind| kind.open(wanted, reach).is_ok();
        self.rotation.count(open, tried)
    }

    /// An endpoint that waits for a probe: the next call is it, or by some strategies none would come
    /// for minutes. A call that has a key, or is picked for by a strategy of the project's own, goes
    /// where that leads, and is the probe if it leads there.
    fn to_probe(&self, wanted: &Wanted<'_>, reach: Reach, tried: &[usize]) -> Option<usize> {
        let strategy = self.strategy_for(wanted);
        if matches!(strategy, Strategy::ConsistentHash | Strategy::Own(_)) {
            return None;
        }
        (0..self.held.len()).find(|slot| {
            let held = &self.held[*slot];
            let waits = held.guarded && !held.blocked && !tried.contains(slot);
            waits && self.rotation.kind(*slot).open(wanted, reach).is_ok()
        })
    }

    fn tripped_at(&self, slot: usize, now: Instant) -> Option<Tripped> {
        let circuit = self.held[slot].load.circuit();
        let left = match circuit.stand(now) {
            Stand::Open(until) => Some(until.saturating_duration_since(now)),
            Stand::Closed | Stand::HalfOpen { .. } => None,
        };
        circuit.cause().map(|cause| Tripped { cause, left })
    }

    fn first_of_tripped(&self, now: Instant) -> Option<Tripped> {
        let tripped = (0..self.held.len()).filter(|slot| self.held[*slot].blocked);
        tripped
            .filter_map(|slot| self.tripped_at(slot, now))
            .min_by_key(|tripped| tripped.left)
    }

    /// The call with the parts of the split that it goes to: those that it is meant for, or, where
    /// nobody of them can take it and somebody of the others can, the others.
    fn on_course<'a>(&self, wanted: &Wanted<'a>) -> Wanted<'a> {
        let Some(then) = wanted.course.then else {
            return *wanted;
        };
        let others = Wanted {
            course: Course {
                first: then,
                then: None,
            },
            ..*wanted
        };
        if self.view(wanted).reach.is_err() && self.view(&others).reach.is_ok() {
            others
        } else {
            *wanted
        }
    }

    fn count_part(&mut self, wanted: &Wanted<'_>, slot: usize) {
        if wanted.course == Course::ANY {
            return;
        }
        let part = self.rotation.kind(slot).part;
        if let Some(count) = self.split_picks.of.get_mut(usize::from(part)) {
            *count += 1;
        }
        let meant = wanted.course.first.contains(part);
        self.split_picks.fell_over += u64::from(!meant);
    }

    /// Standard mode. Suspects and ghosts are tried: there is no other to go to.
    fn named(&self, name: &str, wanted: &Wanted<'_>) -> Result<usize, PickError> {
        let Some(&slot) = self.index.get(name) else {
            return Err(self.not_held(name));
        };
        let kind = self.rotation.kind(slot);
        let Err(unfit) = kind.suits(wanted) else {
            return Ok(slot);
        };
        let endpoint = &self.held[slot].endpoint;
        Err(match unfit {
            Unfit::Draining => PickError::NodeGone {
                node: endpoint.node.clone(),
                generation: endpoint.generation,
                why: Departure::Draining,
            },
            unfit => {
                let mut counts = Counts::default();
                counts.add(unfit, 1);
                self.unsuited(Some(slot), counts, wanted)
            }
        })
    }

    fn not_held(&self, name: &str) -> PickError {
        match self.departed.get(name) {
            Some((node, left)) => PickError::NodeGone {
                node: node.clone(),
                generation: left.generation,
                why: left.why,
            },
            None => PickError::UnknownNode {
                node: name.to_owned(),
                known: self.some_nodes(|_| true),
                count: self.held.len(),
            },
        }
    }

    fn view(&self, wanted: &Wanted<'_>) -> View {
        let mut tried: Vec<usize> = wanted
            .exclude
            .iter()
            .filter_map(|node| self.index.get(node).copied())
            .collect();
        tried.sort_unstable();
        tried.dedup();
        let reach = self.reach(wanted, &tried);
        View { tried, reach }
    }

    /// Down to which tier load-balancer mode may go for this call, or why it finds nobody.
    fn reach(&self, wanted: &Wanted<'_>, tried: &[usize]) -> Result<Reach, PickError> {
        if self.held.is_empty() {
            return Err(PickError::Empty);
        }
        if self.strategy_for(wanted) == Strategy::None {
            self.check_single()?;
        }
        let mut all = Tally::default();
        let mut others = Counts::default();
        for (kind, count) in self.rotation.kinds() {
            match kind.suits(wanted) {
                Ok(()) => all.add(kind.tier, count),
                Err(unfit) => others.add(unfit, count),
            }
        }
        let mut been = Tally::default();
        for slot in tried {
            let kind = self.rotation.kind(*slot);
            if kind.suits(wanted).is_ok() {
                been.add(kind.tier, 1);
            }
        }
        match (all.reach(been), been.total()) {
            (Some(reach), _) => Ok(self.circle(wanted, reach, tried)),
            (None, 0) => Err(self.unsuited(None, others, wanted)),
            (None, tried) => Err(PickError::AllTried {
                tried,
                counts: others,
            }),
        }
    }

    /// For strategy NONE: is it clear without a name which endpoint is meant? One that drains does
    /// not count: while a single node is handed over to its successor, both are there.
    fn check_single(&self) -> Result<(), PickError> {
        let stays = |kind: &Kind| kind.tier != Tier::Draining;
        let kinds = self.rotation.kinds().filter(|(kind, _)| stays(kind));
        let count: usize = kinds.map(|(_, count)| count).sum();
        if count < 2 {
            return Ok(());
        }
        let some = self.some_nodes(|slot| stays(self.rotation.kind(slot)));
        Err(PickError::MustNameNode { count, some })
    }

    /// Why none of the endpoints (or not the named one) suits a call.
    fn unsuited(&self, named: Option<usize>, counts: Counts, wanted: &Wanted<'_>) -> PickError {
        if counts.tripped > 0 {
            return PickError::BreakerOpen {
                count: counts.tripped,
                tripped: None,
                others: Counts {
                    tripped: 0,
                    ..counts
                },
            };
        }
        let closed = counts.draining + counts.unhealthy;
        if closed == 0 && counts.no_address > 0 {
            return PickError::NoAddress {
                class: wanted.class,
                count: counts.no_address,
            };
        }
        let example = named.or_else(|| {
            let other = |kind: &Kind| kind.suits(wanted) == Err(Unfit::OtherRule);
            let mut kinds = self.rotation.kinds().map(|(kind, _)| kind);
            self.rotation.any_of(kinds.find(|kind| other(kind))?)
        });
        if closed == 0
            && let Some(slot) = example
            && let (Some(ours), Some(rule)) =
                (wanted.agreement, &self.held[slot].endpoint.offer.rule)
        {
            return PickError::RulesMismatch {
                count: counts.other_rule,
                node: self.held[slot].endpoint.node.clone(),
                theirs: format!("{} ({})", agreement_text(rule.agreement()), rule.origin),
                ours: agreement_text(ours),
            };
        }
        PickError::NoneHealthy {
            node: named.map(|slot| self.held[slot].endpoint.node.clone()),
            counts,
        }
    }

    fn some_nodes(&self, which: impl Fn(usize) -> bool) -> Vec<NodeId> {
        (0..self.held.len())
            .filter(|slot| which(*slot))
            .take(NAMED_IN_ERRORS)
            .map(|slot| self.held[slot].endpoint.node.clone())
            .collect()
    }
}

fn agreement_text((class, lane, secure): Agreement) -> String {
    let secure = if secure { "secure" } else { "not secure" };
    format!("class {class}, lane `{lane}`, {secure}")
}

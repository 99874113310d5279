//! The live endpoints of one service, as control and our own channels tell of them: who is up in
//! which generation, and who is ready. Picking among them is in `choose`. A hub must never let an
//! older generation replace a newer one, or one identity another's live node.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Instant;

use sidelane_proto::model::split::PARTS_LIMIT;
use sidelane_proto::model::{
    Breaker, Endpoint, Generation, Health, Identity, Locality, NodeId, Outlier, Split,
};

use crate::call::hash_key;
use crate::parts::number;

use super::circuit::Circuit;
use super::departed::{Departed, Departure};
use super::eligible::{Barrier, Kind, Wanted};
use super::load::Load;
use super::near::Nearness;
use super::rotation::Rotation;
use super::strategy::Strategy;
use super::trips::{Due, Trips};
use super::warmth::Warming;
use super::weight::Weight;

/// Live endpoints of one service. Every operation on one endpoint takes logarithmic time.
#[derive(Debug)]
pub struct Hub {
    pub(super) strategy: Strategy,
    /// Dense: the last takes the place of one that leaves. `index` and `rotation` follow.
    pub(super) held: Vec<Held>,
    pub(super) index: HashMap<NodeId, usize>,
    pub(super) rotation: Rotation,
    pub(super) departed: Departed,
    /// Calls in flight, those on generations that are gone included.
    pub(super) in_flight: Arc<AtomicU64>,
    pub(super) counters: Counters,
    pub(super) breaker: Breaker,
    /// Open breakers refuse calls that nobody else can take. Otherwise they only steer.
    pub(super) refuses: bool,
    pub(super) outlier: Outlier,
    pub(super) trips: Arc<Trips>,
    pub(super) due: Due,
    /// How the service's calls are split, by which endpoints are told apart.
    split: Option<Split>,
    /// Where the calls went since they are split in this way.
    pub(super) split_picks: SplitPicks,
    pub(super) warming: Warming,
    /// Where this node stands.
    pub(super) own: Locality,
    pub(super) prefers_near: bool,
}

/// Picks of a service whose calls are split.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SplitPicks {
    /// Of each part.
    pub of: [u64; PARTS_LIMIT],
    /// Those among them for which nobody of the part that was meant could be had.
    pub fell_over: u64,
}

/// One generation of one node.
#[derive(Debug)]
pub(super) struct Held {
    pub(super) endpoint: Arc<Endpoint>,
    pub(super) load: Arc<Load>,
    pub(super) up_since: Instant,
    /// Set while it is a ghost: its channel turned out closed.
    pub(super) closed_since: Option<Instant>,
    pub(super) last_picked: Option<Instant>,
    /// Set while it warms up.
    pub(super) cold_since: Option<Instant>,
    /// Set where the node itself named this generation: the one that control had named then.
    learned_over: Option<Generation>,
    /// Its breaker is not closed, as the last look at it showed.
    pub(super) guarded: bool,
    /// And no call should go there.
    pub(super) blocked: bool,
    /// What calls tell the breaker with while it is closed.
    pub(super) epoch: u32,
}

/// What became of an [`Hub::up`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use = "the channels of a replaced generation must be closed"]
pub enum Up {
    /// The node is new here.
    Added,
    /// The same generation again: its facts are renewed, its turn and its readiness stay.
    Refreshed,
    /// A newer generation took over, with the turn of the older one.
    Replaced {
        /// The generation whose channels must close.
        old: Generation,
    },
    /// A newer generation is held; nothing changed.
    Stale,
    /// The live node has another identity; nothing changed.
    IdentityRefused {
        /// The identity of the live node.
        held: Identity,
    },
}

/// What became of a [`Hub::down`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use = "the channels of a removed generation must be closed"]
pub enum Down {
    /// It is gone, and its channels must close.
    Removed,
    /// Another generation is held; nothing changed.
    Stale,
    /// No such node is held.
    Unknown,
}

/// A generation that is gone, whose channels must close.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gone {
    /// The node.
    pub node: NodeId,
    /// The generation of it that is gone. A newer one may be live.
    pub generation: Generation,
}

/// How often things happened since the hub was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counters {
    /// Endpoints that came up: added, refreshed or replaced.
    pub ups: u64,
    /// Endpoints that came up in an older generation than the one held.
    pub stale_ups: u64,
    /// Endpoints that left.
    pub downs: u64,
    /// News of a generation's end while another one was held.
    pub stale_downs: u64,
    /// Endpoints with the id of a live node of another identity.
    pub identity_refusals: u64,
    /// Channels that turned out closed while their endpoint counted as ready.
    pub closed_channels: u64,
    /// Picks by a key for calls that brought none: the caller's node was the key.
    pub keyless_picks: u64,
    /// Picks that went farther than they would have, because the near ones were crowded.
    pub spilled_picks: u64,
}

impl Hub {
    /// A hub without endpoints.
    #[must_use]
    pub fn new(strategy: Strategy) -> Self {
        Self {
            strategy,
            held: Vec::new(),
            index: HashMap::new(),
            rotation: Rotation::default(),
            departed: Departed::default(),
            in_flight: Arc::default(),
            counters: Counters::default(),
            breaker: Breaker::DEFAULT,
            refuses: false,
            outlier: Outlier::DEFAULT,
            trips: Arc::default(),
            due: Due::default(),
            split: None,
            split_picks: SplitPicks::default(),
            warming: Warming::default(),
            own: Locality::default(),
            prefers_near: true,
        }
    }

    /// Tells endpoints apart by this split from now on.
    pub fn set_split(&mut self, split: Option<&Split>) {
        if self.split.as_ref() == split {
            return;
        }
        self.split = split.cloned();
        self.split_picks = SplitPicks::default();
        for slot in 0..self.held.len() {
            self.regroup(slot);
        }
    }

    /// How the service's calls are split, and where they went.
    #[must_use]
    pub fn split(&self) -> Option<(&Split, SplitPicks)> {
        Some((self.split.as_ref()?, self.split_picks))
    }

    fn hold(&self, endpoint: Arc<Endpoint>, now: Instant) -> Held {
        let circuit = Circuit::new(self.breaker, now);
        let load = Load::new(&self.in_flight, circuit, &self.trips);
        Held::new(endpoint, Arc::new(load), now)
    }

    /// Picks in another way from now on. Endpoints and their turns stay.
    pub fn set_strategy(&mut self, strategy: Strategy) {
        self.strategy = strategy;
    }

    /// How it picks.
    #[must_use]
    pub const fn strategy(&self) -> Strategy {
        self.strategy
    }

    /// How it picks for this call.
    pub(super) fn strategy_for(&self, wanted: &Wanted<'_>) -> Strategy {
        wanted.strategy.unwrap_or(self.strategy)
    }

    /// Takes in what a node says of the service now. An identity of `None` (trust mode
    /// `disabled`) protects nothing: whoever brings one takes the node over, and never the
    /// other way round.
    pub fn up(&mut self, endpoint: Arc<Endpoint>, now: Instant) -> Up {
        let Some(&slot) = self.index.get(&endpoint.node) else {
            let slot = self.held.len();
            self.add(endpoint, now);
            self.counters.ups += 1;
            self.begins_cold(slot, now);
            return Up::Added;
        };
        let held = &self.held[slot];
        if let Some(identity) = other_identity(&held.endpoint, &endpoint) {
            self.counters.identity_refusals += 1;
            let held = identity.clone();
            return Up::IdentityRefused { held };
        }
        let old = held.endpoint.generation;
        if endpoint.generation < old {
            self.counters.stale_ups += 1;
            return Up::Stale;
        }
        self.counters.ups += 1;
        let recovers = held.endpoint.offer.health == Health::Unhealthy
            && endpoint.offer.health != Health::Unhealthy;
        let outcome = if endpoint.generation == old {
            self.held[slot].endpoint = endpoint;
            Up::Refreshed
        } else {
            self.held[slot] = self.hold(endpoint, now);
            Up::Replaced { old }
        };
        self.regroup(slot);
        if recovers || outcome != Up::Refreshed {
            self.begins_cold(slot, now);
        }
        outcome
    }

    /// The node answered in a newer generation than control had named. It stays until control
    /// names one that is newer than `old`.
    pub fn learned(
        &mut self,
        node: &NodeId,
        old: Generation,
        new: Generation,
        now: Instant,
    ) -> bool {
        let Some(slot) = self.slot_of(node, old).filter(|_| new > old) else {
            return false;
        };
        let held = &self.held[slot];
        let over = held.learned_over.unwrap_or(old);
        let endpoint = Endpoint {
            generation: new,
            ..Endpoint::clone(&held.endpoint)
        };
        self.held[slot] = self.hold(Arc::new(endpoint), now);
        self.held[slot].learned_over = Some(over);
        self.counters.ups += 1;
        self.regroup(slot);
        self.begins_cold(slot, now);
        true
    }

    /// Lets a node go, if it is still in that generation.
    pub fn down(&mut self, node: &NodeId, generation: Generation) -> Down {
        match self.index.get(node) {
            None => Down::Unknown,
            Some(&slot) if self.held[slot].endpoint.generation != generation => {
                self.counters.stale_downs += 1;
                Down::Stale
            }
            Some(&slot) => {
                self.remove(slot, Departure::Left);
                Down::Removed
            }
        }
    }

    /// Takes in a whole state from control: all that it names come up, all that it does not name
    /// leave. A node that it names with another identity than ours has left, too, and another one
    /// has its id now: a refusal here would leave us with a node that no longer exists. Returns
    /// the generations whose channels must close.
    pub fn reconcile(&mut self, endpoints: &[Arc<Endpoint>], now: Instant) -> Vec<Gone> {
        let named: HashMap<&NodeId, &Endpoint> = endpoints
            .iter()
            .map(|endpoint| (&endpoint.node, endpoint.as_ref()))
            .collect();
        let mut gone = Vec::new();
        // From the end, since the last takes the place of the one removed.
        for slot in (0..self.held.len()).rev() {
            let held = &self.held[slot].endpoint;
            let stays = named
                .get(&held.node)
                .is_some_and(|named| other_identity(held, named).is_none());
            if !stays {
                gone.push(self.remove(slot, Departure::Missing));
            }
        }
        // Where all are new, nobody is there who could take the calls while they warm up.
        let settled = self.held.iter().any(|held| {
            let named = named.get(&held.endpoint.node);
            let stays = named.is_some_and(|named| named.generation <= held.endpoint.generation);
            stays && self.kind_of(held).takes_calls()
        });
        let time = self.warming.pause_unless(settled);
        for endpoint in endpoints {
            if let Up::Replaced { old } = self.told(endpoint, now) {
                gone.push(Gone {
                    node: endpoint.node.clone(),
                    generation: old,
                });
            }
        }
        self.warming.resume(time);
        gone
    }

    /// Takes in what control names. Its word may also put an older generation in a newer one's
    /// place: another of its sources knows the node then. Only where the node itself told of a
    /// generation that control has not heard of, control is behind.
    fn told(&mut self, endpoint: &Arc<Endpoint>, now: Instant) -> Up {
        let Some(&slot) = self.index.get(&endpoint.node) else {
            return self.up(Arc::clone(endpoint), now);
        };
        let held = &self.held[slot];
        let behind = held
            .learned_over
            .is_some_and(|over| endpoint.generation <= over);
        let old = held.endpoint.generation;
        if behind || endpoint.generation >= old {
            return self.up(Arc::clone(endpoint), now);
        }
        self.held[slot] = self.hold(Arc::clone(endpoint), now);
        self.counters.ups += 1;
        self.regroup(slot);
        self.begins_cold(slot, now);
        Up::Replaced { old }
    }

    /// Its channel turned out closed: it gets calls only if nobody is ready, until
    /// [`Hub::ready`]. The caller dials it again. True if it counted as ready before.
    pub fn failed(&mut self, node: &NodeId, generation: Generation, now: Instant) -> bool {
        let Some(slot) = self.slot_of(node, generation) else {
            return false;
        };
        if self.held[slot].closed_since.is_some() {
            return false;
        }
        self.held[slot].closed_since = Some(now);
        self.counters.closed_channels += 1;
        self.regroup(slot);
        true
    }

    /// It has a working channel again. True if it counted as not ready before.
    pub fn ready(&mut self, node: &NodeId, generation: Generation) -> bool {
        let Some(slot) = self.slot_of(node, generation) else {
            return false;
        };
        let was_closed = self.held[slot].closed_since.take().is_some();
        self.regroup(slot);
        was_closed
    }

    /// How many endpoints there are, whatever their health.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Nobody offers the service.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// All endpoints, in no order that means anything.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Arc<Endpoint>> {
        self.held.iter().map(|held| &held.endpoint)
    }

    /// The endpoint of a node.
    #[must_use]
    pub fn get(&self, node: &str) -> Option<&Arc<Endpoint>> {
        self.index.get(node).map(|slot| &self.held[*slot].endpoint)
    }

    /// How often things happened.
    #[must_use]
    pub const fn counters(&self) -> Counters {
        self.counters
    }

    fn slot_of(&self, node: &NodeId, generation: Generation) -> Option<usize> {
        let slot = *self.index.get(node)?;
        (self.held[slot].endpoint.generation == generation).then_some(slot)
    }

    fn add(&mut self, endpoint: Arc<Endpoint>, now: Instant) {
        let turn = self.departed.returned(&endpoint.node);
        let held = self.hold(endpoint, now);
        self.compare_later(now);
        let seed = hash_key(held.endpoint.node.as_str().as_bytes());
        self.index
            .insert(held.endpoint.node.clone(), self.held.len());
        let weight = Weight::warm(held.endpoint.offer.weight);
        self.rotation.push(self.kind_of(&held), weight, turn, seed);
        self.held.push(held);
    }

    fn remove(&mut self, slot: usize, why: Departure) -> Gone {
        let turn = self.rotation.swap_remove(slot);
        let held = self.held.swap_remove(slot);
        let node = held.endpoint.node.clone();
        let generation = held.endpoint.generation;
        self.index.remove(&node);
        if let Some(moved) = self.held.get(slot) {
            self.index.insert(moved.endpoint.node.clone(), slot);
        }
        self.departed.left(node.clone(), generation, why, turn);
        self.counters.downs += 1;
        Gone { node, generation }
    }

    pub(super) fn regroup(&mut self, slot: usize) {
        let held = &self.held[slot];
        self.rotation.regroup(slot, self.kind_of(held));
        let mut weight = Weight::warm(held.endpoint.offer.weight);
        if held.cold_since.is_some() {
            weight = weight.at(self.rotation.weight(slot).warmth());
        }
        self.rotation.weigh(slot, weight);
    }

    fn kind_of(&self, held: &Held) -> Kind {
        let barrier = match (held.blocked, self.refuses) {
            (false, _) => Barrier::Lifted,
            (true, false) => Barrier::Steers,
            (true, true) => Barrier::Refuses,
        };
        let near = Nearness::of(&self.own, &held.endpoint.locality);
        let kind = Kind::of(&held.endpoint, held.closed_since.is_none(), barrier).at(near);
        match &self.split {
            None => kind,
            Some(split) => kind.in_part(number(split.part_of(&held.endpoint.offer.labels))),
        }
    }
}

impl Held {
    fn new(endpoint: Arc<Endpoint>, load: Arc<Load>, now: Instant) -> Self {
        Self {
            endpoint,
            load,
            up_since: now,
            closed_since: None,
            last_picked: None,
            cold_since: None,
            learned_over: None,
            guarded: false,
            blocked: false,
            epoch: 0,
        }
    }
}

/// The identity that a live node has and a newcomer of the same id does not show.
fn other_identity<'a>(held: &'a Endpoint, new: &Endpoint) -> Option<&'a Identity> {
    held.identity
        .as_ref()
        .filter(|identity| new.identity.as_ref() != Some(*identity))
}

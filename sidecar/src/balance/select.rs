//! How each strategy picks one endpoint among those that can take the call. Nothing here changes
//! anything: a pick and what explains a pick come through the same lines.

use std::sync::atomic::Ordering;
use std::time::Instant;

use crate::call::hash_key;

use super::eligible::{Kind, Reach, Wanted};
use super::error::PickError;
use super::hub::Hub;
use super::latency::FLOOR;
use super::own::{CallFacts, Choice};
use super::strategy::{Own, Strategy};

/// Up to so many endpoints, the one with the fewest calls in flight is looked for among all; above
/// it, two at random are compared, which is nearly as even and takes the same time for any number
/// (Mitzenmacher, "The Power of Two Choices").
pub const FEW: usize = 16;
/// Calls in flight up to which an endpoint is never too busy for a key. Half of what the smallest
/// lane carries on one link: keys stay together in all quiet times, and a key that everybody uses
/// does not end in `LANE_FULL` while other endpoints are idle.
pub const CROWD: u64 = 128;

/// What a pick depends on beside the hub and the call.
#[derive(Debug, Clone, Copy)]
pub(super) struct Chance {
    /// Any 64 bits.
    pub(super) random: u64,
    pub(super) now: Instant,
}

/// The endpoints among which one is picked.
struct Among<'a> {
    hub: &'a Hub,
    wanted: &'a Wanted<'a>,
    reach: Reach,
    tried: &'a [usize],
}

impl Hub {
    /// The slot that the call goes to.
    pub(super) fn select(
        &self,
        wanted: &Wanted<'_>,
        reach: Reach,
        tried: &[usize],
        chance: Chance,
    ) -> Result<usize, PickError> {
        let among = Among {
            hub: self,
            wanted,
            reach,
            tried,
        };
        let slot = match self.strategy_for(wanted) {
            Strategy::RoundRobin | Strategy::None => among.next_in_turn(),
            Strategy::Random => among.any(chance.random),
            Strategy::LeastConnections => among.least_busy(chance.random),
            Strategy::ConsistentHash => among.by_key(),
            Strategy::PeakEwma => among.sooner_of_two(chance),
            Strategy::Own(own) => return among.own(own, chance),
        };
        // A reach is given only where somebody is left within it.
        slot.ok_or(PickError::Empty)
    }
}

impl Among<'_> {
    fn next_in_turn(&self) -> Option<usize> {
        self.hub.rotation.first(self.open(), self.been())
    }

    fn any(&self, random: u64) -> Option<usize> {
        self.hub.rotation.at_random(self.open(), self.tried, random)
    }

    /// By calls in flight, divided by weights.
    fn least_busy(&self, random: u64) -> Option<usize> {
        let rotation = &self.hub.rotation;
        // Where they are equally busy, whoever's turn is first: calls that come one at a time would
        // all go to one endpoint otherwise.
        let busy = |slot: usize| {
            let calls = u128::from(self.hub.held[slot].load.in_flight());
            (rotation.weighed(slot, calls), rotation.turn(slot))
        };
        if rotation.count(self.open(), self.tried) > FEW {
            let (one, other) = rotation.two_at_random(self.open(), self.tried, random)?;
            return [one, other].into_iter().min_by_key(|slot| busy(*slot));
        }
        self.all().min_by_key(|slot| busy(*slot))
    }

    /// Consistent hashing with bounded load (Mirrokni, Thorup and Zadimoghaddam 2016): an endpoint
    /// that is a quarter busier than the mean, by its weight, passes the key on to the next, but
    /// see [`CROWD`].
    fn by_key(&self) -> Option<usize> {
        let rotation = &self.hub.rotation;
        let key = self.wanted.key.unwrap_or_else(|| self.caller());
        let all = rotation.share(self.open(), self.tried).max(1);
        // Calls on those that cannot take this one count as well, which makes the bound larger
        // and never smaller: somebody is always below it.
        let calls = self.hub.in_flight.load(Ordering::Relaxed) + 1;
        let been = self.been();
        let busy = |slot: usize| {
            let in_flight = self.hub.held[slot].load.in_flight();
            let share = rotation.weight(slot).share();
            let (own, mean) = (u128::from(in_flight), u128::from(calls) * u128::from(share));
            in_flight >= CROWD && own * 4 * u128::from(all) >= mean * 5
        };
        rotation
            .by_key(key, self.open(), |slot| been(slot) || busy(slot))
            .or_else(|| rotation.by_key(key, self.open(), &been))
    }

    /// By expected latency times calls in flight, this one included, divided by weights. One that
    /// has not answered yet counts as quick as the other: newcomers are neither flooded nor left
    /// out.
    fn sooner_of_two(&self, chance: Chance) -> Option<usize> {
        let rotation = &self.hub.rotation;
        let (one, other) = rotation.two_at_random(self.open(), self.tried, chance.random)?;
        if one == other {
            return Some(one);
        }
        let latency = |slot: usize| self.hub.held[slot].load.latency(chance.now);
        let (first, second) = (latency(one), latency(other));
        let cost = |slot: usize, own: Option<_>, others: Option<_>| {
            let expected = own.or(others).unwrap_or(FLOOR).as_nanos();
            let calls = u128::from(self.hub.held[slot].load.in_flight()) + 1;
            (
                rotation.weighed(slot, expected * calls),
                rotation.turn(slot),
            )
        };
        if cost(one, first, second) <= cost(other, second, first) {
            Some(one)
        } else {
            Some(other)
        }
    }

    fn own(&self, own: Own, chance: Chance) -> Result<usize, PickError> {
        let node = |slot: usize| &self.hub.held[slot].endpoint.node;
        let mut slots: Vec<usize> = self.all().collect();
        // An order that is the same in every sidecar, and each time.
        slots.sort_unstable_by(|one, other| node(*one).cmp(node(*other)));
        let choice = |slot: &usize| {
            let held = &self.hub.held[*slot];
            Choice {
                endpoint: &held.endpoint,
                in_flight: held.load.in_flight(),
                latency: held.load.latency(chance.now),
            }
        };
        let choices: Vec<Choice<'_>> = slots.iter().map(choice).collect();
        let call = CallFacts {
            key: self.wanted.key,
            caller: self.caller(),
            random: chance.random,
        };
        let index = own.strategy.choose(&choices, &call);
        let slot = index.and_then(|index| slots.get(index));
        slot.copied().ok_or(PickError::NoneChosen {
            strategy: own.name,
            index,
            count: slots.len(),
        })
    }

    fn all(&self) -> impl Iterator<Item = usize> {
        let been = self.been();
        let slots = self.hub.rotation.slots(self.open());
        slots.filter(move |slot| !been(*slot))
    }

    fn open(&self) -> impl Fn(&Kind) -> bool + '_ {
        |kind| kind.open(self.wanted, self.reach).is_ok()
    }

    fn been(&self) -> impl Fn(usize) -> bool + '_ {
        |slot| self.tried.contains(&slot)
    }

    fn caller(&self) -> u64 {
        hash_key(self.wanted.caller.as_bytes())
    }
}

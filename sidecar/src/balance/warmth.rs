//! Slow start: an endpoint that is new beside others gets a small share of the calls at first, which
//! grows to the whole in a time that the rule says. A cold cache, or a program that compiles itself
//! while it runs, then meets a few calls and not its part of all. Where nobody was there before,
//! everybody has a whole share at once. Keys stay where they are: `CONSISTENT_HASH` does not go by it.

use std::time::{Duration, Instant};

use sidelane_proto::model::NodeId;

use super::eligible::Kind;
use super::hub::Hub;
use super::weight::{WARM, Weight};

/// The share with which a new endpoint begins, of [`WARM`].
const COLD: u8 = 10;
/// In so many steps its share grows.
const STEPS: u32 = 90;

/// Who warms up.
#[derive(Debug, Default)]
pub(super) struct Warming {
    /// How long it takes; `None` if nobody does.
    time: Option<Duration>,
    nodes: Vec<NodeId>,
    /// When somebody's share grows next; `None` while nobody warms up.
    next: Option<Instant>,
}

impl Warming {
    /// Nobody begins cold until [`Warming::resume`], unless there are others.
    pub(super) fn pause_unless(&mut self, others: bool) -> Option<Duration> {
        let time = self.time;
        self.time = time.filter(|_| others);
        time
    }

    pub(super) fn resume(&mut self, time: Option<Duration>) {
        self.time = time;
    }
}

impl Hub {
    /// Endpoints that come from now on beside others warm up for so long; `None`: nobody does, and
    /// those that do are warm at once.
    pub fn set_slow_start(&mut self, time: Option<Duration>) {
        if self.warming.time == time {
            return;
        }
        self.warming.time = time;
        if time.is_none() {
            self.warming.next = None;
            for node in std::mem::take(&mut self.warming.nodes) {
                if let Some(slot) = self.index.get(node.as_str()).copied() {
                    self.held[slot].cold_since = None;
                    self.regroup(slot);
                }
            }
        }
    }

    /// Takes in what only time brings: endpoints warm up. A pick does so itself, and whoever
    /// explains one does so first.
    pub fn settle(&mut self, now: Instant) {
        if self.warming.next.is_some_and(|next| next <= now) {
            self.warm(now);
        }
    }

    /// How many endpoints do not have their whole share yet.
    #[must_use]
    pub fn warming(&self) -> usize {
        self.warming.nodes.len()
    }

    /// It is new, or was ill: what serves there may have just begun. Where no other takes calls, it
    /// takes them all the same.
    pub(super) fn begins_cold(&mut self, slot: usize, now: Instant) {
        let Some(time) = self.warming.time else {
            return;
        };
        let own = *self.rotation.kind(slot);
        let other = |kind: &Kind, count: usize| count > usize::from(*kind == own);
        let mut kinds = self.rotation.kinds();
        let others = kinds.any(|(kind, count)| kind.takes_calls() && other(kind, count));
        drop(kinds);
        if !others {
            return;
        }
        let held = &mut self.held[slot];
        if held.cold_since.replace(now).is_none() {
            self.warming.nodes.push(held.endpoint.node.clone());
        }
        let next = now + time / STEPS;
        self.warming.next = Some(self.warming.next.map_or(next, |first| first.min(next)));
        self.weigh(slot, now);
    }

    fn warm(&mut self, now: Instant) {
        let mut nodes = std::mem::take(&mut self.warming.nodes);
        nodes.retain(|node| {
            // One that left is not waited for, and one that came back in its place began anew.
            let Some(slot) = self.index.get(node.as_str()).copied() else {
                return false;
            };
            self.weigh(slot, now);
            let warm = self.rotation.weight(slot).warmth() == WARM;
            if warm {
                self.held[slot].cold_since = None;
            }
            !warm
        });
        let step = self.warming.time.unwrap_or_default() / STEPS;
        self.warming.next = (!nodes.is_empty()).then(|| now + step);
        self.warming.nodes = nodes;
    }

    /// Gives a slot the weight that its offer says, as far as it has warmed up.
    fn weigh(&mut self, slot: usize, now: Instant) {
        let held = &self.held[slot];
        let whole = Weight::warm(held.endpoint.offer.weight);
        let weight = match (held.cold_since, self.warming.time) {
            (Some(since), Some(time)) => {
                whole.at(warmth(now.saturating_duration_since(since), time))
            }
            _ => whole,
        };
        self.rotation.weigh(slot, weight);
    }
}

/// How warm it is after so long, out of [`WARM`].
fn warmth(age: Duration, time: Duration) -> u8 {
    let part = u128::from(WARM - COLD) * age.as_nanos() / time.as_nanos().max(1);
    u8::try_from(part).map_or(WARM, |part| COLD.saturating_add(part).min(WARM))
}

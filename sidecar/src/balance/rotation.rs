//! The order in which endpoints take their turns, and the dense sets that chance picks from. It
//! knows slots, kinds and turns, and nothing of nodes or calls. It must never go through all
//! slots to find one.
//!
//! A turn is a number that is handed out once and never again. The eligible slot with the lowest
//! turn is next, and being picked gives it a new one, above all others. So between two picks of a
//! slot each other slot that stays eligible is picked exactly once: none is skipped, none
//! repeated, whoever comes and goes. Newcomers queue behind everybody. (To let them into the round
//! that is under way was tried on paper: where newcomers keep coming, that round never ends, and
//! those who had their turn in it wait for ever.) What was not eligible for a while keeps its
//! turn, is picked once soon after it is back, and then queues like the others.

use std::collections::BTreeMap;

use super::eligible::Kind;
use super::ring::{Ring, probes, scatter};

/// A place in line; the lowest is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn(u64);

/// All slots of a hub, by kind and by turn. Slots are numbered as a `Vec` with `push` and
/// `swap_remove` numbers its entries, so that the hub can keep one beside it.
#[derive(Debug, Clone, Default)]
pub(super) struct Rotation {
    places: Vec<Place>,
    groups: BTreeMap<Kind, Group>,
    next: u64,
    /// The groups' rings are kept: some pick went by a key.
    ringed: bool,
}

/// Where a slot is found.
#[derive(Debug, Clone, Copy)]
struct Place {
    kind: Kind,
    turn: Turn,
    /// Says where its points on the ring are.
    seed: u64,
    /// Its index among the members of its group.
    position: usize,
}

/// The slots of one kind; never empty.
#[derive(Debug, Clone, Default)]
struct Group {
    order: BTreeMap<Turn, usize>,
    members: Vec<usize>,
    ring: Ring,
}

impl Rotation {
    /// Takes a slot in, behind all others or with the turn that it had before.
    pub(super) fn push(&mut self, kind: Kind, turn: Option<Turn>, seed: u64) {
        let turn = turn.unwrap_or_else(|| self.last());
        let slot = self.places.len();
        self.places.push(Place {
            kind,
            turn,
            seed,
            position: 0,
        });
        self.link(slot);
    }

    /// Lets a slot go; the last slot takes its number. Returns the turn that it had.
    pub(super) fn swap_remove(&mut self, slot: usize) -> Turn {
        self.unlink(slot);
        let gone = self.places.swap_remove(slot);
        if let Some(moved) = self.places.get(slot)
            && let Some(group) = self.groups.get_mut(&moved.kind)
        {
            group.members[moved.position] = slot;
            group.order.insert(moved.turn, slot);
            if self.ringed {
                group.ring.remove(moved.seed, self.places.len());
                group.ring.insert(moved.seed, slot);
            }
        }
        gone.turn
    }

    /// Puts a slot among another kind; its turn stays.
    pub(super) fn regroup(&mut self, slot: usize, kind: Kind) {
        if self.places[slot].kind == kind {
            return;
        }
        self.unlink(slot);
        self.places[slot].kind = kind;
        self.link(slot);
    }

    /// It had its turn: behind all others with it.
    pub(super) fn pass(&mut self, slot: usize) {
        let turn = self.last();
        let place = &mut self.places[slot];
        let before = std::mem::replace(&mut place.turn, turn);
        if let Some(group) = self.groups.get_mut(&place.kind) {
            group.order.remove(&before);
            group.order.insert(turn, slot);
        }
    }

    pub(super) fn kind(&self, slot: usize) -> &Kind {
        &self.places[slot].kind
    }

    /// The kinds that exist, and how many slots each has.
    pub(super) fn kinds(&self) -> impl Iterator<Item = (&Kind, usize)> {
        self.groups
            .iter()
            .map(|(kind, group)| (kind, group.members.len()))
    }

    /// Some slot of a kind.
    pub(super) fn any_of(&self, kind: &Kind) -> Option<usize> {
        self.groups.get(kind)?.members.first().copied()
    }

    /// The slot with the lowest turn among the `open` kinds, those not `passed_over`. Looks at one
    /// slot of each open kind and at those passed over, and at no others.
    pub(super) fn first(
        &self,
        open: impl Fn(&Kind) -> bool,
        passed_over: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        self.groups
            .iter()
            .filter(|(kind, _)| open(kind))
            .filter_map(|(_, group)| group.order.iter().find(|(_, slot)| !passed_over(**slot)))
            .min_by_key(|(turn, _)| **turn)
            .map(|(_, slot)| *slot)
    }

    /// How many slots there are among the `open` kinds but those in `tried` (no slot twice in it).
    pub(super) fn count(&self, open: impl Fn(&Kind) -> bool, tried: &[usize]) -> usize {
        let groups = self.groups.iter().filter(|(kind, _)| open(kind));
        let all: usize = groups.map(|(_, group)| group.members.len()).sum();
        let been = tried.iter().filter(|slot| open(self.kind(**slot))).count();
        all - been
    }

    /// The slot of that index among those that [`Rotation::count`] counts.
    pub(super) fn at(
        &self,
        mut index: usize,
        open: impl Fn(&Kind) -> bool,
        tried: &[usize],
    ) -> Option<usize> {
        let mut total = 0;
        let mut holes = Vec::new();
        for (kind, group) in self.groups.iter().filter(|(kind, _)| open(kind)) {
            let places = tried.iter().map(|slot| &self.places[*slot]);
            let here = places.filter(|place| place.kind == *kind);
            holes.extend(here.map(|place| total + place.position));
            total += group.members.len();
        }
        holes.sort_unstable();
        for hole in holes {
            if index >= hole {
                index += 1;
            }
        }
        for (_, group) in self.groups.iter().filter(|(kind, _)| open(kind)) {
            match group.members.get(index) {
                Some(slot) => return Some(*slot),
                None => index -= group.members.len(),
            }
        }
        None
    }

    /// Any of them, each as likely as the others if `random` is any 64 bits.
    pub(super) fn at_random(
        &self,
        open: impl Fn(&Kind) -> bool,
        tried: &[usize],
        random: u64,
    ) -> Option<usize> {
        let index = scale(random, self.count(&open, tried))?;
        self.at(index, open, tried)
    }

    /// Two of them that differ, each pair as likely as the others; the same one twice where there
    /// is only one.
    pub(super) fn two_at_random(
        &self,
        open: impl Fn(&Kind) -> bool,
        tried: &[usize],
        random: u64,
    ) -> Option<(usize, usize)> {
        let count = self.count(&open, tried);
        let first = scale(random, count)?;
        let one = self.at(first, &open, tried)?;
        let Some(second) = scale(scatter(random, 0), count - 1) else {
            return Some((one, one));
        };
        let second = second + usize::from(second >= first);
        Some((one, self.at(second, open, tried)?))
    }

    /// The slot that a key leads to among the `open` kinds, those not `passed_over`.
    pub(super) fn by_key(
        &self,
        key: u64,
        open: impl Fn(&Kind) -> bool,
        passed_over: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        if !self.ringed {
            // Someone asks what a pick would do, before there was one.
            let mut ringed = self.clone();
            ringed.keep_rings();
            return ringed.by_key(key, open, passed_over);
        }
        let rings = self.groups.iter().filter(|(kind, _)| open(kind));
        let nearest = rings.filter_map(|(_, group)| {
            let next = |place| group.ring.next(place, &passed_over);
            probes(key).filter_map(next).min()
        });
        nearest.min().map(|(_, slot)| slot)
    }

    /// Keeps rings from now on. They cost each change of an endpoint some 16 steps, so hubs that
    /// never pick by a key have none.
    pub(super) fn keep_rings(&mut self) {
        if std::mem::replace(&mut self.ringed, true) {
            return;
        }
        for group in self.groups.values_mut() {
            for slot in &group.members {
                group.ring.insert(self.places[*slot].seed, *slot);
            }
        }
    }

    /// All slots of the `open` kinds.
    pub(super) fn slots(&self, open: impl Fn(&Kind) -> bool) -> impl Iterator<Item = usize> {
        let groups = self.groups.iter().filter(move |(kind, _)| open(kind));
        groups.flat_map(|(_, group)| group.members.iter().copied())
    }

    pub(super) fn turn(&self, slot: usize) -> Turn {
        self.places[slot].turn
    }

    fn last(&mut self) -> Turn {
        let turn = Turn(self.next);
        self.next += 1;
        turn
    }

    fn link(&mut self, slot: usize) {
        let place = &mut self.places[slot];
        let group = self.groups.entry(place.kind).or_default();
        place.position = group.members.len();
        group.members.push(slot);
        group.order.insert(place.turn, slot);
        if self.ringed {
            group.ring.insert(place.seed, slot);
        }
    }

    fn unlink(&mut self, slot: usize) {
        let Place {
            kind,
            turn,
            seed,
            position,
        } = self.places[slot];
        let Some(group) = self.groups.get_mut(&kind) else {
            return;
        };
        group.order.remove(&turn);
        if self.ringed {
            group.ring.remove(seed, slot);
        }
        group.members.swap_remove(position);
        if let Some(moved) = group.members.get(position) {
            self.places[*moved].position = position;
        }
        if group.members.is_empty() {
            self.groups.remove(&kind);
        }
    }
}

/// Maps 64 random bits to `0..count` without a division; `None` if that is empty.
fn scale(random: u64, count: usize) -> Option<usize> {
    let scaled = (u128::from(random) * u128::try_from(count).ok()?) >> 64;
    usize::try_from(scaled).ok().filter(|index| *index < count)
}

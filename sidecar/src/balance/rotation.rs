//! The order in which endpoints take their turns, and the dense sets that chance picks from. It
//! knows slots, kinds and turns, and nothing of nodes or calls. It must never go through all
//! slots to find one.
//!
//! A turn is a stretch of a clock that runs by picks alone: it begins when the one before is over,
//! and is the shorter the heavier its slot is. Of the slots whose turn has begun, the one whose turn
//! is over first is next; where none has, the one that begins first (worst-case fair weighted fair
//! queueing: Bennett and Zhang, "WF2Q+", 1997). So slots are picked by their weights, exactly in
//! each cycle, and a heavy one not many times in a row. Slots of one weight take their turns in the
//! order of a queue: between two picks of a slot each other one of its weight that stays eligible is
//! picked exactly once, none is skipped, none repeated, whoever comes and goes. Newcomers queue
//! behind everybody. (To let them into the round that is under way was tried on paper: where
//! newcomers keep coming, that round never ends, and those who had their turn in it wait for ever.)
//! What was not eligible for a while keeps its turn, is picked once soon after it is back, and then
//! queues like the others.

use std::collections::BTreeMap;

use super::eligible::Kind;
use super::ring::{Nearest, Ring, probes, scatter};
use super::shares::Shares;
use super::weight::{Weight, step};

/// Up to so many strides, those that no slot has are not looked for to be forgotten.
const QUEUES_KEPT: usize = 16;

/// A place in line; the lowest is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Turn {
    ends: u128,
    /// Handed out once and never again.
    number: u64,
    begins: u128,
}

/// All slots of a hub, by kind and by turn. Slots are numbered as a `Vec` with `push` and
/// `swap_remove` numbers its entries, so that the hub can keep one beside it.
#[derive(Debug, Clone, Default)]
pub(super) struct Rotation {
    places: Vec<Place>,
    groups: BTreeMap<Kind, Group>,
    clock: Clock,
    /// The slots of each stride.
    queues: BTreeMap<u64, Queue>,
    next: u64,
    /// How many slots have which stride when they are warm.
    strides: BTreeMap<u64, usize>,
    /// The groups' rings are kept: some pick went by a key.
    ringed: bool,
}

/// A clock on which all slots together have one turn in each unit of their weights.
#[derive(Debug, Clone, Copy, Default)]
struct Clock {
    now: u128,
    /// What whole numbers could not express so far, and of which weight it is a part.
    rest: (u64, u64),
}

/// All slots of one stride.
#[derive(Debug, Clone, Copy, Default)]
struct Queue {
    count: usize,
    /// When the last turn ends that began here; the next begins there at the earliest.
    end: u128,
}

/// Where a slot is found.
#[derive(Debug, Clone, Copy)]
struct Place {
    kind: Kind,
    turn: Turn,
    weight: Weight,
    /// That of its weight at present.
    stride: u64,
    /// Says where its points on the ring are.
    seed: u64,
    /// Its index among the members of its group.
    position: usize,
}

/// The slots of one kind; never empty.
#[derive(Debug, Clone, Default)]
struct Group {
    /// Those whose turn has begun, by its end.
    ready: BTreeMap<(u128, u64), usize>,
    /// Those whose turn has not begun yet, by its beginning, then as above.
    waiting: BTreeMap<(u128, u128, u64), usize>,
    members: Vec<usize>,
    /// Of each member.
    shares: Shares,
    ring: Ring,
}

impl Rotation {
    /// Takes a slot in, behind all others or with the turn that it had before.
    pub(super) fn push(&mut self, kind: Kind, weight: Weight, turn: Option<Turn>, seed: u64) {
        let stride = weight.stride();
        self.join(stride);
        let turn = turn.unwrap_or_else(|| self.turn_from(0, stride));
        let slot = self.places.len();
        self.places.push(Place {
            kind,
            turn,
            weight,
            stride,
            seed,
            position: 0,
        });
        *self.strides.entry(weight.whole_stride()).or_default() += 1;
        self.link(slot);
    }

    /// Lets a slot go; the last slot takes its number. Returns the turn that it had.
    pub(super) fn swap_remove(&mut self, slot: usize) -> Turn {
        self.unlink(slot);
        let gone = self.places.swap_remove(slot);
        self.forget_stride(gone.weight);
        self.leave(gone.stride);
        if let Some(moved) = self.places.get(slot)
            && let Some(group) = self.groups.get_mut(&moved.kind)
        {
            group.members[moved.position] = slot;
            group.put(moved.turn, slot, &self.clock);
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

    /// Changes what a slot weighs. It waits for as many turns of its own as before.
    pub(super) fn weigh(&mut self, slot: usize, weight: Weight) {
        let Place {
            kind,
            turn,
            weight: before,
            stride,
            position,
            ..
        } = self.places[slot];
        if before == weight {
            return;
        }
        self.forget_stride(before);
        *self.strides.entry(weight.whole_stride()).or_default() += 1;
        let new = weight.stride();
        self.leave(stride);
        self.join(new);
        // What is left of its turn, or of the wait for it.
        let left = turn.ends.saturating_sub(self.clock.now);
        let ends = turn.ends - left + left * u128::from(new) / u128::from(stride);
        let begins = ends.saturating_sub(u128::from(new));
        let place = &mut self.places[slot];
        (place.weight, place.stride) = (weight, new);
        place.turn = Turn {
            ends,
            begins,
            ..turn
        };
        if let Some(group) = self.groups.get_mut(&kind) {
            group.take(&turn);
            group.put(place.turn, slot, &self.clock);
            group.shares.set(position, weight.share());
        }
    }

    /// It had its turn: the next one begins when that is over.
    pub(super) fn pass(&mut self, slot: usize) {
        let Place {
            kind, turn, stride, ..
        } = self.places[slot];
        let next = self.turn_from(turn.ends, stride);
        self.places[slot].turn = next;
        if let Some(queue) = self.queues.get_mut(&stride) {
            queue.end = queue.end.max(next.begins);
        }
        let fellows = self.groups.iter().filter(|(it, _)| it.is_fellow(&kind));
        let share = fellows.map(|(_, group)| group.shares.total()).sum();
        // It must be neither far behind those who have their turns nor far ahead, whatever part of
        // all slots they are; and it never goes back, or turns that have begun would not have.
        if self.clock.now < next.ends {
            self.clock.tick(share);
        }
        self.clock.now = self.clock.now.max(turn.begins);
        if let Some(group) = self.groups.get_mut(&kind) {
            group.take(&turn);
            group.put(next, slot, &self.clock);
        }
        for group in self.groups.values_mut() {
            group.begin(&self.clock);
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

    /// The slot that is next among the `open` kinds, those not `passed_over`. Looks at two slots of
    /// each open kind at most and at those passed over, and at no others.
    pub(super) fn first(
        &self,
        open: impl Fn(&Kind) -> bool,
        passed_over: impl Fn(usize) -> bool,
    ) -> Option<usize> {
        let groups = || self.groups.iter().filter(|(kind, _)| open(kind));
        let ready = groups().filter_map(|(_, group)| {
            let mut ready = group.ready.iter();
            ready.find(|(_, slot)| !passed_over(**slot))
        });
        let first = ready.min_by_key(|(end, _)| **end).map(|(_, slot)| *slot);
        first.or_else(|| {
            let waiting = groups().filter_map(|(_, group)| {
                let mut waiting = group.waiting.iter();
                waiting.find(|(_, slot)| !passed_over(**slot))
            });
            let first = waiting.min_by_key(|(begin, _)| **begin);
            first.map(|(_, slot)| *slot)
        })
    }

    /// How many slots there are among the `open` kinds but those in `tried` (no slot twice in it).
    pub(super) fn count(&self, open: impl Fn(&Kind) -> bool, tried: &[usize]) -> usize {
        let groups = self.groups.iter().filter(|(kind, _)| open(kind));
        let all: usize = groups.map(|(_, group)| group.members.len()).sum();
        let been = tried.iter().filter(|slot| open(self.kind(**slot))).count();
        all - been
    }

    /// The sum of the weights of those that [`Rotation::count`] counts, in [`Weight::share`]s.
    pub(super) fn share(&self, open: impl Fn(&Kind) -> bool, tried: &[usize]) -> u64 {
        let groups = self.groups.iter().filter(|(kind, _)| open(kind));
        let all: u64 = groups.map(|(_, group)| group.shares.total()).sum();
        let been = tried.iter().filter(|slot| open(self.kind(**slot)));
        let been: u64 = been.map(|slot| self.places[*slot].weight.share()).sum();
        all - been
    }

    /// Any of them, each as likely as it is heavy if `random` is any 64 bits.
    pub(super) fn at_random(
        &self,
        open: impl Fn(&Kind) -> bool,
        tried: &[usize],
        random: u64,
    ) -> Option<usize> {
        self.draw(open, tried, None, random)
    }

    /// Two of them that differ, the heavier the more likely; the same one twice where there is
    /// only one.
    pub(super) fn two_at_random(
        &self,
        open: impl Fn(&Kind) -> bool,
        tried: &[usize],
        random: u64,
    ) -> Option<(usize, usize)> {
        if let Some(only) = self.only(&open).filter(|slot| !tried.contains(slot)) {
            return Some((only, only));
        }
        let one = self.draw(&open, tried, None, random)?;
        let other = self.draw(&open, tried, Some(one), scatter(random, 0));
        Some((one, other.unwrap_or(one)))
    }

    /// The slot of the `open` kinds where they have no more than one: nothing is left to chance.
    fn only(&self, open: impl Fn(&Kind) -> bool) -> Option<usize> {
        let mut groups = self.groups.iter().filter(|(kind, _)| open(kind));
        let (first, others) = (groups.next(), groups.next());
        match (first, others) {
            (Some((_, group)), None) if group.members.len() == 1 => group.members.first().copied(),
            _ => None,
        }
    }

    /// Lays all that may be drawn end to end, each as long as it is heavy, and finds the point that
    /// `random` says. Those passed over are holes in the row: a point at or behind one lies farther
    /// back by its length.
    fn draw(
        &self,
        open: impl Fn(&Kind) -> bool,
        tried: &[usize],
        besides: Option<usize>,
        random: u64,
    ) -> Option<usize> {
        let mut total = 0;
        // Hardly any call has tried somebody before: no more than one hole, and nothing allocated.
        let (mut one, mut many) = (None, Vec::new());
        for (kind, group) in self.groups.iter().filter(|(kind, _)| open(kind)) {
            let hole = |slot: usize| {
                let place = &self.places[slot];
                let here = place.kind == *kind;
                here.then(|| {
                    let start = total + group.shares.before(place.position);
                    (start, place.weight.share())
                })
            };
            one = one.or_else(|| hole(besides?));
            many.extend(tried.iter().filter_map(|slot| hole(*slot)));
            total += group.shares.total();
        }
        if !many.is_empty() {
            many.extend(one.take());
            many.sort_unstable();
        }
        let holes = one.as_slice().iter().chain(&many);
        let passed_over: u64 = holes.clone().map(|(_, share)| *share).sum();
        let mut point = scale(random, total - passed_over)?;
        for (start, share) in holes {
            if point >= *start {
                point += share;
            }
        }
        for (_, group) in self.groups.iter().filter(|(kind, _)| open(kind)) {
            match group.shares.find(point) {
                Some(position) => return group.members.get(position).copied(),
                None => point -= group.shares.total(),
            }
        }
        None
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
        let (least, _) = self.strides.first_key_value()?;
        let stride = |slot: usize| self.places[slot].weight.whole_stride();
        let mut nearest = Nearest::none(*least);
        for (_, group) in self.groups.iter().filter(|(kind, _)| open(kind)) {
            for place in probes(key) {
                group.ring.look(place, stride, &passed_over, &mut nearest);
            }
        }
        nearest.slot()
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

    pub(super) fn weight(&self, slot: usize) -> Weight {
        self.places[slot].weight
    }

    /// What something costs there that costs an endpoint of weight 1 so much: less for a heavier
    /// one, in a unit that is the same for all.
    pub(super) fn weighed(&self, slot: usize, cost: u128) -> u128 {
        cost.saturating_mul(u128::from(self.places[slot].stride))
    }

    /// A turn that begins then, or later: behind all others of this stride.
    fn turn_from(&mut self, begins: u128, stride: u64) -> Turn {
        let number = self.next;
        self.next += 1;
        let end = self.queues.get(&stride).map_or(0, |queue| queue.end);
        let begins = begins.max(end);
        let ends = begins + u128::from(stride);
        Turn {
            ends,
            number,
            begins,
        }
    }

    fn join(&mut self, stride: u64) {
        let now = self.clock.now;
        let queue = self.queues.entry(stride).or_default();
        if queue.count == 0 {
            queue.end = queue.end.max(now);
        }
        queue.count += 1;
    }

    /// A queue that nobody is in is kept while its end is ahead: who was in it may come back.
    fn leave(&mut self, stride: u64) {
        if let Some(queue) = self.queues.get_mut(&stride) {
            queue.count -= 1;
        }
        if self.queues.len() > QUEUES_KEPT {
            let now = self.clock.now;
            self.queues
                .retain(|_, queue| queue.count > 0 || queue.end > now);
        }
    }

    fn forget_stride(&mut self, weight: Weight) {
        let stride = weight.whole_stride();
        if let Some(count) = self.strides.get_mut(&stride) {
            *count -= 1;
            if *count == 0 {
                self.strides.remove(&stride);
            }
        }
    }

    fn link(&mut self, slot: usize) {
        let place = &mut self.places[slot];
        let group = self.groups.entry(place.kind).or_default();
        place.position = group.members.len();
        group.members.push(slot);
        group.shares.push(place.weight.share());
        group.put(place.turn, slot, &self.clock);
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
            ..
        } = self.places[slot];
        let Some(group) = self.groups.get_mut(&kind) else {
            return;
        };
        group.take(&turn);
        if self.ringed {
            group.ring.remove(seed, slot);
        }
        group.members.swap_remove(position);
        group.shares.swap_remove(position);
        if let Some(moved) = group.members.get(position) {
            self.places[*moved].position = position;
        }
        if group.members.is_empty() {
            self.groups.remove(&kind);
        }
    }
}

impl Clock {
    /// Somebody of those who share so much was picked.
    fn tick(&mut self, share: u64) {
        let (step, rest) = step(share);
        self.now += u128::from(step);
        // Of another weight, a part of a step is not worth the arithmetic.
        let before = if self.rest.1 == share { self.rest.0 } else { 0 };
        self.rest = (before + rest, share);
        if self.rest.0 >= share.max(1) {
            self.now += 1;
            self.rest.0 -= share.max(1);
        }
    }
}

impl Group {
    fn put(&mut self, turn: Turn, slot: usize, clock: &Clock) {
        let Turn {
            ends,
            number,
            begins,
        } = turn;
        if begins <= clock.now {
            self.ready.insert((ends, number), slot);
        } else {
            self.waiting.insert((begins, ends, number), slot);
        }
    }

    fn take(&mut self, turn: &Turn) {
        let Turn {
            ends,
            number,
            begins,
        } = *turn;
        if self.ready.remove(&(ends, number)).is_none() {
            self.waiting.remove(&(begins, ends, number));
        }
    }

    /// Those whose turn begins now are ready. Each does so once a turn.
    fn begin(&mut self, clock: &Clock) {
        while let Some(first) = self.waiting.first_entry()
            && first.key().0 <= clock.now
        {
            let ((_, ends, number), slot) = first.remove_entry();
            self.ready.insert((ends, number), slot);
        }
    }
}

/// Maps 64 random bits to `0..total` without a division; `None` if that is empty.
fn scale(random: u64, total: u64) -> Option<u64> {
    let scaled = (u128::from(random) * u128::from(total)) >> 64;
    u64::try_from(scaled).ok().filter(|point| *point < total)
}

//! Consistent hashing: a ring on which every endpoint has a few points, and a key that looks at
//! the ring in several places and takes the point that is nearest after one of them (multi-probe
//! consistent hashing, Appleton and O'Reilly 2015). Whoever leaves takes only its own keys along,
//! and points and probes together make the shares even: within 25 % of each other's mean where a
//! ring that is looked at once needs several hundred points for each endpoint. (Rendezvous hashing
//! is more even still, but each pick looks at every endpoint.)
//!
//! Points depend on the node's name alone, so all sidecars have the same ring.

use std::collections::BTreeSet;

/// Points of each endpoint.
const POINTS: u64 = 16;
/// Places at which a key looks.
const PROBES: u64 = 16;
/// Keeps the two apart: a key that is spelt like a node must not always go there.
const PROBE_SALT: u64 = 0x5851_f42d_4c95_7f2d;

/// The points of some slots.
#[derive(Debug, Clone, Default)]
pub(super) struct Ring(BTreeSet<(u64, usize)>);

impl Ring {
    pub(super) fn insert(&mut self, seed: u64, slot: usize) {
        self.0.extend(points(seed).map(|point| (point, slot)));
    }

    pub(super) fn remove(&mut self, seed: u64, slot: usize) {
        for point in points(seed) {
            self.0.remove(&(point, slot));
        }
    }

    /// The nearest point at or after a place, around the end if need be: how far it is, and whose.
    pub(super) fn next(
        &self,
        place: u64,
        passed_over: impl Fn(usize) -> bool,
    ) -> Option<(u64, usize)> {
        let after = self.0.range((place, 0)..);
        let around = self.0.range(..(place, 0));
        let mut all = after.chain(around);
        let (point, slot) = all.find(|(_, slot)| !passed_over(*slot))?;
        Some((point.wrapping_sub(place), *slot))
    }
}

/// Where a key looks.
pub(super) fn probes(key: u64) -> impl Iterator<Item = u64> {
    (0..PROBES).map(move |number| scatter(key ^ PROBE_SALT, number))
}

fn points(seed: u64) -> impl Iterator<Item = u64> {
    (0..POINTS).map(move |number| scatter(seed, number))
}

/// The number-th output of `SplitMix64` (Steele, Lea and Flood 2014) with this seed.
pub(super) fn scatter(seed: u64, number: u64) -> u64 {
    let mut it = seed.wrapping_add((number + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    it = (it ^ (it >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    it = (it ^ (it >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    it ^ (it >> 31)
}

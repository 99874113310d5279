//! Consistent hashing: a ring on which every endpoint has a few points, and a key that looks at
//! the ring in several places and takes the point that is nearest after one of them (multi-probe
//! consistent hashing, Appleton and O'Reilly 2015). Whoever leaves takes only its own keys along,
//! and points and probes together make the shares even: within 25 % of each other's mean where a
//! ring that is looked at once needs several hundred points for each endpoint. (Rendezvous hashing
//! is more even still, but each pick looks at every endpoint.)
//!
//! Weights divide distances: a point of weight 3 that is three times as far as one of weight 1 is as
//! near. The distance from a key to an endpoint's nearest point is distributed exponentially, so
//! keys fall to endpoints by their weights, as in weighted rendezvous hashing; and what decides
//! between two endpoints is their own, so that a weight which changes moves keys to or from that
//! endpoint alone.
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

    /// Looks for a point that is nearer than the nearest so far, at or after a place, around the
    /// end if need be. Where all weigh the same, that is the first.
    pub(super) fn look(
        &self,
        place: u64,
        stride: impl Fn(usize) -> u64,
        passed_over: impl Fn(usize) -> bool,
        nearest: &mut Nearest,
    ) {
        let after = self.0.range((place, 0)..);
        let around = self.0.range(..(place, 0));
        for (point, slot) in after.chain(around) {
            let distance = u128::from(point.wrapping_sub(place));
            if distance * nearest.least_stride >= nearest.distance {
                return;
            }
            let distance = distance * u128::from(stride(*slot));
            if distance < nearest.distance && !passed_over(*slot) {
                nearest.distance = distance;
                nearest.slot = Some(*slot);
            }
        }
    }
}

/// The nearest point that was found so far.
pub(super) struct Nearest {
    distance: u128,
    slot: Option<usize>,
    least_stride: u128,
}

impl Nearest {
    /// None yet. The stride is that of the heaviest endpoint there is: what is farther than it could
    /// make up for need not be looked at.
    pub(super) fn none(least_stride: u64) -> Self {
        Self {
            distance: u128::MAX,
            slot: None,
            least_stride: u128::from(least_stride),
        }
    }

    pub(super) fn slot(self) -> Option<usize> {
        self.slot
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

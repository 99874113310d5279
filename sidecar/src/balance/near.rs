//! How near endpoints are, and how far a call may go for one. Near ones are preferred as long as
//! they can take the calls: whoever is ill or crowded there opens the next circle, near ones
//! included. A call that has a key, names its node or goes by a strategy of the project's own is
//! never held back.

use std::fmt;

use sidelane_proto::model::Locality;

use super::eligible::{Kind, Reach, Tier, Unfit, Wanted};
use super::hub::Hub;

/// Calls in flight up to which a near endpoint is never too busy, whatever its share: a few calls
/// at once are no reason to go far.
pub const NEAR_CROWD: u64 = 32;
/// How many times its share of all calls a near endpoint may have above that. Its share is what it
/// would have if nearness did not count.
pub const NEAR_SHARES: u64 = 2;

/// How near an endpoint is to this node; the nearest first. What is beside the node itself is
/// reached without a pick.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Nearness {
    /// In the same zone.
    Zone,
    /// In the same region.
    Region,
    /// Elsewhere, or nobody said where.
    Elsewhere,
}

impl Nearness {
    pub(super) fn of(own: &Locality, other: &Locality) -> Self {
        let same = |one: &str, other: &str| !one.is_empty() && one == other;
        if !same(&own.region, &other.region) {
            return Self::Elsewhere;
        }
        if same(&own.zone, &other.zone) {
            Self::Zone
        } else {
            Self::Region
        }
    }

    /// The next circle, which includes this one.
    pub(super) const fn wider(self) -> Option<Self> {
        match self {
            Self::Zone => Some(Self::Region),
            Self::Region => Some(Self::Elsewhere),
            Self::Elsewhere => None,
        }
    }
}

impl fmt::Display for Nearness {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Zone => "zone",
            Self::Region => "region",
            Self::Elsewhere => "elsewhere",
        })
    }
}

impl Hub {
    /// Says where this node stands.
    pub fn stand_at(&mut self, own: Locality) {
        self.own = own;
        for slot in 0..self.held.len() {
            self.regroup(slot);
        }
    }

    /// Whether near endpoints are preferred from now on.
    pub fn prefer_near(&mut self, prefer: bool) {
        self.prefers_near = prefer;
    }

    /// Does it matter for this call where an endpoint stands?
    pub(super) fn minds_nearness(&self, wanted: &Wanted<'_>) -> bool {
        self.prefers_near
            && !self.own.region.is_empty()
            && wanted.node.is_none()
            && self.strategy_for(wanted).minds_nearness()
    }

    /// The smallest circle that can take the call: somebody in it who has not been tried, and half
    /// of all in it, at least, take calls.
    pub(super) fn circle(&self, wanted: &Wanted<'_>, reach: Reach, tried: &[usize]) -> Reach {
        if !self.minds_nearness(wanted) {
            return reach;
        }
        let mut circle = Nearness::Zone;
        loop {
            let within = Reach {
                near: circle,
                ..reach
            };
            let (mut open, mut all) = (0, 0);
            for (kind, count) in self.rotation.kinds() {
                let mine = kind.near <= circle && concerns(kind, wanted);
                all += if mine { count } else { 0 };
                let opens = kind.open(wanted, within).is_ok();
                open += if opens { count } else { 0 };
            }
            let opens = |slot: &&usize| self.rotation.kind(**slot).open(wanted, within).is_ok();
            let left = open - tried.iter().filter(opens).count();
            match circle.wider() {
                Some(wider) if left == 0 || open * 2 < all => circle = wider,
                _ => return within,
            }
        }
    }

    /// Has it so many calls in flight that further ones are for those that are farther away?
    pub(super) fn is_crowded(&self, slot: usize, wanted: &Wanted<'_>, reach: Reach) -> bool {
        let calls = self.held[slot].load.in_flight();
        if calls < NEAR_CROWD {
            return false;
        }
        let everywhere = Reach {
            near: Nearness::Elsewhere,
            ..reach
        };
        let open = |kind: &Kind| kind.open(wanted, everywhere).is_ok();
        let all = u128::from(self.rotation.share(open, &[]));
        let own = u128::from(self.rotation.weight(slot).share());
        let sum = self.in_flight.load(std::sync::atomic::Ordering::Relaxed);
        u128::from(calls) * all >= u128::from(sum) * own * u128::from(NEAR_SHARES)
    }
}

/// Is it one of those that would take such calls, were it well?
fn concerns(kind: &Kind, wanted: &Wanted<'_>) -> bool {
    match kind.suits(wanted) {
        Err(Unfit::OtherRule | Unfit::OtherPart | Unfit::NoAddress) => false,
        // One that leaves is no sign that something is wrong.
        _ => kind.tier != Tier::Draining,
    }
}

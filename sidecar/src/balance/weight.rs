//! How much of the calls an endpoint is to get in relation to others: what its node asks for, and
//! how far it has warmed up. Whole numbers all through, so that shares are the same in every
//! sidecar and do not drift.

/// Steps of warmth: an endpoint of all of them is warm.
pub(super) const WARM: u8 = 100;
/// Divided by a weight, it says how far apart the turns of an endpoint are. It is a multiple of all
/// numbers up to 40, so that weights which people write divide it; for others, turns are out by
/// less than one in 10^12.
const TURN: u64 = 5_342_931_457_063_200;

/// The weight of an endpoint.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Weight {
    whole: u32,
    warmth: u8,
}

impl Weight {
    /// The weight of an endpoint that is warm. Zero is none: an offer says 1 at least.
    pub(super) fn warm(whole: u32) -> Self {
        let whole = whole.max(1);
        let warmth = WARM;
        Self { whole, warmth }
    }

    /// The same weight of an endpoint that has warmed up so far, out of [`WARM`].
    pub(super) fn at(self, warmth: u8) -> Self {
        let warmth = warmth.clamp(1, WARM);
        Self { warmth, ..self }
    }

    /// The weight of its offer.
    pub(super) const fn whole(self) -> u32 {
        self.whole
    }

    /// How far it has warmed up, out of [`WARM`].
    pub(super) const fn warmth(self) -> u8 {
        self.warmth
    }

    /// Its share at present, in hundredths of a weight of 1.
    pub(super) fn share(self) -> u64 {
        u64::from(self.whole) * u64::from(self.warmth)
    }

    /// How far apart its turns are at present: what costs an endpoint of weight 1 so much once,
    /// costs one of weight 2 half of it.
    pub(super) fn stride(self) -> u64 {
        TURN * u64::from(WARM) / self.share()
    }

    /// The same once it is warm.
    pub(super) fn whole_stride(self) -> u64 {
        TURN / u64::from(self.whole)
    }
}

/// How far a clock goes on when one is picked of those who share so much, and what is left over, of
/// as many parts.
pub(super) fn step(share: u64) -> (u64, u64) {
    let (all, share) = (TURN * u64::from(WARM), share.max(1));
    (all / share, all % share)
}

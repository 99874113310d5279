//! Which traces are recorded. Pure: whoever begins a trace decides, by its id, and everybody after
//! that follows.

use super::context::TraceId;

/// A share of all traces. As OpenTelemetry's `TraceIdRatioBased` it goes by the trace's id, so that
/// all sidecars with the same share decide alike, and those with a larger one take these traces too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ratio(u64);

/// What the last eight bytes of an id can say, without their lowest bit.
const ALL: u64 = 1 << 63;

impl Ratio {
    /// A share from 0, none, to 1, all. `None` if it is none of these.
    #[must_use]
    pub fn new(share: f64) -> Option<Self> {
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "from 0 to 1, it gives 0 to 2^63"
        )]
        (0.0..=1.0)
            .contains(&share)
            .then_some(Self((share * ALL as f64) as u64))
    }

    /// Is this trace recorded?
    #[must_use]
    pub fn takes(self, trace: &TraceId) -> bool {
        let (halves, _) = trace.as_chunks();
        u64::from_be_bytes(halves[1]) >> 1 < self.0
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_larger_share_takes_what_a_smaller_one_takes(one in 0.0..=1.0, other in 0.0..=1.0, trace: u128) {
            let (small, large) = if one < other { (one, other) } else { (other, one) };
            let trace = trace.to_be_bytes();
            let takes = |share| Ratio::new(share).unwrap().takes(&trace);
            prop_assert!(!takes(small) || takes(large));
            prop_assert!(takes(1.0) && !takes(0.0));
        }
    }

    #[test]
    fn a_share_is_that_share_of_the_traces() {
        let mut random = fastrand::Rng::with_seed(7);
        let tenth = Ratio::new(0.1).unwrap();
        let taken = (0..100_000).filter(|_| tenth.takes(&random.u128(..).to_be_bytes()));
        let taken = taken.count();
        assert!((9_500..10_500).contains(&taken), "{taken}");
    }

    #[test]
    fn it_goes_by_the_same_bytes_as_opentelemetrys_own() {
        let mut trace = [0xff; 16];
        trace[8..].copy_from_slice(&(1_u64 << 63).to_be_bytes());
        // Half of 2^63 is the first that half does not take.
        assert!(!Ratio::new(0.5).unwrap().takes(&trace));
        trace[8..].copy_from_slice(&((1_u64 << 63) - 1).to_be_bytes());
        assert!(Ratio::new(0.5).unwrap().takes(&trace));
    }

    #[test]
    fn what_is_no_share_is_refused() {
        for bad in [-0.1, 1.1, f64::NAN, f64::INFINITY] {
            assert_eq!(Ratio::new(bad), None, "{bad}");
        }
    }
}

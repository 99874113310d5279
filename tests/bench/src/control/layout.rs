//! Who offers what and who calls whom in a simulated mesh. Pure: which sidecars hear of a change
//! follows from numbers alone, so that it can be known before anything is measured.

use std::collections::HashSet;
use std::ops::Range;

/// The service that one sidecar offers and every sidecar calls.
pub(super) const SHARED: &str = "bench.v1.Shared";

/// The shape of a mesh. Each sidecar offers some services and calls others, half of all services
/// away from its own, so that offers and calls are spread evenly.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    /// How many take part.
    pub(super) sidecars: usize,
    /// How many services there are, without the shared one.
    pub(super) services: usize,
    /// How many of them each offers.
    pub(super) offers: usize,
    /// How many of them each calls.
    pub(super) calls: usize,
}

impl Layout {
    /// The numbers of the services that a sidecar offers.
    pub(super) fn offered(&self, sidecar: usize) -> Vec<usize> {
        self.around(sidecar * self.offers, 0..self.offers)
    }

    /// The numbers of the services that a sidecar calls.
    pub(super) fn called(&self, sidecar: usize) -> Vec<usize> {
        self.around(sidecar * self.calls + self.services / 2, 0..self.calls)
    }

    fn around(&self, from: usize, range: Range<usize>) -> Vec<usize> {
        range.map(|n| (from + n) % self.services).collect()
    }

    /// Which sidecars call each service.
    pub(super) fn callers(&self) -> Callers {
        let mut callers = vec![Vec::new(); self.services];
        for sidecar in 0..self.sidecars {
            for service in self.called(sidecar) {
                callers[service].push(sidecar);
            }
        }
        Callers(callers)
    }

    /// How many sidecars offer each service.
    pub(super) fn offerers(&self) -> Vec<usize> {
        let mut count = vec![0; self.services];
        for service in (0..self.sidecars).flat_map(|sidecar| self.offered(sidecar)) {
            count[service] += 1;
        }
        count
    }

    /// Endpoints of all services together, without the shared one.
    pub(super) fn endpoints(&self) -> usize {
        self.sidecars * self.offers
    }
}

/// Which sidecars call each service.
#[derive(Clone, Debug)]
pub(super) struct Callers(Vec<Vec<usize>>);

impl Callers {
    /// How many sidecars call at least one of these services.
    pub(super) fn of(&self, services: &[usize]) -> usize {
        let callers = services.iter().flat_map(|service| &self.0[*service]);
        callers.collect::<HashSet<_>>().len()
    }
}

/// A service's name by its number.
pub(super) fn service(number: usize) -> String {
    format!("bench.v1.Service{number}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYOUT: Layout = Layout {
        sidecars: 1_000,
        services: 500,
        offers: 10,
        calls: 10,
    };

    #[test]
    fn offers_and_calls_are_spread_evenly() {
        assert!(LAYOUT.offerers().iter().all(|count| *count == 20));
        assert_eq!(LAYOUT.endpoints(), 10_000);
        let callers = LAYOUT.callers();
        assert_eq!(callers.of(&[7]), 20);
        assert_eq!(callers.of(&LAYOUT.offered(3)), 20);
    }

    #[test]
    fn who_calls_others_than_it_offers() {
        assert_eq!(LAYOUT.offered(50)[..2], [0, 1]);
        assert_eq!(LAYOUT.called(50)[..2], [250, 251]);
    }
}

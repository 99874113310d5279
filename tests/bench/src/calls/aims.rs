//! What Sidelane's pairs are meant to reach, in the clear and in mTLS, and whether they did. An aim is judged only
//! by figures of this run; what it has none for is not measured, which is no success.

use serde::Serialize;

use super::phases::Added;
use super::report::{PairReport, Ratio, Ratios};
use crate::pair::{Kind, Part};
use crate::statistics::number;

/// Processor time for a call, to that of the bare pair.
const CPU_TO_BARE: f64 = 1.15;

/// The same, to that of Envoy's.
const CPU_TO_ENVOY: f64 = 0.4;

/// In mTLS, to that of the bare pair in mTLS.
const TLS_CPU_TO_BARE: f64 = 1.2;

/// The same, to that of Envoy's in mTLS.
const TLS_CPU_TO_ENVOY: f64 = 0.4;

/// Added 99th percentile at [`RATE`], to what Envoy's pair adds.
const ADDED_P99_TO_ENVOY: f64 = 0.5;

/// The rate of the aim above, in calls a second.
const RATE: f64 = 2000.0;

/// Processor time for a call with every policy on, to that with none.
const POLICIES_TO_NONE: f64 = 1.1;

/// The same, to that of the bare pair.
const POLICIES_TO_BARE: f64 = 1.3;

/// Calls of 64 KiB a second, to those of the bare pair.
const LARGE_TO_BARE: f64 = 1.0;

/// The larger sidecar, idle, in MiB.
const IDLE_MIB: f64 = 12.0;

/// Both sidecars under the load of the closed loop, in MiB.
const LOADED_MIB: f64 = 24.0;

/// One aim, and what came of it.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Aim {
    /// What it is about, with its unit.
    pub(crate) name: &'static str,
    /// The bound.
    pub(crate) bound: f64,
    /// Whether the bound is the most that is allowed; otherwise it is the least.
    pub(crate) at_most: bool,
    /// What was measured; `null` where nothing was.
    pub(crate) measured: Option<f64>,
    /// Whether it is met; `null` where nothing was measured.
    pub(crate) met: Option<bool>,
}

impl Aim {
    fn new(name: &'static str, at_most: bool, bound: f64, measured: Option<f64>) -> Self {
        let met = measured.map(|measured| {
            if at_most {
                measured <= bound
            } else {
                measured >= bound
            }
        });
        Self {
            name,
            bound,
            at_most,
            measured,
            met,
        }
    }

    /// By how much it is missed, in percent of the bound; `None` where it is not.
    pub(crate) fn missed_by(&self) -> Option<f64> {
        let measured = self.measured.filter(|_| self.met == Some(false))?;
        Some(((measured / self.bound - 1.0) * 100.0).abs())
    }
}

/// What the pairs are to each other; `None` where one of the two did not run.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Compared<'a> {
    /// Sidelane to bare.
    pub(crate) to_bare: Option<&'a Ratios>,
    /// Sidelane to Envoy.
    pub(crate) to_envoy: Option<&'a Ratios>,
    /// Sidelane with every policy on, to without.
    pub(crate) policies: Option<&'a Ratios>,
    /// Sidelane with every policy on, to bare.
    pub(crate) policies_to_bare: Option<&'a Ratios>,
    /// Sidelane to bare, both in mTLS.
    pub(crate) tls_to_bare: Option<&'a Ratios>,
    /// Sidelane to Envoy, both in mTLS.
    pub(crate) tls_to_envoy: Option<&'a Ratios>,
}

/// All aims, for Sidelane's pairs; `sidelane` is the one in the clear.
pub(crate) fn judge(
    sidelane: Option<&PairReport>,
    compared: &Compared<'_>,
    added: &[Added],
) -> Vec<Aim> {
    let Compared {
        to_bare,
        to_envoy,
        policies,
        policies_to_bare,
        tls_to_bare,
        tls_to_envoy,
    } = *compared;
    let ratio = |ratios: Option<&Ratios>, of: fn(&Ratios) -> &Ratio| of(ratios?).median;
    let proxies = || {
        let all = sidelane.into_iter().flat_map(|pair| &pair.processes);
        all.filter(|process| process.part == Some(Part::Proxy))
    };
    let mebibytes = |kib: u64| number(kib) / 1024.0;
    let idle = proxies().map(|proxy| proxy.memory.idle_kib).max();
    let loaded = idle.map(|_| proxies().map(|proxy| proxy.memory.loaded_kib).sum());
    vec![
        Aim::new(
            "CPU per call, to bare",
            true,
            CPU_TO_BARE,
            ratio(to_bare, |ratios| &ratios.cpu_per_call),
        ),
        Aim::new(
            "CPU per call, to Envoy",
            true,
            CPU_TO_ENVOY,
            ratio(to_envoy, |ratios| &ratios.cpu_per_call),
        ),
        Aim::new(
            "CPU per call with all policies, to none",
            true,
            POLICIES_TO_NONE,
            ratio(policies, |ratios| &ratios.cpu_per_call),
        ),
        Aim::new(
            "CPU per call with all policies, to bare",
            true,
            POLICIES_TO_BARE,
            ratio(policies_to_bare, |ratios| &ratios.cpu_per_call),
        ),
        Aim::new(
            "CPU per call in mTLS, to bare",
            true,
            TLS_CPU_TO_BARE,
            ratio(tls_to_bare, |ratios| &ratios.cpu_per_call),
        ),
        Aim::new(
            "CPU per call in mTLS, to Envoy",
            true,
            TLS_CPU_TO_ENVOY,
            ratio(tls_to_envoy, |ratios| &ratios.cpu_per_call),
        ),
        Aim::new(
            "added p99 at 2,000 calls/s, to Envoy",
            true,
            ADDED_P99_TO_ENVOY,
            added_to_envoy(added),
        ),
        Aim::new(
            "64 KiB calls/s, to bare",
            false,
            LARGE_TO_BARE,
            ratio(to_bare, |ratios| &ratios.large_calls_per_second),
        ),
        Aim::new("idle sidecar, MiB", true, IDLE_MIB, idle.map(mebibytes)),
        Aim::new(
            "pair under load, MiB",
            true,
            LOADED_MIB,
            loaded.map(mebibytes),
        ),
    ]
}

fn added_to_envoy(added: &[Added]) -> Option<f64> {
    let of = |kind| {
        let mut all = added.iter();
        // The rates are those of the command line, never the result of a sum.
        all.find(|added| added.pair == kind && (added.rate - RATE).abs() < 0.5)
    };
    let (sidelane, envoy) = (of(Kind::Sidelane)?.p99_us, of(Kind::Envoy)?.p99_us);
    // Half of nothing would be met by chance.
    (envoy > 0.0).then_some(sidelane / envoy)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::report::tests::report;

    #[test]
    fn what_was_measured_is_judged_and_nothing_else() {
        let aims = report(0).aims;
        let of = |name: &str| aims.iter().find(|aim| aim.name.starts_with(name)).unwrap();
        assert_eq!(of("CPU per call, to bare").met, Some(false));
        let missed = of("CPU per call, to bare").missed_by().unwrap();
        assert!((missed - 4.35).abs() < 0.01, "1.20 for 1.15: {missed}");
        assert_eq!(of("CPU per call, to Envoy").met, None);
        assert_eq!(of("added p99").met, None);
        let policies = of("CPU per call with all policies, to none");
        assert_eq!((policies.measured, policies.met), (Some(1.25), Some(false)));
        let missed = of("CPU per call with all policies, to bare");
        assert_eq!((missed.measured, missed.met), (Some(1.5), Some(false)));
        let secured = of("CPU per call in mTLS, to bare");
        assert_eq!((secured.measured, secured.met), (Some(1.1), Some(true)));
        assert_eq!(of("CPU per call in mTLS, to Envoy").met, None);
        // A ratio of 1/1.2, of which 1 is the least.
        assert_eq!(of("64 KiB").met, Some(false));
        assert!((of("64 KiB").missed_by().unwrap() - 16.7).abs() < 0.1);
        assert_eq!(of("idle sidecar").measured, Some(4.0));
        assert_eq!(of("pair under load").measured, Some(12.0));
        assert_eq!(of("pair under load").missed_by(), None);
    }

    #[test]
    fn what_is_added_is_compared_at_its_rate() {
        let added = |pair, rate, p99_us| Added {
            pair,
            rate,
            p50_us: 1.0,
            p99_us,
        };
        let all = [
            added(Kind::Envoy, 500.0, 1.0),
            added(Kind::Envoy, 2000.0, 400.0),
            added(Kind::Sidelane, 500.0, 1.0),
            added(Kind::Sidelane, 2000.0, 100.0),
        ];
        assert_eq!(added_to_envoy(&all), Some(0.25));
        assert_eq!(added_to_envoy(&all[2..]), None);
        let mut lucky = all;
        lucky[1].p99_us = -3.0;
        assert_eq!(added_to_envoy(&lucky), None);
    }
}

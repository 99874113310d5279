//! What a round measures beside its closed loop: the open loop at fixed rates, what goes in bulk,
//! large messages and streams, and new connections. Pure arithmetic on what was measured.

use serde::Serialize;

use super::report::{PairReport, Round};
use crate::pair::Kind;
use crate::statistics::{Latency, median};

/// The open loop at one rate.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Open {
    /// Calls a second.
    pub(crate) rate: f64,
    /// Whether the rate was asked for, and so is that of all pairs; otherwise it is a part of what
    /// the pair can do.
    pub(crate) fixed: bool,
    /// From when a call was due.
    pub(crate) latency: Latency,
}

impl Open {
    /// The medians over the rounds, one for each rate.
    pub(crate) fn medians(rounds: &[Round]) -> Vec<Self> {
        let rates = rounds.iter().map(|round| round.open.len()).min();
        let of = |index: usize| {
            let all = || rounds.iter().map(|round| &round.open[index]);
            let latencies: Vec<Latency> = all().map(|open| open.latency).collect();
            Some(Self {
                rate: median(all().map(|open| open.rate))?,
                fixed: all().all(|open| open.fixed),
                latency: Latency::median(&latencies)?,
            })
        };
        (0..rates.unwrap_or_default()).filter_map(of).collect()
    }
}

/// What a pair adds to direct calls at one fixed rate: the difference in each round, and the median
/// of those.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(crate) struct Added {
    /// The pair.
    pub(crate) pair: Kind,
    /// Calls a second.
    pub(crate) rate: f64,
    /// To half of the calls, in microseconds.
    pub(crate) p50_us: f64,
    /// To the 99th percentile, in microseconds.
    pub(crate) p99_us: f64,
}

impl Added {
    /// At every fixed rate; nothing for direct calls themselves.
    pub(crate) fn of(pair: &PairReport, direct: &PairReport) -> Vec<Self> {
        if pair.pair == direct.pair {
            return Vec::new();
        }
        let fixed = pair.open.iter().enumerate().filter(|(_, open)| open.fixed);
        let added = |(index, open): (usize, &Open)| {
            let both = || pair.rounds.iter().zip(&direct.rounds);
            let more = |figure: fn(&Latency) -> f64| {
                median(both().filter_map(|(pair, direct)| {
                    let direct = figure(&direct.open.get(index)?.latency);
                    Some(figure(&pair.open.get(index)?.latency) - direct)
                }))
            };
            Some(Self {
                pair: pair.pair,
                rate: open.rate,
                p50_us: more(|latency| latency.p50_us)?,
                p99_us: more(|latency| latency.p99_us)?,
            })
        };
        fixed.filter_map(added).collect()
    }
}

/// How much went through in a second, and at what cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Throughput {
    /// Calls or messages a second.
    pub(crate) per_second: f64,
    /// Processor time of both proxies for one, in microseconds; 0 without proxies.
    pub(crate) proxies_cpu_us: f64,
}

/// What goes in bulk; `None` where it was left out.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Bulk {
    /// Unary calls of 64 KiB each way.
    pub(crate) large: Option<Throughput>,
    /// Messages of server streams.
    pub(crate) expand: Option<Throughput>,
    /// Messages of streams both ways, there and back.
    pub(crate) chat: Option<Throughput>,
}

impl Bulk {
    /// The median of each figure.
    pub(crate) fn median(rounds: &[BulkRound]) -> Self {
        let of = |part: fn(&Self) -> Option<Throughput>| {
            let all = || rounds.iter().filter_map(|round| part(&round.figures));
            Some(Throughput {
                per_second: median(all().map(|one| one.per_second))?,
                proxies_cpu_us: median(all().map(|one| one.proxies_cpu_us))?,
            })
        };
        Self {
            large: of(|bulk| bulk.large),
            expand: of(|bulk| bulk.expand),
            chat: of(|bulk| bulk.chat),
        }
    }
}

/// One round of one pair, in bulk.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct BulkRound {
    /// What was measured.
    #[serde(flatten)]
    pub(crate) figures: Bulk,
    /// Calls that were answered as they should be.
    pub(crate) answered: u64,
    /// Calls that were not.
    pub(crate) failed: u64,
    /// What the first of those said.
    pub(crate) first_failure: Option<String>,
}

/// New connections in mTLS, each with one call.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Handshakes {
    /// Connections a second. The load generator does as much for each as who is dialled.
    pub(crate) per_second: f64,
    /// Processor time of the callee's proxy for one, in microseconds.
    pub(crate) callee_cpu_us: f64,
}

impl Handshakes {
    /// The median of each figure; `None` without rounds.
    pub(crate) fn median(rounds: &[HandshakeRound]) -> Option<Self> {
        let of = |figure: fn(&Self) -> f64| median(rounds.iter().map(|one| figure(&one.figures)));
        Some(Self {
            per_second: of(|figures| figures.per_second)?,
            callee_cpu_us: of(|figures| figures.callee_cpu_us)?,
        })
    }
}

/// One round of new connections.
#[derive(Clone, Debug, Default, Serialize)]
pub(crate) struct HandshakeRound {
    /// What was measured.
    #[serde(flatten)]
    pub(crate) figures: Handshakes,
    /// Connections whose call was answered as it should be.
    pub(crate) answered: u64,
    /// The others.
    pub(crate) failed: u64,
    /// What the first of those said.
    pub(crate) first_failure: Option<String>,
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::calls::report::Figures;

    fn latency(p99_us: f64) -> Latency {
        Latency {
            mean_us: 60.0,
            p50_us: 50.0,
            p99_us,
        }
    }

    fn pair(kind: Kind, p99s: [f64; 3]) -> PairReport {
        let round = |p99_us| Round {
            figures: Figures {
                calls_per_second: 1.0,
                proxies_cpu_us_per_call: 1.0,
                loaded: latency(1.0),
                single: latency(1.0),
            },
            open: [(2000.0, true), (p99_us, false)]
                .map(|(rate, fixed)| Open {
                    rate,
                    fixed,
                    latency: latency(p99_us),
                })
                .to_vec(),
            answered: 1,
            failed: 0,
            first_failure: None,
        };
        let rounds = p99s.map(round).to_vec();
        PairReport::new(kind, rounds, Vec::new(), Vec::new(), Vec::new()).unwrap()
    }

    #[test]
    fn what_is_added_is_the_median_of_the_differences() {
        let direct = pair(Kind::Direct, [100.0, 500.0, 300.0]);
        let bare = pair(Kind::Bare, [400.0, 600.0, 500.0]);
        let added = Added::of(&bare, &direct);
        let only = Added {
            pair: Kind::Bare,
            rate: 2000.0,
            p50_us: 0.0,
            p99_us: 200.0,
        };
        assert_eq!(added, [only], "300, 100 and 200; of fixed rates only");
        assert!(Added::of(&direct, &direct).is_empty());
    }

    #[test]
    fn each_rate_has_its_median() {
        let open = pair(Kind::Bare, [400.0, 600.0, 500.0]).open;
        assert_eq!((open[0].rate, open[1].rate), (2000.0, 500.0));
        assert!(open[0].fixed && !open[1].fixed);
        assert_eq!(open[0].latency, latency(500.0));
    }

    #[test]
    fn what_was_left_out_has_no_median() {
        let round = |per_second| BulkRound {
            figures: Bulk {
                expand: Some(Throughput {
                    per_second,
                    proxies_cpu_us: 2.0,
                }),
                ..Bulk::default()
            },
            ..BulkRound::default()
        };
        let bulk = Bulk::median(&[round(1.0), round(9.0), round(3.0)]);
        assert_eq!(bulk.expand.unwrap().per_second, 3.0);
        assert_eq!((bulk.large, bulk.chat), (None, None));
    }
}

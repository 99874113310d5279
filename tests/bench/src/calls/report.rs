//! The results: what `--json` writes and the table shows. Figures of a round are as measured,
//! figures of a pair are medians of its rounds, and a ratio is taken within each round before
//! its median is; field names carry their units and are what other programs rely on.

use anyhow::Result;
use serde::Serialize;

use super::aims::{self, Aim, Compared};
use super::args::Args;
use super::phases::{Added, Bulk, BulkRound, HandshakeRound, Handshakes, Open};
use crate::pair::{Kind, Part};
use crate::statistics::{Latency, median};

/// One run of the benchmark.
#[derive(Debug, Serialize)]
pub(crate) struct Report {
    /// What was asked for.
    pub(crate) settings: Settings,
    /// Where it ran.
    pub(crate) machine: Machine,
    /// In the order direct, bare, envoy, sidelane, policies, bare-tls, envoy-tls, sidelane-tls.
    pub(crate) pairs: Vec<PairReport>,
    /// Sidelane to bare; absent unless both ran.
    pub(crate) sidelane_to_bare: Option<Ratios>,
    /// Sidelane to Envoy; absent unless both ran.
    pub(crate) sidelane_to_envoy: Option<Ratios>,
    /// Envoy to bare; absent unless both ran.
    pub(crate) envoy_to_bare: Option<Ratios>,
    /// Sidelane with every policy on, to without; absent unless both ran.
    pub(crate) policies_to_sidelane: Option<Ratios>,
    /// Sidelane with every policy on, to bare; absent unless both ran.
    pub(crate) policies_to_bare: Option<Ratios>,
    /// Sidelane to bare, both in mTLS; absent unless both ran.
    pub(crate) sidelane_tls_to_bare_tls: Option<Ratios>,
    /// Sidelane to Envoy, both in mTLS; absent unless both ran.
    pub(crate) sidelane_tls_to_envoy_tls: Option<Ratios>,
    /// Envoy to bare, both in mTLS; absent unless both ran.
    pub(crate) envoy_tls_to_bare_tls: Option<Ratios>,
    /// Sidelane in mTLS to Sidelane in the clear; absent unless both ran.
    pub(crate) sidelane_tls_to_sidelane: Option<Ratios>,
    /// What each pair adds to direct calls at the fixed rates; empty unless direct ran.
    pub(crate) added: Vec<Added>,
    /// The aims, each with what came of it.
    pub(crate) aims: Vec<Aim>,
    /// Failed calls of all pairs and rounds.
    pub(crate) failed: u64,
}

impl Report {
    /// Puts the pairs together and compares them.
    pub(crate) fn new(settings: Settings, machine: Machine, pairs: Vec<PairReport>) -> Self {
        let ratios = |one, other| Some(Ratios::of(find(&pairs, one)?, find(&pairs, other)?));
        let (to_bare, to_envoy) = (
            ratios(Kind::Sidelane, Kind::Bare),
            ratios(Kind::Sidelane, Kind::Envoy),
        );
        let envoy_to_bare = ratios(Kind::Envoy, Kind::Bare);
        let (policies_to_sidelane, policies_to_bare) = (
            ratios(Kind::Policies, Kind::Sidelane),
            ratios(Kind::Policies, Kind::Bare),
        );
        let (tls_to_bare, tls_to_envoy) = (
            ratios(Kind::SidelaneTls, Kind::BareTls),
            ratios(Kind::SidelaneTls, Kind::EnvoyTls),
        );
        let envoy_tls_to_bare_tls = ratios(Kind::EnvoyTls, Kind::BareTls);
        let tls_to_clear = ratios(Kind::SidelaneTls, Kind::Sidelane);
        let direct = find(&pairs, Kind::Direct);
        let added: Vec<Added> = direct
            .into_iter()
            .flat_map(|direct| pairs.iter().flat_map(|pair| Added::of(pair, direct)))
            .collect();
        let sidelane = find(&pairs, Kind::Sidelane);
        let compared = Compared {
            to_bare: to_bare.as_ref(),
            to_envoy: to_envoy.as_ref(),
            policies: policies_to_sidelane.as_ref(),
            policies_to_bare: policies_to_bare.as_ref(),
            tls_to_bare: tls_to_bare.as_ref(),
            tls_to_envoy: tls_to_envoy.as_ref(),
        };
        let any = pairs.iter().any(|pair| pair.pair.is_sidelane());
        let aims = any.then(|| aims::judge(sidelane, &compared, &added));
        let failed = pairs.iter().map(PairReport::failed).sum();
        Self {
            settings,
            machine,
            sidelane_to_bare: to_bare,
            sidelane_to_envoy: to_envoy,
            envoy_to_bare,
            policies_to_sidelane,
            policies_to_bare,
            sidelane_tls_to_bare_tls: tls_to_bare,
            sidelane_tls_to_envoy_tls: tls_to_envoy,
            envoy_tls_to_bare_tls,
            sidelane_tls_to_sidelane: tls_to_clear,
            added,
            aims: aims.unwrap_or_default(),
            failed,
            pairs,
        }
    }
}

fn find(pairs: &[PairReport], kind: Kind) -> Option<&PairReport> {
    pairs.iter().find(|pair| pair.pair == kind)
}

/// What was asked for.
#[derive(Debug, Serialize)]
pub(crate) struct Settings {
    calls: u64,
    single_calls: u64,
    connections: u32,
    in_flight: u32,
    payload_bytes: u32,
    rates: Vec<u32>,
    open_seconds: f64,
    large_calls: u64,
    stream_messages: u64,
    handshakes: u64,
    rounds: u32,
}

impl Settings {
    /// From the command line.
    ///
    /// # Errors
    /// What it says of the open loop is no time.
    pub(crate) fn of(run: &Args) -> Result<Self> {
        let open = run.open_time()?.unwrap_or_default();
        Ok(Self {
            calls: run.calls(),
            single_calls: run.single_calls(),
            connections: run.connections,
            in_flight: run.in_flight,
            payload_bytes: run.payload,
            rates: run.rates.clone(),
            open_seconds: open.as_secs_f64(),
            large_calls: run.large_calls(),
            stream_messages: run.stream_messages(),
            handshakes: run.handshakes(),
            rounds: run.rounds(),
        })
    }
}

/// Where it ran.
#[derive(Debug, Serialize)]
pub(crate) struct Machine {
    /// Processors that this program may use.
    pub(crate) processors: usize,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// Whether this program was built with optimisation; if not, its figures mean nothing.
    pub(crate) optimised: bool,
}

impl Machine {
    /// This one.
    pub(crate) fn here() -> Self {
        let kernel = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
        Self {
            processors: std::thread::available_parallelism().map_or(0, usize::from),
            kernel: kernel.trim().to_owned(),
            optimised: !cfg!(debug_assertions),
        }
    }
}

/// One pair's results.
#[derive(Debug, Serialize)]
pub(crate) struct PairReport {
    /// Which one.
    pub(crate) pair: Kind,
    /// Medians of the rounds.
    pub(crate) median: Figures,
    /// Medians of the open loop, one for each rate.
    pub(crate) open: Vec<Open>,
    /// Medians of the rounds in bulk.
    pub(crate) bulk: Bulk,
    /// Medians of new connections; `null` in the clear, and where they were left out.
    pub(crate) handshakes: Option<Handshakes>,
    /// Its processes, and last the load generator.
    pub(crate) processes: Vec<ProcessReport>,
    /// Each round, in the order in which they ran.
    pub(crate) rounds: Vec<Round>,
    /// Each round in bulk, likewise; they run after all the others.
    pub(crate) bulk_rounds: Vec<BulkRound>,
    /// Each round of new connections, likewise.
    pub(crate) handshake_rounds: Vec<HandshakeRound>,
}

impl PairReport {
    /// The rounds of one pair with their medians; `None` without rounds.
    pub(crate) fn new(
        pair: Kind,
        rounds: Vec<Round>,
        bulk_rounds: Vec<BulkRound>,
        handshake_rounds: Vec<HandshakeRound>,
        processes: Vec<ProcessReport>,
    ) -> Option<Self> {
        let of = |figure: fn(&Figures) -> f64| median(rounds.iter().map(|r| figure(&r.figures)));
        let latencies = |figure: fn(&Figures) -> Latency| {
            Latency::median(
                &rounds
                    .iter()
                    .map(|r| figure(&r.figures))
                    .collect::<Vec<_>>(),
            )
        };
        let median = Figures {
            calls_per_second: of(|figures| figures.calls_per_second)?,
            proxies_cpu_us_per_call: of(|figures| figures.proxies_cpu_us_per_call)?,
            loaded: latencies(|figures| figures.loaded)?,
            single: latencies(|figures| figures.single)?,
        };
        Some(Self {
            pair,
            median,
            open: Open::medians(&rounds),
            bulk: Bulk::median(&bulk_rounds),
            handshakes: Handshakes::median(&handshake_rounds),
            processes,
            rounds,
            bulk_rounds,
            handshake_rounds,
        })
    }

    /// Failed calls of all rounds.
    pub(crate) fn failed(&self) -> u64 {
        let bulk = self.bulk_rounds.iter().map(|round| round.failed);
        let anew = self.handshake_rounds.iter().map(|round| round.failed);
        let rounds = self.rounds.iter().map(|round| round.failed);
        rounds.chain(bulk).chain(anew).sum()
    }

    /// What the first of them said.
    pub(crate) fn first_failure(&self) -> Option<&str> {
        let bulk = self.bulk_rounds.iter().map(|round| &round.first_failure);
        let anew = self
            .handshake_rounds
            .iter()
            .map(|round| &round.first_failure);
        let mut all = self
            .rounds
            .iter()
            .map(|round| &round.first_failure)
            .chain(bulk)
            .chain(anew);
        all.find_map(Option::as_deref)
    }

    /// A sum over the two proxies.
    pub(crate) fn proxies(&self, figure: fn(&Memory) -> u64) -> u64 {
        let proxies = self
            .processes
            .iter()
            .filter(|process| process.part == Some(Part::Proxy));
        proxies.map(|proxy| figure(&proxy.memory)).sum()
    }
}

/// One round of one pair.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Round {
    /// What was measured.
    #[serde(flatten)]
    pub(crate) figures: Figures,
    /// The open loop, one for each rate; empty where it is left out.
    pub(crate) open: Vec<Open>,
    /// Calls that were answered as they should be.
    pub(crate) answered: u64,
    /// Calls that were not.
    pub(crate) failed: u64,
    /// What the first of those said.
    pub(crate) first_failure: Option<String>,
}

/// What is compared.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Figures {
    /// Answered calls a second, with `in_flight` at once.
    pub(crate) calls_per_second: f64,
    /// Processor time of both proxies for a call, in microseconds; 0 without proxies.
    pub(crate) proxies_cpu_us_per_call: f64,
    /// With `in_flight` calls at once.
    pub(crate) loaded: Latency,
    /// With one call at a time.
    pub(crate) single: Latency,
}

/// One process of a pair.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct ProcessReport {
    /// What it is.
    pub(crate) name: &'static str,
    /// Its part; `null` for the load generator.
    pub(crate) part: Option<Part>,
    /// Threads after the last round.
    pub(crate) threads: u64,
    /// Processor time for a call, in microseconds, median of the rounds.
    pub(crate) cpu_us_per_call: f64,
    /// Its memory.
    pub(crate) memory: Memory,
}

/// Memory in KiB.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Memory {
    /// Resident after the first call, before any load.
    pub(crate) idle_kib: u64,
    /// Resident at the end of a round, connections still open: the most of all rounds.
    pub(crate) loaded_kib: u64,
    /// The most the kernel has ever seen (`VmHWM`).
    pub(crate) peak_kib: u64,
}

/// Ratios of one pair to another.
#[derive(Debug, Serialize)]
pub(crate) struct Ratios {
    /// Processor time of both proxies for a call.
    pub(crate) cpu_per_call: Ratio,
    /// Calls a second.
    pub(crate) calls_per_second: Ratio,
    /// 99th percentile with `in_flight` calls at once.
    pub(crate) loaded_p99: Ratio,
    /// Mean with one call at a time.
    pub(crate) single_mean: Ratio,
    /// Calls of 64 KiB a second.
    pub(crate) large_calls_per_second: Ratio,
    /// Processor time of both proxies for a call of 64 KiB.
    pub(crate) large_cpu_per_call: Ratio,
    /// Processor time of both proxies for a message of a server stream.
    pub(crate) expand_cpu_per_message: Ratio,
    /// Processor time of both proxies for a message, there and back, of a stream both ways.
    pub(crate) chat_cpu_per_message: Ratio,
    /// Processor time of the callee's proxy for a new connection in mTLS.
    pub(crate) handshake_cpu: Ratio,
}

impl Ratios {
    fn of(one: &PairReport, other: &PairReport) -> Self {
        let ratio = |figure: fn(&Figures) -> f64| {
            let pairs = one.rounds.iter().zip(&other.rounds);
            Ratio::of(pairs.map(|(one, other)| figure(&one.figures) / figure(&other.figures)))
        };
        let in_bulk = |figure: fn(&Bulk) -> Option<f64>| {
            let pairs = one.bulk_rounds.iter().zip(&other.bulk_rounds);
            let both = pairs
                .filter_map(|(one, other)| Some(figure(&one.figures)? / figure(&other.figures)?));
            Ratio::of(both)
        };
        let anew = one.handshake_rounds.iter().zip(&other.handshake_rounds);
        let anew = anew.map(|(one, other)| one.figures.callee_cpu_us / other.figures.callee_cpu_us);
        Self {
            handshake_cpu: Ratio::of(anew),
            cpu_per_call: ratio(|figures| figures.proxies_cpu_us_per_call),
            calls_per_second: ratio(|figures| figures.calls_per_second),
            loaded_p99: ratio(|figures| figures.loaded.p99_us),
            single_mean: ratio(|figures| figures.single.mean_us),
            large_calls_per_second: in_bulk(|bulk| Some(bulk.large?.per_second)),
            large_cpu_per_call: in_bulk(|bulk| Some(bulk.large?.proxies_cpu_us)),
            expand_cpu_per_message: in_bulk(|bulk| Some(bulk.expand?.proxies_cpu_us)),
            chat_cpu_per_message: in_bulk(|bulk| Some(bulk.chat?.proxies_cpu_us)),
        }
    }
}

/// One ratio in each round, and their median.
#[derive(Debug, Serialize)]
pub(crate) struct Ratio {
    /// Of the rounds below; `null` without one that could be divided.
    pub(crate) median: Option<f64>,
    /// In the order of the rounds.
    pub(crate) rounds: Vec<f64>,
}

impl Ratio {
    /// A round whose divisor was 0 has no ratio.
    fn of(rounds: impl Iterator<Item = f64>) -> Self {
        let rounds: Vec<f64> = rounds.filter(|ratio| ratio.is_finite()).collect();
        Self {
            median: median(rounds.iter().copied()),
            rounds,
        }
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::calls::phases::Throughput;
    use clap::Parser as _;

    fn round(cpu: f64, calls_per_second: f64, failed: u64) -> Round {
        let latency = Latency {
            mean_us: 100.0,
            p50_us: 90.0,
            p99_us: 300.0,
        };
        Round {
            figures: Figures {
                calls_per_second,
                proxies_cpu_us_per_call: cpu,
                loaded: latency,
                single: latency,
            },
            open: vec![Open {
                rate: 2000.0,
                fixed: true,
                latency,
            }],
            answered: 1000 - failed,
            failed,
            first_failure: (failed > 0).then(|| "grpc-status 14: nobody".to_owned()),
        }
    }

    fn pair(kind: Kind, cpus: [f64; 3], failed: u64) -> PairReport {
        let rounds = cpus.map(|cpu| round(cpu, 1e6 / cpu, 0)).into_iter();
        let mut rounds: Vec<Round> = rounds.collect();
        rounds[1].failed = failed;
        let process = |name, part, idle_kib| ProcessReport {
            name,
            part,
            threads: 1,
            cpu_us_per_call: 5.0,
            memory: Memory {
                idle_kib,
                loaded_kib: 2 * idle_kib,
                peak_kib: 3 * idle_kib,
            },
        };
        let processes = vec![
            process("echo server", Some(Part::Echo), 3000),
            process("callee's proxy", Some(Part::Proxy), 4096),
            process("caller's proxy", Some(Part::Proxy), 2048),
            process("load generator", None, 9000),
        ];
        let bulk = cpus.map(|cpu| BulkRound {
            figures: Bulk {
                large: Some(Throughput {
                    per_second: 1e5 / cpu,
                    proxies_cpu_us: 10.0 * cpu,
                }),
                ..Bulk::default()
            },
            answered: 10,
            failed: 0,
            first_failure: None,
        });
        let anew = cpus.map(|cpu| HandshakeRound {
            figures: Handshakes {
                per_second: 1e4 / cpu,
                callee_cpu_us: 50.0 * cpu,
            },
            answered: 10,
            ..HandshakeRound::default()
        });
        let anew = if kind.is_tls() {
            anew.to_vec()
        } else {
            Vec::new()
        };
        PairReport::new(kind, rounds, bulk.to_vec(), anew, processes).unwrap()
    }

    /// A report as three rounds could have made it.
    pub(crate) fn report(failed: u64) -> Report {
        let run = crate::args::CommandLine::try_parse_from(["sidelane-bench"])
            .unwrap()
            .calls;
        let machine = Machine {
            processors: 2,
            kernel: "6.1".to_owned(),
            optimised: true,
        };
        let pairs = vec![
            pair(Kind::Bare, [10.0, 20.0, 40.0], 0),
            pair(Kind::Sidelane, [11.0, 26.0, 48.0], failed),
            pair(Kind::Policies, [22.0, 26.0, 60.0], 0),
            pair(Kind::BareTls, [20.0, 20.0, 40.0], 0),
            pair(Kind::SidelaneTls, [22.0, 26.0, 40.0], 0),
        ];
        Report::new(Settings::of(&run).unwrap(), machine, pairs)
    }

    #[test]
    fn ratios_are_taken_by_round_before_their_median() {
        let ratio = report(0).sidelane_to_bare.unwrap().cpu_per_call;
        assert_eq!(ratio.rounds, [1.1, 1.3, 1.2]);
        assert_eq!(
            ratio.median,
            Some(1.2),
            "26/20, the ratio of the medians, would be 1.3"
        );
    }

    #[test]
    fn policies_are_compared_with_none_and_with_bare() {
        let report = report(0);
        let to_none = report.policies_to_sidelane.unwrap().cpu_per_call;
        assert_eq!(to_none.rounds, [2.0, 1.0, 1.25]);
        let to_bare = report.policies_to_bare.unwrap().cpu_per_call;
        assert_eq!(to_bare.rounds, [2.2, 1.3, 1.5]);
    }

    #[test]
    fn pairs_in_mtls_are_compared_with_each_other_and_with_the_clear() {
        let report = report(0);
        let to_bare = report.sidelane_tls_to_bare_tls.unwrap();
        assert_eq!(to_bare.cpu_per_call.rounds, [1.1, 1.3, 1.0]);
        assert_eq!(to_bare.handshake_cpu.rounds, [1.1, 1.3, 1.0]);
        let to_clear = report.sidelane_tls_to_sidelane.unwrap();
        assert_eq!(to_clear.cpu_per_call.rounds, [2.0, 1.0, 40.0 / 48.0]);
        assert_eq!(to_clear.handshake_cpu.median, None, "none in the clear");
        assert!(report.sidelane_tls_to_envoy_tls.is_none());
    }

    #[test]
    fn ratios_in_bulk_are_those_of_what_both_did() {
        let ratios = report(0).sidelane_to_bare.unwrap();
        assert_eq!(ratios.large_cpu_per_call.rounds, [1.1, 1.3, 1.2]);
        assert_eq!(ratios.chat_cpu_per_message.median, None);
    }

    #[test]
    fn a_ratio_to_nothing_is_left_out() {
        let ratio = Ratio::of([f64::INFINITY, 2.0, f64::NAN].into_iter());
        assert_eq!((ratio.median, ratio.rounds), (Some(2.0), vec![2.0]));
    }

    #[test]
    fn memory_of_a_pair_is_that_of_its_proxies() {
        assert_eq!(report(0).pairs[0].proxies(|memory| memory.idle_kib), 6144);
    }

    #[test]
    fn failures_are_summed() {
        assert_eq!(report(3).failed, 3);
    }

    #[test]
    fn the_json_keeps_its_names() {
        let json = serde_json::to_value(report(0)).unwrap();
        assert_eq!(json["settings"]["payload_bytes"], 128);
        assert_eq!(json["machine"]["processors"], 2);
        assert_eq!(json["failed"], 0);
        assert_eq!(json["sidelane_to_bare"]["cpu_per_call"]["median"], 1.2);
        let bare = &json["pairs"][0];
        assert_eq!(bare["pair"], "bare");
        assert_eq!(bare["median"]["proxies_cpu_us_per_call"], 20.0);
        assert_eq!(bare["median"]["loaded"]["p99_us"], 300.0);
        assert_eq!(bare["median"]["single"]["mean_us"], 100.0);
        assert_eq!(bare["rounds"][2]["calls_per_second"], 25_000.0);
        assert_eq!(bare["rounds"][2]["answered"], 1000);
        assert_eq!(bare["open"][0]["latency"]["p99_us"], 300.0);
        assert_eq!(bare["bulk"]["large"]["per_second"], 5000.0);
        assert_eq!(bare["bulk"]["chat"], serde_json::Value::Null);
        assert_eq!(bare["handshakes"], serde_json::Value::Null);
        let secured = &json["pairs"][4];
        assert_eq!(secured["pair"], "sidelane-tls");
        assert_eq!(secured["handshakes"]["callee_cpu_us"], 1300.0);
        assert_eq!(secured["handshake_rounds"][0]["answered"], 10);
        assert_eq!(
            json["sidelane_tls_to_bare_tls"]["cpu_per_call"]["median"],
            1.1
        );
        assert_eq!(json["aims"][0]["met"], false);
        assert_eq!(bare["processes"][1]["part"], "proxy");
        assert_eq!(bare["processes"][1]["memory"]["peak_kib"], 3 * 4096);
        assert_eq!(bare["processes"][3]["part"], serde_json::Value::Null);
    }
}

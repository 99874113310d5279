//! What rules say of the calls that are admitted.

use serde::Deserialize;
use serde_saphyr::Spanned;
use sidelane_proto::wire::routing::v1 as wire;

use super::{Flag, Number, Reader, Text, Texts};

const SHARES: [&str; 3] = ["CALLER", "METHOD", "LANE"];

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Limit {
    requests_per_second: Spanned<u32>,
    burst: Number,
    per: Texts,
    outbound: Flag,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Concurrency {
    max_in_flight: Number,
    adaptive: Option<Spanned<Adaptive>>,
    queue: Number,
    longest_wait: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Adaptive {
    min: Number,
    max: Number,
    tolerance_percent: Number,
    remeasure: Text,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    delay_percent: Number,
    delay: Text,
    abort_percent: Number,
    abort_status: Text,
    header: Text,
    header_value: Text,
}

impl Reader {
    pub(super) fn limits(&mut self, path: &str, limits: Vec<Limit>) -> Vec<wire::Limit> {
        let limits = limits.into_iter().enumerate();
        let limits = limits.map(|(index, limit)| {
            let path = format!("{path}.limits[{index}]");
            let shares = self.texts(&path, "per", limit.per);
            let per = shares.iter().enumerate().map(|(index, word)| {
                let path = format!("{path}.per[{index}]");
                let known = wire::Per::from_str_name(word).map(i32::from);
                self.known(&path, word, "share", &SHARES, known)
            });
            let per = per.collect();
            wire::Limit {
                requests_per_second: self.first(
                    &path,
                    "requests_per_second",
                    limit.requests_per_second,
                ),
                burst: self.take(&path, "burst", limit.burst),
                per,
                outbound: self.take(&path, "outbound", limit.outbound),
            }
        });
        limits.collect()
    }

    pub(super) fn concurrency(&mut self, path: &str, it: Concurrency) -> wire::Concurrency {
        let path = format!("{path}.concurrency");
        let adaptive = it.adaptive.map(|adaptive| {
            let path = format!("{path}.adaptive");
            self.note(path.clone(), adaptive.referenced);
            let adaptive = adaptive.value;
            wire::Adaptive {
                min: self.said(&path, "min", adaptive.min),
                max: self.said(&path, "max", adaptive.max),
                tolerance_percent: self.said(
                    &path,
                    "tolerance_percent",
                    adaptive.tolerance_percent,
                ),
                remeasure: self.take(&path, "remeasure", adaptive.remeasure),
            }
        });
        wire::Concurrency {
            max_in_flight: self.take(&path, "max_in_flight", it.max_in_flight),
            adaptive,
            queue: self.take(&path, "queue", it.queue),
            longest_wait: self.take(&path, "longest_wait", it.longest_wait),
        }
    }

    pub(super) fn fault(&mut self, path: &str, fault: Fault) -> wire::Fault {
        let path = format!("{path}.fault");
        wire::Fault {
            delay_percent: self.take(&path, "delay_percent", fault.delay_percent),
            delay: self.take(&path, "delay", fault.delay),
            abort_percent: self.take(&path, "abort_percent", fault.abort_percent),
            abort_status: self.take(&path, "abort_status", fault.abort_status),
            header: self.take(&path, "header", fault.header),
            header_value: self.take(&path, "header_value", fault.header_value),
        }
    }
}

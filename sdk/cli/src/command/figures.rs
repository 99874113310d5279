//! The figures of sidecars, as `sidelane lanes` and `sidelane top` show them: read from `/metrics` of
//! each that is asked, by the names that deploy/METRICS.md lists.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::Value;
use sidelane_process::settings::{Flag, Settings};

use super::Failure;
use super::arguments::plain;
use super::sidecar::{self, SidecarError};

/// How long a sidecar may take to answer.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

/// Who is asked.
pub(super) const SIDECARS: Flag = Flag::list(
    "sidecar",
    "URL,…",
    "Admin ports of the sidecars that are asked; or $SIDELANE_SIDECAR",
)
.or("http://127.0.0.1:15000");

/// One sidecar.
pub(super) struct Asked {
    base: String,
    /// Its node's name; its address where it does not say.
    pub(super) node: String,
}

/// What one sidecar counts, at one moment.
#[derive(Debug, Default)]
pub(super) struct Figures(Vec<Sample>);

#[derive(Debug, PartialEq)]
struct Sample {
    name: String,
    labels: BTreeMap<String, String>,
    value: f64,
}

/// Finds out who answers at each address.
pub(super) async fn asked(bases: Vec<String>) -> Result<Vec<Asked>, SidecarError> {
    let mut asked = Vec::new();
    for base in bases {
        let page = sidecar::get(&base, "/config", ANSWER_LIMIT).await?;
        let config: Value = serde_json::from_slice(&page.body).unwrap_or_default();
        let node = config["node"].as_str().unwrap_or(&base).to_owned();
        asked.push(Asked { base, node });
    }
    Ok(asked)
}

/// The addresses that are asked.
pub(super) fn bases(settings: &Settings) -> Result<Vec<String>, Failure> {
    let given: Vec<String> = settings.list(&SIDECARS, plain)?;
    Ok(given.iter().map(|given| sidecar::url(given)).collect())
}

impl Asked {
    /// What it counts now.
    pub(super) async fn figures(&self) -> Result<Figures, SidecarError> {
        let page = sidecar::get(&self.base, "/metrics", ANSWER_LIMIT).await?;
        Ok(Figures::read(&page.text()))
    }
}

impl Figures {
    /// Reads Prometheus text; lines that are no samples are left out.
    pub(super) fn read(text: &str) -> Self {
        Self(text.lines().filter_map(sample).collect())
    }

    /// The values of these labels that samples of this name have, each once, in order.
    pub(super) fn groups(&self, name: &str, labels: &[&str]) -> Vec<Vec<String>> {
        let of_name = self.0.iter().filter(|sample| sample.name == name);
        let of = |sample: &Sample, label: &&str| sample.labels.get(*label).cloned();
        let groups = of_name.map(|sample| {
            let values = labels
                .iter()
                .map(|label| of(sample, label).unwrap_or_default());
            values.collect::<Vec<_>>()
        });
        let mut groups: Vec<_> = groups.collect();
        groups.sort();
        groups.dedup();
        groups
    }

    /// The sum of this name's samples that have all of these labels.
    pub(super) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.with(name, labels).map(|sample| sample.value).sum()
    }

    /// The sums of a histogram's buckets of these labels, by their bounds.
    pub(super) fn buckets(&self, name: &str, labels: &[(&str, &str)]) -> Vec<(f64, f64)> {
        let name = format!("{name}_bucket");
        let buckets = self.with(&name, labels).map(|sample| {
            let bound = sample.labels.get("le").and_then(|bound| bound.parse().ok());
            (bound.unwrap_or(f64::INFINITY), sample.value)
        });
        let mut buckets: Vec<_> = buckets.collect();
        buckets.sort_by(|one, other| one.0.total_cmp(&other.0));
        buckets
    }

    fn with<'a>(&'a self, name: &str, labels: &[(&str, &str)]) -> impl Iterator<Item = &'a Sample> {
        let has = |sample: &Sample| {
            let of = |(label, value): &(&str, &str)| {
                sample.labels.get(*label).is_some_and(|it| it == value)
            };
            sample.name == name && labels.iter().all(of)
        };
        let found: Vec<_> = self.0.iter().filter(|sample| has(sample)).collect();
        found.into_iter()
    }
}

/// A quantile of what came between two looks at a histogram, as Prometheus' `histogram_quantile` has
/// it: within its bucket values are taken to lie evenly, and beyond the last bound is that bound.
pub(super) fn quantile(quantile: f64, before: &[(f64, f64)], after: &[(f64, f64)]) -> Option<f64> {
    let earlier = |bound: f64| {
        let known = before.iter().find(|(known, _)| *known >= bound);
        known.map_or(0.0, |(_, count)| *count)
    };
    let came = after
        .iter()
        .map(|(bound, count)| (*bound, count - earlier(*bound)));
    let came: Vec<_> = came.collect();
    let wanted = quantile * came.last().filter(|(_, all)| *all > 0.0)?.1;
    let place = came.iter().position(|(_, count)| *count >= wanted)?;
    let (below, under) = match place.checked_sub(1) {
        Some(before) => came[before],
        None => (0.0, 0.0),
    };
    let (bound, count) = came[place];
    if bound.is_infinite() {
        return Some(below);
    }
    Some(below + (bound - below) * (wanted - under) / (count - under).max(1.0))
}

fn sample(line: &str) -> Option<Sample> {
    let (key, value) = line.rsplit_once(' ').filter(|_| !line.starts_with('#'))?;
    let (name, labels) = match key.split_once('{') {
        None => (key, ""),
        Some((name, rest)) => (name, rest.strip_suffix('}')?),
    };
    // No value of a label that is read here has a quotation mark in it.
    let pairs = labels
        .split("\",")
        .filter_map(|pair| pair.split_once("=\""));
    let pairs =
        pairs.map(|(label, value)| (label.to_owned(), value.trim_end_matches('"').to_owned()));
    Some(Sample {
        name: name.to_owned(),
        labels: pairs.collect(),
        value: value.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "# TYPE calls_total counter\n\
                        calls_total{lane=\"gossip\",side=\"dialled\"} 4\n\
                        calls_total{lane=\"general\",side=\"dialled\"} 3\n\
                        calls_total{lane=\"general\",side=\"accepted\"} 2\n\
                        open 7\n\
                        took_bucket{lane=\"general\",le=\"0.1\"} 1\n\
                        took_bucket{lane=\"general\",le=\"+Inf\"} 5\n";

    #[test]
    fn figures_are_found_by_their_labels() {
        let figures = Figures::read(TEXT);
        assert_eq!(figures.sum("calls_total", &[("lane", "general")]), 5.0);
        assert_eq!(figures.sum("open", &[]), 7.0);
        assert_eq!(
            figures.groups("calls_total", &["lane"]),
            [["general"], ["gossip"]]
        );
        let buckets = figures.buckets("took", &[("lane", "general")]);
        assert_eq!(buckets, [(0.1, 1.0), (f64::INFINITY, 5.0)]);
    }

    #[test]
    fn quantiles_are_of_what_came_between_two_looks() {
        let before = [(0.1, 10.0), (0.2, 10.0), (f64::INFINITY, 10.0)];
        let after = [(0.1, 20.0), (0.2, 20.0), (f64::INFINITY, 20.0)];
        let close = |found: Option<f64>, expected: f64| {
            assert!(
                (found.unwrap() - expected).abs() < 1e-9,
                "{found:?} {expected}"
            );
        };
        close(quantile(0.5, &before, &after), 0.05);
        let slower = [(0.1, 15.0), (0.2, 20.0), (f64::INFINITY, 20.0)];
        close(quantile(0.99, &before, &slower), 0.198);
        let slow = [(0.1, 10.0), (0.2, 10.0), (f64::INFINITY, 20.0)];
        close(quantile(0.5, &before, &slow), 0.2);
        assert_eq!(quantile(0.5, &after, &after), None);
        // Its first calls.
        close(quantile(0.5, &[], &before), 0.05);
    }
}

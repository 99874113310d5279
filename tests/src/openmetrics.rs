//! A reader of `OpenMetrics` 1.0 that takes nothing that the document does not allow, for pages of
//! this project: it has no native histograms, no timestamps of samples, and no info metrics.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail, ensure};

/// What a page says of one figure.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Family {
    /// counter, gauge, histogram or summary.
    pub kind: String,
    /// For people.
    pub help: String,
    /// The labels that its samples have, without `le`.
    pub labels: BTreeSet<String>,
    /// How many samples there are.
    pub samples: usize,
    /// The exemplars of its buckets, as they are written.
    pub exemplars: Vec<String>,
    /// Of each histogram, the bounds and counts so far.
    buckets: BTreeMap<String, Vec<(f64, f64)>>,
}

/// Reads a whole page.
///
/// # Errors
/// The first line that is not as it must be.
pub fn read(text: &str) -> Result<BTreeMap<String, Family>> {
    let text = text
        .strip_suffix("# EOF\n")
        .context("no `# EOF` at the end")?;
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut series = BTreeSet::new();
    let mut name = String::new();
    for line in text.lines() {
        let read = || -> Result<()> {
            if let Some(rest) = line.strip_prefix("# ") {
                let (what, rest) = rest.split_once(' ').context("no name")?;
                let (of, said) = rest.split_once(' ').context("nothing is said")?;
                if what == "TYPE" {
                    ensure!(is_name(of), "`{of}` is no name");
                    let kinds = ["counter", "gauge", "histogram", "summary"];
                    ensure!(kinds.contains(&said), "`{said}` is no type");
                    let fresh = Family {
                        kind: said.to_owned(),
                        ..Family::default()
                    };
                    ensure!(!of.ends_with("_total"), "a family has no _total");
                    ensure!(
                        families.insert(of.to_owned(), fresh).is_none(),
                        "told twice"
                    );
                    of.clone_into(&mut name);
                    return Ok(());
                }
                ensure!(of == name, "not of the family that this is in");
                let family = families.get_mut(of).context("no TYPE before")?;
                ensure!(family.samples == 0, "behind samples");
                match what {
                    "HELP" => said.clone_into(&mut family.help),
                    "UNIT" => ensure!(of.ends_with(&format!("_{said}")), "not in the name"),
                    _ => bail!("`{what}` is nothing"),
                }
                return Ok(());
            }
            let family = families.get_mut(&name).context("no family yet")?;
            let key = sample(line, &name, family)?;
            ensure!(series.insert(key), "the same series twice");
            Ok(())
        };
        let mut read = read;
        read().with_context(|| line.to_owned())?;
    }
    for (name, family) in &families {
        clashes(name, family, &families)?;
        for buckets in family.buckets.values() {
            ensure!(
                buckets
                    .windows(2)
                    .all(|two| two[0].0 < two[1].0 && two[0].1 <= two[1].1),
                "{name}: buckets go down"
            );
            let last = buckets.last().map(|(bound, _)| *bound);
            ensure!(last == Some(f64::INFINITY), "{name}: no +Inf");
        }
    }
    Ok(families)
}

/// Reads one sample of a family, and gives what no other sample may have.
fn sample(line: &str, name: &str, family: &mut Family) -> Result<String> {
    let (line, exemplar) = match line.split_once(" # {") {
        Some((line, exemplar)) => (line, Some(exemplar)),
        None => (line, None),
    };
    let (key, value) = line.rsplit_once(' ').context("no value")?;
    let value: f64 = value.parse().context("no number")?;
    let (of, labels) = match key.split_once('{') {
        Some((of, labels)) => (of, labels.strip_suffix('}').context("no }")?),
        None => (key, ""),
    };
    let suffix = of.strip_prefix(name).context("of another family")?;
    let may = match family.kind.as_str() {
        "counter" => suffix == "_total",
        "gauge" => suffix.is_empty(),
        "histogram" => ["_bucket", "_sum", "_count"].contains(&suffix),
        _ => ["_sum", "_count"].contains(&suffix),
    };
    ensure!(may, "`{suffix}` does not end a {}", family.kind);
    ensure!(family.kind == "gauge" || value >= 0.0, "below nothing");
    let mut labels = pairs(labels)?;
    if suffix == "_bucket" {
        let bound = labels.remove("le").context("no le")?;
        let bound = match bound.as_str() {
            "+Inf" => f64::INFINITY,
            bound => {
                ensure!(bound.contains('.'), "a bound without a point");
                bound.parse().context("no bound")?
            }
        };
        let of = format!("{labels:?}");
        family.buckets.entry(of).or_default().push((bound, value));
    } else {
        ensure!(exemplar.is_none(), "an exemplar of no bucket");
    }
    if let Some(exemplar) = exemplar {
        let (labels, rest) = exemplar
            .split_once("} ")
            .context("no end of the exemplar")?;
        let length: usize = pairs(labels)?
            .iter()
            .map(|(name, value)| name.len() + value.len())
            .sum();
        ensure!(length <= 128, "an exemplar of {length} characters");
        let numbers: Result<Vec<f64>, _> = rest.split(' ').map(str::parse).collect();
        ensure!(
            numbers.is_ok_and(|it| (1..=2).contains(&it.len())),
            "no exemplar"
        );
        family.exemplars.push(labels.to_owned());
    }
    family.labels.extend(labels.into_keys());
    family.samples += 1;
    Ok(key.to_owned())
}

fn pairs(mut text: &str) -> Result<BTreeMap<String, String>> {
    let mut pairs = BTreeMap::new();
    while !text.is_empty() {
        let (name, rest) = text.split_once("=\"").context("no value of a label")?;
        ensure!(is_name(name), "`{name}` is no label");
        let mut value = String::new();
        let mut characters = rest.char_indices();
        let end = loop {
            match characters.next().context("no end of a label")? {
                (at, '"') => break at,
                (_, '\\') => match characters.next().context("no end of a label")?.1 {
                    'n' => value.push('\n'),
                    other @ ('\\' | '"') => value.push(other),
                    other => bail!("`\\{other}` is nothing"),
                },
                (_, other) => value.push(other),
            }
        };
        ensure!(
            pairs.insert(name.to_owned(), value).is_none(),
            "{name} twice"
        );
        let rest = &rest[end + 1..];
        text = match rest.strip_prefix(',') {
            Some(more) => more,
            None if rest.is_empty() => rest,
            None => bail!("`{rest}` behind a label"),
        };
    }
    Ok(pairs)
}

/// No other family may have a name that samples of this one have, or will have.
fn clashes(name: &str, family: &Family, all: &BTreeMap<String, Family>) -> Result<()> {
    let taken: &[&str] = match family.kind.as_str() {
        "counter" => &["_total", "_created"],
        "gauge" => &[],
        _ => &["_bucket", "_sum", "_count", "_created"],
    };
    for suffix in taken {
        let other = format!("{name}{suffix}");
        ensure!(!all.contains_key(&other), "{other} is taken by {name}");
    }
    Ok(())
}

fn is_name(text: &str) -> bool {
    let letters = |it: u8| it.is_ascii_alphanumeric() || it == b'_' || it == b':';
    let begins = text.bytes().next().is_some_and(|it| !it.is_ascii_digit());
    begins && text.bytes().all(letters)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_right_is_read() {
        let families = read(
            "# TYPE a counter\n# HELP a Of a.\na_total{b=\"x \\\"y\\\"\"} 1\n\
             # TYPE t_seconds histogram\n# UNIT t_seconds seconds\n\
             t_seconds_bucket{le=\"0.5\"} 1 # {trace_id=\"abc\"} 0.2 1700000000.000\n\
             t_seconds_bucket{le=\"+Inf\"} 2\nt_seconds_sum 3.5\nt_seconds_count 2\n# EOF\n",
        )
        .unwrap();
        assert_eq!(
            (families["a"].samples, families["a"].help.as_str()),
            (1, "Of a.")
        );
        assert_eq!(families["t_seconds"].exemplars, ["trace_id=\"abc\""]);
    }

    #[test]
    fn what_is_wrong_is_refused() {
        for wrong in [
            "",
            "# TYPE a counter\na_total 1\n",
            "# TYPE a counter\na 1\n# EOF\n",
            "# TYPE a counter\na_total -1\n# EOF\n",
            "# TYPE a_total counter\n# EOF\n",
            "# TYPE a gauge\na 1\na 1\n# EOF\n",
            "# TYPE a gauge\na one\n# EOF\n",
            "# TYPE a gauge\n# TYPE b gauge\na 1\n# EOF\n",
            "# TYPE a gauge\na 1\n# HELP a Late.\n# EOF\n",
            "# TYPE a counter\n# TYPE a gauge\n# EOF\n",
            "# TYPE a gauge\n# UNIT a seconds\n# EOF\n",
            "# TYPE a gauge\na{b=\"c} 1\n# EOF\n",
            "# TYPE a gauge\na{b=\"c\",b=\"d\"} 1\n# EOF\n",
            "# TYPE a gauge\na 1 # {t=\"x\"} 1\n# EOF\n",
            "# TYPE a histogram\na_bucket{le=\"1\"} 1\na_bucket{le=\"+Inf\"} 1\n# EOF\n",
            "# TYPE a histogram\na_bucket{le=\"1.0\"} 2\na_bucket{le=\"+Inf\"} 1\n# EOF\n",
            "# TYPE a histogram\na_bucket{le=\"1.0\"} 1\n# EOF\n",
            "# TYPE a histogram\n# TYPE a_count gauge\n# EOF\n",
            "a 1\n# EOF\n",
            "# EOF\n# TYPE a gauge\n",
        ] {
            assert!(read(wrong).is_err(), "{wrong}");
        }
    }
}

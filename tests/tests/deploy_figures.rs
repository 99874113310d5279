//! What the dashboard and the alert rules of `deploy/` ask for is there: each figure, and each label of
//! it, stands in `deploy/METRICS.md`, which another test holds to what programs tell.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a panic is a failed test"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use serde_json::Value;

/// What Prometheus itself says of each series, by deploy/compose/prometheus.yaml.
const ADDED: [&str; 4] = ["job", "instance", "node", "le"];
/// How many columns a dashboard has.
const COLUMNS: u64 = 24;

type Labels = BTreeSet<String>;

fn deploy(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../deploy")
        .join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Every figure with its labels. Those of a histogram are under the names of its parts.
fn listed() -> BTreeMap<String, Labels> {
    let mut listed = BTreeMap::new();
    for line in deploy("METRICS.md").lines() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, name, kind, labels, ..] = cells[..] else {
            continue;
        };
        let Some(name) = name
            .strip_prefix('`')
            .and_then(|name| name.strip_suffix('`'))
        else {
            continue;
        };
        let labels: Labels = labels.split(", ").map(str::to_owned).collect();
        let parts: &[&str] = match kind {
            "histogram" => &["_bucket", "_sum", "_count"],
            _ => &[""],
        };
        for part in parts {
            listed.insert(format!("{name}{part}"), labels.clone());
        }
    }
    assert!(listed.len() > 100, "only {} are listed", listed.len());
    listed
}

/// The words of a query, each with what stands between braces behind it.
fn words(query: &str) -> Vec<(&str, &str)> {
    let of_word = |one: char| one.is_ascii_alphanumeric() || one == '_';
    let mut found = Vec::new();
    let mut rest = query;
    while let Some(begin) = rest.find(of_word) {
        rest = &rest[begin..];
        let end = rest.find(|one| !of_word(one)).unwrap_or(rest.len());
        let word = &rest[..end];
        rest = &rest[end..];
        let braces = rest.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        found.push((word, braces.map_or("", |(inside, _)| inside)));
    }
    found
}

/// What is wrong with a query.
fn wrong(query: &str, listed: &BTreeMap<String, Labels>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut labels: Labels = ADDED.map(str::to_owned).into();
    for (word, matchers) in words(query) {
        if !word.starts_with("sidelane_") && !word.starts_with("process_") {
            continue;
        }
        let Some(of_it) = listed.get(word) else {
            wrong.push(format!("{word} is no figure"));
            continue;
        };
        labels.extend(of_it.iter().cloned());
        for matcher in matchers.split(',').filter(|matcher| !matcher.is_empty()) {
            let label = matcher.split(['=', '!']).next().unwrap_or_default().trim();
            if !of_it.contains(label) && !ADDED.contains(&label) {
                wrong.push(format!("{word} has no label {label}"));
            }
            let value = matcher.split('"').nth(1).unwrap_or_default();
            let values: &[&str] = match label {
                // As the programs tell it: by number.
                "status" if value.split('|').any(|it| it.parse::<u8>().is_err()) => &[],
                "side" => &["dialled", "accepted"],
                "direction" => &["outbound", "inbound"],
                _ => continue,
            };
            if !values.contains(&value) {
                wrong.push(format!("{label} is never {value}"));
            }
        }
    }
    for after in query.split(" by (").skip(1) {
        let list = after.split(')').next().unwrap_or_default();
        for label in list.split(',').map(str::trim) {
            if !labels.contains(label) {
                wrong.push(format!("nothing has the label {label} in {query}"));
            }
        }
    }
    wrong
}

#[test]
fn what_is_no_figure_is_found() {
    let listed = listed();
    let found = |query| wrong(query, &listed).join("; ");
    assert_eq!(
        found("sum by (service, le) (rate(sidelane_request_duration_seconds_bucket[5m]))"),
        ""
    );
    assert_eq!(
        found("rate(sidelane_request_duration_seconds[5m])"),
        "sidelane_request_duration_seconds is no figure"
    );
    assert_eq!(
        found("sidelane_requests_total{peer=\"a\",job=\"b\"}"),
        "sidelane_requests_total has no label peer"
    );
    assert_eq!(
        found("sum by (reason) (sidelane_requests_total)"),
        "nothing has the label reason in sum by (reason) (sidelane_requests_total)"
    );
    assert_eq!(
        found("sidelane_lane_connections{side=\"caller\"}"),
        "side is never caller"
    );
    assert_eq!(
        found("sidelane_responses_total{status!=\"OK\"}"),
        "status is never OK"
    );
}

#[test]
fn alert_rules_ask_for_figures_that_there_are() {
    let listed = listed();
    let text = deploy("prometheus/alerts.yaml");
    let rules: Vec<&str> = text.split("- alert: ").skip(1).collect();
    assert!(rules.len() >= 10, "{} rules", rules.len());
    for rule in rules {
        let name = rule.lines().next().unwrap();
        assert_eq!(wrong(rule, &listed), Vec::<String>::new(), "{name}");
        for part in ["expr:", "severity:", "summary:", "description:"] {
            assert!(rule.contains(part), "{name} has no {part}");
        }
    }
}

#[test]
fn the_dashboard_is_whole_and_asks_for_figures_that_there_are() {
    let listed = listed();
    let dashboard: Value = serde_json::from_str(&deploy("grafana/sidelane.json")).unwrap();
    let sources = deploy("compose/grafana/datasources.yaml");
    let variables = dashboard["templating"]["list"].as_array().unwrap().iter();
    let variables: BTreeSet<_> = variables.filter_map(|it| it["name"].as_str()).collect();
    assert_eq!(variables, ["service"].into());

    let panels = dashboard["panels"].as_array().unwrap();
    let (mut ids, mut titles, mut taken) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    let mut asked = 0;
    for panel in panels {
        let title = panel["title"].as_str().unwrap();
        assert!(titles.insert(title), "two panels are {title}");
        assert!(ids.insert(panel["id"].as_u64().unwrap()), "{title}");
        let place = |name: &str| panel["gridPos"][name].as_u64().unwrap();
        let (left, top) = (place("x"), place("y"));
        assert!(left + place("w") <= COLUMNS, "{title} is too wide");
        for column in left..left + place("w") {
            for line in top..top + place("h") {
                assert!(taken.insert((column, line)), "{title} covers another panel");
            }
        }
        match panel["type"].as_str().unwrap() {
            "row" => continue,
            "stat" | "timeseries" => {}
            other => panic!("{title} is a {other}"),
        }
        let mut letters = BTreeSet::new();
        for target in panel["targets"].as_array().unwrap() {
            asked += 1;
            assert!(letters.insert(target["refId"].as_str().unwrap()), "{title}");
            let source = target["datasource"]["uid"].as_str().unwrap();
            assert!(sources.contains(&format!("uid: {source}\n")), "{title}");
            let query = target["expr"].as_str().unwrap();
            assert_eq!(wrong(query, &listed), Vec::<String>::new(), "{title}");
            // What a line is called is what the query tells apart.
            let legend = target["legendFormat"].as_str().unwrap();
            for label in legend
                .split("{{")
                .skip(1)
                .map(|it| it.split("}}").next().unwrap())
            {
                let told = query.contains(&format!("{label})"))
                    || query.contains(&format!("{label},"))
                    || ADDED.contains(&label);
                assert!(told, "{title}: {label} is not told apart by {query}");
            }
        }
    }
    assert!(asked >= 20, "{asked} queries");
}

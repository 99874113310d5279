//! What is wrong by what a sidecar says of itself.

use serde_json::Value;

use super::finding::Finding;
use super::look::{Pages, Sidecar};

/// All that is wrong with it.
pub(super) fn findings(sidecar: &Sidecar) -> Vec<Finding> {
    let pages = match &sidecar.answered {
        Ok(pages) => pages,
        Err(why) => {
            let advice = "start it, or say where its admin port is: --sidecar URL";
            let url = sidecar.url.as_str();
            return vec![Finding::problem(
                "sidecar_unreachable",
                url,
                why.as_str(),
                advice,
            )];
        }
    };
    let node = pages.config["node"].as_str().unwrap_or(&sidecar.url);
    let mut found: Vec<Finding> = Vec::new();
    found.extend(pages.clock.and_then(|clock| clock.finding(node)));
    found.extend(of_control(node, pages));
    found.extend(of_certificate(node, pages));
    found.extend(unready(node, pages));
    found.extend(of_disk(node, &pages.ready));
    found.extend(of_trust(node, &pages.config));
    found
}

/// How it stands with control.
fn of_control(node: &str, pages: &Pages) -> Option<Finding> {
    let said = pages.config["control"].as_str()?;
    if said.starts_with("NODE_REPLACED") {
        let advice = "stop one of the two, or give each a --node of its own";
        return Some(Finding::problem("node_replaced", node, said, advice));
    }
    if said.starts_with("control refused") {
        let advice = "see the reason; a token for it is made by `sidelane token --node NAME`";
        return Some(Finding::problem("control_refused", node, said, advice));
    }
    if is_connected(said) {
        return None;
    }
    let advice = "start control, or say where it is with --control HOST:PORT";
    let finding = Finding::problem("control_away", node, said, advice);
    // With a picture of the mesh it works on.
    let works = pages.config["version"].is_string();
    Some(if works { finding.only_warns() } else { finding })
}

/// By what a sidecar says of control, it has one.
pub(super) fn is_connected(said: &str) -> bool {
    said.starts_with("connected")
}

fn of_certificate(node: &str, pages: &Pages) -> Option<Finding> {
    let certificate = &pages.config["certificate"];
    let trouble = certificate["source"]["trouble"].as_str();
    let why = trouble.map(|why| format!(" ({why})")).unwrap_or_default();
    let left = certificate["until"].as_i64()?.saturating_sub(pages.now);
    let advice =
        "see that control, its files or its agent can renew it, and that the clocks are right";
    if left <= 0 {
        let what = format!("its certificate ended {} s ago{why}", left.saturating_abs());
        return Some(Finding::problem("certificate_ended", node, what, advice));
    }
    trouble?;
    let what = format!("its certificate is not renewed{why}, and ends in {left} s");
    Some(Finding::problem("certificate_not_renewed", node, what, advice).only_warns())
}

/// The lines of `/readyz` that say no.
fn unready(node: &str, pages: &Pages) -> Vec<Finding> {
    let lines = pages.ready.lines().filter_map(|line| {
        let (direction, why) = line.split_once(": not ready: ")?;
        let (calls, advice) = match direction {
            "outbound" => (
                "calls from its app fail",
                "mend that, and it is ready by itself",
            ),
            _ => (
                "no calls come to its app",
                "see that the service runs where --serve says, and answers its health checks",
            ),
        };
        let what = format!("{calls}: {why}");
        Some(Finding::problem("not_ready", node, what, advice))
    });
    lines.collect()
}

fn of_disk(node: &str, ready: &str) -> Option<Finding> {
    let line = ready
        .lines()
        .find(|line| line.contains("not kept on disk"))?;
    let advice = "make room, or give it a --data folder that it may write; it starts without control \
                  only with that picture";
    Some(Finding::problem("not_on_disk", node, line, advice).only_warns())
}

fn of_trust(node: &str, config: &Value) -> Option<Finding> {
    let mode = config["settings"]["trust"]["value"].as_str()?;
    let what = match mode {
        "disabled" => "it trusts everybody: its links are in the clear (--trust disabled)",
        "permissive" => "it takes peers without a certificate, too (--trust permissive)",
        _ => return None,
    };
    let advice = "start it with --trust strict once all nodes have certificates";
    Some(Finding::problem("not_strict", node, what, advice).only_warns())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::super::finding::{Offset, Weight};
    use super::*;

    fn pages() -> Pages {
        Pages {
            ready: "outbound: ready\ninbound: ready\n".to_owned(),
            config: json!({
                "node": "orders-1",
                "control": "connected to 127.0.0.1:15010 (0.1.0)",
                "version": "s:12",
                "certificate": { "until": 2_000, "source": { "kind": "control", "trouble": null } },
                "settings": { "trust": { "value": "strict", "origin": "default" } },
            }),
            clock: Some(Offset::between(1_000_000, 1_000_002, 1_000_001)),
            now: 1_000,
        }
    }

    fn broken(breaks: impl FnOnce(&mut Pages)) -> Vec<(&'static str, Weight, String)> {
        let mut pages = pages();
        breaks(&mut pages);
        let sidecar = Sidecar {
            url: "http://127.0.0.1:15000".to_owned(),
            answered: Ok(pages),
        };
        let found = findings(&sidecar).into_iter();
        found.map(|it| (it.kind, it.weight, it.text())).collect()
    }

    #[test]
    fn a_sidecar_that_is_well_has_no_findings() {
        assert_eq!(broken(|_| {}), []);
    }

    #[test]
    fn one_that_is_away_is_told_by_its_address() {
        let sidecar = Sidecar {
            url: "http://127.0.0.1:1".to_owned(),
            answered: Err("nobody is there".to_owned()),
        };
        let found = findings(&sidecar);
        assert_eq!(found.len(), 1);
        assert!(
            found[0]
                .text()
                .starts_with("http://127.0.0.1:1: nobody is there: start it"),
            "{found:?}"
        );
    }

    #[test]
    fn each_thing_that_is_broken_has_a_line_that_says_what_to_do() {
        type Breaks = fn(&mut Pages);
        let cases: [(Breaks, &str, Weight, &str); 11] = [
            (
                |it| it.clock = Some(Offset::between(0, 0, -400_000)),
                "clock_skew",
                Weight::Problem,
                "orders-1: its clock is 400 s behind this machine's: set the clocks",
            ),
            (
                |it| it.config["control"] = json!("NODE_REPLACED: generation 8 has taken over"),
                "node_replaced",
                Weight::Problem,
                "generation 8 has taken over: stop one of the two",
            ),
            (
                |it| it.config["control"] = json!("control refused this node: TOKEN: used already"),
                "control_refused",
                Weight::Problem,
                "used already: see the reason; a token",
            ),
            (
                |it| it.config["control"] = json!("control is away: connection refused"),
                "control_away",
                Weight::Warning,
                "orders-1: control is away: connection refused: start control",
            ),
            (
                |it| {
                    it.config["control"] = json!("connecting to control");
                    it.config["version"] = Value::Null;
                },
                "control_away",
                Weight::Problem,
                "orders-1: connecting to control: start control",
            ),
            (
                |it| it.now = 2_003,
                "certificate_ended",
                Weight::Problem,
                "orders-1: its certificate ended 3 s ago: see that control",
            ),
            (
                |it| it.config["certificate"]["source"]["trouble"] = json!("control is away"),
                "certificate_not_renewed",
                Weight::Warning,
                "its certificate is not renewed (control is away), and ends in 1000 s: see that control",
            ),
            (
                |it| it.ready = "outbound: ready\ninbound: not ready: a.B is down\n".to_owned(),
                "not_ready",
                Weight::Problem,
                "orders-1: no calls come to its app: a.B is down: see that the service runs",
            ),
            (
                |it| it.ready = "outbound: not ready: connecting\n".to_owned(),
                "not_ready",
                Weight::Problem,
                "orders-1: calls from its app fail: connecting: mend that",
            ),
            (
                |it| it.ready += "the picture of the mesh is not kept on disk: no space left\n",
                "not_on_disk",
                Weight::Warning,
                "no space left: make room",
            ),
            (
                |it| it.config["settings"]["trust"]["value"] = json!("disabled"),
                "not_strict",
                Weight::Warning,
                "its links are in the clear (--trust disabled): start it with --trust strict",
            ),
        ];
        for (breaks, kind, weight, text) in cases {
            let found = broken(breaks);
            assert_eq!(found.len(), 1, "{kind}: {found:?}");
            assert_eq!((found[0].0, found[0].1), (kind, weight));
            assert!(found[0].2.contains(text), "{found:?}");
        }
    }
}

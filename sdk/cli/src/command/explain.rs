//! `sidelane explain`: why a call would go where it would go. The sidecar decides, with the same
//! functions as for a real call; here its answer is shown, and nothing is concluded from it except
//! the exit code.

use std::ffi::OsString;
use std::fmt::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use comfy_table::CellAlignment;
use serde_json::Value;
use sidelane_process::settings::{Flag, Program};

use super::arguments::{self, Arguments, Format, OUTPUT, SIDECAR, Usage};
use super::output::Table;
use super::{Failure, block_on, output, sidecar};

/// How long a sidecar may take to answer. Nothing is called, so this is long.
const ANSWER_LIMIT: Duration = Duration::from_secs(5);

const NODE: Flag = Flag::single(
    "node",
    "NODE",
    "Ask for one node, as the header sidelane-node does",
);
const LANE: Flag = Flag::single(
    "lane",
    "LANE",
    "Ask for a lane, as the header sidelane-lane does",
);
const HASH: Flag = Flag::single("hash", "KEY", "The key of the header sidelane-hash");
const RULE: Flag = Flag::single(
    "rule",
    "RULE",
    "The caller's own rule, as the header sidelane-rule has it",
);

const HEADER: Flag = Flag::single(
    "header",
    "NAME: VALUE",
    "One more header of the call, such as one that forces a part of a traffic split",
);

const AS: Flag = Flag::single(
    "as",
    "IDENTITY",
    "Who calls, such as spiffe://mesh.example/ns/shop/sa/cart: may it? (the sidecar's own \
     identity if absent)",
);

/// The command as people see it.
pub(super) const USAGE: Usage = Usage {
    program: Program {
        name: "sidelane explain",
        version: env!("CARGO_PKG_VERSION"),
        about: "Tells where a call would go, and why",
        flags: &[NODE, LANE, HASH, RULE, HEADER, AS, SIDECAR, OUTPUT],
    },
    operand: Some("PATH"),
};

/// The sidecar gave no explanation.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ExplainError {
    /// It answered something else.
    #[error(
        "{url} answered {status}, which is no explanation: {answer}; is this a sidecar's --admin \
         address?"
    )]
    NoExplanation {
        /// What was asked.
        url: String,
        /// The HTTP status.
        status: http::StatusCode,
        /// The beginning of what it said.
        answer: String,
    },
}

/// Runs the command. The exit code is 1 where the call would be refused.
pub(super) fn run(given: Vec<OsString>) -> Result<ExitCode, Failure> {
    let Some(arguments) = arguments::read(&USAGE, given)? else {
        return Ok(ExitCode::SUCCESS);
    };
    let format = arguments.format()?;
    let sidecar = sidecar::base(&arguments.settings)?;
    let page = page(&arguments)?;
    let fetched = block_on(sidecar::get(&sidecar, &page, ANSWER_LIMIT))??;
    let explained = explanation(&fetched.body).ok_or_else(|| ExplainError::NoExplanation {
        answer: beginning(&fetched.text()),
        status: fetched.status,
        url: format!("{sidecar}{page}"),
    })?;
    match format {
        Format::Json => output::json(&explained)?,
        Format::Table => output::text(&text(&explained))?,
    }
    Ok(if refused(&explained) {
        ExitCode::FAILURE
    } else {
        ExitCode::SUCCESS
    })
}

fn page(arguments: &Arguments) -> Result<String, Failure> {
    let Some(path) = &arguments.operand else {
        return Err(Failure::NoOperand {
            operand: "the path of a call",
            example: "sidelane explain /shop.v1.Orders/Get",
        });
    };
    let mut page = format!("/explain?path={}", sidecar::escaped(path));
    for flag in [NODE, LANE, HASH, RULE, HEADER, AS] {
        if let Some(item) = arguments.settings.item(&flag) {
            // Writing into a String cannot fail.
            let _ = write!(page, "&{}={}", flag.name, sidecar::escaped(item.text()));
        }
    }
    Ok(page)
}

/// An explanation is known by its path; other programs' JSON has none.
fn explanation(body: &[u8]) -> Option<Value> {
    let value: Value = serde_json::from_slice(body).ok()?;
    value.get("path")?.is_string().then_some(value)
}

fn refused(explained: &Value) -> bool {
    !word(&explained["error"]).is_empty()
}

fn beginning(answer: &str) -> String {
    /// Enough for an error's text, and less than a page of HTML.
    const SHOWN: usize = 200;
    let line = answer.trim().chars().take(SHOWN).collect::<String>();
    if line.is_empty() {
        "nothing".to_owned()
    } else {
        line
    }
}

fn text(explained: &Value) -> String {
    let mut text = format!("{}\n\n", word(&explained["path"]));
    let _ = writeln!(text, "rule        {}", rule(explained));
    let policy = explained["policy"].as_array();
    if let Some(policy) = policy.filter(|policy| !policy.is_empty()) {
        text.push_str("\npolicy\n");
        text.push_str(&values(policy));
    }
    if let Some(steps) = explained["steps"]
        .as_array()
        .filter(|steps| !steps.is_empty())
    {
        text.push_str("\nsteps\n");
        for (index, step) in steps.iter().enumerate() {
            let _ = writeln!(text, "  {}. {}", index + 1, word(step));
        }
    }
    if explained["authorized"].is_object() {
        text.push_str(&authorized(&explained["authorized"]));
    }
    let candidates = explained["candidates"].as_array();
    if let Some(candidates) = candidates.filter(|candidates| !candidates.is_empty()) {
        text.push_str("\ncandidates\n");
        text.push_str(&table(candidates));
    }
    let _ = if refused(explained) {
        let (error, message) = (word(&explained["error"]), word(&explained["message"]));
        writeln!(text, "\nrefused     {error}: {message}")
    } else {
        writeln!(text, "\npick        {}", or_dash(&explained["pick"]))
    };
    text
}

fn rule(explained: &Value) -> String {
    let rule = &explained["rule"];
    if !rule.is_object() {
        return "none".to_owned();
    }
    let mut parts = vec![
        word(&rule["service"]),
        word(&rule["class"]).to_lowercase(),
        format!("lane {}", word(&rule["lane"])),
    ];
    for property in ["secure", "persistent"] {
        if rule[property] == true {
            parts.push(property.to_owned());
        }
    }
    for named in ["load_balancing", "category"] {
        let value = word(&rule[named]);
        if !value.is_empty() {
            parts.push(value);
        }
    }
    let (source, origin) = (word(&explained["rule_source"]), word(&rule["origin"]));
    let from = [source, origin].into_iter().filter(|part| !part.is_empty());
    let from = from.collect::<Vec<_>>().join(", ");
    format!("{} ({from})", parts.join(", "))
}

/// The values of the rule that holds, and whose word each is.
fn values(policy: &[Value]) -> String {
    let mut table = Table::new(&["value", "is", "from"]);
    for value in policy {
        table.row(["name", "value", "from"].map(|column| or_dash(&value[column])));
    }
    table.text()
}

/// Who calls, whether that is allowed, and by whose word.
fn authorized(authorized: &Value) -> String {
    let [identity, verdict, by, from] =
        ["identity", "verdict", "by", "from"].map(|field| word(&authorized[field]));
    let identity = match identity.as_str() {
        "" => "a caller that is not known",
        identity => identity,
    };
    let by = match by.as_str() {
        "" => "no entry fits".to_owned(),
        by => format!("by {by}"),
    };
    format!("\ncaller      {identity}: {verdict}, {by} ({from})\n")
}

fn table(candidates: &[Value]) -> String {
    let mut table = Table::new(&[
        "node",
        "generation",
        "address",
        "health",
        "in flight",
        "weight",
        "near",
        "eligible",
        "why not",
    ]);
    table.align(4, CellAlignment::Right);
    table.align(5, CellAlignment::Right);
    for candidate in candidates {
        table.row([
            or_dash(&candidate["node_id"]),
            or_dash(&candidate["generation"]),
            or_dash(&candidate["address"]),
            or_dash(&candidate["health"]).to_lowercase(),
            or_dash(&candidate["in_flight"]),
            weight(candidate),
            or_dash(&candidate["nearness"]),
            if candidate["eligible"] == true {
                "yes"
            } else {
                "no"
            }
            .to_owned(),
            word(&candidate["reason"]),
        ]);
    }
    table.text()
}

/// What of its weight an endpoint gets at present, where that is not all.
fn weight(candidate: &Value) -> String {
    let weight = or_dash(&candidate["weight"]);
    match candidate["warmth"].as_u64() {
        None | Some(100) => weight,
        Some(percent) => format!("{percent} % of {weight}"),
    }
}

/// A value as people read it; nothing where there is none.
fn word(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn or_dash(value: &Value) -> String {
    let text = word(value);
    if text.is_empty() {
        "-".to_owned()
    } else {
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn explained() -> Value {
        json!({
            "path": "/shop.v1.Orders/Get",
            "rule": {
                "service": "shop.v1.Orders", "category": "WORKER", "class": "Internal",
                "lane": "general", "secure": false, "persistent": true,
                "load_balancing": "ROUND_ROBIN", "origin": "rules.rs:30",
            },
            "rule_source": "compiled",
            "policy": [
                {"name": "lane", "value": "general", "from": "compiled rules.rs:30"},
                {"name": "timeout", "value": "800ms",
                 "from": "pushed rule, version 7, rules.yaml:3"},
            ],
            "steps": ["the path is well-formed", "round robin among 1 of 2"],
            "candidates": [
                {"node_id": "orders-1", "generation": 5, "address": "127.0.0.1:1",
                 "health": "HEALTHY", "in_flight": 3, "weight": 100, "warmth": 100,
                 "nearness": "zone", "eligible": true, "reason": ""},
                {"node_id": "orders-2", "generation": 6, "address": "127.0.0.1:2",
                 "health": "DRAINING", "in_flight": 0, "weight": 300, "warmth": 40,
                 "nearness": "elsewhere", "eligible": false, "reason": "it drains"},
            ],
            "pick": "orders-1", "error": "", "message": "",
        })
    }

    #[test]
    fn every_part_is_shown() {
        let text = text(&explained());
        let lines: Vec<String> = text
            .lines()
            .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
            .collect();
        assert_eq!(
            lines,
            [
                "/shop.v1.Orders/Get",
                "",
                "rule shop.v1.Orders, internal, lane general, persistent, ROUND_ROBIN, WORKER \
                 (compiled, rules.rs:30)",
                "",
                "policy",
                "VALUE IS FROM",
                "lane general compiled rules.rs:30",
                "timeout 800ms pushed rule, version 7, rules.yaml:3",
                "",
                "steps",
                "1. the path is well-formed",
                "2. round robin among 1 of 2",
                "",
                "candidates",
                "NODE GENERATION ADDRESS HEALTH IN FLIGHT WEIGHT NEAR ELIGIBLE WHY NOT",
                "orders-1 5 127.0.0.1:1 healthy 3 100 zone yes",
                "orders-2 6 127.0.0.1:2 draining 0 40 % of 300 elsewhere no it drains",
                "",
                "pick orders-1",
            ]
        );
        assert!(!refused(&explained()));
    }

    #[test]
    fn a_refusal_is_shown_with_its_message() {
        let refusal = json!({
            "path": "nonsense", "rule": null, "rule_source": "", "steps": [], "candidates": [],
            "pick": "", "error": "NOT_GRPC", "message": "nonsense is no path",
        });
        assert_eq!(
            text(&refusal),
            "nonsense\n\nrule        none\n\n\
             refused     NOT_GRPC: nonsense is no path\n"
        );
        assert!(refused(&refusal));
    }

    #[test]
    fn only_an_explanation_is_one() {
        assert!(explanation(b"{\"path\":\"/a.B/C\"}").is_some());
        for other in [&b"[]"[..], b"{}", b"not found", b"", b"{\"path\":3}"] {
            assert!(explanation(other).is_none(), "{other:?}");
        }
        assert_eq!(beginning(" \n"), "nothing");
        assert_eq!(beginning(&"x".repeat(999)).len(), 200);
    }
}

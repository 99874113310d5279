//! Rules that are applied to a running mesh: written as the wire has them, and applied as
//! `sidelane apply` does.

use sidelane_proto::model::Lane;
use sidelane_proto::wire::admin::v1::{ApplyRulesRequest, ApplyRulesResponse};
use sidelane_proto::wire::routing::v1 as wire;

use crate::admin::Answer;
use crate::cluster::{Control, Node};
use crate::owner;

/// Where the rules of these tests are said to be written.
pub const ORIGIN: &str = "rules.yaml:3";

/// A rule of this service: Internal, in this lane.
#[must_use]
pub fn rule(service: &str, lane: Lane) -> wire::PushedRule {
    wire::PushedRule {
        rule: Some(wire::Rule {
            service: service.to_owned(),
            connection: wire::Connection::Internal.into(),
            lane_id: lane.id().into(),
            lane: lane.name().to_owned(),
            lane_definition: lane.definition_to_wire(),
            origin: ORIGIN.to_owned(),
            ..wire::Rule::default()
        }),
        tuning_only: false,
        version: 0,
    }
}

/// A rule of this service that only tunes.
#[must_use]
pub fn tuning(service: &str) -> wire::PushedRule {
    wire::PushedRule {
        rule: Some(wire::Rule {
            service: service.to_owned(),
            origin: ORIGIN.to_owned(),
            ..wire::Rule::default()
        }),
        tuning_only: true,
        version: 0,
    }
}

/// The same rule, changed.
///
/// # Panics
/// If there is no rule in it.
#[must_use]
pub fn with(
    mut pushed: wire::PushedRule,
    change: impl FnOnce(&mut wire::Rule),
) -> wire::PushedRule {
    change(pushed.rule.as_mut().expect("a rule"));
    pushed
}

/// The same rule, as it came with this version of control's store.
#[must_use]
pub fn at(version: u64, pushed: wire::PushedRule) -> wire::PushedRule {
    wire::PushedRule { version, ..pushed }
}

/// A unary method that may be executed twice.
#[must_use]
pub fn idempotent(name: &str) -> wire::Method {
    wire::Method {
        idempotent: true,
        ..unary(name)
    }
}

/// A unary method that may not.
#[must_use]
pub fn unary(name: &str) -> wire::Method {
    wire::Method {
        name: name.to_owned(),
        ..wire::Method::default()
    }
}

/// So many attempts, after these statuses; none means UNAVAILABLE.
#[must_use]
pub fn retry(attempts: u32, on: &[&str]) -> Option<wire::Retry> {
    Some(wire::Retry {
        attempts,
        on: on.iter().map(|&status| status.to_owned()).collect(),
        ..wire::Retry::default()
    })
}

/// A unary method that is sent a second time after so many milliseconds without an answer.
#[must_use]
pub fn hedged(name: &str, after: u64, max_attempts: u32) -> wire::Method {
    wire::Method {
        hedge: Some(wire::Hedge {
            after: format!("{after}ms"),
            max_attempts: Some(max_attempts),
            off: false,
        }),
        ..idempotent(name)
    }
}

/// A time limit.
#[must_use]
pub fn milliseconds(milliseconds: i64) -> Option<prost_types::Duration> {
    Some(prost_types::Duration {
        seconds: milliseconds / 1_000,
        nanos: i32::try_from(milliseconds % 1_000 * 1_000_000).expect("under a second"),
    })
}

/// Applies rules, and takes those of the services in `remove` back.
///
/// # Panics
/// If control cannot be asked, or refuses one.
pub async fn apply(
    control: &Control,
    rules: Vec<wire::PushedRule>,
    remove: &[&str],
) -> ApplyRulesResponse {
    let mut mesh = owner::mesh(control).await;
    let request = ApplyRulesRequest {
        rules,
        remove: remove.iter().map(|&service| service.to_owned()).collect(),
        ..ApplyRulesRequest::default()
    };
    let answer = mesh.apply_rules(request).await;
    let answer = answer.expect("control applies rules").into_inner();
    assert!(answer.refused.is_empty(), "{:#?}", answer.refused);
    answer
}

/// Applies one rule, and waits until it holds at each of these nodes.
///
/// # Panics
/// As [`apply`], or if one of them does not take it within 20 s.
pub async fn applied(control: &Control, nodes: &[&Node], pushed: wire::PushedRule) {
    let service = pushed.rule.as_ref().map(|rule| rule.service.clone());
    let answer = apply(control, vec![pushed], &[]).await;
    let version = answer.version.expect("a version").counter;
    for node in nodes {
        let holds = |answer: &Answer| {
            let config: serde_json::Value = serde_json::from_str(&answer.body).unwrap_or_default();
            let services = config["services"].as_array().cloned().unwrap_or_default();
            let mut of_service = services
                .iter()
                .filter(|it| it["service"].as_str() == service.as_deref());
            of_service.any(|it| it["pushed"]["version"] == version)
        };
        node.answers("/config", holds).await;
    }
}

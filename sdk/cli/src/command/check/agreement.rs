//! Which nodes were compiled with rules of one service that differ, so that they refuse each other's
//! calls.

use serde_json::{Value, json};
use sidelane_proto::model::Rule;
use sidelane_proto::wire::admin::v1::ListServicesResponse;
use sidelane_proto::wire::control::v1::ServiceState;

/// A service of which nodes were compiled with rules that differ.
pub(super) struct Disagreement {
    service: String,
    /// At least two.
    sides: Vec<Side>,
}

/// What some nodes go by.
#[derive(Debug, PartialEq, Eq)]
struct Side {
    /// Class, lane and secure.
    rule: String,
    /// Where it is written, each place once.
    origins: Vec<String>,
    nodes: Vec<String>,
}

/// One answer of control has each network's services apart, so each state is one mesh's. A node
/// without a rule of its own agrees with everybody.
pub(super) fn disagreements(listed: &ListServicesResponse) -> Vec<Disagreement> {
    let states = listed.services.iter();
    let sides = states.map(|state| Disagreement {
        service: state.service.clone(),
        sides: sides(state),
    });
    sides.filter(|found| found.sides.len() > 1).collect()
}

fn sides(state: &ServiceState) -> Vec<Side> {
    let mut sides: Vec<(_, Side)> = Vec::new();
    for endpoint in &state.endpoints {
        let rule = endpoint.rule.clone().map(Rule::try_from);
        // Control has checked it: what cannot be read here is of a lane too many for this process.
        let Some(Ok(rule)) = rule else { continue };
        let agreement = rule.agreement();
        let known = sides.iter().position(|(known, _)| *known == agreement);
        let side = known.unwrap_or_else(|| {
            let secure = if rule.secure { "secure" } else { "not secure" };
            let side = Side {
                rule: format!("{} {} {secure}", rule.class, rule.lane),
                origins: Vec::new(),
                nodes: Vec::new(),
            };
            sides.push((agreement, side));
            sides.len() - 1
        });
        let side = &mut sides[side].1;
        side.nodes.push(endpoint.node_id.clone());
        let origin = rule.origin.into_owned();
        if !side.origins.contains(&origin) {
            side.origins.push(origin);
        }
    }
    sides.into_iter().map(|(_, side)| side).collect()
}

impl Disagreement {
    /// Whose it is.
    pub(super) fn service(&self) -> &str {
        &self.service
    }

    /// What each side goes by, where that is written, and who is on it.
    pub(super) fn text(&self) -> String {
        let sides = self.sides.iter().map(|side| {
            let (rule, origins) = (&side.rule, side.origins.join(", "));
            format!("{rule} ({origins}) on {}", side.nodes.join(" "))
        });
        sides.collect::<Vec<_>>().join("; ")
    }

    pub(super) fn json(&self) -> Value {
        let sides = self
            .sides
            .iter()
            .map(|side| json!({ "rule": side.rule, "origins": side.origins, "nodes": side.nodes }));
        json!({ "service": self.service, "sides": sides.collect::<Vec<_>>() })
    }
}

#[cfg(test)]
#[path = "agreement_tests.rs"]
mod tests;

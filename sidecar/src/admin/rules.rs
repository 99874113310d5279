//! What the admin pages say of pushed rules.

use std::fmt::Write;

use serde_json::{Value, json};
use sidelane_proto::model::RefusedRule;

use crate::discover::Status;
use crate::rules::Said;

/// How many refused rules `/readyz` names.
const NAMED: usize = 8;

/// The lines of `/readyz`: refused rules keep nothing from being ready.
pub(super) fn refused_text(refused: &[RefusedRule]) -> String {
    let mut text = String::new();
    for RefusedRule {
        service,
        version,
        error,
        ..
    } in refused.iter().take(NAMED)
    {
        let _ = writeln!(
            text,
            "BAD_RULES: the pushed rule of {service}, version {version}, was refused, the last \
             good one stays: {error}"
        );
    }
    if let Some(more) = refused.len().checked_sub(NAMED).filter(|more| *more > 0) {
        let _ = writeln!(text, "and {more} more pushed rules, see /config");
    }
    text
}

/// The part of `/config` about all of them.
pub(super) fn held(status: &Status) -> Value {
    let refused = status.refused_rules.iter().map(|refused| {
        json!({
            "service": refused.service,
            "version": refused.version,
            "field": refused.error.path,
            "problem": refused.error.problem.to_string(),
        })
    });
    json!({ "held": status.rules, "refused": refused.collect::<Vec<_>>() })
}

/// The part of `/config` about one service's.
pub(super) fn pushed(said: &Said) -> Option<Value> {
    let pushed = said.pushed.as_ref()?;
    Some(json!({
        "version": pushed.version,
        "origin": pushed.rule.origin,
        "tuning_only": pushed.tuning_only,
    }))
}

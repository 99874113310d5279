//! Rules on the wire of `sidelane.admin.v1.Mesh`: what people ask to be applied, what became of it,
//! and what is applied.

use sidelane_proto::model::pushed_set;
use sidelane_proto::model::{Network, RefusedRule, ServiceName};
use sidelane_proto::wire::admin::v1 as wire;
use sidelane_proto::wire::control::v1::RuleRefusal;
use tonic::Status;

use super::View;
use crate::push;
use crate::registry::{NodeKey, Snapshot};
use crate::rules::{Change, NotApplied, Outcome, Proposal};

/// The network of a request that names none; it is also a sidecar's.
const DEFAULT_NETWORK: &str = "default";
/// Things that are wrong with one request, of which the text is told.
const REFUSALS_TOLD: usize = 100;
/// Refusals of connected sidecars that are told at once.
const NODE_REFUSALS_TOLD: usize = 1_000;

/// Applies rules, or says what is wrong with them.
pub(super) async fn apply(
    view: &View,
    request: wire::ApplyRulesRequest,
) -> Result<wire::ApplyRulesResponse, Status> {
    let name = match request.network.as_str() {
        "" => DEFAULT_NETWORK,
        name => name,
    };
    let network =
        Network::new(name).map_err(|error| Status::invalid_argument(error.to_string()))?;
    let rules = match pushed_set::read(request.rules) {
        Ok(rules) => rules,
        Err(wrong) => return Ok(refused(view, &wrong)),
    };
    let proposal = Proposal {
        network,
        rules,
        remove: request.remove,
        dry_run: request.dry_run,
    };
    match view.rules.apply(proposal).await {
        Ok(outcome) => Ok(applied(view, outcome)),
        Err(NotApplied::Refused(wrong)) => Ok(refused(view, &wrong)),
        Err(error @ NotApplied::Busy) => Err(Status::resource_exhausted(error.to_string())),
        Err(error @ NotApplied::Unknown) => Err(Status::unknown(error.to_string())),
        Err(error) => Err(Status::unavailable(error.to_string())),
    }
}

fn applied(view: &View, outcome: Outcome) -> wire::ApplyRulesResponse {
    let mut version = view.registry.snapshot().version();
    version.counter = outcome.version;
    let changes = outcome.changes.into_iter();
    wire::ApplyRulesResponse {
        version: Some((&version).into()),
        outcomes: changes
            .map(|(service, change)| wire::RuleOutcome {
                service: service.as_str().to_owned(),
                change: match change {
                    Change::Added => wire::RuleChange::Added,
                    Change::Changed => wire::RuleChange::Changed,
                    Change::Unchanged => wire::RuleChange::Unchanged,
                    Change::Removed => wire::RuleChange::Removed,
                }
                .into(),
            })
            .collect(),
        ..wire::ApplyRulesResponse::default()
    }
}

fn refused(view: &View, wrong: &[RefusedRule]) -> wire::ApplyRulesResponse {
    wire::ApplyRulesResponse {
        version: Some((&view.registry.snapshot().version()).into()),
        outcomes: Vec::new(),
        refused: wrong.iter().take(REFUSALS_TOLD).map(Into::into).collect(),
        refused_count: count(wrong.len()),
    }
}

/// The applied rules of a network and a service, or of all.
pub(super) fn list(
    snapshot: &Snapshot,
    network: Option<&Network>,
    service: Option<&ServiceName>,
) -> wire::ListRulesResponse {
    let rules = snapshot.rules().rules().filter(|(of, pushed)| {
        network.is_none_or(|network| *of == network)
            && service.is_none_or(|service| pushed.rule.service == service.as_str())
    });
    let mut rules: Vec<_> = rules.collect();
    rules.sort_by_key(|(network, pushed)| (*network, pushed.rule.service.clone()));
    let rules = rules.into_iter();
    wire::ListRulesResponse {
        rules: rules
            .map(|(network, pushed)| wire::AppliedRule {
                network: network.as_str().to_owned(),
                rule: Some((&**pushed).into()),
            })
            .collect(),
        version: Some((&snapshot.version()).into()),
    }
}

/// Rules that connected sidecars do not follow, in the order of their names; and how many.
pub(super) fn refusals(view: &View) -> (Vec<wire::NodeRefusal>, u32) {
    let sessions = view.directory.sessions(&view.registry.snapshot());
    let mut sessions: Vec<_> = sessions.into_iter().collect();
    sessions.sort_by(|(one, _), (two, _)| one.cmp(two));
    let mut total = 0;
    let mut told = Vec::new();
    for (key, listed) in sessions {
        let (refused, all) = listed.refused_rules;
        total += all;
        let room = NODE_REFUSALS_TOLD - told.len();
        let refused = refused.into_iter().take(room);
        told.extend(refused.map(|refused| node_refusal(&key, refused)));
    }
    (told, count(total))
}

fn node_refusal(key: &NodeKey, refused: push::RefusedRule) -> wire::NodeRefusal {
    wire::NodeRefusal {
        node_id: key.node.as_str().to_owned(),
        network: key.network.as_str().to_owned(),
        refusal: Some(refusal(refused)),
    }
}

pub(super) fn refusal(refused: push::RefusedRule) -> RuleRefusal {
    RuleRefusal {
        service: refused.service.as_str().to_owned(),
        version: refused.version,
        field: refused.field,
        problem: refused.problem,
    }
}

pub(super) fn count(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

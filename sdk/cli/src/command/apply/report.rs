//! What became of rules that were to be applied, for people and for programs.

use serde_json::{Value, json};
use sidelane_proto::wire::admin::v1::{Laggard, RuleChange};
use sidelane_proto::wire::control::v1::RuleRefusal;

use super::{Applied, ApplyError};
use crate::command::output::Table;

/// Rows of a table. Whoever applies more reads them as JSON.
const ROWS_LIMIT: usize = 50;

/// What became of it.
pub(super) struct Report<'a>(&'a Applied);

impl<'a> Report<'a> {
    pub(super) fn of(applied: &'a Applied) -> Self {
        Self(applied)
    }

    /// For people. Empty where nothing was applied: the error says why.
    pub(super) fn text(&self) -> String {
        let answer = &self.0.answer;
        if !answer.refused.is_empty() {
            return String::new();
        }
        let mut counts = [
            (RuleChange::Added, 0_usize),
            (RuleChange::Changed, 0),
            (RuleChange::Removed, 0),
            (RuleChange::Unchanged, 0),
        ];
        let mut table = Table::new(&["service", "change", "where"]);
        let mut rows = 0;
        for (place, outcome) in answer.outcomes.iter().enumerate() {
            let change = outcome.change();
            for (counted, count) in &mut counts {
                *count += usize::from(*counted == change);
            }
            if change == RuleChange::Unchanged {
                continue;
            }
            rows += 1;
            if rows <= ROWS_LIMIT {
                let origin = self.origin(place);
                let origin = if origin.is_empty() { "-" } else { origin };
                let change = name(change).to_owned();
                table.row([outcome.service.clone(), change, origin.to_owned()]);
            }
        }
        let counted = counts.iter().filter(|(_, count)| *count > 0);
        let counted = counted.map(|(change, count)| format!("{count} {}", name(*change)));
        let counted: Vec<String> = counted.collect();
        let said = format!("{}: {}\n", self.headline(), counted.join(", "));
        let more = match rows.saturating_sub(ROWS_LIMIT) {
            0 => String::new(),
            more => format!("  … and {more} more; `-o json` lists all\n"),
        };
        let rows = if rows == 0 {
            String::new()
        } else {
            table.text()
        };
        said + &rows + &more + &self.followed()
    }

    fn headline(&self) -> String {
        let network = &self.0.request.network;
        match self.0.request.dry_run {
            true => format!("this could be applied to network {network}"),
            false => format!(
                "applied to network {network} as revision {}",
                self.version()
            ),
        }
    }

    fn followed(&self) -> String {
        match &self.0.waited {
            Some(waited) if waited.reached && self.0.refused().is_empty() => {
                "every connected sidecar has taken it\n".to_owned()
            }
            _ => String::new(),
        }
    }

    /// Why the exit code is 1, if it is.
    pub(super) fn error(&self) -> Option<ApplyError> {
        let answer = &self.0.answer;
        if !answer.refused.is_empty() {
            let refused = answer.refused.iter();
            let mut lines: Vec<String> = refused.map(|refused| self.blamed(refused)).collect();
            let told = answer.refused.len();
            let all = usize::try_from(answer.refused_count).unwrap_or(usize::MAX);
            if all > told {
                lines.push(format!("… and {} more", all - told));
            }
            return Some(ApplyError::Refused(lines));
        }
        let waited = self.0.waited.as_ref()?;
        let refused = self.0.refused();
        let refused = refused
            .into_iter()
            .map(|(node, refusal)| refusal_line(node, refusal));
        let mut lines: Vec<String> = refused.collect();
        if !waited.reached {
            let seconds = self.0.wait.as_secs_f64();
            lines.extend(waited.laggards.iter().map(|laggard| late(laggard, seconds)));
            if waited.laggards.is_empty() {
                lines.push(format!("control had not published it after {seconds} s"));
            }
        }
        (!lines.is_empty()).then_some(ApplyError::NotEverywhere(lines))
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let Applied {
            request,
            answer,
            waited,
            ..
        } = self.0;
        let outcomes = answer.outcomes.iter().enumerate();
        let rules = outcomes.map(|(place, outcome)| {
            json!({
                "service": outcome.service,
                "change": name(outcome.change()),
                "origin": self.origin(place),
            })
        });
        let refused = answer.refused.iter().map(|refused| {
            json!({
                "service": refused.service,
                "field": refused.field,
                "problem": refused.problem,
                "message": self.blamed(refused),
            })
        });
        let applied = answer.refused.is_empty() && !request.dry_run;
        json!({
            "applied": applied,
            "dry_run": request.dry_run,
            "network": request.network,
            "revision": self.version(),
            "rules": rules.collect::<Vec<_>>(),
            "refused": refused.collect::<Vec<_>>(),
            "refused_count": answer.refused_count,
            "waited": waited.as_ref().map(|waited| json!({
                "reached": waited.reached,
                "laggards": waited.laggards.iter().map(|laggard| json!({
                    "node_id": laggard.node_id,
                    "acknowledged": laggard.acknowledged,
                    "refused": laggard.refused,
                })).collect::<Vec<_>>(),
                "refused": self.0.refused().into_iter().map(|(node, refused)| json!({
                    "node_id": node,
                    "service": refused.service,
                    "revision": refused.version,
                    "field": refused.field,
                    "problem": refused.problem,
                })).collect::<Vec<_>>(),
            })),
        })
    }

    fn version(&self) -> u64 {
        let version = self.0.answer.version.as_ref();
        version.map_or(0, |version| version.counter)
    }

    /// Outcomes stand in the order of the request; what is taken back stands nowhere.
    fn origin(&self, place: usize) -> &str {
        let rule = self.0.request.rules.get(place);
        let rule = rule.and_then(|pushed| pushed.rule.as_ref());
        rule.map_or("", |rule| rule.origin.as_str())
    }

    fn blamed(&self, refused: &RuleRefusal) -> String {
        let (field, problem) = (&refused.field, &refused.problem);
        match (&self.0.source, field.starts_with("rules")) {
            (Some(source), true) => source.blame(field, problem),
            _ => format!("--{field} {problem}"),
        }
    }
}

fn name(change: RuleChange) -> &'static str {
    match change {
        RuleChange::Added => "added",
        RuleChange::Changed => "changed",
        RuleChange::Unchanged => "unchanged",
        RuleChange::Removed => "removed",
        RuleChange::Unspecified => "unknown",
    }
}

fn refusal_line(node: &str, refused: &RuleRefusal) -> String {
    let RuleRefusal {
        service,
        version,
        field,
        problem,
    } = refused;
    // The field is of the update in which the rule came; its place there tells people nothing.
    let field = field
        .split_once("].rule.")
        .map_or(field.as_str(), |(_, field)| field);
    format!(
        "  {node} does not follow the rule of {service} of revision {version}: {field} {problem}"
    )
}

fn late(laggard: &Laggard, seconds: f64) -> String {
    let Laggard {
        node_id,
        acknowledged,
        refused,
    } = laggard;
    let why = match refused.as_str() {
        "" => String::new(),
        refused => format!(" and refused what came later: {refused}"),
    };
    format!("  {node_id} has not taken it after {seconds} s: it has {acknowledged}{why}")
}

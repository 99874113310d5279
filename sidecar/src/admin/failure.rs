//! The figures of what was done about failures: further attempts that were made or withheld, and
//! breakers that changed. By service, since that is what budgets and hubs belong to; services that
//! never needed any have no lines.

use std::fmt::Write;
use std::sync::Arc;

use crate::balance::Change;
use crate::mesh::Target;
use crate::telemetry::{heading, line};

/// Adds it to the text of `/metrics`, for these services in their order.
pub(super) fn render(text: &mut String, targets: &[&Arc<Target>]) {
    let (made, withheld) = ("sidelane_retries_total", "sidelane_retries_withheld_total");
    let mut lines = String::new();
    for target in targets {
        for (why, count) in target.retries.counts().filter(|(_, count)| *count > 0) {
            let labels = labels(target, "kind", why.name());
            line(&mut lines, made, &labels, count);
        }
    }
    heading(
        text,
        made,
        "counter",
        "Further attempts, by why they were made.",
    );
    text.push_str(&lines);
    lines.clear();
    for target in targets {
        let counts = target.retries.withheld_counts();
        for (why, count) in counts.filter(|(_, count)| *count > 0) {
            line(
                &mut lines,
                withheld,
                &labels(target, "why", why.name()),
                count,
            );
        }
    }
    heading(
        text,
        withheld,
        "counter",
        "Further attempts that were not made, by why.",
    );
    text.push_str(&lines);
    render_hedges(text, targets);
    render_breakers(text, targets);
}

/// Those that were sent are among the further attempts, of kind `hedge`.
fn render_hedges(text: &mut String, targets: &[&Arc<Target>]) {
    let won = "sidelane_hedges_won_total";
    let withheld = "sidelane_hedges_withheld_total";
    let (mut answers, mut kept_back) = (String::new(), String::new());
    for target in targets {
        let count = target.retries.hedges_won();
        if count > 0 {
            let labels = format!("service=\"{}\"", target.name);
            line(&mut answers, won, &labels, count);
        }
        let counts = target.retries.hedges_withheld();
        for (why, count) in counts.filter(|(_, count)| *count > 0) {
            let labels = labels(target, "why", why.name());
            line(&mut kept_back, withheld, &labels, count);
        }
    }
    let help = "Calls whose answer was that of a hedge.";
    heading(text, won, "counter", help);
    text.push_str(&answers);
    let help = "Hedges that were not sent, by why.";
    heading(text, withheld, "counter", help);
    text.push_str(&kept_back);
}

fn render_breakers(text: &mut String, targets: &[&Arc<Target>]) {
    let changes = "sidelane_breaker_changes_total";
    let open = "sidelane_breakers_open";
    let (mut changed, mut tripped) = (String::new(), String::new());
    for target in targets {
        let hub = target.hub();
        for (change, count) in hub.breaker_changes().filter(|(_, count)| *count > 0) {
            line(
                &mut changed,
                changes,
                &labels(target, "to", change.name()),
                count,
            );
            if change == Change::Opened {
                let labels = format!("service=\"{}\"", target.name);
                line(&mut tripped, open, &labels, hub.tripped() as u64);
            }
        }
    }
    heading(
        text,
        changes,
        "counter",
        "Breakers of endpoints that changed, by to what.",
    );
    text.push_str(&changed);
    heading(
        text,
        open,
        "gauge",
        "Endpoints whose breakers are open: calls go elsewhere, where there is an elsewhere.",
    );
    text.push_str(&tripped);
}

fn labels(target: &Target, label: &str, value: &str) -> String {
    let mut labels = String::new();
    // Writing into a String cannot fail.
    let _ = write!(labels, "service=\"{}\",{label}=\"{value}\"", target.name);
    labels
}

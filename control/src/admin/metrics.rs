//! The figures, as Prometheus text. Labels come from closed sets only, so that the page does not
//! grow with the mesh.

use std::fmt::{Display, Write};
use std::time::Duration;

use sidelane_proto::model::Health;

use super::View;
use crate::push::RefusalReason;
use crate::registry::Origin;

const HEALTHS: [Health; 4] = [
    Health::Healthy,
    Health::Suspect,
    Health::Draining,
    Health::Unhealthy,
];

/// The whole page.
pub(super) async fn text(view: &View) -> String {
    let mut page = Page(String::with_capacity(4096));
    let nodes = view.registry.nodes().await.unwrap_or_default();
    page.head(
        "nodes",
        "gauge",
        "Nodes by source and by their worst health.",
    );
    for origin in Origin::ALL {
        for health in HEALTHS {
            let known = nodes.iter().filter(|(known, _)| *known == origin);
            let count = known
                .filter(|(_, node)| node.worst_health() == health)
                .count();
            let labels = format!("source=\"{}\",health=\"{health}\"", origin.name());
            page.labelled("nodes", &labels, count);
        }
    }
    let snapshot = view.registry.snapshot();
    let services = snapshot
        .networks()
        .map(|network| snapshot.services(network).count());
    page.one(
        "services",
        "gauge",
        "Services that were ever seen.",
        services.sum::<usize>(),
    );
    page.one(
        "version",
        "gauge",
        "The counter of the newest version.",
        snapshot.counter(),
    );
    let sessions = view.directory.sessions(&snapshot);
    page.one(
        "sessions",
        "gauge",
        "Open sessions of sidecars.",
        view.directory.count(),
    );
    let behind = |listed: &&crate::push::Listed| listed.acknowledged < snapshot.counter();
    page.one(
        "sessions_behind",
        "gauge",
        "Sessions that have not acknowledged all that they want to know.",
        sessions.values().filter(behind).count(),
    );
    page.one(
        "sessions_refusing",
        "gauge",
        "Sessions that refused an update and have not taken a later one of that service.",
        sessions
            .values()
            .filter(|listed| listed.refused.is_some())
            .count(),
    );
    page.one(
        "rules",
        "gauge",
        "Rules that are applied.",
        snapshot.rules().count(),
    );
    let refused = sessions.values().map(|listed| listed.refused_rules.1);
    page.one(
        "rules_refused",
        "gauge",
        "Rules that connected sidecars do not follow, of all sidecars together.",
        refused.sum::<usize>(),
    );
    push(&mut page, view);
    disks(&mut page, view);
    page.0
}

fn push(page: &mut Page, view: &View) {
    let counters = &view.counters;
    page.one(
        "updates_total",
        "counter",
        "Updates sent.",
        counters.updates(),
    );
    page.one(
        "coalesced_total",
        "counter",
        "Changes for a session that had not answered yet, told with the next update.",
        counters.coalesced_changes(),
    );
    page.head(
        "update_seconds",
        "summary",
        "From an update to its answer, of updates that were taken.",
    );
    page.summary(
        "update_seconds",
        counters.waited_for_acks(),
        counters.acks(),
    );
    page.one(
        "acks_total",
        "counter",
        "Updates that sidecars took.",
        counters.acks(),
    );
    page.one(
        "nacks_total",
        "counter",
        "Updates that sidecars refused.",
        counters.nacks(),
    );
    page.one(
        "rule_refusals_total",
        "counter",
        "Rules that sidecars refused, in updates that they took.",
        counters.rule_refusals(),
    );
    page.head(
        "refusals_total",
        "counter",
        "Streams that were not taken in.",
    );
    for reason in RefusalReason::ALL {
        let labels = format!("reason=\"{}\"", reason.name());
        page.labelled("refusals_total", &labels, counters.refusals(reason));
    }
    let connections = &view.connections;
    page.one(
        "connections",
        "gauge",
        "Open connections on the gRPC port.",
        connections.open(),
    );
    page.one(
        "connections_refused_total",
        "counter",
        "Connections closed because there were too many: at once, or before they had proved anything.",
        connections.refused(),
    );
    page.one(
        "handshakes_total",
        "counter",
        "Handshakes of TLS that ended well.",
        connections.handshakes(),
    );
    page.one(
        "handshakes_failed_total",
        "counter",
        "Handshakes of TLS that failed, and connections in the clear where none may be.",
        connections.failed_handshakes(),
    );
    page.head(
        "handshakes_refused_total",
        "counter",
        "The same, by reason.",
    );
    for (reason, count) in connections.reasons().filter(|(_, count)| *count > 0) {
        page.labelled(
            "handshakes_refused_total",
            &format!("reason=\"{reason}\""),
            count,
        );
    }
    page.one(
        "connections_plain_total",
        "counter",
        "Connections in the clear that trust mode permissive let in.",
        connections.plain(),
    );
}

fn disks(page: &mut Page, view: &View) {
    let store = &view.store;
    let healthy = u8::from(store.failure().is_none());
    page.one(
        "store_healthy",
        "gauge",
        "1 while the last write to the store succeeded.",
        healthy,
    );
    page.one(
        "store_failures_total",
        "counter",
        "Writes to the store that failed.",
        store.failures(),
    );
    page.one(
        "store_forgotten_total",
        "counter",
        "Entries that were never written, because too many waited.",
        store.forgotten(),
    );
    if let Some(fixed) = &view.fixed {
        let healthy = u8::from(fixed.failure().is_none());
        page.one(
            "fixed_healthy",
            "gauge",
            "1 while the fixed file is taken in.",
            healthy,
        );
        page.one(
            "fixed_reloads_total",
            "counter",
            "Edits of the fixed file that were taken in.",
            fixed.reloads(),
        );
        page.one(
            "fixed_failures_total",
            "counter",
            "Edits of the fixed file that were not taken in.",
            fixed.failures(),
        );
    }
}

struct Page(String);

// Writing to a String cannot fail, so the results below are dropped.
impl Page {
    fn head(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.0, "# HELP sidelane_control_{name} {help}");
        let _ = writeln!(self.0, "# TYPE sidelane_control_{name} {kind}");
    }

    fn labelled(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "sidelane_control_{name}{{{labels}}} {value}");
    }

    fn summary(&mut self, name: &str, sum: Duration, count: u64) {
        let sum = sum.as_secs_f64();
        let _ = writeln!(self.0, "sidelane_control_{name}_sum {sum}");
        let _ = writeln!(self.0, "sidelane_control_{name}_count {count}");
    }

    fn one(&mut self, name: &str, kind: &str, help: &str, value: impl Display) {
        self.head(name, kind, help);
        let _ = writeln!(self.0, "sidelane_control_{name} {value}");
    }
}

//! What balancing counts, by service: only those that have something to say.

use std::sync::Arc;

use crate::mesh::Target;
use crate::telemetry::{heading, line};

/// Adds it to the text of `/metrics`, for these services in their order.
pub(super) fn render(text: &mut String, targets: &[&Arc<Target>]) {
    let figures: Vec<_> = targets
        .iter()
        .map(|target| {
            let hub = target.hub();
            let counters = hub.counters();
            let warming = u64::try_from(hub.warming()).unwrap_or(u64::MAX);
            let figures = [counters.keyless_picks, counters.spilled_picks, warming];
            (&target.name, figures)
        })
        .collect();
    for (index, (name, kind, help)) in [
        (
            "sidelane_balance_keyless_total",
            "counter",
            "Picks by a key for calls that brought none: the caller's node was the key.",
        ),
        (
            "sidelane_balance_spilled_total",
            "counter",
            "Picks that went farther because near endpoints were crowded.",
        ),
        (
            "sidelane_balance_warming",
            "gauge",
            "New endpoints that do not have their whole share yet.",
        ),
    ]
    .into_iter()
    .enumerate()
    {
        heading(text, name, kind, help);
        for (service, figures) in figures.iter().filter(|(_, figures)| figures[index] > 0) {
            line(
                text,
                name,
                &format!("service=\"{service}\""),
                figures[index],
            );
        }
    }
}

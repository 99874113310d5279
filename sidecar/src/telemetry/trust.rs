//! What links proved: how many did, how many came in the clear, and why some were refused. Reasons
//! are a closed list, so no stranger makes a series.

use std::sync::atomic::{AtomicU64, Ordering};

use sidelane_identity::Refusal;

use super::lane::Side;
use super::metrics::{heading, line};
use super::target::add;

const REASONS: usize = Refusal::LABELS.len();

/// The counters.
#[derive(Debug, Default)]
pub struct TrustCounters {
    handshakes: [AtomicU64; 2],
    plaintext: [AtomicU64; 2],
    refused: [[AtomicU64; REASONS]; 2],
}

const SIDES: [Side; 2] = [Side::Dialled, Side::Accepted];

impl TrustCounters {
    /// Both ends of a link have proved who they are.
    pub fn proved(&self, side: Side) {
        add(&self.handshakes[place(side)]);
    }

    /// A link is in the clear although certificates are asked for (`permissive`).
    pub fn plaintext(&self, side: Side) {
        add(&self.plaintext[place(side)]);
    }

    /// A link was refused.
    pub fn refused(&self, side: Side, refusal: &Refusal) {
        let known = Refusal::LABELS
            .iter()
            .position(|label| *label == refusal.label());
        if let Some(known) = known {
            add(&self.refused[place(side)][known]);
        }
    }

    /// The counters as Prometheus text.
    pub(super) fn render(&self, text: &mut String) {
        let by_side = [
            (
                "sidelane_tls_links_total",
                "Links whose both ends proved who they are.",
                &self.handshakes,
            ),
            (
                "sidelane_plaintext_links_total",
                "Links in the clear in trust mode permissive.",
                &self.plaintext,
            ),
        ];
        for (name, help, counters) in by_side {
            heading(text, name, "counter", help);
            for (side, counter) in SIDES.iter().zip(counters) {
                let labels = format!("side=\"{}\"", side.name());
                line(text, name, &labels, counter.load(Ordering::Relaxed));
            }
        }
        let name = "sidelane_tls_refused_total";
        let help = "Links refused because who is at the other end is not believed, by reason.";
        heading(text, name, "counter", help);
        for (side, counters) in SIDES.iter().zip(&self.refused) {
            for (reason, counter) in Refusal::LABELS.iter().zip(counters) {
                let count = counter.load(Ordering::Relaxed);
                if count > 0 {
                    let labels = format!("side=\"{}\",reason=\"{reason}\"", side.name());
                    line(text, name, &labels, count);
                }
            }
        }
    }
}

fn place(side: Side) -> usize {
    match side {
        Side::Dialled => 0,
        Side::Accepted => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_side_and_reason_is_counted_apart() {
        let counters = TrustCounters::default();
        counters.proved(Side::Dialled);
        counters.plaintext(Side::Accepted);
        let now = std::time::SystemTime::UNIX_EPOCH;
        counters.refused(Side::Accepted, &Refusal::expired(now, now));
        counters.refused(Side::Accepted, &Refusal::expired(now, now));
        counters.refused(Side::Dialled, &Refusal::TooSlow);
        let mut text = String::new();
        counters.render(&mut text);
        let values: Vec<&str> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            values,
            [
                "sidelane_tls_links_total{side=\"dialled\"} 1",
                "sidelane_tls_links_total{side=\"accepted\"} 0",
                "sidelane_plaintext_links_total{side=\"dialled\"} 0",
                "sidelane_plaintext_links_total{side=\"accepted\"} 1",
                "sidelane_tls_refused_total{side=\"dialled\",reason=\"too_slow\"} 1",
                "sidelane_tls_refused_total{side=\"accepted\",reason=\"expired\"} 2",
            ]
        );
    }
}

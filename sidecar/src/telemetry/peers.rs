//! Who calls: calls by the peer that sends them, and nothing more by peer, since there may be many. A
//! link finds its counter once.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use sidelane_proto::model::{ConnectionClass, Lane};

use super::metrics::{heading, line};
use super::target::{OTHER, add};

/// Peers that are told apart, by class and lane. All others are `other`.
pub const PEERS_LIMIT: usize = 4_096;
const NAME: &str = "sidelane_peer_requests_total";

/// Whose calls: a peer's identity, or its node where it has shown none; and their class and lane.
type Key = (String, &'static str, &'static str);

/// The counters of all peers.
#[derive(Debug, Default)]
pub(super) struct Peers(Mutex<BTreeMap<Key, Arc<PeerCalls>>>);

/// Calls of one peer, class and lane.
#[derive(Debug, Default)]
pub struct PeerCalls(AtomicU64);

impl PeerCalls {
    /// One more came.
    pub fn came(&self) {
        add(&self.0);
    }
}

impl Peers {
    pub(super) fn of(&self, peer: &str, class: ConnectionClass, lane: Lane) -> Arc<PeerCalls> {
        let mut peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = |peer: &str| (peer.to_owned(), class.name(), lane.name());
        let known = key(peer);
        let full = peers.len() >= PEERS_LIMIT && !peers.contains_key(&known);
        let key = if full { key(OTHER) } else { known };
        Arc::clone(peers.entry(key).or_default())
    }

    pub(super) fn render(&self, text: &mut String) {
        let help = "Calls that came by links, by the peer that sent them.";
        heading(text, NAME, "counter", help);
        let peers = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        for ((peer, class, lane), calls) in &*peers {
            let labels = format!("peer=\"{peer}\",connection=\"{class}\",lane=\"{lane}\"");
            line(text, NAME, &labels, calls.0.load(Ordering::Relaxed));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_thousand_peers_are_no_more_series_than_there_may_be() {
        let peers = Peers::default();
        for number in 0..100_000 {
            let name = format!("spiffe://mesh.example/ns/a/sa/n{number}");
            peers
                .of(&name, ConnectionClass::Internal, Lane::GENERAL)
                .came();
        }
        let mut text = String::new();
        peers.render(&mut text);
        let series = text.lines().filter(|line| !line.starts_with('#'));
        // And one for all the others.
        assert_eq!(series.count(), PEERS_LIMIT + 1);
        let others = 100_000 - PEERS_LIMIT;
        let other =
            format!("{NAME}{{peer=\"other\",connection=\"Internal\",lane=\"general\"}} {others}");
        assert!(text.lines().any(|line| line == other), "{other}");
    }
}

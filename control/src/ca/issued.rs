//! The certificates that hold: a node or an identity is revoked by their numbers, and nobody gets so
//! many that there are none left for others. One is remembered a little beyond its end, because the
//! clocks of others may be behind.

use std::collections::{HashMap, HashSet};

use sidelane_proto::model::{Identity, NodeId};

use super::rotation::SKEW;
use super::{Serial, UnixSeconds};

/// Certificates that are remembered at once: sixty-four for each sidecar of the largest mesh that
/// this is built for. Beyond it no more are signed until some have ended.
pub const ISSUED_LIMIT: usize = 65_536;
/// The same of one node: a sidecar holds two or three, and one that starts again and again without
/// keeping them, one each time. Beyond it that node waits, and nobody else does.
pub const ISSUED_PER_NODE: usize = 64;

/// A certificate that was signed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Issue {
    /// For which node.
    pub(super) node: NodeId,
    /// Whose; of those that an earlier build signed, it is not known.
    pub(super) identity: Option<Identity>,
    /// When.
    pub(super) signed: UnixSeconds,
    /// Its end.
    pub(super) until: UnixSeconds,
}

/// All that are remembered.
#[derive(Debug, Default)]
pub(super) struct Issues {
    by_serial: HashMap<Serial, Issue>,
    by_node: HashMap<NodeId, usize>,
}

impl Issue {
    /// Until when somebody may believe it. No longer than twice its life, or the shortest ones would
    /// be the most.
    pub(super) fn believed_until(&self) -> UnixSeconds {
        let life = self.until.saturating_sub(self.signed);
        self.until + SKEW.as_secs().min(life)
    }
}

impl Issues {
    /// Remembers one.
    pub(super) fn insert(&mut self, serial: Serial, issue: Issue) {
        let node = issue.node.clone();
        if self.by_serial.insert(serial, issue).is_none() {
            *self.by_node.entry(node).or_default() += 1;
        }
    }

    /// Takes one back that could not be kept.
    pub(super) fn remove(&mut self, serial: &Serial) {
        let Some(issue) = self.by_serial.remove(serial) else {
            return;
        };
        if let Some(count) = self.by_node.get_mut(&issue.node) {
            *count -= 1;
            if *count == 0 {
                self.by_node.remove(&issue.node);
            }
        }
    }

    /// One by its number.
    pub(super) fn get(&self, serial: &Serial) -> Option<&Issue> {
        self.by_serial.get(serial)
    }

    /// Is there room for one more of this node? If not, what there is too much of.
    pub(super) fn room(&self, node: &NodeId) -> Result<(), String> {
        let held = self.by_node.get(node).copied().unwrap_or_default();
        if held >= ISSUED_PER_NODE {
            return Err(format!("{held} certificates of node `{node}`"));
        }
        if self.by_serial.len() >= ISSUED_LIMIT {
            return Err(format!("{ISSUED_LIMIT} certificates"));
        }
        Ok(())
    }

    /// Those that fit.
    pub(super) fn which(
        &self,
        fits: impl Fn(&Issue) -> bool,
    ) -> impl Iterator<Item = (Serial, &Issue)> {
        let all = self.by_serial.iter();
        all.filter(move |(_, issue)| fits(issue))
            .map(|(serial, issue)| (*serial, issue))
    }

    /// The nodes that hold one now.
    pub(super) fn holders(&self, now: UnixSeconds) -> HashSet<&NodeId> {
        let holding = self.which(move |issue| now < issue.until);
        holding.map(|(_, issue)| &issue.node).collect()
    }

    /// Forgets what nobody believes any more; gives what it forgot.
    pub(super) fn forget(&mut self, now: UnixSeconds) -> Vec<Serial> {
        let over = self.which(|issue| now >= issue.believed_until());
        let over: Vec<Serial> = over.map(|(serial, _)| serial).collect();
        for serial in &over {
            self.remove(serial);
        }
        over
    }
}

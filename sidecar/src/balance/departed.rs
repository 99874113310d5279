//! Remembers who left a hub, for a while. A call that names such a node learns that it is gone
//! rather than that it never was, and a node that comes back takes up the turn that it had: one
//! that leaves and returns between any two picks would otherwise always be last in line.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use sidelane_proto::model::{Generation, NodeId};

use super::rotation::Turn;

/// The most departed nodes that a hub remembers. Under 20 KiB a hub, and more than a rolling
/// restart of a large service has under way at once.
pub(super) const DEPARTED_LIMIT: usize = 256;

/// Why a node is no longer to be had.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Departure {
    /// It said goodbye, or its lease ended.
    Left,
    /// A whole state came in which it is no longer named.
    Missing,
    /// It is still there, but about to leave, and takes no new calls.
    Draining,
}

/// The departed, the latest [`DEPARTED_LIMIT`] of them.
#[derive(Debug, Default)]
pub(super) struct Departed {
    nodes: HashMap<NodeId, Left>,
    /// By the order in which they left; tells who is forgotten first.
    order: BTreeMap<u64, NodeId>,
    next: u64,
}

/// One who left.
#[derive(Debug, Clone, Copy)]
pub(super) struct Left {
    pub(super) generation: Generation,
    pub(super) why: Departure,
    pub(super) turn: Turn,
    place: u64,
}

impl Departed {
    /// Remembers one who left and is not remembered yet, and forgets the one who left first if there are too many.
    pub(super) fn left(
        &mut self,
        node: NodeId,
        generation: Generation,
        why: Departure,
        turn: Turn,
    ) {
        let place = self.next;
        self.next += 1;
        self.order.insert(place, node.clone());
        let left = Left {
            generation,
            why,
            turn,
            place,
        };
        self.nodes.insert(node, left);
        if self.nodes.len() > DEPARTED_LIMIT
            && let Some((_, oldest)) = self.order.pop_first()
        {
            self.nodes.remove(&oldest);
        }
    }

    /// Forgets one who came back; the turn that it had.
    pub(super) fn returned(&mut self, node: &NodeId) -> Option<Turn> {
        let left = self.nodes.remove(node)?;
        self.order.remove(&left.place);
        Some(left.turn)
    }

    /// What is remembered of a node.
    pub(super) fn get(&self, node: &str) -> Option<(&NodeId, Left)> {
        let (node, left) = self.nodes.get_key_value(node)?;
        Some((node, *left))
    }
}

impl fmt::Display for Departure {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Left => "it said goodbye, or its lease ended",
            Self::Missing => "control's newest whole state does not name it",
            Self::Draining => "it is draining and takes no new calls",
        })
    }
}

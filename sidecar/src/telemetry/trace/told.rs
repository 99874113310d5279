//! What is heard of a call while it goes on, in the order in which it was, with a bound. The first
//! word has a place of its own: of most calls there is none but that they were sent.

use std::net::SocketAddr;
use std::time::Duration;

use sidelane_proto::model::NodeId;
use tonic::Code;

use super::span::Reached;
use crate::reason::Reason;

/// The most events of one span; those beyond it are counted in it.
pub const EVENTS: usize = 64;

/// What is heard of a call while it goes on.
#[derive(Debug, Default)]
pub(super) struct Told {
    first: Option<Moment>,
    more: Vec<Moment>,
    /// Those that found no place.
    pub(super) dropped: u32,
    pub(super) attempts: u32,
    /// The node that calls, where it is another one.
    from: Option<NodeId>,
    /// Who has answered, where it is another node; until somebody has, who was asked last.
    node: Option<NodeId>,
    pub(super) remote: Option<SocketAddr>,
    /// The status with which the mesh fails it.
    pub(super) failure: Option<Code>,
    /// What another sidecar says of a call that it fails: its reason, and in words.
    pub(super) heard: Option<(String, String)>,
    /// An attempt of it came to nothing.
    pub(super) lost: bool,
}

/// Something that happened, so long after the call had come.
#[derive(Debug)]
pub(super) struct Moment {
    pub(super) at: Duration,
    pub(super) what: What,
}

#[derive(Debug)]
pub(super) enum What {
    Sent {
        number: u32,
        node: Option<NodeId>,
        remote: Option<SocketAddr>,
        hedge: bool,
    },
    Failed {
        node: Option<NodeId>,
        status: &'static str,
        reason: Option<String>,
        text: String,
    },
    Cancelled {
        node: Option<NodeId>,
    },
    Withheld {
        hedge: bool,
        why: &'static str,
    },
    Refused {
        reason: Reason,
        text: String,
    },
}

impl Told {
    /// Of a call of this node, where it is another one.
    pub(super) fn of(from: Option<NodeId>) -> Self {
        Self {
            from,
            ..Self::default()
        }
    }

    /// The node at the other end, where it is another one.
    pub(super) fn node(&self) -> Option<&NodeId> {
        self.node.as_ref().or(self.from.as_ref())
    }

    /// This was asked last, or has answered.
    pub(super) fn by(&mut self, reached: Reached<'_>) {
        self.node = reached.node.cloned();
        self.remote = reached.remote;
    }

    pub(super) fn note(&mut self, at: Duration, what: What) {
        self.lost |= matches!(what, What::Failed { .. } | What::Cancelled { .. });
        let moment = Moment { at, what };
        if self.first.is_none() {
            self.first = Some(moment);
        } else if self.more.len() < EVENTS - 1 {
            self.more.push(moment);
        } else {
            self.dropped += 1;
        }
    }

    /// What happened, taken out of it.
    pub(super) fn moments(&mut self) -> impl Iterator<Item = Moment> {
        let more = std::mem::take(&mut self.more);
        self.first.take().into_iter().chain(more)
    }
}

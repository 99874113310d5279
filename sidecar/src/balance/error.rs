//! Why no endpoint could be picked: what was asked, what the hub knows, what to try. The service's
//! name and the gRPC status are put to it by the one who answers the caller, never here.

use std::fmt;

use sidelane_proto::model::{ConnectionClass, Generation, NodeId};

use super::departed::Departure;
use super::eligible::{Tripped, Unfit};

/// The most nodes that an error names: enough to see a slip of the pen, and it still fits into
/// one line of a log and a trailer.
pub const NAMED_IN_ERRORS: usize = 8;

/// No endpoint could be picked. Nothing was sent, so the call was not processed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PickError {
    /// Nobody offers the service now.
    #[error("no node offers the service now; start one that serves it, or see `sidelane nodes`")]
    Empty,
    /// Endpoints exist, and none takes new calls; or the node that was named does not.
    #[error("{}", none_healthy(.node.as_ref(), .counts))]
    NoneHealthy {
        /// The node asked for, where one was named.
        node: Option<NodeId>,
        /// What stands in the way of each.
        counts: Counts,
    },
    /// The node that was named is not in the hub, and has not been lately.
    #[error("node `{node}` does not offer the service; {}", known_nodes(.known, *.count))]
    UnknownNode {
        /// The name asked for.
        node: String,
        /// Some that are in the hub.
        known: Vec<NodeId>,
        /// How many are in the hub.
        count: usize,
    },
    /// The node that was named existed and has left, or is about to.
    #[error("node `{node}` (generation {generation}) is gone: {why}; name another, or none")]
    NodeGone {
        /// The node asked for.
        node: NodeId,
        /// Its last generation.
        generation: Generation,
        /// Why it is not to be had.
        why: Departure,
    },
    /// The strategy is NONE, and there are several endpoints.
    #[error(
        "{count} endpoints and strategy NONE: the call must name its node in `sidelane-node`, \
         such as {}",
        list(.some, *.count)
    )]
    MustNameNode {
        /// How many there are.
        count: usize,
        /// Some of them.
        some: Vec<NodeId>,
    },
    /// A strategy of the project's own named nobody.
    #[error(
        "strategy `{strategy}`, which is this project's own, chose none of {count} endpoints ({})",
        chosen(*.index)
    )]
    NoneChosen {
        /// The strategy.
        strategy: &'static str,
        /// What it answered.
        index: Option<usize>,
        /// From how many it could choose.
        count: usize,
    },
    /// Endpoints exist, and the breaker of each that could take the call is open.
    #[error("{}", all_tripped(*.count, .tripped.as_ref(), .others))]
    BreakerOpen {
        /// How many.
        count: usize,
        /// How the one stands that is tried again first.
        tripped: Option<Tripped>,
        /// What stands in the way of the others.
        others: Counts,
    },
    /// Endpoints exist, but all were compiled with another rule.
    #[error(
        "{} compiled with another rule, such as `{node}` with {theirs}, here it is {ours}; \
         build both sides from the same .proto",
        were(*.count)
    )]
    RulesMismatch {
        /// How many differ.
        count: usize,
        /// One of them.
        node: NodeId,
        /// Its rule.
        theirs: String,
        /// The caller's rule.
        ours: String,
    },
    /// Endpoints exist, but none has an address of the class.
    #[error(
        "{} without an address of class {class}; start the sidecar there with `{}`",
        were(*.count), flag(*.class)
    )]
    NoAddress {
        /// The class asked for.
        class: ConnectionClass,
        /// How many lack it.
        count: usize,
    },
    /// The call has been to all that could take it.
    #[error("{} tried by this call already; others that exist: {counts}", were(*.tried))]
    AllTried {
        /// How many it was.
        tried: usize,
        /// What stands in the way of the others.
        counts: Counts,
    },
}

/// How many endpoints cannot take a call, by what stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Counts {
    /// About to leave.
    pub draining: usize,
    /// Say so themselves.
    pub unhealthy: usize,
    /// Compiled with another rule.
    pub other_rule: usize,
    /// Without an address of the call's class.
    pub no_address: usize,
    /// Left alone because they failed.
    pub tripped: usize,
    /// In other parts of the service's split.
    pub other_part: usize,
}

impl Counts {
    pub(super) fn add(&mut self, unfit: Unfit, count: usize) {
        match unfit {
            Unfit::Draining => self.draining += count,
            Unfit::Unhealthy => self.unhealthy += count,
            Unfit::OtherRule => self.other_rule += count,
            Unfit::NoAddress => self.no_address += count,
            Unfit::BreakerOpen(_) => self.tripped += count,
            Unfit::OtherPart => self.other_part += count,
            // These come from a comparison with others, or from what the call has done itself.
            Unfit::NotNamed
            | Unfit::MustBeNamed
            | Unfit::Tried
            | Unfit::Suspect
            | Unfit::NotReady
            | Unfit::Farther
            | Unfit::Avoided(_) => {}
        }
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let parts: Vec<String> = [
            (self.draining, "draining"),
            (self.unhealthy, "unhealthy"),
            (self.other_rule, "with another rule"),
            (self.no_address, "without an address of the class"),
            (self.tripped, "whose breaker is open"),
            (self.other_part, "of other parts of the split"),
        ]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, what)| format!("{count} {what}"))
        .collect();
        if parts.is_empty() {
            return formatter.write_str("none");
        }
        formatter.write_str(&parts.join(", "))
    }
}

fn none_healthy(node: Option<&NodeId>, counts: &Counts) -> String {
    match node {
        Some(node) => format!(
            "node `{node}` takes no new calls ({counts}); wait for it, or leave the node unnamed"
        ),
        None => format!("no endpoint takes new calls ({counts}); see `sidelane nodes`"),
    }
}

fn all_tripped(count: usize, tripped: Option<&Tripped>, others: &Counts) -> String {
    let mut text = match count {
        1 => "the only endpoint that could take the call has failed".to_owned(),
        _ => format!("all {count} endpoints that could take the call have failed"),
    };
    text.push_str(" too often to be asked now");
    if let Some(tripped) = tripped {
        text = format!("{text} (the first to be asked again: {tripped})");
    }
    if *others != Counts::default() {
        text = format!("{text}; others that exist: {others}");
    }
    text + "; look at why they fail, or tune `breaker` in the service's rule"
}

fn chosen(index: Option<usize>) -> String {
    match index {
        Some(index) => format!("it answered index {index}"),
        None => "it answered `None`".to_owned(),
    }
}

fn were(count: usize) -> String {
    match count {
        1 => "the only endpoint in question was".to_owned(),
        _ => format!("all {count} endpoints in question were"),
    }
}

fn known_nodes(known: &[NodeId], count: usize) -> String {
    if known.is_empty() {
        return "no node does".to_owned();
    }
    format!("known: {}", list(known, count))
}

fn list(some: &[NodeId], count: usize) -> String {
    let names: Vec<&str> = some.iter().map(NodeId::as_str).collect();
    let names = names.join(", ");
    match count.saturating_sub(some.len()) {
        0 => names,
        more => format!("{names} and {more} more"),
    }
}

fn flag(class: ConnectionClass) -> String {
    match class {
        ConnectionClass::Internal => "--internal".to_owned(),
        ConnectionClass::External => "--external".to_owned(),
        ConnectionClass::Own(_) => format!("--listen {class}=ADDRESS"),
    }
}

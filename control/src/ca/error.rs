//! Why somebody gets no certificate. Each reason has a name of its own, because what helps differs:
//! another token, another clock, another node.

use sidelane_proto::model::{Identity, NodeId};

use super::UnixSeconds;

/// A token that gives no right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Denied {
    /// Nobody issued it, or it was forgotten a day after its end.
    #[error(
        "control never issued this token, or forgot it after its end; make one with `sidelane token --node {asked}`"
    )]
    Unknown {
        /// The node that asked.
        asked: NodeId,
    },
    /// It was used by another key.
    #[error(
        "this token was used already, and each is good for one sidecar; make another with `sidelane token --node {asked}`"
    )]
    Used {
        /// The node that asked.
        asked: NodeId,
    },
    /// Its time is over.
    #[error("this token ended {ago} s ago; make another with `sidelane token --node {asked}`")]
    Expired {
        /// The node that asked.
        asked: NodeId,
        /// Since when.
        ago: UnixSeconds,
    },
    /// It is another node's.
    #[error(
        "this token is for node `{node}`, and node `{asked}` came with it; make one with `sidelane token --node {asked}`"
    )]
    OtherNode {
        /// The node that asked.
        asked: NodeId,
        /// The node that it was made for.
        node: NodeId,
    },
    /// It is for another identity.
    #[error(
        "this token is for {identity}, and {asked} was asked for; leave --identity away, or make a token for it"
    )]
    OtherIdentity {
        /// What was asked for.
        asked: Identity,
        /// What it was made for.
        identity: Identity,
    },
    /// Who holds the right was revoked.
    #[error("{0} was revoked; `sidelane revoke --undo` takes that back")]
    Revoked(String),
    /// That was taken back, and the right is older.
    #[error(
        "{subject} was revoked, and what was signed or made before stays of no use, also after \
         `--undo`; make a new token with `sidelane token --node {asked}`"
    )]
    RevokedBefore {
        /// The node that asked.
        asked: NodeId,
        /// Who was revoked.
        subject: String,
    },
}

impl Denied {
    /// The machine-readable reason.
    #[must_use]
    pub fn label(&self) -> &'static str {
        match self {
            Self::Unknown { .. } => "TOKEN_UNKNOWN",
            Self::Used { .. } => "TOKEN_USED",
            Self::Expired { .. } => "TOKEN_EXPIRED",
            Self::OtherNode { .. } => "TOKEN_OF_ANOTHER_NODE",
            Self::OtherIdentity { .. } => "TOKEN_OF_ANOTHER_IDENTITY",
            Self::Revoked(_) => "REVOKED",
            Self::RevokedBefore { .. } => "REVOKED_BEFORE",
        }
    }
}

/// A rotation that does not begin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RotateError {
    /// One has begun.
    #[error(
        "a new root is on its way to the sidecars already; it signs when all of them have \
         acknowledged it, or after {} s", super::OVERLAP_LIMIT.as_secs()
    )]
    UnderWay,
    /// Older ones are still trusted.
    #[error(
        "{0} older roots are trusted still, until the last certificates that they signed have \
         ended; try again then"
    )]
    TooMany(usize),
}

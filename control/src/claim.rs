//! What passes between the streams of sidecars and the registration source: a stream claims to be
//! a node, the source decides. Both sides know only this file, so that push needs no source and a
//! source needs no stream.

use sidelane_proto::model::{Generation, NodeHello, Offer};
use tokio::sync::{mpsc, oneshot};

use crate::registry::{Closed, NodeKey};

/// Messages of all streams that wait for the source. A stream that finds it full waits.
const QUEUE_LIMIT: usize = 1024;

/// One stream, in this process's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u64);

/// What a stream says to the source.
#[derive(Debug)]
pub enum ClaimEvent {
    /// It claims to be this node.
    Hello {
        /// Which stream.
        stream: StreamId,
        /// Who it claims to be.
        hello: Box<NodeHello>,
        /// To be told when the claim is over.
        ended: oneshot::Sender<ClaimEnd>,
        /// The decision.
        reply: oneshot::Sender<Result<Admitted, Refused>>,
    },
    /// Something of a stream whose claim was admitted. Of any other it changes nothing.
    Said {
        /// Which stream.
        stream: StreamId,
        /// Which node it is.
        key: NodeKey,
        /// What it said.
        word: Word,
    },
    /// Asks how long each node has been silent, in milliseconds.
    Silences(oneshot::Sender<Vec<(NodeKey, u64)>>),
}

/// What an admitted stream says.
#[derive(Debug)]
pub enum Word {
    /// Still there.
    Heard,
    /// Its offers are these now. The sender gets whether they were taken in.
    Offers(Vec<Offer>, oneshot::Sender<Result<(), Refused>>),
    /// It takes no new calls. The sender gets the first version that says so.
    Draining(oneshot::Sender<u64>),
    /// It is gone.
    Goodbye,
    /// The stream broke.
    Lost,
}

/// A claim that was taken in.
#[derive(Debug)]
pub struct Admitted {
    /// The highest generation ever seen for this node.
    pub highest: Generation,
    /// The first version that has the node in it.
    pub published: oneshot::Receiver<u64>,
}

/// A claim that was not taken in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// A newer generation is known.
    #[error(
        "node `{key}` came with generation {given}, but generation {highest} was seen already; \
         a process that was just started may raise its generation above that once, an older one \
         has been replaced"
    )]
    StaleGeneration {
        /// The node.
        key: NodeKey,
        /// As it came.
        given: Generation,
        /// The highest ever seen.
        highest: Generation,
    },
    /// Somebody else is this node.
    #[error(
        "node id `{key}` is held by {holder}, which is alive; {claimant} cannot have it: choose \
         another --node, or stop the other one"
    )]
    AlreadyExists {
        /// The node.
        key: NodeKey,
        /// Who holds it, in words.
        holder: String,
        /// Who asks for it, in words.
        claimant: String,
    },
    /// A bound is reached.
    #[error("{count} {what} are known, and no more than {limit} can be; stop some, then try again")]
    Full {
        /// What there is too much of.
        what: &'static str,
        /// How many there would be.
        count: usize,
        /// How many there may be.
        limit: usize,
    },
}

/// Why a claim is over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimEnd {
    /// A newer generation of the node is alive.
    Superseded(Generation),
    /// The same process has opened another stream.
    Resumed,
    /// It was silent for the whole lease.
    LeaseEnded,
}

/// The way from streams to the source.
#[derive(Debug, Clone)]
pub struct Claims(mpsc::Sender<ClaimEvent>);

impl Claims {
    /// The way, and its end at the source.
    #[must_use]
    pub fn channel() -> (Self, mpsc::Receiver<ClaimEvent>) {
        let (sender, receiver) = mpsc::channel(QUEUE_LIMIT);
        (Self(sender), receiver)
    }

    /// Says something to the source.
    ///
    /// # Errors
    /// The source has ended.
    pub async fn send(&self, event: ClaimEvent) -> Result<(), Closed> {
        self.0.send(event).await.map_err(|_| Closed)
    }

    /// How long each registered node has been silent, in milliseconds.
    ///
    /// # Errors
    /// The source has ended.
    pub async fn silences(&self) -> Result<Vec<(NodeKey, u64)>, Closed> {
        let (reply, silences) = oneshot::channel();
        self.send(ClaimEvent::Silences(reply)).await?;
        silences.await.map_err(|_| Closed)
    }
}

//! The opening of a session: from the first message to Welcome or Refusal, within a fixed time.

use std::sync::Arc;
use std::time::Duration;

use sidelane_proto::model::{NodeHello, NodeId, Offer, ServiceName};
use sidelane_proto::wire::control::v1::{
    Hello, SyncRequest, Welcome, sync_request::Message as Said,
};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout_at};
use tonic::Streaming;

use crate::claim::{ClaimEnd, ClaimEvent, Refused, StreamId, Word};
use crate::drain::Draining;
use crate::peer::{Peer, Shown};
use crate::push::ack::Progress;
use crate::push::counters::RefusalReason;
use crate::push::directory::Entry;
use crate::push::server::{Membership, PROTOCOL};
use crate::registry::NodeKey;

/// Hello, the decision on it and its publication together take at most this long.
pub const HELLO_LIMIT: Duration = Duration::from_secs(3);

/// A session that is open.
pub(super) struct Opened {
    pub(super) entry: Entry,
    pub(super) welcome: Welcome,
    /// What the node offers.
    pub(super) offered: Vec<ServiceName>,
    pub(super) ended: oneshot::Receiver<ClaimEnd>,
}

/// A session that was not opened.
pub(super) enum Unopened {
    Refused(Refusing),
    /// The sidecar has gone before it was answered.
    Gone,
}

pub(super) struct Refusing {
    pub(super) reason: RefusalReason,
    pub(super) text: String,
    pub(super) highest_generation: u64,
}

/// Opens a session.
pub(super) async fn open(
    membership: &Arc<Membership>,
    stream: StreamId,
    peer: Option<&Peer>,
    requests: &mut Streaming<SyncRequest>,
    draining: &mut Draining,
) -> Result<Opened, Unopened> {
    let until = Instant::now() + HELLO_LIMIT;
    tokio::select! {
        biased;
        () = draining.begun() => {
            let text = "the control plane is stopping; come again, here or at another one";
            Err(refused(RefusalReason::ShuttingDown, text.to_owned()))
        }
        opened = admit(membership, stream, peer, requests, until) => opened,
    }
}

async fn admit(
    membership: &Arc<Membership>,
    stream: StreamId,
    peer: Option<&Peer>,
    requests: &mut Streaming<SyncRequest>,
    until: Instant,
) -> Result<Opened, Unopened> {
    let hello = first_message(requests, until).await?;
    let hello = NodeHello::try_from(hello).map_err(|error| {
        let text = format!("hello.{error}");
        refused(RefusalReason::InvalidHello, text)
    })?;
    if let Some(trust) = &membership.trust {
        let shown = peer.and_then(|peer| peer.shown.as_ref());
        is_its_own(&hello, shown)?;
        let revoked = &trust.borrow().revoked;
        if let Some(found) = shown.and_then(|shown| shown.revoked(revoked)) {
            let text = format!("{} was revoked", found.subject);
            return Err(refused(RefusalReason::Revoked, text));
        }
    }
    if membership.certified_elsewhere {
        is_its_identity(&hello, peer.and_then(|peer| peer.shown.as_ref()))?;
    }
    let protocol = PROTOCOL.common(hello.protocol).ok_or_else(|| {
        let text = format!(
            "the sidecar speaks versions {} of the membership protocol, this control plane {}; \
             use builds whose ranges meet",
            hello.protocol, PROTOCOL
        );
        refused(RefusalReason::ProtocolMismatch, text)
    })?;
    let key = NodeKey {
        network: hello.network.clone(),
        node: hello.node.clone(),
    };
    let (subscription, held) = (hello.subscription.clone(), hello.held.clone());
    let generation = hello.generation;
    let offered = service_names(&hello.offers);
    let (ended_sender, ended) = oneshot::channel();
    let highest = claim(membership, stream, hello, ended_sender, until).await?;
    let registry = &membership.registry;
    let snapshot = registry.snapshot();
    let network = key.network.clone();
    let mut progress = Progress::new(network, subscription, held.as_ref(), &snapshot);
    progress.offer(&offered);
    let entry = membership
        .directory
        .enter(stream, key, generation, progress);
    let milliseconds = |time: Duration| u32::try_from(time.as_millis()).unwrap_or(u32::MAX);
    let welcome = Welcome {
        protocol,
        store_id: snapshot.store().to_string(),
        highest_generation: highest,
        lease_ms: milliseconds(membership.terms.lease()),
        heartbeat_ms: milliseconds(membership.terms.heartbeat()),
        build: env!("CARGO_PKG_VERSION").to_owned(),
    };
    Ok(Opened {
        entry,
        welcome,
        offered,
        ended,
    })
}

/// Does the certificate say what the Hello says?
fn is_its_own(hello: &NodeHello, shown: Option<&Shown>) -> Result<(), Unopened> {
    is_its_identity(hello, shown)?;
    let node = &hello.node;
    match shown {
        Some(shown) if shown.node.as_ref() != Some(node) => {
            let text = format!(
                "node `{node}` came with a certificate that was signed for {}; each node needs its \
                 own",
                shown.node.as_ref().map_or("no node", NodeId::as_str)
            );
            Err(refused(RefusalReason::NotTheIdentity, text))
        }
        _ => Ok(()),
    }
}

/// Does it say so of the identity alone? Another authority names no nodes.
fn is_its_identity(hello: &NodeHello, shown: Option<&Shown>) -> Result<(), Unopened> {
    let wrong = |text| Err(refused(RefusalReason::NotTheIdentity, text));
    let (claimed, node) = (hello.identity.as_ref(), &hello.node);
    match shown {
        None if claimed.is_none() => Ok(()),
        None => wrong(format!(
            "node `{node}` says that it is {}, and showed no certificate",
            claimed.map_or("", sidelane_proto::model::Identity::as_str)
        )),
        Some(shown) if claimed != Some(&shown.identity) => wrong(format!(
            "node `{node}` says that it is {}, and its certificate is that of {}",
            claimed.map_or("nobody", sidelane_proto::model::Identity::as_str),
            shown.identity
        )),
        Some(_) => Ok(()),
    }
}

async fn first_message(
    requests: &mut Streaming<SyncRequest>,
    until: Instant,
) -> Result<Hello, Unopened> {
    let missing = |what: &str| {
        let text = format!(
            "{what}; the first message of a stream is a hello, within {} s",
            HELLO_LIMIT.as_secs()
        );
        refused(RefusalReason::NoHello, text)
    };
    match timeout_at(until, requests.message()).await {
        Err(_) => Err(missing("nothing was said")),
        Ok(Ok(Some(SyncRequest {
            message: Some(Said::Hello(hello)),
        }))) => Ok(hello),
        Ok(Ok(Some(_))) => Err(missing("something else was said first")),
        Ok(Ok(None) | Err(_)) => Err(Unopened::Gone),
    }
}

pub(super) fn service_names(offers: &[Offer]) -> Vec<ServiceName> {
    offers.iter().map(|offer| offer.service.clone()).collect()
}

/// Asks for the node id, and waits until others can see the node: so that a call that somebody
/// makes because this node said it is ready finds it.
async fn claim(
    membership: &Arc<Membership>,
    stream: StreamId,
    hello: NodeHello,
    ended: oneshot::Sender<ClaimEnd>,
    until: Instant,
) -> Result<u64, Unopened> {
    let key = NodeKey {
        network: hello.network.clone(),
        node: hello.node.clone(),
    };
    let mut claimed = Claimed {
        membership: Arc::clone(membership),
        stream,
        key,
        kept: false,
    };
    let (reply, decision) = oneshot::channel();
    let event = ClaimEvent::Hello {
        stream,
        hello: Box::new(hello),
        ended,
        reply,
    };
    let asked = async {
        membership.claims.send(event).await.ok()?;
        Some(match decision.await.ok()? {
            Ok(admitted) => {
                admitted.published.await.ok()?;
                Ok(admitted.highest.number())
            }
            Err(refusal) => Err(refusal),
        })
    };
    match timeout_at(until, asked).await {
        Ok(Some(Ok(highest))) => {
            claimed.kept = true;
            Ok(highest)
        }
        Ok(Some(Err(refusal))) => {
            claimed.kept = true;
            Err(not_admitted(&refusal))
        }
        Ok(None) => {
            let text = "the control plane is stopping; come again, here or at another one";
            Err(refused(RefusalReason::ShuttingDown, text.to_owned()))
        }
        Err(_) => {
            let text = format!(
                "the control plane could not decide within {} s; come again",
                HELLO_LIMIT.as_secs()
            );
            Err(refused(RefusalReason::Overloaded, text))
        }
    }
}

/// A claim that was made and is not answered yet. If the session ends before it is, the source
/// must learn that the stream is gone, or the node would seem to be there for a whole lease.
struct Claimed {
    membership: Arc<Membership>,
    stream: StreamId,
    key: NodeKey,
    kept: bool,
}

impl Drop for Claimed {
    fn drop(&mut self) {
        if self.kept {
            return;
        }
        let event = ClaimEvent::Said {
            stream: self.stream,
            key: self.key.clone(),
            word: Word::Lost,
        };
        let claims = self.membership.claims.clone();
        // Bounded by the sessions that are being opened: each leaves at most one of these.
        tokio::spawn(async move { claims.send(event).await });
    }
}

fn not_admitted(refusal: &Refused) -> Unopened {
    let (reason, highest) = match refusal {
        Refused::StaleGeneration { highest, .. } => {
            (RefusalReason::StaleGeneration, highest.number())
        }
        Refused::AlreadyExists { .. } => (RefusalReason::AlreadyExists, 0),
        Refused::Full { .. } => (RefusalReason::ControlFull, 0),
    };
    Unopened::Refused(Refusing {
        reason,
        text: refusal.to_string(),
        highest_generation: highest,
    })
}

fn refused(reason: RefusalReason, text: String) -> Unopened {
    Unopened::Refused(Refusing {
        reason,
        text,
        highest_generation: 0,
    })
}

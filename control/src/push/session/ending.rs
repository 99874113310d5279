//! The end of a session: what the source must know of it, and what the sidecar is told last.

use std::time::Duration;

use sidelane_proto::wire::control::v1::{Superseded, sync_response::Message as Told};
use tonic::Status;

use super::Connection;
use crate::claim::{ClaimEnd, ClaimEvent, StreamId, Word};
use crate::push::outgoing::Outgoing;
use crate::push::server::Membership;
use crate::registry::NodeKey;

/// How long the last word of a session may take to leave.
const FAREWELL_LIMIT: Duration = Duration::from_secs(1);

/// How a session ends.
#[derive(Debug)]
pub(super) enum End {
    /// The sidecar has taken its leave.
    Goodbye,
    /// The stream broke.
    Lost,
    /// The sidecar said something that cannot be.
    Wrong(Status),
    /// The certificate that the sidecar came with has ended.
    Outdated,
    /// The claim is over.
    Claim(ClaimEnd),
    /// The control plane is stopping.
    Stopping,
    /// The control plane is gone already, in part.
    Closed,
}

/// Says the last word to both sides.
pub(super) async fn close(
    membership: &Membership,
    end: End,
    stream: StreamId,
    key: NodeKey,
    outgoing: &Connection,
) {
    tracing::debug!(node = %key, ?end, "session ends");
    let (word, farewell) = match end {
        End::Goodbye => (Some(Word::Goodbye), None),
        End::Lost => (Some(Word::Lost), None),
        End::Wrong(status) => (Some(Word::Lost), Some(Outgoing::Ended(status))),
        End::Claim(ClaimEnd::Superseded(generation)) => {
            let text = format!(
                "generation {generation} of node `{key}` is alive; this process has been replaced \
                 and must not come back"
            );
            let generation = generation.number();
            let superseded = Superseded { generation, text };
            (None, Some(Outgoing::told(Told::Superseded(superseded))))
        }
        End::Claim(ClaimEnd::LeaseEnded) => {
            let text = "nothing was heard for a whole lease; connect again";
            (None, Some(Outgoing::Ended(Status::unavailable(text))))
        }
        End::Claim(ClaimEnd::Resumed) => {
            let text = "the node has opened another stream";
            (None, Some(Outgoing::Ended(Status::aborted(text))))
        }
        // The node's lease is left as it is: it comes again at once, with the certificate that
        // followed, and nobody is to see it gone in between.
        End::Outdated => {
            let text = "the certificate that this connection showed has ended; connect again with \
                        the one that followed it";
            (None, Some(Outgoing::Ended(Status::unauthenticated(text))))
        }
        // The node's lease is left as it is: it comes back to whoever counts it next.
        End::Stopping | End::Closed => (None, None),
    };
    if let Some(word) = word {
        // An error means that the process ends anyway.
        let _ = membership
            .claims
            .send(ClaimEvent::Said { stream, key, word })
            .await;
    }
    if let Some(farewell) = farewell {
        // A sidecar that does not read has its stream closed without.
        let _ = tokio::time::timeout(FAREWELL_LIMIT, outgoing.send(farewell)).await;
    }
}

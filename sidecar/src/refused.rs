//! Ends a call before it is known what it is for: no rule counts it, so what counts it here says from
//! which side it came, and where it is recorded it has a span that says why. A part of `stack`, beside
//! `ending`, which ends calls that have a guard.

use std::time::Instant;

use bytes::Bytes;
use h2::server::SendResponse;
use http::request::Parts;

use crate::call::{Peer, User};
use crate::ending::send_failure;
use crate::respond::Failure;
use crate::stack::{Stack, by, who};
use crate::telemetry::Direction;
use crate::telemetry::tap::Who;
use crate::telemetry::trace::{By, Context, Facts, Kind};

/// Whose call it is.
#[derive(Clone, Copy)]
pub(crate) enum Whose<'a> {
    /// The local app's.
    App,
    /// A peer's.
    Peer(&'a Peer),
    /// This user's, who says that it belongs to this trace. What users say of traces has been taken out of
    /// its headers.
    User(User, Option<Context>),
}

impl Stack {
    /// Refuses a call that came then with this head.
    pub(crate) fn turned_away(
        &self,
        respond: &mut SendResponse<Bytes>,
        (head, arrived): (&Parts, Instant),
        whose: Whose<'_>,
        failure: Failure,
    ) {
        self.written_off((head, arrived), whose, &failure);
        let failure = match whose {
            // Counted as what it is, and told as what it may be.
            Whose::User(..) => failure.for_user(head.uri.path()),
            Whose::App | Whose::Peer(_) => failure,
        };
        // A caller that is gone needs no answer.
        let _ = send_failure(respond, failure);
    }

    /// Counts it and records it; nobody is there to be told.
    pub(crate) fn written_off(
        &self,
        (head, arrived): (&Parts, Instant),
        whose: Whose<'_>,
        failure: &Failure,
    ) {
        let (direction, kind) = match whose {
            Whose::App => (Direction::Outbound, Kind::Client),
            // Users' calls are counted with those that leave by this sidecar.
            Whose::User(..) => (Direction::Outbound, Kind::Server),
            Whose::Peer(_) => (Direction::Inbound, Kind::Server),
        };
        self.metrics.refused(direction, failure.reason);
        let who = match whose {
            Whose::App => Who::App,
            Whose::Peer(peer) => who(peer),
            Whose::User(user, _) => Who::User(user),
        };
        let seen = (head.uri.path(), &head.headers);
        let (refused, why) = ((arrived, failure.reason), (failure.code, &*failure.text));
        self.metrics
            .taps
            .refused(direction, seen, who, refused, why);
        let (peer, by) = match whose {
            Whose::App => (None, By::App),
            Whose::Peer(peer) => (Some(peer), by(peer)),
            Whose::User(_, linked) => (None, By::User(linked)),
        };
        let facts = || Facts {
            kind,
            uri: &head.uri,
            named: false,
            way: peer.map(|peer| (peer.class, peer.lane)),
            rule: None,
            node: peer.map(|peer| &peer.node),
            destination: None,
        };
        let why = (failure.code, failure.reason, failure.text.as_str());
        self.tracing
            .refused(&head.headers, (arrived, by), facts, why);
    }
}

//! A user's call, by the external listener: it goes to a service of class External, wherever in the
//! mesh that is, under the service's rule, and whatever else there is does not exist for it.

use std::future::{Future, pending, poll_fn};
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{FlowControl, RecvStream};
use http::request::Parts;
use http::{HeaderMap, Request};
use tokio::time::{sleep, sleep_until};
use tracing::debug;

use crate::call::{Caller, User};
use crate::edge::leaving::Leaving;
use crate::edge::room::{Brought, Stay};
use crate::edge::{Guest, NOWHERE_AFTER};
use crate::forward::Upload;
use crate::own;
use crate::reason::Reason;
use crate::refused::Whose;
use crate::respond::Failure;
use crate::stack::Stack;
use crate::telemetry::Full;
use crate::telemetry::trace;

/// When a call may come again for which there was no room.
const COME_AGAIN: Duration = Duration::from_millis(250);
/// How often it is looked what has come of a request that nobody reads yet.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// What a header takes beside its name and its value (RFC 9113 §6.5.2), in bytes.
const HEADER: usize = 32;

impl Guest<'_> {
    /// Until when the call may go on: however long it asks for, it ends some day.
    pub(crate) fn until(self, limit: Option<Instant>, arrived: Instant) -> Option<Instant> {
        let last = arrived.checked_add(self.edge.limits.deadline);
        limit.into_iter().chain(last).min()
    }

    /// Its request is held to what a user may send.
    pub(crate) fn follows(self, upload: &mut Upload) {
        let limits = &self.edge.limits;
        upload.of_user(limits.message, limits.quiet, self.stay.request());
    }
}

/// Ready when there is no room for what a request brings while its call still looks for a way. Once
/// the request is sent on, it never is.
async fn crowded(request: Arc<Brought>, received: FlowControl) -> Full {
    loop {
        sleep(LOOK_EVERY).await;
        match request.waits(received.used_capacity()) {
            Ok(true) => {}
            Ok(false) => pending().await,
            Err(full) => return full,
        }
    }
}

/// What headers take, in bytes.
fn size(headers: &HeaderMap) -> usize {
    let each = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
        name.as_str().len() + value.len() + HEADER
    };
    headers.iter().map(each).sum()
}

impl Stack {
    /// A call of a user. As a local app's, it is read, decided and sent on; but nothing that it says
    /// of the mesh counts, and failures say nothing of it.
    pub(crate) fn of_user(
        self: Arc<Self>,
        (user, leaving): (User, Arc<Leaving>),
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> impl Future<Output = ()> + Send {
        let arrived = Instant::now();
        let (mut head, body) = request.into_parts();
        async move {
            let stream = respond.stream_id().as_u32();
            self.enters((user, &leaving), &mut head, body, &mut respond, arrived)
                .await;
            // One that was given up has nothing that could leave, and may have been before it was taken.
            let given_up = poll_fn(|context| Poll::Ready(respond.poll_reset(context).is_ready()));
            if given_up.await {
                leaving.left(stream);
            }
        }
    }

    /// A call, from its place on.
    async fn enters(
        &self,
        (user, leaving): (User, &Arc<Leaving>),
        head: &mut Parts,
        mut body: RecvStream,
        respond: &mut SendResponse<Bytes>,
        arrived: Instant,
    ) {
        // First of all: what finds no room must not cost anything.
        let stay = match self.edge.room.enter(user, size(&head.headers)) {
            // Until its answer has left: what a user does not read its connection holds.
            Ok(stay) => leaving.stays(respond.stream_id().as_u32(), stay),
            Err(full) => {
                self.metrics.edge.full(full);
                let failure = Failure {
                    pushback: Some(COME_AGAIN),
                    ..Failure::refused(Reason::Overloaded, "")
                };
                let whose = Whose::User(user, trace::strip(&mut head.headers));
                return self.turned_away(respond, (head, arrived), whose, failure);
            }
        };
        let waits = crowded(stay.request(), body.flow_control().clone());
        let full = tokio::select! {
            () = self.visited((user, &stay), head, body, respond, arrived) => return,
            full = waits => full,
        };
        self.metrics.edge.full(full);
        let full = full.label();
        debug!(
            full,
            "a user's call ended before it was sent on: too much is held for users"
        );
        let failure = Failure::refused(Reason::Overloaded, "");
        // It may have been taken out already, and with it which trace it was.
        let whose = Whose::User(user, trace::strip(&mut head.headers));
        self.turned_away(respond, (head, arrived), whose, failure);
    }

    /// A call that has its place.
    async fn visited(
        &self,
        (user, stay): (User, &Stay),
        head: &mut Parts,
        body: RecvStream,
        respond: &mut SendResponse<Bytes>,
        arrived: Instant,
    ) {
        // What users may not say is taken out, here and by the next step.
        let trace = trace::strip(&mut head.headers);
        let decided = self.decide_of(Caller::User(user), head, arrived);
        let whose = Whose::User(user, trace);
        let (mut call, decided) = match decided {
            Ok(decided) => decided,
            Err(error) => {
                return self.turned_away(respond, (head, arrived), whose, error.into());
            }
        };
        let service = call.path(head).service;
        // Health and reflection would tell of the whole mesh.
        let hidden = own::answered(service) || own::every_node_serves(service);
        let Some(decided) = decided.filter(|_| !hidden) else {
            let failure = Failure::refused(Reason::NotExposed, "");
            return self.nowhere(respond, (head, arrived), whose, failure).await;
        };
        match self.classified(decided, &mut call, head).await {
            Ok(classified) => {
                let guest = Guest {
                    edge: &self.edge,
                    stay,
                    trace,
                    counters: &self.metrics.edge,
                };
                self.routed(&call, &classified, head, body, respond, Some(guest))
                    .await;
            }
            Err(error) => {
                let failure = Failure::from(error);
                self.nowhere(respond, (head, arrived), whose, failure).await;
            }
        }
    }

    /// Refuses what is not there for users: always as long after the call came, so that what does not
    /// exist, what control had to be asked about and what is kept from them take the same time.
    async fn nowhere(
        &self,
        respond: &mut SendResponse<Bytes>,
        (head, arrived): (&Parts, Instant),
        whose: Whose<'_>,
        failure: Failure,
    ) {
        tokio::select! {
            () = sleep_until((arrived + NOWHERE_AFTER).into()) => {
                self.turned_away(respond, (head, arrived), whose, failure);
            }
            // A caller that is gone takes no place while it waits.
            _ = poll_fn(|context| respond.poll_reset(context)) => {
                self.written_off((head, arrived), whose, &failure);
            }
        }
    }
}

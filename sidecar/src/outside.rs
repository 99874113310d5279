//! A user's call, by the external listener: it goes to a service of class External, wherever in the
//! mesh that is, under the service's rule, and whatever else there is does not exist for it.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::Request;

use crate::call::{Caller, User};
use crate::ending::send_failure;
use crate::own;
use crate::reason::Reason;
use crate::respond::Failure;
use crate::stack::Stack;

impl Stack {
    /// A call of a user. As a local app's, it is read, decided and sent on; but nothing that it says
    /// of the mesh counts, and failures say nothing of it.
    pub(crate) fn of_user(
        self: Arc<Self>,
        user: User,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> impl Future<Output = ()> + Send {
        let arrived = Instant::now();
        let (mut head, body) = request.into_parts();
        async move {
            // Below, what users may not say has been taken out.
            let decided = self.decide_of(Caller::User(user), &mut head, arrived);
            let path = head.uri.path();
            let (mut call, decided) = match decided {
                Ok(decided) => decided,
                Err(error) => return self.refuse_user(&mut respond, error.into(), path),
            };
            let service = call.path(&head).service;
            // Health and reflection would tell of the whole mesh.
            let hidden = own::answered(service) || own::every_node_serves(service);
            let Some(decided) = decided.filter(|_| !hidden) else {
                let failure = Failure::refused(Reason::NotExposed, "");
                return self.refuse_user(&mut respond, failure, path);
            };
            match self.classified(decided, &mut call, &head).await {
                Ok(classified) => {
                    self.routed(&call, &classified, &head, body, &mut respond)
                        .await;
                }
                Err(error) => self.refuse_user(&mut respond, error.into(), path),
            }
        }
    }

    /// Counted as what it is, and told as what it may be.
    fn refuse_user(&self, respond: &mut SendResponse<Bytes>, failure: Failure, path: &str) {
        self.metrics.refused(failure.reason);
        // A caller that is gone needs no answer.
        let _ = send_failure(respond, failure.for_user(path));
    }
}

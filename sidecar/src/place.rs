//! Sends a call to the one place that can take it: the service beside this sidecar, or the
//! destination that the call was meant for. There is nobody else to try; but what was not looked at
//! because the connection was going away is sent again, over another one.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use crate::deliver::{Attempt, Delivery, Refusal, Refused};
use crate::ending::{as_http, end, finish, given_up, refuse_at_last};
use crate::forward::Runner;
use crate::policy::retry;
use crate::pool::{Address, Key};
use crate::reason::Processed;
use crate::respond::Failure;
use crate::stack::Stack;
use crate::telemetry::CallGuard;

type Slow = fn(Runner, Instant) -> Infallible;
/// There is nobody to send another attempt to.
const NEVER_SLOW: Option<(Duration, Slow)> = None;

/// The one place.
pub(crate) struct Place<'a> {
    pub(crate) key: Key,
    pub(crate) address: &'a Address,
    /// Its connections stay while they are idle.
    pub(crate) persistent: bool,
}

impl Stack {
    /// Sends the call there, as often as it may be, and ends it.
    pub(crate) async fn to_place(
        &self,
        place: &Place<'_>,
        delivery: &mut Delivery<'_>,
        guard: &CallGuard,
    ) {
        let plain = delivery.plain;
        let failed = |failure: Failure| if plain { as_http(failure) } else { failure };
        let said = |refusal| match refusal {
            Refusal::Ours(failure) => Refusal::Ours(failed(failure)),
            theirs @ Refusal::Peers(_) => theirs,
        };
        let mut number = 0;
        loop {
            number += 1;
            let seat = self.seat(
                delivery.service,
                &place.key,
                place.address,
                place.persistent,
                || true,
            );
            let seat = tokio::select! {
                biased;
                seat = seat => seat,
                given_up = given_up(delivery) => {
                    return finish(guard, delivery, given_up, Processed::No);
                }
            };
            let seat = match seat {
                Ok(seat) => seat,
                Err(failure) => return end(guard, delivery.respond, failed(failure)),
            };
            let Ok(attempt) = delivery.attempt(&seat, None, NEVER_SLOW).await;
            let refusal = match attempt {
                Attempt::Ended(outcome) => return guard.ended(outcome),
                Attempt::Failed(failure) => return end(guard, delivery.respond, failed(failure)),
                Attempt::Unprocessed(refusal, Refused::GoingAway) => refusal,
                // It would say the same again at once; whoever calls knows of others.
                Attempt::Unprocessed(refusal, Refused::Itself | Refused::Unreached)
                | Attempt::Again(refusal, _) => {
                    return refuse_at_last(guard, delivery, said(refusal));
                }
            };
            let attempt = retry::Attempt {
                number,
                unprocessed: true,
                replayable: delivery.upload.replayable(),
            };
            if !retry::again(attempt, None, delivery.deadline, Instant::now()) {
                return refuse_at_last(guard, delivery, said(refusal));
            }
            delivery.upload.rewind();
        }
    }
}

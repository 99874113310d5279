//! Lets a call through to a local service, as its rule admits: the part that takes time. First what
//! it costs nothing to refuse, then what is done on purpose, and the place at the service last, so
//! that nobody holds one while it is kept back.

use std::time::Instant;

use http::HeaderMap;
use sidelane_proto::model::MethodRule;
use tokio::time::{sleep, timeout};

use crate::admission::{Admitted, Asked, Entered, Injected, NotAdmitted, Place};

/// Lets the call in, or says why not. The call has its place for as long as it holds on to it;
/// there is none where calls at once have no bound.
///
/// # Errors
/// It is one too many, or it is meant to fail.
pub(crate) async fn admit(
    admitted: &Admitted,
    asked: &Asked<'_>,
    headers: &HeaderMap,
) -> Result<Option<Place>, NotAdmitted> {
    admitted.arrives(asked, Instant::now())?;
    let random = (fastrand::u32(..100), fastrand::u32(..100));
    let Injected { delay, status } = admitted.injected(asked.method, headers, random);
    if let Some(delay) = delay {
        admitted.counters.delayed();
        sleep(delay).await;
    }
    if let Some(failed) = status.and_then(|status| admitted.failed(asked.method, status)) {
        return Err(failed);
    }
    let Some(gate) = admitted.gate() else {
        return Ok(None);
    };
    let place = match gate.enter() {
        Entered::Now(place) => place,
        Entered::Full => return Err(admitted.overloaded(gate)),
        Entered::Waits(waits) => {
            let _counted = admitted.counters.waiting();
            match timeout(gate.rule().longest_wait, waits).await {
                Ok(Some(place)) => place,
                Ok(None) | Err(_) => return Err(admitted.overloaded(gate)),
            }
        }
    };
    // How long a stream takes says nothing of the service, nor does what may be one.
    let is_unary = asked.method.is_some_and(MethodRule::is_unary);
    Ok(Some(if is_unary { place.timed() } else { place }))
}

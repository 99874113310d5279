//! The open loop: calls go out at a fixed rate whatever becomes of those before them, and each is
//! timed from the moment at which it was due. So a way that stalls is charged for every call that
//! had to wait meanwhile, and no omission is coordinated with it.

use anyhow::{Context as _, Result};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

use crate::call::{self, Sender};
use crate::load::{Outcome, Shared, join_unless_stalled};
use crate::message::EchoCall;
use crate::statistics::number;

/// Until the first call: the pacing thread has started by then.
const LEAD: Duration = Duration::from_millis(5);

/// Makes `rate` calls a second for `duration`, over the connections in turn.
pub(crate) async fn run(
    senders: &[Sender],
    call: &Arc<EchoCall>,
    rate: f64,
    duration: Duration,
) -> Result<Outcome> {
    let calls = calls(rate, duration);
    let interval = Duration::from_secs_f64(1.0 / rate);
    let shared = Shared::new(calls)?;
    let (due, mut times) = mpsc::unbounded_channel();
    let start = Instant::now() + LEAD;
    // A thread of its own: the runtime's timer counts in milliseconds, which is the time of many
    // calls. What the thread itself is late counts as latency, alike in all pairs.
    let pacer = std::thread::Builder::new().name("pacer".to_owned());
    let pacer = pacer.spawn(move || pace(start, interval, calls, &due));
    let pacer = pacer.context("cannot start the pacing thread")?;
    let mut open = JoinSet::new();
    let mut turn = senders.iter().cycle();
    while let Some(at) = times.recv().await {
        let mut sender = turn.next().context("no connection")?.clone();
        let (call, shared) = (call.clone(), shared.clone());
        open.spawn(async move {
            let result = call::make(&mut sender, &call).await;
            shared.count(result, at.elapsed());
        });
        // What has ended is let go, or the set would hold all calls.
        while open.try_join_next().is_some() {}
    }
    // It has sent all: the channel is closed.
    pacer.join().ok().context("the pacing thread panicked")?;
    join_unless_stalled(&mut open, &shared, calls).await?;
    shared.outcome(calls, start.elapsed())
}

/// Calls that are due in this time, at least one.
#[allow(clippy::cast_possible_truncation, clippy::cast_sign_loss)]
fn calls(rate: f64, duration: Duration) -> u64 {
    ((rate * duration.as_secs_f64()) as u64).max(1)
}

/// Tells each call when it is due; ends early when nobody listens any longer.
fn pace(start: Instant, interval: Duration, calls: u64, due: &mpsc::UnboundedSender<Instant>) {
    for index in 0..calls {
        let at = start + interval.mul_f64(number(index));
        std::thread::sleep(at.saturating_duration_since(Instant::now()));
        if due.send(at).is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{echo, http2, load, message};
    use http_body_util::BodyExt as _;
    use hyper::body::Incoming;
    use hyper::service::service_fn;
    use hyper_util::rt::TokioIo;
    use std::sync::Mutex;
    use tokio::net::TcpListener;

    #[tokio::test]
    async fn as_many_calls_are_made_as_were_due() {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let target = listener.local_addr().unwrap();
        tokio::spawn(echo::serve(listener));
        let call = Arc::new(EchoCall::new(target, message::frame(8)).unwrap());
        let senders = load::connect(target, 2).await.unwrap();
        let outcome = run(&senders, &call, 400.0, Duration::from_millis(500)).await;
        let outcome = outcome.unwrap();
        assert_eq!((outcome.answered, outcome.failed), (200, 0));
        // The last one is due one interval before the end.
        assert!(outcome.elapsed >= Duration::from_millis(497), "{outcome:?}");
    }

    /// A server that holds back every answer until a moment: a closed loop would have made one
    /// call until then and called it one slow call.
    #[tokio::test]
    async fn a_stall_is_charged_to_every_call_that_was_due_meanwhile() {
        const STALL: Duration = Duration::from_millis(400);
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let target = listener.local_addr().unwrap();
        let until = Arc::new(Mutex::new(None::<tokio::time::Instant>));
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let until = until.clone();
                let service = service_fn(move |request: hyper::Request<Incoming>| {
                    let first = tokio::time::Instant::now() + STALL;
                    let until = *until.lock().unwrap().get_or_insert(first);
                    async move {
                        let message = request.into_body().collect().await?.to_bytes();
                        tokio::time::sleep_until(until).await;
                        let mut trailers = http::HeaderMap::new();
                        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
                        let body = crate::body::MessageBody::once(message);
                        Ok::<_, hyper::Error>(hyper::Response::new(body.with_trailers(trailers)))
                    }
                });
                tokio::spawn(http2::server().serve_connection(TokioIo::new(stream), service));
            }
        });
        let call = Arc::new(EchoCall::new(target, message::frame(8)).unwrap());
        let senders = load::connect(target, 1).await.unwrap();
        let outcome = run(&senders, &call, 100.0, STALL).await.unwrap();
        // Due evenly over the stall: half of the calls waited for more than half of it.
        assert_eq!((outcome.answered, outcome.failed), (40, 0));
        assert!(outcome.latency.p50_us >= 190_000.0, "{outcome:?}");
    }
}

//! When a user's connection must end by itself: it makes no request, it has none for long, or it is
//! old. Whoever is told to go may end what is open, and nothing after that.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, sleep_until, timeout_at};

use super::server::ServeError;
use crate::edge::{FIRST_REQUEST_LIMIT, LEAVE_LIMIT};
use crate::lane::MAX_AGE;

/// What a connection is doing.
#[derive(Debug)]
pub(super) struct Visit {
    began: Instant,
    open: AtomicUsize,
    /// When the last call ended, or the connection began.
    quiet_since: Mutex<Instant>,
    called: Notify,
    told_to_leave: Notify,
}

/// An open call.
pub(super) struct Call(Arc<Visit>);

impl Visit {
    pub(super) fn begun() -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            began: now,
            open: AtomicUsize::new(0),
            quiet_since: Mutex::new(now),
            called: Notify::new(),
            told_to_leave: Notify::new(),
        })
    }

    /// A call has come. It is open until this is dropped.
    pub(super) fn call(self: &Arc<Self>) -> Call {
        self.open.fetch_add(1, Ordering::Relaxed);
        self.called.notify_one();
        Call(Arc::clone(self))
    }

    fn quiet_since(&self) -> Option<Instant> {
        let quiet = self.open.load(Ordering::Relaxed) == 0;
        let since = self.quiet_since.lock();
        quiet.then(|| *since.unwrap_or_else(PoisonError::into_inner))
    }

    /// Ready when the connection is to go: it had no call for `idle`, or it is old. `part` is a
    /// random one, from 0 to 1, of the tenth by which ages differ.
    pub(super) async fn over(self: Arc<Self>, idle: Duration, part: f64) {
        let old = self.began + MAX_AGE.mul_f64(0.9 + 0.2 * part);
        loop {
            let now = Instant::now();
            let until = self.quiet_since().unwrap_or(now) + idle;
            if until <= now || old <= now {
                self.told_to_leave.notify_one();
                return;
            }
            sleep_until(until.min(old)).await;
        }
    }

    /// Ready with what ends the connection at once: no first request, or nothing open on it after it
    /// was told to go.
    pub(super) async fn ended(self: Arc<Self>) -> ServeError {
        // From its beginning on, whatever else it was waited for.
        let until = self.began + FIRST_REQUEST_LIMIT;
        if timeout_at(until, self.called.notified()).await.is_err() {
            return ServeError::NoRequest(FIRST_REQUEST_LIMIT);
        }
        self.told_to_leave.notified().await;
        let told = Instant::now();
        loop {
            let quiet = self.quiet_since().map(|since| since.max(told));
            let now = Instant::now();
            let until = quiet.unwrap_or(now) + LEAVE_LIMIT;
            if until <= now {
                return ServeError::Left;
            }
            sleep_until(until).await;
        }
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        let since = self.0.quiet_since.lock();
        *since.unwrap_or_else(PoisonError::into_inner) = Instant::now();
        self.0.open.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDLE: Duration = Duration::from_secs(60);

    /// How long something takes.
    async fn takes<T>(what: impl Future<Output = T>) -> (Duration, T) {
        let begun = Instant::now();
        let done = what.await;
        (begun.elapsed(), done)
    }

    fn about(took: Duration, expected: Duration) {
        let late = took.saturating_sub(expected);
        assert!(
            took >= expected && late < Duration::from_millis(10),
            "{took:?}"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_makes_no_request_is_not_waited_for() {
        let (took, ended) = takes(Visit::begun().ended()).await;
        about(took, FIRST_REQUEST_LIMIT);
        assert!(matches!(ended, ServeError::NoRequest(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn who_was_slow_before_has_less_time_for_its_first_request() {
        let visit = Visit::begun();
        tokio::time::sleep(FIRST_REQUEST_LIMIT * 7 / 10).await;
        let (took, ended) = takes(visit.ended()).await;
        about(took, FIRST_REQUEST_LIMIT * 3 / 10);
        assert!(matches!(ended, ServeError::NoRequest(_)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_goes_when_it_had_no_call_for_long() {
        let visit = Visit::begun();
        let call = visit.call();
        let over = tokio::spawn(takes(Arc::clone(&visit).over(IDLE, 0.5)));
        let ended = tokio::spawn(takes(Arc::clone(&visit).ended()));
        tokio::time::sleep(IDLE * 3 + Duration::from_secs(7)).await;
        assert!(!over.is_finished(), "it has a call");
        drop(call);
        let gone = IDLE * 4 + Duration::from_secs(7);
        about(over.await.unwrap().0, gone);
        let (took, why) = ended.await.unwrap();
        about(took, gone + LEAVE_LIMIT);
        assert!(matches!(why, ServeError::Left));
    }

    #[tokio::test(start_paused = true)]
    async fn an_old_connection_goes_when_its_last_call_has_ended() {
        let visit = Visit::begun();
        let call = visit.call();
        let ended = tokio::spawn(Arc::clone(&visit).ended());
        let (took, ()) = takes(Arc::clone(&visit).over(IDLE, 0.5)).await;
        about(took, MAX_AGE);
        tokio::time::sleep(LEAVE_LIMIT * 5).await;
        assert!(!ended.is_finished(), "its call takes its time");
        drop(call);
        let (took, _) = takes(ended).await;
        assert!(took <= 2 * LEAVE_LIMIT, "{took:?}");
    }
}

//! How long callers may take nothing of an answer. What they do not take fills the windows of a
//! connection that others share, so those who wait are counted: few may take long, and of many, none.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::{Instant, Sleep, sleep};

/// Answers that may stand still at once before it gets short. With two thirds of a link's window for
/// what users send and get, they leave room for the others.
pub const CROWD: usize = 32;
/// How long each of them may then.
pub const IN_A_CROWD: Duration = Duration::from_secs(3);
/// How often each looks how many there are.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// The patience with all callers of a kind.
#[derive(Debug, Clone)]
pub struct Patience {
    limit: Duration,
    waiting: Arc<AtomicUsize>,
}

/// One answer that stands still. It is counted until it is dropped.
#[derive(Debug)]
pub struct Wait {
    patience: Patience,
    since: Instant,
    clock: Pin<Box<Sleep>>,
}

impl Patience {
    /// With each for so long, while they are few.
    #[must_use]
    pub fn of(limit: Duration) -> Self {
        Self {
            limit,
            waiting: Arc::default(),
        }
    }

    /// One more stands still.
    #[must_use]
    pub fn wait(&self) -> Wait {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        Wait {
            patience: self.clone(),
            since: Instant::now(),
            clock: Box::pin(sleep(LOOK_EVERY)),
        }
    }
}

impl Wait {
    /// Ready when it has stood still for as long as it may.
    pub fn poll_over(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            let crowd = self.patience.waiting.load(Ordering::Relaxed) > CROWD;
            let may = if crowd {
                self.patience.limit.min(IN_A_CROWD)
            } else {
                self.patience.limit
            };
            let waited = self.since.elapsed();
            if waited >= may {
                return Poll::Ready(());
            }
            if self.clock.as_mut().poll(context).is_pending() {
                return Poll::Pending;
            }
            let next = Instant::now() + LOOK_EVERY.min(may - waited);
            self.clock.as_mut().reset(next);
        }
    }
}

impl Drop for Wait {
    fn drop(&mut self) {
        self.patience.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use futures_util::future::join_all;

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    /// How long each of so many waits that begin together.
    async fn waited(patience: &Patience, count: usize) -> Vec<Duration> {
        let waits: Vec<Wait> = (0..count).map(|_| patience.wait()).collect();
        join_all(waits.into_iter().map(async |mut wait| {
            let begun = Instant::now();
            poll_fn(|context| wait.poll_over(context)).await;
            begun.elapsed()
        }))
        .await
    }

    #[tokio::test(start_paused = true)]
    async fn few_may_take_their_time_and_many_may_not() {
        let patience = Patience::of(LIMIT);
        let about = |took: &Duration, expected: Duration| {
            *took >= expected && *took < expected + 2 * LOOK_EVERY
        };
        let few = waited(&patience, CROWD).await;
        assert!(few.iter().all(|took| about(took, LIMIT)), "{few:?}");
        assert_eq!(patience.waiting.load(Ordering::Relaxed), 0);
        let many = waited(&patience, CROWD + 1).await;
        let soon = many.iter().filter(|took| about(took, IN_A_CROWD));
        assert!(soon.count() > 0, "{many:?}");
        // Once some have gone, the others are few.
        assert_eq!(patience.waiting.load(Ordering::Relaxed), 0);
    }
}

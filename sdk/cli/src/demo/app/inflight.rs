//! Counts the calls that are open in an app, so that it can end when the last one has. A call is
//! open until its guard is dropped, however it ends.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::timeout;

/// The number of open calls.
#[derive(Clone)]
pub(super) struct InFlight {
    open: Arc<watch::Sender<usize>>,
}

/// One open call.
pub(super) struct Open {
    counter: Arc<watch::Sender<usize>>,
}

impl Default for InFlight {
    fn default() -> Self {
        Self {
            open: Arc::new(watch::Sender::new(0)),
        }
    }
}

impl InFlight {
    /// One more.
    pub(super) fn open(&self) -> Open {
        self.open.send_modify(|open| *open += 1);
        Open {
            counter: Arc::clone(&self.open),
        }
    }

    /// Returns when no call is open, or after `limit`.
    pub(super) async fn none_within(&self, limit: Duration) {
        let mut open = self.open.subscribe();
        // Both ways to end mean the same to the caller: no reason to wait any longer.
        let _ = timeout(limit, open.wait_for(|open| *open == 0)).await;
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.counter.send_modify(|open| *open -= 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn waits_for_the_last_open_call_only() {
        let in_flight = InFlight::default();
        in_flight.none_within(Duration::from_secs(3600)).await;
        let first = in_flight.open();
        let second = in_flight.open();
        let waiting = {
            let in_flight = in_flight.clone();
            tokio::spawn(async move { in_flight.none_within(Duration::from_secs(3600)).await })
        };
        drop(first);
        tokio::task::yield_now().await;
        assert!(!waiting.is_finished());
        drop(second);
        waiting.await.unwrap();
    }
}

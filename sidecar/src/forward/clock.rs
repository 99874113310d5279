//! A call's clock: one timer, that is made when something first waits for it. It rings when the
//! call's time is over, and once before that where somebody wants to know how long the call takes.
//! A call whose answer comes before either pays for one timer, however often it was to ring.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Instant;

use tokio::time::{Sleep, sleep_until};

/// The clock of one call.
#[derive(Debug)]
pub struct Clock {
    deadline: Option<Instant>,
    /// It rings then, too: always before the deadline.
    early: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// What a clock says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ring {
    /// What it was asked to ring for before the deadline. It rings so once.
    Early,
    /// The call's time is over.
    Deadline,
}

impl Clock {
    /// Rings at the deadline, where there is one.
    #[must_use]
    pub const fn until(deadline: Option<Instant>) -> Self {
        Self {
            deadline,
            early: None,
            timer: None,
        }
    }

    /// Rings then, too, if the call has so much time.
    pub fn also(&mut self, at: Instant) {
        let before = self.deadline.is_none_or(|deadline| at < deadline);
        self.early = before.then_some(at);
    }

    /// Waits for what comes first.
    pub fn poll(&mut self, context: &mut Context<'_>) -> Poll<Ring> {
        let Some(at) = self.early.or(self.deadline) else {
            return Poll::Pending;
        };
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(at.into())));
        if timer.deadline() != at.into() {
            timer.as_mut().reset(at.into());
        }
        ready!(timer.as_mut().poll(context));
        Poll::Ready(match self.early.take() {
            Some(_) => Ring::Early,
            None => Ring::Deadline,
        })
    }

    /// Waits for the end of the call's time alone. True when it is over.
    pub fn is_over(&mut self, context: &mut Context<'_>) -> bool {
        loop {
            match self.poll(context) {
                Poll::Ready(Ring::Early) => {}
                Poll::Ready(Ring::Deadline) => return true,
                Poll::Pending => return false,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::time::Duration;

    use tokio::time::advance;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn now() -> Instant {
        tokio::time::Instant::now().into_std()
    }

    async fn ring(clock: &mut Clock) -> Ring {
        poll_fn(|context| clock.poll(context)).await
    }

    async fn polled(clock: &mut Clock) -> Poll<Ring> {
        poll_fn(|context| Poll::Ready(clock.poll(context))).await
    }

    async fn is_over(clock: &mut Clock) -> bool {
        poll_fn(|context| Poll::Ready(clock.is_over(context))).await
    }

    #[tokio::test(start_paused = true)]
    async fn it_rings_early_once_and_then_at_the_deadline() {
        let began = now();
        let mut clock = Clock::until(Some(began + 3 * SECOND));
        clock.also(began + SECOND);
        assert_eq!(ring(&mut clock).await, Ring::Early);
        // A paused clock goes on by whole milliseconds.
        assert_eq!((now() - began).as_secs(), 1);
        assert_eq!(polled(&mut clock).await, Poll::Pending);
        assert_eq!(ring(&mut clock).await, Ring::Deadline);
        assert_eq!((now() - began).as_secs(), 3);
        // And it stays over.
        assert_eq!(polled(&mut clock).await, Poll::Ready(Ring::Deadline));
    }

    #[tokio::test(start_paused = true)]
    async fn what_would_ring_after_the_deadline_does_not() {
        let began = now();
        let mut clock = Clock::until(Some(began + SECOND));
        clock.also(began + SECOND);
        assert_eq!(ring(&mut clock).await, Ring::Deadline);
        assert_eq!(polled(&mut clock).await, Poll::Ready(Ring::Deadline));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_without_a_deadline_is_never_over() {
        let mut clock = Clock::until(None);
        assert_eq!(polled(&mut clock).await, Poll::Pending);
        clock.also(now() + SECOND);
        assert_eq!(ring(&mut clock).await, Ring::Early);
        advance(100 * SECOND).await;
        assert_eq!(polled(&mut clock).await, Poll::Pending);
        assert!(!is_over(&mut clock).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_runs_already_rings_sooner_when_asked_to() {
        let began = now();
        let mut clock = Clock::until(Some(began + 9 * SECOND));
        assert!(!is_over(&mut clock).await);
        clock.also(began + 2 * SECOND);
        assert_eq!(ring(&mut clock).await, Ring::Early);
        assert_eq!((now() - began).as_secs(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn who_waits_for_the_deadline_does_not_hear_the_rest() {
        let began = now();
        let mut clock = Clock::until(Some(began + 3 * SECOND));
        clock.also(began + SECOND);
        poll_fn(|context| match clock.is_over(context) {
            true => Poll::Ready(()),
            false => Poll::Pending,
        })
        .await;
        assert_eq!((now() - began).as_secs(), 3);
    }
}

//! A line of those who wait for something that others give back: a seat on a link, a place at a
//! local service. Who came first is served first; who leaves, because its time is over or its
//! caller is gone, leaves no hole. Whoever gives something back asks [`Line::is_empty`] first, which
//! is one look at a number: while nobody waits, a line costs no more than that.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use tokio::sync::oneshot;

/// Those who wait.
#[derive(Debug)]
pub struct Line<T> {
    /// How many. Whoever gives something back looks here after it did, and whoever joins looks
    /// after it joined for what was given back meanwhile; so one of the two sees the other.
    waiting: AtomicUsize,
    waiters: Mutex<Waiters<T>>,
}

#[derive(Debug)]
struct Waiters<T> {
    next: u64,
    first_to_last: VecDeque<(u64, oneshot::Sender<T>)>,
}

/// A place in a line. Dropped, it is left. Its turn comes with what was waited for, or with `None`
/// where there is nothing to wait for any more: look anew.
#[derive(Debug)]
pub struct InLine<T> {
    line: Arc<Line<T>>,
    number: u64,
    turn: oneshot::Receiver<T>,
}

impl<T> Default for Line<T> {
    fn default() -> Self {
        Self {
            waiting: AtomicUsize::new(0),
            waiters: Mutex::new(Waiters {
                next: 0,
                first_to_last: VecDeque::new(),
            }),
        }
    }
}

impl<T> Line<T> {
    /// Does nobody wait?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.waiting.load(Ordering::SeqCst)
    }

    /// Takes the last place, where fewer than `most` wait. Who has joined must look once more for
    /// what was free all the time.
    #[must_use]
    pub fn join(self: &Arc<Self>, most: usize) -> Option<InLine<T>> {
        let mut waiters = self.waiters();
        if waiters.first_to_last.len() >= most {
            return None;
        }
        let (sender, turn) = oneshot::channel();
        let number = waiters.next;
        waiters.next += 1;
        waiters.first_to_last.push_back((number, sender));
        self.note(&waiters);
        drop(waiters);
        Some(InLine {
            line: Arc::clone(self),
            number,
            turn,
        })
    }

    /// Gives something to the first who still waits.
    ///
    /// # Errors
    /// Nobody does; here it is again.
    pub fn give(&self, mut it: T) -> Result<(), T> {
        loop {
            let mut waiters = self.waiters();
            let Some((_, first)) = waiters.first_to_last.pop_front() else {
                return Err(it);
            };
            self.note(&waiters);
            // What comes back is given on below: nothing is dropped while the line is held.
            drop(waiters);
            match first.send(it) {
                Ok(()) => return Ok(()),
                Err(back) => it = back,
            }
        }
    }

    /// There is nothing to wait for any more: all look anew.
    pub fn dismiss(&self) {
        let mut waiters = self.waiters();
        let all = std::mem::take(&mut waiters.first_to_last);
        self.note(&waiters);
        drop(waiters);
        drop(all);
    }

    fn note(&self, waiters: &Waiters<T>) {
        self.waiting
            .store(waiters.first_to_last.len(), Ordering::SeqCst);
    }

    fn waiters(&self) -> MutexGuard<'_, Waiters<T>> {
        self.waiters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<T> Future for InLine<T> {
    type Output = Option<T>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<T>> {
        Pin::new(&mut self.turn).poll(context).map(Result::ok)
    }
}

impl<T> Drop for InLine<T> {
    fn drop(&mut self) {
        let mut waiters = self.line.waiters();
        let place = waiters
            .first_to_last
            .binary_search_by_key(&self.number, |(number, _)| *number);
        if let Ok(place) = place {
            waiters.first_to_last.remove(place);
            self.line.note(&waiters);
        }
        // What was given to it at this very moment is dropped after this, and so given on.
    }
}

#[cfg(test)]
mod tests {
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_line_has_a_bound_and_is_fair() {
        let line: Arc<Line<u32>> = Arc::default();
        assert!(line.is_empty());
        let first = line.join(2).unwrap();
        let second = line.join(2).unwrap();
        assert!(line.join(2).is_none());
        assert_eq!(line.len(), 2);
        line.give(7).unwrap();
        assert_eq!(first.now_or_never(), Some(Some(7)));
        assert!(line.join(2).is_some());
        line.give(8).unwrap();
        assert_eq!(second.now_or_never(), Some(Some(8)));
        assert_eq!(line.give(9), Err(9));
        assert!(line.is_empty());
    }

    #[test]
    fn who_leaves_is_passed_over_and_who_is_dismissed_looks_anew() {
        let line: Arc<Line<u32>> = Arc::default();
        let (first, second) = (line.join(9).unwrap(), line.join(9).unwrap());
        drop(first);
        assert_eq!(line.len(), 1);
        line.give(7).unwrap();
        assert_eq!(second.now_or_never(), Some(Some(7)));
        let third = line.join(9).unwrap();
        line.dismiss();
        assert_eq!(third.now_or_never(), Some(None));
        assert!(line.is_empty());
    }

    proptest! {
        /// Against a plain list: joins, leaves and gifts in any order.
        #[test]
        fn whoever_waits_is_served_in_order(steps in prop::collection::vec((0_u8..3, 0_usize..8), 0..60)) {
            const MOST: usize = 5;
            let line: Arc<Line<usize>> = Arc::default();
            let mut waiting: Vec<InLine<usize>> = Vec::new();
            for (number, (step, which)) in steps.into_iter().enumerate() {
                match step {
                    0 => {
                        let joined = line.join(MOST);
                        prop_assert_eq!(joined.is_none(), waiting.len() >= MOST);
                        waiting.extend(joined);
                    }
                    1 if which < waiting.len() => drop(waiting.remove(which)),
                    1 => {}
                    _ => {
                        let given = line.give(number);
                        prop_assert_eq!(given.is_err(), waiting.is_empty());
                        if given.is_ok() {
                            let first = waiting.remove(0);
                            prop_assert_eq!(first.now_or_never(), Some(Some(number)));
                        }
                    }
                }
                prop_assert_eq!(line.len(), waiting.len());
            }
        }
    }
}

//! One call, one guard: it records how the call ended exactly once, also when the call is dropped.
//! It is shared by those who have a word to say of the call, so what they say is kept in atomics;
//! one task says it all, and nothing is locked.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use crate::reason::Reason;

use super::access::Note;
use super::histogram::Exemplar;
use super::tap::Followed;
use super::target::{TargetCounters, add};
use super::trace::CallSpan;

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With the callee's own status, 0 to 16; others count as 17.
    Answered(u16),
    /// The mesh failed it.
    Failed(Reason),
    /// Its caller went away.
    Cancelled,
}

impl Outcome {
    /// [`Outcome::Cancelled`] as one number.
    const CANCELLED: u32 = 0;
    /// Whatever is above it was answered.
    const ANSWERED: u32 = 1 << 16;
    /// Whatever is above it has failed.
    const FAILED: u32 = 1 << 17;

    fn to_number(self) -> u32 {
        match self {
            Self::Cancelled => Self::CANCELLED,
            Self::Answered(status) => Self::ANSWERED | u32::from(status),
            Self::Failed(reason) => Self::FAILED | u32::try_from(place(reason)).unwrap_or_default(),
        }
    }

    fn from_number(number: u32) -> Self {
        let rest = (number & 0xFFFF) as usize;
        if number >= Self::FAILED {
            Reason::ALL
                .get(rest)
                .map_or(Self::Cancelled, |it| Self::Failed(*it))
        } else if number >= Self::ANSWERED {
            Self::Answered(u16::try_from(rest).unwrap_or_default())
        } else {
            Self::Cancelled
        }
    }
}

/// What a call has carried one way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Carried {
    /// Bytes of its messages, with their prefixes.
    pub bytes: u64,
    /// Whole messages.
    pub messages: u64,
}

/// What a call has carried both ways. What is sent once more counts once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Traffic {
    /// From the caller.
    pub request: Carried,
    /// To the caller.
    pub response: Carried,
}

/// Counts a call for as long as it lives, and its end when it is dropped.
#[derive(Debug)]
pub struct CallGuard {
    counters: Arc<TargetCounters>,
    open: Arc<AtomicU64>,
    arrived: Instant,
    outcome: AtomicU32,
    /// Bytes and messages of the request, then of the response.
    carried: [AtomicU64; 4],
    span: CallSpan,
    /// Where it may be logged. In a box, since few sidecars log calls.
    note: Option<Box<Note>>,
    /// What is told of it to those who look.
    followed: Option<Box<Followed>>,
}

impl CallGuard {
    pub(super) fn new(
        counters: Arc<TargetCounters>,
        open: Arc<AtomicU64>,
        arrived: Instant,
    ) -> Self {
        add(&counters.requests);
        add(&counters.in_flight);
        add(&open);
        // A call that is dropped without another word ends with its caller's connection.
        Self {
            counters,
            open,
            arrived,
            outcome: AtomicU32::new(Outcome::CANCELLED),
            carried: Default::default(),
            span: CallSpan::default(),
            note: None,
            followed: None,
        }
    }

    /// The same, with this span, which ends with it.
    #[must_use]
    pub fn traced(self, span: CallSpan) -> Self {
        // What has a drop of its own is not taken apart.
        let mut guard = self;
        guard.span = span;
        guard
    }

    /// The same, that may be logged.
    #[must_use]
    pub fn noted(mut self, note: Option<Box<Note>>) -> Self {
        self.note = note;
        self
    }

    /// The same, that somebody looks at.
    #[must_use]
    pub fn followed_by(mut self, followed: Option<Box<Followed>>) -> Self {
        self.followed = followed;
        self
    }

    /// An attempt has left. One for which there was no connection any more is none.
    #[inline]
    pub fn attempted(&self) {
        add(&self.counters.attempts);
    }

    /// What is told of it, where somebody looks.
    #[inline]
    #[must_use]
    pub fn followed(&self) -> Option<&Followed> {
        self.followed.as_deref()
    }

    /// Its span.
    #[must_use]
    pub const fn span(&self) -> &CallSpan {
        &self.span
    }

    /// Says how the call ended.
    pub fn ended(&self, outcome: Outcome) {
        self.outcome.store(outcome.to_number(), Ordering::Relaxed);
    }

    /// How the call ended; as long as nobody said so, it is given up.
    #[must_use]
    pub fn outcome(&self) -> Outcome {
        Outcome::from_number(self.outcome.load(Ordering::Relaxed))
    }

    /// Says what the call has carried so far, all of it.
    pub fn carried(&self, traffic: Traffic) {
        let Traffic { request, response } = traffic;
        let figures = [
            request.bytes,
            request.messages,
            response.bytes,
            response.messages,
        ];
        for (place, figure) in self.carried.iter().zip(figures) {
            place.store(figure, Ordering::Relaxed);
        }
    }

    /// What the call has carried; known once it has ended.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        let of = |place: usize| Carried {
            bytes: self.carried[place].load(Ordering::Relaxed),
            messages: self.carried[place + 1].load(Ordering::Relaxed),
        };
        Traffic {
            request: of(0),
            response: of(2),
        }
    }
}

impl Drop for CallGuard {
    fn drop(&mut self) {
        let counters = &self.counters;
        match self.outcome() {
            Outcome::Answered(status) => {
                add(&counters.responses[usize::from(status.min(17))]);
            }
            Outcome::Failed(reason) => add(&counters.errors[place(reason)]),
            Outcome::Cancelled => add(&counters.cancelled),
        }
        let elapsed = self.arrived.elapsed();
        let took = elapsed.as_nanos();
        let took = u64::try_from(took).unwrap_or(u64::MAX);
        match self.span.context().filter(|context| context.sampled) {
            None => counters.durations.record(took),
            Some(of) => counters.durations.record_exemplar(Exemplar {
                value: took,
                of,
                at: SystemTime::now(),
            }),
        }
        let traffic = self.traffic();
        counters.request_sizes.record(traffic.request.bytes);
        counters.response_sizes.record(traffic.response.bytes);
        if let Some(note) = self.note.take() {
            let ended = (self.outcome(), elapsed);
            note.ended(counters, ended, traffic, self.span.context());
        }
        if let Some(followed) = self.followed.take() {
            let ended = (self.outcome(), elapsed);
            followed.ended(counters, ended, traffic, self.span.context());
        }
        self.span.ended(self.outcome(), traffic);
        counters.in_flight.fetch_sub(1, Ordering::Relaxed);
        self.open.fetch_sub(1, Ordering::Relaxed);
    }
}

fn place(reason: Reason) -> usize {
    let place = Reason::ALL.iter().position(|known| *known == reason);
    place.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_end_is_told_as_it_was_said() {
        let answered = [0, 1, 16, 17, u16::MAX].map(Outcome::Answered);
        let failed = Reason::ALL.map(Outcome::Failed);
        for outcome in answered
            .into_iter()
            .chain(failed)
            .chain([Outcome::Cancelled])
        {
            assert_eq!(Outcome::from_number(outcome.to_number()), outcome);
        }
    }
}

//! When another attempt of a call is sent beside those that are under way (gRFC A6, "Hedging
//! Policy"; Dean and Barroso, "The Tail at Scale"): when nothing was heard for a while, and at once
//! when one has failed. Pure: what happens is told to it, and it says what is next. It must never
//! end a call that somebody may still answer, nor wait where nobody will.

use std::time::Instant;

use sidelane_proto::model::Hedge;

use super::retry::Pushback;
use crate::retries::Withheld;

/// The attempts of a call that run beside each other.
#[derive(Debug, Clone, Copy)]
pub struct Hedging {
    hedge: Hedge,
    deadline: Option<Instant>,
    /// Attempts of the call until now, those that came before it was hedged included.
    made: u32,
    /// Attempts that are under way.
    open: u32,
    /// When the next may be sent; `None` where there is no next one.
    next: Option<Instant>,
    /// There will be no next one, whatever comes.
    over: bool,
    /// Callees have asked for none before.
    not_before: Option<Instant>,
    /// Somebody is being looked for to send the next one to.
    looking: bool,
    /// An answer counts.
    answered: bool,
}

/// What is next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Another attempt is sent, to somebody who has none.
    Send,
    /// What comes is waited for; until then at most, where there is a time.
    Wait(Option<Instant>),
    /// It is over: with the answer that counts, or else with a failure.
    End,
}

/// What was heard of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Word {
    /// An answer that counts, or a failure after which no other attempt is of use.
    Counts,
    /// A failure that another attempt may make good, and what its callee said of such.
    Failed(Pushback),
}

/// Why an attempt was not sent although its time had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unsent {
    /// There is nobody else, or no leave to ask them: that does not change.
    For(Never),
    /// The request has not come whole, or whoever was found cannot be reached: later, perhaps.
    NotNow,
}

/// What does not change while the call lasts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Never {
    /// All were asked, or there is only one.
    Nobody,
    /// The budget is used up.
    Budget,
}

impl Hedging {
    /// The first attempt of these was sent; it is the call's attempt with this number.
    #[must_use]
    pub fn begun(hedge: Hedge, number: u32, deadline: Option<Instant>, now: Instant) -> Self {
        let mut hedging = Self {
            hedge,
            deadline,
            made: number,
            open: 1,
            next: None,
            over: false,
            not_before: None,
            looking: false,
            answered: false,
        };
        hedging.due(now.checked_add(hedge.after));
        hedging
    }

    /// How many attempts of the call there were.
    #[must_use]
    pub const fn made(&self) -> u32 {
        self.made
    }

    /// What is next.
    #[must_use]
    pub fn step(&self, now: Instant) -> Step {
        if self.answered {
            return Step::End;
        }
        match self.in_time() {
            Some(at) if at > now => Step::Wait(Some(at)),
            Some(_) if self.looking => Step::Wait(None),
            Some(_) => Step::Send,
            None if self.open == 0 => Step::End,
            None => Step::Wait(None),
        }
    }

    /// Somebody is looked for, until [`Hedging::found`], [`Hedging::sent`] or [`Hedging::unsent`].
    pub fn looks(&mut self) {
        self.looking = true;
    }

    /// Somebody was found.
    pub fn found(&mut self) {
        self.looking = false;
    }

    /// Another attempt was sent.
    pub fn sent(&mut self, now: Instant) {
        self.looking = false;
        self.made += 1;
        self.open += 1;
        self.due(now.checked_add(self.hedge.after));
    }

    /// Another attempt was not sent.
    pub fn unsent(&mut self, why: Unsent, now: Instant) {
        self.looking = false;
        match why {
            // With nothing under way there is nothing to hedge: what comes then are retries.
            Unsent::NotNow if self.open > 0 => self.due(now.checked_add(self.hedge.after)),
            Unsent::NotNow | Unsent::For(_) => self.no_more(),
        }
    }

    /// This was heard of one of them. Says why no further one is sent, if it is for that.
    pub fn heard(&mut self, word: Word, now: Instant) -> Option<Withheld> {
        self.open = self.open.saturating_sub(1);
        let pushback = match word {
            Word::Counts => {
                self.answered = true;
                return None;
            }
            Word::Failed(pushback) => pushback,
        };
        self.next?;
        match pushback {
            Pushback::Never => {
                self.no_more();
                return Some(Withheld::Pushback);
            }
            Pushback::After(time) => {
                // Whoever asks for the longest time is heard.
                let at = now.checked_add(time);
                self.not_before = self.not_before.max(at);
                self.due(at);
                if self.in_time().is_none() {
                    self.no_more();
                    return Some(Withheld::Deadline);
                }
            }
            // Nothing is gained by waiting any longer.
            Pushback::Silent => self.due(Some(now)),
        }
        None
    }

    /// When the next one may be sent, if that is before the call's time is over.
    fn in_time(&self) -> Option<Instant> {
        let in_time = |at: &Instant| self.deadline.is_none_or(|deadline| *at < deadline);
        self.next.filter(in_time)
    }

    fn no_more(&mut self) {
        self.over = true;
        self.next = None;
    }

    /// The next one is due then, if there is a next one.
    fn due(&mut self, at: Option<Instant>) {
        let left = self.made < self.hedge.max_attempts && !self.over;
        let at = at.filter(|_| left);
        self.next = at.map(|at| self.not_before.map_or(at, |not_before| at.max(not_before)));
    }
}

#[cfg(test)]
mod tests;

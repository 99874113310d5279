//! The breaker of one generation of one endpoint (Nygard, "Release It!"): closed while calls succeed
//! there, open for a while when they fail, half-open when it is tried again. Pure: time and chance
//! come in, and what comes of a call is told to it with the ticket that the call was given.
//!
//! Three things open it. Failures in a row and a small share of successes look at the endpoint alone
//! and may open every breaker of a hub; that it fails more often than the others do is found out by
//! the hub, which keeps such outliers to a part of its endpoints. Beyond that there is no
//! difference, and so there is one mechanism: what opened it says nothing of when it is well again,
//! and a probe does. (Ejecting outliers for a fixed time instead, as Envoy does, sends a whole share
//! of the calls back to an endpoint that still fails.)

use std::fmt;
use std::time::{Duration, Instant};

use sidelane_proto::model::Breaker;

use super::window::Window;

/// The part of the time that a breaker is open which is left to chance, so that the sidecars of a
/// mesh do not probe together. It is taken off: what a rule says is the longest.
const JITTER: f64 = 0.2;

/// What came of a call, as far as its endpoint is to blame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It was answered; with whatever status the application likes.
    Success,
    /// The endpoint failed it, or did not answer in time.
    Failure,
    /// Its connection was lost. All calls on it hear of that at once, so those that were sent before
    /// a loss that was counted do not count.
    Lost {
        /// When the call was sent.
        sent: Instant,
    },
}

/// Why a breaker opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Cause {
    /// Failures in a row.
    InARow(u32),
    /// A small share of successes, in percent.
    Share(u32),
    /// A share of successes, in percent, far below that of the others.
    Outlier(u32),
    /// Its probe failed.
    Probe,
}

/// What a call takes along that is to tell what came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ticket {
    /// How often the breaker had opened or closed: what belongs to another time says nothing of now.
    epoch: u32,
    probe: bool,
}

/// How it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stand {
    Closed,
    /// Until then.
    Open(Instant),
    /// `free`: another probe may be made now.
    HalfOpen {
        free: bool,
    },
}

/// It changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// To open.
    Opened,
    /// To half-open.
    HalfOpened,
    /// To closed.
    Closed,
}

#[derive(Debug, Clone, Copy)]
enum State {
    Closed,
    Open {
        until: Instant,
    },
    HalfOpen {
        probes: u32,
        successes: u32,
        /// When probes that have said nothing by then no longer hold others back: a stream may be
        /// silent for as long as it likes, and a call need have no deadline.
        silent: Instant,
    },
}

#[derive(Debug)]
pub(super) struct Circuit {
    settings: Breaker,
    state: State,
    /// Failures in a row.
    run: u32,
    window: Window,
    /// When the last loss was counted.
    lost: Option<Instant>,
    /// How often it has opened without staying closed for long in between.
    trips: u32,
    closed_at: Option<Instant>,
    cause: Option<Cause>,
    epoch: u32,
}

impl fmt::Display for Cause {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::InARow(count) => write!(formatter, "{count} failures in a row"),
            Self::Share(percent) => write!(formatter, "only {percent} % of its calls succeeded"),
            Self::Outlier(percent) => write!(
                formatter,
                "{percent} % of its calls succeeded, far fewer than elsewhere"
            ),
            Self::Probe => formatter.write_str("its probe failed"),
        }
    }
}

impl Change {
    /// The label's value: what it is now.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Opened => "open",
            Self::HalfOpened => "half_open",
            Self::Closed => "closed",
        }
    }
}

impl Circuit {
    pub(super) fn new(settings: Breaker, now: Instant) -> Self {
        Self {
            settings,
            state: State::Closed,
            run: 0,
            window: Window::new(settings.interval, now),
            lost: None,
            trips: 0,
            closed_at: None,
            cause: None,
            epoch: 0,
        }
    }

    /// Goes by these settings from now on; what is open stays so until it is due.
    pub(super) fn tune(&mut self, settings: Breaker, now: Instant) {
        if settings.interval != self.settings.interval {
            self.window = Window::new(settings.interval, now);
        }
        self.settings = settings;
    }

    pub(super) fn stand(&self, now: Instant) -> Stand {
        match self.state {
            State::Closed => Stand::Closed,
            State::Open { until } if now < until => Stand::Open(until),
            State::Open { .. } => Stand::HalfOpen { free: true },
            State::HalfOpen { probes, silent, .. } => Stand::HalfOpen {
                free: probes < self.settings.probes || now >= silent,
            },
        }
    }

    /// When it is to be looked at again, though nobody tells anything.
    pub(super) const fn due(&self) -> Option<Instant> {
        match self.state {
            State::Closed => None,
            State::Open { until } => Some(until),
            State::HalfOpen { silent, .. } => Some(silent),
        }
    }

    /// Why it is not closed.
    pub(super) const fn cause(&self) -> Option<Cause> {
        self.cause
    }

    pub(super) const fn epoch(&self) -> u32 {
        self.epoch
    }

    /// A call goes there; as a probe, where that is what it is. `None`: it has no business there,
    /// and what comes of it is not asked for.
    pub(super) fn enter(&mut self, now: Instant) -> (Option<Ticket>, Option<Change>) {
        let mut change = None;
        let silent = now + self.settings.open;
        match &mut self.state {
            State::Open { until } if now >= *until => {
                self.state = State::HalfOpen {
                    probes: 0,
                    successes: 0,
                    silent,
                };
                change = Some(Change::HalfOpened);
            }
            // What these still say is of another time.
            State::HalfOpen {
                probes, silent: by, ..
            } if *probes >= self.settings.probes && now >= *by => {
                *probes = 0;
                self.epoch = self.epoch.wrapping_add(1);
            }
            _ => {}
        }
        let epoch = self.epoch;
        let ticket = match &mut self.state {
            State::Closed => Some(Ticket::plain(epoch)),
            State::HalfOpen {
                probes, silent: by, ..
            } if *probes < self.settings.probes => {
                *probes += 1;
                *by = silent;
                Some(Ticket { epoch, probe: true })
            }
            State::Open { .. } | State::HalfOpen { .. } => None,
        };
        (ticket, change)
    }

    /// What came of a call. `random` is any number from 0 to 1.
    pub(super) fn tell(
        &mut self,
        ticket: Ticket,
        verdict: Verdict,
        random: f64,
        now: Instant,
    ) -> Option<Change> {
        if ticket.epoch != self.epoch {
            return None;
        }
        let success = match verdict {
            Verdict::Success => true,
            Verdict::Failure => false,
            Verdict::Lost { sent } => {
                // A probe is one call: what came of it is wanted either way.
                if self.lost.is_some_and(|lost| sent <= lost) && !ticket.probe {
                    return None;
                }
                self.lost = Some(now);
                false
            }
        };
        match &mut self.state {
            State::Closed => self.count(success, random, now),
            State::HalfOpen {
                probes, successes, ..
            } if ticket.probe => {
                *probes = probes.saturating_sub(1);
                if !success {
                    return Some(self.open(Cause::Probe, random, now));
                }
                *successes += 1;
                (*successes >= self.settings.successes).then(|| self.close(now))
            }
            State::Open { .. } | State::HalfOpen { .. } => None,
        }
    }

    /// Nothing opens it any more: what is open is let go.
    pub(super) fn release(&mut self, now: Instant) {
        if !matches!(self.state, State::Closed) {
            self.close(now);
        }
    }

    /// A call ended, and nothing was learned from it. A probe makes room for another.
    pub(super) fn abandon(&mut self, ticket: Ticket) -> bool {
        if let State::HalfOpen { probes, .. } = &mut self.state
            && ticket.probe
            && ticket.epoch == self.epoch
        {
            *probes = probes.saturating_sub(1);
            return true;
        }
        false
    }

    /// The share of successes lately, in percent, where there were at least so many calls and it is
    /// closed.
    pub(super) fn share(&self, min_calls: u32, now: Instant) -> Option<u32> {
        let closed = matches!(self.state, State::Closed);
        self.window.share(min_calls, now).filter(|_| closed)
    }

    /// Opens it for a reason of the hub's.
    pub(super) fn open(&mut self, cause: Cause, random: f64, now: Instant) -> Change {
        let settings = &self.settings;
        // Who stayed closed for as long as a breaker is ever open has made up for it.
        let well = self
            .closed_at
            .is_some_and(|at| now.saturating_duration_since(at) >= settings.max_open);
        if well {
            self.trips = 0;
        }
        let longest = open_for(settings, self.trips);
        let time = longest.mul_f64(1.0 - JITTER * random.clamp(0.0, 1.0));
        self.trips += 1;
        self.cause = Some(cause);
        self.state = State::Open { until: now + time };
        self.begin_anew(now);
        Change::Opened
    }

    fn count(&mut self, success: bool, random: f64, now: Instant) -> Option<Change> {
        self.window.add(success, now);
        if success {
            self.run = 0;
            return None;
        }
        self.run += 1;
        let settings = &self.settings;
        if settings.off {
            return None;
        }
        if self.run >= settings.consecutive_failures {
            return Some(self.open(Cause::InARow(self.run), random, now));
        }
        // Only a failure makes the share smaller.
        let share = self.window.share(settings.min_calls, now)?;
        (share < settings.success_percent).then(|| self.open(Cause::Share(share), random, now))
    }

    fn close(&mut self, now: Instant) -> Change {
        self.state = State::Closed;
        self.cause = None;
        self.closed_at = Some(now);
        self.begin_anew(now);
        Change::Closed
    }

    fn begin_anew(&mut self, now: Instant) {
        self.run = 0;
        self.window = Window::new(self.settings.interval, now);
        self.epoch = self.epoch.wrapping_add(1);
    }
}

impl Ticket {
    /// Of a call to an endpoint whose breaker is closed.
    pub(super) const fn plain(epoch: u32) -> Self {
        Self {
            epoch,
            probe: false,
        }
    }

    pub(super) const fn is_probe(self) -> bool {
        self.probe
    }
}

/// For how long it is open at most, after so many times before.
fn open_for(settings: &Breaker, trips: u32) -> Duration {
    let doubled = settings.open.saturating_mul(1 << trips.min(16));
    doubled.min(settings.max_open)
}

#[cfg(test)]
mod tests;

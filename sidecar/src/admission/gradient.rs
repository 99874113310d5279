//! How many calls at once a local service does well, learned from how long they take. While calls
//! take as long as they do alone, the bound grows; when they take longer, they wait for each other
//! inside the service, and the bound falls by as much. That is the gradient of Netflix's
//! concurrency-limits and of Envoy's adaptive concurrency, with one difference: how long calls take
//! alone is only looked at with the bound held low where they take longer than that, so that a
//! service that does well has no call refused for it. Pure: samples, the time and random numbers
//! come in, a bound comes out.

use std::time::{Duration, Instant};

use sidelane_proto::model::Adaptive;

use crate::reason::Reason;
use crate::telemetry::Outcome;

/// The bound before anything is known, within what the rule allows.
const START: f64 = 16.0;
/// Calls are looked at together for at least so long,
const WINDOW: Duration = Duration::from_millis(100);
/// and at least so many of them.
const SAMPLES: u32 = 10;
/// So many say how long they take alone.
const MEASURED: u32 = 30;
/// And they have so long to come, or four times as long as one takes; after that fewer will do,
const MEASURING: Duration = Duration::from_secs(2);
/// but not fewer than these.
const MEASURED_LEAST: u32 = 3;
/// Until it is known how long calls take alone, a first guess holds, and not for long.
const FIRST_GUESS: Duration = Duration::from_secs(1);
/// The bound is held so many times lower while it is looked at. Where it is too high it is about as
/// many times too high as calls take longer than alone, and a bound of a service that does one call
/// at a time, 3, is far above 1.
const HELD_LOW: f64 = 4.0;
/// The bound falls at most to this share in one window.
const STEEPEST: f64 = 0.5;
/// One call counts for at most so many times what one takes alone, so that a single one that hangs
/// does not speak for all; one that was not done in time counts for as much.
const SLOWEST: f64 = 4.0;
/// Quicker calls than those that were measured bring the measure down by this share of the way: they
/// may be of a quicker method.
const QUICKER: f64 = 0.2;
/// No call takes less, in seconds.
const QUICKEST: f64 = 1e-6;
/// Looks at how long calls take alone are up to this share further apart.
const JITTER: f64 = 0.2;

/// How a call ended, as far as its time says something of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// With its answer.
    Answered,
    /// With an error, or given up by its caller: that is often quick, and says something only where
    /// it was slow.
    Failed,
    /// Not in time, however short that was.
    Late,
}

impl From<Outcome> for End {
    fn from(outcome: Outcome) -> Self {
        match outcome {
            Outcome::Answered(0) => Self::Answered,
            // DEADLINE_EXCEEDED, as the service itself said it.
            Outcome::Answered(4) | Outcome::Failed(Reason::Deadline) => Self::Late,
            Outcome::Answered(_) | Outcome::Failed(_) | Outcome::Cancelled => Self::Failed,
        }
    }
}

/// A call that ended.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    /// How long it had its place.
    pub took: Duration,
    /// How it ended.
    pub end: End,
    /// Calls that had a place when it ended, itself among them.
    pub in_flight: u32,
}

/// What is known so far, for people.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Seen {
    /// The bound that holds.
    pub limit: u32,
    /// How long calls take alone, once that is known.
    pub alone: Option<Duration>,
    /// How long they took of late.
    pub of_late: Option<Duration>,
}

/// The bound, and what it was learned from.
#[derive(Debug)]
pub struct Gradient {
    rule: Adaptive,
    /// Not rounded, so that small steps add up.
    limit: f64,
    /// How long a call takes alone, in seconds.
    alone: Option<f64>,
    /// The mean of the window before this one.
    of_late: Option<f64>,
    /// The bound doubles with each window, until calls wait for each other for the first time.
    doubling: bool,
    /// The bound is held low, and the window is for how long calls take alone.
    measuring: bool,
    measure_at: Instant,
    window: Window,
}

/// Calls that are looked at together.
#[derive(Debug)]
struct Window {
    /// Those that ended before were made under another bound.
    opens: Instant,
    count: u32,
    seconds: f64,
    most_in_flight: u32,
}

impl Window {
    const fn opens(at: Instant) -> Self {
        Self {
            opens: at,
            count: 0,
            seconds: 0.0,
            most_in_flight: 0,
        }
    }
}

impl Gradient {
    /// Nothing is known yet.
    #[must_use]
    pub fn new(rule: Adaptive, now: Instant) -> Self {
        Self {
            limit: START.clamp(rule.min.into(), rule.max.into()),
            rule,
            alone: None,
            of_late: None,
            doubling: true,
            measuring: false,
            measure_at: now + FIRST_GUESS,
            window: Window::opens(now),
        }
    }

    /// The rule says something else. What was learned stays, as far as it may.
    pub fn change(&mut self, rule: Adaptive) {
        self.rule = rule;
        self.limit = self.within(self.limit);
    }

    /// The bound that holds.
    #[must_use]
    pub fn limit(&self) -> u32 {
        let limit = if self.measuring {
            self.within(self.limit / HELD_LOW)
        } else {
            self.limit
        };
        #[allow(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "between the rule's bounds, which are at least 1 and below 2^32"
        )]
        let whole = limit as u32;
        whole
    }

    /// What is known so far.
    #[must_use]
    pub fn seen(&self) -> Seen {
        Seen {
            limit: self.limit(),
            alone: self.alone.map(Duration::from_secs_f64),
            of_late: self.of_late.map(Duration::from_secs_f64),
        }
    }

    /// A call ended. `random` is a number from 0 to 1. True if the call said something of the
    /// service.
    pub fn ended(&mut self, sample: Sample, now: Instant, random: f64) -> bool {
        let seconds = self.weighed(&sample);
        if now < self.window.opens {
            return seconds.is_some();
        }
        if let Some(seconds) = seconds {
            let window = &mut self.window;
            window.count += 1;
            window.seconds += seconds;
            window.most_in_flight = window.most_in_flight.max(sample.in_flight);
        }
        let open = now.saturating_duration_since(self.window.opens);
        if self.measuring {
            self.measured(open, now, random);
        } else if self.window.count >= SAMPLES && open >= WINDOW {
            self.closed(now, random);
        }
        seconds.is_some()
    }

    /// What the call counts for, in seconds; `None` where it says nothing.
    fn weighed(&self, sample: &Sample) -> Option<f64> {
        let took = sample.took.as_secs_f64().max(QUICKEST);
        let Some(alone) = self.alone else {
            return (sample.end != End::Failed).then_some(took);
        };
        let slowest = alone * SLOWEST;
        match sample.end {
            End::Late => Some(took.max(slowest)),
            End::Failed if took <= alone * self.tolerance() => None,
            // What is measured anew is not bounded by what was measured before.
            End::Answered if self.measuring => Some(took),
            End::Answered | End::Failed => Some(took.min(slowest)),
        }
    }

    fn measured(&mut self, open: Duration, now: Instant, random: f64) {
        let count = self.window.count;
        let one = Duration::from_secs_f64(self.of_late.unwrap_or_default());
        if count < MEASURED && open < MEASURING.max(one * 4) {
            return;
        }
        if count >= MEASURED_LEAST {
            self.alone = Some(self.window.seconds / f64::from(count));
        }
        self.measuring = false;
        self.measure_at = self.next_measure(now, random);
        self.window = Window::opens(now + one);
    }

    fn closed(&mut self, now: Instant, random: f64) {
        let Window {
            count,
            seconds,
            most_in_flight,
            ..
        } = self.window;
        let of_late = seconds / f64::from(count);
        self.of_late = Some(of_late);
        let mut alone = self.alone.unwrap_or(of_late);
        alone -= (alone - of_late).max(0.0) * QUICKER;
        let gradient = (alone * self.tolerance() / of_late).clamp(STEEPEST, 1.0);
        let waits = gradient < 1.0;
        self.doubling &= !waits;
        // A bound that nobody comes near is not what makes calls slow, and is not tried either.
        if f64::from(most_in_flight) * 2.0 >= self.limit {
            let more = if self.doubling {
                self.limit
            } else {
                self.limit.sqrt()
            };
            self.limit = self.within(self.limit * gradient + more);
        }
        let one = Duration::from_secs_f64(of_late);
        // Those that end until then were begun under the bound that held before.
        self.window = Window::opens(now + one);
        if now >= self.measure_at {
            if waits {
                self.measuring = true;
                self.window = Window::opens(now + one * 2);
            } else {
                // They do as well as alone, or nearly: that is what it takes by now.
                alone = of_late;
                self.measure_at = self.next_measure(now, random);
            }
        }
        self.alone = Some(alone);
    }

    fn next_measure(&self, now: Instant, random: f64) -> Instant {
        now + self.rule.remeasure.mul_f64(1.0 + JITTER * random)
    }

    /// So many times longer than alone calls may take.
    fn tolerance(&self) -> f64 {
        1.0 + f64::from(self.rule.tolerance_percent) / 100.0
    }

    fn within(&self, limit: f64) -> f64 {
        limit.clamp(self.rule.min.into(), self.rule.max.into())
    }
}

#[cfg(test)]
mod tests;

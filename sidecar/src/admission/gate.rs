//! So many calls at once at a local service. Who finds no place waits in line, where the rule has
//! one, or is told to come again; places are given back by dropping them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use sidelane_proto::model::{Bound, Concurrency};

use super::gradient::{End, Gradient, Sample, Seen};
use crate::line::{InLine, Line};
use crate::telemetry::AdmissionCounters;

/// The way to a local service.
#[derive(Debug)]
pub struct Gate {
    state: Mutex<State>,
    line: Arc<Line<Place>>,
    counters: Arc<AdmissionCounters>,
}

#[derive(Debug)]
struct State {
    /// The rule that holds, or has held last.
    rule: Concurrency,
    /// The bound that holds; none is that of numbers.
    limit: u32,
    /// What it follows, where the rule has it follow latency.
    gradient: Option<Gradient>,
    in_flight: u32,
    /// Somebody has had a place: the service is beside this sidecar.
    used: bool,
}

/// A call's place at the service, until it is dropped.
#[derive(Debug)]
pub struct Place {
    gate: Arc<Gate>,
    /// Since when, where the time that the call takes is to say something of the service.
    since: Option<Instant>,
}

/// What became of a call that asks for a place.
#[derive(Debug)]
pub enum Entered {
    /// It has one.
    Now(Place),
    /// It may wait for one.
    Waits(InLine<Place>),
    /// There is none, and no room to wait either.
    Full,
}

impl Gate {
    /// Nobody is in yet.
    #[must_use]
    pub fn new(rule: Concurrency, counters: Arc<AdmissionCounters>, now: Instant) -> Arc<Self> {
        let mut state = State {
            rule,
            limit: 0,
            gradient: None,
            in_flight: 0,
            used: false,
        };
        state.bound_by(Some(rule.bound), now);
        counters.limit(state.limit);
        Arc::new(Self {
            state: Mutex::new(state),
            line: Arc::default(),
            counters,
        })
    }

    /// The rule that holds, or has held last.
    #[must_use]
    pub fn rule(&self) -> Concurrency {
        self.state().rule
    }

    /// Another rule holds from now on, or none. Who is in stays in; who waits and fits now comes in.
    pub fn change(self: &Arc<Self>, rule: Option<Concurrency>, now: Instant) {
        let mut state = self.state();
        state.rule = rule.unwrap_or(state.rule);
        state.bound_by(rule.map(|rule| rule.bound), now);
        self.counters.limit(rule.map_or(0, |_| state.limit));
        drop(state);
        self.serve_line();
    }

    /// Has anybody ever had a place? Only where the service is beside this sidecar.
    #[must_use]
    pub fn is_used(&self) -> bool {
        self.state().used
    }

    /// What is known of how long calls take, where the bound follows it.
    #[must_use]
    pub fn seen(&self) -> Option<Seen> {
        self.state().gradient.as_ref().map(Gradient::seen)
    }

    /// A call of this gate ended. The bound may move, and who waits come in.
    fn learn(self: &Arc<Self>, since: Instant, end: End, now: Instant, random: f64) {
        let mut state = self.state();
        let in_flight = state.in_flight;
        let Some(gradient) = &mut state.gradient else {
            return;
        };
        let took = now.saturating_duration_since(since);
        let sample = Sample {
            took,
            end,
            in_flight,
        };
        if gradient.ended(sample, now, random) {
            self.counters.sampled();
        }
        let limit = gradient.limit();
        let rises = limit > state.limit;
        if limit != state.limit {
            state.limit = limit;
            self.counters.limit(limit);
        }
        drop(state);
        if rises {
            self.serve_line();
        }
    }

    /// Asks for a place.
    #[must_use]
    pub fn enter(self: &Arc<Self>) -> Entered {
        let queue = {
            let mut state = self.state();
            if state.has_room() && self.line.is_empty() {
                return Entered::Now(self.place(&mut state));
            }
            state.rule.queue
        };
        let Some(waits) = self.line.join(queue as usize) else {
            return Entered::Full;
        };
        // A place may have come free before the line was joined.
        self.serve_line();
        Entered::Waits(waits)
    }

    fn serve_line(self: &Arc<Self>) {
        while !self.line.is_empty() {
            let mut state = self.state();
            if !state.has_room() {
                return;
            }
            let place = self.place(&mut state);
            drop(state);
            // Whoever is left in line sees to it that this goes on: see `Drop`.
            drop(self.line.give(place));
        }
    }

    fn place(self: &Arc<Self>, state: &mut State) -> Place {
        state.in_flight += 1;
        state.used = true;
        self.counters.entered();
        Place {
            gate: Arc::clone(self),
            since: None,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_room(&self) -> bool {
        self.in_flight < self.limit
    }

    fn bound_by(&mut self, bound: Option<Bound>, now: Instant) {
        match (bound, &mut self.gradient) {
            (None, gradient) => {
                *gradient = None;
                self.limit = u32::MAX;
            }
            (Some(Bound::Fixed(most)), gradient) => {
                *gradient = None;
                self.limit = most;
            }
            (Some(Bound::Adaptive(rule)), Some(gradient)) => {
                gradient.change(rule);
                self.limit = gradient.limit();
            }
            (Some(Bound::Adaptive(rule)), gradient) => {
                self.limit = gradient.insert(Gradient::new(rule, now)).limit();
            }
        }
    }
}

impl Place {
    /// The time that the call takes from now on says something of the service, where its bound
    /// follows that.
    #[must_use]
    pub fn timed(mut self) -> Self {
        if self.gate.state().gradient.is_some() {
            self.since = Some(Instant::now());
        }
        self
    }

    /// The call ended so. A place that is merely dropped says nothing of the service.
    pub fn ended(self, end: End) {
        if let Some(since) = self.since {
            self.gate.learn(since, end, Instant::now(), fastrand::f64());
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.gate.state().in_flight -= 1;
        self.gate.counters.left();
        self.gate.serve_line();
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures_util::FutureExt;
    use proptest::prelude::*;
    use sidelane_proto::model::Adaptive;

    use super::*;

    fn gate(max_in_flight: u32, queue: u32) -> Arc<Gate> {
        let rule = Concurrency {
            queue,
            ..Concurrency::fixed(max_in_flight)
        };
        Gate::new(rule, Arc::default(), Instant::now())
    }

    #[test]
    fn who_finds_no_place_waits_and_beyond_that_is_refused() {
        let gate = gate(1, 1);
        let Entered::Now(first) = gate.enter() else {
            panic!("there was room");
        };
        let Entered::Waits(mut second) = gate.enter() else {
            panic!("there was room to wait");
        };
        assert!(matches!(gate.enter(), Entered::Full));
        assert!((&mut second).now_or_never().is_none());
        drop(first);
        let second = second.now_or_never().flatten().unwrap();
        // The place is taken.
        let Entered::Waits(third) = gate.enter() else {
            panic!("there was room to wait");
        };
        drop(third);
        drop(second);
        assert!(matches!(gate.enter(), Entered::Now(_)));
    }

    #[test]
    fn another_rule_holds_at_once_and_keeps_who_is_in() {
        let gate = gate(3, 9);
        let entered: Vec<_> = (0..3).map(|_| gate.enter()).collect();
        let Entered::Waits(waits) = gate.enter() else {
            panic!("there was no place");
        };
        gate.change(Some(Concurrency::fixed(1)), Instant::now());
        assert!(matches!(gate.enter(), Entered::Full));
        assert!(entered.iter().all(|it| matches!(it, Entered::Now(_))));
        gate.change(Some(Concurrency::fixed(4)), Instant::now());
        assert!(waits.now_or_never().flatten().is_some());
    }

    #[test]
    fn a_bound_that_follows_latency_lets_in_who_waits_when_it_rises() {
        let rule = Concurrency {
            queue: 100,
            ..Concurrency::adaptive(Adaptive::between(4, 64))
        };
        let counters: Arc<AdmissionCounters> = Arc::default();
        let gate = Gate::new(rule, Arc::clone(&counters), Instant::now());
        let now = Instant::now();
        let entered = (0..16).map(|_| match gate.enter() {
            Entered::Now(place) => place,
            _ => panic!("there was room"),
        });
        let mut inside: Vec<Place> = entered.collect();
        let Entered::Waits(waits) = gate.enter() else {
            panic!("there was room to wait");
        };
        // Ten quick calls, which hold on to their places for now.
        let later = now + Duration::from_millis(150);
        for _ in 0..10 {
            gate.learn(now, End::Answered, later, 0.5);
        }
        let Seen { limit, alone, .. } = gate.seen().unwrap();
        assert_eq!(limit, 32);
        assert_eq!(alone, Some(Duration::from_millis(150)));
        inside.push(waits.now_or_never().flatten().unwrap());
        // Another rule keeps what was learned, and a fixed one forgets it.
        gate.change(Some(Concurrency::adaptive(Adaptive::between(1, 20))), later);
        assert_eq!(gate.seen().map(|it| it.limit), Some(20));
        gate.change(Some(Concurrency::fixed(17)), later);
        assert_eq!(gate.seen(), None);
        assert!(matches!(gate.enter(), Entered::Full));
        inside.pop().unwrap().ended(End::Answered);
        assert!(matches!(gate.enter(), Entered::Now(_)));
    }

    proptest! {
        /// Calls come, end, and leave the line in any order: never more in than may be, never one
        /// in line while there is a place.
        #[test]
        fn the_bounds_hold(
            most in 1_u32..5, queue in 0_u32..5,
            steps in prop::collection::vec((0_u8..3, 0_usize..10), 0..80),
        ) {
            let gate = gate(most, queue);
            let (mut inside, mut waiting): (Vec<Place>, Vec<InLine<Place>>) = Default::default();
            for (step, which) in steps {
                match step {
                    0 => match gate.enter() {
                        Entered::Now(place) => inside.push(place),
                        Entered::Waits(waits) => waiting.push(waits),
                        Entered::Full => {
                            prop_assert_eq!(waiting.len(), queue as usize);
                        }
                    },
                    1 if which < inside.len() => drop(inside.swap_remove(which)),
                    2 if which < waiting.len() => drop(waiting.remove(which)),
                    _ => {}
                }
                let mut still = Vec::new();
                for mut waits in waiting {
                    match (&mut waits).now_or_never() {
                        Some(place) => inside.push(place.unwrap()),
                        None => still.push(waits),
                    }
                }
                waiting = still;
                prop_assert!(inside.len() <= most as usize);
                prop_assert!(waiting.len() <= queue as usize);
                prop_assert!(waiting.is_empty() || inside.len() == most as usize);
                prop_assert_eq!(gate.state().in_flight as usize, inside.len());
            }
        }
    }
}

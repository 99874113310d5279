//! So many calls at once at a local service. Who finds no place waits in line, where the rule has
//! one, or is told to come again; places are given back by dropping them.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use sidelane_proto::model::Concurrency;

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
    rule: Concurrency,
    in_flight: u32,
}

/// A call's place at the service, until it is dropped.
#[derive(Debug)]
pub struct Place {
    gate: Arc<Gate>,
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
    pub fn new(rule: Concurrency, counters: Arc<AdmissionCounters>) -> Arc<Self> {
        let gate = Self {
            state: Mutex::new(State { rule, in_flight: 0 }),
            line: Arc::default(),
            counters,
        };
        gate.counters.limit(rule.max_in_flight);
        Arc::new(gate)
    }

    /// The rule that holds.
    #[must_use]
    pub fn rule(&self) -> Concurrency {
        self.state().rule
    }

    /// Another rule holds from now on. Who is in stays in; who waits and fits now comes in.
    pub fn change(self: &Arc<Self>, rule: Concurrency) {
        self.state().rule = rule;
        self.counters.limit(rule.max_in_flight);
        self.serve_line();
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
        self.counters.entered();
        Place {
            gate: Arc::clone(self),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn has_room(&self) -> bool {
        self.in_flight < self.rule.max_in_flight
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
    use futures_util::FutureExt;
    use proptest::prelude::*;

    use super::*;

    fn gate(max_in_flight: u32, queue: u32) -> Arc<Gate> {
        let rule = Concurrency {
            queue,
            ..Concurrency::fixed(max_in_flight)
        };
        Gate::new(rule, Arc::default())
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
        gate.change(Concurrency::fixed(1));
        assert!(matches!(gate.enter(), Entered::Full));
        assert!(entered.iter().all(|it| matches!(it, Entered::Now(_))));
        gate.change(Concurrency::fixed(4));
        assert!(waits.now_or_never().flatten().is_some());
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

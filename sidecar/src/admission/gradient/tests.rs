//! The bound against a server that is made of numbers: so many places, each call for so long, and
//! who finds no place waits inside. Time passes as the test says.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};

use proptest::prelude::*;

use super::*;

/// A server behind its bound, and calls that come at random.
struct Simulation {
    gradient: Gradient,
    start: Instant,
    now: Duration,
    random: fastrand::Rng,
    places: u32,
    time: Duration,
    /// Calls a second.
    rate: f64,
    /// When each call in a place ends, and when it was let in.
    inside: BinaryHeap<Reverse<(Duration, Duration)>>,
    /// When those were let in that wait inside the server.
    waiting: VecDeque<Duration>,
    next: Duration,
}

/// What came of a stretch of time.
#[derive(Debug)]
struct Stretch {
    /// Calls answered a second.
    goodput: f64,
    /// Mean time that they took, in seconds.
    took: f64,
    /// Calls that came and found no place behind the bound.
    refused: u32,
    highest: u32,
    lowest: u32,
}

impl Simulation {
    fn new(rule: Adaptive, seed: u64, places: u32, time: Duration, load: f64) -> Self {
        let start = Instant::now();
        Self {
            gradient: Gradient::new(rule, start),
            start,
            now: Duration::ZERO,
            random: fastrand::Rng::with_seed(seed),
            places,
            time,
            rate: load * f64::from(places) / time.as_secs_f64(),
            inside: BinaryHeap::new(),
            waiting: VecDeque::new(),
            next: Duration::ZERO,
        }
    }

    fn capacity(&self) -> f64 {
        f64::from(self.places) / self.time.as_secs_f64()
    }

    fn in_flight(&self) -> u32 {
        u32::try_from(self.inside.len() + self.waiting.len()).unwrap()
    }

    /// Service takes between 0.8 and 1.2 times what it is said to take.
    fn serve(&mut self, since: Duration) {
        let time = self.time.mul_f64(0.8 + 0.4 * self.random.f64());
        self.inside.push(Reverse((self.now + time, since)));
    }

    fn run(&mut self, seconds: f64) -> Stretch {
        let until = self.now + Duration::from_secs_f64(seconds);
        let (mut answered, mut took, mut refused) = (0_u32, 0.0, 0);
        let (mut highest, mut lowest) = (0, u32::MAX);
        loop {
            let ends = self.inside.peek().map(|Reverse((at, _))| *at);
            let arrives = self.next;
            let event = ends.map_or(arrives, |ends| ends.min(arrives));
            if event > until {
                self.now = until;
                break;
            }
            self.now = event;
            if ends == Some(event) {
                let Reverse((_, since)) = self.inside.pop().unwrap();
                let sample = Sample {
                    took: event - since,
                    end: End::Answered,
                    in_flight: self.in_flight() + 1,
                };
                answered += 1;
                took += sample.took.as_secs_f64();
                let random = self.random.f64();
                self.gradient.ended(sample, self.start + event, random);
                if let Some(since) = self.waiting.pop_front() {
                    self.serve(since);
                }
            } else {
                // Poisson: times between arrivals are exponential.
                let pause = -(1.0 - self.random.f64()).ln() / self.rate;
                self.next = event + Duration::from_secs_f64(pause);
                if self.in_flight() >= self.gradient.limit() {
                    refused += 1;
                } else if self.inside.len() < self.places as usize {
                    self.serve(event);
                } else {
                    self.waiting.push_back(event);
                }
            }
            highest = highest.max(self.gradient.limit());
            lowest = lowest.min(self.gradient.limit());
        }
        Stretch {
            goodput: f64::from(answered) / seconds,
            took: took / f64::from(answered.max(1)),
            refused,
            highest,
            lowest,
        }
    }
}

fn twenty_milliseconds() -> Duration {
    Duration::from_millis(20)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Whatever the server is like, most of what it can do is done, and calls do not pile up in it.
    #[test]
    fn the_bound_finds_what_a_server_can_do(
        seed: u64, places in 1_u32..200, micros in 500_u64..200_000, load in 0.5_f64..4.0,
    ) {
        let time = Duration::from_micros(micros);
        let mut it = Simulation::new(Adaptive::DEFAULT, seed, places, time, load);
        let _ = it.run(30.0 + 500.0 * time.as_secs_f64());
        let seconds = 20.0 + 200.0 * time.as_secs_f64();
        let stretch = it.run(seconds);
        let wanted = it.capacity().min(it.rate);
        // With hardly more calls than a single place can do, looking for the bound leaves it idle now and
        // then.
        prop_assert!(stretch.goodput >= 0.8 * wanted, "{stretch:?} of {wanted}");
        let (alone, root) = (time.as_secs_f64(), f64::from(places).sqrt());
        // A bound of one call too many is much for a server of one place; and with hardly more calls
        // than it can do, what waits says so late.
        let most = alone * (2.0 + 3.0 / root);
        prop_assert!(stretch.took <= most, "{stretch:?}, at most {most}");
    }

    /// Within what the rule says, whatever comes, and whatever the rule becomes.
    #[test]
    fn the_bound_is_within_what_the_rule_says(
        min in 1_u32..50, more in 0_u32..50,
        samples in prop::collection::vec((0_u64..5_000, 0_u8..3, 0_u32..120, 0_u64..500), 0..400),
        other in (1_u32..50, 0_u32..50),
    ) {
        let start = Instant::now();
        let mut rule = Adaptive::between(min, min + more);
        let mut gradient = Gradient::new(rule, start);
        let (mut now, half) = (start, samples.len() / 2);
        for (index, (took, end, in_flight, pause)) in samples.into_iter().enumerate() {
            if index == half {
                rule = Adaptive::between(other.0, other.0 + other.1);
                gradient.change(rule);
            }
            now += Duration::from_millis(pause);
            let end = [End::Answered, End::Failed, End::Late][usize::from(end)];
            let took = Duration::from_millis(took);
            gradient.ended(Sample { took, end, in_flight }, now, 0.5);
            let limit = gradient.limit();
            prop_assert!((rule.min..=rule.max).contains(&limit), "{limit} of {rule}");
        }
    }
}

#[test]
fn a_server_that_gets_slower_or_faster_is_followed() {
    let mut it = Simulation::new(Adaptive::DEFAULT, 7, 10, twenty_milliseconds(), 2.0);
    let _ = it.run(10.0);
    for (milliseconds, rate) in [(60, 1_000.0), (5, 4_000.0), (20, 1_000.0)] {
        it.time = Duration::from_millis(milliseconds);
        it.rate = rate;
        // Until it is looked anew how long calls take alone, and once more.
        let _ = it.run(26.0);
        let stretch = it.run(10.0);
        let wanted = it.capacity();
        assert!(stretch.goodput >= 0.9 * wanted, "{stretch:?} of {wanted}");
        let most = 3.0 * it.time.as_secs_f64();
        assert!(stretch.took <= most, "{stretch:?}, at most {most}");
    }
}

#[test]
fn a_server_that_does_well_has_no_call_refused() {
    let mut it = Simulation::new(Adaptive::DEFAULT, 7, 100, twenty_milliseconds(), 0.5);
    let _ = it.run(3.0);
    // Several looks at how long calls take alone among them.
    let stretch = it.run(60.0);
    assert_eq!(stretch.refused, 0, "{stretch:?}");
}

#[test]
fn what_is_far_from_its_bound_moves_nothing() {
    let mut it = Simulation::new(Adaptive::DEFAULT, 7, 10, twenty_milliseconds(), 0.1);
    let stretch = it.run(30.0);
    assert_eq!((stretch.lowest, stretch.highest), (16, 16));
}

/// A bound that has learned that calls take 20 ms alone.
fn learned(now: &mut Instant) -> Gradient {
    let mut gradient = Gradient::new(Adaptive::DEFAULT, *now);
    feed(&mut gradient, now, End::Answered, twenty_milliseconds(), 40);
    assert_eq!(gradient.seen().alone, Some(twenty_milliseconds()));
    gradient
}

/// So many calls end, 10 ms after each other, with the service as full as it may be.
fn feed(gradient: &mut Gradient, now: &mut Instant, end: End, took: Duration, count: u32) -> u32 {
    let ended = (0..count).map(|_| {
        *now += Duration::from_millis(10);
        let in_flight = gradient.limit();
        let sample = Sample {
            took,
            end,
            in_flight,
        };
        u32::from(gradient.ended(sample, *now, 0.5))
    });
    ended.sum()
}

#[test]
fn failures_do_not_count_as_quick_calls() {
    let now = &mut Instant::now();
    let mut gradient = learned(now);
    let before = gradient.seen();
    let quick = Duration::from_micros(50);
    assert_eq!(feed(&mut gradient, now, End::Failed, quick, 500), 0);
    assert_eq!(gradient.seen(), before);
    // Slow ones count as any other.
    let slow = Duration::from_millis(80);
    assert_eq!(feed(&mut gradient, now, End::Failed, slow, 20), 20);
    assert!(gradient.limit() < before.limit);
}

#[test]
fn calls_that_are_late_count_as_slow_however_little_time_they_had() {
    let now = &mut Instant::now();
    let mut gradient = learned(now);
    let before = gradient.seen();
    let short = Duration::from_millis(1);
    assert_eq!(feed(&mut gradient, now, End::Late, short, 50), 50);
    let after = gradient.seen();
    assert!(after.limit < before.limit, "{after:?}");
    assert_eq!(after.of_late, Some(4 * twenty_milliseconds()));
    assert_eq!(after.alone, before.alone);
}

#[test]
fn the_bound_at_most_doubles_and_at_most_halves() {
    let now = &mut Instant::now();
    let mut gradient = learned(now);
    for milliseconds in [20, 20, 500, 500, 500, 500, 20, 20] {
        for _ in 0..20 {
            let before = gradient.limit;
            let took = Duration::from_millis(milliseconds);
            feed(&mut gradient, now, End::Answered, took, 1);
            let after = gradient.limit;
            assert!(after <= before * 2.0, "{after} after {before}");
            assert!(after >= before * STEEPEST, "{after} after {before}");
        }
    }
}

#[test]
fn looks_are_as_far_apart_as_the_rule_and_chance_say() {
    let mut lows = Vec::new();
    for random in [0.0, 1.0] {
        let start = Instant::now();
        let rule = Adaptive {
            remeasure: Duration::from_secs(5),
            ..Adaptive::DEFAULT
        };
        let mut gradient = Gradient::new(rule, start);
        let (mut now, mut begun) = (start, Vec::new());
        while now < start + Duration::from_secs(60) {
            now += Duration::from_millis(5);
            let low = gradient.measuring;
            // As a server of four places, always full.
            let in_flight = gradient.limit();
            let took = Duration::from_millis(u64::from(in_flight.max(4)) * 5);
            let end = End::Answered;
            gradient.ended(
                Sample {
                    took,
                    end,
                    in_flight,
                },
                now,
                random,
            );
            if gradient.measuring && !low {
                begun.push(now);
            }
        }
        let apart = begun.windows(2).map(|two| two[1] - two[0]);
        lows.push(apart.min().unwrap());
    }
    let within = |time: Duration, low| (low..low + 1.0).contains(&time.as_secs_f64());
    assert!(within(lows[0], 5.0), "{lows:?}");
    assert!(within(lows[1], 6.0), "{lows:?}");
}

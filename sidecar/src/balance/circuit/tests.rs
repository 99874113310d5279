//! The breaker's transitions, as a table and against every sequence of calls.

use proptest::prelude::*;

use super::*;

const DEFAULT: Breaker = Breaker::DEFAULT;
const SECOND: Duration = Duration::from_secs(1);

/// A breaker with a clock; no chance.
struct Trial {
    circuit: Circuit,
    now: Instant,
}

impl Trial {
    fn new(settings: Breaker) -> Self {
        let now = Instant::now();
        Self {
            circuit: Circuit::new(settings, now),
            now,
        }
    }

    fn call(&mut self, success: bool) -> Option<Change> {
        let (ticket, change) = self.circuit.enter(self.now);
        let verdict = if success {
            Verdict::Success
        } else {
            Verdict::Failure
        };
        let told = self
            .circuit
            .tell(ticket.expect("it lets a call in"), verdict, 0.0, self.now);
        told.or(change)
    }

    fn calls(&mut self, outcomes: &str) -> Vec<Option<Change>> {
        outcomes.chars().map(|it| self.call(it == '+')).collect()
    }

    fn stand(&self) -> Stand {
        self.circuit.stand(self.now)
    }

    fn open_for(&self) -> Duration {
        match self.stand() {
            Stand::Open(until) => until - self.now,
            other => panic!("{other:?}"),
        }
    }

    fn wait(&mut self, time: Duration) {
        self.now += time;
    }
}

#[test]
fn it_opens_after_five_failures_in_a_row_and_not_before() {
    let mut trial = Trial::new(DEFAULT);
    for outcomes in ["----+", "----+", "----"] {
        assert!(trial.calls(outcomes).iter().all(Option::is_none));
    }
    assert_eq!(trial.call(false), Some(Change::Opened));
    assert_eq!(trial.circuit.cause(), Some(Cause::InARow(5)));
    assert_eq!(trial.open_for(), DEFAULT.open);
    assert_eq!(trial.circuit.enter(trial.now), (None, None));
}

#[test]
fn it_opens_when_fewer_than_half_of_twenty_calls_succeed() {
    let mut trial = Trial::new(DEFAULT);
    // 9 of 19, and too few calls to judge by.
    assert!(
        trial
            .calls("-+-+-+-+-+-+-+-+-+-")
            .iter()
            .all(Option::is_none)
    );
    assert_eq!(trial.call(false), Some(Change::Opened));
    assert_eq!(trial.circuit.cause(), Some(Cause::Share(45)));

    // Exactly half is enough.
    let mut trial = Trial::new(DEFAULT);
    assert!(trial.calls(&"+-".repeat(200)).iter().all(Option::is_none));
    // Those of long ago do not count.
    trial.wait(DEFAULT.interval + SECOND);
    assert!(
        trial
            .calls("--+--+--+--+--+--+-")
            .iter()
            .all(Option::is_none)
    );
    assert_eq!(trial.stand(), Stand::Closed);
}

#[test]
fn a_probe_that_says_nothing_makes_room_for_another() {
    let mut trial = Trial::new(DEFAULT);
    trial.calls("-----");
    trial.wait(DEFAULT.open);
    let (silent, _) = trial.circuit.enter(trial.now);
    let silent = silent.unwrap();
    trial.wait(DEFAULT.open - Duration::from_nanos(1));
    assert_eq!(trial.stand(), Stand::HalfOpen { free: false });
    assert_eq!(
        trial.circuit.due(),
        Some(trial.now + Duration::from_nanos(1))
    );
    trial.wait(Duration::from_nanos(1));
    assert_eq!(trial.stand(), Stand::HalfOpen { free: true });
    assert_eq!(trial.call(true), None);
    // What the first says after all is of another time, and gives nothing back.
    let late = trial.circuit.tell(silent, Verdict::Failure, 0.0, trial.now);
    assert_eq!(late, None);
    assert!(!trial.circuit.abandon(silent));
    assert_eq!(trial.call(true), Some(Change::Closed));
}

#[test]
fn half_open_lets_one_probe_through_and_two_successes_close_it() {
    let mut trial = Trial::new(DEFAULT);
    trial.calls("-----");
    trial.wait(DEFAULT.open - Duration::from_nanos(1));
    assert!(matches!(trial.stand(), Stand::Open(_)));
    trial.wait(Duration::from_nanos(1));
    assert_eq!(trial.stand(), Stand::HalfOpen { free: true });

    let (probe, change) = trial.circuit.enter(trial.now);
    assert_eq!(change, Some(Change::HalfOpened));
    assert_eq!(trial.stand(), Stand::HalfOpen { free: false });
    assert_eq!(
        trial.circuit.enter(trial.now),
        (None, None),
        "one at a time"
    );
    // Its caller goes away: the next call is the probe.
    assert!(trial.circuit.abandon(probe.unwrap()));
    assert_eq!(trial.call(true), None);
    assert_eq!(trial.stand(), Stand::HalfOpen { free: true });
    assert_eq!(trial.call(true), Some(Change::Closed));
    assert_eq!(trial.stand(), Stand::Closed);
    assert_eq!(trial.circuit.cause(), None);
}

#[test]
fn it_stays_open_twice_as_long_each_time_up_to_a_bound_and_starts_anew_when_well() {
    let mut trial = Trial::new(DEFAULT);
    trial.calls("-----");
    for seconds in [5, 10, 20, 40, 60, 60] {
        assert_eq!(trial.open_for(), SECOND * seconds);
        trial.wait(SECOND * seconds);
        assert_eq!(trial.call(false), Some(Change::Opened));
        assert_eq!(trial.circuit.cause(), Some(Cause::Probe));
    }
    trial.wait(DEFAULT.max_open);
    trial.calls("++");
    // Closed for a moment only.
    trial.calls("-----");
    assert_eq!(trial.open_for(), SECOND * 60);
    trial.wait(SECOND * 60);
    trial.calls("++");
    trial.wait(DEFAULT.max_open);
    trial.calls("-----");
    assert_eq!(trial.open_for(), DEFAULT.open);
}

#[test]
fn chance_takes_off_a_fifth_at_most() {
    for (random, time) in [(0.0, 5_000), (0.5, 4_500), (1.0, 4_000)] {
        let mut trial = Trial::new(DEFAULT);
        trial.circuit.open(Cause::Probe, random, trial.now);
        assert_eq!(trial.open_for(), Duration::from_millis(time));
    }
}

#[test]
fn a_connection_that_is_lost_counts_once_however_many_calls_were_on_it() {
    let mut trial = Trial::new(DEFAULT);
    let sent = trial.now;
    let lose = |trial: &mut Trial, sent| {
        let (ticket, _) = trial.circuit.enter(trial.now);
        let verdict = Verdict::Lost { sent };
        trial.circuit.tell(ticket.unwrap(), verdict, 0.0, trial.now)
    };
    trial.wait(SECOND);
    for _ in 0..100 {
        assert_eq!(lose(&mut trial, sent), None);
    }
    for _ in 0..3 {
        trial.wait(SECOND);
        let sent = trial.now;
        assert_eq!(lose(&mut trial, sent), None);
    }
    trial.wait(SECOND);
    let sent = trial.now;
    assert_eq!(lose(&mut trial, sent), Some(Change::Opened));
}

#[test]
fn what_was_sent_at_another_time_says_nothing_of_now() {
    let mut trial = Trial::new(DEFAULT);
    let (old, _) = trial.circuit.enter(trial.now);
    trial.calls("-----");
    trial.wait(DEFAULT.open);
    let told = trial
        .circuit
        .tell(old.unwrap(), Verdict::Success, 0.0, trial.now);
    assert_eq!(told, None);
    trial.calls("++");
    for _ in 0..100 {
        let told = trial
            .circuit
            .tell(old.unwrap(), Verdict::Failure, 0.0, trial.now);
        assert_eq!(told, None);
    }
    assert_eq!(trial.stand(), Stand::Closed);
}

#[test]
fn every_setting_is_obeyed() {
    let mut off = Trial::new(Breaker::OFF);
    assert!(off.calls(&"-".repeat(1_000)).iter().all(Option::is_none));

    let mut trial = Trial::new(Breaker {
        consecutive_failures: 2,
        open: SECOND,
        max_open: 3 * SECOND,
        probes: 2,
        successes: 3,
        ..DEFAULT
    });
    assert_eq!(trial.calls("--"), [None, Some(Change::Opened)]);
    trial.wait(SECOND);
    assert!(trial.circuit.enter(trial.now).0.is_some());
    assert!(trial.circuit.enter(trial.now).0.is_some());
    assert!(trial.circuit.enter(trial.now).0.is_none());

    let mut trial = Trial::new(Breaker {
        success_percent: 90,
        min_calls: 5,
        interval: SECOND,
        ..DEFAULT
    });
    assert_eq!(trial.calls("+++-"), [None; 4]);
    trial.wait(2 * SECOND);
    assert_eq!(trial.calls("++++-")[4], Some(Change::Opened));

    // A rule that is pushed meanwhile.
    let mut trial = Trial::new(Breaker::OFF);
    trial.calls("-----");
    trial.circuit.tune(DEFAULT, trial.now);
    assert_eq!(trial.call(false), Some(Change::Opened));
}

/// What a model of the breaker remembers.
#[derive(Debug, Default)]
struct Model {
    run: u32,
    open: bool,
    probes: u32,
    last: Option<Instant>,
}

proptest! {
    /// Whatever calls come and end in whatever order: no more probes than allowed are waited for, no
    /// call enters while it is open, and it opens at the latest with the run that it is set to.
    #[test]
    fn no_sequence_breaks_its_promises(
        steps in proptest::collection::vec((0_u64..4_000, 0_u8..4, any::<bool>()), 1..200),
        probes in 1_u32..4,
    ) {
        let settings = Breaker { probes, success_percent: 0, ..DEFAULT };
        let mut now = Instant::now();
        let mut circuit = Circuit::new(settings, now);
        let mut model = Model::default();
        let mut under_way: Vec<Ticket> = Vec::new();
        for (pause, what, good) in steps {
            now += Duration::from_millis(pause);
            match what {
                0 | 1 => {
                    let (stand, epoch) = (circuit.stand(now), circuit.epoch());
                    let (ticket, _) = circuit.enter(now);
                    // Only those that were silent for as long as it is open make room unheard.
                    if circuit.epoch() != epoch {
                        prop_assert_eq!(model.probes, probes);
                        prop_assert!(now >= model.last.unwrap() + settings.open);
                        model.probes = 0;
                    }
                    prop_assert_eq!(
                        ticket.is_some(),
                        matches!(stand, Stand::Closed | Stand::HalfOpen { free: true })
                    );
                    if let Some(ticket) = ticket {
                        prop_assert_eq!(ticket.is_probe(), model.open);
                        model.probes += u32::from(ticket.is_probe());
                        model.last = Some(now);
                        under_way.push(ticket);
                    }
                    prop_assert!(model.probes <= probes);
                }
                2 if !under_way.is_empty() => {
                    let ticket = under_way.remove(usize::from(good) % under_way.len());
                    let current = ticket.epoch == circuit.epoch();
                    let verdict = if good { Verdict::Success } else { Verdict::Failure };
                    let change = circuit.tell(ticket, verdict, 0.5, now);
                    if current && ticket.is_probe() {
                        model.probes -= 1;
                        prop_assert_eq!(change == Some(Change::Opened), !good);
                    } else if current && !model.open {
                        model.run = if good { 0 } else { model.run + 1 };
                        let full = model.run == settings.consecutive_failures;
                        prop_assert_eq!(change == Some(Change::Opened), full);
                    } else {
                        prop_assert_eq!(change, None);
                    }
                    if let Some(change) = change {
                        model = Model { open: change == Change::Opened, ..Model::default() };
                    }
                }
                _ => {
                    if let Some(ticket) = under_way.pop()
                        && circuit.abandon(ticket)
                    {
                        model.probes -= 1;
                    }
                }
            }
        }
    }
}

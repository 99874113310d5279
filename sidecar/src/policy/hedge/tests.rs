//! The model, asked about every order of events up to a length: what it must never do, whatever
//! comes when.

use std::time::Duration;

use super::*;

const AFTER: Duration = Duration::from_millis(20);
const RULE: Hedge = Hedge {
    max_attempts: 3,
    ..Hedge::after(AFTER)
};
const SOON: Pushback = Pushback::After(Duration::from_millis(50));
const TOO_LATE: Pushback = Pushback::After(Duration::from_secs(60));
const LIMIT: Duration = Duration::from_secs(1);

/// What may happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Event {
    /// Time passes, up to what it waits for, or half as long as a hedge waits.
    Time(bool),
    Heard(Word),
    Found,
    Sent,
    Unsent(Unsent),
}

const EVENTS: [Event; 12] = [
    Event::Time(true),
    Event::Time(false),
    Event::Heard(Word::Counts),
    Event::Heard(Word::Failed(Pushback::Silent)),
    Event::Heard(Word::Failed(SOON)),
    Event::Heard(Word::Failed(TOO_LATE)),
    Event::Heard(Word::Failed(Pushback::Never)),
    Event::Found,
    Event::Sent,
    Event::Unsent(Unsent::For(Never::Nobody)),
    Event::Unsent(Unsent::For(Never::Budget)),
    Event::Unsent(Unsent::NotNow),
];

/// What anybody who looks on knows: nothing of it is asked of the model.
#[derive(Debug, Clone)]
struct Facts {
    now: Instant,
    deadline: Instant,
    sent: Vec<Instant>,
    open: usize,
    /// Nothing may be sent any more.
    over: bool,
    /// The latest time that a callee asked for.
    asked: Option<Instant>,
    /// One has failed since the last was sent or not sent.
    failed: bool,
    /// Since then it was put off.
    put_off: Option<Instant>,
    looking: bool,
    /// Found, and neither sent nor dropped.
    found: bool,
    course: Vec<Event>,
}

/// May this happen now? Only what the driver asked for, and words of what is under way.
fn may_happen(event: Event, step: Step, facts: &Facts) -> bool {
    match event {
        Event::Time(_) => step != Step::Send,
        Event::Heard(_) => facts.open > 0 && step != Step::Send,
        Event::Found => facts.looking,
        Event::Sent => step == Step::Send && facts.found,
        Event::Unsent(Unsent::For(Never::Budget)) => step == Step::Send && !facts.looking,
        Event::Unsent(_) => facts.looking || (step == Step::Send && facts.found),
    }
}

fn check(model: &Hedging, facts: &Facts) {
    let step = model.step(facts.now);
    // Nobody who has failed is waited for.
    let asked_for_later = facts.asked.is_some_and(|asked| facts.now < asked);
    if facts.failed && !facts.over && !facts.looking && facts.sent.len() < 3 && !asked_for_later {
        assert_eq!(step, Step::Send, "{facts:?}");
    }
    match step {
        Step::Send => {
            assert!(!facts.over, "nothing may be sent: {facts:?}");
            assert!(facts.sent.len() < 3, "too many: {facts:?}");
            assert!(!facts.looking, "looked for already: {facts:?}");
            assert!(facts.now < facts.deadline, "too late: {facts:?}");
            if let Some(asked) = facts.asked {
                assert!(facts.now >= asked, "a callee asked for later: {facts:?}");
            }
            let last = *facts.sent.last().unwrap();
            let waited = facts.now >= last + AFTER;
            assert!(waited || facts.failed, "too soon: {facts:?}");
            if let Some(at) = facts.put_off {
                assert!(facts.now >= at + AFTER || facts.failed, "{facts:?}");
            }
        }
        Step::Wait(Some(at)) => {
            assert!(at > facts.now && at < facts.deadline, "{facts:?}");
            assert!(!facts.over, "for nothing: {facts:?}");
        }
        Step::Wait(None) => assert!(facts.open > 0 || facts.looking, "for ever: {facts:?}"),
        Step::End => assert_eq!(facts.open, 0, "somebody may still answer: {facts:?}"),
    }
}

/// Tries every event at every place; how many courses came to an end.
fn explore(model: Hedging, facts: &Facts, depth: u32) -> u64 {
    check(&model, facts);
    let step = model.step(facts.now);
    if step == Step::End || depth == 0 {
        return 1;
    }
    let mut ends = 0;
    // The driver looks for somebody as soon as it is told to send.
    if step == Step::Send && !facts.found {
        let (mut model, mut facts) = (model, facts.clone());
        model.looks();
        facts.looking = true;
        ends += explore(model, &facts, depth - 1);
    }
    for event in EVENTS {
        if !may_happen(event, step, facts) {
            continue;
        }
        let (mut model, mut facts) = (model, facts.clone());
        facts.course.push(event);
        let now = facts.now;
        match event {
            Event::Time(whole) => {
                let until = match step {
                    Step::Wait(Some(at)) if whole => at,
                    _ => now + AFTER / 2,
                };
                facts.now = until;
                if until >= facts.deadline {
                    // The call is over, whatever the model says.
                    ends += 1;
                    continue;
                }
            }
            Event::Heard(Word::Counts) => {
                model.heard(Word::Counts, now);
                assert_eq!(model.step(now), Step::End, "{facts:?}");
                assert_eq!(model.step(now + LIMIT), Step::End, "{facts:?}");
                ends += 1;
                continue;
            }
            Event::Heard(Word::Failed(pushback)) => {
                let could = !facts.over && facts.sent.len() < 3;
                let why = model.heard(Word::Failed(pushback), now);
                facts.open -= 1;
                facts.failed = true;
                match pushback {
                    Pushback::Silent => {}
                    Pushback::After(time) => facts.asked = facts.asked.max(Some(now + time)),
                    Pushback::Never => {
                        facts.over = true;
                        let expected = could.then_some(Withheld::Pushback);
                        assert!(why == expected || why.is_none(), "{facts:?}");
                    }
                }
                facts.over |= facts.asked.is_some_and(|at| at >= facts.deadline);
            }
            Event::Found => {
                model.found();
                (facts.looking, facts.found) = (false, true);
            }
            Event::Sent => {
                model.sent(now);
                facts.sent.push(now);
                facts.open += 1;
                (facts.found, facts.failed, facts.put_off) = (false, false, None);
            }
            Event::Unsent(why) => {
                model.unsent(why, now);
                (facts.looking, facts.found) = (false, false);
                match why {
                    Unsent::For(_) => facts.over = true,
                    Unsent::NotNow if facts.open == 0 => facts.over = true,
                    Unsent::NotNow => (facts.put_off, facts.failed) = (Some(now), false),
                }
            }
        }
        ends += explore(model, &facts, depth - 1);
    }
    ends
}

fn begun(number: u32) -> (Hedging, Facts) {
    begun_with(number, LIMIT)
}

fn begun_with(number: u32, limit: Duration) -> (Hedging, Facts) {
    let now = Instant::now();
    let deadline = now + limit;
    let facts = Facts {
        now,
        deadline,
        sent: vec![now; number as usize],
        open: 1,
        over: false,
        asked: None,
        failed: false,
        put_off: None,
        looking: false,
        found: false,
        course: Vec::new(),
    };
    (Hedging::begun(RULE, number, Some(deadline), now), facts)
}

#[test]
fn no_order_of_events_sends_too_much_or_too_soon_or_leaves_a_call_behind() {
    for number in 1..=3 {
        // Also one in which no attempt would be sent for its being late.
        for limit in [LIMIT, AFTER] {
            let (model, facts) = begun_with(number, limit);
            let ends = explore(model, &facts, 9);
            assert!(ends > 10, "{ends}");
        }
    }
}

#[test]
fn the_next_one_is_sent_after_the_time_or_at_once_when_one_fails() {
    let (mut model, facts) = begun(1);
    let start = facts.now;
    assert_eq!(model.step(start), Step::Wait(Some(start + AFTER)));
    assert_eq!(model.step(start + AFTER), Step::Send);
    model.sent(start + AFTER);
    assert_eq!(model.made(), 2);
    let third = start + AFTER * 2;
    assert_eq!(model.step(start + AFTER), Step::Wait(Some(third)));
    // The second fails at once: the third is sent, and the first may still answer.
    let soon = start + AFTER + Duration::from_millis(1);
    assert_eq!(model.heard(Word::Failed(Pushback::Silent), soon), None);
    assert_eq!(model.step(soon), Step::Send);
    model.sent(soon);
    // There is no fourth.
    assert_eq!(model.step(soon + LIMIT / 2), Step::Wait(None));
    model.heard(Word::Failed(Pushback::Silent), soon);
    assert_eq!(model.step(soon), Step::Wait(None));
    model.heard(Word::Failed(Pushback::Silent), soon);
    assert_eq!(model.step(soon), Step::End);
}

#[test]
fn pushback_and_the_deadline_hold() {
    let (mut model, facts) = begun(1);
    let now = facts.now;
    // Nothing is under way any more, and yet nothing is sent before.
    assert_eq!(model.heard(Word::Failed(SOON), now), None);
    let at = now + Duration::from_millis(50);
    assert_eq!(model.step(now), Step::Wait(Some(at)));
    assert_eq!(model.step(at), Step::Send);
    let (mut model, _) = begun(1);
    let why = model.heard(Word::Failed(TOO_LATE), now);
    assert_eq!(why, Some(Withheld::Deadline));
    assert_eq!(model.step(now), Step::End);
    let (mut model, _) = begun(1);
    let why = model.heard(Word::Failed(Pushback::Never), now);
    assert_eq!(why, Some(Withheld::Pushback));
    assert_eq!(model.step(now), Step::End);
    // Where the time is shorter than the hedge's, there is none.
    let model = Hedging::begun(RULE, 1, Some(now + AFTER), now);
    assert_eq!(model.step(now), Step::Wait(None));
}

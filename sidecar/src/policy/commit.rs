//! Is what came of an attempt the caller's, or may another attempt be made? This is the commit point
//! (gRFC A6, "When Retries are Valid"): once the head of an answer goes to the caller, the call has
//! had its last attempt, whatever follows. It is one function, so that a test can ask it about every
//! order in which heads, messages, trailers, resets and GOAWAY may come.

use sidelane_proto::model::Retry;

use crate::reason::Processed;

/// What came of an attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The head of an answer that goes on.
    Head,
    /// A whole answer, of a head alone ("trailers-only").
    Whole {
        /// Its gRPC status; `None` where it has none.
        status: Option<u16>,
        /// A peer sidecar's own refusal, and whether the callee may have seen the call.
        refused: Option<Processed>,
        /// A peer sidecar says that it lost the callee while the call was open.
        lost: bool,
    },
    /// The callee's side broke: the stream was reset, or its connection ended.
    Broke {
        /// May the callee have seen the call?
        processed: Processed,
        /// The connection was lost, rather than this call alone.
        lost: bool,
        /// The status that stands for it.
        status: u16,
    },
    /// A message of the answer, or a part of one.
    Data,
    /// The answer's trailers.
    Trailers,
}

/// What becomes of the call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// It goes to the caller.
    Forward,
    /// It was not looked at: it may go elsewhere.
    Elsewhere,
    /// It may have run, and its rule has it made again.
    Again,
    /// It failed, and the caller hears of it.
    Fail,
}

/// What may be made of an attempt.
#[derive(Debug, Clone, Copy)]
pub struct Leave {
    /// The caller has been sent the head of an answer.
    pub committed: bool,
    /// How its rule has it made again, where it has and this is not the last attempt.
    pub retry: Option<Retry>,
    /// The whole request can be sent once more.
    pub replayable: bool,
}

/// What becomes of the call now that this came.
#[must_use]
pub fn step(event: Event, leave: Leave) -> Step {
    match event {
        Event::Head | Event::Data | Event::Trailers => Step::Forward,
        Event::Whole { .. } if leave.committed => Step::Forward,
        Event::Broke { .. } if leave.committed => Step::Fail,
        Event::Whole {
            refused: Some(Processed::No),
            ..
        }
        | Event::Broke {
            processed: Processed::No,
            ..
        } => Step::Elsewhere,
        Event::Whole { status, lost, .. } => match status {
            // Whatever it was, success by accident it must not be.
            None => Step::Fail,
            Some(status) if leave.again(status, lost) => Step::Again,
            Some(_) => Step::Forward,
        },
        Event::Broke { status, lost, .. } if leave.again(status, lost) => Step::Again,
        Event::Broke { .. } => Step::Fail,
    }
}

impl Leave {
    /// Does its rule have it made again after this status, or because the callee was lost?
    fn again(&self, status: u16, lost: bool) -> bool {
        self.replayable
            && self
                .retry
                .is_some_and(|retry| lost || retry.on.contains(status.into()))
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::policy::retry::{self, Pushback};

    const GOAWAY: Event = Event::Broke {
        processed: Processed::No,
        lost: false,
        status: 14,
    };
    const EVENTS: [Event; 13] = [
        Event::Head,
        Event::Data,
        Event::Trailers,
        GOAWAY,
        whole(Some(0), None, false),
        whole(Some(5), None, false),
        whole(Some(14), None, false),
        whole(Some(14), Some(Processed::No), false),
        whole(Some(14), Some(Processed::Maybe), true),
        whole(None, None, false),
        // CANCEL, INTERNAL_ERROR, and a connection that is lost.
        broke(1, false),
        broke(13, false),
        broke(14, true),
    ];

    const fn whole(status: Option<u16>, refused: Option<Processed>, lost: bool) -> Event {
        Event::Whole {
            status,
            refused,
            lost,
        }
    }

    const fn broke(status: u16, lost: bool) -> Event {
        Event::Broke {
            processed: Processed::Maybe,
            lost,
            status,
        }
    }

    /// May this event follow in HTTP/2? Nothing follows an end, and only a head begins.
    fn may_follow(before: Option<Event>, next: Event) -> bool {
        match before {
            None => !matches!(next, Event::Data | Event::Trailers),
            Some(Event::Head | Event::Data) => !matches!(next, Event::Head | Event::Whole { .. }),
            Some(_) => false,
        }
    }

    /// Every order of events that one attempt can have, up to so many of them.
    fn courses(length: usize) -> Vec<Vec<Event>> {
        let mut all: Vec<Vec<Event>> = vec![Vec::new()];
        let mut last = all.clone();
        for _ in 0..length {
            let longer = last.iter().flat_map(|course| {
                let before = course.last().copied();
                let next = EVENTS.into_iter().filter(move |it| may_follow(before, *it));
                next.map(|event| [course.as_slice(), &[event]].concat())
            });
            last = longer.collect();
            all.extend(last.iter().cloned());
        }
        all
    }

    /// Plays a call whose attempts take these courses, those after the last one the last; how often
    /// it was sent, and whether each further attempt was only made of what was not looked at. Its
    /// request can be sent again after so many attempts and no more.
    fn play(courses: &[&[Event]], rule: Option<Retry>, again: u32) -> (u32, bool) {
        let now = Instant::now();
        let (mut number, mut only_unprocessed) = (0, true);
        'attempts: loop {
            number += 1;
            let replayable = number <= again;
            let taken = courses.get(number as usize - 1);
            let course = taken.or(courses.last()).unwrap();
            let mut forwarded = false;
            for event in *course {
                let leave = Leave {
                    committed: forwarded,
                    retry: rule.filter(|rule| number < rule.attempts),
                    replayable,
                };
                let step = step(*event, leave);
                // The commit point: nothing is tried again of which the caller has heard.
                assert!(
                    !forwarded || matches!(step, Step::Forward | Step::Fail),
                    "{step:?} after a head, in {course:?}"
                );
                let attempt = |unprocessed| retry::Attempt {
                    number,
                    unprocessed,
                    replayable,
                };
                match step {
                    Step::Forward => forwarded = true,
                    Step::Fail => return (number, only_unprocessed),
                    Step::Elsewhere => {
                        if !retry::again(attempt(true), rule, None, now) {
                            return (number, only_unprocessed);
                        }
                        continue 'attempts;
                    }
                    Step::Again => {
                        let silent = Pushback::Silent;
                        let again = retry::repeat(attempt(false), rule, silent, None, now, 0.0);
                        if again.is_err() {
                            return (number, only_unprocessed);
                        }
                        only_unprocessed = false;
                        continue 'attempts;
                    }
                }
            }
            return (number, only_unprocessed);
        }
    }

    #[test]
    fn no_order_of_events_leads_to_an_attempt_after_the_commit_point() {
        let courses = courses(12);
        // Those that end at once, and a head with up to eleven events after it.
        assert!(courses.len() > 60, "{}", courses.len());
        let five = Retry {
            attempts: 5,
            ..Retry::DEFAULT
        };
        let check = |taken: &[&[Event]]| {
            let begins = |course: &&[Event]| course.first() == Some(&Event::Head);
            let heard = taken.iter().position(begins);
            for again in [u32::MAX, 0, 1] {
                for rule in [None, Some(Retry::DEFAULT), Some(five)] {
                    let (attempts, only_unprocessed) = play(taken, rule, again);
                    let most = rule.map_or(3, |rule| rule.attempts.max(3));
                    assert!(attempts <= most, "{attempts} of {taken:?}");
                    if let Some(heard) = heard {
                        assert!(attempts as usize <= heard + 1, "{taken:?}");
                    }
                    let sent = attempts.saturating_sub(1);
                    assert!(sent <= again, "not to be sent again: {taken:?}");
                    if rule.is_none() {
                        assert!(only_unprocessed, "not idempotent: {taken:?}");
                    }
                }
            }
        };
        for course in &courses {
            check(&[course]);
        }
        // And attempts that differ: what leads to another one, and then whatever can come.
        let first: Vec<_> = courses.iter().filter(|course| course.len() == 1).collect();
        for one in &first {
            for last in &courses {
                check(&[one, last]);
                for two in &first {
                    check(&[one, two, last]);
                }
            }
        }
    }

    #[test]
    fn what_may_be_tried_again_is() {
        let attempts = |event, rule| play(&[&[event]], rule, u32::MAX).0;
        let rule = Some(Retry::DEFAULT);
        // REFUSED_STREAM, GOAWAY above the last id, and a refusal of the mesh, by any rule.
        for event in [GOAWAY, whole(Some(14), Some(Processed::No), false)] {
            assert_eq!(attempts(event, None), 3);
        }
        for (event, by_rule) in [
            (whole(Some(14), None, false), 3),
            (whole(Some(14), Some(Processed::Maybe), true), 3),
            (whole(Some(5), None, false), 1),
            (whole(Some(0), None, false), 1),
            (whole(None, None, false), 1),
            (broke(14, true), 3),
            (broke(13, false), 1),
        ] {
            assert_eq!(attempts(event, rule), by_rule, "{event:?}");
            assert_eq!(attempts(event, None), 1, "{event:?}");
        }
    }
}

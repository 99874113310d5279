//! Attempts of one call beside each other, where its rule asks for it: `policy::hedge` says when
//! another one is sent, and here it is. Each goes to an endpoint that has none and takes from the
//! service's budget; the first answer that counts is the call's, and the others are cancelled. A part
//! of `stack`, beside `way`; no other call comes by here.

use std::future::Future;
use std::pin::Pin;
use std::time::{Duration, Instant};

use http::request::Parts;
use sidelane_proto::model::{Hedge, MethodRule, NodeId, RetryBudget};
use tokio::time::{Sleep, sleep};

use crate::call::Call;
use crate::classify::Classified;
use crate::deliver::{Attempt, Delivery, Opened, node_of, reached};
use crate::forward::{Answer, Heard, Replay, Runner, race};
use crate::policy::hedge::{Hedging, Never, Step, Unsent, Word};
use crate::policy::retry::Pushback;
use crate::respond::{Callee, forward_failure};
use crate::retries::{Further, Retries, Token, Withheld};
use crate::stack::Stack;
use crate::telemetry::Outcome;
use crate::way::{NoWay, Way};

/// As a span says that there was nobody to send a hedge to.
const NOBODY: &str = "nobody";

/// The first attempt of a call that is hedged, as far as it is as any call's.
pub(crate) enum First {
    /// It is under way, and another one is due.
    Slow(Slow, Way),
    /// It has failed, at this node, and another one may make that good.
    Failed(Attempt, Option<NodeId>),
}

/// What comes after the first attempt.
pub(crate) enum Next {
    /// It has ended so; at this node, where others may be asked.
    Nothing(Option<NodeId>, Attempt),
    /// The rule has others made.
    More(First, Hedge),
}

/// An attempt of which nothing was heard in the time that its rule waits.
pub(crate) struct Slow {
    runner: Runner,
    sent: Instant,
}

/// How it went.
pub(crate) struct Hedged {
    /// How the attempt that counts ended.
    pub(crate) attempt: Attempt,
    /// Where all of them were: they are not asked again.
    pub(crate) tried: Vec<NodeId>,
    /// The number of the call's last attempt.
    pub(crate) number: u32,
}

/// All attempts of a call that is hedged.
struct Running<'a> {
    hedging: Hedging,
    /// Those of which nothing was heard yet.
    flights: Vec<Flight>,
    /// What is said if nobody does better: rather of one that may have run.
    failed: Option<Attempt>,
    been: Vec<NodeId>,
    method: Option<&'a MethodRule>,
    retries: &'a Retries,
}

/// An attempt of which nothing was heard yet.
struct Flight {
    runner: Runner,
    way: Way,
    began: Instant,
    number: u32,
}

type Found = Result<Way, NoWay>;
type Looking<'a> = Pin<Box<dyn Future<Output = Found> + Send + 'a>>;

impl Stack {
    /// Makes further attempts, beside a first one that is slow or in place of one that has failed.
    /// `number` is the first one's; `tried` are those that are not asked again.
    pub(crate) async fn hedged(
        &self,
        (classified, call, head): (&Classified, &Call, &Parts),
        delivery: &mut Delivery<'_>,
        (first, tried): (First, &[NodeId]),
        (hedge, number): (Hedge, u32),
    ) -> Hedged {
        let target = &classified.target;
        let (method, rule) = (classified.method(), &target.rule);
        let sent = match &first {
            First::Slow(slow, _) => slow.sent,
            // A failure says itself when the next one is due.
            First::Failed(..) => Instant::now(),
        };
        let mut running = Running {
            hedging: Hedging::begun(hedge, number, delivery.deadline, sent),
            flights: Vec::new(),
            failed: None,
            been: tried.to_vec(),
            method,
            retries: &target.retries,
        };
        running.first(delivery, first);
        let mut due: Pin<Box<Sleep>> = Box::pin(sleep(Duration::ZERO));
        let mut looking: Option<Looking<'_>> = None;
        let mut token: Option<Token<'_>> = None;
        let mut held: Option<(Way, Token<'_>)> = None;
        let attempt = loop {
            let now = Instant::now();
            let until = match running.hedging.step(now) {
                Step::End => break running.failed.take(),
                Step::Wait(until) => until,
                Step::Send => {
                    match (delivery.upload.replay(), held.take()) {
                        (None, _) => running.hedging.unsent(Unsent::NotNow, now),
                        (Some(replay), Some((way, token))) => {
                            token.used();
                            delivery.previous = running.hedging.made();
                            running.hedging.sent(now);
                            running.launch(delivery, way, replay, now);
                        }
                        (Some(_), None) => {
                            token = running.token(rule.retry_budget(), now);
                            if token.is_none() {
                                let why = Withheld::Budget.name();
                                delivery.guard.span().withheld(true, why);
                            } else {
                                let names = running.been.clone();
                                looking = Some(Box::pin(async move {
                                    self.way(classified, (call, head), &names, true).await
                                }));
                            }
                        }
                    }
                    continue;
                }
            };
            // Not to be sent now after all: others may have it.
            held = None;
            if let Some(until) = until {
                due.as_mut().reset(until.into());
            }
            let runners = running.flights.iter_mut().map(|flight| &mut flight.runner);
            let heard = tokio::select! {
                biased;
                heard = race(delivery.upload, runners, delivery.respond, delivery.clock) => heard,
                found = found(&mut looking), if looking.is_some() => {
                    looking = None;
                    if let Err(NoWay { node: None, .. }) = &found {
                        delivery.guard.span().withheld(true, NOBODY);
                    }
                    held = running.found(found).zip(token.take());
                    continue;
                }
                () = &mut due, if until.is_some() => continue,
            };
            let (index, answer) = match heard {
                Heard::Of(index, answer) => (index, answer),
                Heard::GivenUp(answer) => {
                    break Some(running.given_up(delivery, &answer, hedge.after));
                }
            };
            let flight = running.flights.remove(index);
            let watched = flight.way.watched(method);
            // An answer of a whole head is sent on by this.
            delivery.guard.span().answered(reached(&flight.way.seat));
            match delivery.opened(answer, &flight.way.seat, watched, flight.began) {
                Opened::Over(attempt @ (Attempt::Again(..) | Attempt::Unprocessed(..))) => {
                    let attempt = delivery.noted(attempt, &flight.way.seat);
                    running.failed(delivery, attempt);
                }
                counts => {
                    drop((looking, held));
                    running.decided(delivery, flight.number > number);
                    delivery.wins(&flight.way.seat);
                    break Some(flight.wins(delivery, method, counts).await);
                }
            }
        };
        Hedged {
            // It ends without a word only where one has failed, and what that said is kept.
            attempt: attempt.unwrap_or(Attempt::Ended(Outcome::Cancelled)),
            tried: running.been,
            number: running.hedging.made(),
        }
    }
}

impl<'a> Running<'a> {
    /// One attempt was made already.
    fn first(&mut self, delivery: &Delivery<'_>, first: First) {
        match first {
            First::Slow(Slow { runner, sent }, way) => self.flies(runner, way, sent),
            First::Failed(attempt, node) => {
                self.been.extend(node);
                self.failed(delivery, attempt);
            }
        }
    }

    fn flies(&mut self, runner: Runner, way: Way, began: Instant) {
        self.been.extend(way.node.clone());
        self.flights.push(Flight {
            runner,
            way,
            began,
            number: self.hedging.made(),
        });
    }

    /// Sends another attempt by this way.
    fn launch(&mut self, delivery: &mut Delivery<'_>, way: Way, replay: Replay, now: Instant) {
        // In place of one that has failed it is no hedge.
        let hedge = !self.flights.is_empty();
        match delivery.begin(&way.seat, (Some(replay), hedge), now) {
            Ok(runner) => self.flies(runner, way, now),
            Err(error) => {
                let (callee, _) = delivery.callee(&way.seat);
                let attempt = delivery.broke(callee, &error);
                let attempt = delivery.noted(attempt, &way.seat);
                self.first(delivery, First::Failed(attempt, way.into_node()));
            }
        }
    }

    /// Leave to look for somebody to send the next one to.
    fn token(&mut self, budget: RetryBudget, now: Instant) -> Option<Token<'a>> {
        let token = self.retries.take(Further::Hedge, budget, now);
        match token {
            Some(_) => self.hedging.looks(),
            None => self.hedging.unsent(Unsent::For(Never::Budget), now),
        }
        token
    }

    /// This came of looking for somebody.
    fn found(&mut self, found: Found) -> Option<Way> {
        let why = match found {
            Ok(way) => {
                self.hedging.found();
                return Some(way);
            }
            Err(NoWay { node: None, .. }) => Unsent::For(Never::Nobody),
            Err(NoWay { node, .. }) => {
                self.been.extend(node);
                Unsent::NotNow
            }
        };
        self.hedging.unsent(why, Instant::now());
        None
    }

    /// One of them has failed, and another may do better.
    fn failed(&mut self, delivery: &Delivery<'_>, attempt: Attempt) {
        let pushback = match &attempt {
            Attempt::Again(_, pushback) => *pushback,
            _ => Pushback::Silent,
        };
        let word = Word::Failed(pushback);
        if let Some(why) = self.hedging.heard(word, Instant::now()) {
            self.retries.hedge_withheld(why);
            delivery.guard.span().withheld(true, why.name());
        }
        if !matches!(self.failed, Some(Attempt::Again(..))) {
            self.failed = Some(attempt);
        }
    }

    /// The answer of another one counts. Dropped, these are reset with CANCEL, now and not when that
    /// answer ends.
    fn decided(&mut self, delivery: &Delivery<'_>, by_hedge: bool) {
        self.hedging.heard(Word::Counts, Instant::now());
        for loser in self.flights.drain(..) {
            loser.tell(self.method, &Answer::CallerGone);
            delivery.guard.span().cancelled(node_of(&loser.way.seat));
        }
        if by_hedge {
            self.retries.hedge_won();
        }
    }

    /// The caller left, or its time is over. Who had less time than the next attempt waits for is
    /// not slow.
    fn given_up(&self, delivery: &Delivery<'_>, answer: &Answer, after: Duration) -> Attempt {
        for flight in &self.flights {
            let slow = flight.began.elapsed() >= after;
            let slow = slow && !matches!(answer, Answer::Failed(_));
            let answer = if slow { answer } else { &Answer::CallerGone };
            flight.tell(self.method, answer);
            delivery.guard.span().cancelled(node_of(&flight.way.seat));
        }
        match answer {
            Answer::DeadlineOver => Attempt::Failed(delivery.late()),
            Answer::Failed(error) => {
                let callee = Callee::App(delivery.own);
                Attempt::Failed(forward_failure(delivery.service, callee, error))
            }
            _ => Attempt::Ended(Outcome::Cancelled),
        }
    }
}

impl Next {
    /// What comes after this attempt.
    pub(crate) fn after(
        attempt: Result<Attempt, (Slow, Hedge)>,
        way: Way,
        hedge: Option<Hedge>,
    ) -> Self {
        match (attempt, hedge) {
            (Ok(Attempt::Ended(outcome)), _) => {
                // What it held is told how it went.
                way.ended(outcome);
                Self::Nothing(None, Attempt::Ended(outcome))
            }
            (Err((slow, hedge)), _) => Self::More(First::Slow(slow, way), hedge),
            (Ok(attempt @ (Attempt::Again(..) | Attempt::Unprocessed(..))), Some(hedge)) => {
                Self::More(First::Failed(attempt, way.into_node()), hedge)
            }
            (Ok(attempt), _) => Self::Nothing(way.into_node(), attempt),
        }
    }
}

impl Slow {
    /// What is made of an attempt of which nothing was heard for as long as the rule waits.
    pub(crate) fn after(hedge: Hedge) -> (Duration, impl FnOnce(Runner, Instant) -> (Self, Hedge)) {
        (hedge.after, move |runner, sent| {
            (Self { runner, sent }, hedge)
        })
    }
}

impl Flight {
    /// Tells its endpoint how it took the call.
    fn tell(&self, method: Option<&MethodRule>, answer: &Answer) {
        if let Some(watched) = self.way.watched(method) {
            watched.begun(answer, None, self.began, Instant::now());
        }
    }

    /// Its answer is the call's: what is left of it goes to the caller.
    async fn wins(
        self,
        delivery: &mut Delivery<'_>,
        method: Option<&MethodRule>,
        answer: Opened,
    ) -> Attempt {
        let (response, body) = match answer {
            Opened::GoesOn(response, early, body) => ((response, early), body),
            Opened::Over(attempt) => {
                if let Attempt::Ended(outcome) = &attempt {
                    self.way.ended(*outcome);
                }
                return attempt;
            }
        };
        let mut to = self.runner.wins(delivery.upload);
        let callee = delivery.callee(&self.way.seat);
        let watched = self.way.watched(method);
        let watched = watched.map(|watched| (watched, self.began));
        let attempt = delivery.stream(&mut to, response, body, callee, watched);
        let attempt = attempt.await;
        if let Attempt::Ended(outcome) = &attempt {
            self.way.ended(*outcome);
        }
        attempt
    }
}

async fn found(looking: &mut Option<Looking<'_>>) -> Found {
    match looking {
        Some(looking) => looking.as_mut().await,
        None => std::future::pending().await,
    }
}

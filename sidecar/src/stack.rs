//! The one place that says in which order a call meets its stages, outermost first. It is written
//! as two functions, one a direction, instead of a chain of layers: a stage here is a decision
//! (`classify`, `policy`, `balance`), and only the last one moves bytes. Each step says what
//! breaks if it moved.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::Request;
use http::request::Parts;
use sidelane::routing::Found;
use sidelane_identity::SpiffeId;
use sidelane_proto::model::{MethodRule, NodeId, Retry};
use tokio::time::sleep;

use crate::accept::{Answering, Connected, Handle};
use crate::admission::Asked;
use crate::admit::admit;
use crate::call::{Call, Caller, Peer};
use crate::classify::{self, Classified};
use crate::deliver::{Attempt, Delivery, Refusal, Refused, Source};
use crate::discover::Discovery;
use crate::edge::{Edge, Guest};
use crate::ending::{end, end_of, finish, given_up, refuse_at_last};
use crate::forward::{Clock, Upload};
use crate::health::LocalHealth;
use crate::hedged::{Next, Slow};
use crate::identity::Own;
use crate::local::LocalServices;
use crate::mesh::{Mesh, RuleSource};
use crate::own;
use crate::place::Place;
use crate::policy::{deadline, retry};
use crate::pool::Pool;
use crate::reason::Processed;
use crate::refused::Whose;
use crate::repair::Repair;
use crate::respond::{Failure, admission_failure};
use crate::retries::{Further, Token, Withheld};
use crate::telemetry::tap::Who;
use crate::telemetry::trace::{By, CallSpan, Facts, Kind, Tracing};
use crate::telemetry::{LaneCounters, Metrics};
use crate::trust::Trust;
use crate::way::{NoWay, local_key};

/// What the stages need. One for the whole sidecar.
pub struct Stack {
    /// This node.
    pub own: Own,
    /// What is known of the mesh.
    pub mesh: Arc<Mesh>,
    /// The services beside this sidecar.
    pub local: Arc<LocalServices>,
    /// What links prove.
    pub trust: Trust,
    /// The connections.
    pub pool: Arc<Pool>,
    /// Asks control about services.
    pub discovery: Discovery,
    /// Told when a local service does not answer.
    pub health: Arc<LocalHealth>,
    /// Puts links right that are lost.
    pub repair: Arc<Repair>,
    /// What the operator decided.
    pub policy: classify::Policy,
    /// What is allowed to users.
    pub edge: Arc<Edge>,
    /// What is counted.
    pub metrics: Arc<Metrics>,
    /// Begins the spans of calls.
    pub tracing: Tracing,
}

impl Handle for Arc<Stack> {
    fn handle(
        &self,
        from: Connected,
        request: Request<RecvStream>,
        respond: SendResponse<Bytes>,
    ) -> Answering {
        let stack = Self::clone(self);
        match from {
            Connected::Local(None) => Box::pin(stack.outbound(request, respond)),
            // What the mesh does not know has somewhere else to go: see `passthrough`.
            Connected::Local(Some(origin)) => Box::pin(stack.carried(origin, request, respond)),
            Connected::Peer(peer, lane) => Box::pin(stack.inbound(peer, lane, request, respond)),
            Connected::User(user, leaving) => {
                Box::pin(stack.of_user((user, leaving), request, respond))
            }
        }
    }
}

impl Stack {
    /// A call of the local app. What it owns is taken apart before the future begins: a future
    /// holds each argument that it moves twice.
    fn outbound(
        self: Arc<Self>,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> impl Future<Output = ()> + Send {
        let arrived = Instant::now();
        let (mut head, body) = request.into_parts();
        async move {
            // First of all: nothing below may see a path or a header that was not checked.
            let (mut call, decided) = match self.decide(&mut head, arrived) {
                Ok(decided) => decided,
                Err(error) => {
                    let early = (&head, arrived);
                    return self.turned_away(&mut respond, early, Whose::App, error.into());
                }
            };
            // These have no rule and no hub.
            let Some(decided) = decided else {
                return own::serve(&self, head, body, respond).await;
            };
            // Before anything is counted or counts down: the rule says what is counted, and how
            // long the call may take.
            let classified = match self.classified(decided, &mut call, &head).await {
                Ok(classified) => classified,
                Err(error) => {
                    let early = (&head, arrived);
                    return self.turned_away(&mut respond, early, Whose::App, error.into());
                }
            };
            self.routed(&call, &classified, &head, body, &mut respond, None)
                .await;
        }
    }

    /// A call of the local app, or of a user, whose rule is known, up to its end.
    pub(crate) async fn routed(
        &self,
        call: &Call,
        classified: &Classified,
        head: &Parts,
        body: RecvStream,
        respond: &mut SendResponse<Bytes>,
        guest: Option<Guest<'_>>,
    ) {
        let arrived = call.arrived;
        let service = call.path(head).service;
        let outside = guest.is_some();
        let retries = &classified.target.retries;
        retries.call();
        // From here on the call ends exactly once, whatever happens.
        let counters = classified.target.counters.of(classified.method);
        let span = self.span(call, classified, head, guest);
        let note = self
            .metrics
            .access
            .note(head.uri.path(), outside.then_some("user"));
        let guard = self.metrics.call(counters, arrived);
        let seen = (head.uri.path(), &head.headers);
        let who = call.user().map_or(Who::App, Who::User);
        let followed = self.metrics.taps.follow(counters, seen, who);
        let guard = guard.traced(span).noted(note).followed_by(followed);
        let told = outside.then(|| head.uri.path());
        let rule = &classified.target.rule;
        let written = classified.target.source != RuleSource::Default;
        let method = classified.method();
        // Above the attempts: the deadline bounds all of them together.
        let now = Instant::now();
        let limit = match classified.callers() {
            None => deadline::decide(call.deadline, rule, written, method, now),
            Some(caller) => caller.decide(call.deadline, now),
        };
        let Ok(limit) = limit else {
            let failure = Failure::deadline(head.uri.path(), arrived.elapsed(), Processed::No);
            return end_of(&guard, respond, failure, told);
        };
        let limit = guest.map_or(limit, |guest| guest.until(limit, arrived));
        // Before anything is sent, and once: it is the call that is counted, not its attempts.
        if let Some(admitted) = &classified.target.admitted
            && !own::every_node_serves(service)
        {
            let asked = Asked {
                caller: &self.own.node,
                user: call.user(),
                lane: classified.lane,
                method,
            };
            if let Err(error) = admitted.leaves(&asked, now) {
                let failure = admission_failure(service, &error);
                return end_of(&guard, respond, failure, told);
            }
        }
        let mut clock = Clock::until(limit);
        let mut upload = Upload::new(body);
        if let Some(guest) = guest {
            guest.follows(&mut upload);
        }
        let mut delivery = Delivery {
            head,
            upload: &mut upload,
            respond,
            clock: &mut clock,
            deadline: limit,
            arrived,
            lane: None,
            // A user is no node, and has shown nothing.
            source: match outside {
                true => Source::Unknown,
                false => Source::Node(self.own.node.as_str(), self.own.identity.as_ref()),
            },
            outside: guest,
            own: self.own.node.as_str(),
            service,
            retry: None,
            previous: 0,
            committed: false,
            plain: false,
            guard: &guard,
        };
        let again = method.and_then(|method| rule.retry_of(method));
        // Who names a node means no other.
        let hedge = method.and_then(MethodRule::hedged);
        let hedge = hedge.filter(|_| call.node.is_none());
        let budget = rule.retry_budget();
        let mut tried: Vec<NodeId> = Vec::new();
        let mut last: Option<Refusal> = None;
        // What came of an attempt that may have run: nothing that follows makes it undone.
        let mut ran: Option<Refusal> = None;
        // Leave for the next attempt. It goes back if nobody is found for it.
        let mut token: Option<Token<'_>> = None;
        let mut number = 0;
        // Above balance: each attempt picks anew, among those that were not tried.
        loop {
            number += 1;
            let way = tokio::select! {
                biased;
                way = self.way(classified, (call, head), &tried, number == 1 || ran.is_some()) => {
                    way
                }
                end = given_up(&mut delivery) => {
                    return finish(&guard, &mut delivery, end, processed(ran.as_ref()));
                }
            };
            let (node, attempt) = match way {
                Ok(way) => {
                    if let Some(token) = token.take() {
                        token.used();
                    }
                    delivery.retry = match hedge {
                        // The last attempt holds nothing back.
                        None => again.filter(|again| number < again.attempts),
                        // What another attempt may make good is held back from the caller.
                        Some(_) => Some(again.unwrap_or(Retry::DEFAULT)),
                    };
                    let watched = way.watched(method);
                    let slow = hedge.map(Slow::after);
                    let attempt = delivery.attempt(&way.seat, watched, slow).await;
                    match Next::after(attempt, way, hedge) {
                        Next::Nothing(node, attempt) => (node, attempt),
                        // Nearly all calls end in time. What goes on from here is put away: no other
                        // call needs room for it.
                        Next::More(first, hedge) => {
                            let (call, hedge) = ((classified, call, head), (hedge, number));
                            let hedged = self.hedged(call, &mut delivery, (first, &tried), hedge);
                            let hedged = Box::pin(hedged).await;
                            (tried, number) = (hedged.tried, hedged.number);
                            (None, hedged.attempt)
                        }
                    }
                }
                // Nobody is left to try. A node whose link was merely going away, or that has
                // started anew, is worth another look; otherwise what it said is worth more
                // than that nobody is left.
                Err(NoWay {
                    node: None,
                    failure,
                }) => {
                    let first = tried.is_empty();
                    if !first && ran.is_some() {
                        // Elsewhere where there is one, else where it was.
                        tried.clear();
                        number -= 1;
                        continue;
                    }
                    let refusal = last.take().unwrap_or(Refusal::Ours(failure));
                    // Nor is one that has said when to come again.
                    if first || refusal.asks_to_wait() {
                        let refusal = ran.unwrap_or(refusal);
                        return refuse_at_last(&guard, &mut delivery, refusal);
                    }
                    tried.clear();
                    (None, Attempt::Unprocessed(refusal, Refused::Unreached))
                }
                // Beside this sidecar as at a peer, where it costs an attempt as well.
                Err(NoWay { node, failure }) if failure.reason.is_meant() => {
                    if let Some(token) = token.take() {
                        token.used();
                    }
                    delivery.retry = again.filter(|again| number < again.attempts);
                    match delivery.meant(failure) {
                        Attempt::Failed(failure) => {
                            let refusal = ran.unwrap_or(Refusal::Ours(failure));
                            return refuse_at_last(&guard, &mut delivery, refusal);
                        }
                        attempt => {
                            if let Attempt::Again(refusal, _) = &attempt {
                                guard.span().failed(node.as_ref(), || refusal.as_why());
                            }
                            (node, attempt)
                        }
                    }
                }
                Err(NoWay { node, failure }) => {
                    guard.span().failed(node.as_ref(), || failure.as_why());
                    let refusal = Refusal::Ours(failure);
                    (node, Attempt::Unprocessed(refusal, Refused::Unreached))
                }
            };
            let (sent, refusal) = match attempt {
                Attempt::Ended(outcome) => return guard.ended(outcome),
                Attempt::Failed(failure) => {
                    return refuse_at_last(&guard, &mut delivery, Refusal::Ours(failure));
                }
                Attempt::Unprocessed(refusal, refused) => {
                    let sent = match refused {
                        Refused::Itself => Some(Further::Refused),
                        Refused::GoingAway => Some(Further::GoingAway),
                        // It never left, or is as if it had not: no app is asked more for it, and
                        // until everybody knows that one is gone, many calls meet it.
                        Refused::Unreached => None,
                    };
                    (sent, refusal)
                }
                Attempt::Again(refusal, pushback) => {
                    let attempt = retry::Attempt {
                        number,
                        unprocessed: false,
                        replayable: delivery.upload.replayable(),
                    };
                    let (now, random) = (Instant::now(), fastrand::f64());
                    let pause = retry::repeat(attempt, again, pushback, limit, now, random);
                    if let Err(Some(why)) = pause {
                        retries.withheld(why);
                        guard.span().withheld(false, why.name());
                    }
                    // The budget last: nothing else stands in the way then.
                    let take = |pause| {
                        token = retries.take(Further::Repeat, budget, now);
                        if token.is_none() {
                            guard.span().withheld(false, Withheld::Budget.name());
                        }
                        token.is_some().then_some(pause)
                    };
                    let Some(pause) = pause.ok().and_then(take) else {
                        return refuse_at_last(&guard, &mut delivery, refusal);
                    };
                    tokio::select! {
                        () = sleep(pause) => {}
                        end = given_up(&mut delivery) => {
                            let ran = Processed::Maybe;
                            return finish(&guard, &mut delivery, end, ran);
                        }
                    }
                    tried.extend(node);
                    ran = Some(refusal);
                    // Those that went nowhere nobody has seen.
                    delivery.previous += 1;
                    delivery.upload.rewind();
                    continue;
                }
            };
            // Nobody else is meant, and it has said when to come again.
            if call.node.is_some() && refusal.asks_to_wait() {
                let refusal = ran.unwrap_or(refusal);
                return refuse_at_last(&guard, &mut delivery, refusal);
            }
            tried.extend(node);
            let replayable = delivery.upload.replayable();
            let attempt = retry::Attempt {
                number,
                unprocessed: true,
                replayable,
            };
            let now = Instant::now();
            let mut granted = || match sent {
                None => true,
                Some(why) => {
                    token = retries.take(why, budget, now);
                    if token.is_none() {
                        guard.span().withheld(false, Withheld::Budget.name());
                    }
                    token.is_some()
                }
            };
            if !retry::again(attempt, again, limit, now) || !granted() {
                let refusal = ran.unwrap_or(refusal);
                return refuse_at_last(&guard, &mut delivery, refusal);
            }
            delivery.upload.rewind();
            last = Some(refusal);
        }
    }

    /// The span of a call that a local app or a user makes. A user's begins a trace.
    pub(crate) fn span(
        &self,
        call: &Call,
        classified: &Classified,
        head: &Parts,
        guest: Option<Guest<'_>>,
    ) -> CallSpan {
        let (by, kind) = match guest {
            None => (By::App, Kind::Client),
            Some(guest) => (By::User(guest.trace), Kind::Server),
        };
        self.tracing
            .begin(&head.headers, call.arrived, by, || Facts {
                kind,
                uri: &head.uri,
                named: classified.method.is_some(),
                way: Some((classified.class, classified.lane)),
                rule: Some(&classified.target.rule),
                node: None,
                destination: None,
            })
    }

    /// A call of a peer, for a service beside this sidecar.
    fn inbound(
        self: Arc<Self>,
        peer: Arc<Peer>,
        lane: Arc<LaneCounters>,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> impl Future<Output = ()> + Send {
        let arrived = Instant::now();
        let (mut head, body) = request.into_parts();
        async move {
            // First of all: it also takes out what only the mesh may say.
            let caller = Caller::Peer(Arc::clone(&peer));
            let call = match Call::read(&mut head, caller, arrived, Found::<()>::unknown) {
                Ok((call, _)) => call,
                Err(error) => {
                    let (early, whose) = ((&head, arrived), Whose::Peer(&peer));
                    return self.turned_away(&mut respond, early, whose, error.into());
                }
            };
            let service = call.path(&head).service;
            let local = match self.served_here(service, &peer) {
                Ok(local) => local,
                Err(failure) => {
                    let (early, whose) = ((&head, arrived), Whose::Peer(&peer));
                    return self.turned_away(&mut respond, early, whose, failure);
                }
            };
            // Before the app: what the rule forbids must not reach it.
            let let_in = match self.admitted(service, &local, &peer, (&call, &head)).await {
                Ok(let_in) => let_in,
                Err(error) => {
                    let (early, whose) = ((&head, arrived), Whose::Peer(&peer));
                    return self.turned_away(&mut respond, early, whose, error.into());
                }
            };
            let span = self
                .tracing
                .begin(&head.headers, arrived, by(&peer), || Facts {
                    kind: Kind::Server,
                    uri: &head.uri,
                    named: let_in.named,
                    way: Some((peer.class, peer.lane)),
                    rule: let_in.rule.as_ref(),
                    node: Some(&peer.node),
                    destination: None,
                });
            let note = self
                .metrics
                .access
                .note(head.uri.path(), Some(peer.node.as_str()));
            let guard = self.metrics.call(&let_in.counters, arrived);
            let seen = (head.uri.path(), &head.headers);
            let followed = self.metrics.taps.follow(&let_in.counters, seen, who(&peer));
            let guard = guard.traced(span).noted(note).followed_by(followed);
            // Before all that takes time or uses up what others are to have.
            if let Err(failure) = self.permitted(&let_in, (&call, &head), &peer) {
                return end(&guard, &mut respond, failure);
            }
            if call.deadline.is_some_and(|at| at <= Instant::now()) {
                let failure = Failure::deadline(head.uri.path(), arrived.elapsed(), Processed::No);
                return end(&guard, &mut respond, failure);
            }
            let mut clock = Clock::until(call.deadline);
            let mut upload = Upload::new(body);
            let mut delivery = Delivery {
                head: &head,
                upload: &mut upload,
                respond: &mut respond,
                clock: &mut clock,
                deadline: call.deadline,
                arrived,
                lane: Some(&lane),
                source: Source::Node(peer.node.as_str(), peer.identity.as_ref()),
                outside: None,
                own: self.own.node.as_str(),
                service,
                // The caller's sidecar knows best what to make again, and where.
                retry: None,
                previous: 0,
                committed: false,
                plain: false,
                guard: &guard,
            };
            // After the deadline, which bounds the wait for a place; before a seat, which is the lane's.
            let entered = match &let_in.admitted {
                None => None,
                Some(admitted) => {
                    let asked = Asked {
                        caller: &peer.node,
                        user: None,
                        lane: peer.lane,
                        method: admitted.method(call.path(&head).method),
                    };
                    // In a box: calls whose rule says nothing of it are no larger for it.
                    let admit = Box::pin(admit(admitted, &asked, &head.headers));
                    let admit = tokio::select! {
                        biased;
                        admit = admit => admit,
                        end = given_up(&mut delivery) => {
                            return finish(&guard, &mut delivery, end, Processed::No);
                        }
                    };
                    match admit {
                        Ok(place) => place,
                        Err(error) => {
                            let failure = admission_failure(service, &error);
                            return end(&guard, delivery.respond, failure);
                        }
                    }
                }
            };
            // An app that ends its connection in good order did not look at the call: a new one may.
            let place = Place {
                key: local_key(&local, (peer.class, peer.lane)),
                address: &local.address,
                persistent: true,
            };
            self.to_place(&place, &mut delivery, &guard).await;
            if let Some(entered) = entered {
                entered.ended(guard.outcome().into());
            }
        }
    }
}

/// Who calls, as a tap tells it.
pub(crate) fn who(peer: &Peer) -> Who<'_> {
    Who::Peer(
        peer.node.as_str(),
        peer.identity.as_ref().map(SpiffeId::as_str),
    )
}

/// Who calls, as its span knows it.
pub(crate) const fn by(peer: &Peer) -> By {
    By::Peer {
        unmarked: peer.unmarked,
    }
}

/// May the callee have seen the call? Yes, if an attempt came so far.
fn processed(ran: Option<&Refusal>) -> Processed {
    if ran.is_some() {
        Processed::Maybe
    } else {
        Processed::No
    }
}

//! One attempt of a call over a seat that was found, up to the caller. What was not looked at by
//! the callee comes back, so that `stack` can decide whether to go elsewhere; everything else ends
//! here, with the caller answered.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::header::{HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use http::{Request, Response, Uri};
use sidelane_identity::SpiffeId;
use sidelane_proto::model::{NodeId, Retry};
use tonic::{Code, Status};
use tracing::debug;

use crate::balance::{FAILURE, InFlight, Verdict};
use crate::call::{
    ERROR_HEADER, LANE_HEADER, PREVIOUS_ATTEMPTS_HEADER, PUSHBACK_HEADER, SOURCE_IDENTITY_HEADER,
    SOURCE_NODE_HEADER, STATUS_HEADER, TIMEOUT_HEADER, strip_if_any, write_timeout,
};
use crate::edge::Guest;
use crate::forward::{
    Answer, Clock, End, ForwardError, Replay, Runner, Taker, Upload, stream_answer,
};
use crate::policy::commit::{self, Event, Leave, Step};
use crate::policy::retry::{self, Pushback};
use crate::pool::{Seat, To};
use crate::reason::Processed;
use crate::respond::{
    Callee, Failure, forward_failure, is_denied, is_meant, is_peer_reset, is_unreached,
    peer_refusal, users,
};
use crate::telemetry::trace::{Reached, Sent, Why, name_of};
use crate::telemetry::{CallGuard, LaneCounters, Outcome, Stall, Traffic};

/// The status of an answer that has none.
const NO_STATUS: u16 = 17;
/// `RESOURCE_EXHAUSTED` and `UNAVAILABLE`: said by one who is there and cannot serve.
const NOT_HERE: [u16; 2] = [8, UNAVAILABLE];
/// The status of a call that went well.
const OK: u16 = 0;
/// The status UNAVAILABLE.
const UNAVAILABLE: u16 = 14;
/// What a peer sidecar says of a callee that broke the call off or did not answer in time: UNKNOWN,
/// `DEADLINE_EXCEEDED` and INTERNAL.
const BROKEN: [u16; 3] = [2, 4, 13];
/// The status CANCELLED.
const CANCELLED: u16 = 1;
/// A callee that watches the same deadline may end the call a little before we do.
const EARLY: Duration = Duration::from_millis(2);

/// A call on its way: what every attempt of it needs.
pub struct Delivery<'a> {
    /// The request's head; each attempt sends a copy.
    pub head: &'a Parts,
    /// The request's body.
    pub upload: &'a mut Upload,
    /// The caller.
    pub respond: &'a mut SendResponse<Bytes>,
    /// Rings when the call's time is over.
    pub clock: &'a mut Clock,
    /// When that is.
    pub deadline: Option<Instant>,
    /// When the call came.
    pub arrived: Instant,
    /// The lane of the link that the call came by, where it came by one.
    pub lane: Option<&'a Arc<LaneCounters>>,
    /// Whose call it is, as an app is told.
    pub source: Source<'a>,
    /// The caller is outside the mesh: it is told nothing of the inside, and this is allowed to it.
    pub outside: Option<Guest<'a>>,
    /// This node, for errors: they are read on the caller's.
    pub own: &'a str,
    /// The service, for errors.
    pub service: &'a str,
    /// What this attempt may hold back from the caller, so that another can be made: set where one
    /// would be.
    pub retry: Option<Retry>,
    /// Attempts that were made before this one.
    pub previous: u32,
    /// The caller has been sent the head of an answer: there is no other attempt.
    pub committed: bool,
    /// HTTP/2 that is no gRPC: only what is passed on to its own destination may be that.
    pub plain: bool,
    /// What is told how the call goes: what it has carried, and its attempts. What is sent goes on in
    /// its span's name.
    pub guard: &'a CallGuard,
}

/// Whose call it is, as an app is told.
#[derive(Debug, Clone, Copy)]
pub enum Source<'a> {
    /// Of this node, whose sidecar has shown the certificate of this identity.
    Node(&'a str, Option<&'a SpiffeId>),
    /// Who calls is no node.
    Unknown,
}

impl Source<'_> {
    /// Writes it down.
    fn tell(self, headers: &mut HeaderMap) {
        let Self::Node(node, identity) = self else {
            return;
        };
        // A node id is made of characters that every header takes.
        if let Ok(node) = HeaderValue::from_str(node) {
            headers.insert(SOURCE_NODE_HEADER, node);
        }
        // So is a SPIFFE id.
        if let Some(Ok(id)) = identity.map(|id| HeaderValue::from_str(id.as_str())) {
            headers.insert(SOURCE_IDENTITY_HEADER, id);
        }
    }
}

/// How an attempt ended.
pub enum Attempt {
    /// The caller was answered, or is gone.
    Ended(Outcome),
    /// The callee did not look at it, and the caller has heard nothing yet.
    Unprocessed(Refusal, Refused),
    /// It may have run and failed in a way after which its rule has it made again; the caller has
    /// heard nothing yet.
    Again(Refusal, Pushback),
    /// It failed and may have run; the caller has heard nothing yet.
    Failed(Failure),
}

/// What became of an attempt when its callee was heard of.
pub(crate) enum Opened {
    /// An answer that goes on, and a status that came with its head.
    GoesOn(Response<()>, Option<u16>, RecvStream),
    /// It has ended.
    Over(Attempt),
}

/// What is told how an endpoint takes a call.
#[derive(Debug, Clone, Copy)]
pub struct Watched<'a> {
    /// The endpoint's load.
    pub load: &'a InFlight,
    /// One message each way; `None` where the rule does not know the method.
    pub unary: Option<bool>,
}

/// Why a callee did not look at a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// It said so.
    Itself,
    /// Its sidecar could not reach it.
    Unreached,
    /// Its connection was going away.
    GoingAway,
}

/// What the caller gets if nobody else takes the call.
pub enum Refusal {
    /// A failure of ours.
    Ours(Failure),
    /// The answer of a peer sidecar, or of the callee itself.
    Peers(Response<()>),
}

impl Refusal {
    /// As a span says it.
    pub(crate) fn as_why(&self) -> Why<'_> {
        match self {
            Self::Ours(failure) => failure.as_why(),
            Self::Peers(answer) => {
                let headers = answer.headers();
                let reason = headers.get(ERROR_HEADER);
                Why {
                    status: name_of(Code::from_i32(status(headers).into())),
                    reason: reason.and_then(|reason| reason.to_str().ok()),
                    text: "",
                }
            }
        }
    }

    /// Does it say when to come again? Then whoever said so is not asked before.
    pub(crate) fn asks_to_wait(&self) -> bool {
        match self {
            Self::Ours(failure) => failure.pushback.is_some(),
            Self::Peers(answer) => answer.headers().contains_key(PUSHBACK_HEADER),
        }
    }
}

impl<'a> Delivery<'a> {
    /// Sends the request and streams the answer. `watched` is told how the endpoint took it.
    ///
    /// # Errors
    /// What `slow` makes of the attempt, if nothing is heard of it for that long; it was sent then,
    /// and is under way.
    pub async fn attempt<S>(
        &mut self,
        seat: &Seat,
        mut watched: Option<Watched<'_>>,
        mut slow: Option<(Duration, impl FnOnce(Runner, Instant) -> S)>,
    ) -> Result<Attempt, S> {
        let sent = Instant::now();
        let mut runner = match self.begin(seat, (None, false), sent) {
            Ok(runner) => runner,
            Err(error) => {
                let attempt = self.broke(self.callee(seat).0, &error);
                return Ok(self.noted(attempt, seat));
            }
        };
        if let Some((after, _)) = &slow
            && let Some(at) = sent.checked_add(*after)
        {
            self.clock.also(at);
        }
        let answer = loop {
            let answer = runner.answer(self.upload, self.respond, self.clock).await;
            if let Some(answer) = answer {
                break answer;
            }
            if let Some((_, slow)) = slow.take() {
                return Err(slow(runner, sent));
            }
        };
        // Who had less time than that is not slow. The callee's clock may ring before ours.
        let over = match &answer {
            Answer::DeadlineOver => true,
            Answer::Begun(head) => head.body().is_end_stream() && self.time_is_over(),
            Answer::Failed(_) => self.time_is_over(),
            Answer::CallerGone => false,
        };
        if slow.is_some()
            && over
            && let Some(watched) = watched.take()
        {
            watched.begun(&Answer::CallerGone, None, sent, Instant::now());
        }
        Ok(match self.opened(answer, seat, watched, sent) {
            Opened::Over(attempt) => self.noted(attempt, seat),
            Opened::GoesOn(response, early, body) => {
                let callee = self.callee(seat);
                let watched = watched.map(|watched| (watched, sent));
                let mut to = runner.wins(self.upload);
                self.stream(&mut to, (response, early), body, callee, watched)
                    .await
            }
        })
    }

    /// An attempt that came to nothing, written down where the call is recorded.
    pub(crate) fn noted(&self, mut attempt: Attempt, seat: &Seat) -> Attempt {
        if let Attempt::Unprocessed(refusal, _) | Attempt::Again(refusal, _) = &mut attempt {
            let span = self.guard.span();
            span.failed(node_of(seat), || refusal.as_why());
            // It may be what the caller hears after all, when others were asked after it.
            if span.is_recorded()
                && let Refusal::Peers(answer) = refusal
            {
                let said = Said(node_of(seat).cloned(), seat.link().remote);
                answer.extensions_mut().insert(said);
            }
        }
        attempt
    }

    /// Begins an attempt: with the caller's own request, or with what is kept of it; and is it a hedge,
    /// beside others that are under way?
    pub(crate) fn begin(
        &mut self,
        seat: &Seat,
        (replay, hedge): (Option<Replay>, bool),
        now: Instant,
    ) -> Result<Runner, ForwardError> {
        let empty = match &replay {
            Some(replay) => replay.is_empty(),
            None => self.upload.is_empty(),
        };
        let Ok((response, to)) = seat.send(self.request(seat, now), empty) else {
            return Err(ForwardError::GoingAway);
        };
        self.guard.attempted();
        if let Some(followed) = self.guard.followed() {
            let (peer, identity) = self.other_end(seat);
            followed.sent(peer, identity);
        }
        self.guard.span().sent(Sent {
            to: reached(seat),
            hedge,
        });
        if replay.is_none() {
            self.upload.in_lane(seat.link().counters.as_ref());
        }
        Ok(Runner::new(to, response, replay))
    }

    /// Of attempts beside each other, this one's answer is the call's.
    pub(crate) fn wins(&self, seat: &Seat) {
        if let Some(followed) = self.guard.followed() {
            let (peer, identity) = self.other_end(seat);
            followed.answers(peer, identity);
        }
    }

    /// Who is at the other end, as a tap names it, and whose certificate that has shown.
    fn other_end<'s>(&'s self, seat: &'s Seat) -> (&'s str, Option<&'s str>) {
        let link = seat.link();
        let peer = match &link.key.to {
            To::Peer { node, .. } => node.as_str(),
            To::Local(_) => self.own,
            To::Destination(address) => address.as_str(),
        };
        (peer, link.proved.as_ref().map(|leaf| leaf.id.as_str()))
    }

    /// What is left of an answer that goes on, or how the attempt has ended. `watched` is told.
    pub(crate) fn opened(
        &mut self,
        answer: Answer,
        seat: &Seat,
        watched: Option<Watched<'_>>,
        sent: Instant,
    ) -> Opened {
        // Read once: a look-up of a header takes longer than anything that is done with this one.
        let early = match &answer {
            Answer::Begun(head) => head.headers().get(STATUS_HEADER).map(status_of),
            _ => None,
        };
        if let Some(watched) = watched {
            watched.begun(&answer, early, sent, Instant::now());
        }
        let (callee, to_app) = self.callee(seat);
        Opened::Over(match answer {
            Answer::Begun(answer) => {
                let (mut head, body) = answer.into_parts();
                if to_app {
                    strip_if_any(&mut head.headers);
                }
                let response = Response::from_parts(head, ());
                if !body.is_end_stream() {
                    return Opened::GoesOn(response, early, body);
                }
                self.trailers_only(response, callee, to_app)
            }
            Answer::Failed(ForwardError::Reset(h2::Reason::CANCEL)) if self.time_is_over() => {
                Attempt::Failed(self.late())
            }
            // It is the caller's own fault, wherever else it went.
            Answer::Failed(error) if error.is_callers() => {
                self.count_full(&error);
                Attempt::Failed(forward_failure(self.service, callee, &error))
            }
            Answer::Failed(error) => self.broke(callee, &error),
            Answer::CallerGone => Attempt::Ended(Outcome::Cancelled),
            Answer::DeadlineOver => Attempt::Failed(self.late()),
        })
    }

    /// Who is at the other end, and whether it is an app.
    pub(crate) fn callee<'s>(&self, seat: &'s Seat) -> (Callee<'s>, bool)
    where
        'a: 's,
    {
        match &seat.link().key.to {
            To::Peer { node, .. } => (Callee::Peer(node.as_str()), false),
            To::Local(_) => (Callee::App(self.own), true),
            To::Destination(address) => (Callee::Destination(address.as_str()), true),
        }
    }

    fn request(&self, seat: &Seat, now: Instant) -> Request<()> {
        let mut request = Request::new(());
        *request.method_mut() = self.head.method.clone();
        *request.uri_mut() = with_authority(&self.head.uri);
        *request.version_mut() = http::Version::HTTP_2;
        let mut headers = self.head.headers.clone();
        if let Some(left) = self.deadline.map(|it| it.saturating_duration_since(now)) {
            headers.insert(TIMEOUT_HEADER, write_timeout(left));
        }
        if self.previous > 0 {
            headers.insert(PREVIOUS_ATTEMPTS_HEADER, HeaderValue::from(self.previous));
        }
        let (link, key) = (seat.link(), &seat.link().key);
        if let To::Local(_) = key.to {
            self.source.tell(&mut headers);
            headers.insert(LANE_HEADER, HeaderValue::from_static(key.lane.name()));
        }
        let span = self.guard.span();
        span.onward(&mut headers, link.unmarked, || link.is_first_marked());
        *request.headers_mut() = headers;
        request
    }

    fn trailers_only(
        &mut self,
        response: Response<()>,
        callee: Callee<'_>,
        to_app: bool,
    ) -> Attempt {
        let headers = response.headers();
        // What its rule means is said once: made again elsewhere, a limit would be asked three times
        // and a fault would be seen by nobody.
        let refused = |_: &_| !to_app && !is_meant(headers);
        let event = Event::Whole {
            status: headers.get(STATUS_HEADER).map(status_of),
            refused: peer_refusal(headers).filter(refused),
            lost: !to_app && is_peer_reset(headers),
        };
        let mut leave = self.leave();
        // Whoever may not make it may not make it again, whatever its rule says of that status.
        if leave.retry.is_some() && !to_app && is_denied(headers) {
            leave.retry = None;
        }
        let step = commit::step(event, leave);
        if step == Step::Elsewhere {
            let refused = if is_unreached(headers) {
                Refused::Unreached
            } else {
                Refused::Itself
            };
            return Attempt::Unprocessed(Refusal::Peers(response), refused);
        }
        if step == Step::Fail && !self.plain {
            let error = ForwardError::NoStatus(response.status());
            return Attempt::Failed(forward_failure(self.service, callee, &error));
        }
        if self.overdue(response.headers()) {
            return Attempt::Failed(self.late());
        }
        if step == Step::Again {
            let pushback = response.headers().get(PUSHBACK_HEADER);
            let pushback = retry::pushback(pushback.map(HeaderValue::as_bytes));
            return Attempt::Again(Refusal::Peers(response), pushback);
        }
        Attempt::Ended(self.answer(response))
    }

    /// The rule's word on a call for the service beside this sidecar, as if the callee had said it:
    /// see [`Reason::is_meant`](crate::reason::Reason::is_meant).
    pub(crate) fn meant(&self, failure: Failure) -> Attempt {
        let event = Event::Whole {
            status: u16::try_from(i32::from(failure.code)).ok(),
            refused: None,
            lost: false,
        };
        if commit::step(event, self.leave()) != Step::Again {
            return Attempt::Failed(failure);
        }
        let pushback = failure.pushback.map_or(Pushback::Silent, Pushback::After);
        Attempt::Again(Refusal::Ours(failure), pushback)
    }

    /// The callee's side broke before there was an answer.
    pub(crate) fn broke(&self, callee: Callee<'_>, error: &ForwardError) -> Attempt {
        let failure = forward_failure(self.service, callee, error);
        let event = Event::Broke {
            processed: error.processed(),
            lost: error.is_loss(),
            status: u16::try_from(i32::from(failure.code)).unwrap_or(NO_STATUS),
        };
        match commit::step(event, self.leave()) {
            Step::Elsewhere => {
                let refused = match error {
                    ForwardError::GoingAway => Refused::GoingAway,
                    _ => Refused::Itself,
                };
                Attempt::Unprocessed(Refusal::Ours(failure), refused)
            }
            Step::Again => Attempt::Again(Refusal::Ours(failure), Pushback::Silent),
            Step::Forward | Step::Fail => Attempt::Failed(failure),
        }
    }

    /// Counts a user's call that found no room for what it brings.
    fn count_full(&self, error: &ForwardError) {
        if let (ForwardError::NoRoom(full), Some(guest)) = (error, self.outside) {
            guest.counters.full(*full);
            let (service, full) = (self.service, full.label());
            debug!(%service, full, "a user's call ended: too much is held for users");
        }
    }

    /// What may be made of this attempt.
    fn leave(&self) -> Leave {
        Leave {
            committed: self.committed,
            retry: self.retry,
            replayable: self.upload.replayable(),
        }
    }

    /// The callee cancelled the call because its time is over; to the caller that is its deadline,
    /// and no CANCELLED, whoever's clock rang first.
    fn overdue(&self, answer: &HeaderMap) -> bool {
        status(answer) == CANCELLED && self.time_is_over()
    }

    fn time_is_over(&self) -> bool {
        self.deadline
            .is_some_and(|deadline| Instant::now() + EARLY >= deadline)
    }

    /// Sends an answer that has no body.
    pub fn answer(&mut self, mut response: Response<()>) -> Outcome {
        let status = status(response.headers());
        if let Some(Said(node, remote)) = response.extensions_mut().remove() {
            self.guard.span().answered(Reached {
                node: node.as_ref(),
                remote,
            });
        }
        self.heard(response.headers());
        self.tell(response.headers_mut());
        if let Some(followed) = self.guard.followed() {
            followed.trailed(response.headers());
        }
        match self.respond.send_response(response, true) {
            Ok(_) => Outcome::Answered(status),
            Err(_) => Outcome::Cancelled,
        }
    }

    /// Whether, why and in which words a peer sidecar fails the call, before anything of it is taken
    /// out for a caller from outside.
    fn heard(&self, headers: &HeaderMap) {
        self.guard.span().heard(|| {
            let reason = headers.get(ERROR_HEADER)?.to_str().ok()?;
            let said = Status::from_header_map(headers)?;
            Some((reason.to_owned(), said.message().to_owned()))
        });
    }

    /// Streams an answer that goes on, up to its end.
    pub(crate) async fn stream(
        &mut self,
        to: &mut h2::SendStream<Bytes>,
        (mut response, early): (Response<()>, Option<u16>),
        body: RecvStream,
        (callee, to_app): (Callee<'_>, bool),
        watched: Option<(Watched<'_>, Instant)>,
    ) -> Attempt {
        self.tell(response.headers_mut());
        let gone = Attempt::Ended(Outcome::Cancelled);
        let grpc = early.is_some() || is_grpc(response.headers());
        if let Some(followed) = self.guard.followed() {
            followed.answered(response.headers());
        }
        let Ok(mut caller) = self.respond.send_response(response, false) else {
            return gone;
        };
        self.committed = true;
        let taker = self.outside.map(|guest| Taker {
            patience: guest.edge.patience.clone(),
            share: guest.stay.answer(),
            given: 0,
        });
        let to_caller = (&mut caller, Stall::of_open(self.lane), taker);
        let ended = stream_answer(self.upload, to, body, to_caller, self.clock).await;
        let late = match &ended {
            End::Trailers(trailers) => trailers.get(STATUS_HEADER).map(status_of),
            _ => None,
        };
        if let Some((watched, sent)) = watched {
            watched.ended(&ended, (early, late), sent);
        }
        let failure = match ended {
            End::Trailers(mut trailers) => match late {
                None if grpc && early.is_none() && !self.plain => {
                    forward_failure(self.service, callee, &ForwardError::Unfinished)
                }
                Some(CANCELLED) if self.time_is_over() => self.late(),
                status => {
                    if to_app {
                        strip_if_any(&mut trailers);
                    }
                    self.heard(&trailers);
                    self.tell(&mut trailers);
                    if let Some(followed) = self.guard.followed() {
                        followed.trailed(&trailers);
                    }
                    let outcome = Outcome::Answered(status.unwrap_or(NO_STATUS));
                    return match caller.send_trailers(trailers) {
                        Ok(()) => Attempt::Ended(outcome),
                        Err(_) => gone,
                    };
                }
            },
            // Plain HTTP, or a status that came with the head: the answer is whole.
            End::NoTrailers if early.is_some() || !grpc || self.plain => {
                return match caller.send_data(Bytes::new(), true) {
                    Ok(()) => Attempt::Ended(Outcome::Answered(early.unwrap_or(NO_STATUS))),
                    Err(_) => gone,
                };
            }
            End::NoTrailers => forward_failure(self.service, callee, &ForwardError::Unfinished),
            End::Failed(ForwardError::Reset(h2::Reason::CANCEL)) if self.time_is_over() => {
                self.late()
            }
            End::Failed(error) => {
                self.count_full(&error);
                forward_failure(self.service, callee, &error)
            }
            End::DeadlineOver => self.late(),
            End::CallerGone => return gone,
            // Who takes nothing for so long has left, and holds what others need.
            End::CallerStalled => {
                caller.send_reset(h2::Reason::ENHANCE_YOUR_CALM);
                return gone;
            }
        };
        let reason = failure.reason;
        self.guard
            .span()
            .refused(failure.code, reason, &failure.text);
        if let Some(followed) = self.guard.followed() {
            followed.failed(failure.code, &failure.text);
        }
        if self.plain {
            // Trailers would make an answer look whole that was cut off.
            caller.send_reset(h2::Reason::INTERNAL_ERROR);
            return Attempt::Ended(Outcome::Failed(reason));
        }
        match caller.send_trailers(self.told(failure).into_trailers()) {
            Ok(()) => Attempt::Ended(Outcome::Failed(reason)),
            Err(_) => gone,
        }
    }

    /// A failure as its caller may hear of it.
    pub(crate) fn told(&self, failure: Failure) -> Failure {
        failure.told(self.outside.is_some(), self.head.uri.path())
    }

    /// The headers or trailers of an answer as its caller may see them.
    fn tell(&self, headers: &mut HeaderMap) {
        if self.outside.is_some() {
            users::tell(headers, self.head.uri.path());
        }
    }

    /// The call's time is over, and it had been sent.
    pub(crate) fn late(&self) -> Failure {
        Failure::deadline(
            self.head.uri.path(),
            self.arrived.elapsed(),
            Processed::Maybe,
        )
    }
}

impl Drop for Delivery<'_> {
    /// However it ended, also with its caller's connection.
    fn drop(&mut self) {
        let mut traffic: Traffic = self.upload.traffic();
        if self.plain {
            // What looks like messages are none.
            (traffic.request.messages, traffic.response.messages) = (0, 0);
        }
        self.guard.carried(traffic);
    }
}

impl Watched<'_> {
    /// Tells the endpoint's load and its breaker how an answer began. What the callee did not look
    /// at says nothing: its link was going away.
    pub(crate) fn begun(&self, answer: &Answer, early: Option<u16>, sent: Instant, now: Instant) {
        let took = now.saturating_duration_since(sent);
        // The head of a stream says nothing of how long the endpoint takes.
        if self.unary != Some(false) {
            match answer {
                Answer::Begun(_) if early.is_some_and(|status| NOT_HERE.contains(&status)) => {
                    self.load.failed(took, now);
                }
                // A head may wait for the first event of a stream that the rule does not know as
                // one: more than a failure it must not weigh.
                Answer::Begun(_) => self.load.answered(took.min(FAILURE), now),
                Answer::Failed(error) if error.processed() == Processed::No => {}
                // Its own fault, and not the endpoint's.
                Answer::CallerGone => self.load.given_up(took, now),
                Answer::Failed(error) if error.is_callers() => self.load.given_up(took, now),
                Answer::Failed(_) | Answer::DeadlineOver => self.load.failed(took, now),
            }
        }
        let verdict = match answer {
            Answer::Begun(head) if head.body().is_end_stream() => verdict_of(head.headers(), early),
            // What a unary call says comes with its trailers; of a stream, that it begins must do.
            Answer::Begun(_) => (self.unary != Some(true)).then_some(Verdict::Success),
            Answer::Failed(error) => verdict_of_error(error, sent),
            // A quiet stream is as good as any: its head may wait for the first event.
            Answer::DeadlineOver => (self.unary != Some(false)).then_some(Verdict::Failure),
            Answer::CallerGone => None,
        };
        self.judge(verdict, now);
    }

    /// Tells the endpoint's breaker how an answer ended that had begun. `early` is a status that
    /// came with the head, `late` one that came with the trailers.
    fn ended(&self, end: &End, (early, late): (Option<u16>, Option<u16>), sent: Instant) {
        let verdict = match (end, early) {
            (End::Trailers(trailers), None) => verdict_of(trailers, late),
            (End::Trailers(_) | End::NoTrailers, Some(status)) => Some(verdict_of_status(status)),
            (End::Failed(error), _) => verdict_of_error(error, sent),
            (End::NoTrailers, None) | (End::DeadlineOver, _) => Some(Verdict::Failure),
            (End::CallerGone | End::CallerStalled, _) => None,
        };
        self.judge(verdict, Instant::now());
    }

    fn judge(&self, verdict: Option<Verdict>, now: Instant) {
        if let Some(verdict) = verdict {
            self.load.verdict(verdict, fastrand::f64(), now);
        }
    }
}

/// What a whole answer with this status says of its endpoint. A refusal by the mesh before delivery
/// says nothing.
fn verdict_of(headers: &HeaderMap, status: Option<u16>) -> Option<Verdict> {
    let status = status.unwrap_or(NO_STATUS);
    // Nobody refuses with OK, and nearly every answer is.
    if status == OK {
        return Some(Verdict::Success);
    }
    match peer_refusal(headers) {
        Some(Processed::No) => None,
        Some(Processed::Maybe) if BROKEN.contains(&status) => Some(Verdict::Failure),
        _ => Some(verdict_of_status(status)),
    }
}

/// An app that says `RESOURCE_EXHAUSTED` is well, and has had enough of this one caller: others must
/// not find the endpoint closed for it.
fn verdict_of_status(status: u16) -> Verdict {
    if status == UNAVAILABLE {
        Verdict::Failure
    } else {
        Verdict::Success
    }
}

fn verdict_of_error(error: &ForwardError, sent: Instant) -> Option<Verdict> {
    match error {
        _ if error.is_callers() => None,
        _ if error.processed() == Processed::No => None,
        _ if error.is_loss() => Some(Verdict::Lost { sent }),
        _ => Some(Verdict::Failure),
    }
}

/// Whose answer it is, where it is kept while others are asked.
#[derive(Debug, Clone)]
struct Said(Option<NodeId>, Option<SocketAddr>);

/// The node that a seat leads to, where it is another one.
pub(crate) fn node_of(seat: &Seat) -> Option<&NodeId> {
    match &seat.link().key.to {
        To::Peer { node, .. } => Some(node),
        To::Local(_) | To::Destination(_) => None,
    }
}

/// Whom a seat leads to, as a span says it.
pub(crate) fn reached(seat: &Seat) -> Reached<'_> {
    Reached {
        node: node_of(seat),
        remote: seat.link().remote,
    }
}

/// A caller may leave the authority out; HTTP/2's own client would refuse to send that.
fn with_authority(uri: &Uri) -> Uri {
    if uri.authority().is_some() {
        return uri.clone();
    }
    let path = uri.path_and_query().map_or("/", PathAndQuery::as_str);
    let whole = Uri::builder()
        .scheme("http")
        .authority("localhost")
        .path_and_query(path);
    // A path that was part of a URI is one.
    whole.build().unwrap_or_else(|_| uri.clone())
}

fn is_grpc(headers: &HeaderMap) -> bool {
    let kind = headers.get(http::header::CONTENT_TYPE);
    kind.is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

fn status(headers: &HeaderMap) -> u16 {
    headers.get(STATUS_HEADER).map_or(NO_STATUS, status_of)
}

fn status_of(value: &HeaderValue) -> u16 {
    let text = value.to_str().ok();
    text.and_then(|text| text.parse().ok()).unwrap_or(NO_STATUS)
}

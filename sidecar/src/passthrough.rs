//! Calls that came by a tunnel or a redirect, and so have a destination of their own. Whatever the
//! mesh knows goes through the mesh; the rest goes on to where it was meant to go, stream by stream
//! over a connection that all calls to there share, with the call's deadline, its cancellation and
//! its counters, and without any header of the mesh. Dialled calls never come here.

use std::future::Future;
use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use h2::RecvStream;
use h2::server::SendResponse;
use http::request::Parts;
use http::{Method, Request};
use sidelane_proto::model::{ConnectionClass, Lane, ServiceName};

use crate::call::{Call, CallError, strip_mesh_headers};
use crate::classify::ClassifyError;
use crate::deliver::{Delivery, Source};
use crate::discover::State;
use crate::ending::{as_http, end};
use crate::forward::{Clock, Upload};
use crate::onward::Origin;
use crate::own;
use crate::place::Place;
use crate::pool::{Address, Key, To};
use crate::reason::{Processed, Reason};
use crate::refused::Whose;
use crate::respond::Failure;
use crate::stack::Stack;
use crate::telemetry::tap::Who;
use crate::telemetry::trace::{By, CallSpan, Facts, Kind};
use crate::way::Decided;

/// One call that goes on.
struct Passing {
    head: Parts,
    body: RecvStream,
    respond: SendResponse<Bytes>,
    arrived: Instant,
    deadline: Option<Instant>,
    /// HTTP/2, but no gRPC: its failures are HTTP's.
    plain: bool,
}

impl Stack {
    /// A call that has a destination of its own.
    pub(crate) fn carried(
        self: Arc<Self>,
        origin: Arc<Origin>,
        request: Request<RecvStream>,
        mut respond: SendResponse<Bytes>,
    ) -> impl Future<Output = ()> + Send {
        let arrived = Instant::now();
        let (mut head, body) = request.into_parts();
        async move {
            let decided = self.decide(&mut head, arrived);
            // Before anything else: also a call that the mesh knows would come by here again.
            if let Some(looped) = origin.looped {
                let text = format!("{}: {}: {looped}", head.uri.path(), origin.destination);
                let failure = Failure::refused(Reason::Loop, text);
                let plain = decided.is_err_and(|error| passes(&error, &head.method));
                let failure = if plain { as_http(failure) } else { failure };
                return self.turned_away(&mut respond, (&head, arrived), Whose::App, failure);
            }
            let (mut call, decided) = match decided {
                Ok(decided) => decided,
                Err(error) if self.policy.passthrough && passes(&error, &head.method) => {
                    strip_mesh_headers(&mut head.headers);
                    let passing = Passing::new((head, body), respond, arrived);
                    return self.pass_on(&origin, passing.plain()).await;
                }
                Err(error) => {
                    let early = (&head, arrived);
                    return self.turned_away(&mut respond, early, Whose::App, error.into());
                }
            };
            // Their path says nothing, so the destination says whose are meant.
            if call.node.is_none() && own::every_node_serves(call.path(&head).service) {
                let passing = Passing::new((head, body), respond, arrived);
                return self.pass_on(&origin, passing.until(call.deadline)).await;
            }
            let Some(decided) = decided else {
                return own::serve(&self, head, body, respond).await;
            };
            match self.heard(decided, &mut call, &head).await {
                Ok(classified) => {
                    self.routed(&call, &classified, &head, body, &mut respond, None)
                        .await;
                }
                Err(ClassifyError::UnknownService { .. })
                    if self.policy.passthrough && !needs_mesh(&call) =>
                {
                    let passing = Passing::new((head, body), respond, arrived);
                    self.pass_on(&origin, passing.until(call.deadline)).await;
                }
                Err(error) => {
                    let early = (&head, arrived);
                    self.turned_away(&mut respond, early, Whose::App, error.into());
                }
            }
        }
    }

    /// As [`Stack::classified`], but a service that was never heard of is not waited for while
    /// control is away: there is somewhere else to go.
    async fn heard(&self, decided: Decided, call: &mut Call, head: &Parts) -> Decided {
        let connected = || {
            let status = self.discovery.status();
            let state = &status.borrow().state;
            matches!(state, State::Connected { .. })
        };
        if !matches!(decided, Err(ClassifyError::UnknownService { .. })) || connected() {
            return self.classified(decided, call, head).await;
        }
        // Asked for all the same, so that it is known once control is back.
        if let Ok(name) = ServiceName::new(call.path(head).service)
            && self.discovery.want(&name).is_err()
        {
            self.metrics.subscription_refused();
        }
        decided
    }

    async fn pass_on(&self, origin: &Origin, passing: Passing) {
        let Passing {
            head,
            body,
            mut respond,
            arrived,
            deadline,
            plain,
        } = passing;
        let counters = self.metrics.passed_on();
        // What is no gRPC is none of these spans' conventions.
        let span = match plain {
            true => CallSpan::default(),
            false => self
                .tracing
                .begin(&head.headers, arrived, By::App, || Facts {
                    kind: Kind::Client,
                    uri: &head.uri,
                    // No rule of this mesh knows it.
                    named: false,
                    way: Some((ConnectionClass::Internal, Lane::GENERAL)),
                    rule: None,
                    node: None,
                    destination: Some(&origin.destination),
                }),
        };
        let note = self.metrics.access.note(head.uri.path(), None);
        let guard = self.metrics.call(&counters, arrived);
        let seen = (head.uri.path(), &head.headers);
        let followed = self.metrics.taps.follow(&counters, seen, Who::App);
        let guard = guard.traced(span).noted(note).followed_by(followed);
        let failed = |failure: Failure| if plain { as_http(failure) } else { failure };
        if deadline.is_some_and(|at| at <= Instant::now()) {
            let failure = Failure::deadline(head.uri.path(), arrived.elapsed(), Processed::No);
            return end(&guard, &mut respond, failed(failure));
        }
        let key = Key {
            to: To::Destination(origin.destination.clone()),
            class: ConnectionClass::Internal,
            lane: Lane::GENERAL,
        };
        let address = Address::Tcp(origin.destination.clone());
        let service = head.uri.path().to_owned();
        let mut clock = Clock::until(deadline);
        let mut upload = Upload::new(body);
        let mut delivery = Delivery {
            head: &head,
            upload: &mut upload,
            respond: &mut respond,
            clock: &mut clock,
            deadline,
            arrived,
            lane: None,
            source: Source::Unknown,
            outside: None,
            own: self.own.node.as_str(),
            service: &service,
            // No rule says that it may be made again.
            retry: None,
            previous: 0,
            committed: false,
            plain,
            guard: &guard,
        };
        let place = Place {
            key,
            address: &address,
            persistent: false,
        };
        self.to_place(&place, &mut delivery, &guard).await;
    }
}

impl Passing {
    fn new(
        (head, body): (Parts, RecvStream),
        respond: SendResponse<Bytes>,
        arrived: Instant,
    ) -> Self {
        Self {
            head,
            body,
            respond,
            arrived,
            deadline: None,
            plain: false,
        }
    }

    fn plain(self) -> Self {
        Self {
            plain: true,
            ..self
        }
    }

    fn until(self, deadline: Option<Instant>) -> Self {
        Self { deadline, ..self }
    }
}

/// Does it ask for what only the mesh can do? A named node is that node or none, a lane is that lane,
/// and what is to be secure does not go on in the clear.
fn needs_mesh(call: &Call) -> bool {
    let secure = call.rule.as_ref().is_some_and(|rule| rule.secure);
    call.node.is_some() || call.lane.is_some() || secure
}

/// Is it HTTP/2 that is none of gRPC's, and may go on as it is? CONNECT has no path to be sent
/// with, and would be a tunnel in a tunnel.
fn passes(error: &CallError, method: &Method) -> bool {
    error.is_plain_http() && method != Method::CONNECT
}

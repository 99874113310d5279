//! Calls between two parts of one program: the typed request goes to its handler as it is, and
//! nothing is encoded. Everything that decides about a call is asked all the same, by the functions
//! that calls by a pipe meet: the rule, the lane, what must be secure, the deadline, and one guard
//! that counts it. What a call leaves out is what only bytes need: links, windows, retries. A
//! handler's answer is final; there is no other place that it could have come from.

use std::any::Any;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt;
use http::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use http::request::Parts;
use http::uri::PathAndQuery;
use prost::Message;
use sidelane::routing::ServiceRouting;
use sidelane_identity::SpiffeId;
use sidelane_proto::codec::Compact;
use sidelane_proto::model::CallPath;
use tokio::time::timeout_at;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status};

use super::{EmbedError, Ended, Mesh};
use crate::admission::{Asked, Place};
use crate::admit::admit;
use crate::call::{
    LANE_HEADER, NODE_HEADER, SOURCE_IDENTITY_HEADER, SOURCE_NODE_HEADER, TIMEOUT_HEADER,
    strip_if_any, write_timeout,
};
use crate::drain::{Draining, Phase};
use crate::mesh::RuleSource;
use crate::policy::deadline;
use crate::reason::{Processed, Reason};
use crate::refused::Whose;
use crate::respond::{Failure, admission_failure};
use crate::stack::Stack;
use crate::telemetry::tap::Who;
use crate::telemetry::trace::{Reached, Sent};
use crate::telemetry::{CallGuard, Outcome, Traffic};

type Answer<Resp> = Pin<Box<dyn Future<Output = Result<Response<Resp>, Status>> + Send>>;
/// Shared, so that it is at hand whatever becomes of the mesh.
type Handler<Req, Resp> = Arc<dyn Fn(Request<Req>) -> Answer<Resp> + Send + Sync>;

/// The typed handlers of this program, by path.
#[derive(Default)]
pub(super) struct Handlers {
    by_path: HashMap<String, Box<dyn Any + Send + Sync>>,
    /// The first path that was given twice.
    twice: Option<String>,
}

impl Handlers {
    pub(super) fn add<Req, Resp, Answered>(
        &mut self,
        path: &str,
        handler: impl Fn(Request<Req>) -> Answered + Send + Sync + 'static,
    ) where
        Req: 'static,
        Resp: 'static,
        Answered: Future<Output = Result<Response<Resp>, Status>> + Send + 'static,
    {
        let handler: Handler<Req, Resp> = Arc::new(move |request| Box::pin(handler(request)));
        match self.by_path.entry(path.to_owned()) {
            Entry::Vacant(vacant) => drop(vacant.insert(Box::new(handler))),
            Entry::Occupied(_) => self.twice = Some(path.to_owned()),
        }
    }

    /// The first handler that no call could reach.
    pub(super) fn check(
        &self,
        check: impl Fn(CallPath<'_>) -> Result<(), &'static str>,
    ) -> Result<(), EmbedError> {
        let wrong = |path: &str, problem: String| EmbedError::Handler {
            path: path.to_owned(),
            problem,
        };
        if let Some(path) = &self.twice {
            return Err(wrong(path, "it is given twice; keep one".to_owned()));
        }
        let mut paths: Vec<&String> = self.by_path.keys().collect();
        paths.sort();
        for path in paths {
            let parsed = CallPath::parse(path).map_err(|error| wrong(path, error.to_string()))?;
            check(parsed).map_err(|problem| wrong(path, problem.to_owned()))?;
        }
        Ok(())
    }

    fn get<Req: 'static, Resp: 'static>(&self, path: &str) -> Option<Handler<Req, Resp>> {
        let handler = self.by_path.get(path)?;
        handler.downcast_ref::<Handler<Req, Resp>>().cloned()
    }
}

impl Mesh {
    /// Calls a unary method of a service by its rule: class, lane, strategy and security are the
    /// rule's, the time limit is the request's or else the rule's. A callee in this program that
    /// was given to [`Embedded::local`](super::Embedded::local) with the same types is called as it
    /// is; any other, and one on a node that the request names (`sidelane-node`), through the mesh.
    ///
    /// # Errors
    /// The callee's status, or the mesh's with a `google.rpc.ErrorInfo` of domain `sidelane.dev`.
    /// The rule of `S` must be the one that the mesh goes by: else `RULES_MISMATCH`.
    pub async fn call<S, Req, Resp>(
        &self,
        method: &str,
        request: impl tonic::IntoRequest<Req>,
    ) -> Result<Response<Resp>, Status>
    where
        S: ServiceRouting,
        Req: Message + 'static,
        Resp: Message + Default + 'static,
    {
        let arrived = Instant::now();
        let request = request.into_request();
        let stack = self.stack().map_err(ended)?;
        let path = format!("/{}/{method}", S::NAME);
        if let Err(failure) = same_rule::<S>(&stack) {
            let head = head(&path, request.metadata().clone())?;
            stack.written_off((&head, arrived), Whose::App, &failure);
            return Err(status(failure));
        }
        let named = request.metadata().get(NODE_HEADER.as_str());
        let elsewhere = named.is_some_and(|node| node != stack.own.node.as_str());
        match self.inner.handlers.get::<Req, Resp>(&path) {
            Some(handler) if !elsewhere => {
                let draining = self.inner.draining.clone();
                here(&stack, draining, (&path, handler), request, arrived).await
            }
            _ => {
                drop(stack);
                self.encoded(path, request).await
            }
        }
    }

    async fn encoded<Req, Resp>(
        &self,
        path: String,
        request: Request<Req>,
    ) -> Result<Response<Resp>, Status>
    where
        Req: Message + 'static,
        Resp: Message + Default + 'static,
    {
        let path = PathAndQuery::try_from(path)
            .map_err(|error| Status::invalid_argument(format!("no path of a call: {error}")))?;
        let mut client = tonic::client::Grpc::new(self.channel());
        let ready = client.ready().await;
        ready.map_err(|error| Status::unavailable(format!("{Ended} ({error})")))?;
        let codec = Compact::<Req, Resp>::default();
        client.unary(request, path, codec).await
    }
}

/// The call of a handler of this program.
async fn here<Req, Resp>(
    stack: &Stack,
    mut draining: Draining,
    (path, handler): (&str, Handler<Req, Resp>),
    request: Request<Req>,
    arrived: Instant,
) -> Result<Response<Resp>, Status> {
    let (metadata, extensions, message) = request.into_parts();
    let mut head = head(path, metadata)?;
    let refused = |head: &Parts, failure: Failure| {
        stack.written_off((head, arrived), Whose::App, &failure);
        status(failure)
    };
    let decided = stack.decide(&mut head, arrived);
    let (mut call, decided) = decided.map_err(|error| refused(&head, error.into()))?;
    let Some(decided) = decided else {
        let text = format!("{path}: the sidecar answers this itself; call it over the channel");
        let failure = Failure::refused(Reason::UnknownService, text);
        return Err(refused(&head, failure));
    };
    let classified = stack.classified(decided, &mut call, &head).await;
    let classified = classified.map_err(|error| refused(&head, error.into()))?;
    let target = &classified.target;
    // From here on the call ends exactly once, whatever happens.
    let counters = target.counters.of(classified.method);
    let note = stack.metrics.access.note(path, None);
    let span = stack.span(&call, &classified, &head, None);
    let guard = stack.metrics.call(counters, arrived);
    let seen = (path, &head.headers);
    let followed = stack.metrics.taps.follow(counters, seen, Who::App);
    let guard = guard.traced(span).noted(note).followed_by(followed);
    // Its messages are counted, and have no bytes: they are not encoded.
    let mut traffic = Traffic::default();
    traffic.request.messages = 1;
    guard.carried(traffic);
    let written = target.source != RuleSource::Default;
    let method = classified.method();
    let now = Instant::now();
    let limit = deadline::decide(call.deadline, &target.rule, written, method, now);
    let Ok(limit) = limit else {
        let failure = Failure::deadline(path, arrived.elapsed(), Processed::No);
        return Err(failed(&guard, failure));
    };
    if draining.phase() >= Phase::Outbound {
        let text = format!("{path}: this sidecar is stopping");
        let failure = Failure::refused(Reason::ConnectFailed, text);
        return Err(failed(&guard, failure));
    }
    // As on a way by bytes: who may not call it uses nothing up, and is told so at once.
    let authorized = stack.own_call(&classified, (&call, &head));
    authorized.map_err(|failure| failed(&guard, failure))?;
    // As on a way by bytes: counted where it leaves, and let in where it arrives.
    let mut place = None;
    if let Some(admitted) = &target.admitted {
        let asked = Asked {
            caller: &stack.own.node,
            user: None,
            lane: classified.lane,
            method,
        };
        let entering = async {
            admitted.leaves(&asked, now)?;
            admit(admitted, &asked, &head.headers).await
        };
        let entered = match limit {
            Some(limit) => timeout_at(limit.into(), Box::pin(entering)).await,
            None => Ok(Box::pin(entering).await),
        };
        let entered =
            entered.map_err(|_| Failure::deadline(path, arrived.elapsed(), Processed::No));
        let entered = entered.and_then(|entered| {
            entered.map_err(|error| admission_failure(target.name.as_str(), &error))
        });
        place = entered.map_err(|failure| failed(&guard, failure))?;
    }
    guard.attempted();
    if let Some(followed) = guard.followed() {
        let identity = stack.own.identity.as_ref().map(SpiffeId::as_str);
        followed.sent(stack.own.node.as_str(), identity);
    }
    guard.span().sent(Sent {
        to: Reached {
            node: None,
            remote: None,
        },
        hedge: false,
    });
    guard.span().onward(&mut head.headers, false, || false);
    let told = [
        (SOURCE_NODE_HEADER, stack.own.node.as_str()),
        (LANE_HEADER, classified.lane.name()),
    ];
    for (name, value) in told {
        // Both are made of characters that every header takes.
        if let Ok(value) = HeaderValue::from_str(value) {
            head.headers.insert(name, value);
        }
    }
    if let Some(id) = &stack.own.identity
        && let Ok(value) = HeaderValue::from_str(id.as_str())
    {
        head.headers.insert(SOURCE_IDENTITY_HEADER, value);
    }
    if let Some(limit) = limit {
        let left = limit.saturating_duration_since(now);
        head.headers.insert(TIMEOUT_HEADER, write_timeout(left));
    }
    let metadata = MetadataMap::from_headers(head.headers);
    let request = Request::from_parts(metadata, extensions, message);
    // What a remote caller would not feel must not unwind through this one.
    let answer = AssertUnwindSafe(async move { handler(request).await }).catch_unwind();
    let over = async {
        match limit {
            Some(limit) => tokio::time::sleep_until(limit.into()).await,
            None => std::future::pending().await,
        }
    };
    let broken = |why: &str| Failure {
        processed: Processed::Maybe,
        ..Failure::refused(Reason::PeerReset, format!("{path} in this process: {why}"))
    };
    let late = || Failure::deadline(path, arrived.elapsed(), Processed::Maybe);
    let failure = tokio::select! {
        biased;
        answer = answer => match answer {
            Ok(Err(status)) if status.code() == Code::Cancelled && is_over(limit) => late(),
            Ok(answer) => {
                let answer = answered(&guard, answer);
                left(place, &guard);
                return answer;
            }
            Err(_) => broken("its handler panicked"),
        },
        () = over => late(),
        () = draining.reached(Phase::Forced) => broken("the mesh ended"),
    };
    let failed = failed(&guard, failure);
    left(place, &guard);
    Err(failed)
}

/// Up to here it had its place at the local service.
fn left(place: Option<Place>, guard: &CallGuard) {
    if let Some(place) = place {
        place.ended(guard.outcome().into());
    }
}

/// The rule that was compiled into the caller is the one that it obeys.
fn same_rule<S: ServiceRouting>(stack: &Stack) -> Result<(), Failure> {
    let rule = S::RULE;
    let view = stack.mesh.view();
    let here = view.target(S::NAME).map(|target| &target.rule);
    if here.is_some_and(|here| here.agreement() == rule.agreement()) {
        return Ok(());
    }
    let said = here.map_or_else(
        || "none of the rules in this mesh names it".to_owned(),
        |here| {
            let (class, lane, secure) = here.agreement();
            let origin = &here.origin;
            format!("in this mesh it is {class}, lane {lane}, secure {secure} ({origin})")
        },
    );
    let (class, lane, secure) = rule.agreement();
    let text = format!(
        "{}: its caller was compiled with {class}, lane {lane}, secure {secure} ({}), and {said}; \
         start the mesh with the rules that its program is built with",
        S::NAME,
        rule.origin,
    );
    Err(Failure::refused(Reason::RulesMismatch, text))
}

/// The head that the same call would have on the wire, so that it is read as one.
fn head(path: &str, metadata: MetadataMap) -> Result<Parts, Status> {
    let request = http::Request::post(path).body(()).map_err(|error| {
        let text = format!("{path}: no path of a call: {error}");
        status(Failure::refused(Reason::NotGrpc, text))
    })?;
    let mut head = request.into_parts().0;
    head.headers = metadata.into_headers();
    let grpc = HeaderValue::from_static("application/grpc");
    head.headers.insert(CONTENT_TYPE, grpc);
    Ok(head)
}

/// Both ends' view of an answer: the guard's, and the caller's, without what only the mesh says.
fn answered<Resp>(
    guard: &CallGuard,
    answer: Result<Response<Resp>, Status>,
) -> Result<Response<Resp>, Status> {
    match answer {
        Ok(mut response) => {
            guard.ended(Outcome::Answered(0));
            // What a wire would carry in trailers is not there where a handler is called.
            if let Some(followed) = guard.followed() {
                followed.answered(response.metadata().as_ref());
            }
            let mut traffic = guard.traffic();
            traffic.response.messages = 1;
            guard.carried(traffic);
            strip(response.metadata_mut());
            Ok(response)
        }
        Err(mut status) => {
            let code = u16::try_from(i32::from(status.code())).unwrap_or(u16::MAX);
            guard.ended(Outcome::Answered(code));
            if let Some(followed) = guard.followed() {
                followed.trailed(status.metadata().as_ref());
            }
            strip(status.metadata_mut());
            Err(status)
        }
    }
}

fn strip(metadata: &mut MetadataMap) {
    let mut headers = std::mem::take(metadata).into_headers();
    strip_if_any(&mut headers);
    *metadata = MetadataMap::from_headers(headers);
}

fn is_over(limit: Option<Instant>) -> bool {
    limit.is_some_and(|limit| Instant::now() >= limit)
}

fn failed(guard: &CallGuard, failure: Failure) -> Status {
    guard
        .span()
        .refused(failure.code, failure.reason, &failure.text);
    guard.ended(Outcome::Failed(failure.reason));
    if let Some(followed) = guard.followed() {
        followed.failed(failure.code, &failure.text);
    }
    status(failure)
}

/// The failure as a client reads it from a wire.
fn status(failure: Failure) -> Status {
    let headers: HeaderMap = failure.into_trailers();
    Status::from_header_map(&headers).unwrap_or_else(|| Status::unknown("no status"))
}

fn ended(ended: Ended) -> Status {
    status(Failure::refused(Reason::ConnectFailed, ended.to_string()))
}

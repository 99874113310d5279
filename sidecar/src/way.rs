//! Finds a way for one attempt: the rule that holds, an endpoint, and a seat on a link to it. This
//! is the part of `stack` that asks `classify`, `balance` and `pool`, in this order; `explain` asks
//! the same functions.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use http::HeaderMap;
use http::request::Parts;
use sidelane::routing::Found;
use sidelane_proto::model::{
    ConnectionClass, FieldError, Health, Lane, MethodRule, NodeId, Rule, ServiceName,
};

use crate::admission::{Asked, Place};
use crate::admit::admit;
use crate::balance::{InFlight, PickError, Strategy, Verdict, Wanted};
use crate::call::{Call, CallError, Caller, values_of};
use crate::classify::{self, Classified, ClassifyError};
use crate::deliver::Watched;
use crate::edge::FIRST_WORD;
use crate::local::LocalService;
use crate::mesh::{Target, View};
use crate::own;
use crate::parts::{Course, Parts as Subset, Why, part_of_call};
use crate::policy::deadline;
use crate::pool::{Address, ConnectError, Key, PoolError, Seat, To};
use crate::reason::Reason;
use crate::respond::{Callee, Failure, admission_failure, pick_failure, pool_failure};
use crate::stack::Stack;
use crate::telemetry::Outcome;

/// How long a call waits for control's first word about a service that was never heard of.
const FIRST_DISCOVERY: Duration = Duration::from_secs(2);

/// What became of a call that asked for a rule.
pub(crate) type Decided = Result<Classified, ClassifyError>;

/// A way for one attempt.
pub(crate) struct Way {
    pub(crate) seat: Seat,
    /// Counts in the hub for as long as the attempt lasts.
    in_flight: Option<InFlight>,
    /// At the service beside this sidecar, where calls at once have a bound.
    place: Option<Place>,
    /// The node, where it is not this one.
    pub(crate) node: Option<NodeId>,
}

/// How a call stands to the service beside this sidecar.
pub(crate) enum Beside<'a> {
    /// It goes there without leaving the process: the express path.
    First(&'a LocalService),
    /// An endpoint is picked, and may be the one beside: its key says where, or its strategy is none
    /// that minds nearness.
    Picked(&'a LocalService),
    /// Others come first, and it stands in where there are none: it is not well, or of another part
    /// of the split.
    Last(&'a LocalService),
    /// Others alone are meant: it is of another part of the split, and no way out.
    Never,
    /// There is none, or the call names another node.
    Nobody,
}

impl Way {
    /// The node, where it is not this one. All else is given back.
    pub(crate) fn into_node(self) -> Option<NodeId> {
        self.node
    }

    /// The call ended so. All is given back.
    pub(crate) fn ended(self, outcome: Outcome) {
        if let Some(place) = self.place {
            place.ended(outcome.into());
        }
    }

    /// What is told how the endpoint takes the call.
    pub(crate) fn watched(&self, method: Option<&MethodRule>) -> Option<Watched<'_>> {
        let load = self.in_flight.as_ref()?;
        let unary = method.map(MethodRule::is_unary);
        Some(Watched { load, unary })
    }
}

/// A way that was not found: to whom, and why.
pub(crate) struct NoWay {
    pub(crate) node: Option<NodeId>,
    pub(crate) failure: Failure,
}

impl Classified {
    /// How long a call may take whose caller's own rule decides; `None` where a rule of this
    /// sidecar's does.
    #[inline]
    pub(crate) fn callers(&self) -> Option<deadline::Caller<'_>> {
        let (spoken, target) = (self.spoken.as_deref()?, &self.target);
        let method = self.method();
        Some(deadline::Caller {
            spoken,
            pushed: target.said.timed(method),
            rule: &target.rule,
            method,
        })
    }
}

impl Stack {
    /// Reads a local app's call and decides it by one look-up of its path. `None` where the sidecar
    /// answers it itself.
    pub(crate) fn decide(
        &self,
        head: &mut Parts,
        arrived: Instant,
    ) -> Result<(Call, Option<Decided>), CallError> {
        self.decide_of(Caller::Local, head, arrived)
    }

    /// The same, of a local app's call or a user's.
    pub(crate) fn decide_of(
        &self,
        caller: Caller,
        head: &mut Parts,
        arrived: Instant,
    ) -> Result<(Call, Option<Decided>), CallError> {
        self.mesh.look(|view| {
            let (call, found) = Call::read(head, caller, arrived, |path| view.find(path))?;
            let service = call.path(head).service;
            let decided = self.decided(view, head.uri.path(), service, found, &call);
            Ok((call, decided))
        })
    }

    /// Decides a call that was read. `None` where the sidecar answers it itself.
    pub(crate) fn decided(
        &self,
        view: &View,
        path: &str,
        service: &str,
        found: Found<&Arc<Target>>,
        call: &Call,
    ) -> Option<Decided> {
        match &call.node {
            None if own::answered(service) => None,
            Some(node) if own::every_node_serves(service) => {
                Some(Self::at_node(view, node, service))
            }
            _ => Some(self.by_rule(view, path, found, call)),
        }
    }

    /// Which rule holds, and by which key and in which part of a split the call goes on by it. A
    /// service that was never heard of is asked for once, and waited for.
    pub(crate) async fn classified(
        &self,
        decided: Decided,
        call: &mut Call,
        head: &Parts,
    ) -> Decided {
        let Err(ClassifyError::UnknownService { .. }) = &decided else {
            return self.on_course(decided, call, head);
        };
        let path = call.path(head);
        let Ok(name) = ServiceName::new(path.service) else {
            return decided;
        };
        if call.is_from_outside() && !self.edge.asks(Instant::now()) {
            return decided;
        }
        if self.discovery.want(&name).is_err() {
            self.metrics.subscription_refused();
            return decided;
        }
        let left = call
            .deadline
            .map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let longest = if call.is_from_outside() {
            FIRST_WORD
        } else {
            FIRST_DISCOVERY
        };
        let wait = left.map_or(longest, |left| left.min(longest));
        if !self.discovery.answered(&name, wait).await {
            return decided;
        }
        let path = head.uri.path();
        let decided = self.mesh.look(|view| match view.find(path) {
            Ok(found) => self.by_rule(view, path, found, call),
            // It was well-formed a moment ago.
            Err(_) => decided,
        });
        self.on_course(decided, call, head)
    }

    /// A call is given its key, and where its service's calls are split its part, by that key where
    /// keys count: once for all its attempts.
    fn on_course(&self, decided: Decided, call: &mut Call, head: &Parts) -> Decided {
        let mut classified = decided?;
        call.key_by(head, classified.hash_header());
        if let Some((part, _)) = self.part(&classified, call, &head.headers)
            && let Some(split) = &classified.target.rule.split
        {
            classified.course = Course::to(split, part);
        }
        Ok(classified)
    }

    /// The part of its service's split that a call falls to, and why. A call that names its node
    /// goes there, whatever the node's version is.
    pub(crate) fn part(
        &self,
        classified: &Classified,
        call: &Call,
        headers: &HeaderMap,
    ) -> Option<(usize, Why)> {
        let split = classified.target.rule.split.as_ref()?;
        if call.node.is_some() {
            return None;
        }
        let forced = split.forced(|header| {
            let mut values = values_of(headers, &header.name);
            values.any(|value| value.as_bytes() == header.value.as_bytes())
        });
        let strategy = self.strategy(classified);
        let key = call.hash.filter(|_| strategy == Strategy::ConsistentHash);
        Some(part_of_call(split, forced, key, fastrand::u64(..)))
    }

    /// Is the service beside this sidecar of the part that the call is meant for?
    pub(crate) fn is_meant(&self, classified: &Classified, parts: Subset) -> bool {
        let split = classified.target.rule.split.as_ref();
        split.is_none_or(|split| parts.has(split.part_of(self.local.labels())))
    }

    /// Health and reflection of one node: its path says nothing, so any service that the node
    /// offers to other nodes in the clear shows the way to it.
    fn at_node(view: &View, node: &NodeId, service: &str) -> Decided {
        let target = view
            .targets()
            .find(|target| {
                let open = target.rule.class == ConnectionClass::Internal && !target.rule.secure;
                open && target.hub().get(node.as_str()).is_some()
            })
            .ok_or_else(|| ClassifyError::NotBeside {
                service: service.to_owned(),
                node: node.to_string(),
            })?;
        Ok(Classified {
            target: Arc::clone(target),
            method: None,
            class: ConnectionClass::Internal,
            lane: target.rule.lane,
            spoken: None,
            course: Course::ANY,
        })
    }

    /// How an endpoint is picked: by the caller's own rule, or the service's.
    pub(crate) fn strategy(&self, classified: &Classified) -> Strategy {
        let spoken = self.spoken_strategy(classified).ok().flatten();
        spoken.unwrap_or_else(|| classified.target.hub().strategy())
    }

    /// How the call stands to the service beside this sidecar.
    pub(crate) fn beside(&self, classified: &Classified, call: &Call) -> Beside<'_> {
        let name = &classified.target.name;
        let Some(local) = self.local.get(name.as_str()) else {
            return Beside::Nobody;
        };
        if let Some(node) = &call.node {
            return match *node == self.own.node {
                true => Beside::First(local),
                false => Beside::Nobody,
            };
        }
        if !self.is_meant(classified, classified.course.first) {
            let then = classified.course.then;
            let otherwise = then.is_some_and(|parts| self.is_meant(classified, parts));
            return if otherwise {
                Beside::Last(local)
            } else {
                Beside::Never
            };
        }
        if !self.strategy(classified).minds_nearness() {
            return Beside::Picked(local);
        }
        match self.health.of(name) {
            Health::Healthy => Beside::First(local),
            _ => Beside::Last(local),
        }
    }

    /// An endpoint and a seat on a link to it. `beside` says whether a service beside this sidecar
    /// may take the call: one that does not answer is not asked again.
    pub(crate) async fn way(
        &self,
        classified: &Classified,
        (call, head): (&Call, &Parts),
        tried: &[NodeId],
        beside: bool,
    ) -> Result<Way, NoWay> {
        let stand = self.beside(classified, call);
        let none_but = |local| {
            let elsewhere = classified.target.hub().iter().next().is_some();
            (!elsewhere).then_some(local)
        };
        let others = || [tried, std::slice::from_ref(&self.own.node)].concat();
        let (way, stand_in) = match stand {
            Beside::Nobody => return self.away(classified, (call, head), tried).await,
            Beside::First(local) if beside && !tried.contains(&self.own.node) => {
                return self.express(classified, local, (call, head)).await;
            }
            Beside::Picked(local) if beside => {
                let way = self.away(classified, (call, head), tried).await;
                (way, none_but(local))
            }
            Beside::Last(local) if beside => {
                let way = self.away(classified, (call, head), &others()).await;
                (way, Some(local))
            }
            // Never by way of a link to ourselves.
            _ => {
                let way = self.away(classified, (call, head), &others()).await;
                (way, None)
            }
        };
        match (way, stand_in) {
            (Err(NoWay { node: None, .. }), Some(local)) if !tried.contains(&self.own.node) => {
                self.express(classified, local, (call, head)).await
            }
            (way, _) => way,
        }
    }

    /// The service beside this sidecar.
    async fn express(
        &self,
        classified: &Classified,
        local: &LocalService,
        (call, head): (&Call, &Parts),
    ) -> Result<Way, NoWay> {
        let own = &self.own.node;
        let service = classified.target.name.as_str();
        let failed = |failure| NoWay {
            node: Some(own.clone()),
            failure,
        };
        self.own_call(classified, (call, head)).map_err(failed)?;
        let place = match &classified.target.admitted {
            None => None,
            // Of the whole node, and not of the service that shows the way to it.
            Some(_) if own::every_node_serves(call.path(head).service) => None,
            Some(admitted) => {
                let asked = Asked {
                    caller: own,
                    user: call.user(),
                    lane: classified.lane,
                    method: classified.method(),
                };
                // In a box: calls whose rule says nothing of it are no larger for it.
                let admit = Box::pin(admit(admitted, &asked, &head.headers));
                let admit = admit.await;
                admit.map_err(|error| failed(admission_failure(service, &error)))?
            }
        };
        let key = local_key(local, (classified.class, classified.lane));
        // Where nobody else offers it, it waits for room.
        let hub = || classified.target.hub();
        let alone = || hub().iter().all(|endpoint| endpoint.node == *own);
        let seat = self.seat(service, &key, &local.address, true, alone);
        seat.await
            .map(|seat| Way {
                seat,
                in_flight: None,
                place,
                node: Some(own.clone()),
            })
            .map_err(failed)
    }

    /// An endpoint of the hub.
    async fn away(
        &self,
        classified: &Classified,
        (call, head): (&Call, &Parts),
        tried: &[NodeId],
    ) -> Result<Way, NoWay> {
        let target = &classified.target;
        let service = target.name.as_str();
        let own = &self.own.node;
        let wanted = Wanted {
            node: call.node.as_ref().map(NodeId::as_str),
            class: classified.class,
            agreement: classified.agreement(),
            exclude: tried,
            course: classified.course,
            strategy: self.spoken_strategy(classified).ok().flatten(),
            key: call.hash,
            caller: own.as_str(),
        };
        let mut pick = target
            .hub()
            .pick(&wanted, fastrand::u64(..), Instant::now());
        // Also for a named node: in an empty hub it is merely unknown.
        if matches!(
            pick,
            Err(PickError::Empty | PickError::UnknownNode { count: 0, .. })
        ) && Box::pin(self.heard_of(&target.name)).await
        {
            pick = target
                .hub()
                .pick(&wanted, fastrand::u64(..), Instant::now());
        }
        let none = |failure| NoWay {
            node: None,
            failure,
        };
        let pick = pick.map_err(|error| none(self.no_pick(service, &error)))?;
        let Some(address) = pick.endpoint.addresses.of(classified.class).cloned() else {
            let error = PickError::NoAddress {
                class: classified.class,
                count: 1,
            };
            return Err(none(pick_failure(service, &error)));
        };
        if pick.endpoint.node == *own
            && let Some(local) = self.local.get(service)
        {
            // In a box: calls to peers are no larger for it.
            let way = Box::pin(self.express(classified, local, (call, head))).await?;
            let in_flight = Some(pick.in_flight);
            return Ok(Way { in_flight, ..way });
        }
        let secure = classified.agreement().is_some_and(|(.., secure)| secure);
        let identity = pick.endpoint.identity.as_ref();
        if secure && !self.trust.secures(identity) {
            let error = ClassifyError::NotSecure {
                service: service.to_owned(),
                origin: target.rule.origin.to_string(),
            };
            return Err(none(error.into()));
        }
        let address = Address::Peer(address, identity.cloned());
        let node = pick.endpoint.node.clone();
        let generation = pick.endpoint.generation;
        let to = To::Peer {
            node: node.clone(),
            generation,
        };
        let key = Key {
            to,
            class: classified.class,
            lane: classified.lane,
        };
        let spoken = classified.spoken.as_ref();
        let persistent = spoken.map_or(target.rule.persistent, |spoken| spoken.persistent);
        // A call waits for room only where it is the last place to try, or the only one it names.
        let last = || {
            if call.node.is_some() {
                return true;
            }
            let exclude = [tried, std::slice::from_ref(&node)].concat();
            let wanted = Wanted {
                exclude: &exclude,
                ..wanted
            };
            // Only asked: whoever could be picked must not lose a turn, or be probed, for it.
            let other = target
                .hub()
                .peek(&wanted, fastrand::u64(..), Instant::now());
            other.is_err()
        };
        match self.seat(service, &key, &address, persistent, last).await {
            Ok(seat) => Ok(Way {
                seat,
                in_flight: Some(pick.in_flight),
                place: None,
                node: Some(node),
            }),
            Err(failure) => {
                let now = Instant::now();
                pick.in_flight.failed(Duration::ZERO, now);
                // Links that cannot be had are for `repair` to mend, and the hub knows of them. Only
                // a probe is asked for all the same.
                if pick.in_flight.is_probe() && failure.reason == Reason::ConnectFailed {
                    let random = fastrand::f64();
                    pick.in_flight.verdict(Verdict::Failure, random, now);
                }
                Err(NoWay {
                    node: Some(node),
                    failure,
                })
            }
        }
    }

    /// What a pick that failed is to the caller. Where this sidecar's own certificate has ended, nobody
    /// can be reached, and that is why: the hub only knows that links are lost.
    pub(crate) fn no_pick(&self, service: &str, error: &PickError) -> Failure {
        let failure = pick_failure(service, error);
        let lost = matches!(
            error,
            PickError::NoneHealthy { .. } | PickError::AllTried { .. }
        );
        match self.trust.ended(SystemTime::now()) {
            Some(ago) if lost => unproved(Reason::ConnectFailed, failure, ago),
            _ => failure,
        }
    }

    /// Decides a call by this sidecar's rule, and by its caller's where it says one.
    pub(crate) fn by_rule(
        &self,
        view: &View,
        path: &str,
        found: Found<&Arc<Target>>,
        call: &Call,
    ) -> Decided {
        let policy = self.policy;
        if call.is_from_outside() {
            return classify::from_outside(view, path, found, policy);
        }
        let Some(rule) = &call.rule else {
            return classify::outbound(view, path, found, call.lane, policy);
        };
        let classified = classify::spoken(view, path, found, call.lane, rule, policy)?;
        match self.spoken_strategy(&classified) {
            Ok(_) => Ok(classified),
            Err(error) => Err(ClassifyError::CallersStrategy {
                service: classified.target.name.to_string(),
                problem: error.problem.to_string(),
            }),
        }
    }

    /// How the caller's own rule has an endpoint picked, where that rule decides and says so, and no
    /// pushed one does.
    pub(crate) fn spoken_strategy(
        &self,
        classified: &Classified,
    ) -> Result<Option<Strategy>, FieldError> {
        let Some(spoken) = classified.spoken.as_deref() else {
            return Ok(None);
        };
        // What was compiled into the caller is tuned like all that was compiled.
        if classified.target.said.balanced().is_some() {
            return Ok(None);
        }
        if spoken.strategy.is_none() {
            let asked = spoken.load_balancing;
            return Ok(asked.map(|asked| Strategy::of(Some(asked))));
        }
        let rule = Rule {
            strategy: spoken.strategy.clone(),
            ..Rule::default_for(&classified.target.name)
        };
        self.mesh.strategies().of(&rule).map(Some)
    }

    /// Asks control about a service that is called, and waits for its first word. A service beside
    /// this sidecar is asked for only here: as long as it answers itself, nobody else is needed.
    async fn heard_of(&self, service: &ServiceName) -> bool {
        if self.discovery.want(service).is_err() {
            self.metrics.subscription_refused();
            return false;
        }
        self.discovery.answered(service, FIRST_DISCOVERY).await
    }

    pub(crate) async fn seat(
        &self,
        service: &str,
        key: &Key,
        address: &Address,
        persistent: bool,
        may_wait: impl FnOnce() -> bool,
    ) -> Result<Seat, Failure> {
        self.pool
            .seat(key, address, persistent, may_wait)
            .await
            .map_err(|error| {
                // What was said a moment ago is no news: it may be well again by now.
                if let PoolError::Connect { error, again: None } = &error {
                    match (&key.to, &**error) {
                        (To::Peer { node, .. }, ConnectError::Newer { meant, found, .. }) => {
                            self.repair.replaced(node, *meant, *found);
                        }
                        (To::Peer { .. }, error) => self.repair.lost(key, error),
                        (To::Local(address), error) => self.health.failed(address, error),
                        (To::Destination(_), _) => {}
                    }
                }
                let callee = match &key.to {
                    To::Peer { node, .. } => Callee::Peer(node.as_str()),
                    To::Local(_) => Callee::App(self.own.node.as_str()),
                    To::Destination(address) => Callee::Destination(address.as_str()),
                };
                let failure = pool_failure(service, callee, (key.class, key.lane), &error);
                let dialled = matches!(key.to, To::Peer { .. });
                match self.trust.ended(SystemTime::now()) {
                    Some(ago) if dialled => unproved(failure.reason, failure, ago),
                    _ => failure,
                }
            })
    }
}

/// The failure of a call that no peer takes, because this sidecar cannot prove who it is.
fn unproved(reason: Reason, mut failure: Failure, ago: Duration) -> Failure {
    let why = format!(
        "; this sidecar's own certificate ended {} s ago and is not renewed yet, so no peer takes a \
         link from it: its /readyz says why",
        ago.as_secs()
    );
    failure.text.push_str(&why);
    failure.code = reason.code();
    failure.reason = reason;
    failure
}

pub(crate) fn local_key(local: &LocalService, (class, lane): (ConnectionClass, Lane)) -> Key {
    Key {
        to: To::Local(local.address.clone()),
        class,
        lane,
    }
}

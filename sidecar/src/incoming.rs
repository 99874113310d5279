//! Which of the services beside this sidecar a peer's call is for, and whether it may come in.
//! Where a rule is pushed, its news reach the two ends of a link one after the other, and nobody's
//! call may fail for that: what was right a moment ago still is, and what is not right yet waits
//! for the news.

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::request::Parts;
use sidelane_identity::SpiffeId;
use sidelane_proto::model::{NodeId, Rule, ServiceName};
use tokio::time::timeout_at;

use crate::admission::Admitted;
use crate::audit;
use crate::authorization::{Asked, Permitted};
use crate::call::{Call, Peer};
use crate::classify::{self, Classified, ClassifyError};
use crate::discover::State;
use crate::local::LocalService;
use crate::mesh::{Target, Way};
use crate::own;
use crate::reason::Reason;
use crate::respond::{Failure, authorization_failure};
use crate::stack::Stack;
use crate::telemetry::{Direction, TargetCounters};

/// The longest wait for a rule that the caller seems to know already. News of one change reach all
/// sidecars within milliseconds.
const NEWS_LIMIT: Duration = Duration::from_secs(2);

/// A call that may come in, as far as its rule minds the way by which it comes.
pub(crate) struct LetIn {
    /// What counts it.
    pub(crate) counters: Arc<TargetCounters>,
    /// Its rule, where there is one.
    pub(crate) rule: Option<Arc<Rule>>,
    /// Is its method one that the rule names?
    pub(crate) named: bool,
    /// Who may call its service.
    permitted: Option<Arc<Permitted>>,
    /// What its service admits.
    pub(crate) admitted: Option<Arc<Admitted>>,
}

impl Stack {
    /// The service that a peer's call is for.
    pub(crate) fn served_here(
        &self,
        service: &str,
        peer: &Peer,
    ) -> Result<Arc<LocalService>, Failure> {
        if let Some(local) = self.local.get(service) {
            return Ok(Arc::clone(local));
        }
        // Every node serves health and reflection: whoever named this node means its app, and
        // came by the lane of one of its services.
        if own::every_node_serves(service) {
            let by = |local: &LocalService| self.comes_in((service, ""), local, peer).is_ok();
            if let Some(local) = self.local.iter().find(|local| by(local)) {
                return Ok(Arc::clone(local));
            }
        }
        let names: Vec<&str> = self.local.iter().map(|local| local.name.as_str()).collect();
        let text = format!(
            "{service}: not served by node {}; it serves {}",
            self.own.node,
            if names.is_empty() {
                "nothing".to_owned()
            } else {
                names.join(", ")
            }
        );
        Err(Failure::refused(Reason::UnknownService, text))
    }

    /// Lets a peer's call in, or says why not.
    pub(crate) async fn admitted(
        &self,
        service: &str,
        local: &LocalService,
        peer: &Peer,
        (call, head): (&Call, &Parts),
    ) -> Result<LetIn, ClassifyError> {
        let path = head.uri.path();
        let refused = match self.comes_in((service, path), local, peer) {
            Ok(let_in) => return Ok(let_in),
            Err(refused) => refused,
        };
        let longest = Instant::now() + NEWS_LIMIT;
        let until = call.deadline.map_or(longest, |at| at.min(longest));
        let mut status = self.discovery.status();
        loop {
            let connected = matches!(status.borrow_and_update().state, State::Connected { .. });
            // Between the look above and this one, or since the last round.
            if let Ok(let_in) = self.comes_in((service, path), local, peer) {
                return Ok(let_in);
            }
            // What is compiled in is no news to wait for, and without control there are none.
            if !connected || self.is_compiled(local) {
                return Err(refused);
            }
            let Ok(Ok(())) = timeout_at(until.into(), status.changed()).await else {
                return Err(refused);
            };
        }
    }

    fn comes_in(
        &self,
        (service, path): (&str, &str),
        local: &LocalService,
        peer: &Peer,
    ) -> Result<LetIn, ClassifyError> {
        let view = self.mesh.view();
        let own = local.name.as_str() == service;
        // The method is only there to be counted.
        let found = own.then(|| view.find(path).ok()).flatten();
        let (target, method) = match found {
            Some(found) => (found.service, found.method),
            None => (view.target(local.name.as_str()), None),
        };
        let way = (peer.class, peer.lane);
        let secure = peer.identity.is_some();
        classify::incoming(service, target.map(|it| &**it), way, secure, Instant::now())?;
        // Of the whole node: the service that showed the way is not charged for it.
        if !own && let Ok(name) = ServiceName::new(service) {
            return Ok(LetIn {
                counters: self.metrics.counters(&name, Direction::Inbound, way),
                rule: None,
                named: false,
                permitted: None,
                admitted: None,
            });
        }
        let counters = target.and_then(|target| target.inbound.as_ref());
        let counters = match counters {
            Some(counters) => Arc::clone(counters.of(method)),
            None => self.metrics.counters(&local.name, Direction::Inbound, way),
        };
        Ok(LetIn {
            counters,
            rule: target.map(|target| Arc::clone(&target.rule)),
            named: method.is_some(),
            permitted: target.and_then(|target| target.permitted.clone()),
            admitted: target.and_then(|target| target.admitted.clone()),
        })
    }

    /// May who calls call it? By the rule as it is now, whenever the link was made.
    pub(crate) fn permitted(
        &self,
        let_in: &LetIn,
        (call, head): (&Call, &Parts),
        peer: &Peer,
    ) -> Result<(), Failure> {
        let Some(permitted) = &let_in.permitted else {
            return Ok(());
        };
        let caller = (&peer.node, peer.identity.as_ref());
        let way = (peer.class, peer.lane);
        self.asked(permitted, (call, head), caller, way)
    }

    /// May who calls by this sidecar call a service beside it? The app is who this node is; a user is
    /// nobody that is known.
    pub(crate) fn own_call(
        &self,
        classified: &Classified,
        (call, head): (&Call, &Parts),
    ) -> Result<(), Failure> {
        let Some(permitted) = &classified.target.permitted else {
            return Ok(());
        };
        let identity = self.own.identity.as_ref();
        let identity = identity.filter(|_| !call.is_from_outside());
        let way = (classified.class, classified.lane);
        self.asked(permitted, (call, head), (&self.own.node, identity), way)
    }

    #[inline(never)]
    fn asked(
        &self,
        permitted: &Permitted,
        (call, head): (&Call, &Parts),
        (node, identity): (&NodeId, Option<&SpiffeId>),
        (class, lane): Way,
    ) -> Result<(), Failure> {
        let path = call.path(head);
        // Health and reflection are of the whole node, and not of the service that shows the way to
        // them.
        if own::every_node_serves(path.service) {
            return Ok(());
        }
        let asked = Asked {
            identity,
            node,
            callee: self.own.identity.as_ref(),
            service: path.service,
            method: path.method,
            class,
            lane,
        };
        audit::enter(permitted, &asked, call.user()).map_err(|error| authorization_failure(&error))
    }

    fn is_compiled(&self, local: &LocalService) -> bool {
        let view = self.mesh.view();
        let target: Option<&Arc<Target>> = view.target(local.name.as_str());
        target.is_some_and(|target| target.said.compiled.is_some())
    }
}

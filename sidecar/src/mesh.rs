//! The mesh as this sidecar sees it: which services there are, the rule of each, and its hub.
//! Readers load one immutable view without a lock; the one writer (discovery) swaps the whole.
//! It lies below the stages, like `call`, and does no I/O.

mod view;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::{ArcSwap, Guard};
use sidelane::routing::RouteTable;
use sidelane_proto::model::{
    ConnectionClass, Generation, Lane, LoadBalancing, NodeId, Rule, ServiceName, ServiceState,
};

use crate::balance::{Hub, Strategy};
use crate::telemetry::{Metrics, TargetCounters};

pub use view::View;

/// Where a service's rule came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RuleSource {
    /// This program was compiled with it.
    Compiled,
    /// The nodes that offer the service said so.
    Offered,
    /// Nobody said anything.
    Default,
}

impl RuleSource {
    /// The word that `explain` uses.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Compiled => "compiled",
            Self::Offered => "offered",
            Self::Default => "default",
        }
    }
}

/// One service as callers see it.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its name.
    pub name: ServiceName,
    /// What it demands.
    pub rule: Arc<Rule>,
    /// Who says so.
    pub source: RuleSource,
    /// Some node offered it once.
    pub ever_seen: bool,
    /// Who offers it now.
    pub hub: Arc<Mutex<Hub>>,
    /// What is counted about its calls.
    pub counters: Arc<TargetCounters>,
}

/// A class and a lane: links of others are others.
pub type Way = (ConnectionClass, Lane);

impl Target {
    fn goes(&self, way: Way) -> bool {
        (self.rule.class, self.rule.lane) == way
    }

    /// What an endpoint's own rule must agree with; `None` where this sidecar has no rule of its
    /// own and follows what is offered.
    #[must_use]
    pub fn agreement(&self) -> Option<(ConnectionClass, Lane, bool)> {
        (self.source == RuleSource::Compiled).then(|| self.rule.agreement())
    }

    /// The hub, for a few instructions.
    pub fn hub(&self) -> MutexGuard<'_, Hub> {
        // A panic while the hub was held cannot leave it half-changed in a way that matters more
        // than every later call failing.
        self.hub.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The current view, and the way to change it.
#[derive(Debug)]
pub struct Mesh {
    view: ArcSwap<View>,
    local: Vec<ServiceName>,
    metrics: Arc<Metrics>,
}

/// A node's generation that is no longer meant by anybody: its links must go.
pub type Departed = (NodeId, Generation);

impl Mesh {
    /// A mesh in which nothing is known but the compiled rules and the services beside this
    /// sidecar, which can be called before control was ever reached.
    #[must_use]
    pub fn new(routes: RouteTable, local: Vec<ServiceName>, metrics: Arc<Metrics>) -> Self {
        let mut draft = View::default().draft();
        for rule in routes.rules() {
            let Ok(name) = ServiceName::new(&rule.service) else {
                continue;
            };
            // The first of two counts.
            if draft.get(&name).is_some() {
                continue;
            }
            draft.put(Target {
                hub: Arc::new(Mutex::new(Hub::new(strategy(rule.load_balancing)))),
                counters: metrics.target(&name, rule),
                rule: Arc::new(rule.clone()),
                source: RuleSource::Compiled,
                ever_seen: false,
                name,
            });
        }
        let mesh = Self {
            view: ArcSwap::from_pointee(draft.finish()),
            local,
            metrics,
        };
        let states: Vec<ServiceState> = mesh.local.iter().map(nobody_yet).collect();
        mesh.replace(&states, &[], Instant::now());
        mesh
    }

    /// The view as it stands, without a lock.
    pub fn view(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    /// Takes whole states in and forgets what is dropped. Returns the generations whose links
    /// must go. One writer at a time.
    pub fn replace<'a>(
        &self,
        states: impl IntoIterator<Item = &'a ServiceState>,
        dropped: &[ServiceName],
        now: Instant,
    ) -> Vec<Departed> {
        let mut draft = self.view.load().draft();
        let mut departed = Vec::new();
        for state in states {
            let target = self.updated(draft.get(&state.service), state);
            let endpoints: Vec<_> = state.endpoints.iter().cloned().map(Arc::new).collect();
            let gone = target.hub().reconcile(&endpoints, now);
            departed.extend(gone.into_iter().map(|gone| (gone.node, gone.generation)));
            draft.put(target);
        }
        for name in dropped {
            if let Some(target) = draft.get(name).cloned() {
                let gone = target.hub().reconcile(&[], now);
                departed.extend(gone.into_iter().map(|gone| (gone.node, gone.generation)));
                if target.source != RuleSource::Compiled && !self.local.contains(name) {
                    draft.remove(name);
                }
            }
        }
        self.view.store(Arc::new(draft.finish()));
        departed.sort_unstable();
        departed.dedup();
        // A node may have left one service and still serve another on the same links.
        departed.retain(|(node, generation)| !self.has(node, *generation));
        departed
    }

    /// Is this generation of this node an endpoint of any service?
    #[must_use]
    pub fn has(&self, node: &NodeId, generation: Generation) -> bool {
        self.view().targets().any(|target| {
            target
                .hub()
                .get(node.as_str())
                .is_some_and(|endpoint| endpoint.generation == generation)
        })
    }

    /// A link to this node turned out closed: no hub of this class and lane picks it until
    /// [`Mesh::ready`]; others have links of their own. True if any hub had thought it ready.
    pub fn failed(&self, node: &NodeId, generation: Generation, way: Way, now: Instant) -> bool {
        let mut any = false;
        for target in self.view().targets().filter(|target| target.goes(way)) {
            any |= target.hub().failed(node, generation, now);
        }
        any
    }

    /// The node answered in a newer generation than is known: that counts as its arrival.
    pub fn replaced(&self, node: &NodeId, old: Generation, new: Generation, now: Instant) {
        for target in self.view().targets() {
            // Whoever calls this retires the links of the old generation itself.
            target.hub().learned(node, old, new, now);
        }
    }

    /// A link to this node stands again.
    pub fn ready(&self, node: &NodeId, generation: Generation, way: Way) {
        for target in self.view().targets().filter(|target| target.goes(way)) {
            target.hub().ready(node, generation);
        }
    }

    fn updated(&self, known: Option<&Arc<Target>>, state: &ServiceState) -> Target {
        let compiled = known.filter(|target| target.source == RuleSource::Compiled);
        let (rule, source) = match compiled {
            Some(target) => (Arc::clone(&target.rule), RuleSource::Compiled),
            None => offered_rule(state),
        };
        let strategy = strategy(rule.load_balancing);
        let hub = known.map_or_else(
            || Arc::new(Mutex::new(Hub::new(strategy))),
            |target| Arc::clone(&target.hub),
        );
        let counters = match known {
            Some(target) if target.rule.agreement() == rule.agreement() => {
                Arc::clone(&target.counters)
            }
            _ => self.metrics.target(&state.service, &rule),
        };
        let here = self.local.contains(&state.service);
        let ever_seen = state.ever_seen || !state.endpoints.is_empty() || here;
        let target = Target {
            name: state.service.clone(),
            rule,
            source,
            ever_seen,
            hub,
            counters,
        };
        target.hub().set_strategy(strategy);
        target
    }
}

/// A service that is offered, and of which control has said nothing.
fn nobody_yet(service: &ServiceName) -> ServiceState {
    ServiceState {
        service: service.clone(),
        ever_seen: true,
        endpoints: Vec::new(),
    }
}

/// What the endpoints say; where they disagree, the newest generation is right.
fn offered_rule(state: &ServiceState) -> (Arc<Rule>, RuleSource) {
    let offered = state
        .endpoints
        .iter()
        .filter_map(|endpoint| Some((endpoint.generation, endpoint.offer.rule.as_ref()?)))
        .max_by_key(|(generation, _)| *generation);
    match offered {
        Some((_, rule)) => (Arc::clone(rule), RuleSource::Offered),
        None => (
            Arc::new(Rule::default_for(&state.service)),
            RuleSource::Default,
        ),
    }
}

fn strategy(asked: Option<LoadBalancing>) -> Strategy {
    Strategy::of(asked).0
}

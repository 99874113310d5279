//! The mesh as this sidecar sees it: which services there are, the rule of each, and its hub.
//! Readers load one immutable view without a lock; the one writer (discovery) swaps the whole.
//! It lies below the stages, like `call`, and does no I/O.

#[cfg(test)]
mod pushed;
mod view;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use arc_swap::Guard;
use sidelane::routing::RouteTable;
use sidelane_proto::model::{
    ConnectionClass, Generation, Lane, Locality, LocalityPreference, NodeId, Outlier, PushedRule,
    Rule, ServiceName, ServiceState,
};

use crate::admission::Admitted;
use crate::authorization::Permitted;
use crate::balance::{Hub, Strategies};
use crate::retries::Retries;
pub use crate::rules::RuleSource;
use crate::rules::Said;
use crate::telemetry::{Direction, Metrics, ServiceCounters};

pub use view::View;
use view::{Current, Draft};

/// One service as callers see it.
#[derive(Debug, Clone)]
pub struct Target {
    /// Its name.
    pub name: ServiceName,
    /// What it demands.
    pub rule: Arc<Rule>,
    /// Whose class, lane and secure these are.
    pub source: RuleSource,
    /// All that was said of it, of which `rule` was made.
    pub said: Said,
    /// What bound this node before the rule that does now, and until when that changed.
    pub moved: Option<Moved>,
    /// Some node offered it once.
    pub ever_seen: bool,
    /// Who offers it now.
    pub hub: Arc<Mutex<Hub>>,
    /// What its calls may have of further attempts.
    pub retries: Arc<Retries>,
    /// What is admitted of its calls; `None` where its rule says nothing of it.
    pub admitted: Option<Arc<Admitted>>,
    /// Who may call it, where it is beside this sidecar; `None` where nobody said anything of it.
    pub permitted: Option<Arc<Permitted>>,
    /// What is counted about its calls.
    pub counters: Arc<ServiceCounters>,
    /// What is counted about the calls that peers send, where it is beside this sidecar.
    pub inbound: Option<Arc<ServiceCounters>>,
}

/// A rule that was replaced while the mesh runs.
#[derive(Debug, Clone)]
pub struct Moved {
    /// What bound this node before; `None` where nothing did.
    pub before: Option<Arc<Rule>>,
    /// When it was replaced.
    pub at: Instant,
}

/// A class and a lane: links of others are others.
pub type Way = (ConnectionClass, Lane);

impl Target {
    fn goes(&self, way: Way) -> bool {
        (self.rule.class, self.rule.lane) == way
    }

    /// The rule that binds this node, as caller and as callee; `None` where it follows what others
    /// say.
    #[must_use]
    pub fn binding(&self) -> Option<&Arc<Rule>> {
        self.source.binds().then_some(&self.rule)
    }

    /// What an endpoint's own rule must agree with; `None` where this sidecar has no rule of its
    /// own and follows what is offered.
    #[must_use]
    pub fn agreement(&self) -> Option<(ConnectionClass, Lane, bool)> {
        self.binding().map(|rule| rule.agreement())
    }

    /// Is it known here that there is such a service, whether or not somebody offers it?
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.ever_seen || self.said.compiled.is_some() || self.said.pushed.is_some()
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
    view: Current,
    local: Vec<ServiceName>,
    strategies: Strategies,
    metrics: Arc<Metrics>,
    /// Where this node stands.
    own: Locality,
}

/// A node's generation that is no longer meant by anybody: its links must go.
pub type Departed = (NodeId, Generation);

impl Mesh {
    /// A mesh in which nothing is known but the compiled rules and the services beside this
    /// sidecar, which can be called before control was ever reached.
    #[must_use]
    pub fn new(routes: RouteTable, local: Vec<ServiceName>, metrics: Arc<Metrics>) -> Self {
        Self::with_strategies(routes, local, Strategies::default(), metrics)
    }

    /// The same, with strategies of the project's own.
    #[must_use]
    pub fn with_strategies(
        routes: RouteTable,
        local: Vec<ServiceName>,
        strategies: Strategies,
        metrics: Arc<Metrics>,
    ) -> Self {
        let mesh = Self {
            view: Current::default(),
            local,
            strategies,
            metrics,
            own: Locality::default(),
        };
        let mut draft = View::default().draft();
        for rule in routes.rules() {
            let Ok(name) = ServiceName::new(&rule.service) else {
                continue;
            };
            // The first of two counts.
            if draft.get(&name).is_none() {
                let said = Said {
                    compiled: Some(Arc::new(rule.clone())),
                    ..Said::default()
                };
                draft.put(mesh.ruled(&name, None, said, Instant::now()));
            }
        }
        mesh.view.store(draft.finish());
        let states: Vec<ServiceState> = mesh.local.iter().map(nobody_yet).collect();
        mesh.replace(&states, &[], Instant::now());
        mesh
    }

    /// The same mesh, seen from there.
    #[must_use]
    pub fn standing_at(mut self, own: Locality) -> Self {
        for target in self.view().targets() {
            target.hub().stand_at(own.clone());
        }
        self.own = own;
        self
    }

    /// The strategies that rules can name beside Sidelane's.
    #[must_use]
    pub const fn strategies(&self) -> &Strategies {
        &self.strategies
    }

    /// The view as it stands, without a lock.
    pub fn view(&self) -> Guard<Arc<View>> {
        self.view.load()
    }

    /// What the view says, for a call: once, and at the least cost.
    #[inline]
    pub fn look<T>(&self, look: impl FnOnce(&View) -> T) -> T {
        self.view.look(look)
    }

    /// Takes whole states in and forgets what is dropped. Returns the generations whose links
    /// must go. One writer at a time.
    pub fn replace<'a>(
        &self,
        states: impl IntoIterator<Item = &'a ServiceState>,
        dropped: &[ServiceName],
        now: Instant,
    ) -> Vec<Departed> {
        self.take(states, dropped, (&[], &[]), now)
    }

    /// As [`Mesh::replace`], with pushed rules that are new or changed, and the services that have
    /// none any more. All of it holds at once.
    pub fn take<'a>(
        &self,
        states: impl IntoIterator<Item = &'a ServiceState>,
        dropped: &[ServiceName],
        (rules, rules_dropped): (&[PushedRule], &[ServiceName]),
        now: Instant,
    ) -> Vec<Departed> {
        let mut draft = self.view.load().draft();
        let mut departed = Vec::new();
        for state in states {
            let known = draft.get(&state.service);
            let said = Said {
                offered: offered_rule(state),
                ..known.map(|target| target.said.clone()).unwrap_or_default()
            };
            let mut target = self.ruled(&state.service, known, said, now);
            let here = self.local.contains(&state.service);
            target.ever_seen = state.ever_seen || !state.endpoints.is_empty() || here;
            let endpoints: Vec<_> = state.endpoints.iter().cloned().map(Arc::new).collect();
            let gone = target.hub().reconcile(&endpoints, now);
            departed.extend(gone.into_iter().map(|gone| (gone.node, gone.generation)));
            draft.put(target);
        }
        for name in dropped {
            if let Some(target) = draft.get(name).cloned() {
                let gone = target.hub().reconcile(&[], now);
                departed.extend(gone.into_iter().map(|gone| (gone.node, gone.generation)));
                let said = Said {
                    offered: None,
                    ..target.said.clone()
                };
                let mut target = self.ruled(name, Some(&target), said, now);
                target.ever_seen = self.local.contains(name);
                draft.put(target);
                self.forget_unless_meant(&mut draft, name);
            }
        }
        let rules = rules.iter().filter_map(|rule| {
            let name = ServiceName::new(&rule.rule.service).ok()?;
            Some((name, Some(rule.clone())))
        });
        let rules_dropped = rules_dropped.iter().map(|name| (name.clone(), None));
        for (name, pushed) in rules_dropped.chain(rules) {
            let known = draft.get(&name);
            if known.is_none() && pushed.is_none() {
                continue;
            }
            let said = Said {
                pushed,
                ..known.map(|target| target.said.clone()).unwrap_or_default()
            };
            let target = self.ruled(&name, known, said, now);
            let seen = target.ever_seen;
            draft.put(target);
            if !seen {
                self.forget_unless_meant(&mut draft, &name);
            }
        }
        self.view.store(draft.finish());
        departed.sort_unstable();
        departed.dedup();
        // A node may have left one service and still serve another on the same links.
        departed.retain(|(node, generation)| !self.has(node, *generation));
        departed
    }

    /// Takes a service out that nobody here has anything to do with.
    fn forget_unless_meant(&self, draft: &mut Draft, name: &ServiceName) {
        let meant =
            |target: &Arc<Target>| target.said.compiled.is_some() || target.said.pushed.is_some();
        if !self.local.contains(name) && !draft.get(name).is_some_and(meant) {
            draft.remove(name);
        }
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

    /// The target of which this was said, with what is known of its endpoints.
    fn ruled(
        &self,
        name: &ServiceName,
        known: Option<&Arc<Target>>,
        said: Said,
        now: Instant,
    ) -> Target {
        let (rule, source) = match known {
            Some(known) if known.said == said => (Arc::clone(&known.rule), known.source),
            _ => said.ruling(name),
        };
        let (strategy, _) = self.strategies.serving(&rule);
        let hub = known.map_or_else(
            || {
                let mut hub = Hub::new(strategy);
                hub.stand_at(self.own.clone());
                Arc::new(Mutex::new(hub))
            },
            |target| Arc::clone(&target.hub),
        );
        let here = self.local.contains(name);
        let permitted = match known {
            Some(known) if known.said == said => known.permitted.clone(),
            _ => Permitted::under(&said, here, || self.metrics.authorization(name)),
        };
        let before = known.and_then(|known| known.admitted.as_ref());
        let admitted = Admitted::under(&rule, &said, before, || self.metrics.admission(name), now);
        let same = known.filter(|known| known.rule.agreement() == rule.agreement());
        let counted = |direction, before: Option<&Arc<ServiceCounters>>| match before {
            Some(before) if before.fits(&rule) => Arc::clone(before),
            _ => self.metrics.service(name, direction, &rule),
        };
        let counters = counted(Direction::Outbound, known.map(|known| &known.counters));
        let before = known.and_then(|known| known.inbound.as_ref());
        let inbound = here.then(|| counted(Direction::Inbound, before));
        let budget = rule.retry_budget();
        let mut target = Target {
            name: name.clone(),
            rule,
            source,
            said,
            moved: known.and_then(|known| known.moved.clone()),
            ever_seen: known.is_some_and(|known| known.ever_seen),
            hub,
            retries: known.map_or_else(
                || Arc::new(Retries::new(budget, now)),
                |known| Arc::clone(&known.retries),
            ),
            admitted,
            permitted,
            counters,
            inbound,
        };
        if let Some(known) = known {
            let agreement = |target: &Target| target.agreement();
            if agreement(known) != agreement(&target) {
                target.moved = Some(Moved {
                    before: known.binding().cloned(),
                    at: now,
                });
            }
            if same.is_none() {
                reopen(&mut target.hub());
            }
        }
        let mut hub = target.hub();
        hub.set_strategy(strategy);
        hub.set_breaker(
            target.rule.breaker,
            target.rule.outlier.unwrap_or(Outlier::DEFAULT),
            now,
        );
        hub.set_split(target.rule.split.as_ref());
        hub.prefer_near(rule_prefers_near(&target.rule));
        hub.set_slow_start(target.rule.balancing.slow_start);
        drop(hub);
        target
    }
}

/// It does unless it says otherwise.
fn rule_prefers_near(rule: &Rule) -> bool {
    rule.balancing.locality != Some(LocalityPreference::Ignore)
}

/// What is known of links is known of one class and lane: in another one every endpoint is worth
/// a try.
fn reopen(hub: &mut Hub) {
    let closed: Vec<_> = hub
        .iter()
        .map(|endpoint| (endpoint.node.clone(), endpoint.generation))
        .collect();
    for (node, generation) in closed {
        hub.ready(&node, generation);
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
fn offered_rule(state: &ServiceState) -> Option<Arc<Rule>> {
    let offered = state
        .endpoints
        .iter()
        .filter_map(|endpoint| Some((endpoint.generation, endpoint.offer.rule.as_ref()?)))
        .max_by_key(|(generation, _)| *generation);
    offered.map(|(_, rule)| Arc::clone(rule))
}

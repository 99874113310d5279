//! Rules that people apply to the running mesh: judged as a whole, made durable, and then published
//! by the registry as one version. One at a time, so that what was judged is still so when it is
//! published. It knows neither who asks nor who is told.

mod check;

use std::sync::Arc;
use std::time::Duration;

use sidelane_proto::model::{Network, PushedRule, RefusedRule, ServiceName, Validation};
use tokio::sync::{Mutex, Semaphore};

use crate::registry::rules::same;
use crate::registry::{Closed, Registry, RuleBook, RuleChanges};
use crate::store::{Ahead, Writes};

/// How long the store may take. Past it the caller is told that nobody knows; a disk that hangs
/// must not hold up everybody who comes later for good.
pub const STORE_LIMIT: Duration = Duration::from_secs(10);

/// Proposals at once: one that is carried out, and others that wait for it. Each may be as large as
/// all rules together.
pub const PROPOSALS_LIMIT: usize = 8;

/// What people ask to be done, all of it or nothing.
#[derive(Debug, Clone)]
pub struct Proposal {
    /// The network whose rules they are.
    pub network: Network,
    /// Each replaces the rule of its service; none is there twice.
    pub rules: Vec<PushedRule>,
    /// Services whose rule is taken back, as they were given.
    pub remove: Vec<String>,
    /// Only to be judged.
    pub dry_run: bool,
}

/// What became of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The first version with all of it; the newest where nothing changed.
    pub version: u64,
    /// One for each service that was named, in order.
    pub changes: Vec<(ServiceName, Change)>,
}

/// How a service's rule differs from the one before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// There was none.
    Added,
    /// Something in it is new.
    Changed,
    /// It is the same.
    Unchanged,
    /// It was taken back.
    Removed,
}

/// Why nothing was applied.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NotApplied {
    /// Something in it is wrong.
    #[error("{} rules are refused", .0.len())]
    Refused(Vec<RefusedRule>),
    /// Too many others wait.
    #[error("{PROPOSALS_LIMIT} others apply rules at this moment; try again")]
    Busy,
    /// It cannot be kept.
    #[error("nothing was applied: {0}")]
    Store(String),
    /// The store does not answer.
    #[error(
        "the store did not answer within {} s; nothing was pushed, but the rules may hold after a \
         restart of control: apply them again when its disk answers", STORE_LIMIT.as_secs()
    )]
    Unknown,
    /// The registry has ended.
    #[error(transparent)]
    Closed(#[from] Closed),
}

/// What the project demands of every rule.
#[derive(Clone, Default)]
pub struct Validations(Vec<Arc<dyn Validation>>);

/// The way to apply rules.
#[derive(Debug, Clone)]
pub struct Rules(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    registry: Registry,
    store: Ahead,
    validations: Validations,
    room: Arc<Semaphore>,
    /// Held from the judgement to the publication.
    turn: Mutex<()>,
}

impl Rules {
    /// Over this registry and this store.
    #[must_use]
    pub fn new(registry: Registry, store: Ahead, validations: Validations) -> Self {
        Self(Arc::new(Shared {
            registry,
            store,
            validations,
            room: Arc::new(Semaphore::new(PROPOSALS_LIMIT)),
            turn: Mutex::default(),
        }))
    }

    /// Applies a proposal. It is carried to its end also if nobody waits for it any longer: half
    /// of it would be rules on disk of which no sidecar hears.
    ///
    /// # Errors
    /// Why nothing was applied.
    pub async fn apply(&self, proposal: Proposal) -> Result<Outcome, NotApplied> {
        let shared = Arc::clone(&self.0);
        let place = Arc::clone(&shared.room).try_acquire_owned();
        let place = place.map_err(|_| NotApplied::Busy)?;
        // It ends by itself: the store has a time limit, and the registry ends with the process.
        let applying = tokio::spawn(async move {
            let _place = place;
            shared.apply(proposal).await
        });
        applying.await.unwrap_or(Err(NotApplied::Closed(Closed)))
    }
}

impl Shared {
    async fn apply(&self, proposal: Proposal) -> Result<Outcome, NotApplied> {
        let _turn = self.turn.lock().await;
        let nodes = self.registry.nodes().await?;
        let snapshot = self.registry.snapshot();
        let judged = check::check(&proposal, snapshot.rules(), &nodes, &self.validations.0);
        let remove = judged.map_err(NotApplied::Refused)?;
        let Plan { outcome, edits } = plan(&proposal, remove, snapshot.rules());
        let unchanged = Outcome {
            version: snapshot.counter(),
            changes: outcome,
        };
        if proposal.dry_run || edits.is_empty() {
            return Ok(unchanged);
        }
        check::learn(&proposal).map_err(NotApplied::Refused)?;
        let network = proposal.network;
        let keyed = edits.iter().map(|(service, rule)| {
            let key = (network.clone(), service.clone());
            (key, (0, rule.clone()))
        });
        let writes = Writes {
            rules: keyed.collect(),
            ..Writes::default()
        };
        let written = tokio::time::timeout(STORE_LIMIT, self.store.commit(writes));
        let written = written.await.map_err(|_| NotApplied::Unknown)?;
        written.map_err(NotApplied::Store)?;
        let version = self.registry.apply_rules(network, edits).await?;
        tracing::info!(version, "rules were applied");
        Ok(Outcome {
            version,
            ..unchanged
        })
    }
}

struct Plan {
    outcome: Vec<(ServiceName, Change)>,
    edits: RuleChanges,
}

/// What a proposal changes, against what is applied.
fn plan(proposal: &Proposal, remove: Vec<ServiceName>, book: &RuleBook) -> Plan {
    let mut plan = Plan {
        outcome: Vec::with_capacity(proposal.rules.len() + remove.len()),
        edits: Vec::new(),
    };
    for rule in &proposal.rules {
        // It was read from the wire: it has a service's name.
        let Ok(service) = ServiceName::new(&rule.rule.service) else {
            continue;
        };
        let change = match book.get(&proposal.network, &service) {
            None => Change::Added,
            Some(known) if same(known, rule) => Change::Unchanged,
            Some(_) => Change::Changed,
        };
        if change != Change::Unchanged {
            let rule = Some(Arc::new(rule.clone()));
            plan.edits.push((service.clone(), rule));
        }
        plan.outcome.push((service, change));
    }
    for service in remove {
        plan.edits.push((service.clone(), None));
        plan.outcome.push((service, Change::Removed));
    }
    plan
}

impl Validations {
    /// One more demand.
    pub fn add(&mut self, validation: impl Validation + 'static) {
        self.0.push(Arc::new(validation));
    }
}

impl std::fmt::Debug for Validations {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let names = self.0.iter().map(|validation| validation.name());
        formatter.debug_list().entries(names).finish()
    }
}

#[cfg(test)]
mod tests;

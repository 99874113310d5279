//! What a sidecar holds of the mesh: whole states of services, merged from control's updates. Pure:
//! it stands between the control stream and everything that routes by the result, and it must
//! never hold half an update, nor let older news replace newer.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use sidelane_proto::model::{
    Endpoint, FieldError, Generation, NodeId, Problem, PushedRule, RefusedRule, Removal,
    ServiceName, ServiceState, Update, Version,
};
use sidelane_proto::wire::control::v1 as wire;

use super::rules::{HeldRules, Judge};

/// The most endpoints of one service: ten times what one mesh is built for, so that a control plane
/// gone wrong cannot fill the memory of every sidecar.
pub const ENDPOINTS_LIMIT: usize = 100_000;

/// The validated picture of the mesh, as far as it was asked for. Endpoints of a service are in
/// the order of their node ids, so that two pictures with the same content are equal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Held {
    version: Option<Version>,
    /// An update was refused, and none was full since: what is held is of no one version.
    gap: bool,
    /// Held as they were before control said of them what was refused. Control leaves them out of
    /// what it says next, and to drop them for that would be to lose the last good state.
    refused: BTreeSet<ServiceName>,
    /// No update was taken yet on the stream that is open.
    resuming: bool,
    services: BTreeMap<ServiceName, Arc<ServiceState>>,
    rules: HeldRules,
}

/// What one update changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// What is held now.
    pub version: Version,
    /// The whole new state of each service that is not as it was.
    pub services: Vec<Arc<ServiceState>>,
    /// Services that are no longer held.
    pub dropped: Vec<ServiceName>,
    /// Pushed rules that are new or changed.
    pub rules: Vec<PushedRule>,
    /// Services whose pushed rule holds no longer.
    pub rules_dropped: Vec<ServiceName>,
}

impl Change {
    fn nothing(version: Version) -> Self {
        Self {
            version,
            services: Vec::new(),
            dropped: Vec::new(),
            rules: Vec::new(),
            rules_dropped: Vec::new(),
        }
    }

    /// Does it bring a new version alone?
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let rules = self.rules.is_empty() && self.rules_dropped.is_empty();
        rules && self.services.is_empty() && self.dropped.is_empty()
    }
}

impl Held {
    /// What is held; `None` before the first update.
    #[must_use]
    pub fn version(&self) -> Option<&Version> {
        self.version.as_ref()
    }

    /// The version to resume from: all that came before it was taken. `None` after a refusal, until
    /// nothing can be missing any more: a delta since the version before the refusal would not name
    /// a node that came after it, was taken, and has left; so only a full picture helps.
    #[must_use]
    pub fn whole_since(&self) -> Option<&Version> {
        let whole = !self.gap && self.refused.is_empty();
        self.version.as_ref().filter(|_| whole)
    }

    /// The services of which control's last word was refused, in the order of their names.
    pub fn refused(&self) -> impl ExactSizeIterator<Item = &ServiceName> {
        self.refused.iter()
    }

    /// The pushed rules that are held, in the order of their services.
    pub fn rules(&self) -> impl ExactSizeIterator<Item = &PushedRule> {
        self.rules.iter()
    }

    /// The services whose pushed rule is held.
    pub(super) fn rule_services(&self) -> impl Iterator<Item = &ServiceName> {
        self.rules.services()
    }

    /// The rules of which control's last word was refused, in the order of their services.
    pub fn refused_rules(&self) -> impl ExactSizeIterator<Item = &RefusedRule> {
        self.rules.refused()
    }

    /// What is offered here, so that its rules are told without a subscription.
    pub(super) fn offered(&self) -> impl Iterator<Item = &ServiceName> {
        self.rules.offered()
    }

    /// Control is told what this node offers from now on.
    pub(super) fn offer(&mut self, services: impl IntoIterator<Item = ServiceName>) {
        self.rules.offer(services);
    }

    /// Nothing has come yet on the stream that is open.
    pub(super) fn begins(&self) -> bool {
        self.resuming
    }

    /// Nothing has come yet on the stream that is open, and what is held is nothing to resume from:
    /// the first update will state everything anew.
    pub(super) fn awaits_whole(&self) -> bool {
        self.resuming && self.whole_since().is_none()
    }

    /// The state of one service, if it is held.
    #[must_use]
    pub fn service(&self, service: &ServiceName) -> Option<&Arc<ServiceState>> {
        self.services.get(service)
    }

    /// All states, in the order of their names.
    pub fn services(&self) -> impl ExactSizeIterator<Item = &Arc<ServiceState>> {
        self.services.values()
    }

    /// Everything as one change, for a reader that starts with nothing. `None` before the first
    /// update.
    #[must_use]
    pub fn as_change(&self) -> Option<Change> {
        Some(Change {
            services: self.services.values().cloned().collect(),
            rules: self.rules.iter().cloned().collect(),
            ..Change::nothing(self.version.clone()?)
        })
    }

    /// Everything as one update, `None` before the first one. It is full unless something was
    /// refused: then it is no picture of its version, and nothing may be resumed from it. In
    /// `rules_removed` stands what is known to have no rule.
    #[must_use]
    pub fn to_wire(&self) -> Option<wire::Update> {
        let version = self.version.as_ref()?;
        Some(wire::Update {
            version: Some(version.into()),
            full: self.whole_since().is_some() && self.rules.refused().len() == 0,
            services: self.services().map(|state| (&**state).into()).collect(),
            upserts: Vec::new(),
            removals: Vec::new(),
            rules: self.rules.iter().map(Into::into).collect(),
            rules_removed: self
                .rules
                .without()
                .map(|service| service.as_str().to_owned())
                .collect(),
        })
    }

    /// Merges an update in: all of it, or nothing.
    ///
    /// Within a service an endpoint of an older generation than the one held is ignored, and a
    /// removal counts only for the generation that it names. A full update drops what it does not
    /// name, except services whose news were refused and have not come in a good form since.
    ///
    /// # Errors
    /// The path of the field that cannot be: a version that goes back (unless a full update begins
    /// a stream), a store that is not the one held (unless the update is full), a service stated
    /// twice, an endpoint that comes and leaves, more endpoints of one service than
    /// [`ENDPOINTS_LIMIT`].
    pub fn apply(&mut self, update: Update) -> Result<Change, FieldError> {
        self.apply_taking(update, |_, _| true, |_| true)
    }

    /// Refuses those rules of an update that cannot be taken, those of services for which `takes`
    /// is false left out. They refuse nothing but themselves.
    pub(super) fn judge_rules(
        &self,
        update: &mut Update,
        takes: impl Fn(&str) -> bool,
        judge: impl Fn(&PushedRule) -> Result<(), FieldError>,
    ) {
        self.rules.judge(update, takes, judge);
    }

    /// Takes out the held rules that do not pass, and says which.
    pub fn recheck_rules(&mut self, judge: &Judge) -> Vec<(PushedRule, FieldError)> {
        let refused = self.rules.recheck(judge);
        // Control would not say them again to whoever claims to have them.
        self.gap |= !refused.is_empty();
        refused
    }

    /// As [`Held::apply`], leaving out the entries of services for which `takes` is false. Its
    /// second argument says whether the update brings the service's whole state. `takes_rule` is
    /// asked about rules, which are whole always.
    pub(super) fn apply_taking(
        &mut self,
        update: Update,
        takes: impl Fn(&ServiceName, bool) -> bool,
        takes_rule: impl Fn(&str) -> bool,
    ) -> Result<Change, FieldError> {
        self.check_version(&update)?;
        check_removals(&update)?;
        let full = update.full;
        let mut drafts: BTreeMap<ServiceName, Draft> = BTreeMap::new();
        for (index, state) in update.services.into_iter().enumerate() {
            if drafts.contains_key(&state.service) {
                let given = state.service.to_string();
                let path = format!("services[{index}].service");
                return Err(FieldError::new(path, Problem::Duplicate { given }));
            }
            drafts.insert(state.service.clone(), Draft::of(state));
        }
        for endpoint in update.upserts {
            let service = &endpoint.offer.service;
            if let Some(draft) = drafts.get_mut(service) {
                draft.upsert(endpoint);
            } else if takes(service, full) {
                let mut draft = self.draft(service, full);
                let service = service.clone();
                draft.upsert(endpoint);
                drafts.insert(service, draft);
            }
        }
        for removal in &update.removals {
            if let Some(draft) = drafts.get_mut(&removal.service) {
                draft.remove(removal);
            } else if takes(&removal.service, full) && self.services.contains_key(&removal.service)
            {
                let mut draft = self.draft(&removal.service, full);
                draft.remove(removal);
                drafts.insert(removal.service.clone(), draft);
            }
        }
        // Whole states were drafted without asking, so that a service stated twice is seen even
        // where nobody wants it. What was begun by a delta has been asked about already.
        drafts.retain(|service, draft| !draft.whole || takes(service, true));
        if let Some(count) = drafts.values().map(|draft| draft.endpoints.len()).max()
            && count > ENDPOINTS_LIMIT
        {
            let limit = ENDPOINTS_LIMIT;
            return Err(FieldError::new(
                "upserts",
                Problem::TooMany { count, limit },
            ));
        }
        let blamed = self.refused.clone();
        let mut change = self.commit(update.version, full, drafts);
        let rules = (update.rules, update.refused, update.rules_removed);
        let merged = self.rules.merge(full, rules, takes_rule, &blamed);
        change.rules = merged.rules;
        change.rules_dropped = merged.dropped;
        Ok(change)
    }

    /// Remembers that an update was refused, and on account of which services: of these the last
    /// good state stays until a good one comes, and from here on the stream's deltas may build on
    /// something that is not held.
    pub fn refuse(&mut self, services: impl IntoIterator<Item = ServiceName>) {
        self.gap = true;
        self.refused.extend(services);
    }

    /// A new stream begins, whose deltas count from [`Held::whole_since`]. Its first update may be
    /// full and older than what is held: control was told what that is, and says that its store has
    /// lost those versions (it was restored from a copy). To refuse that would be to refuse control
    /// until its counter has caught up.
    ///
    /// What it offers is told on it, too. Where it is not known which rule that has, because it was
    /// not offered when the last full update came, only another one helps.
    pub fn resume(&mut self, offered: impl IntoIterator<Item = ServiceName>) {
        self.resuming = true;
        self.rules.offer(offered);
        let held = |service: &ServiceName| self.services.contains_key(service);
        self.gap |= !self.rules.complete(held);
    }

    /// Holds these services no more, but for the rules of those that are offered here. `None` if
    /// none of them was held.
    pub fn forget<'a>(
        &mut self,
        services: impl IntoIterator<Item = &'a ServiceName>,
    ) -> Option<Change> {
        let (mut dropped, mut rules_dropped) = (Vec::new(), Vec::new());
        for service in services {
            self.refused.remove(service);
            if self.rules.forget(service) {
                rules_dropped.push(service.clone());
            }
            dropped.extend(self.services.remove_entry(service).map(|(name, _)| name));
        }
        let change = Change {
            dropped,
            rules_dropped,
            ..Change::nothing(self.version.clone()?)
        };
        (!change.is_empty()).then_some(change)
    }

    fn check_version(&self, update: &Update) -> Result<(), FieldError> {
        let Some(held) = &self.version else {
            return Ok(());
        };
        let given = &update.version;
        if given.store != held.store && !update.full {
            let text = format!(
                "`{}` is not the store of what is held, `{}`, and the update is not full",
                given.store, held.store
            );
            let problem = Problem::Contradiction(text);
            return Err(FieldError::new("version.store_id", problem));
        }
        let begins_anew = self.resuming && update.full;
        if given.store == held.store && given.counter < held.counter && !begins_anew {
            let text = format!(
                "{} is older than {}, which is held",
                given.counter, held.counter
            );
            let problem = Problem::Contradiction(text);
            return Err(FieldError::new("version.counter", problem));
        }
        Ok(())
    }

    fn draft(&self, service: &ServiceName, full: bool) -> Draft {
        match self.services.get(service) {
            Some(state) if !full => Draft {
                whole: false,
                ..Draft::of(ServiceState::clone(state))
            },
            _ => Draft::default(),
        }
    }

    fn commit(
        &mut self,
        version: Version,
        full: bool,
        drafts: BTreeMap<ServiceName, Draft>,
    ) -> Change {
        if full {
            self.gap = false;
        }
        for (service, draft) in &drafts {
            let stated = full || draft.whole;
            if (stated || draft.upserted) && self.refused.remove(service) {
                // A lone endpoint is good news, and still not all that was refused.
                self.gap |= !stated;
            }
        }
        let dropped: Vec<ServiceName> = if full {
            let gone = |service: &&ServiceName| {
                !drafts.contains_key(*service) && !self.refused.contains(*service)
            };
            self.services.keys().filter(gone).cloned().collect()
        } else {
            Vec::new()
        };
        for service in &dropped {
            self.services.remove(service);
        }
        let mut services = Vec::new();
        for (service, draft) in drafts {
            let state = draft.into_state(service);
            let held = self.services.get(&state.service);
            if held.is_none_or(|held| **held != state) {
                let state = Arc::new(state);
                self.services
                    .insert(state.service.clone(), Arc::clone(&state));
                services.push(state);
            }
        }
        self.version = Some(version.clone());
        self.resuming = false;
        Change {
            services,
            dropped,
            ..Change::nothing(version)
        }
    }
}

/// An endpoint that comes and leaves in one update, at one generation: nobody can tell which of
/// the two is the later news.
fn check_removals(update: &Update) -> Result<(), FieldError> {
    if update.removals.is_empty() {
        return Ok(());
    }
    let coming: HashMap<(&ServiceName, &NodeId), Generation> = update
        .upserts
        .iter()
        .map(|endpoint| {
            let key = (&endpoint.offer.service, &endpoint.node);
            (key, endpoint.generation)
        })
        .collect();
    for (index, removal) in update.removals.iter().enumerate() {
        let key = (&removal.service, &removal.node);
        if coming.get(&key) == Some(&removal.generation) {
            let text = format!(
                "generation {} of `{}` is also in upserts",
                removal.generation, removal.node
            );
            let path = format!("removals[{index}].generation");
            return Err(FieldError::new(path, Problem::Contradiction(text)));
        }
    }
    Ok(())
}

/// A service's state while an update is merged into it.
#[derive(Default)]
struct Draft {
    /// The update brought the whole state, rather than changes to what was held.
    whole: bool,
    /// The update brought an endpoint.
    upserted: bool,
    ever_seen: bool,
    endpoints: BTreeMap<NodeId, Endpoint>,
}

impl Draft {
    fn of(state: ServiceState) -> Self {
        let keyed = |endpoint: Endpoint| (endpoint.node.clone(), endpoint);
        Self {
            whole: true,
            upserted: false,
            ever_seen: state.ever_seen,
            endpoints: state.endpoints.into_iter().map(keyed).collect(),
        }
    }

    fn upsert(&mut self, endpoint: Endpoint) {
        self.ever_seen = true;
        self.upserted = true;
        let held = self.endpoints.get(&endpoint.node);
        if held.is_none_or(|held| held.generation <= endpoint.generation) {
            self.endpoints.insert(endpoint.node.clone(), endpoint);
        }
    }

    fn remove(&mut self, removal: &Removal) {
        let held = self.endpoints.get(&removal.node);
        if held.is_some_and(|held| held.generation == removal.generation) {
            self.endpoints.remove(&removal.node);
        }
    }

    fn into_state(self, service: ServiceName) -> ServiceState {
        ServiceState {
            service,
            ever_seen: self.ever_seen,
            endpoints: self.endpoints.into_values().collect(),
        }
    }
}

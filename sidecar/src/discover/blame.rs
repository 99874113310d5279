//! Which services a refused update failed for: control holds these back after the refusal, so that
//! what is held of them must stay. Pure; it stands beside `session` and reads an update as it came
//! over the wire, because a refused one may never have become more. It must never blame too few.

use std::collections::BTreeSet;

use sidelane_proto::model::ServiceName;
use sidelane_proto::wire::control::v1 as wire;

/// The services of each list of an update, in its order, as control named them.
#[derive(Debug)]
pub(super) struct Named {
    services: Vec<String>,
    upserts: Vec<String>,
    removals: Vec<String>,
    /// Of new rules, and of those that were taken back.
    rules: Vec<String>,
}

impl Named {
    pub(super) fn of(update: &wire::Update) -> Self {
        let states = update.services.iter().map(|state| state.service.clone());
        let upserts = update.upserts.iter().map(|new| new.service.clone());
        let removals = update.removals.iter().map(|gone| gone.service.clone());
        let rules = update.rules.iter().flat_map(|pushed| &pushed.rule);
        let rules = rules.map(|rule| rule.service.clone());
        Self {
            services: states.collect(),
            upserts: upserts.collect(),
            removals: removals.collect(),
            rules: rules.chain(update.rules_removed.iter().cloned()).collect(),
        }
    }

    /// The service of a field such as `upserts[3].addresses.internal`; every service of the update
    /// where the field is not of one entry, or the entry's own name cannot be read.
    pub(super) fn blamed(&self, field: &str) -> BTreeSet<ServiceName> {
        if let Some(service) = self.entry(field).map(String::as_str).and_then(read) {
            return BTreeSet::from([service]);
        }
        let all = [&self.services, &self.upserts, &self.removals, &self.rules];
        let names = all.into_iter().flatten();
        names.filter_map(|name| read(name)).collect()
    }

    fn entry(&self, field: &str) -> Option<&String> {
        let (list, rest) = field.split_once('[')?;
        let (index, _) = rest.split_once(']')?;
        let index: usize = index.parse().ok()?;
        match list {
            "services" => self.services.get(index),
            "upserts" => self.upserts.get(index),
            "removals" => self.removals.get(index),
            _ => None,
        }
    }
}

/// A name that cannot be read is of nothing that could be held.
fn read(name: &str) -> Option<ServiceName> {
    ServiceName::new(name).ok()
}

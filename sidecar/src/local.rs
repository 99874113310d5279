//! The services beside this sidecar: their names, their rules and where each listens. Below the
//! stages, like `call`.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use sidelane_proto::model::endpoint::DEFAULT_WEIGHT;
use sidelane_proto::model::{Rule, ServiceName};

use crate::hash::QuickState;
use crate::pool::Address;

/// One service beside this sidecar.
#[derive(Debug)]
pub struct LocalService {
    /// Its name.
    pub name: ServiceName,
    /// The rule that this sidecar was compiled with.
    pub rule: Option<Arc<Rule>>,
    /// Where it listens.
    pub address: Address,
}

/// All services beside this sidecar.
#[derive(Debug)]
pub struct LocalServices {
    services: HashMap<ServiceName, Arc<LocalService>, QuickState>,
    /// In the order in which they were given.
    order: Vec<ServiceName>,
    weight: u32,
    /// What is said of all of them.
    labels: BTreeMap<String, String>,
}

impl Default for LocalServices {
    fn default() -> Self {
        Self {
            services: HashMap::default(),
            order: Vec::new(),
            weight: DEFAULT_WEIGHT,
            labels: BTreeMap::new(),
        }
    }
}

impl LocalServices {
    /// From names and addresses, each name once.
    #[must_use]
    pub fn new(
        given: Vec<(ServiceName, Address)>,
        rule_of: impl Fn(&ServiceName) -> Option<Arc<Rule>>,
    ) -> Self {
        let mut local = Self::default();
        for (name, address) in given {
            let rule = rule_of(&name);
            let service = LocalService {
                name: name.clone(),
                rule,
                address,
            };
            local.order.push(name.clone());
            local.services.insert(name, Arc::new(service));
        }
        local
    }

    /// The same services, with this share of the calls in relation to other nodes.
    #[must_use]
    pub fn with_weight(mut self, weight: u32) -> Self {
        self.weight = weight;
        self
    }

    /// Their share of the calls in relation to other nodes.
    #[must_use]
    pub const fn weight(&self) -> u32 {
        self.weight
    }

    /// The same services with these labels, by which traffic splits tell versions apart.
    #[must_use]
    pub fn labelled(mut self, labels: BTreeMap<String, String>) -> Self {
        self.labels = labels;
        self
    }

    /// What is said of all of them.
    #[must_use]
    pub fn labels(&self) -> &BTreeMap<String, String> {
        &self.labels
    }

    /// The service of this name, if it is here.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&Arc<LocalService>> {
        self.services.get(name)
    }

    /// All of them, in the order in which they were given.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<LocalService>> {
        self.order.iter().filter_map(|name| self.services.get(name))
    }
}

//! What people and tools ask: over gRPC (`sidelane.admin.v1.Mesh`) and over HTTP (probes and
//! metrics). It reads what the others hold; what changes something goes through `crate::rules`.

mod identity;
mod mesh;
mod metrics;
mod pages;
mod rules;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::ca::Authority;
use crate::claim::Claims;
use crate::push::{Counters, Directory};
use crate::registry::Registry;
use crate::rules::Rules;
use crate::serve::ConnectionCounters;
use crate::source::fixed::FixedStatus;
use crate::store::StoreStatus;

pub use mesh::{REQUEST_LIMIT, WAIT_LIMIT, WAITERS_LIMIT};
pub(crate) use mesh::{reflection, service};
pub use pages::pages;

/// Everything that can be asked about.
#[derive(Debug)]
pub struct View {
    /// The nodes and services.
    pub registry: Registry,
    /// How long nodes have been silent.
    pub claims: Claims,
    /// The sessions.
    pub directory: Arc<Directory>,
    /// What push counted.
    pub counters: Arc<Counters>,
    /// What the gRPC port counted.
    pub connections: Arc<ConnectionCounters>,
    /// The certificate authority; `None` in trust mode `disabled`.
    pub authority: Option<Arc<Authority>>,
    /// The way to apply rules.
    pub rules: Rules,
    /// How the store is doing.
    pub store: Arc<StoreStatus>,
    /// How the fixed file is doing, if there is one.
    pub fixed: Option<Arc<FixedStatus>>,
    /// May sidecars come?
    pub ready: Ready,
}

/// May sidecars come?
#[derive(Debug, Default)]
pub struct Ready(AtomicBool);

impl Ready {
    /// They may, or no more.
    pub fn set(&self, ready: bool) {
        self.0.store(ready, Ordering::Release);
    }

    /// May they?
    #[must_use]
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

impl View {
    /// What is not as it should be, while control serves all the same. Empty: nothing.
    #[must_use]
    pub fn troubles(&self) -> Vec<String> {
        let store = self
            .store
            .failure()
            .map(|text| format!("store: {text}; what is pushed now is not known after a restart"));
        let fixed = self.fixed.as_ref().and_then(|fixed| fixed.failure());
        let fixed = fixed.map(|text| format!("fixed: {text}; what was known stays"));
        store.into_iter().chain(fixed).collect()
    }
}

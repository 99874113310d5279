//! Whether the services beside this sidecar answer, as far as a connection tells: they are offered
//! as unhealthy until their address takes connections, and again when a dial of ours fails. Nobody
//! is asked while all is well; health checks that ask the service itself are not built yet.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use sidelane_proto::model::{Health, Offer};
use tokio::net::UnixStream;
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::dial;
use crate::discover::Discovery;
use crate::local::LocalServices;
use crate::pool::Address;

/// Between two looks at an address that does not answer.
const PROBE_EVERY: Duration = Duration::from_millis(100);
/// How long one look may take.
const PROBE_LIMIT: Duration = Duration::from_secs(1);

/// Which local addresses do not answer.
#[derive(Debug)]
pub struct LocalHealth {
    down: Mutex<HashSet<Address>>,
    changed: Notify,
}

impl LocalHealth {
    /// Nothing is believed until it was seen.
    #[must_use]
    pub fn new(local: &LocalServices) -> Self {
        let down = local
            .iter()
            .map(|service| service.address.clone())
            .collect();
        Self {
            down: Mutex::new(down),
            changed: Notify::new(),
        }
    }

    /// A dial of this address failed.
    pub fn failed(&self, address: &Address) {
        if self.down().insert(address.clone()) {
            warn!(%address, "the local service does not answer");
            self.changed.notify_one();
        }
    }

    /// Looks at every address once, so that the first offer says what is true.
    pub async fn look(&self) {
        for address in self.unanswered() {
            if answers(&address).await {
                info!(%address, "the local service answers");
                self.down().remove(&address);
            }
        }
    }

    /// The addresses that do not answer.
    #[must_use]
    pub fn unanswered(&self) -> Vec<Address> {
        let mut down: Vec<Address> = self.down().iter().cloned().collect();
        down.sort_by_key(ToString::to_string);
        down
    }

    /// The health of what listens there.
    #[must_use]
    pub fn of(&self, address: &Address) -> Health {
        if self.down().contains(address) {
            Health::Unhealthy
        } else {
            Health::Healthy
        }
    }

    /// Looks at what does not answer until it does, and tells control what changed. Runs for as
    /// long as the sidecar lives.
    pub async fn watch(&self, local: Arc<LocalServices>, discovery: Discovery) {
        let mut told = HashMap::new();
        loop {
            self.look().await;
            let now: HashMap<_, _> = local
                .iter()
                .map(|service| (service.name.clone(), self.of(&service.address)))
                .collect();
            if now != told {
                discovery.set_offers(offers(&local, self));
                told = now;
            }
            if self.down().is_empty() {
                self.changed.notified().await;
            } else {
                let _ = timeout(PROBE_EVERY, self.changed.notified()).await;
            }
        }
    }

    fn down(&self) -> std::sync::MutexGuard<'_, HashSet<Address>> {
        self.down.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What this node offers now.
#[must_use]
pub fn offers(local: &LocalServices, health: &LocalHealth) -> Vec<Offer> {
    local
        .iter()
        .map(|service| Offer {
            service: service.name.clone(),
            health: health.of(&service.address),
            weight: local.weight(),
            version: Arc::from(""),
            labels: std::collections::BTreeMap::new(),
            rule: service.rule.clone(),
        })
        .collect()
}

async fn answers(address: &Address) -> bool {
    let connected = async {
        match address {
            Address::Tcp(address) => dial::named(address.as_str()).await.map(drop),
            Address::Unix(path) => UnixStream::connect(path).await.map(drop),
            Address::Pipe(opener) if opener.is_open() => Ok(()),
            Address::Pipe(_) => Err(std::io::ErrorKind::ConnectionRefused.into()),
        }
    };
    matches!(timeout(PROBE_LIMIT, connected).await, Ok(Ok(())))
}

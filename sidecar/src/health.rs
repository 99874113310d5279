//! Whether the services beside this sidecar are well: each address is looked at from time to time
//! (`probe`), what is found decides (`standing`), and control is told at once of what changed. A
//! dial of a call that fails counts as a look, and a connection that ends is reason for one. Nothing
//! here is on a call's way.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::{Value, json};
use sidelane_proto::model::split::DEFAULT_LABEL as VERSION;
use sidelane_proto::model::{Health, Offer, ServiceName};
use tokio::sync::Notify;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::discover::Discovery;
use crate::local::LocalServices;
use crate::onward::Onward;
use crate::pool::Address;
use crate::telemetry::{heading, line};

mod probe;
mod standing;
#[cfg(test)]
mod tests;

use probe::Finding;
pub use standing::{CheckBy, Checks, Outcome, REFUSED_EVERY, Standing, UNHEALTHY_EVERY};

/// How long the first look may take: the sidecar's start waits for it.
const FIRST_LOOK_LIMIT: Duration = Duration::from_secs(1);

/// Who is closing may still take a connection: after a look at a doubted address come these.
const ONCE_MORE: [Duration; 2] = [Duration::from_millis(200), Duration::from_secs(1)];

/// The names of its metrics.
const LOOKS: &str = "sidelane_health_looks_total";
const HEALTHY: &str = "sidelane_local_service_healthy";

/// How the services beside this sidecar stand.
#[derive(Debug)]
pub struct LocalHealth {
    checks: Checks,
    places: Vec<Place>,
    standings: Mutex<BTreeMap<ServiceName, Known>>,
    changed: Notify,
    looks: [AtomicU64; Outcome::ALL.len()],
}

/// An address, and the services that should be there.
#[derive(Debug)]
struct Place {
    address: Address,
    services: Vec<ServiceName>,
    /// A connection to it failed: it is looked at now.
    doubted: Notify,
}

#[derive(Debug, Default)]
struct Known {
    standing: Standing,
    why: String,
}

impl LocalHealth {
    /// Nothing is believed until it was seen.
    #[must_use]
    pub fn new(local: &LocalServices, checks: Checks) -> Self {
        let mut places: Vec<Place> = Vec::new();
        for service in local.iter() {
            let known = places.iter_mut().find(|it| it.address == service.address);
            match known {
                Some(place) => place.services.push(service.name.clone()),
                None => places.push(Place {
                    address: service.address.clone(),
                    services: vec![service.name.clone()],
                    doubted: Notify::new(),
                }),
            }
        }
        let unseen = local
            .iter()
            .map(|service| (service.name.clone(), Known::default()))
            .collect();
        Self {
            checks,
            places,
            standings: Mutex::new(unseen),
            changed: Notify::new(),
            looks: Default::default(),
        }
    }

    /// A dial of this address failed.
    pub fn failed(&self, address: &Address, why: &dyn std::fmt::Display) {
        if let Some(place) = self.places.iter().find(|it| it.address == *address) {
            let finding = Finding::new(Outcome::Refused, &why.to_string());
            if self.take(place, &vec![finding; place.services.len()]) {
                place.doubted.notify_one();
            }
        }
    }

    /// A connection to this address ended that nobody here had ended: it is looked at now.
    pub fn doubted(&self, address: &Address) {
        if let Some(place) = self.places.iter().find(|it| it.address == *address) {
            place.doubted.notify_one();
        }
    }

    /// Looks at everything once, so that the first offer says what is true.
    pub async fn look(&self, onward: &Onward) {
        let limit = self.checks.timeout.min(FIRST_LOOK_LIMIT);
        let mut looks = Vec::new();
        for place in &self.places {
            looks.push(self.look_at(place, limit, onward));
        }
        join_all(looks).await;
    }

    /// The health of a local service.
    #[must_use]
    pub fn of(&self, service: &ServiceName) -> Health {
        match self.standings().get(service) {
            Some(known) if known.standing.is_healthy() => Health::Healthy,
            _ => Health::Unhealthy,
        }
    }

    /// What is wrong with the local services, in words; empty if all are well.
    #[must_use]
    pub fn complaints(&self) -> Vec<String> {
        let standings = self.standings();
        let mut complaints = Vec::new();
        for place in &self.places {
            let ill = place.services.iter().filter_map(|service| {
                let known = standings.get(service)?;
                (!known.standing.is_healthy()).then_some((service, known))
            });
            let ill: Vec<_> = ill.collect();
            let refused =
                |known: &Known| matches!(known.standing.last(), None | Some(Outcome::Refused));
            if ill.iter().any(|(_, known)| refused(known)) {
                complaints.push(format!(
                    "no answer from the local service at {}",
                    place.address
                ));
                continue;
            }
            for (service, known) in ill {
                let why = match known.why.as_str() {
                    // On its way back.
                    "" => "it has answered too few times since it fell",
                    why => why,
                };
                complaints.push(format!("{service} at {}: {why}", place.address));
            }
        }
        complaints
    }

    /// Looks at each address as often as its services need it, and tells control what changed. Runs
    /// until it is dropped.
    pub async fn watch(&self, local: Arc<LocalServices>, discovery: Discovery, onward: &Onward) {
        let telling = async {
            let mut told = None;
            loop {
                let now = offers(&local, self);
                if told.as_ref() != Some(&now) {
                    discovery.set_offers(now.clone());
                    told = Some(now);
                }
                self.changed.notified().await;
            }
        };
        let mut following = Vec::new();
        for place in &self.places {
            following.push(self.follow(place, onward));
        }
        tokio::join!(telling, join_all(following));
    }

    async fn follow(&self, place: &Place, onward: &Onward) {
        let mut once_more = [].iter();
        loop {
            let next = self.next_look(place);
            let next = once_more.next().map_or(next, |soon| next.min(*soon));
            if timeout(next, place.doubted.notified()).await.is_ok() {
                once_more = ONCE_MORE.iter();
            }
            self.look_at(place, self.checks.timeout, onward).await;
        }
    }

    async fn look_at(&self, place: &Place, limit: Duration, onward: &Onward) {
        let how = (self.checks.by, limit);
        let findings = probe::look(&place.address, &place.services, how, onward).await;
        for finding in &findings {
            let counter = Outcome::ALL.iter().position(|it| *it == finding.outcome);
            self.looks[counter.unwrap_or_default()].fetch_add(1, Ordering::Relaxed);
        }
        self.take(place, &findings);
    }

    /// True if a service fell or healed.
    fn take(&self, place: &Place, findings: &[Finding]) -> bool {
        let mut standings = self.standings();
        let mut any = false;
        for (service, finding) in place.services.iter().zip(findings) {
            let Some(known) = standings.get_mut(service) else {
                continue;
            };
            known.why.clone_from(&finding.why);
            if !known.standing.take(finding.outcome, &self.checks) {
                continue;
            }
            any = true;
            let address = &place.address;
            if known.standing.is_healthy() {
                info!(%service, %address, "the local service is well");
            } else {
                let why = &finding.why;
                warn!(%service, %address, %why, "the local service is unhealthy");
            }
        }
        if any {
            self.changed.notify_one();
        }
        any
    }

    fn next_look(&self, place: &Place) -> Duration {
        let standings = self.standings();
        let known = place.services.iter().filter_map(|it| standings.get(it));
        let next = known.map(|known| known.standing.next_look(&self.checks));
        next.min().unwrap_or(self.checks.interval)
    }

    /// The local services as `/config` shows them.
    #[must_use]
    pub fn describe(&self) -> Vec<Value> {
        let standings = &self.standings();
        let places = self.places.iter().flat_map(|place| {
            let services = place.services.iter();
            services.filter_map(move |service| Some((place, service, standings.get(service)?)))
        });
        places
            .map(|(place, service, known)| {
                let healthy = known.standing.is_healthy();
                json!({
                    "service": service.as_str(),
                    "address": place.address.to_string(),
                    "health": health(healthy).name(),
                    "last_look": known.standing.last().map(Outcome::name),
                    "looks_alike": known.standing.run(),
                    "why": known.why,
                })
            })
            .collect()
    }

    /// The counters as Prometheus text.
    pub fn render(&self, text: &mut String) {
        heading(
            text,
            LOOKS,
            "counter",
            "Looks at local services, by what was found.",
        );
        for (outcome, count) in Outcome::ALL.iter().zip(&self.looks) {
            let labels = format!("result=\"{}\"", outcome.name());
            line(text, LOOKS, &labels, count.load(Ordering::Relaxed));
        }
        heading(
            text,
            HEALTHY,
            "gauge",
            "1 while the local service can take calls.",
        );
        for (service, known) in &*self.standings() {
            let labels = format!("service=\"{service}\"");
            line(text, HEALTHY, &labels, known.standing.is_healthy().into());
        }
    }

    /// Nothing that this guards is left half-changed by a panic.
    fn standings(&self) -> MutexGuard<'_, BTreeMap<ServiceName, Known>> {
        self.standings
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

const fn health(healthy: bool) -> Health {
    if healthy {
        Health::Healthy
    } else {
        Health::Unhealthy
    }
}

/// What this node offers now.
#[must_use]
pub fn offers(local: &LocalServices, health: &LocalHealth) -> Vec<Offer> {
    local
        .iter()
        .map(|service| Offer {
            service: service.name.clone(),
            health: health.of(&service.name),
            weight: local.weight(),
            version: Arc::from(local.labels().get(VERSION).map_or("", |it| it)),
            labels: local.labels().clone(),
            rule: service.rule.clone(),
        })
        .collect()
}

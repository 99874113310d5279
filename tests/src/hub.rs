//! Looks at a sidecar's hub again and again, by `/explain`, so that a test can say what was never
//! the case, and wait for what must become the case.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use serde_json::Value;
use tokio::task::JoinHandle;

use crate::admin;
use crate::services;

/// Between two looks.
const INTERVAL: Duration = Duration::from_millis(10);

/// A hub being watched. It ends with this value.
#[derive(Debug)]
pub struct HubWatch {
    looks: Arc<Mutex<Vec<Look>>>,
    looking: JoinHandle<()>,
}

/// What a hub held at one moment.
#[derive(Debug, Clone)]
pub struct Look {
    /// When.
    pub at: Instant,
    /// Its endpoints, in no order.
    pub endpoints: Vec<Held>,
}

/// An endpoint in a hub.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Its node.
    pub node: String,
    /// Its generation.
    pub generation: u64,
    /// Healthy, suspect, draining or unhealthy.
    pub health: String,
    /// Why it gets no calls; empty if it gets some.
    pub unfit: String,
}

impl HubWatch {
    /// Watches the hub of the service Echo in the sidecar with this admin address.
    #[must_use]
    pub fn start(admin: SocketAddr) -> Self {
        let looks = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&looks);
        let looking = tokio::spawn(async move {
            loop {
                if let Some(endpoints) = look(admin).await {
                    let at = Instant::now();
                    let look = Look { at, endpoints };
                    seen.lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .push(look);
                }
                tokio::time::sleep(INTERVAL).await;
            }
        });
        Self { looks, looking }
    }

    /// All looks so far.
    #[must_use]
    pub fn looks(&self) -> Vec<Look> {
        self.lock().clone()
    }

    /// Waits for a look that is as wanted and was taken after now; returns it.
    ///
    /// # Panics
    /// If there is none within this time: with the last one.
    pub async fn sees(
        &self,
        what: &str,
        within: Duration,
        wanted: impl Fn(&[Held]) -> bool,
    ) -> Look {
        let begun = Instant::now();
        loop {
            let last = self.lock().last().cloned();
            if let Some(look) = &last
                && look.at > begun
                && wanted(&look.endpoints)
            {
                return look.clone();
            }
            assert!(
                begun.elapsed() < within,
                "{what}: not within {within:?}; the last look: {last:#?}"
            );
            tokio::time::sleep(INTERVAL).await;
        }
    }

    /// The fewest endpoints that could take calls, in all looks since then.
    ///
    /// # Panics
    /// If there was no look.
    #[must_use]
    pub fn fewest_fit_since(&self, since: Instant) -> usize {
        let looks = self.lock();
        let counts = looks
            .iter()
            .filter(|look| look.at >= since)
            .map(Look::count_fit);
        counts.min().expect("the hub was looked at")
    }

    /// No look since then shows a node twice.
    ///
    /// # Panics
    /// If one does.
    pub fn shows_nobody_twice(&self) {
        for look in self.lock().iter() {
            let mut nodes: Vec<&str> = look.endpoints.iter().map(|held| &*held.node).collect();
            nodes.sort_unstable();
            let count = nodes.len();
            nodes.dedup();
            assert_eq!(
                nodes.len(),
                count,
                "a node stands twice in the hub: {look:#?}"
            );
        }
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Look>> {
        self.looks.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for HubWatch {
    fn drop(&mut self) {
        self.looking.abort();
    }
}

impl Look {
    /// How many can take calls.
    #[must_use]
    pub fn count_fit(&self) -> usize {
        fit(&self.endpoints)
    }
}

/// How many of them can take calls.
#[must_use]
pub fn fit(endpoints: &[Held]) -> usize {
    endpoints
        .iter()
        .filter(|held| held.unfit.is_empty())
        .count()
}

/// The endpoint of this node.
#[must_use]
pub fn of<'a>(endpoints: &'a [Held], node: &str) -> Option<&'a Held> {
    endpoints.iter().find(|held| held.node == node)
}

async fn look(admin: SocketAddr) -> Option<Vec<Held>> {
    let question = format!("/explain?path=/{}/Unary", services::ECHO);
    let answer = admin::get(admin, &question).await.ok()?;
    let explained: Value = serde_json::from_str(&answer.body).ok()?;
    let candidates = explained["candidates"].as_array()?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Some(
        candidates
            .iter()
            .map(|candidate| Held {
                node: text(&candidate["node_id"]),
                generation: candidate["generation"].as_u64().unwrap_or_default(),
                health: text(&candidate["health"]),
                unfit: match candidate["eligible"].as_bool() {
                    Some(true) => String::new(),
                    _ => format!("unfit: {}", text(&candidate["reason"])),
                },
            })
            .collect(),
    )
}

//! Drops subscriptions that nobody uses: a service that was asked for on first use, is not
//! compiled in and has had no call for ten minutes, is no longer told about.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sidelane_proto::model::ServiceName;

use crate::discover::Discovery;
use crate::mesh::{Mesh, RuleSource};

/// A subscription without calls lasts so long.
pub const IDLE: Duration = Duration::from_secs(10 * 60);
/// Idle subscriptions are looked for this often.
const LOOK_EVERY: Duration = Duration::from_secs(30);

/// What was seen of each service: how many calls, and since when so many.
#[derive(Debug, Default)]
pub struct Usage {
    seen: HashMap<ServiceName, (u64, Instant)>,
}

impl Usage {
    /// Takes in how many calls each service has had. Returns those that have had no new one for
    /// [`IDLE`], and forgets them.
    pub fn idle(&mut self, calls: HashMap<ServiceName, u64>, now: Instant) -> Vec<ServiceName> {
        self.seen.retain(|service, _| calls.contains_key(service));
        let mut idle = Vec::new();
        for (service, count) in calls {
            let seen = self.seen.entry(service.clone()).or_insert((count, now));
            if seen.0 != count {
                *seen = (count, now);
            } else if now.saturating_duration_since(seen.1) >= IDLE {
                idle.push(service);
            }
        }
        for service in &idle {
            self.seen.remove(service);
        }
        idle
    }
}

/// Runs for as long as the sidecar lives.
pub async fn forget_idle(mesh: Arc<Mesh>, discovery: Discovery) {
    let mut usage = Usage::default();
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let calls = {
            let view = mesh.view();
            discovery
                .wanted()
                .into_iter()
                .filter_map(|service| {
                    let target = view.target(service.as_str());
                    let compiled = target.is_some_and(|one| one.source == RuleSource::Compiled);
                    // A service with an open call is in use, however old the call.
                    let count = target.map_or(Some(0), |target| target.counters.calls_at_rest())?;
                    (!compiled).then_some((service, count))
                })
                .collect()
        };
        for service in usage.idle(calls, Instant::now()) {
            tracing::debug!(%service, "not called for long, no longer subscribed");
            discovery.forget(&service);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_has_no_call_for_ten_minutes_is_idle() {
        let name = |text| ServiceName::new(text).unwrap();
        let calls = |quiet, busy| HashMap::from([(name("a.Quiet"), quiet), (name("a.Busy"), busy)]);
        let start = Instant::now();
        let mut usage = Usage::default();
        assert!(usage.idle(calls(3, 1), start).is_empty());
        let almost = start + IDLE - Duration::from_secs(1);
        assert!(usage.idle(calls(3, 2), almost).is_empty());
        assert_eq!(usage.idle(calls(3, 2), start + IDLE), [name("a.Quiet")]);
        let later = almost + IDLE;
        assert_eq!(
            usage.idle(HashMap::from([(name("a.Busy"), 2)]), later),
            [name("a.Busy")]
        );
        assert!(usage.seen.is_empty());
    }
}

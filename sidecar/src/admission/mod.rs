//! What a sidecar admits of the calls for one service, as its rule says: so many a second, so many
//! at once, and some that fail on purpose. What was used so far stands with the service in the
//! picture of the mesh, and stays when the rule changes. It lies below the stages and decides;
//! whoever waits for a place, or holds a call back, stands in `admit`.

mod gate;
mod gradient;
mod rate;

use std::sync::Arc;
use std::time::{Duration, Instant};

use http::HeaderMap;
use sidelane_proto::model::{Concurrency, Fault, Lane, Limit, MethodRule, NodeId, Rule};

pub use gate::{Entered, Gate, Place};
pub use gradient::{End, Gradient, Sample, Seen};
use rate::{Rate, Share, Who};

use crate::call::{User, hash_key, values_of};
use crate::rules::Said;
use crate::telemetry::AdmissionCounters;

/// What is admitted of the calls for one service.
#[derive(Debug)]
pub struct Admitted {
    rule: Arc<Rule>,
    /// Whose word it is, for people.
    origin: String,
    rates: Vec<Rate>,
    gate: Option<Arc<Gate>>,
    /// What is counted.
    pub counters: Arc<AdmissionCounters>,
}

/// A call, as far as it matters here.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
    /// Which node calls.
    pub caller: &'a NodeId,
    /// The user for whom it does, where it is the one that users came to.
    pub user: Option<User>,
    /// In which lane.
    pub lane: Lane,
    /// What, where the rule knows the method.
    pub method: Option<&'a MethodRule>,
}

/// What is done to a call on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Injected {
    /// It is held back for so long.
    pub delay: Option<Duration>,
    /// It fails with this gRPC status.
    pub status: Option<u32>,
}

/// Why a call is not admitted. The local service has not heard of it.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum NotAdmitted {
    /// More calls a second than a limit allows.
    #[error(
        "its rule ({origin}) admits {limit}, and that is used up; there is room for the next call \
         in {} ms",
        wait.as_millis().max(1)
    )]
    Limited {
        /// The limit.
        limit: Limit,
        /// Where it is written.
        origin: String,
        /// When there is room for one more.
        wait: Duration,
    },
    /// As many calls at once as the service may have, and no room to wait, or no longer.
    #[error(
        "its rule ({origin}) admits {concurrency}{}, and there is no place; try another node, or \
         later",
        seen.map_or_else(String::new, |seen| format!("; {} now", seen.limit))
    )]
    Overloaded {
        /// The bound.
        concurrency: Concurrency,
        /// Where it is by now, if it follows latency.
        seen: Option<Seen>,
        /// Where it is written.
        origin: String,
    },
    /// It fails on purpose.
    #[error("its rule ({origin}) has calls fail on purpose: {fault}")]
    Injected {
        /// With this gRPC status.
        status: u32,
        /// What the rule says.
        fault: Fault,
        /// Where it is written.
        origin: String,
    },
}

impl Admitted {
    /// What this rule admits; `None` where it says nothing of it, so that a call asks nothing. What
    /// was used under the rule `before` stays used, and where that had a bound of calls at once they
    /// are counted on: who is inside must not be forgotten when the bound comes back. `said` is asked
    /// whose word it is.
    #[must_use]
    pub fn under(
        rule: &Arc<Rule>,
        said: &Said,
        before: Option<&Arc<Self>>,
        counters: impl FnOnce() -> Arc<AdmissionCounters>,
        now: Instant,
    ) -> Option<Arc<Self>> {
        let kept = before.and_then(|before| before.gate.as_ref());
        if !says(rule) && !kept.is_some_and(|gate| gate.is_used()) {
            before
                .into_iter()
                .for_each(|before| before.counters.limit(0));
            return None;
        }
        if let Some(before) = before
            && Arc::ptr_eq(&before.rule, rule)
        {
            return Some(Arc::clone(before));
        }
        let counters = before.map_or_else(counters, |before| Arc::clone(&before.counters));
        let mut used: Vec<&Rate> = before.map_or_else(Vec::new, |it| it.rates.iter().collect());
        let of_service = rule.admission.limits.iter().map(|limit| (None, limit));
        let of_methods = rule.methods.iter().flat_map(|method| {
            let limits = method.admission.limits.iter();
            limits.map(|limit| (Some(hash_of(method)), limit))
        });
        let rates = of_service.chain(of_methods).map(|(method, limit)| {
            match used.iter().position(|rate| rate.is_of(limit, method)) {
                Some(place) => used.remove(place).changed(*limit, now),
                None => Rate::new(*limit, method, now),
            }
        });
        let rates = rates.collect();
        let gate = match (rule.admission.concurrency, kept) {
            (Some(concurrency), None) => Some(Gate::new(concurrency, Arc::clone(&counters), now)),
            (None, None) => None,
            (concurrency, Some(gate)) => {
                gate.change(concurrency, now);
                Some(Arc::clone(gate))
            }
        };
        Some(Arc::new(Self {
            rule: Arc::clone(rule),
            origin: said.tuned_by(says).to_string(),
            rates,
            gate,
            counters,
        }))
    }

    /// The method of this name, where the rule knows it.
    #[must_use]
    pub fn method(&self, name: &str) -> Option<&MethodRule> {
        self.rule.method(name)
    }

    /// Counts a call that leaves here.
    ///
    /// # Errors
    /// It is one too many.
    pub fn leaves(&self, asked: &Asked<'_>, now: Instant) -> Result<(), NotAdmitted> {
        self.counted(true, asked, now)
    }

    /// Counts a call that arrives here.
    ///
    /// # Errors
    /// It is one too many.
    pub fn arrives(&self, asked: &Asked<'_>, now: Instant) -> Result<(), NotAdmitted> {
        self.counted(false, asked, now)
    }

    fn counted(&self, outbound: bool, asked: &Asked<'_>, now: Instant) -> Result<(), NotAdmitted> {
        if self.rates.is_empty() {
            return Ok(());
        }
        let method = asked.method.map(hash_of);
        self.take(&self.rates, outbound, (asked, method), now)
    }

    /// Takes a token of each of these limits that bear on the call, or of none. Each is held while the
    /// ones after it are asked; they are always asked in this order.
    fn take(
        &self,
        rates: &[Rate],
        outbound: bool,
        (asked, method): (&Asked<'_>, Option<u64>),
        now: Instant,
    ) -> Result<(), NotAdmitted> {
        let bears = |rate: &Rate| {
            rate.limit.outbound == outbound && (rate.method.is_none() || rate.method == method)
        };
        let Some(place) = rates.iter().position(bears) else {
            return Ok(());
        };
        let (rate, others) = (&rates[place], &rates[place + 1..]);
        let per = rate.limit.per;
        let share = || Share {
            caller: per.caller.then(|| match asked.user {
                Some(user) => Who::User(user),
                None => Who::Node(asked.caller.clone()),
            }),
            method: method.filter(|_| per.method),
            lane: per.lane.then_some(asked.lane),
        };
        let taken = rate.take(share, now, &self.counters);
        let taken = taken.map_err(|wait| NotAdmitted::Limited {
            limit: rate.limit,
            origin: self.origin.clone(),
            wait,
        })?;
        // No deeper than a service and its method have limits: eight each.
        let others = self.take(others, outbound, (asked, method), now);
        if others.is_err() {
            taken.give_back();
        }
        others
    }

    /// What is done to a call of this method on purpose. `random` are two numbers from 0 to 99.
    #[must_use]
    pub fn injected(
        &self,
        method: Option<&MethodRule>,
        headers: &HeaderMap,
        (first, second): (u32, u32),
    ) -> Injected {
        let fault = self.fault(method);
        let Some(fault) = fault.filter(|fault| is_meant(fault, headers)) else {
            return Injected::default();
        };
        let delay = fault.delay.filter(|delay| first < delay.percent);
        let abort = fault.abort.filter(|abort| second < abort.percent);
        Injected {
            delay: delay.map(|delay| delay.time),
            status: abort.map(|abort| abort.status),
        }
    }

    /// The method's own, or else its service's.
    fn fault<'a>(&'a self, method: Option<&'a MethodRule>) -> Option<&'a Fault> {
        let own = method.and_then(|method| method.admission.fault.as_ref());
        own.or(self.rule.admission.fault.as_ref())
    }

    /// The way to the local service, where calls at once have a bound.
    #[must_use]
    pub const fn gate(&self) -> Option<&Arc<Gate>> {
        self.gate.as_ref()
    }

    /// There is no place at the gate.
    #[must_use]
    pub fn overloaded(&self, gate: &Gate) -> NotAdmitted {
        self.counters.refused();
        NotAdmitted::Overloaded {
            concurrency: gate.rule(),
            seen: gate.seen(),
            origin: self.origin.clone(),
        }
    }

    /// It fails with this status, on purpose.
    #[must_use]
    pub fn failed(&self, method: Option<&MethodRule>, status: u32) -> Option<NotAdmitted> {
        Some(NotAdmitted::Injected {
            status,
            fault: self.fault(method)?.clone(),
            origin: self.origin.clone(),
        })
    }
}

/// Does it say anything of what is admitted?
fn says(rule: &Rule) -> bool {
    let of_method = |method: &MethodRule| !method.admission.is_none();
    !rule.admission.is_none() || rule.methods.iter().any(of_method)
}

fn hash_of(method: &MethodRule) -> u64 {
    hash_key(method.name.as_bytes())
}

/// Is it for calls with these headers?
fn is_meant(fault: &Fault, headers: &HeaderMap) -> bool {
    let Some(name) = fault.header.as_deref() else {
        return true;
    };
    let mut values = values_of(headers, name);
    match &fault.header_value {
        None => values.next().is_some(),
        Some(value) => values.any(|it| it.as_bytes() == value.as_bytes()),
    }
}

#[cfg(test)]
mod tests;

//! The counters of one method of a service in one direction, and how a call finds them: they stand
//! beside its rule, at the place of its method.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sidelane_proto::model::{ConnectionClass, Lane, Rule, ServiceName};

use super::histogram::{Buckets, Histogram};
use super::metrics::Metrics;
use crate::reason::Reason;

/// The method of all calls whose rule does not name theirs.
pub(super) const OTHER: &str = "other";
/// Statuses that are counted apart: 0 to 16, and what is none.
pub(super) const STATUSES: usize = 18;

/// From where the calls come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    /// From the local app.
    Outbound,
    /// From peers.
    Inbound,
}

impl Direction {
    /// The label's value.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Outbound => "outbound",
            Self::Inbound => "inbound",
        }
    }
}

/// What identifies the counters of a method.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct TargetKey {
    pub(super) service: ServiceName,
    /// A name of the rule table, or [`OTHER`].
    pub(super) method: Arc<str>,
    pub(super) direction: Direction,
    pub(super) class: ConnectionClass,
    pub(super) lane: Lane,
}

impl TargetKey {
    fn labels(&self) -> String {
        format!(
            "service=\"{}\",method=\"{}\",direction=\"{}\",connection=\"{}\",lane=\"{}\"",
            self.service,
            self.method,
            self.direction.name(),
            self.class,
            self.lane
        )
    }
}

/// The counters of one method of a service in one direction, one class and one lane.
#[derive(Debug)]
pub struct TargetCounters {
    pub(super) key: TargetKey,
    /// The labels of all its series, as they are written.
    pub(super) labels: Box<str>,
    pub(super) requests: AtomicU64,
    pub(super) in_flight: AtomicU64,
    pub(super) attempts: AtomicU64,
    /// By gRPC status, 0 to 16; the last is for what is none.
    pub(super) responses: [AtomicU64; STATUSES],
    pub(super) errors: [AtomicU64; Reason::ALL.len()],
    pub(super) cancelled: AtomicU64,
    /// In nanoseconds.
    pub(super) durations: Histogram,
    /// In bytes.
    pub(super) request_sizes: Histogram,
    /// In bytes.
    pub(super) response_sizes: Histogram,
    /// So many requests there were at the last look, and when that was first seen.
    rests: Mutex<Option<(u64, Instant)>>,
}

impl TargetCounters {
    /// Has anybody ever called it?
    pub(super) fn was_called(&self) -> bool {
        self.requests.load(Ordering::Relaxed) > 0
    }

    pub(super) fn new(key: TargetKey, buckets: &Buckets) -> Self {
        Self {
            labels: key.labels().into(),
            key,
            rests: Mutex::default(),
            requests: AtomicU64::default(),
            in_flight: AtomicU64::default(),
            attempts: AtomicU64::default(),
            responses: Default::default(),
            errors: Default::default(),
            cancelled: AtomicU64::default(),
            durations: Histogram::new(&buckets.durations),
            request_sizes: Histogram::new(&buckets.sizes),
            response_sizes: Histogram::new(&buckets.sizes),
        }
    }

    /// Has nobody called it for so long, as far as looks tell? What is open is being called.
    pub(super) fn is_idle(&self, now: Instant, limit: Duration) -> bool {
        let requests = self.requests.load(Ordering::Relaxed);
        let mut rests = self.rests.lock().unwrap_or_else(PoisonError::into_inner);
        let open = self.in_flight.load(Ordering::Relaxed) > 0;
        match *rests {
            Some((known, since)) if known == requests && !open => {
                now.saturating_duration_since(since) >= limit
            }
            _ => {
                *rests = Some((requests, now));
                false
            }
        }
    }
}

/// The counters of a service in one direction, one class and one lane, by the methods of its rule.
/// Those of a method are made when it is called first: most methods that a sidecar knows of are
/// never called by its app.
#[derive(Debug)]
pub struct ServiceCounters {
    metrics: Arc<Metrics>,
    rule: Arc<Rule>,
    direction: Direction,
    methods: Box<[OnceLock<Arc<TargetCounters>>]>,
    other: Arc<TargetCounters>,
}

impl ServiceCounters {
    pub(super) fn new(metrics: Arc<Metrics>, rule: Arc<Rule>, key: &TargetKey) -> Self {
        Self {
            methods: rule.methods.iter().map(|_| OnceLock::new()).collect(),
            direction: key.direction,
            other: metrics.of(key.clone()),
            metrics,
            rule,
        }
    }

    /// Those of the method at this place of the rule; `None` where the rule does not know it.
    #[must_use]
    pub fn of(&self, method: Option<usize>) -> &Arc<TargetCounters> {
        match method.and_then(|place| self.methods.get(place).zip(Some(place))) {
            None => &self.other,
            Some((counters, place)) => counters.get_or_init(|| self.first(place)),
        }
    }

    #[cold]
    fn first(&self, place: usize) -> Arc<TargetCounters> {
        let name = self.rule.methods.get(place).map_or(OTHER, |it| &*it.name);
        let other = &self.other.key;
        self.metrics.of(TargetKey {
            service: other.service.clone(),
            method: Arc::from(name),
            direction: self.direction,
            class: self.rule.class,
            lane: self.rule.lane,
        })
    }

    /// Do they fit this rule, too?
    #[must_use]
    pub fn fits(&self, rule: &Arc<Rule>) -> bool {
        let names = |rule: &Arc<Rule>| rule.methods.len();
        let way = |rule: &Arc<Rule>| (rule.class, rule.lane);
        Arc::ptr_eq(&self.rule, rule)
            || (way(&self.rule) == way(rule) && names(&self.rule) == names(rule) && {
                let mut methods = self.rule.methods.iter().zip(rule.methods.iter());
                methods.all(|(one, other)| one.name == other.name)
            })
    }

    /// How many calls there were, where none is open now.
    #[must_use]
    pub fn calls_at_rest(&self) -> Option<u64> {
        let called = self.methods.iter().filter_map(OnceLock::get);
        let mut calls = 0;
        for counters in called.chain([&self.other]) {
            if counters.in_flight.load(Ordering::Relaxed) > 0 {
                return None;
            }
            calls += counters.requests.load(Ordering::Relaxed);
        }
        Some(calls)
    }
}

pub(super) fn add(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

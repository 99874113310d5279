//! All counters of a sidecar, and their Prometheus text (text format 0.0.4).

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Instant;

use sidelane_proto::model::{ConnectionClass, Lane, Rule, ServiceName};

use super::admission::{self, AdmissionCounters};
use super::authorization::{self, AuditLines, AuthorizationCounters};
use super::edge::EdgeCounters;
use super::guard::CallGuard;
use super::lane::{self, LaneCounters, Side};
use super::target::{BUCKETS, Direction, TargetCounters, add};
use super::trust::TrustCounters;
use crate::reason::Reason;

/// The most (service, direction, class, lane) series. Beyond it calls are counted as `other`, so
/// that no caller can fill the memory with names it made up.
const TARGETS_LIMIT: usize = 16_384;

/// The service's name in the series of calls that go on to where they were meant to go.
const PASSED_ON: &str = "passthrough";

/// What identifies a series.
type TargetKey = (ServiceName, Direction, ConnectionClass, Lane);
/// What identifies a lane's series. Classes and lanes that are not known come this far for nobody.
type LaneKey = (ConnectionClass, Lane, Side);

/// All counters of a sidecar.
#[derive(Debug, Default)]
pub struct Metrics {
    targets: Mutex<HashMap<TargetKey, Arc<TargetCounters>>>,
    lanes: Mutex<HashMap<LaneKey, Arc<LaneCounters>>>,
    admissions: Mutex<HashMap<ServiceName, Arc<AdmissionCounters>>>,
    authorizations: Mutex<HashMap<ServiceName, Arc<AuthorizationCounters>>>,
    audit: Arc<AuditLines>,
    open: Arc<AtomicU64>,
    passed_on: OnceLock<Arc<TargetCounters>>,
    refused: [AtomicU64; Reason::ALL.len()],
    not_http2: AtomicU64,
    connections: AtomicU64,
    connections_refused: AtomicU64,
    tunnels: AtomicU64,
    tunnels_refused: AtomicU64,
    splices: AtomicU64,
    splices_failed: AtomicU64,
    links_refused: AtomicU64,
    /// What links proved.
    pub trust: TrustCounters,
    /// Users' connections.
    pub edge: Arc<EdgeCounters>,
    subscriptions_refused: AtomicU64,
}

impl Metrics {
    /// The outbound counters of a service under this rule.
    pub fn target(&self, service: &ServiceName, rule: &Rule) -> Arc<TargetCounters> {
        self.counters(service, Direction::Outbound, (rule.class, rule.lane))
    }

    /// The counters of a service in one direction, class and lane.
    pub fn counters(
        &self,
        service: &ServiceName,
        direction: Direction,
        (class, lane): (ConnectionClass, Lane),
    ) -> Arc<TargetCounters> {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let full = targets.len() >= TARGETS_LIMIT;
        let mut key = (service.clone(), direction, class, lane);
        if full
            && !targets.contains_key(&key)
            && let Ok(other) = ServiceName::new("other")
        {
            key.0 = other;
        }
        let service = key.0.clone();
        let fresh = || Arc::new(TargetCounters::new(service, direction, (class, lane)));
        Arc::clone(targets.entry(key).or_insert_with(fresh))
    }

    /// The counters of calls that go on to where they were meant to go: one series for all of them,
    /// since their services are whatever a caller says.
    pub fn passed_on(&self) -> Arc<TargetCounters> {
        let way = (ConnectionClass::Internal, Lane::GENERAL);
        let counters = self.passed_on.get_or_init(|| {
            #[allow(clippy::expect_used, reason = "a constant, which a test reads")]
            let name = ServiceName::new(PASSED_ON).expect("a name of a service");
            self.counters(&name, Direction::Outbound, way)
        });
        Arc::clone(counters)
    }

    /// The counters of what a service admits. As many as there are rules that say so.
    pub fn admission(&self, service: &ServiceName) -> Arc<AdmissionCounters> {
        let admissions = self.admissions.lock();
        let mut admissions = admissions.unwrap_or_else(PoisonError::into_inner);
        Arc::clone(admissions.entry(service.clone()).or_default())
    }

    /// The counters of who may call a service. As many as there are rules that say so.
    pub fn authorization(&self, service: &ServiceName) -> Arc<AuthorizationCounters> {
        let known = self.authorizations.lock();
        let mut known = known.unwrap_or_else(PoisonError::into_inner);
        let fresh = || Arc::new(AuthorizationCounters::new(Arc::clone(&self.audit)));
        Arc::clone(known.entry(service.clone()).or_insert_with(fresh))
    }

    /// The counters of a lane's links on one side. Asked for once a link, not once a call.
    pub fn lane(&self, class: ConnectionClass, lane: Lane, side: Side) -> Arc<LaneCounters> {
        let mut lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Arc::new(LaneCounters::new(class, lane, side));
        Arc::clone(lanes.entry((class, lane, side)).or_insert_with(fresh))
    }

    /// Begins to count a call.
    #[must_use]
    pub fn call(&self, counters: &Arc<TargetCounters>, arrived: Instant) -> CallGuard {
        CallGuard::new(Arc::clone(counters), Arc::clone(&self.open), arrived)
    }

    /// A call was refused before its service was known.
    pub fn refused(&self, reason: Reason) {
        let index = Reason::ALL.iter().position(|known| *known == reason);
        add(&self.refused[index.unwrap_or_default()]);
    }

    /// A connection did not speak HTTP/2.
    pub fn not_http2(&self) {
        add(&self.not_http2);
    }

    /// A connection was accepted.
    pub fn connection(&self) {
        add(&self.connections);
    }

    /// A connection was closed because too many were open.
    pub fn connection_refused(&self) {
        add(&self.connections_refused);
    }

    /// A tunnel was opened.
    pub fn tunnel(&self) {
        add(&self.tunnels);
    }

    /// A tunnel was refused.
    pub fn tunnel_refused(&self) {
        add(&self.tunnels_refused);
    }

    /// A connection is carried on as it is.
    pub fn spliced(&self) {
        add(&self.splices);
    }

    /// A connection could not be carried on.
    pub fn splice_failed(&self) {
        add(&self.splices_failed);
    }

    /// A peer's link was refused: preamble, Hello, class or lane.
    pub fn link_refused(&self) {
        add(&self.links_refused);
    }

    /// A subscription beyond the bound.
    pub fn subscription_refused(&self) {
        add(&self.subscriptions_refused);
    }

    /// Calls open now.
    #[must_use]
    pub fn open_calls(&self) -> u64 {
        self.open.load(Ordering::Relaxed)
    }

    /// The counters as Prometheus text.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = String::with_capacity(16 * 1024);
        let targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        let mut targets: Vec<_> = targets.values().cloned().collect();
        targets.sort_by(|one, other| {
            (&one.service, one.direction.name(), one.lane).cmp(&(
                &other.service,
                other.direction.name(),
                other.lane,
            ))
        });
        render_calls(&mut text, &targets);
        render_durations(&mut text, &targets);
        let lanes = self.lanes.lock().unwrap_or_else(PoisonError::into_inner);
        let mut lanes: Vec<_> = lanes.values().cloned().collect();
        lane::render(&mut text, &mut lanes);
        let admissions = self.admissions.lock();
        let admissions = admissions.unwrap_or_else(PoisonError::into_inner);
        let each = admissions
            .iter()
            .map(|(name, it)| (name.clone(), Arc::clone(it)));
        let mut admissions: Vec<_> = each.collect();
        admissions.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        admission::render(&mut text, &admissions);
        let known = self.authorizations.lock();
        let known = known.unwrap_or_else(PoisonError::into_inner);
        let each = known
            .iter()
            .map(|(name, it)| (name.clone(), Arc::clone(it)));
        let mut known: Vec<_> = each.collect();
        known.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        authorization::render(&mut text, &self.audit, &known);
        self.trust.render(&mut text);
        self.edge.render(&mut text);
        heading(
            &mut text,
            "sidelane_refused_total",
            "counter",
            "Refused before classification.",
        );
        for (reason, count) in Reason::ALL.iter().zip(&self.refused) {
            let count = count.load(Ordering::Relaxed);
            line(
                &mut text,
                "sidelane_refused_total",
                &format!("reason=\"{}\"", reason.name()),
                count,
            );
        }
        let singles = [
            (
                "sidelane_open_calls",
                "gauge",
                "Calls open now.",
                &*self.open,
            ),
            (
                "sidelane_connections_total",
                "counter",
                "Connections accepted.",
                &self.connections,
            ),
            (
                "sidelane_connections_refused_total",
                "counter",
                "Connections of local apps that were closed because too many were open.",
                &self.connections_refused,
            ),
            (
                "sidelane_not_http2_total",
                "counter",
                "Connections that did not speak HTTP/2.",
                &self.not_http2,
            ),
            (
                "sidelane_tunnels_total",
                "counter",
                "Tunnels opened (CONNECT).",
                &self.tunnels,
            ),
            (
                "sidelane_tunnels_refused_total",
                "counter",
                "Tunnels refused.",
                &self.tunnels_refused,
            ),
            (
                "sidelane_splices_total",
                "counter",
                "Connections that are no calls, carried on to where they were meant to go.",
                &self.splices,
            ),
            (
                "sidelane_splices_failed_total",
                "counter",
                "Connections that could not be carried on.",
                &self.splices_failed,
            ),
            (
                "sidelane_links_refused_total",
                "counter",
                "Links of peers that were refused.",
                &self.links_refused,
            ),
            (
                "sidelane_subscriptions_refused_total",
                "counter",
                "Services beyond the bound of subscriptions.",
                &self.subscriptions_refused,
            ),
        ];
        for (name, kind, help, counter) in singles {
            heading(&mut text, name, kind, help);
            line(&mut text, name, "", counter.load(Ordering::Relaxed));
        }
        text
    }
}

fn render_calls(text: &mut String, targets: &[Arc<TargetCounters>]) {
    type Read = fn(&TargetCounters) -> &AtomicU64;
    let plain: [(&str, &str, &str, Read); 4] = [
        (
            "sidelane_requests_total",
            "counter",
            "Calls taken in.",
            |target| &target.requests,
        ),
        (
            "sidelane_calls_in_flight",
            "gauge",
            "Calls open now.",
            |target| &target.in_flight,
        ),
        (
            "sidelane_attempts_total",
            "counter",
            "Attempts sent.",
            |target| &target.attempts,
        ),
        (
            "sidelane_cancelled_total",
            "counter",
            "Calls whose caller left.",
            |target| &target.cancelled,
        ),
    ];
    for (name, kind, help, read) in plain {
        heading(text, name, kind, help);
        for target in targets {
            line(
                text,
                name,
                &labels(target),
                read(target).load(Ordering::Relaxed),
            );
        }
    }
    heading(
        text,
        "sidelane_responses_total",
        "counter",
        "Calls answered, by gRPC status.",
    );
    for target in targets {
        for (status, count) in target.responses.iter().enumerate() {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                let status = if status == 17 {
                    "other".to_owned()
                } else {
                    status.to_string()
                };
                let labels = format!("{},status=\"{status}\"", labels(target));
                line(text, "sidelane_responses_total", &labels, count);
            }
        }
    }
    heading(
        text,
        "sidelane_errors_total",
        "counter",
        "Calls that the mesh failed, by reason.",
    );
    for target in targets {
        for (reason, count) in Reason::ALL.iter().zip(&target.errors) {
            let count = count.load(Ordering::Relaxed);
            if count > 0 {
                let labels = format!("{},reason=\"{}\"", labels(target), reason.name());
                line(text, "sidelane_errors_total", &labels, count);
            }
        }
    }
}

fn render_durations(text: &mut String, targets: &[Arc<TargetCounters>]) {
    const NAME: &str = "sidelane_request_duration_seconds";
    heading(text, NAME, "histogram", "From a call's headers to its end.");
    for target in targets {
        let labels = labels(target);
        let mut sum = 0;
        for (index, bucket) in target.buckets.iter().enumerate() {
            sum += bucket.load(Ordering::Relaxed);
            let bound = BUCKETS.get(index).map_or("+Inf".to_owned(), f64::to_string);
            line(
                text,
                &format!("{NAME}_bucket"),
                &format!("{labels},le=\"{bound}\""),
                sum,
            );
        }
        let whole = target.nanoseconds.load(Ordering::Relaxed);
        let (seconds, rest) = (whole / 1_000_000_000, whole % 1_000_000_000);
        let _ = writeln!(text, "{NAME}_sum{{{labels}}} {seconds}.{rest:09}");
        line(text, &format!("{NAME}_count"), &labels, sum);
    }
}

fn labels(target: &TargetCounters) -> String {
    format!(
        "service=\"{}\",direction=\"{}\",connection=\"{}\",lane=\"{}\"",
        target.service,
        target.direction.name(),
        target.class,
        target.lane
    )
}

/// The two lines before a metric's values.
pub(crate) fn heading(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// One value.
pub(crate) fn line(text: &mut String, name: &str, labels: &str, value: u64) {
    let _ = if labels.is_empty() {
        writeln!(text, "{name} {value}")
    } else {
        writeln!(text, "{name}{{{labels}}} {value}")
    };
}

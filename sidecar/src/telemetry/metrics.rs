//! All counters of a sidecar, and their Prometheus text (text format 0.0.4).

use std::collections::HashMap;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use sidelane_proto::model::{ConnectionClass, Lane, Rule, ServiceName};

use super::access::AccessLog;
use super::admission::{self, AdmissionCounters};
use super::authorization::{self, AuditLines, AuthorizationCounters};
use super::calls;
use super::edge::EdgeCounters;
use super::guard::CallGuard;
use super::histogram::{BOUNDS_LIMIT, Buckets};
use super::lane::{self, LaneCounters, Side};
use super::peers::{PeerCalls, Peers};
use super::tap::Taps;
use super::target::{Direction, OTHER, STATUSES, ServiceCounters, TargetCounters, TargetKey, add};
use super::trace::SpanCounters;
use super::trust::TrustCounters;
use crate::reason::Reason;

/// The most (service, method, direction, class, lane) that are counted apart. Beyond it calls are
/// counted as `other`, so that no caller can fill the memory with names it made up.
pub const TARGETS_LIMIT: usize = 16_384;
/// The most series of one of them: four figures, the statuses, the reasons, and three histograms of
/// at most [`BOUNDS_LIMIT`] bounds.
pub const SERIES_A_TARGET: usize = 4 + STATUSES + Reason::ALL.len() + 3 * (BOUNDS_LIMIT + 3);

/// Bytes that the figures of methods take of a page. Those of the last methods, by name, are left out
/// beyond it, and `sidelane_methods_left_out` says how many.
pub const PAGE_LIMIT: usize = 64 * 1024 * 1024;
/// When the figures of a method are forgotten that nobody has called, whose service is gone.
pub const RETIRED_AFTER: Duration = Duration::from_secs(60 * 60);

/// Of so many names beyond the bound, one has those looked for that nobody needs.
const SWEEP_EVERY: u64 = 1_024;

/// The service's name in the series of calls that go on to where they were meant to go.
const PASSED_ON: &str = "passthrough";

/// To whom a connection is dialled.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dial {
    /// Another sidecar.
    Peer,
    /// A service beside this sidecar.
    Local,
    /// Where a call was meant to go that the mesh does not know.
    Destination,
}

impl Dial {
    /// As metrics name them, in their order.
    const NAMES: [&str; 3] = ["peer", "local", "destination"];
}

/// What identifies a lane's series. Classes and lanes that are not known come this far for nobody.
type LaneKey = (ConnectionClass, Lane, Side);

/// All counters of a sidecar.
#[derive(Debug, Default)]
pub struct Metrics {
    targets: Mutex<HashMap<TargetKey, Arc<TargetCounters>>>,
    buckets: Buckets,
    /// Names that found no place among them.
    beyond: AtomicU64,
    lanes: Mutex<HashMap<LaneKey, Arc<LaneCounters>>>,
    admissions: Mutex<HashMap<ServiceName, Arc<AdmissionCounters>>>,
    authorizations: Mutex<HashMap<ServiceName, Arc<AuthorizationCounters>>>,
    audit: Arc<AuditLines>,
    open: Arc<AtomicU64>,
    passed_on: OnceLock<Arc<TargetCounters>>,
    /// By [`Direction`].
    refused: [[AtomicU64; Reason::ALL.len()]; 2],
    not_http2: AtomicU64,
    connections: AtomicU64,
    connections_refused: AtomicU64,
    tunnels: AtomicU64,
    tunnels_refused: AtomicU64,
    splices: AtomicU64,
    splices_failed: AtomicU64,
    links_refused: AtomicU64,
    /// Of each kind, those that stood and those that failed.
    dials: [[AtomicU64; 2]; Dial::NAMES.len()],
    peers: Peers,
    /// What links proved.
    pub trust: TrustCounters,
    /// Users' connections.
    pub edge: Arc<EdgeCounters>,
    /// What is logged of calls.
    pub access: AccessLog,
    /// Those who look at calls.
    pub taps: Taps,
    /// What became of spans.
    pub spans: Arc<SpanCounters>,
    subscriptions_refused: AtomicU64,
}

impl Metrics {
    /// With histograms of these bounds.
    #[must_use]
    pub fn new(buckets: Buckets) -> Self {
        Self {
            buckets,
            ..Self::default()
        }
    }

    /// The same, with this log of calls.
    #[must_use]
    pub fn logging(self, access: AccessLog) -> Self {
        Self { access, ..self }
    }

    /// The counters of a service in one direction under this rule, method by method.
    pub fn service(
        self: &Arc<Self>,
        service: &ServiceName,
        direction: Direction,
        rule: &Arc<Rule>,
    ) -> Arc<ServiceCounters> {
        let key = other(service, direction, (rule.class, rule.lane));
        let (metrics, rule) = (Arc::clone(self), Arc::clone(rule));
        Arc::new(ServiceCounters::new(metrics, rule, &key))
    }

    /// The counters of a service in one direction, class and lane, whatever the method.
    pub fn counters(
        &self,
        service: &ServiceName,
        direction: Direction,
        way: (ConnectionClass, Lane),
    ) -> Arc<TargetCounters> {
        self.of(other(service, direction, way))
    }

    /// The counters of this key.
    pub(super) fn of(&self, mut key: TargetKey) -> Arc<TargetCounters> {
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        if targets.len() >= TARGETS_LIMIT && !targets.contains_key(&key) {
            // Names that were only asked about leave their place to those that are called. To look for
            // them takes a while, so a flood of names must not have it done for each.
            let beyond = self.beyond.fetch_add(1, Ordering::Relaxed);
            if beyond.is_multiple_of(SWEEP_EVERY) {
                let now = Instant::now();
                targets.retain(|_, it| is_needed(it, now) && (is_held(it) || it.was_called()));
            }
            if targets.len() >= TARGETS_LIMIT
                && let Ok(service) = ServiceName::new(OTHER)
            {
                key = other(&service, key.direction, (key.class, key.lane));
            }
        }
        let fresh = || Arc::new(TargetCounters::new(key.clone(), &self.buckets));
        Arc::clone(targets.entry(key.clone()).or_insert_with(fresh))
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

    /// What counts the calls of this peer in a lane. Asked for once a link, not once a call.
    pub fn peer(&self, peer: &str, class: ConnectionClass, lane: Lane) -> Arc<PeerCalls> {
        self.peers.of(peer, class, lane)
    }

    /// Begins to count a call.
    #[must_use]
    pub fn call(&self, counters: &Arc<TargetCounters>, arrived: Instant) -> CallGuard {
        CallGuard::new(Arc::clone(counters), Arc::clone(&self.open), arrived)
    }

    /// A call was refused before its service was known.
    pub fn refused(&self, direction: Direction, reason: Reason) {
        let index = Reason::ALL.iter().position(|known| *known == reason);
        add(&self.refused[direction as usize][index.unwrap_or_default()]);
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

    /// A connection was dialled.
    pub fn dialled(&self, whom: Dial, stands: bool) {
        add(&self.dials[whom as usize][usize::from(!stands)]);
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
        self.render_known(|_| true)
    }

    /// The same. Services that were never called are shown where `known` says so: a name that somebody
    /// made up is no series.
    #[must_use]
    pub fn render_known(&self, known: impl Fn(&ServiceName) -> bool) -> String {
        self.render_at(Instant::now(), PAGE_LIMIT, known)
    }

    fn render_at(
        &self,
        now: Instant,
        limit: usize,
        known: impl Fn(&ServiceName) -> bool,
    ) -> String {
        let mut text = String::with_capacity(16 * 1024);
        let mut targets = self.targets.lock().unwrap_or_else(PoisonError::into_inner);
        targets.retain(|_, it| is_needed(it, now));
        let shown = targets
            .values()
            .filter(|it| it.was_called() || known(&it.key.service));
        let mut shown: Vec<_> = shown.cloned().collect();
        // Whoever is called first must not wait for the rest of this.
        drop(targets);
        shown.sort_by(|one, other| order(one).cmp(&order(other)));
        let fitting = calls::fitting(&shown, limit);
        calls::render(&mut text, &shown[..fitting]);
        let name = "sidelane_methods_left_out";
        let help = "Methods whose figures are not told, since the page would be too large.";
        heading(&mut text, name, "gauge", help);
        line(&mut text, name, "", (shown.len() - fitting) as u64);
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
        self.peers.render(&mut text);
        self.spans.render(&mut text);
        self.access.render(&mut text);
        self.taps.render(&mut text);
        heading(
            &mut text,
            "sidelane_refused_total",
            "counter",
            "Refused before classification.",
        );
        for direction in [Direction::Outbound, Direction::Inbound] {
            let refused = &self.refused[direction as usize];
            for (reason, count) in Reason::ALL.iter().zip(refused) {
                let (direction, reason) = (direction.name(), reason.name());
                let labels = format!("direction=\"{direction}\",reason=\"{reason}\"");
                let count = count.load(Ordering::Relaxed);
                line(&mut text, "sidelane_refused_total", &labels, count);
            }
        }
        let name = "sidelane_dials_total";
        let help = "Connections dialled, by to whom and by whether they came to stand.";
        heading(&mut text, name, "counter", help);
        for (to, dials) in Dial::NAMES.iter().zip(&self.dials) {
            for (result, count) in ["stands", "failed"].iter().zip(dials) {
                let labels = format!("to=\"{to}\",result=\"{result}\"");
                line(&mut text, name, &labels, count.load(Ordering::Relaxed));
            }
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

fn other(
    service: &ServiceName,
    direction: Direction,
    (class, lane): (ConnectionClass, Lane),
) -> TargetKey {
    TargetKey {
        service: service.clone(),
        method: Arc::from(OTHER),
        direction,
        class,
        lane,
    }
}

/// Does a service in the picture of the mesh have them?
fn is_held(counters: &Arc<TargetCounters>) -> bool {
    Arc::strong_count(counters) > 1
}

/// Are they to be kept? Of a service that is there as long as it is; else for a while.
fn is_needed(counters: &Arc<TargetCounters>, now: Instant) -> bool {
    is_held(counters) || !counters.is_idle(now, RETIRED_AFTER)
}

/// As they are shown.
fn order(counters: &TargetCounters) -> impl Ord + '_ {
    let key = &counters.key;
    let way = (key.direction.name(), key.class.name(), key.lane);
    (&key.service, &key.method, way)
}

/// The two lines before a metric's values.
pub(crate) fn heading(text: &mut String, name: &str, kind: &str, help: &str) {
    let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
}

/// A text that others chose, as the value of a label.
pub(crate) fn escaped(text: &str) -> String {
    let text = text.replace('\\', "\\\\").replace('"', "\\\"");
    text.replace('\n', "\\n")
}

/// One value.
pub(crate) fn line(text: &mut String, name: &str, labels: &str, value: u64) {
    let _ = if labels.is_empty() {
        writeln!(text, "{name} {value}")
    } else {
        writeln!(text, "{name}{{{labels}}} {value}")
    };
}

#[cfg(test)]
mod tests {
    use sidelane_proto::model::MethodRule;

    use super::*;

    fn rule(service: &str, methods: usize) -> Arc<Rule> {
        let named = |number| MethodRule {
            name: format!("M{number}").into(),
            ..MethodRule::unary("")
        };
        let (class, lane) = (ConnectionClass::Internal, Lane::GENERAL);
        let none: &[MethodRule] = &[];
        let rule = sidelane::routing::rule("a.A", class, lane, none, "a.rs:1");
        Arc::new(Rule {
            service: service.to_owned().into(),
            methods: (0..methods).map(named).collect(),
            ..rule
        })
    }

    #[test]
    fn methods_are_counted_apart_as_their_rule_names_them() {
        let metrics = Arc::new(Metrics::default());
        let name = ServiceName::new("a.A").unwrap();
        let counters = metrics.service(&name, Direction::Inbound, &rule("a.A", 2));
        for method in [Some(1), Some(1), None, Some(2)] {
            drop(metrics.call(counters.of(method), Instant::now()));
        }
        let text = metrics.render();
        let of = |method: &str| {
            let start = format!("sidelane_requests_total{{service=\"a.A\",method=\"{method}\",");
            let line = text.lines().find(|line| line.starts_with(&start));
            line.map(|line| line.rsplit_once(' ').unwrap().1)
        };
        // What no call was for is no series, and a place beyond the rule is nobody's.
        assert_eq!(
            [of("M0"), of("M1"), of("other")],
            [None, Some("2"), Some("2")]
        );
        assert_eq!(counters.calls_at_rest(), Some(4));
        let open = metrics.call(counters.of(Some(0)), Instant::now());
        assert_eq!(counters.calls_at_rest(), None);
        drop(open);
        assert_eq!(counters.calls_at_rest(), Some(5));
        // The same rule finds the same counters; one with other methods does not.
        assert!(counters.fits(&rule("a.A", 2)) && !counters.fits(&rule("a.A", 3)));
        let again = metrics.service(&name, Direction::Inbound, &rule("a.A", 2));
        assert!(Arc::ptr_eq(again.of(Some(1)), counters.of(Some(1))));
    }

    #[test]
    fn figures_that_nobody_needs_are_forgotten_after_a_while() {
        let metrics = Arc::new(Metrics::default());
        let of = |name: &str| {
            let service = ServiceName::new(name).unwrap();
            metrics.service(&service, Direction::Outbound, &rule(name, 1))
        };
        let (gone, stays) = (of("gone.G"), of("stays.S"));
        for counters in [&gone, &stays] {
            drop(metrics.call(counters.of(Some(0)), Instant::now()));
        }
        let open = metrics.call(gone.of(None), Instant::now());
        drop(gone);
        let now = Instant::now();
        let told = |after: Duration| {
            let text = metrics.render_at(now + after, PAGE_LIMIT, |_| true);
            let counted = |service: &str, method: &str| {
                let labels = format!("{{service=\"{service}\",method=\"{method}\",");
                text.contains(&format!("sidelane_requests_total{labels}"))
            };
            [
                counted("gone.G", "M0"),
                counted("gone.G", "other"),
                counted("stays.S", "M0"),
            ]
        };
        let second = Duration::from_secs(1);
        assert_eq!(told(Duration::ZERO), [true, true, true]);
        assert_eq!(told(RETIRED_AFTER - second), [true, true, true]);
        // What is open is not forgotten, nor what the mesh still has.
        assert_eq!(told(RETIRED_AFTER), [false, true, true]);
        drop(open);
        assert_eq!(told(RETIRED_AFTER), [false, true, true]);
        assert_eq!(told(2 * RETIRED_AFTER), [false, false, true]);
        // Who comes back is counted anew.
        drop(metrics.call(of("gone.G").of(Some(0)), Instant::now()));
        assert_eq!(told(2 * RETIRED_AFTER), [true, true, true]);
    }

    #[test]
    fn a_page_has_a_bound_and_says_what_it_leaves_out() {
        let metrics = Arc::new(Metrics::default());
        let name = ServiceName::new("a.A").unwrap();
        let counters = metrics.service(&name, Direction::Outbound, &rule("a.A", 200));
        for method in 0..200 {
            drop(metrics.call(counters.of(Some(method)), Instant::now()));
        }
        let limit = 1024 * 1024;
        let whole = metrics.render();
        assert!(whole.contains("sidelane_methods_left_out 0\n"));
        let cut = metrics.render_at(Instant::now(), limit, |_| true);
        let of_methods = |text: &str| -> usize {
            let lines = text
                .lines()
                .filter(|line| line.contains("{service=\"a.A\""));
            lines.map(|line| line.len() + 1).sum()
        };
        assert!(of_methods(&whole) > of_methods(&cut) && of_methods(&cut) <= limit);
        let left_out = cut
            .lines()
            .find_map(|line| line.strip_prefix("sidelane_methods_left_out "));
        let left_out: usize = left_out.unwrap().parse().unwrap();
        let told = cut.matches("\nsidelane_requests_total{").count();
        // Beside them there are those that the rule does not name.
        assert!(
            left_out > 0 && told > 0 && told + left_out == 201,
            "{told} {left_out}"
        );
        let page = |text: &str| sidelane_process::metrics::from_text(text).len();
        assert!(
            page(&cut) < limit + 64 * 1024,
            "what else there is has bounds of its own"
        );
    }

    #[test]
    fn labels_that_others_chose_stay_apart() {
        let each = ["a\"b", "a\\b", "a\nb", "a_b"].map(escaped);
        assert_eq!(each, ["a\\\"b", "a\\\\b", "a\\nb", "a_b"]);
    }

    #[test]
    fn a_hundred_thousand_names_are_no_more_series_than_there_may_be() {
        let metrics = Arc::new(Metrics::default());
        for service in 0..1_000 {
            let text = format!("made.up.S{service}");
            let name = ServiceName::new(&text).unwrap();
            let counters = metrics.service(&name, Direction::Outbound, &rule(&text, 100));
            for method in 0..100 {
                drop(metrics.call(counters.of(Some(method)), Instant::now()));
            }
        }
        let targets = metrics.targets.lock().unwrap();
        // And one for all the others.
        let most = TARGETS_LIMIT + 1;
        assert!(
            (TARGETS_LIMIT..=most).contains(&targets.len()),
            "{}",
            targets.len()
        );
        drop(targets);
        let text = metrics.render_at(Instant::now(), usize::MAX, |_| true);
        let series = text.lines().filter(|line| !line.starts_with('#')).count();
        assert!(series < (TARGETS_LIMIT + 1) * SERIES_A_TARGET, "{series}");
        let calls = text.lines().filter_map(|line| {
            line.strip_prefix("sidelane_requests_total{")?
                .rsplit_once(' ')?
                .1
                .parse::<u64>()
                .ok()
        });
        assert_eq!(calls.sum::<u64>(), 100_000, "no call is lost");
    }
}

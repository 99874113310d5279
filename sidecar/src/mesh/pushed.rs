//! What pushed rules do to the picture of the mesh, and to those who decide by it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use sidelane::routing::RouteTable;
use sidelane_proto::model::{ConnectionClass, Lane, PushedRule, Rule, ServiceName, ServiceState};

use super::{Mesh, RuleSource, Target, Way};
use crate::classify::{self, Classified, ClassifyError, OLD_WAY, Policy};
use crate::telemetry::Metrics;

const INTERNAL: ConnectionClass = ConnectionClass::Internal;
const EXTERNAL: ConnectionClass = ConnectionClass::External;
const PATH: &str = "/shop.v1.Orders/Get";

fn orders() -> ServiceName {
    ServiceName::new("shop.v1.Orders").unwrap()
}

fn mesh(local: &[ServiceName]) -> Mesh {
    let metrics = Arc::new(Metrics::default());
    Mesh::new(RouteTable::PREDEFINED, local.to_vec(), metrics)
}

fn rule(class: ConnectionClass, lane: Lane) -> Rule {
    Rule::new("shop.v1.Orders", class, lane, &[], "rules.yaml:1")
}

fn push(mesh: &Mesh, rule: Rule, tuning_only: bool, now: Instant) {
    let pushed = PushedRule {
        rule: Arc::new(rule),
        tuning_only,
        version: 1,
    };
    mesh.take([], &[], (&[pushed], &[]), now);
}

fn take_back(mesh: &Mesh, now: Instant) {
    mesh.take([], &[], (&[], &[orders()]), now);
}

fn decide(mesh: &Mesh, policy: Policy) -> Result<Classified, ClassifyError> {
    let view = mesh.view();
    classify::outbound(&view, PATH, view.find(PATH).unwrap(), None, policy)
}

fn target(mesh: &Mesh) -> Option<Arc<Target>> {
    mesh.view().target("shop.v1.Orders").cloned()
}

fn comes_in(mesh: &Mesh, way: Way, now: Instant) -> bool {
    classify::incoming("shop.v1.Orders", target(mesh).as_deref(), way, false, now).is_ok()
}

#[test]
fn a_service_with_a_pushed_rule_is_known_though_nobody_offers_it() {
    let (mesh, now) = (mesh(&[]), Instant::now());
    let strict = Policy {
        require_rules: true,
        ..Policy::default()
    };
    let error = decide(&mesh, strict).unwrap_err();
    assert!(matches!(error, ClassifyError::UnknownService { .. }));

    push(&mesh, rule(INTERNAL, Lane::GOSSIP), false, now);
    let classified = decide(&mesh, strict).unwrap();
    assert_eq!(
        (classified.class, classified.lane),
        (INTERNAL, Lane::GOSSIP)
    );
    assert_eq!(classified.target.source, RuleSource::Pushed);
    assert!(!classified.target.ever_seen);

    take_back(&mesh, now);
    assert!(target(&mesh).is_none());
}

#[test]
fn what_only_tunes_is_no_rule_where_rules_are_demanded() {
    let (mesh, now) = (mesh(&[]), Instant::now());
    let mut tuning = rule(INTERNAL, Lane::GENERAL);
    tuning.timeout = Some(Duration::from_secs(9));
    push(&mesh, tuning, true, now);
    let classified = decide(&mesh, Policy::default()).unwrap();
    assert_eq!(classified.target.source, RuleSource::Default);
    assert_eq!(classified.target.rule.timeout, Some(Duration::from_secs(9)));
    let strict = Policy {
        require_rules: true,
        ..Policy::default()
    };
    let error = decide(&mesh, strict).unwrap_err();
    assert!(matches!(error, ClassifyError::NoRule { .. }));
}

#[test]
fn a_state_that_comes_and_goes_leaves_the_pushed_rule() {
    let (mesh, now) = (mesh(&[]), Instant::now());
    push(&mesh, rule(INTERNAL, Lane::GOSSIP), false, now);
    let state = ServiceState {
        service: orders(),
        ever_seen: true,
        endpoints: Vec::new(),
    };
    mesh.replace([&state], &[], now);
    assert_eq!(target(&mesh).unwrap().rule.lane, Lane::GOSSIP);
    mesh.replace([], &[orders()], now);
    assert_eq!(target(&mesh).unwrap().rule.lane, Lane::GOSSIP);
    take_back(&mesh, now);
    assert_eq!(target(&mesh).map(|target| target.source), None);
}

#[test]
fn a_rule_that_moved_lets_the_old_way_in_for_a_while() {
    let (mesh, start) = (mesh(&[orders()]), Instant::now());
    // Without a rule, any lane of class Internal does.
    for lane in [Lane::GENERAL, Lane::GOSSIP, Lane::BIFROST_DATA] {
        assert!(comes_in(&mesh, (INTERNAL, lane), start));
    }
    assert!(!comes_in(&mesh, (EXTERNAL, Lane::GENERAL), start));

    push(&mesh, rule(INTERNAL, Lane::GOSSIP), false, start);
    let late = start + OLD_WAY;
    let within = late - Duration::from_millis(1);
    assert!(comes_in(&mesh, (INTERNAL, Lane::GOSSIP), late));
    assert!(comes_in(&mesh, (INTERNAL, Lane::GENERAL), within));
    assert!(!comes_in(&mesh, (INTERNAL, Lane::GENERAL), late));

    push(&mesh, rule(EXTERNAL, Lane::INGRESS_DATA), false, late);
    let within = late + OLD_WAY - Duration::from_millis(1);
    assert!(comes_in(&mesh, (EXTERNAL, Lane::INGRESS_DATA), late));
    assert!(comes_in(&mesh, (INTERNAL, Lane::GOSSIP), within));
    // Not what was right before that.
    assert!(!comes_in(&mesh, (INTERNAL, Lane::GENERAL), within));
    let later = late + OLD_WAY;
    assert!(!comes_in(&mesh, (INTERNAL, Lane::GOSSIP), later));

    take_back(&mesh, later);
    assert!(comes_in(&mesh, (INTERNAL, Lane::GENERAL), later));
    assert!(comes_in(&mesh, (EXTERNAL, Lane::INGRESS_DATA), later));
    let end = later + OLD_WAY;
    assert!(!comes_in(&mesh, (EXTERNAL, Lane::INGRESS_DATA), end));
}

#[test]
fn a_rule_that_became_secure_holds_at_once() {
    let (mesh, now) = (mesh(&[orders()]), Instant::now());
    push(&mesh, rule(INTERNAL, Lane::GOSSIP), false, now);
    let mut secure = rule(INTERNAL, Lane::GOSSIP);
    secure.secure = true;
    push(&mesh, secure, false, now);
    assert!(!comes_in(&mesh, (INTERNAL, Lane::GOSSIP), now));
}

#[test]
fn tuning_moves_nothing() {
    let (mesh, now) = (mesh(&[orders()]), Instant::now());
    push(&mesh, rule(INTERNAL, Lane::GOSSIP), false, now);
    let later = now + OLD_WAY;
    let mut tuned = rule(INTERNAL, Lane::GOSSIP);
    tuned.timeout = Some(Duration::from_secs(1));
    push(&mesh, tuned, false, later);
    assert!(!comes_in(&mesh, (INTERNAL, Lane::GENERAL), later));
}

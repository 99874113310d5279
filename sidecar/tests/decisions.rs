//! The rules of a mesh are finite, so all of them are tried: every way in which a service can have
//! a rule, every method, class and lane, in both directions. A decision is always made, is always
//! the same, and never takes a service's calls in by another class than its own.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sidelane::routing::{MethodRule, RouteTable};
use sidelane_proto::model::{
    Addresses, ClassDefinition, ConnectionClass, Endpoint, Generation, Health, Lane, LaneBounds,
    LaneDefinition, LoadBalancing, Locality, NodeId, Offer, OwnClass, PushedRule, Rule,
    ServiceName, ServiceState,
};
use sidelane_sidecar::classify::{self, ClassifyError, OLD_WAY, Policy};
use sidelane_sidecar::mesh::{Mesh, RuleSource};
use sidelane_sidecar::telemetry::Metrics;

const INTERNAL: ConnectionClass = ConnectionClass::Internal;
const EXTERNAL: ConnectionClass = ConnectionClass::External;
const PARTNER: ConnectionClass = ConnectionClass::Own(OwnClass::define(&ClassDefinition {
    number: 20,
    name: "decisions_partner",
    lanes: &[Lane::GENERAL],
}));
const AUDIT: Lane = Lane::define(&LaneDefinition {
    id: 40,
    name: "decisions_audit",
    classes: &[INTERNAL, PARTNER],
    bounds: Some(LaneBounds::new(65_536, 10)),
});
const CLASSES: [ConnectionClass; 3] = [INTERNAL, EXTERNAL, PARTNER];

const METHODS: &[MethodRule] = &[
    MethodRule::unary("Get").idempotent(),
    MethodRule::streaming("Watch", false, true),
];
/// Every method of a rule, and one that it does not know; with its place.
const ASKED: [(&str, Option<usize>); 3] = [("Get", Some(0)), ("Watch", Some(1)), ("Unheard", None)];

fn lanes() -> Vec<Lane> {
    Lane::BUILT_IN.into_iter().chain([AUDIT]).collect()
}

/// Who says what a service's rule is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Compiled,
    /// And a pushed rule tunes it.
    Tuned,
    /// And a pushed rule says another class and lane. It would be refused where it is received; if
    /// it ever came through, it must change nothing.
    Contradicted,
    Pushed,
    Offered,
    Nobody,
}

/// A service, and the rule that must hold for it.
#[derive(Debug)]
struct Case {
    who: Who,
    rule: Rule,
}

impl Case {
    fn source(&self) -> RuleSource {
        match self.who {
            Who::Compiled | Who::Tuned | Who::Contradicted => RuleSource::Compiled,
            Who::Pushed => RuleSource::Pushed,
            Who::Offered => RuleSource::Offered,
            Who::Nobody => RuleSource::Default,
        }
    }

    fn path(&self, method: &str) -> String {
        format!("/{}/{method}", self.rule.service)
    }
}

/// Every legal pair, secure and not, said by everybody; and a service of which nothing is said.
fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    let said = [
        Who::Compiled,
        Who::Tuned,
        Who::Contradicted,
        Who::Pushed,
        Who::Offered,
    ];
    for who in said {
        for class in CLASSES {
            for lane in lanes().into_iter().filter(|lane| class.allows(*lane)) {
                for secure in [false, true] {
                    let service = format!("all.v1.{who:?}{}", cases.len());
                    let rule = Rule {
                        service: Cow::Owned(service),
                        secure,
                        ..Rule::new("", class, lane, METHODS, "all.proto:1")
                    };
                    cases.push(Case { who, rule });
                }
            }
        }
    }
    let rule = Rule::new("all.v1.Nobody", INTERNAL, Lane::GENERAL, &[], "");
    let who = Who::Nobody;
    cases.push(Case { who, rule });
    cases
}

fn mesh(cases: &[Case]) -> Option<Mesh> {
    let of = |who: &[Who]| -> Vec<Rule> {
        let cases = cases.iter().filter(|case| who.contains(&case.who));
        cases.map(|case| case.rule.clone()).collect()
    };
    let compiled = of(&[Who::Compiled, Who::Tuned, Who::Contradicted]);
    let routes = RouteTable::new(Vec::leak(compiled));
    let tuned = of(&[Who::Tuned]).into_iter().map(|rule| Rule {
        timeout: Some(Duration::from_secs(1)),
        load_balancing: Some(LoadBalancing::Random),
        secure: false,
        class: INTERNAL,
        lane: Lane::GENERAL,
        ..rule
    });
    let contradicted = of(&[Who::Contradicted]).into_iter().map(|rule| {
        let elsewhere = if rule.class == EXTERNAL {
            (INTERNAL, Lane::GOSSIP)
        } else {
            (EXTERNAL, Lane::INGRESS_DATA)
        };
        Rule {
            class: elsewhere.0,
            lane: elsewhere.1,
            secure: !rule.secure,
            ..rule
        }
    });
    let pushed = |tuning_only: bool| {
        move |rule: Rule| PushedRule {
            rule: Arc::new(rule),
            tuning_only,
            version: 1,
        }
    };
    let whole = of(&[Who::Pushed]).into_iter().chain(contradicted);
    let rules: Vec<_> = whole
        .map(pushed(false))
        .chain(tuned.map(pushed(true)))
        .collect();
    let mut states = vec![state("all.v1.Nobody", None)?];
    for rule in of(&[Who::Offered]) {
        states.push(state(&rule.service.clone(), Some(rule))?);
    }
    let mesh = Mesh::new(routes, Vec::new(), Arc::new(Metrics::default()));
    mesh.take(&states, &[], (&rules, &[]), Instant::now());
    Some(mesh)
}

/// A service that one node offers, with this rule.
fn state(service: &str, rule: Option<Rule>) -> Option<ServiceState> {
    let service = ServiceName::new(service).ok()?;
    let endpoint = Endpoint {
        node: NodeId::new("orders-1").ok()?,
        generation: Generation::new(1)?,
        identity: None,
        addresses: Addresses::default(),
        locality: Locality::default(),
        offer: Offer {
            service: service.clone(),
            health: Health::Healthy,
            weight: 100,
            version: Arc::from(""),
            labels: BTreeMap::new(),
            rule: rule.map(Arc::new),
        },
    };
    Some(ServiceState {
        service,
        ever_seen: true,
        endpoints: vec![endpoint],
    })
}

/// Class, lane and the method's place, or why not.
type Decision = Result<(ConnectionClass, Lane, Option<usize>), ClassifyError>;

fn outbound(mesh: &Mesh, path: &str, asked: Option<Lane>, policy: Policy) -> Decision {
    let view = mesh.view();
    let found = view
        .find(path)
        .unwrap_or_else(|error| panic!("{path}: {error}"));
    let classified = classify::outbound(&view, path, found, asked, policy)?;
    Ok((classified.class, classified.lane, classified.method))
}

#[test]
fn every_call_of_a_local_app_goes_by_its_services_rule_or_not_at_all() {
    let mut cases = cases();
    let one = mesh(&cases).unwrap();
    cases.reverse();
    let other = mesh(&cases).unwrap();
    let mut decided = 0;
    for case in &cases {
        let (rule, default) = (&case.rule, case.who == Who::Nobody);
        for (method, place) in ASKED {
            let place = place.filter(|_| !default);
            for asked in lanes().into_iter().map(Some).chain([None]) {
                for require_rules in [false, true] {
                    let what = format!("{case:?} {method} {asked:?} {require_rules}");
                    let policy = Policy {
                        require_rules,
                        ..Policy::default()
                    };
                    let path = case.path(method);
                    let decision = outbound(&one, &path, asked, policy);
                    assert_eq!(decision, outbound(&one, &path, asked, policy), "{what}");
                    assert_eq!(decision, outbound(&other, &path, asked, policy), "{what}");
                    decided += 1;
                    let open = default && asked.is_some_and(|lane| rule.class.allows(lane));
                    match &decision {
                        Err(ClassifyError::NoRule { .. }) => {
                            assert!(default && require_rules, "{what}");
                        }
                        Err(ClassifyError::NotSecure { .. }) => assert!(rule.secure, "{what}"),
                        Err(ClassifyError::LaneRefused { .. }) => {
                            assert!(asked.is_some_and(|lane| lane != rule.lane), "{what}");
                            assert!(!rule.secure && !open, "{what}");
                        }
                        Err(other) => panic!("{what}: {other}"),
                        Ok((class, lane, method)) => {
                            assert!(!(rule.secure || default && require_rules), "{what}");
                            assert_eq!((*class, *method), (rule.class, place), "{what}");
                            assert!(class.allows(*lane), "{what}: {class} {lane}");
                            let expected = asked.filter(|_| open).unwrap_or(rule.lane);
                            assert_eq!(*lane, expected, "{what}");
                            assert!(asked.is_none_or(|asked| asked == *lane), "{what}");
                        }
                    }
                }
            }
        }
    }
    assert_eq!(decided, cases.len() * ASKED.len() * 6 * 2);
}

#[test]
fn every_call_of_a_peer_comes_in_by_its_services_class_or_not_at_all() {
    let cases = cases();
    let mesh = mesh(&cases).unwrap();
    let view = mesh.view();
    // Long enough after every rule, so that none is only just replaced.
    let now = Instant::now() + 2 * OLD_WAY;
    let mut decided = 0;
    for case in &cases {
        let target = view.target(&case.rule.service).unwrap();
        assert_eq!(target.source, case.source(), "{case:?}");
        // A rule that others offer binds them, and not this node: it is the default here.
        let bound = target.source.binds();
        let class_here = if bound { case.rule.class } else { INTERNAL };
        for class in CLASSES {
            for lane in lanes() {
                let way = (class, lane);
                let decide =
                    || classify::incoming(&case.rule.service, Some(target), way, false, now);
                let decision = decide();
                let what = format!("{case:?} by {class} {lane}: {decision:?}");
                assert_eq!(decision, decide(), "{what}");
                decided += 1;
                let agreed = (class, lane) == (case.rule.class, case.rule.lane);
                let comes_in = if bound {
                    agreed && !case.rule.secure
                } else {
                    class == INTERNAL
                };
                assert_eq!(decision.is_ok(), comes_in, "{what}");
                if class == EXTERNAL && class_here != EXTERNAL {
                    assert!(
                        matches!(decision, Err(ClassifyError::NotExposed { .. })),
                        "{what}"
                    );
                }
            }
        }
        // Of what goes out by a rule, the callee with that rule takes in exactly the same way.
        if let (true, Ok((class, lane, _))) = (
            bound,
            outbound(&mesh, &case.path("Get"), None, Policy::default()),
        ) {
            let taken =
                classify::incoming(&case.rule.service, Some(target), (class, lane), false, now);
            assert_eq!(taken, Ok(()), "{case:?}");
        }
    }
    assert_eq!(decided, cases.len() * CLASSES.len() * 5);
    // A service of which nothing at all is known.
    for class in CLASSES {
        for lane in lanes() {
            let decision = classify::incoming("never.v1.Heard", None, (class, lane), false, now);
            assert_eq!(decision.is_ok(), class == INTERNAL, "{class} {lane}");
        }
    }
}

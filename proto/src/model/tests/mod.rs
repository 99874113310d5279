//! The way in from the wire: what is refused, with which path, and that nothing is lost on a
//! round trip.

mod admission;
mod authorization;
mod breaking;
mod pushed;
mod pushed_set;
mod rules;
mod whole;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use proptest::prelude::*;

use super::*;
use crate::wire::control::v1 as wire;
use crate::wire::routing::v1 as routing;

fn wire_rule() -> routing::Rule {
    routing::Rule {
        service: "shop.v1.Orders".into(),
        connection: routing::Connection::Internal.into(),
        lane_id: 0,
        lane: "general".into(),
        ..Default::default()
    }
}

fn wire_endpoint() -> wire::Endpoint {
    wire::Endpoint {
        service: "shop.v1.Orders".into(),
        node_id: "orders-1".into(),
        generation: 7,
        health: wire::Health::Healthy.into(),
        addresses: Some(wire::Addresses {
            internal: "127.0.0.1:15006".into(),
            ..Default::default()
        }),
        rule: Some(wire_rule()),
        ..Default::default()
    }
}

fn wire_update() -> wire::Update {
    wire::Update {
        version: Some(wire::Version {
            store_id: "store".into(),
            counter: 3,
        }),
        upserts: vec![wire_endpoint()],
        ..Default::default()
    }
}

#[test]
fn each_wrong_field_is_named_with_its_path() {
    type Spoil = fn(&mut wire::Update);
    let cases: [(Spoil, &str); 12] = [
        (|update| update.version = None, "version is missing"),
        (
            |update| update.version.as_mut().unwrap().store_id.clear(),
            "version.store_id is missing",
        ),
        (
            |update| update.upserts[0].service.clear(),
            "upserts[0].service is missing",
        ),
        (
            |update| update.upserts[0].node_id = "a b".into(),
            "upserts[0].node_id `a b` is not a node id (letters, digits, `.`, `_`, `-`)",
        ),
        (
            |update| update.upserts[0].generation = 0,
            "upserts[0].generation is missing",
        ),
        (
            |update| update.upserts[0].addresses.as_mut().unwrap().internal = "nowhere".into(),
            "upserts[0].addresses.internal `nowhere` is not a host and port such as `10.0.0.7:15006`",
        ),
        (
            |update| update.upserts[0].health = 0,
            "upserts[0].health is missing",
        ),
        (
            |update| update.upserts[0].health = 99,
            "upserts[0].health 99 is not a known health",
        ),
        (
            |update| update.upserts[0].rule.as_mut().unwrap().lane_id = 77,
            "upserts[0].rule.lane_id 77 is not a known lane",
        ),
        (
            |update| update.upserts[0].rule.as_mut().unwrap().lane = "gossip".into(),
            "upserts[0].rule.lane contradicts another field: lane_id 0 is `general`, lane says `gossip`",
        ),
        (
            |update| {
                let rule = update.upserts[0].rule.as_mut().unwrap();
                (rule.lane_id, rule.lane) = (3, "ingress_data".into());
            },
            "upserts[0].rule.lane Internal and lane `ingress_data` do not go together; \
             Internal allows general, gossip, bifrost_data",
        ),
        (
            |update| update.upserts[0].rule.as_mut().unwrap().service = "shop.v1.Other".into(),
            "upserts[0].rule.service contradicts another field: the offer is of shop.v1.Orders, \
             the rule of shop.v1.Other",
        ),
    ];
    assert!(Update::try_from(wire_update()).is_ok());
    for (spoil, expected) in cases {
        let mut update = wire_update();
        spoil(&mut update);
        assert_eq!(Update::try_from(update).unwrap_err().to_string(), expected);
    }
}

#[test]
fn a_hello_that_offers_a_service_twice_is_refused() {
    let offer = wire::Offer {
        service: "a.B".into(),
        health: wire::Health::Healthy.into(),
        ..Default::default()
    };
    let error = node::offers_from_wire(vec![offer.clone(), offer]).unwrap_err();
    assert_eq!(error.to_string(), "offers[1].service `a.B` is named twice");
}

#[test]
fn lists_and_names_past_their_bound_are_refused() {
    let offer = wire::Offer::default();
    let error = node::offers_from_wire(vec![offer; node::OFFERS_LIMIT + 1]).unwrap_err();
    assert_eq!(
        error.to_string(),
        "offers has 4097 entries, at most 4096 are allowed"
    );
    let long = "a".repeat(254);
    let error = NodeId::new(&long).unwrap_err();
    assert_eq!(
        error.to_string(),
        "node_id has 254 bytes, at most 253 are allowed"
    );
}

#[test]
fn paths_that_no_proto_could_have_made_are_refused() {
    let long = format!("/a.B/{}", "m".repeat(600));
    let cases = [
        ("", PathError::Empty),
        ("*", PathError::NoLeadingSlash),
        ("a.B/C", PathError::NoLeadingSlash),
        ("/", PathError::WrongForm),
        ("/a.B", PathError::WrongForm),
        ("/a.B/", PathError::WrongForm),
        ("//C", PathError::WrongForm),
        ("/a.B//C", PathError::WrongForm),
        ("/a.B/C/D", PathError::WrongForm),
        ("/a..B/C", PathError::WrongForm),
        ("/a.B/C%20", PathError::PercentEncoded),
        ("/a.B/C?x=1", PathError::BadCharacter),
        ("/a.B/Cä", PathError::BadCharacter),
        (long.as_str(), PathError::TooLong),
    ];
    for (path, expected) in cases {
        assert_eq!(CallPath::parse(path), Err(expected), "{path}");
    }
    let good = CallPath::parse("/shop.v1.Orders/Get").unwrap();
    assert_eq!((good.service, good.method), ("shop.v1.Orders", "Get"));
}

#[test]
fn the_matrix_has_exactly_five_legal_pairs() {
    let legal: Vec<_> = ConnectionClass::BUILT_IN
        .into_iter()
        .flat_map(|class| Lane::BUILT_IN.map(|lane| (class, lane)))
        .filter(|(class, lane)| class.allows(*lane))
        .map(|(class, lane)| format!("{class}+{lane}"))
        .collect();
    assert_eq!(
        legal,
        [
            "Internal+general",
            "Internal+gossip",
            "Internal+bifrost_data",
            "External+general",
            "External+ingress_data"
        ]
    );
}

#[test]
fn a_generation_grows_even_when_the_clock_goes_back() {
    let first = Generation::next(None, 1_000);
    assert_eq!(first.number(), 1_000);
    assert_eq!(Generation::next(Some(first), 500).number(), 1_001);
    assert_eq!(Generation::next(Some(first), 5_000).number(), 5_000);
}

#[test]
fn two_ranges_of_versions_meet_at_the_newest_common_one() {
    let range = |oldest, newest| ProtocolRange { oldest, newest };
    assert_eq!(range(1, 3).common(range(2, 5)), Some(3));
    assert_eq!(range(1, 1).common(range(2, 5)), None);
}

#[test]
fn the_digest_does_not_depend_on_the_order() {
    let rule = |name: &str| Rule::default_for(&ServiceName::new(name).unwrap());
    let (one, two) = (rule("a.A"), rule("b.B"));
    assert_eq!(Rule::digest([&one, &two]), Rule::digest([&two, &one]));
    let moved = Rule {
        lane: Lane::GOSSIP,
        ..two.clone()
    };
    assert_ne!(Rule::digest([&one, &two]), Rule::digest([&one, &moved]));
}

prop_compose! {
    fn any_rule()(
        pair in prop::sample::select(vec![(0, 0_u16), (0, 1), (0, 2), (1, 0), (1, 3)]),
        secure: bool,
        persistent: bool,
        idempotent: bool,
        timeout in prop::option::of(1_u64..100_000),
        retry in prop::option::of(2_u32..5),
        budget in prop::option::of(0_u32..100),
        breaker in prop::option::of((1_u32..1_000, any::<bool>())),
        admission in admission::any_admission(),
        authorization in prop::option::of(authorization::any_authorization()),
        slow_start in prop::option::of(1_u64..3_600_000),
    ) -> Rule {
        let retry = retry.filter(|_| idempotent);
        Rule {
            service: Cow::Borrowed("shop.v1.Orders"),
            category: Category::Worker,
            class: ConnectionClass::BUILT_IN[pair.0],
            lane: Lane::from_id(pair.1).unwrap(),
            secure,
            persistent,
            load_balancing: Some(LoadBalancing::Random),
            strategy: None,
            balancing: Balancing {
                slow_start: slow_start.map(Duration::from_millis),
                ..Balancing::NONE
            },
            timeout: timeout.map(Duration::from_millis),
            max_timeout: timeout.map(|timeout| Duration::from_millis(timeout + 1)),
            retry: retry.map(|attempts| Retry {
                attempts,
                on: Statuses::of(&[4, 14]),
                budget_percent: budget,
                budget_per_second: budget.map(|percent| percent + 1),
                max_pause: Duration::from_millis(1_001),
                ..Retry::DEFAULT
            }),
            breaker: breaker.map(|(consecutive_failures, off)| Breaker {
                off,
                consecutive_failures,
                interval: Duration::from_millis(1_500),
                ..Breaker::DEFAULT
            }),
            outlier: budget.map(|below_mean| Outlier { below_mean: below_mean + 1, ..Outlier::DEFAULT }),
            split: secure.then(|| Split {
                label: Cow::Borrowed("track"),
                parts: Cow::Owned(vec![SplitPart {
                    value: Cow::Borrowed("canary"),
                    percent: 100,
                    header: None,
                }]),
                strict: persistent,
            }),
            admission: admission.clone(),
            authorization: authorization.clone(),
            methods: Cow::Owned(vec![MethodRule {
                idempotent,
                admission: Admission { concurrency: None, ..admission },
                authorization: authorization.filter(|_| idempotent),
                hash_on: Some(Cow::Borrowed("order.id")),
                retry: retry.map(|attempts| Retry { attempts, ..Retry::DEFAULT }),
                hedge: retry.map(|max_attempts| Hedge {
                    off: secure,
                    max_attempts,
                    ..Hedge::after(Duration::from_millis(u64::from(max_attempts) * 7))
                }),
                ..MethodRule::unary("Get")
            }]),
            origin: Cow::Borrowed("orders.proto:7"),
        }
    }
}

proptest! {
    #[test]
    fn a_rule_survives_the_wire(rule in any_rule()) {
        let back = Rule::try_from(routing::Rule::from(&rule)).unwrap();
        prop_assert_eq!(back, rule);
    }

    #[test]
    fn an_update_survives_the_wire(rule in any_rule(), counter: u64, full: bool, weight in 1_u32..10_000) {
        let endpoint = Endpoint {
            node: NodeId::new("orders-1").unwrap(),
            generation: Generation::new(5).unwrap(),
            identity: Some(Identity::new("spiffe://example.org/ns/shop/sa/orders").unwrap()),
            addresses: Addresses {
                internal: Some(PeerAddress::new("[::1]:15006").unwrap()),
                external: Some(PeerAddress::new("orders:15443").unwrap()),
                own: vec![(rules::PARTNER, PeerAddress::new("orders:15444").unwrap())],
            },
            locality: Locality { region: Arc::from("eu"), zone: Arc::from("eu-1") },
            offer: Offer {
                service: ServiceName::new("shop.v1.Orders").unwrap(),
                health: Health::Draining,
                weight,
                version: Arc::from("v2"),
                labels: BTreeMap::from([("stage".to_owned(), "canary".to_owned())]),
                rule: Some(Arc::new(rule)),
            },
        };
        let update = Update {
            version: Version { store: "store".into(), counter },
            full,
            services: vec![ServiceState {
                service: endpoint.offer.service.clone(),
                ever_seen: true,
                endpoints: vec![endpoint.clone()],
            }],
            rules: Vec::new(),
            refused: Vec::new(),
            rules_removed: Vec::new(),
            removals: vec![Removal {
                service: endpoint.offer.service.clone(),
                node: endpoint.node.clone(),
                generation: endpoint.generation,
            }],
            upserts: vec![endpoint],
        };
        prop_assert_eq!(Update::try_from(wire::Update::from(&update)).unwrap(), update);
    }

    #[test]
    fn any_path_is_read_or_refused(path in "\\PC{0,40}") {
        if let Ok(read) = CallPath::parse(&path) {
            prop_assert_eq!(format!("/{}/{}", read.service, read.method), path);
        }
    }
}

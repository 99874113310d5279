//! Rules as they are written, pushed and checked; lanes and classes of one's own.

use super::*;

fn written(change: impl FnOnce(&mut WrittenRule)) -> Result<Rule, String> {
    let method = |name: &str, client_streaming| WrittenMethod {
        name: name.to_owned(),
        client_streaming,
        server_streaming: false,
        options: routing::MethodRule::default(),
    };
    let mut rule = WrittenRule {
        service: "shop.v1.Orders".to_owned(),
        options: routing::ServiceRule {
            connection: routing::Connection::Internal.into(),
            lane: "general".to_owned(),
            ..Default::default()
        },
        methods: vec![method("Get", false), method("Import", true)],
        origin: "orders.proto:7".to_owned(),
    };
    change(&mut rule);
    rule.read().map_err(|error| error.to_string())
}

fn retry(attempts: u32, on: &[&str]) -> Option<routing::Retry> {
    let on = on.iter().map(|name| (*name).to_owned()).collect();
    Some(routing::Retry {
        attempts,
        on,
        ..routing::Retry::default()
    })
}

#[test]
fn what_is_written_is_read() {
    let rule = written(|rule| {
        rule.options.timeout = "800ms".to_owned();
        rule.options.max_timeout = "2s".to_owned();
        rule.options.hash_header = "x-user".to_owned();
        rule.options.locality = routing::LocalityPreference::Prefer.into();
        rule.options.slow_start = "10s".to_owned();
        rule.options.retry = retry(3, &[]);
        rule.methods[0].options.idempotent = true;
        rule.methods[0].options.hash_on = "order.id".to_owned();
        rule.methods[0].options.retry = retry(2, &["ABORTED", "UNAVAILABLE"]);
    });
    let rule = rule.unwrap();
    assert_eq!(rule.timeout, Some(Duration::from_millis(800)));
    assert_eq!(rule.max_timeout, Some(Duration::from_secs(2)));
    assert_eq!(rule.balancing.hash_header.as_deref(), Some("x-user"));
    assert_eq!(rule.balancing.locality, Some(LocalityPreference::Prefer));
    assert_eq!(rule.balancing.slow_start, Some(Duration::from_secs(10)));
    assert_eq!(rule.retry.unwrap().on, Statuses::UNAVAILABLE);
    let get = rule.method("Get").unwrap();
    assert_eq!(get.hash_on.as_deref(), Some("order.id"));
    let names: Vec<_> = rule.retry_of(get).unwrap().on.names().collect();
    assert_eq!(names, ["ABORTED", "UNAVAILABLE"]);
    assert_eq!(rule.retry_of(rule.method("Import").unwrap()), None);
}

#[test]
fn what_cannot_be_is_refused_with_its_field() {
    type Change = fn(&mut WrittenRule);
    let cases: [(&str, Change); 16] = [
        (
            "lane `genral` is not a known lane; did you mean `general`? (known are general, ",
            |rule| rule.options.lane = "genral".to_owned(),
        ),
        ("lane is missing", |rule| rule.options.lane.clear()),
        (
            "lane Internal and lane `ingress_data` do not go together; Internal allows general, \
             gossip, bifrost_data",
            |rule| rule.options.lane = "ingress_data".to_owned(),
        ),
        ("connection is missing", |rule| rule.options.connection = 0),
        ("connection 9 is not a known connection class", |rule| {
            rule.options.connection = 9;
        }),
        (
            "connection_custom `partners` is not a known connection class of one's own",
            |rule| {
                rule.options.connection = 0;
                rule.options.connection_custom = "partners".to_owned();
            },
        ),
        (
            "timeout `8 seconds` is not a time limit: a whole number and a unit, such as 800ms",
            |rule| rule.options.timeout = "8 seconds".to_owned(),
        ),
        (
            "timeout `0s` is not a time limit above zero and of at most 24 hours",
            |rule| {
                rule.options.timeout = "0s".to_owned();
            },
        ),
        (
            "methods[0].timeout is out of bounds: 3s is above the service's ceiling, max_timeout 2s",
            |rule| {
                rule.options.max_timeout = "2s".to_owned();
                rule.methods[0].options.timeout = "3s".to_owned();
            },
        ),
        (
            "retry.attempts is out of bounds: 9 attempts; it is 2 to 5",
            |rule| rule.options.retry = retry(9, &[]),
        ),
        (
            "retry.on[0] `UNAVAILABEL` is not a known gRPC status; did you mean `UNAVAILABLE`?",
            |rule| rule.options.retry = retry(2, &["UNAVAILABEL"]),
        ),
        ("retry is for idempotent methods, and none", |rule| {
            rule.options.retry = retry(2, &[]);
        }),
        (
            "methods[0].retry `Get` is not idempotent: a second attempt could do its work twice",
            |rule| rule.methods[0].options.retry = retry(2, &[]),
        ),
        (
            "methods[1].idempotent `Import` takes a stream, which cannot be sent twice",
            |rule| {
                rule.methods[1].options.idempotent = true;
                rule.methods[1].options.retry = retry(2, &[]);
            },
        ),
        (
            "methods[0].hash_on `order-id` is not a field of the request",
            |rule| rule.methods[0].options.hash_on = "order-id".to_owned(),
        ),
        ("load_balancing_custom contradicts another field", |rule| {
            rule.options.load_balancing = routing::LoadBalancing::Random.into();
            rule.options.load_balancing_custom = "nearest".to_owned();
        }),
    ];
    for (expected, change) in cases {
        let error = written(change).unwrap_err();
        assert!(error.starts_with(expected), "{error}\nwanted: {expected}");
    }
    assert!(written(|_| ()).is_ok());
}

#[test]
fn a_field_of_a_stream_cannot_choose_its_endpoint() {
    let error = written(|rule| rule.methods[1].options.hash_on = "order_id".to_owned());
    let error = error.unwrap_err();
    let expected = "methods[1].hash_on `Import` takes a stream, and a call goes to its endpoint";
    assert!(error.starts_with(expected), "{error}");
}

#[test]
fn a_vocabulary_knows_what_it_was_told_and_nothing_else() {
    let mut vocabulary = Vocabulary::built_in();
    let class = routing::Class {
        number: 70,
        name: "auditors".to_owned(),
        lanes: vec!["general".to_owned()],
    };
    vocabulary.define_class(&class, "a.proto:3").unwrap();
    let mut audit = definition(70, "audit");
    audit.connections_custom = vec!["auditors".to_owned()];
    let lane = vocabulary.define_lane(&audit, "a.proto:9").unwrap();
    let mut rule = WrittenRule {
        service: "shop.v1.Audit".to_owned(),
        options: routing::ServiceRule {
            connection_custom: "auditors".to_owned(),
            lane: "audit".to_owned(),
            ..Default::default()
        },
        methods: Vec::new(),
        origin: String::new(),
    };
    let read = rule.read_with(&vocabulary).unwrap();
    assert_eq!((read.class.name(), read.lane), ("auditors", lane));
    // Nobody else hears of it.
    assert_eq!(rule.read().unwrap_err().path, "connection_custom");
    assert_eq!(Lane::from_name("audit"), None);
    rule.options.lane = "gossip".to_owned();
    let error = rule.read_with(&vocabulary).unwrap_err().to_string();
    assert!(error.ends_with("auditors allows general, audit"), "{error}");
}

#[test]
fn what_is_defined_twice_names_the_first_place() {
    let mut vocabulary = Vocabulary::built_in();
    let first = definition(70, "audit");
    vocabulary.define_lane(&first, "a.proto:9").unwrap();
    for (id, name, expected) in [
        (
            70,
            "reports",
            "id 70 is taken by lane `audit` (a.proto:9); take another id",
        ),
        (
            71,
            "audit",
            "name is taken by lane `audit` (a.proto:9); take another name",
        ),
    ] {
        let error = vocabulary
            .define_lane(&definition(id, name), "b.proto:2")
            .unwrap_err();
        assert_eq!(error.to_string(), expected);
    }
    let class = |number, name: &str| routing::Class {
        number,
        name: name.to_owned(),
        lanes: Vec::new(),
    };
    vocabulary
        .define_class(&class(70, "auditors"), "a.proto:3")
        .unwrap();
    for (number, name, path) in [
        (70, "guests", "number"),
        (71, "auditors", "name"),
        (72, "internal", "name"),
    ] {
        let error = vocabulary
            .define_class(&class(number, name), "b.proto:4")
            .unwrap_err();
        assert_eq!(error.path, path, "{error}");
    }
}

#[test]
fn a_vocabulary_is_bounded() {
    let mut vocabulary = Vocabulary::built_in();
    for number in 0..64 {
        let lane = definition(100 + number, &format!("lane_{number}"));
        vocabulary.define_lane(&lane, "").unwrap();
    }
    let error = vocabulary
        .define_lane(&definition(200, "one_more"), "")
        .unwrap_err();
    assert_eq!(
        error.problem,
        Problem::TooMany {
            count: 65,
            limit: 64
        }
    );
    let class = |number: u32| routing::Class {
        number,
        name: format!("class_{number}"),
        lanes: Vec::new(),
    };
    for number in 100..116 {
        vocabulary.define_class(&class(number), "").unwrap();
    }
    let error = vocabulary.define_class(&class(116), "").unwrap_err();
    assert_eq!(
        error.problem,
        Problem::TooMany {
            count: 17,
            limit: 16
        }
    );
}

pub(super) static PARTNER: OwnClass = OwnClass::define(&ClassDefinition {
    number: 40,
    name: "partner",
    lanes: &[Lane::GENERAL],
});
pub(super) static TELEMETRY: Lane = Lane::define(&LaneDefinition {
    id: 40,
    name: "telemetry",
    classes: &[ConnectionClass::Internal, ConnectionClass::Own(PARTNER)],
    bounds: Some(LaneBounds::new(64 * 1024, 128)),
});

#[test]
fn lanes_and_classes_of_ones_own_are_in_the_matrix_and_on_the_wire() {
    PARTNER.remember();
    TELEMETRY.remember();
    let partner = ConnectionClass::Own(PARTNER);
    for (class, lane, legal) in [
        (ConnectionClass::Internal, TELEMETRY, true),
        (ConnectionClass::External, TELEMETRY, false),
        (partner, TELEMETRY, true),
        (partner, Lane::GENERAL, true),
        (partner, Lane::GOSSIP, false),
    ] {
        assert_eq!(class.allows(lane), legal, "{class} {lane}");
    }
    let rule = written(|rule| {
        rule.options.connection = 0;
        rule.options.connection_custom = "partner".to_owned();
        rule.options.lane = "telemetry".to_owned();
    });
    let rule = rule.unwrap();
    assert_eq!((rule.class, rule.lane), (partner, TELEMETRY));
    let wire = routing::Rule::from(&rule);
    assert_eq!(
        wire.lane_definition.as_ref().unwrap().connection_window,
        2 << 20
    );
    assert_eq!(Rule::try_from(wire).unwrap(), rule);
    assert_eq!(Lane::from_id(40), Some(TELEMETRY));
    assert_eq!(ConnectionClass::from_number(40), Some(partner));
}

fn definition(id: u32, name: &str) -> routing::Lane {
    routing::Lane {
        id,
        name: name.to_owned(),
        connections: vec![routing::Connection::Internal.into()],
        window: 64 * 1024,
        max_streams: 8,
        ..Default::default()
    }
}

#[test]
fn a_lane_that_cannot_be_is_refused_with_its_field() {
    type Change = fn(&mut routing::Lane);
    let cases: [(&str, Change); 9] = [
        ("id `7` is not a number of a lane", |lane| lane.id = 7),
        ("id `70000` is not a number of a lane", |lane| {
            lane.id = 70_000;
        }),
        ("name is missing", |lane| lane.name.clear()),
        ("name `Bulk` is not a name", |lane| {
            lane.name = "Bulk".to_owned();
        }),
        ("name `gossip` is a lane of Sidelane's own", |lane| {
            lane.name = "gossip".to_owned();
        }),
        ("connections is missing", |lane| lane.connections.clear()),
        ("window is missing", |lane| lane.window = 0),
        ("max_streams is missing", |lane| lane.max_streams = 0),
        ("dscp is out of bounds: a lane's dscp is 0 to 63", |lane| {
            lane.dscp = 64;
        }),
    ];
    for (expected, change) in cases {
        let mut lane = definition(50, "bulk");
        change(&mut lane);
        let error = Lane::learn(&lane).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error}\nwanted: {expected}");
    }
}

#[test]
fn a_lane_that_others_define_is_followed_and_two_of_one_number_stay_two() {
    let one = Lane::learn(&definition(60, "reports")).unwrap();
    let other = Lane::learn(&definition(60, "metrics")).unwrap();
    assert_ne!(one, other);
    assert_eq!(Lane::learn(&definition(60, "reports")), Ok(one));
    assert_eq!(Lane::from_wire(60, "metrics", None), Ok(other));
    let error = Lane::from_wire(60, "logs", None).unwrap_err();
    assert_eq!(error.path, "lane");
    let error = Lane::from_wire(61, "logs", None).unwrap_err();
    assert_eq!(error.to_string(), "lane_id 61 is not a known lane");
}

fn pushed(rule: Rule, tuning_only: bool) -> PushedRule {
    PushedRule {
        rule: Arc::new(rule),
        tuning_only,
        version: 3,
    }
}

#[test]
fn a_pushed_rule_may_tune_a_compiled_one_and_nothing_else() {
    type Change = fn(&mut Rule);
    let fixed = written(|rule| rule.methods[0].options.idempotent = true).unwrap();
    let cases: [(&str, Change); 6] = [
        ("connection is compiled in as Internal", |rule| {
            rule.class = ConnectionClass::External;
        }),
        ("lane is compiled in as general", |rule| {
            rule.lane = Lane::GOSSIP;
        }),
        ("secure is compiled in as false", |rule| rule.secure = true),
        ("persistent is compiled in as false", |rule| {
            rule.persistent = true;
        }),
        (
            "methods[0].name `Gett` is not a known method; did you mean `Get`?",
            |rule| {
                rule.methods = Cow::Owned(vec![MethodRule::unary("Gett")]);
            },
        ),
        ("methods[0].idempotent is compiled in as false", |rule| {
            let import = MethodRule::streaming("Import", true, false).idempotent();
            rule.methods = Cow::Owned(vec![import]);
        }),
    ];
    for (expected, change) in cases {
        let mut rule = fixed.clone();
        change(&mut rule);
        let error = pushed(rule, false).check_against(&fixed).unwrap_err();
        assert!(error.to_string().starts_with(expected), "{error}");
    }
    let mut tuning = fixed.clone();
    tuning.timeout = Some(Duration::from_secs(9));
    tuning.load_balancing = Some(LoadBalancing::Random);
    let tuning = pushed(tuning, false);
    tuning.check_against(&fixed).unwrap();
    let held = tuning.beside(&fixed, true);
    assert_eq!(held.agreement(), fixed.agreement());
    assert_eq!(held.timeout, Some(Duration::from_secs(9)));
    assert_eq!(held.load_balancing, Some(LoadBalancing::Random));
    assert_eq!(held.origin, fixed.origin);
}

#[test]
fn a_rule_that_only_tunes_leaves_all_else_as_it_is() {
    let wire = routing::PushedRule {
        rule: Some(routing::Rule {
            service: "shop.v1.Orders".to_owned(),
            timeout: Some(prost_types::Duration {
                seconds: 1,
                nanos: 0,
            }),
            ..Default::default()
        }),
        tuning_only: true,
        version: 4,
    };
    let tuning = PushedRule::try_from(wire.clone()).unwrap();
    assert_eq!(routing::PushedRule::from(&tuning), wire);
    let base = written(|rule| rule.options.lane = "gossip".to_owned()).unwrap();
    tuning.check_against(&base).unwrap();
    for compiled in [true, false] {
        let held = tuning.beside(&base, compiled);
        assert_eq!(held.lane, Lane::GOSSIP);
        assert_eq!(held.timeout, Some(Duration::from_secs(1)));
    }
    let mut both = wire;
    both.rule.as_mut().unwrap().secure = true;
    let error = PushedRule::try_from(both).unwrap_err();
    assert_eq!(error.path, "tuning_only");
}

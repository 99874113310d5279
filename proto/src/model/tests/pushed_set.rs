//! Sets of rules: what one of them defines, what is wrong with each, and that nothing stays.

use super::super::pushed::RULES_LIMIT;
use super::super::pushed_set::read;
use super::super::{ConnectionClass, Lane, PushedRule};
use crate::wire::routing::v1 as routing;

fn rule(service: &str) -> routing::Rule {
    routing::Rule {
        service: service.to_owned(),
        connection: routing::Connection::Internal.into(),
        lane: "general".to_owned(),
        origin: format!("{service}.yaml:1"),
        ..Default::default()
    }
}

fn in_lane(service: &str, id: u32, name: &str, window: u32) -> routing::Rule {
    routing::Rule {
        lane_id: id,
        lane: name.to_owned(),
        lane_definition: Some(routing::Lane {
            id,
            name: name.to_owned(),
            connections: vec![routing::Connection::Internal.into()],
            window,
            max_streams: 8,
            ..Default::default()
        }),
        ..rule(service)
    }
}

fn pushed(rule: routing::Rule) -> routing::PushedRule {
    routing::PushedRule {
        rule: Some(rule),
        ..Default::default()
    }
}

fn errors(rules: Vec<routing::Rule>) -> Vec<String> {
    let read = read(rules.into_iter().map(pushed).collect());
    let refused = read.unwrap_err().into_iter();
    refused.map(|refused| refused.error.to_string()).collect()
}

#[test]
fn a_set_names_what_it_defines_and_the_process_learns_nothing() {
    let undefined = routing::Rule {
        lane_definition: None,
        ..in_lane("b.B", 301, "set_only", 0)
    };
    let rules = vec![
        pushed(undefined),
        pushed(in_lane("a.A", 301, "set_only", 65_536)),
        pushed(in_lane("c.C", 301, "set_only", 65_536)),
    ];
    let read: Vec<PushedRule> = read(rules).unwrap();
    let services: Vec<_> = read.iter().map(|pushed| &*pushed.rule.service).collect();
    assert_eq!(services, ["b.B", "a.A", "c.C"]);
    for pushed in &read {
        assert_eq!(pushed.rule.lane.bounds().unwrap().window, 65_536);
    }
    assert_eq!(Lane::from_name("set_only"), None);
    let bytes = read[1].to_bytes();
    assert_eq!(PushedRule::from_bytes(&bytes).as_ref(), Ok(&read[1]));
    let error = PushedRule::from_bytes(b"\xff").unwrap_err();
    assert_eq!(error.path, "rule");
}

#[test]
fn a_class_of_a_set_is_named_by_its_lanes() {
    let mut rule = in_lane("a.A", 302, "partner_only", 65_536);
    rule.connection = 0;
    rule.class_definition = Some(routing::Class {
        number: 77,
        name: "set_partner".to_owned(),
        lanes: Vec::new(),
    });
    let lane = rule.lane_definition.as_mut().unwrap();
    lane.connections.clear();
    lane.connections_custom = vec!["set_partner".to_owned()];
    let read = read(vec![pushed(rule.clone())]).unwrap();
    assert_eq!(read[0].rule.class.name(), "set_partner");
    // A rule of another class in that lane brings the class along as well.
    let mut internal = rule.clone();
    (internal.connection, internal.class_definition) = (routing::Connection::Internal.into(), None);
    let lane = internal.lane_definition.as_mut().unwrap();
    lane.connections = vec![routing::Connection::Internal.into()];
    let lost = super::super::pushed_set::read(vec![pushed(internal.clone())]).unwrap_err();
    let expected = "rules[0].rule.lane_definition.connections_custom[0]";
    assert_eq!(lost[0].error.path, expected);
    let lane = internal.lane_definition.as_mut().unwrap();
    lane.class_definitions = rule.class_definition.clone().into_iter().collect();
    let brought = super::super::pushed_set::read(vec![pushed(internal.clone())]).unwrap();
    let wire = routing::PushedRule::from(&brought[0]).rule.unwrap();
    let definition = wire.lane_definition.unwrap();
    assert_eq!(definition.class_definitions[0].name, "set_partner");
    assert_eq!(definition.connections_custom, ["set_partner"]);
    assert_eq!(ConnectionClass::from_name("set_partner"), None);
    rule.connection = routing::Connection::Internal.into();
    let errors = errors(vec![rule]);
    assert_eq!(
        errors,
        [
            "rules[0].rule.connection contradicts another field: class_definition names another class"
        ]
    );
}

#[test]
fn everything_that_is_wrong_is_found_at_once_with_its_field() {
    let mut lane = rule("b.B");
    lane.lane = "genral".to_owned();
    let mut pair = rule("c.C");
    (pair.lane_id, pair.lane) = (3, "ingress_data".to_owned());
    let mut long = rule("d.D");
    long.service = "d".repeat(300);
    let rules = vec![
        rule("a.A"),
        lane,
        pair,
        long,
        rule("a.A"),
        in_lane("e.E", 303, "one", 65_536),
        in_lane("f.F", 303, "other", 65_536),
        in_lane("g.G", 304, "one", 65_536),
        in_lane("h.H", 303, "one", 131_072),
        in_lane("i.I", 7, "seven", 65_536),
    ];
    let expected = [
        "rules[1].rule.lane contradicts another field: lane_id 0 is `general`, lane says `genral`",
        "rules[2].rule.lane Internal and lane `ingress_data` do not go together; Internal allows ",
        "rules[3].rule.service has 300 bytes, at most 255 are allowed",
        "rules[4].rule.service `a.A` is named twice",
        "rules[6].rule.lane_definition.id 303 is taken by lane `one` (e.E.yaml:1)",
        "rules[7].rule.lane_definition.name is taken by lane `one` (e.E.yaml:1)",
        "rules[8].rule.lane_definition contradicts another field: lane `one` is defined differently \
         at e.E.yaml:1",
        "rules[9].rule.lane_definition.id `7` is not a number of a lane",
    ];
    let errors = errors(rules);
    assert_eq!(errors.len(), expected.len(), "{errors:#?}");
    for (error, expected) in errors.iter().zip(expected) {
        assert!(error.starts_with(expected), "{error}\nwanted: {expected}");
    }
}

#[test]
fn a_set_has_a_bound() {
    let rules = |count| (0..count).map(|n| rule(&format!("a.S{n}"))).collect();
    assert_eq!(
        errors(rules(RULES_LIMIT + 1)),
        ["rules has 20001 entries, at most 20000 are allowed"]
    );
    let most: Vec<routing::Rule> = rules(RULES_LIMIT);
    let most = most.into_iter().map(pushed).collect();
    assert_eq!(read(most).unwrap().len(), RULES_LIMIT);
}

#[test]
fn a_rule_that_only_tunes_names_no_lane() {
    let tuning = |change: fn(&mut routing::Rule)| {
        let mut rule = routing::Rule {
            service: "a.A".to_owned(),
            ..Default::default()
        };
        change(&mut rule);
        read(vec![routing::PushedRule {
            rule: Some(rule),
            tuning_only: true,
            version: 0,
        }])
    };
    assert!(tuning(|_| ()).unwrap()[0].tuning_only);
    for change in [
        |rule: &mut routing::Rule| rule.lane_id = 1,
        |rule: &mut routing::Rule| rule.lane = "gossip".to_owned(),
        |rule: &mut routing::Rule| rule.connection = 2,
        |rule: &mut routing::Rule| rule.secure = true,
        |rule: &mut routing::Rule| rule.persistent = true,
        |rule: &mut routing::Rule| rule.category = 3,
    ] {
        let refused = tuning(change).unwrap_err();
        assert_eq!(refused[0].error.path, "rules[0].tuning_only");
    }
}

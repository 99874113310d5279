use std::borrow::Cow;

use sidelane_proto::model::{LaneBounds, LaneDefinition};

use super::*;
use crate::routing::check::RULES_LIMIT;

const CLASS: ConnectionClass = ConnectionClass::Internal;
const ONE: &[Rule] = &[rule("a.One", CLASS, Lane::GENERAL, &[], "one.rs:1")];
const TWO: &[Rule] = &[rule("a.Two", CLASS, Lane::GENERAL, &[], "two.rs:2")];

const AUDIT: Lane = lane(&LaneDefinition {
    id: 40,
    name: "registry_audit",
    classes: &[ConnectionClass::Internal],
    bounds: Some(LaneBounds::new(65_536, 10)),
});
const AUDITED: &[Rule] = &[rule("a.Audited", CLASS, AUDIT, &[], "audited.rs:3")];

const fn lane(definition: &'static LaneDefinition) -> Lane {
    Lane::define(definition)
}

fn services(table: &RouteTable) -> Vec<&'static str> {
    table.rules().map(|rule| &*rule.service).collect()
}

/// What the check of a constant says, when it runs.
fn refused(make: impl FnOnce() -> RouteTable + std::panic::UnwindSafe) -> String {
    let payload = std::panic::catch_unwind(make).unwrap_err();
    let text = payload.downcast_ref::<String>().cloned();
    text.unwrap_or_else(|| (*payload.downcast_ref::<&str>().unwrap()).to_owned())
}

#[test]
fn a_joined_table_has_the_rules_of_its_parts_and_the_predefined_ones_once() {
    static PARTS: &[RouteTable] = &[RouteTable::new(ONE), RouteTable::new(TWO)];
    static NESTED: &[RouteTable] = &[RouteTable::join(PARTS), RouteTable::new(AUDITED)];
    const JOINED: RouteTable = RouteTable::join(NESTED);
    let names = services(&JOINED);
    assert_eq!(names[..3], ["a.One", "a.Two", "a.Audited"]);
    assert_eq!(names.len(), 3 + PREDEFINED.len());
    assert_eq!(JOINED.lanes(), [AUDIT]);
}

#[test]
fn two_rules_of_one_service_are_refused_with_both_places() {
    let twice: &'static [RouteTable] =
        Box::leak(Box::new([RouteTable::new(ONE), RouteTable::new(ONE)]));
    assert_eq!(
        refused(|| RouteTable::join(twice)),
        "two rules are for `a.One`: one at one.rs:1, one at one.rs:1"
    );
    let mut own = PREDEFINED[6].clone();
    own.origin = Cow::Borrowed("own.rs:1");
    let own: &'static [Rule] = Box::leak(Box::new([own]));
    let text = refused(|| RouteTable::new(own));
    let expected = "two rules are for `sidelane.predefined.v1.Gossip`: one at ";
    assert!(
        text.starts_with(expected) && text.ends_with(", one at own.rs:1"),
        "{text}"
    );
}

#[test]
fn lanes_that_clash_are_refused() {
    static SAME_NUMBER: LaneDefinition = LaneDefinition {
        name: "registry_other",
        ..*AUDIT.definition()
    };
    static SAME_NAME: LaneDefinition = LaneDefinition {
        id: 41,
        ..*AUDIT.definition()
    };
    static OTHER_BOUNDS: LaneDefinition = LaneDefinition {
        bounds: Some(LaneBounds::new(65_536, 11)),
        ..*AUDIT.definition()
    };
    let with = |definition: &'static LaneDefinition| {
        let lanes: &'static [Lane] = Box::leak(Box::new([lane(definition)]));
        refused(|| RouteTable::new(AUDITED).with_lanes(lanes))
    };
    assert_eq!(
        with(&SAME_NUMBER),
        "two lanes have the number 40: `registry_other` and `registry_audit`"
    );
    assert_eq!(
        with(&SAME_NAME),
        "two lanes have the name `registry_audit`: 41 and 40"
    );
    assert_eq!(
        with(&OTHER_BOUNDS),
        "lane `registry_audit` is defined twice, and not alike"
    );
}

#[test]
fn lanes_and_classes_are_given_once() {
    static LANES: &[Lane] = &[AUDIT];
    static CLASSES: &[ConnectionClass] = &[ConnectionClass::Internal];
    let table = RouteTable::new(ONE).with_lanes(LANES).with_classes(CLASSES);
    assert_eq!((table.lanes(), table.classes().len()), (vec![AUDIT], 1));
    assert!(refused(move || table.with_lanes(LANES)).contains("its lanes once"));
    assert!(refused(move || table.with_classes(CLASSES)).contains("its classes once"));
}

#[test]
fn the_limits_of_lanes_and_classes_are_held() {
    use sidelane_proto::model::{ClassDefinition, OwnClass};

    let lanes = |count: u16| -> &'static [Lane] {
        let lane = |number: u16| {
            lane(Box::leak(Box::new(LaneDefinition {
                id: 500 + number,
                name: Box::leak(format!("many_{number}").into_boxed_str()),
                ..*AUDIT.definition()
            })))
        };
        Vec::leak((0..count).map(lane).collect())
    };
    let classes = |count: u8| -> &'static [ConnectionClass] {
        let class = |number: u8| {
            ConnectionClass::Own(OwnClass::define(Box::leak(Box::new(ClassDefinition {
                number: 100 + number,
                name: Box::leak(format!("many_{number}").into_boxed_str()),
                lanes: &[],
            }))))
        };
        Vec::leak((0..count).map(class).collect())
    };
    let empty = RouteTable::PREDEFINED;
    assert_eq!(empty.with_lanes(lanes(64)).lanes().len(), 64);
    assert!(refused(move || empty.with_lanes(lanes(65))).contains("at most 64 lanes"));
    assert_eq!(empty.with_classes(classes(16)).classes().len(), 16);
    assert!(refused(move || empty.with_classes(classes(17))).contains("at most 16 connection"));
}

#[test]
fn a_table_makes_its_lanes_known() {
    static BOTH: &[RouteTable] = &[RouteTable::new(AUDITED), RouteTable::new(ONE)];
    RouteTable::join(BOTH).remember();
    assert_eq!(Lane::from_name("registry_audit"), Some(AUDIT));
}

#[test]
fn the_limit_of_rules_is_held() {
    let many = |count: usize| -> &'static [Rule] {
        let name = |index| Cow::Owned(format!("many.v1.Service{index}"));
        let rules = (0..count).map(|index| Rule {
            service: name(index),
            ..ONE[0].clone()
        });
        Vec::leak(rules.collect())
    };
    let most = RULES_LIMIT - PREDEFINED.len();
    assert_eq!(RouteTable::new(many(most)).rules().count(), RULES_LIMIT);
    assert!(refused(|| RouteTable::new(many(most + 1))).contains("at most 16384 rules"));
}

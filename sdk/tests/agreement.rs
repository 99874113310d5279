//! Four ways to ask whether a class and a lane go together: the types, the dynamic builder, what
//! comes over the wire, and the model. They say the same of every pair.

use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use proptest::prelude::*;
use sidelane::routing::{
    BifrostData, ConnectionClass, ConnectionMarker, External, General, Gossip, IngressData,
    Internal, Lane, LaneBounds, LaneMarker, RouteTable, RoutingBuilder, RoutingConfig,
    RoutingError, ValidRoutingMatrix, define_connection, define_swimlane,
};
use sidelane_proto::model::{ClassDefinition, LaneDefinition, OwnClass, Rule};
use sidelane_proto::wire::routing::v1 as wire;

define_swimlane!(
    Audit,
    id = 16,
    connection = [Internal],
    window = 65_536,
    max_streams = 100
);
define_swimlane!(
    Replay,
    id = 17,
    connection = [Internal, External, Partners],
    window = 65_536,
    max_streams = 10,
);
define_swimlane!(
    Clearing,
    id = 18,
    connection = [Auditors],
    window = 65_536,
    max_streams = 10
);
define_connection!(Partners, number = 16, lanes = [General, IngressData]);
define_connection!(Auditors, number = 17, lanes = []);

static LANES: &[Lane] = &[Audit::LANE, Replay::LANE, Clearing::LANE];
static CLASSES: &[ConnectionClass] = &[Partners::CLASS, Auditors::CLASS];
static TABLE: RouteTable = RouteTable::new(&[]).with_lanes(LANES).with_classes(CLASSES);

/// Is true where rustc finds that the pair is in the relation: what belongs to the type itself goes
/// before what a trait gives to all.
struct InTypes<C, L>(std::marker::PhantomData<(C, L)>);

trait Otherwise {
    const LEGAL: bool = false;
}

impl<T> Otherwise for T {}

impl<C: ValidRoutingMatrix<L>, L: LaneMarker> InTypes<C, L> {
    const LEGAL: bool = true;
}

/// Every pair of these: class, lane, and what the types say.
macro_rules! every_pair {
    ([$($class:ident),*], $lanes:tt) => { vec![$(every_pair!(@of $class, $lanes)),*].concat() };
    (@of $class:ident, [$($lane:ident),*]) => {
        vec![$(($class::CLASS, $lane::LANE, InTypes::<$class, $lane>::LEGAL)),*]
    };
}

fn over_the_wire(class: ConnectionClass, lane: Lane) -> Result<Rule, String> {
    let (connection, class_definition) = class.to_wire();
    let rule = wire::Rule {
        service: "agreement.v1.Service".to_owned(),
        connection: connection.into(),
        class_definition,
        lane_id: lane.id().into(),
        lane: lane.name().to_owned(),
        lane_definition: lane.definition_to_wire(),
        ..wire::Rule::default()
    };
    Rule::try_from(rule).map_err(|error| error.to_string())
}

/// Held while lanes are learned or named in errors: all tests here share what their process knows.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What they say of a pair, which must be one thing.
fn agreed(class: ConnectionClass, lane: Lane) -> bool {
    let built = RoutingBuilder::dynamic()
        .connection(class)
        .lane(lane)
        .build();
    let legal = built.is_ok();
    match built {
        Ok(routing) => assert_eq!((routing.class(), routing.lane()), (class, lane)),
        Err(RoutingError::IllegalPair { legal, .. }) => assert_eq!(legal, class.lane_names()),
        Err(error) => panic!("{class} and {lane}: {error}"),
    }
    match over_the_wire(class, lane) {
        Ok(rule) => assert!(legal && rule.class == class && rule.lane == lane),
        Err(error) => assert!(
            !legal && error.starts_with("lane ") && error.contains("do not go together"),
            "{class} and {lane}: {error}"
        ),
    }
    assert_eq!(class.allows(lane), legal, "{class} and {lane}");
    legal
}

#[test]
fn types_values_and_wire_agree_on_every_pair() {
    let _alone = alone();
    TABLE.remember();
    let pairs = every_pair!(
        [Internal, External, Partners, Auditors],
        [
            General,
            Gossip,
            BifrostData,
            IngressData,
            Audit,
            Replay,
            Clearing
        ]
    );
    assert_eq!(pairs.len(), 28);
    for (class, lane, in_types) in &pairs {
        assert_eq!(agreed(*class, *lane), *in_types, "{class} and {lane}");
    }
    // Five of Sidelane's own, three and two and one of the lanes above, two of the class.
    assert_eq!(
        pairs.iter().filter(|(_, _, legal)| *legal).count(),
        5 + 1 + 3 + 1 + 2
    );
}

#[test]
fn what_was_checked_as_a_value_becomes_that_type_and_no_other() {
    let built = RoutingBuilder::dynamic()
        .connection_named("internal")
        .lane_named("general")
        .build()
        .unwrap();
    assert_eq!(built.typed(), Ok(RoutingConfig::<Internal, General>::new()));
    assert_eq!(
        built.typed::<External, General>().unwrap_err(),
        RoutingError::ConnectionMismatch {
            expected: ConnectionClass::External,
            given: ConnectionClass::Internal,
        }
    );
    assert_eq!(
        built.witness::<Internal, Gossip>().unwrap_err(),
        RoutingError::LaneMismatch {
            expected: Lane::GOSSIP,
            given: Lane::GENERAL,
        }
    );
}

#[test]
fn what_is_missing_or_given_twice_is_said_in_words() {
    let dynamic = RoutingBuilder::dynamic;
    let refused =
        |builder: sidelane::routing::DynamicBuilder| builder.build().unwrap_err().to_string();
    // Other tests may have made classes and lanes of their own known by now.
    for (builder, begins, has) in [
        (
            dynamic().lane(Lane::GOSSIP),
            "no connection class is chosen; legal are Internal",
            "Internal",
        ),
        (
            dynamic().connection_named("Inside"),
            "`Inside` is no connection class that is known here",
            "External",
        ),
        (
            dynamic().connection_named("Externel").lane(Lane::GENERAL),
            "`Externel` is no connection class that is known here; did you mean `External`?; legal are Internal, External",
            "",
        ),
        (
            dynamic().connection(ConnectionClass::Internal),
            "no lane is chosen; legal are general, gossip, bifrost_data",
            "",
        ),
        (
            dynamic()
                .lane_named("gosip")
                .connection(ConnectionClass::Internal),
            "`gosip` is no lane that is known here; did you mean `gossip`?; legal are general",
            "bifrost_data",
        ),
        (
            dynamic()
                .connection(ConnectionClass::Internal)
                .connection_named("External")
                .lane(Lane::GENERAL),
            "the connection class is External, where only Internal is legal",
            "",
        ),
        (
            dynamic()
                .connection(ConnectionClass::Internal)
                .lane(Lane::GENERAL)
                .lane(Lane::GENERAL)
                .lane_named("gossip"),
            "the lane is `gossip`, where only `general` is legal",
            "",
        ),
        (
            dynamic()
                .connection(ConnectionClass::External)
                .lane(Lane::GOSSIP),
            "External and lane `gossip` do not go together; External allows general, ingress_data",
            "",
        ),
    ] {
        let text = refused(builder);
        assert!(text.starts_with(begins) && text.contains(has), "{text}");
    }
}

/// Numbers that no other case has: what a process learns it keeps.
fn next() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(1_000);
    NEXT.fetch_add(1, Ordering::Relaxed)
}

fn text(text: String) -> &'static str {
    Box::leak(text.into_boxed_str())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Any lanes and any class of a project: everybody agrees, and on what their definitions say.
    #[test]
    fn lanes_and_classes_of_projects_are_agreed_on(
        of_class in proptest::sample::subsequence(Lane::BUILT_IN.to_vec(), 0..=4),
        built_in in proptest::sample::subsequence(ConnectionClass::BUILT_IN.to_vec(), 0..=2),
        names_own in any::<bool>(),
    ) {
        let _alone = alone();
        let number = next();
        let class = ConnectionClass::Own(OwnClass::define(Box::leak(Box::new(ClassDefinition {
            number: 100 + u8::try_from(number % 100).unwrap(),
            name: text(format!("class_{number}")),
            lanes: Box::leak(of_class.clone().into_boxed_slice()),
        }))));
        let own = names_own.then_some(class);
        let mut classes: Vec<ConnectionClass> = built_in.into_iter().chain(own).collect();
        if classes.is_empty() {
            classes.push(ConnectionClass::Internal);
        }
        let lane = Lane::define(Box::leak(Box::new(LaneDefinition {
            id: number,
            name: text(format!("lane_{number}")),
            classes: Box::leak(classes.clone().into_boxed_slice()),
            bounds: Some(LaneBounds::new(65_536, 10)),
        })));
        let lanes: &'static [Lane] = Box::leak(Box::new([lane]));
        let all: &'static [ConnectionClass] = Box::leak(Box::new([class]));
        RouteTable::new(&[]).with_lanes(lanes).with_classes(all).remember();

        for other in ConnectionClass::BUILT_IN.into_iter().chain([class]) {
            prop_assert_eq!(agreed(other, lane), classes.contains(&other));
        }
        for other in Lane::BUILT_IN {
            prop_assert_eq!(agreed(class, other), of_class.contains(&other));
        }
    }
}

//! Options in a `.proto`, the dynamic builder, the wire and the model are asked of every pair of a
//! class and a lane, those of a project's own included, and say the same. (That rustc does too is
//! held in the crate `sidelane`.)

#![allow(
    clippy::unwrap_used,
    reason = "what a test cannot go on without ends it"
)]

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::sync::atomic::{AtomicU16, Ordering};

use proptest::prelude::*;
use sidelane::routing::{ConnectionClass, Lane, RouteTable, RoutingBuilder};
use sidelane_build::{Built, Errors, configure};
use sidelane_proto::model::Rule;
use sidelane_proto::wire::routing::v1 as wire;

const HEAD: &str = "syntax = \"proto3\";\npackage pairs.v1;\n\
                    import \"sidelane/routing/v1/routing.proto\";\nmessage Nothing {}\n";

/// Numbers that no case before had: what a process knows, it knows for good.
static NEXT_CLASS: AtomicU16 = AtomicU16::new(16);
static NEXT_LANE: AtomicU16 = AtomicU16::new(16);

fn build(text: &str) -> Result<Built, Errors> {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("pairs.proto"), text).unwrap();
    let out = folder.path().join("out");
    configure()
        .protos(&[folder.path()])
        .stubs(false)
        .out_dir(out)
        .build()
}

/// One service for each pair, a line each.
fn services(pairs: &[(ConnectionClass, Lane)]) -> String {
    let mut text = String::new();
    for (index, (class, lane)) in pairs.iter().enumerate() {
        let connection = match class {
            ConnectionClass::Own(own) => {
                format!("connection_custom: {:?}", own.definition().name)
            }
            built_in => format!("connection: {}", built_in.name().to_uppercase()),
        };
        let _ = writeln!(
            text,
            "service S{index} {{ option (sidelane.routing.v1.service) = {{ {connection} lane: \
             {:?} }}; rpc Do(Nothing) returns (Nothing); }}",
            lane.name()
        );
    }
    text
}

fn on_the_wire(class: ConnectionClass, lane: Lane) -> bool {
    let (connection, class_definition) = class.to_wire();
    let rule = wire::Rule {
        service: "pairs.v1.S".to_owned(),
        connection: connection.into(),
        class_definition,
        lane_id: lane.id().into(),
        lane: lane.name().to_owned(),
        lane_definition: lane.definition_to_wire(),
        ..Default::default()
    };
    Rule::try_from(rule).is_ok()
}

/// All of them say the same of every pair of what the definitions define.
fn agree(definitions: &str) {
    let head = format!("{HEAD}{definitions}");
    let defined = build(&head).unwrap().rules;
    let lanes = defined.lanes.iter().map(|lane| lane.what);
    let lanes: Vec<_> = Lane::BUILT_IN.into_iter().chain(lanes).collect();
    let classes = defined.classes.iter();
    let classes = classes.map(|class| ConnectionClass::Own(class.what));
    let classes: Vec<_> = ConnectionClass::BUILT_IN
        .into_iter()
        .chain(classes)
        .collect();
    for lane in &lanes {
        lane.remember();
    }
    for class in &defined.classes {
        class.what.remember();
    }
    let mut pairs = Vec::new();
    for class in &classes {
        pairs.extend(lanes.iter().map(|lane| (*class, *lane)));
    }

    let first = 1 + head.lines().count();
    let refused: BTreeSet<usize> = match build(&format!("{head}{}", services(&pairs))) {
        Ok(_) => BTreeSet::new(),
        Err(errors) => errors
            .iter()
            .map(|error| {
                assert!(error.message.contains("do not go together"), "{error}");
                let place = error.place.as_ref().unwrap();
                usize::try_from(place.position.unwrap().0).unwrap() - first
            })
            .collect(),
    };
    let mut legal = Vec::new();
    for (index, (class, lane)) in pairs.iter().enumerate() {
        let options = !refused.contains(&index);
        let built = RoutingBuilder::dynamic()
            .connection(*class)
            .lane(*lane)
            .build();
        assert_eq!(options, class.allows(*lane), "{class} and {lane}");
        assert_eq!(options, built.is_ok(), "{class} and {lane}");
        assert_eq!(options, on_the_wire(*class, *lane), "{class} and {lane}");
        if options {
            legal.push((*class, *lane));
        }
    }
    // And what is legal is built as it was meant.
    let built = build(&format!("{head}{}", services(&legal))).unwrap();
    let read = built.rules.rules.iter();
    assert!(read.map(|rule| (rule.class, rule.lane)).eq(legal));
}

#[test]
fn on_the_pairs_of_sidelanes_own() {
    agree("");
    let table = RouteTable::PREDEFINED.rules();
    assert!(table.into_iter().all(|rule| rule.class.allows(rule.lane)));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn on_the_pairs_of_projects(
        of_class in proptest::collection::vec(
            proptest::sample::subsequence(vec!["general", "gossip", "bifrost_data", "ingress_data"], 0..=4),
            0..=2,
        ),
        of_lane in proptest::collection::vec(
            proptest::sample::subsequence(vec!["INTERNAL", "EXTERNAL", "0", "1"], 1..=4),
            0..=3,
        ),
    ) {
        let mut definitions = String::new();
        let mut classes = Vec::new();
        for lanes in &of_class {
            let number = NEXT_CLASS.fetch_add(1, Ordering::Relaxed);
            classes.push(format!("class_{number}"));
            let lanes: Vec<_> = lanes.iter().map(|lane| format!("{lane:?}")).collect();
            let _ = writeln!(
                definitions,
                "option (sidelane.routing.v1.class) = {{ number: {number} name: \"class_{number}\" \
                 lanes: [{}] }};",
                lanes.join(", ")
            );
        }
        for of_lane in &of_lane {
            let id = NEXT_LANE.fetch_add(1, Ordering::Relaxed);
            let mut with = String::new();
            for class in of_lane {
                match class.parse::<usize>() {
                    Err(_) => { let _ = write!(with, "connections: {class} "); }
                    Ok(own) => if let Some(name) = classes.get(own) {
                        let _ = write!(with, "connections_custom: {name:?} ");
                    },
                }
            }
            if !with.is_empty() {
                let _ = writeln!(
                    definitions,
                    "option (sidelane.routing.v1.lane) = {{ id: {id} name: \"lane_{id}\" {with} \
                     window: 65536 max_streams: 8 }};"
                );
            }
        }
        agree(&definitions);
    }
}

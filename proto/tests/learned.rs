//! What a process learns of other people's lanes and classes is kept for good, so it is bounded.
//! A process of its own: others must find room.

use sidelane_proto::model::class::LEARNED_CLASSES_LIMIT;
use sidelane_proto::model::error::Problem;
use sidelane_proto::model::lane::LEARNED_LANES_LIMIT;
use sidelane_proto::model::{ConnectionClass, Lane};
use sidelane_proto::wire::routing::v1 as routing;

#[test]
fn the_lane_past_the_bound_is_refused_and_those_before_stay() {
    let lane = |number: usize| {
        Lane::learn(&routing::Lane {
            id: u32::try_from(1_000 + number).unwrap(),
            name: format!("lane_{number}"),
            connections: vec![routing::Connection::Internal.into()],
            window: 64 * 1024,
            max_streams: 8,
            ..Default::default()
        })
    };
    for number in 0..LEARNED_LANES_LIMIT {
        lane(number).unwrap();
    }
    let error = lane(LEARNED_LANES_LIMIT).unwrap_err();
    assert!(matches!(error.problem, Problem::TooMany { .. }), "{error}");
    assert_eq!(Lane::from_name("lane_0"), Some(lane(0).unwrap()));
}

#[test]
fn the_class_past_the_bound_is_refused_and_those_before_stay() {
    let class = |number: usize| {
        let definition = routing::Class {
            number: u32::try_from(100 + number).unwrap(),
            name: format!("class_{number}"),
            lanes: vec!["general".to_owned()],
        };
        ConnectionClass::from_wire(0, Some(&definition), "connection")
    };
    for number in 0..LEARNED_CLASSES_LIMIT {
        class(number).unwrap();
    }
    let error = class(LEARNED_CLASSES_LIMIT).unwrap_err();
    assert_eq!(error.path, "class_definition.name");
    assert_eq!(
        ConnectionClass::from_name("class_0"),
        Some(class(0).unwrap())
    );
}

use super::*;
use crate::routing::builder::{ClassChosen, Complete};
use crate::routing::{
    ConnectionClass, Lane, MetadataServiceRouting, RoutingBuilder, RoutingFactory,
    define_connection, define_swimlane,
};

define_swimlane!(
    Bulk,
    id = 30,
    connection = [Internal, Partners],
    window = 65_536,
    max_streams = 9
);
define_connection!(Partners, number = 30, lanes = [General]);

#[test]
fn nothing_here_has_a_size() {
    let sizes = [
        size_of::<Internal>(),
        size_of::<External>(),
        size_of::<General>(),
        size_of::<Gossip>(),
        size_of::<BifrostData>(),
        size_of::<IngressData>(),
        size_of::<Bulk>(),
        size_of::<Partners>(),
        size_of::<RoutingConfig<Internal, Gossip>>(),
        size_of::<RoutingConfig<Partners, Bulk>>(),
        size_of::<RoutingWitness<External, IngressData>>(),
        size_of::<RoutingMatrix<Internal, BifrostData>>(),
        size_of::<RoutingBuilder>(),
        size_of::<RoutingBuilder<ClassChosen<Internal>>>(),
        size_of::<RoutingBuilder<Complete<Internal, General>>>(),
        size_of::<RoutingFactory>(),
        size_of::<MetadataServiceRouting>(),
    ];
    assert!(sizes.iter().all(|size| *size == 0), "{sizes:?}");
}

#[test]
fn a_pair_says_what_it_stands_for() {
    let config = RoutingFactory::external_ingress();
    let (class, lane) = (ConnectionClass::External, Lane::INGRESS_DATA);
    assert_eq!((config.class(), config.lane()), (class, lane));
    let witness = config.witness();
    assert_eq!((witness.class(), witness.lane()), (class, lane));
    let matrix = RoutingMatrix::<External, IngressData>::new();
    assert_eq!((matrix.class(), matrix.lane()), (class, lane));
    assert_eq!(matrix.config(), config);
    assert_eq!(
        (External::NAME, IngressData::NAME),
        ("External", "ingress_data")
    );
}

#[test]
fn lanes_and_classes_of_ones_own_go_where_they_say() {
    assert_eq!((Bulk::NAME, Bulk::LANE.id()), ("bulk", 30));
    assert_eq!((Partners::NAME, Partners::CLASS.number()), ("partners", 30));
    let pairs = [
        RoutingBuilder::new()
            .internal()
            .swimlane(Bulk)
            .build()
            .class(),
        RoutingBuilder::new()
            .connection(Partners)
            .swimlane(Bulk)
            .build()
            .class(),
        RoutingBuilder::new()
            .connection(Partners)
            .general()
            .build()
            .class(),
    ];
    assert_eq!(
        pairs,
        [ConnectionClass::Internal, Partners::CLASS, Partners::CLASS]
    );
    assert!(Partners::CLASS.allows(Bulk::LANE) && !Partners::CLASS.allows(Lane::GOSSIP));
}

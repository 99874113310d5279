//! The matrix as a relation between types: a class that goes with a lane implements
//! [`ValidRoutingMatrix`] of it. The model decides which do; every pair here is held against it
//! when the program is compiled.

use crate::routing::__private::Legal;
use crate::routing::phantom::{
    BifrostData, ConnectionMarker, External, General, Gossip, IngressData, Internal, LaneMarker,
};

/// This class goes with lane `L`.
///
/// Nobody implements it by hand: for a lane of one's own
/// [`define_swimlane!`](crate::define_swimlane) does, for a class of one's own
/// [`define_connection!`](crate::define_connection).
///
/// ```
/// use sidelane::routing::{External, IngressData, LaneMarker, ValidRoutingMatrix};
///
/// fn legal<C: ValidRoutingMatrix<L>, L: LaneMarker>(_: C, _: L) {}
/// legal(External, IngressData);
/// ```
///
/// ```compile_fail,E0277
/// # use sidelane::routing::{External, Gossip, LaneMarker, ValidRoutingMatrix};
/// # fn legal<C: ValidRoutingMatrix<L>, L: LaneMarker>(_: C, _: L) {}
/// legal(External, Gossip);
/// ```
#[diagnostic::on_unimplemented(
    message = "class `{Self}` and lane `{L}` do not go together",
    label = "no such pair in the routing matrix",
    note = "legal are: Internal with General, Gossip, BifrostData; External with General, IngressData",
    note = "a lane of one's own goes with the classes that its `define_swimlane!` names, a class of \
            one's own with the lanes that its `define_connection!` names"
)]
pub trait ValidRoutingMatrix<L: LaneMarker>: ConnectionMarker + Legal<L> {}

// Written out: rustc shows these lines to those who get it wrong.
impl ValidRoutingMatrix<General> for Internal {}
impl ValidRoutingMatrix<Gossip> for Internal {}
impl ValidRoutingMatrix<BifrostData> for Internal {}
impl ValidRoutingMatrix<General> for External {}
impl ValidRoutingMatrix<IngressData> for External {}

impl Legal<General> for Internal {}
impl Legal<Gossip> for Internal {}
impl Legal<BifrostData> for Internal {}
impl Legal<General> for External {}
impl Legal<IngressData> for External {}

/// Does the model have this pair, too?
const fn agrees<C: ValidRoutingMatrix<L>, L: LaneMarker>() -> bool {
    C::CLASS.allows(L::LANE)
}

macro_rules! pairs {
    ($($class:ident with $($lane:ident),+;)+) => {
        const _: () = {$($(assert!(agrees::<$class, $lane>());)+)+};

        /// The pairs of Sidelane's own, as text: class, lane.
        #[cfg(test)]
        const PAIRS: &[(&str, &str)] = &[$($((stringify!($class), stringify!($lane))),+),+];
    };
}

pairs! {
    Internal with General, Gossip, BifrostData;
    External with General, IngressData;
}

#[cfg(test)]
mod tests {
    use sidelane_proto::model::{ConnectionClass, Lane};

    use super::*;

    const LANES: [(&str, Lane); 4] = [
        ("General", General::LANE),
        ("Gossip", Gossip::LANE),
        ("BifrostData", BifrostData::LANE),
        ("IngressData", IngressData::LANE),
    ];
    const CLASSES: [(&str, ConnectionClass); 2] =
        [("Internal", Internal::CLASS), ("External", External::CLASS)];

    #[test]
    fn the_types_have_every_pair_of_the_model_and_no_other() {
        assert_eq!(LANES.map(|(_, lane)| lane), Lane::BUILT_IN);
        assert_eq!(CLASSES.map(|(_, class)| class), ConnectionClass::BUILT_IN);
        for (class_name, class) in CLASSES {
            for (lane_name, lane) in LANES {
                let in_types = PAIRS.contains(&(class_name, lane_name));
                assert_eq!(in_types, class.allows(lane), "{class} and {lane}");
            }
        }
    }

    #[test]
    fn the_message_lists_what_is_legal() {
        let list = CLASSES.map(|(name, class)| {
            let legal = LANES.iter().filter(|(_, lane)| class.allows(*lane));
            let lanes: Vec<&str> = legal.map(|(name, _)| *name).collect();
            format!("{name} with {}", lanes.join(", "))
        });
        let note = format!("note = \"legal are: {}\",", list.join("; "));
        assert!(include_str!("matrix.rs").contains(&note), "{note}");
    }
}

use sidelane::define_swimlane;
use sidelane::routing::{Internal, Lane, LaneMarker, RouteTable};

define_swimlane!(
    Audit,
    id = 16,
    connection = [Internal],
    window = 65_536,
    max_streams = 100
);
define_swimlane!(
    Export,
    id = 16,
    connection = [Internal],
    window = 65_536,
    max_streams = 100
);

static LANES: &[Lane] = &[Audit::LANE, Export::LANE];
pub static ROUTES: RouteTable = RouteTable::new(&[]).with_lanes(LANES);

fn main() {}

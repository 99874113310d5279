use sidelane::define_swimlane;
use sidelane::routing::{External, Internal, RoutingConfig};

define_swimlane!(
    Audit,
    id = 16,
    connection = [Internal],
    window = 65_536,
    max_streams = 100
);

fn main() {
    let _ = RoutingConfig::<External, Audit>::new();
}

use sidelane::define_swimlane;
use sidelane::routing::General;

define_swimlane!(
    Audit,
    id = 16,
    connection = [General],
    window = 65_536,
    max_streams = 100,
);

fn main() {}

use sidelane::define_swimlane;
use sidelane::routing::Internal;

define_swimlane!(
    Audit,
    id = 16,
    connection = [Internal],
    window = 1_024,
    max_streams = 100,
);

fn main() {}

use sidelane::define_swimlane;
use sidelane::routing::Internal;

define_swimlane!(
    Audit,
    id = 16,
    connection = [Internal],
    window = 65_536,
    max_streams = 100,
    window = 131_072,
);

fn main() {}
